"""What benchmarks/engine.py times: a network, a size and a batch, and the ratio that ours is to reach.

Nothing heavy is imported here, nor by the other files that the timing process itself reads: a contender's process
starts from the same imports, and its peak memory is reported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Task = Literal["inference", "training"]

FASTEST = "the fastest peer"
EAGER = "PyTorch eager"
PYTORCH = "PyTorch's best"


@dataclass(frozen=True)
class Goal:
    """Ours is to be this many times as fast as ``against``."""

    against: str
    ratio: float


@dataclass(frozen=True)
class Workload:
    """A line of the summary: ``batch`` square images of ``side`` pixels through a network, forward or a whole step."""

    task: Task
    network: str
    side: int
    classes: int
    batch: int
    goals: tuple[Goal, ...] = ()

    @property
    def name(self) -> str:
        """As the tables and the JSON have it: ``inference vgg16 at 224, batch 8``."""
        return f"{self.task} {self.network} at {self.side}, batch {self.batch}"

    @property
    def checked(self) -> Workload:
        """The part that is repeated in float64, which is slow: two images, or the gradient over eight small ones."""
        many = self.task == "training" and self.side <= 64
        return replace(self, batch=min(self.batch, 8 if many else 2))

    def selected(self, names: list[str], batches: list[int]) -> bool:
        """Whether ``--only`` and ``--batch`` leave it in: by network, by task, or as task/network."""
        known = {self.network, self.task, f"{self.task}/{self.network}"}
        return (not names or bool(known & set(names))) and (not batches or self.batch in batches)


@dataclass(frozen=True)
class Facts:
    """What is known of a workload before anyone runs it."""

    multiply_adds: int  # of one repetition, every convolution computed directly
    ceiling: float  # GFLOP/s of a matrix product, measured just before


TWICE = (Goal(FASTEST, 2.0),)
TWICE_IN_TRAINING = (Goal(FASTEST, 2.0), Goal(EAGER, 3.0))
A_THIRD_MORE = (Goal(FASTEST, 1.3),)
NOT_SLOWER = (Goal(FASTEST, 1.0), Goal(PYTORCH, 1.3))
NEVER_SLOWER_THAN_PYTORCH = (Goal(PYTORCH, 1.0),)

BATCHES = (1, 8, 32)
IMAGENET = ("vgg11", "vgg16", "vgg19", "vgg11_bn", "vgg16_bn", "vgg19_bn",
            "resnet18", "resnet34", "resnet50", "googlenet", "densenet121",
            "resnext50_32x4d", "mobilenet_v2")  # fmt: skip


def inference_goals(network: str, batch: int) -> tuple[Goal, ...]:
    if network == "vgg16" and batch in (1, 8):
        return TWICE
    if network in ("resnet18", "resnet34"):
        return A_THIRD_MORE
    others = ("resnet50", "googlenet", "densenet121", "resnext50_32x4d", "mobilenet_v2")
    return NOT_SLOWER if network in others else NEVER_SLOWER_THAN_PYTORCH


WORKLOADS = [
    *(
        Workload("inference", network, 224, 1000, batch, inference_goals(network, batch))
        for network in IMAGENET
        for batch in BATCHES
    ),
    Workload("training", "vgg16_bn_cifar", 32, 10, 128, TWICE_IN_TRAINING),
    Workload("training", "vgg11_bn_cifar", 32, 10, 128, NEVER_SLOWER_THAN_PYTORCH),
    Workload("training", "resnet18", 32, 10, 128, A_THIRD_MORE),
    Workload("training", "resnet18_cifar", 32, 10, 128, A_THIRD_MORE),
    Workload("training", "vgg16", 224, 1000, 8, NEVER_SLOWER_THAN_PYTORCH),
    Workload("training", "resnet20", 32, 10, 128, NEVER_SLOWER_THAN_PYTORCH),
    Workload("training", "densenet40_12", 32, 10, 64, NEVER_SLOWER_THAN_PYTORCH),
]

QUICK = [
    workload
    for workload in WORKLOADS
    if (workload.network in ("vgg16", "resnet18") and workload.batch in (1, 8) and workload.task == "inference")
    or workload.network == "vgg16_bn_cifar"
]
