"""The memory planner against what PyTorch allocates, and against sums that can be done by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves

from convatlas.errors import InspectionError
from convatlas.inspection.ledger import STEP
from convatlas.inspection.memory import Precision, largest_batch, plan_memory
from convatlas.models import create_autoencoder, create_model, list_models, outline_autoencoder, outline_model

Step = Callable[[], object]


class Residual(nn.Module):
    """A shortcut that is added to, a layer that is used twice, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.twice = nn.Conv2d(32, 32, 3, padding=1)
        self.strided = nn.Conv2d(64, 64, 3, stride=2, padding=1, groups=2)
        self.output = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(images)))
        y = x + self.twice(functional.relu(self.twice(x)))
        z = functional.max_pool2d(self.strided(torch.cat([x, y], dim=1)), 2)
        return self.output(z.mean((2, 3)))


class Heads(NamedTuple):
    logits: Tensor
    maps: Tensor
    weight: float


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Any:
        maps = self.body(images)
        return {"heads": Heads(self.head(maps.mean((2, 3))), maps, 0.3), "places": maps.flatten(1).argmax(1)}


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x


def small_pictures() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(inplace=True), nn.Conv2d(128, 128, 3, padding=1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.9)


def measured_peaks(
    module: nn.Module,
    images: Tensor,
    make: Callable[[nn.Module], torch.optim.Optimizer],
    precision: Precision,
    loss_of: Callable[[Any, Tensor], Tensor] | None = None,
) -> tuple[int, int]:
    """The most bytes that PyTorch has allocated at once, predicting and in two training steps."""
    module = copy.deepcopy(module).to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
    optimizer = make(module)
    loss_of = loss_of or usual_loss

    def cast() -> Any:
        return torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()

    def predict() -> None:
        module.eval()
        with torch.inference_mode(), cast():
            module(images)

    def train() -> None:
        module.train()
        for _ in range(2):
            with cast():
                loss = loss_of(module(images), images)
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad()

    held = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers(), images))
    return held + allocated(predict), held + allocated(train)


def usual_loss(output: Any, _images: Tensor) -> Tensor:
    floats = [leaf.float() for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    labels = torch.zeros(len(floats[0]), dtype=torch.int64)
    losses = [functional.cross_entropy(leaf, labels) if leaf.dim() == 2 else leaf.sum() for leaf in floats]
    return torch.stack(losses).sum()


def allocated(call: Step) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most


CASES = {
    "residual": (Residual, (8, 3, 32, 32), sgd, "float32"),
    "residual, Adam": (Residual, (4, 3, 16, 16), lambda module: torch.optim.Adam(module.parameters()), "float32"),
    "small pictures": (small_pictures, (16, 3, 8, 8), sgd, "float32"),
    "two heads": (TwoHeads, (8, 3, 24, 24), sgd, "float32"),
    "LeNet-5": (lambda: create_model("lenet5"), (32, 1, 28, 28), sgd, "float32"),
    "large dense layers": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 500), nn.Linear(500, 10)), (8, 3, 32, 32),
        lambda module: torch.optim.SGD(module.parameters(), 0.1, 0.9, weight_decay=0.1), "float32",
    ),
    "half precision": (Residual, (8, 3, 32, 32), sgd, "bfloat16"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_plans_are_what_pytorch_allocates(case: str) -> None:
    make, shape, optimizer, precision = CASES[case]
    module = make()
    plan = plan_memory(module, shape, optimizer=optimizer, precision=precision)
    inference, training = measured_peaks(module, torch.randn(shape), optimizer, precision)
    assert plan.training_peak_bytes == pytest.approx(training, rel=0.015)
    assert plan.inference_peak_bytes == pytest.approx(inference, rel=0.015)


def rebuilding(output: Any, rows: Tensor) -> Tensor:
    return functional.mse_loss(output.rebuilt, rows) + output.penalty / len(rows)


@pytest.mark.parametrize("name", list_models(task="reconstruct"))
def test_plans_of_autoencoders_by_their_own_loss(name: str) -> None:
    rows, adam = torch.randn(2_000, 29), lambda module: torch.optim.Adam(module.parameters())
    plan = plan_memory(outline_autoencoder(name), rows.shape, optimizer=adam, layout="contiguous", loss=rebuilding)
    inference, training = measured_peaks(create_autoencoder(name, seed=0), rows, adam, "float32", rebuilding)
    assert plan.training_peak_bytes == pytest.approx(training, rel=0.015)
    assert plan.inference_peak_bytes == pytest.approx(inference, rel=0.015)
    assert not plan.not_counted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "batch"),
    [
        ("alexnet", 128, 8), ("nin_bn", 32, 16), ("vgg11_bn_cifar", 32, 32), ("vgg16", 64, 8), ("googlenet", 96, 8),
        ("inception_v3", 299, 2), ("resnet18", 64, 16), ("resnet50", 64, 8), ("preresnet110", 32, 8),
        ("seresnext50_32x4d", 64, 4), ("densenet121", 64, 4), ("mobilenet_v2", 96, 8),
    ],
)  # fmt: skip
def test_plans_of_registered_networks(name: str, side: int, batch: int) -> None:
    module = create_model(name, image_size=side, seed=0)
    shape = (batch, 3, side, side)
    plan = plan_memory(outline_model(name, image_size=side), shape)
    inference, training = measured_peaks(module, torch.randn(shape), sgd, "float32")
    assert plan.training_peak_bytes == pytest.approx(training, rel=0.015)
    assert plan.inference_peak_bytes == pytest.approx(inference, rel=0.015)


