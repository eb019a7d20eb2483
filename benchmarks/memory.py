"""Planned memory against what PyTorch allocates.

    python benchmarks/memory.py --save              # 12 networks, two batches each, beside the formulas in use
    python benchmarks/memory.py --all --layout channels_last contiguous --save
    python benchmarks/memory.py --foreign --save    # modules of other libraries
    ONEDNN_MAX_CPU_ISA=SSE41 python benchmarks/memory.py --all --side 96  # oneDNN on an older processor

Plans the peak of tensor memory of a forward pass and of training (SGD with momentum, float32) by
`convatlas.inspection.memory`, on networks that take no memory. Then measures it, each network and batch in a process of
its own: what the network, the optimizer and the batch hold, and the most that PyTorch's profiler has seen allocated on
top during a prediction and two training steps. Beside it the textbook formula (three times the weights and twice the
outputs of all layers) and, for the 12 networks, torchinfo's "estimated total size", where torchinfo can be imported.

What operators take is asked in a new cache: planning is timed with what earlier networks of the run have left in it,
and, without --all, again with all of it, in another process. Ctrl-C ends a run early, with the rows it has.

--save keeps the figures in results/, with the hardware.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from turns import in_own_process

from engine import environment

RESULTS = Path(__file__).parent / "results"
MEGABYTE = 1e6
PRETENCES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
SIZES = {
    "lenet5": (28, (32, 256)),
    "alexnet": (224, (2, 16)),
    "nin_bn": (32, (16, 128)),
    "vgg11_bn_cifar": (32, (16, 128)),
    "vgg16": (128, (2, 8)),
    "vgg16_bn": (128, (2, 8)),
    "googlenet": (128, (2, 8)),
    "inception_v3": (299, (2, 4)),
    "resnet18": (128, (2, 16)),
    "resnet50": (128, (2, 8)),
    "densenet121": (128, (2, 8)),
    "mobilenet_v2": (128, (2, 16)),
}  # side of an image, batches
FEW, SMALL = 6, 16  # images of a batch with --all: of large images, and of those of at most 32 pixels
FOREIGN: dict[str, tuple[int, ...]] = {
    "torchvision vit_b_16": (6, 3, 224, 224),
    "torchvision swin_t": (6, 3, 224, 224),
    "torchvision maxvit_t": (6, 3, 224, 224),
    "torchvision convnext_tiny": (6, 3, 224, 224),
    "torchvision efficientnet_b0": (8, 3, 224, 224),
    "torchvision regnet_y_400mf": (8, 3, 224, 224),
    "torchvision shufflenet_v2_x1_0": (8, 3, 224, 224),
    "torchvision mnasnet1_0": (8, 3, 224, 224),
    "torchvision lraspp_mobilenet_v3_large": (6, 3, 224, 224),
    "torchvision fcn_resnet50": (6, 3, 128, 128),
    "timm convnextv2_atto": (8, 3, 224, 224),
    "timm eca_nfnet_l0": (6, 3, 224, 224),
    "timm mixer_s32_224": (8, 3, 224, 224),
    "recurrent lstm": (16, 40, 24),
    "recurrent gru": (16, 40, 24),
    "recurrent transformer": (16, 64, 128),
}  # library and name, shape of a batch


@dataclass(frozen=True)
class Case:
    """What is planned and measured."""

    network: str
    shape: tuple[int, ...]  # of a batch
    layout: str
    threads: int


@dataclass(frozen=True)
class Row:
    """One network at one batch size; bytes."""

    network: str
    shape: tuple[int, ...]
    layout: str
    predicted_inference: int
    measured_inference: int
    predicted_training: int
    measured_training: int
    textbook: int
    torchinfo: int | None
    cold_seconds: float
    warm_seconds: float | None
    not_counted: tuple[str, ...]

    @property
    def errors(self) -> tuple[float, float]:
        """Of inference and training, as a share of what was measured."""
        return (
            self.predicted_inference / self.measured_inference - 1,
            self.predicted_training / self.measured_training - 1,
        )


def compare(case: Case, *, again: bool, formulas: bool) -> Row:
    plan, cold = in_own_process("memory", "predict", case)
    warm = in_own_process("memory", "predict", case)[1] if again else None
    inference, training = in_own_process("memory", "measure", case)
    torchinfo = in_own_process("memory", "by_torchinfo", case) if formulas else None
    return Row(
        case.network,
        case.shape,
        case.layout,
        plan.inference_peak_bytes,
        inference,
        plan.training_peak_bytes,
        training,
        plan.textbook_bytes,
        torchinfo,
        cold,
        warm,
        plan.not_counted,
    )


def predict(case: Case) -> tuple[Any, float]:
    """The plan, and the seconds that it took."""
    import torch

    from convatlas.inspection.memory import plan_memory

    torch.set_num_threads(case.threads)  # PyTorch's choice of kernels depends on it
    module = outline(case)
    began = time.perf_counter()
    plan = plan_memory(module, case.shape, layout=case.layout)
    return plan, time.perf_counter() - began


def outline(case: Case) -> Any:
    """The network without memory."""
    if case.network not in FOREIGN:
        from convatlas.models import outline_model

        return outline_model(case.network, image_size=case.shape[-1])
    return foreign(case.network).to("meta")  # not made there: some compute numbers while they are made


def foreign(name: str) -> Any:
    library, _, model = name.partition(" ")
    if library == "torchvision":
        import torchvision

        heads = {"weights_backbone": None} if model.startswith(("lraspp", "fcn")) else {}
        return torchvision.models.get_model(model, weights=None, **heads)
    if library == "timm":
        import timm

        return timm.create_model(model)
    return recurrent(model)


def recurrent(kind: str) -> Any:
    """A network for sequences [N, steps, features]."""
    from torch import Tensor, nn

    class Reader(nn.Module):
        def __init__(self, body: nn.Module, features: int) -> None:
            super().__init__()
            self.body = body
            self.head = nn.Linear(features, 10)

        def forward(self, sequence: Tensor) -> Tensor:
            read = self.body(sequence)
            return self.head((read if isinstance(read, Tensor) else read[0]).mean(1))

    if kind == "transformer":
        return Reader(nn.TransformerEncoder(nn.TransformerEncoderLayer(128, 4, 256, batch_first=True), 3), 128)
    layer = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
    return Reader(layer(24, 96, 2, batch_first=True, bidirectional=True), 192)


def by_torchinfo(case: Case) -> int | None:
    try:
        from torchinfo import summary
    except ImportError:
        return None
    from convatlas.models import create_model

    module = create_model(case.network, image_size=case.shape[-1], seed=0)
    result = summary(module, input_size=case.shape, verbose=0)
    return int(result.total_input + result.total_output_bytes + result.total_param_bytes)


def measure(case: Case) -> tuple[int, int]:
    """The peak of tensor memory in a prediction and in two training steps."""
    import torch

    from convatlas.models import create_model

    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    is_ours = case.network not in FOREIGN
    module = create_model(case.network, image_size=case.shape[-1], seed=0) if is_ours else foreign(case.network)
    images = torch.randn(case.shape)
    if case.layout == "channels_last" and images.dim() == 4:
        module, images = module.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-6, momentum=0.9)

    def forward() -> None:
        with torch.inference_mode():
            module.eval()(images)

    def train() -> None:
        module.train()
        for _ in range(2):
            loss = loss_of(module(images))
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad()

    held = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers(), images))
    return held + allocated(forward), held + allocated(train)


def loss_of(output: Any) -> Any:
    """The cross entropy of each output [N, classes], and the sum of whatever else is returned."""
    import torch
    from torch.nn import functional
    from torch.utils._pytree import tree_leaves

    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
    labels = torch.zeros(len(leaves[0]), dtype=torch.int64)
    losses = [functional.cross_entropy(leaf, labels) if leaf.dim() == 2 else leaf.sum() for leaf in leaves]
    return torch.stack(losses).sum()


def allocated(call: Callable[[], None]) -> int:
    """The largest running total of what is allocated and freed during a call."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown, in MB of 10^6 bytes."""
    yield "| network | batch | layout | training, planned | measured | error | inference, planned | measured | error | textbook | torchinfo |"  # noqa: E501, the table's own width
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for row in rows:
        inference, training = row.errors
        cells = [
            row.network, "x".join(map(str, row.shape)), row.layout,
            megabytes(row.predicted_training), megabytes(row.measured_training), f"{training:+.2%}",
            megabytes(row.predicted_inference), megabytes(row.measured_inference), f"{inference:+.2%}",
            megabytes(row.textbook), "" if row.torchinfo is None else megabytes(row.torchinfo),
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def line_of(row: Row) -> str:
    inference, training = row.errors
    return (
        f"{row.network} {row.shape} {row.layout}: training {training:+.2%}, inference {inference:+.2%}, "
        f"planned in {row.cold_seconds:.1f} s"
    )


def megabytes(size: int) -> str:
    return f"{size / MEGABYTE:,.1f}"


def summary_of(rows: list[Row]) -> dict[str, Any]:
    """Median and largest error, as shares of what was measured in training (ours in inference too); seconds."""
    errors = {
        "inference": {row: abs(row.errors[0]) for row in rows},
        "training": {row: abs(row.errors[1]) for row in rows},
        "textbook": {row: abs(row.textbook / row.measured_training - 1) for row in rows},
        "torchinfo": {row: abs(row.torchinfo / row.measured_training - 1) for row in rows if row.torchinfo is not None},
    }
    summary: dict[str, Any] = {}
    for name, each in errors.items():
        if each:
            worst = max(each, key=lambda row: each[row])
            where = f"{worst.network}, {worst.layout}"
            summary[name] = {"median": statistics.median(each.values()), "worst": each[worst], "worst at": where}
    for name in ("cold_seconds", "warm_seconds"):
        seconds = [seconds for row in rows if (seconds := getattr(row, name)) is not None]
        if not seconds:
            continue
        summary[name] = {"median": statistics.median(seconds), "worst": max(seconds)}
    return summary


def cases_of(arguments: argparse.Namespace) -> Iterator[Case]:
    from convatlas.models import list_models, model_entry

    for layout in arguments.layout:
        if arguments.foreign:
            names = arguments.only or list(FOREIGN)
            shapes = [(name, FOREIGN[name]) for name in names]
        elif arguments.all:
            names = arguments.only or list_models()
            sides = {name: min(model_entry(name).image_size, arguments.side or 2**20) for name in names}
            channels = {name: model_entry(name).in_channels for name in names}
            shapes = [
                (name, (SMALL if sides[name] <= 32 else FEW, channels[name], sides[name], sides[name]))
                for name in names
            ]
        else:
            names = arguments.only or list(SIZES)
            shapes = [
                (name, (batch, model_entry(name).in_channels, SIZES[name][0], SIZES[name][0]))
                for name in names
                for batch in SIZES[name][1]
            ]
        yield from (Case(name, shape, layout, arguments.threads) for name, shape in shapes)


def save(recorded: dict[str, object]) -> Path:
    """A new file of today's date; several runs of a day are numbered."""
    names = (f"{datetime.now(UTC):%Y-%m-%d}-memory{suffix}.json" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    path = next(RESULTS / name for name in names if not (RESULTS / name).exists())
    text = json.dumps(recorded, indent=2)
    path.write_text(re.sub(r"\[[^][{}]*\]", lambda numbers: re.sub(r"\s+", " ", numbers[0]), text) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks")
    parser.add_argument("--all", action="store_true", help="every registered network, in batches of 6 or 16")
    parser.add_argument("--foreign", action="store_true", help="modules of torchvision, timm and PyTorch")
    parser.add_argument("--layout", nargs="+", choices=["channels_last", "contiguous"], default=["channels_last"])
    parser.add_argument("--side", type=int, help="of images, at most; with --all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write results/<date>-memory.json")
    arguments = parser.parse_args()
    where = environment()
    where["pretends"] = {name: os.environ[name] for name in PRETENCES if name in os.environ}
    with contextlib.suppress(metadata.PackageNotFoundError):
        where["torchinfo"] = metadata.version("torchinfo")
    print(f"{where['cpu']}, {where['cores']} cores, torch {where['torch']} {where['pretends'] or ''}\n", flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as cache, contextlib.suppress(KeyboardInterrupt):
        os.environ["CONVATLAS_CACHE"] = cache  # for the processes that plan
        for case in cases_of(arguments):
            rows.append(compare(case, again=not arguments.all, formulas=not (arguments.all or arguments.foreign)))
            print(line_of(rows[-1]), flush=True)
    print("", *table(rows), "", sep="\n")
    for name, errors in summary_of(rows).items():
        print(name, errors)
    if arguments.save:
        recorded = {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "threads": arguments.threads,
            "environment": where,
            "summary": summary_of(rows),
            "rows": [asdict(row) for row in rows],
        }
        print(save(recorded))


if __name__ == "__main__":
    main()
