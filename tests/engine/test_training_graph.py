"""A training step by the engine is the step that PyTorch makes: losses, gradients, statistics, random numbers."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

pytest.importorskip("llvmlite")

from networks import (
    CLASSES,
    GRADIENT,
    ROUNDING,
    assert_step_of,
    conv,
    error,
    nearest_edge,
    network,
    numbers,
    randomised,
    step,
    targets,
    torchvision_network,
)
from rounding import share_lost

from convatlas.engine import Accelerated, accelerate
from convatlas.engine.training_graph import Convolution3x3, FirstConvolution, Normalization, ReluPool
from convatlas.models import TrainingOutput, create_model

OURS = (
    "vgg11_bn_cifar",
    "lenet5",
    pytest.param("alexnet_mnist", marks=pytest.mark.slow),
    "cnn5_cifar",
    "densenet40_12",
)
THEIRS = (("resnet18", 48), pytest.param("densenet121", 96, marks=pytest.mark.slow), ("googlenet", 64))


def accelerated(model: nn.Module, images: Tensor) -> Accelerated:
    fast = accelerate(model, images)
    assert fast.training
    return fast


def assert_same_step(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """One step of an accelerated network is that of the network."""
    return assert_step_of(accelerated(model, images), model, images)


def small(**options: Any) -> nn.Module:
    """Two convolutions, two norms, a shortcut and a pool, in training."""
    torch.manual_seed(0)

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.pool(functional.relu(self.norm(self.first(x))))
        x = functional.relu(self.other(self.second(x)) + x)
        return self.head(x.mean((2, 3)))

    norms = {"norm": nn.BatchNorm2d(16, **options), "other": nn.BatchNorm2d(16, **options)}
    convolutions = {"first": conv(3, 16), "second": conv(16, 16, bias=False)}
    return network(forward, **convolutions, **norms, pool=nn.MaxPool2d(2), head=nn.Linear(16, CLASSES)).train()


def pictures(images: int = 3, *, seed: int = 0) -> Tensor:
    return numbers(images, 3, 16, 16, seed=seed)


@pytest.mark.parametrize(("images", "seed"), [(1, 0), (3, 0), (3, 1), (3, 2), (6, 0), (8, 0)])
def test_rounding_carries_no_value_over_an_edge(images: int, seed: int) -> None:
    """So gradients of the small network can be held to bounds: in float64, the nearest is many roundings away."""
    assert nearest_edge(small(), pictures(images, seed=seed)) > 5 * share_lost(16)


def parts(fast: Accelerated) -> list[str]:
    graph = fast._training.graph(fast._form.training_flags)
    ours = (Convolution3x3, FirstConvolution, Normalization, ReluPool)
    return [type(part).__name__ for name, part in graph.named_children() if isinstance(part, ours)]


# -- whole networks --


@pytest.mark.parametrize("name", OURS)
def test_a_step_of_a_registered_network_is_that_of_pytorch(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "convatlas.engine.accelerated")
    model = create_model(name, seed=0)
    images = numbers(4, model.in_channels, model.image_size, model.image_size)
    assert_same_step(randomised(model).train(), images)
    assert not [record for record in caplog.records if record.name == "convatlas.engine.accelerated"]


@pytest.mark.parametrize(("name", "side"), THEIRS)
def test_a_step_of_a_network_of_torchvision_is_that_of_pytorch(
    name: str, side: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "convatlas.engine.accelerated")
    options = {"aux_logits": False} if name == "googlenet" else {}
    assert_same_step(torchvision_network(name, **options).train(), numbers(4, 3, side, side))
    assert not [record for record in caplog.records if record.name == "convatlas.engine.accelerated"]


def test_the_logits_of_auxiliary_heads_come_in_the_type_of_the_network() -> None:
    torch.manual_seed(0)

    def forward(self: Any, x: Tensor) -> Tensor | TrainingOutput:
        x = self.first(x)
        logits = self.head(x.mean((2, 3)))
        return TrainingOutput(logits, (self.other(x.amax((2, 3))),), 0.3) if self.training else logits

    model = network(forward, first=conv(3, 16), head=nn.Linear(16, CLASSES), other=nn.Linear(16, CLASSES)).train()
    images = numbers(4, 3, 9, 9)
    fast = accelerated(model, images)
    expected, got = model(images), fast(images)
    assert isinstance(got, TrainingOutput)
    assert got.weight == expected.weight
    torch.testing.assert_close([got.logits, *got.auxiliary], [expected.logits, *expected.auxiliary])
    assert any(isinstance(part, FirstConvolution) for part in fast._training.graph(fast._form.training_flags).modules())
    with torch.no_grad():
        torch.testing.assert_close(fast.eval()(images), model.eval()(images))


def test_a_small_step_is_made_by_the_engines_operators() -> None:
    model, images = small(), pictures()
    assert parts(accelerated(model, images)) == ["FirstConvolution", "Normalization", "Convolution3x3", "Normalization"]
    assert_same_step(model, images)


def test_ten_steps_learn_what_pytorch_learns() -> None:
    model, images = small(), pictures(8)
    twin = copy.deepcopy(model)
    losses: list[list[float]] = []
    for module, parameters in ((accelerated(model, images), model.parameters()), (twin, twin.parameters())):
        optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
        losses.append([])
        for _ in range(10):
            optimizer.zero_grad()
            loss = functional.cross_entropy(module(images), targets(images))
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0] * 0.7


def test_training_and_evaluating_in_turn() -> None:
    model, images = small(), pictures(6)
    twin = copy.deepcopy(model)
    fast = accelerated(model, images)
    pairs = [(fast, torch.optim.SGD(model.parameters(), lr=0.1)), (twin, torch.optim.SGD(twin.parameters(), lr=0.1))]
    for _ in range(3):
        outputs = []
        for module, optimizer in pairs:
            module.train()
            optimizer.zero_grad()
            functional.cross_entropy(module(images), targets(images)).backward()
            optimizer.step()
            module.eval()
            with torch.no_grad():
                outputs.append(module(images))
        assert error(*outputs) <= GRADIENT
        assert torch.equal(model.norm.num_batches_tracked, twin.norm.num_batches_tracked)


def test_two_runs_have_the_same_bits() -> None:
    images = pictures()
    choices = accelerated(small(), images).choices
    runs = []
    for _ in range(2):
        model = small()
        runs.append(step(accelerate(model, images, choices), model, images))
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


@pytest.mark.parametrize("number", [1, 2])
def test_the_number_of_threads_changes_only_what_pytorch_rounds(number: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        assert_same_step(small(), pictures())
    finally:
        torch.set_num_threads(before)


# -- what a step may meet --


def test_dropout_draws_the_numbers_that_pytorch_draws() -> None:
    model = nn.Sequential(conv(3, 16), nn.ReLU(), nn.Dropout2d(0.4), conv(16, 8), nn.Flatten(), nn.Dropout(0.3)).train()
    images = pictures()
    fast = accelerated(model, images)
    torch.manual_seed(5)
    expected = model(images)
    torch.manual_seed(5)
    got = fast(images)
    assert (expected == 0).any()
    assert torch.equal(got == 0, expected == 0)
    assert error(got, expected) <= GRADIENT


def test_dropout_in_code_follows_the_training_flag() -> None:
    model = network(
        lambda self, x: functional.dropout(self.block(self.a(x)).flatten(1), 0.5, self.training),
        a=conv(3, 8),
        block=network(lambda self, x: functional.dropout2d(self.b(x), 0.5, self.training), b=conv()),
    ).train()
    images = pictures()
    fast = accelerated(model, images)
    for frozen in (False, True, False):
        model.block.train(not frozen)
        outputs = []
        for module in (fast, model):
            torch.manual_seed(3)
            outputs.append(module(images))
        assert error(*outputs) <= GRADIENT


@pytest.mark.parametrize("frozen", ["first", "second", "norm", "head", "everything but the head"])
def test_frozen_parameters_get_no_gradient(frozen: str) -> None:
    model = small()
    for name, part in model.named_children():
        part.requires_grad_(name == "head" if frozen.startswith("everything") else name != frozen)
    got = assert_same_step(model, pictures())
    expected = {f"gradient of {name}" for name, part in model.named_parameters() if part.requires_grad}
    assert {name for name in got if name.startswith("gradient")} == expected


def test_parameters_may_be_frozen_and_freed_between_steps() -> None:
    model, images = small(), pictures()
    fast = accelerated(model, images)
    for wanted in (True, False, True):
        model.first.requires_grad_(wanted)
        model.norm.weight.requires_grad_(wanted)
        got = step(fast, model, images)
        assert ("gradient of first.weight" in got) == wanted
        model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("names", [("norm",), ("other",), ("norm", "other")])
def test_frozen_norms_normalise_by_what_they_have_learnt(names: tuple[str, ...]) -> None:
    model = small()
    for name in names:
        model.get_submodule(name).eval()
    before = copy.deepcopy(model.state_dict())
    assert_same_step(model, pictures())
    for name in names:
        assert torch.equal(model.get_buffer(f"{name}.running_mean"), before[f"{name}.running_mean"])
        assert model.get_buffer(f"{name}.num_batches_tracked") == 0


@pytest.mark.parametrize(
    "options",
    [{"momentum": None}, {"momentum": 0.7}, {"eps": 0.1}, {"affine": False}, {"track_running_stats": False}],
    ids=str,
)
def test_norms_of_all_kinds(options: dict[str, Any]) -> None:
    model, images = small(**options), pictures()
    twin = copy.deepcopy(model)
    fast = accelerated(model, images)
    for seed in range(3):  # statistics gather over several steps
        got = step(fast, model, pictures(seed=seed))
        expected = step(twin, twin, pictures(seed=seed))
        for name, value in expected.items():
            if value.abs().max() > 1e-5:
                assert error(got[name], value) <= GRADIENT, name
    assert_same_step(model, images)


def test_an_image_alone() -> None:
    assert_same_step(small(), pictures(1))


def test_a_norm_of_one_value_is_refused_as_by_pytorch() -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8)).train()
    fast = accelerate(model, numbers(2, 3, 4, 4))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        fast(numbers(1, 3, 1, 1))


def test_images_of_other_shapes_in_turn() -> None:
    model = small()
    fast = accelerated(model, pictures())
    twin = copy.deepcopy(model)
    for shape in ((3, 3, 16, 16), (2, 3, 11, 18), (1, 3, 4, 6), (3, 3, 16, 16)):
        images = numbers(*shape)
        got, expected = step(fast, model, images), step(twin, twin, images)
        assert error(got["loss"], expected["loss"]) <= GRADIENT
        assert error(got["gradient of second.weight"], expected["gradient of second.weight"]) <= GRADIENT


def test_wrong_numbers_of_channels_are_refused_as_by_pytorch() -> None:
    model = nn.Sequential(conv(3, 16), conv(8, 16)).train()
    with pytest.raises(RuntimeError, match="channels"):
        accelerate(nn.Sequential(conv(3, 16)).train(), numbers(2, 3, 8, 8))(numbers(2, 4, 8, 8))
    with pytest.raises(RuntimeError, match="channels"):
        accelerate(model, numbers(2, 3, 8, 8))(numbers(2, 3, 8, 8))


def test_gradients_add_up() -> None:
    model = small()
    twin = copy.deepcopy(model)
    fast = accelerated(model, pictures())
    for module in (fast, twin):
        for seed in range(3):
            functional.cross_entropy(module(pictures(seed=seed)), targets(pictures())).backward()
    for (name, part), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        if other.grad.abs().max() > 1e-5:
            assert error(part.grad, other.grad) <= GRADIENT, name


def test_gradients_of_the_images() -> None:
    model = small()
    twin = copy.deepcopy(model)
    gradients = []
    for module in (accelerated(model, pictures()), twin):
        images = pictures().requires_grad_()
        module(images).square().sum().backward()
        gradients.append(images.grad)
    assert error(*gradients) <= GRADIENT


@pytest.mark.parametrize("reentrant", [False, True])
def test_activations_may_be_computed_again(reentrant: bool) -> None:
    model = small(track_running_stats=False)
    fast = accelerated(model, pictures())
    expected = step(fast, model, pictures())
    images = pictures().requires_grad_()
    model.zero_grad()
    functional.cross_entropy(checkpoint(fast, images, use_reentrant=reentrant), targets(images)).backward()
    for name, part in model.named_parameters():
        if part.grad.abs().max() > 1e-5:
            assert error(part.grad, expected[f"gradient of {name}"]) <= GRADIENT


def test_training_without_gradients_moves_the_statistics() -> None:
    model, images = small(), pictures()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        assert error(accelerated(model, images)(images), twin(images)) <= GRADIENT
    assert error(model.norm.running_var, twin.norm.running_var) <= GRADIENT
    assert model.norm.num_batches_tracked == 1


def asks_its_images(self: Any, x: Tensor) -> Tensor:
    return self.n(x) if x.sum() > 0 else self.n(x) * 2


@pytest.mark.parametrize(
    "model",
    [
        small(),
        network(lambda self, x: self.n(functional.dropout(x, training=self.training)), n=nn.BatchNorm2d(3)),
        network(asks_its_images, n=nn.BatchNorm2d(3)),
    ],
    ids=["small", "a norm of its own", "not followed"],
)
def test_preparing_for_training_leaves_no_trace(model: nn.Module) -> None:
    images = pictures()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    accelerated(model, images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


# -- what is put together --


def test_relu_and_pool_without_a_norm_are_one() -> None:
    model = nn.Sequential(conv(8, 8), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16, CLASSES))
    images = numbers(2, 8, 8, 8)
    assert parts(accelerated(model, images)) == ["Convolution3x3", "ReluPool"]
    assert_same_step(model, images)


def used_by_two_pools(self: Any, x: Tensor) -> Tensor:
    y = self.n(self.a(x))
    return self.p(functional.relu(y)) + self.p(y)


def added_to_itself(self: Any, x: Tensor) -> Tensor:
    y = self.n(self.a(x))
    return y + y


def added_to_its_relu(self: Any, x: Tensor) -> Tensor:
    y = self.n(self.a(x))
    return y + functional.relu(y)


def added_to_a_number_a_channel(self: Any, x: Tensor) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return self.n(self.a(x)) + mean


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.n(self.a(x)) + x,
        lambda self, x: x + self.n(self.a(x)),
        lambda self, x: self.n(self.a(x)).add_(self.m(self.b(x))),
        lambda self, x: self.m(self.b(x)) + self.n(self.a(x)),
        lambda self, x: functional.relu(self.n(self.a(x)) + functional.relu(self.m(self.b(x)))),
        lambda self, x: functional.relu(self.n(self.a(x))) + self.n(self.b(x)),
        lambda self, x: self.n(self.a(x)) * 2 + x,
        lambda self, x: torch.add(self.n(self.a(x)), x, alpha=3),
        lambda self, x: self.p(self.n(self.a(x))).repeat(1, 1, 2, 2) + self.n(self.b(x)) * x,
        used_by_two_pools,
        added_to_itself,
        added_to_its_relu,
        lambda self, x: self.n(self.a(x)) + x.mean((2, 3), keepdim=True),
        added_to_a_number_a_channel,
        lambda self, x: self.a(functional.relu(self.a(x))),
        lambda self, x: torch.cat([self.n(self.a(x)), self.m(self.a(x)), x], 1)[:, 4:12],
    ],
)
def test_shortcuts_pools_and_layers_used_twice(forward: Any) -> None:
    torch.manual_seed(0)
    layers = {"a": conv(), "b": conv(), "n": nn.BatchNorm2d(8), "m": nn.BatchNorm2d(8), "p": nn.MaxPool2d(2)}
    model = network(lambda self, x: self.head(forward(self, x).mean((2, 3))), **layers, head=nn.Linear(8, CLASSES))
    images = numbers(2, 8, 8, 8)
    exact = copy.deepcopy(model).double()
    fast = accelerate(model, images)
    losses = [module(x).square().sum() for module, x in ((fast, images), (exact, images.double()))]
    for loss in losses:
        loss.backward()
    assert error(*losses) <= GRADIENT
    for (name, part), other in zip(model.named_parameters(), exact.parameters(), strict=True):
        if other.grad is not None and other.grad.abs().max() > ROUNDING:
            assert error(part.grad, other.grad) <= GRADIENT, name
    for name, buffer in exact.named_buffers():
        got = model.get_buffer(name)
        torch.testing.assert_close(got, buffer.to(got.dtype), rtol=GRADIENT, atol=GRADIENT)


def test_relu_in_place_changes_what_others_see() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.n(self.a(x)) * 1.0
        return self.p(functional.relu_(y)).mean((2, 3)) + y.mean((2, 3))

    model = network(forward, a=conv(8, 16), n=nn.BatchNorm2d(16), p=nn.MaxPool2d(2)).train()
    images = numbers(2, 8, 8, 8)
    assert error(accelerate(model, images)(images), copy.deepcopy(model)(images)) <= GRADIENT