@pytest.mark.slow
def test_recomputation_needs_less() -> None:
    network = outline_model("densenet121_cifar")
    plain = plan_memory(network, (8, 3, 32, 32))
    network.memory_efficient = True
    assert plan_memory(network, (8, 3, 32, 32)).training_peak_bytes < 0.8 * plain.training_peak_bytes


def test_a_plan_says_what_the_peak_is_made_of() -> None:
    module = Residual()
    plan = plan_memory(module, (8, 3, 32, 32))
    peak = plan.at_training_peak
    weights = sum(weight.nbytes for weight in module.parameters())
    assert peak.total == plan.training_peak_bytes > plan.inference_peak_bytes > weights
    assert (peak.weights, peak.optimizer_state) == (weights, weights)
    assert peak.buffers == 2 * 32 * 4 + 8  # running mean and variance, and the count of batches
    assert peak.inputs == 8 * 3 * 32 * 32 * 4
    assert peak.gradients <= weights
    assert plan.training_peak_at == "twice"
    assert plan.batch_size == 8


def test_layers_say_what_they_keep() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 900, 10))
    plan = plan_memory(module, (16, 3, 32, 32))
    layers = {layer.name: layer for layer in plan.layers}
    map_bytes = 16 * 8 * 900 * 4
    assert layers["0"].weights == (8 * 3 * 9 + 8) * 4
    assert layers["1"].activations == map_bytes  # of the convolution's outputs ReLU has no use, and they are dropped
    assert "0" not in {layer.name for layer in plan.layers if layer.activations}
    assert layers["2"].activations == map_bytes  # flattening channels that lie side by side is a copy
    assert plan.largest_layers(2)[0].name in {"1", "2"}
    assert "Linear" in {layer.type for layer in plan.layers}


def test_the_textbook_formula() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 900, 10))
    weights = (8 * 3 * 9 + 8 + 7200 * 10 + 10) * 4
    outputs = (3 * 7200 + 10) * 4
    assert plan_memory(module, (16, 3, 32, 32)).textbook_bytes == 3 * weights + 2 * 16 * outputs


@pytest.mark.parametrize(
    ("optimizer", "times"),
    [
        (lambda module: torch.optim.SGD(module.parameters(), 0.1), 0),
        (sgd, 1),
        (lambda module: torch.optim.AdamW(module.parameters()), 2),
    ],
)
def test_optimizers_keep_what_they_keep(optimizer: Callable[[nn.Module], torch.optim.Optimizer], times: int) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(300, 100, bias=False))
    plan = plan_memory(module, (4, 3, 10, 10), optimizer=optimizer)
    counters = 4 if times == 2 else 0  # AdamW counts the steps of each weight
    assert plan.at_training_peak.optimizer_state == times * 120_000 + counters


def test_where_weights_are_most_of_it_the_peak_is_the_optimizer_step() -> None:
    module = nn.Sequential(nn.Linear(1000, 1000), nn.Linear(1000, 10))
    plan = plan_memory(
        module,
        torch.zeros(2, 1000),
        optimizer=lambda module: torch.optim.SGD(module.parameters(), 0.1, weight_decay=0.1),
    )
    assert plan.training_peak_at == STEP


def test_frozen_weights_need_no_gradients() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3072, 1000), nn.Linear(1000, 10))
    everything = plan_memory(module, (4, 3, 32, 32)).training_peak_bytes
    module[1].requires_grad_(False)
    frozen = 3072 * 1000 * 4
    assert plan_memory(module, (4, 3, 32, 32)).training_peak_bytes == pytest.approx(everything - 2 * frozen, rel=0.01)


def test_the_network_is_left_as_it_was() -> None:
    module = Residual().eval()
    before = copy.deepcopy(module.state_dict())
    random_state = torch.get_rng_state()
    plan_memory(module, (8, 3, 32, 32))
    assert not module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(weight.grad is None and weight.device.type == "cpu" for weight in module.parameters())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_network_without_memory_has_the_same_plan() -> None:
    shape = (8, 1, 28, 28)
    assert plan_memory(outline_model("lenet5"), shape) == plan_memory(create_model("lenet5"), torch.zeros(shape))


@pytest.mark.parametrize(
    ("module", "batch", "words"),
    [
        (Branching(), (2, 4), "depends on the numbers in its tensors"),
        (nn.Conv2d(3, 8, 3), (2, 4, 16, 16), "2x4x16x16.*channels"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.BatchNorm1d(4)), (1, 3), "more than 1 value per channel"),
        (nn.ReLU(), (2, 3), "no parameters to train"),
        (nn.Embedding(10, 3), (2, 3), "Embedding"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(module: nn.Module, batch: tuple[int, ...], words: str) -> None:
    with pytest.raises(InspectionError, match=words) as caught:
        plan_memory(module, batch)
    assert "\n" not in str(caught.value)


def test_tokens_are_planned_by_an_example() -> None:
    module = nn.Sequential(nn.Embedding(10, 3), nn.Flatten(), nn.Linear(15, 2))
    assert plan_memory(module, torch.zeros(4, 5, dtype=torch.int64)).batch_size == 4


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    base=st.integers(0, 1000), slope=st.integers(1, 50), floor=st.integers(0, 3000), bend=st.integers(1, 200),
    limit=st.integers(0, 5000), least=st.integers(1, 3),
)  # fmt: skip
def test_the_largest_batch_is_exact(base: int, slope: int, floor: int, bend: int, limit: int, least: int) -> None:
    def need(batch: int) -> int:
        return max(floor, base + slope * batch + (slope * (batch - bend) if batch > bend else 0))

    fitting = [batch for batch in range(least, 501) if need(batch) <= limit]
    assert largest_batch(limit, need, least=least, most=500) == (max(fitting) if fitting else None)


def test_few_batches_are_planned() -> None:
    asked = []

    def need(batch: int) -> int:
        asked.append(batch)
        return max(10_000, 3_000 + 17 * batch)

    assert largest_batch(1_000_000, need) == (1_000_000 - 3_000) // 17
    assert len(asked) == len(set(asked)) <= 12
