"""Which nodes of a network are made one layer, and which must not be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import conv, network, numbers
from torch import Tensor, nn
from torch.nn import functional

from convatlas.engine.graph import (
    Affine,
    Call,
    Concatenation,
    Convolution,
    Graph,
    Part,
    Pooling,
    pool_sizes,
    scale_and_shift,
    trace,
)
from convatlas.engine.jobs import RELU, RELU6


def layers(forward: Callable[[Any, Tensor], Any], **parts: nn.Module) -> list[str]:
    """What a network's layers are, each with all that is in it."""
    return [describe(layer) for layer in graph(forward, **parts).layers]


def graph(forward: Callable[[Any, Tensor], Any], **parts: nn.Module) -> Graph:
    return trace(network(forward, **parts).eval())


def describe(layer: object) -> str:
    if not isinstance(layer, Convolution | Affine):
        return type(layer).__name__.lower()
    is_convolution = isinstance(layer, Convolution)
    parts = {
        "activated": is_convolution and layer.pre_norm,
        "conv": is_convolution,
        "norm": layer.norm,
        "gate": not is_convolution and layer.gate,
        "add": layer.residual,
        "relu": layer.activation == RELU,
        "relu6": layer.activation == RELU6,
        "pool": is_convolution and layer.pool,
    }
    return " ".join(name for name, is_there in parts.items() if is_there)


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "functional": functional.relu,
    "torch": torch.relu,
    "method": lambda x: x.relu(),
    "in place": lambda x: functional.relu(x, inplace=True),
    "method in place": lambda x: x.relu_(),
}
ADDITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "operator": lambda x, y: x + y,
    "the other way": lambda x, y: y + x,
    "torch": torch.add,
    "method": lambda x, y: x.add(y),
    "in place": lambda x, y: x.add_(y),
}


def test_a_norm_goes_into_the_convolution_before_it() -> None:
    assert layers(lambda self, x: self.n(self.a(x)), a=conv(), n=nn.BatchNorm2d(8)) == ["conv norm"]


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS.keys())
def test_relu_goes_into_it_too(relu: Callable[[Tensor], Tensor]) -> None:
    parts = {"a": conv(), "n": nn.BatchNorm2d(8), "r": nn.ReLU(inplace=True)}
    assert layers(lambda self, x: self.r(self.n(self.a(x))), **parts) == ["conv norm relu"]
    assert layers(lambda self, x: relu(self.n(self.a(x))), **parts) == ["conv norm relu"]
    assert layers(lambda self, x: relu(self.a(x)), **parts) == ["conv relu"]


@pytest.mark.parametrize("add", ADDITIONS.values(), ids=ADDITIONS.keys())
def test_a_shortcut_goes_into_it_too(add: Callable[[Tensor, Tensor], Tensor]) -> None:
    parts = {"a": conv(), "n": nn.BatchNorm2d(8), "b": conv()}

    def forward(self: Any, x: Tensor) -> Tensor:
        x = functional.relu(self.a(x))
        return functional.relu(add(self.n(self.b(x)), x))

    assert layers(forward, **parts) == ["conv relu", "conv norm add relu"]


def test_a_shortcut_with_a_layer_of_its_own_is_in_one_of_the_two() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.n(self.a(x))
        y += self.m(self.b(x))
        return functional.relu(y)

    parts = {"a": conv(), "n": nn.BatchNorm2d(8), "b": conv(), "m": nn.BatchNorm2d(8)}
    found = graph(forward, **parts)
    assert sorted(map(describe, found.layers)) == ["conv norm", "conv norm add relu"]
    assert found.layers[-1].node is found.output  # the layer that adds comes when both are there


def test_norm_and_relu_before_a_pointwise_convolution_go_into_it() -> None:
    parts = {"n": nn.BatchNorm2d(8), "r": nn.ReLU(), "a": conv(8, 16, 1), "m": nn.BatchNorm2d(16)}
    assert layers(lambda self, x: self.a(self.r(self.n(x))), **parts) == ["activated conv"]
    assert layers(lambda self, x: self.m(self.a(functional.relu(self.n(x)))), **parts) == ["activated conv norm"]


def test_norm_and_relu_stay_alone_before_others() -> None:
    parts = {"n": nn.BatchNorm2d(8), "r": nn.ReLU(), "a": conv(), "b": conv(8, 16, 1)}
    assert layers(lambda self, x: self.a(self.r(self.n(x))), **parts) == ["norm relu", "conv"]
    assert layers(lambda self, x: self.b(self.n(x)), **parts) == ["norm", "conv"]

    def used_twice(self: Any, x: Tensor) -> Tensor:
        y = self.r(self.n(x))
        return torch.cat([self.b(y), y], 1)

    assert layers(used_twice, **parts) == ["norm relu", "conv", "concatenation"]
    untracked = {**parts, "n": nn.BatchNorm2d(8, track_running_stats=False)}
    assert layers(lambda self, x: self.b(self.r(self.n(x))), **untracked) == ["call", "call", "conv"]


def test_relu_and_a_halving_pool_go_into_a_convolution() -> None:
    parts = {"a": conv(), "r": nn.ReLU(inplace=True), "p": nn.MaxPool2d(2, 2), "n": nn.BatchNorm2d(8)}
    assert layers(lambda self, x: self.p(self.r(self.n(self.a(x)))), **parts) == ["conv norm relu pool"]
    assert layers(lambda self, x: self.p(self.a(x)), **parts) == ["conv pool"]


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, 2), nn.MaxPool2d(2, 1), nn.MaxPool2d(2, 2, 1), nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2)],
)
def test_other_pools_are_layers_of_their_own(pool: nn.Module) -> None:
    assert layers(lambda self, x: self.p(self.a(x)), a=conv(), p=pool) == ["conv", "pooling"]


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d((2, 3)),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, return_indices=True),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(3, padding=1, count_include_pad=False),
        nn.AvgPool2d(2, divisor_override=3),
    ],
)
def test_unusual_pools_are_pytorchs(pool: Any) -> None:
    assert pool_sizes(pool) is None


def test_a_pool_does_not_go_into_a_convolution_with_a_stride_or_a_shortcut() -> None:
    parts = {"a": conv(stride=2), "b": conv(), "p": nn.MaxPool2d(2)}
    assert layers(lambda self, x: self.p(self.a(x)), **parts) == ["conv", "pooling"]
    assert layers(lambda self, x: self.p(self.b(x) + x), **parts) == ["conv add", "pooling"]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (lambda self, y: self.n(y) * y, ["conv", "norm", "gate"]),
        (lambda _, y: functional.relu(y) * y, ["conv", "call", "gate"]),
        (lambda self, y: self.p(y).mean() * y, ["conv", "pooling", "call", "gate"]),
        (lambda _, y: (y + 1) * y, ["conv", "call", "gate"]),
        (lambda _, y: y + y, ["conv", "add"]),
    ],
    ids=["norm", "relu", "pool", "addition", "itself"],
)
def test_nothing_goes_into_a_convolution_whose_outputs_are_used_twice(after: Any, expected: list[str]) -> None:
    parts = {"a": conv(), "n": nn.BatchNorm2d(8), "p": nn.MaxPool2d(2)}
    assert layers(lambda self, x: after(self, self.a(x)), **parts) == expected


def test_the_order_decides_what_goes_in() -> None:
    parts = {"a": conv(), "n": nn.BatchNorm2d(8), "p": nn.MaxPool2d(2)}
    assert layers(lambda self, x: self.n(functional.relu(self.a(x))), **parts) == ["conv relu", "norm"]
    assert layers(lambda self, x: self.n(self.p(self.a(x))), **parts) == ["conv pool", "norm"]
    assert layers(lambda self, x: functional.relu(self.a(x)) + x, **parts) == ["conv relu", "add"]
    assert layers(lambda self, x: self.n(self.a(x) + x), **parts) == ["conv add", "norm"]
    assert layers(lambda self, x: self.n(self.n(self.a(x))), **parts) == ["conv norm", "norm"]
    assert layers(lambda self, x: self.a(x) + x + x, **parts) == ["conv add", "add"]


def test_a_layer_called_twice_is_two_layers_each_with_its_own_followers() -> None:
    parts = {"a": conv(), "n": nn.BatchNorm2d(8)}
    assert layers(lambda self, x: self.n(self.a(functional.relu(self.a(x)))), **parts) == ["conv relu", "conv norm"]


@pytest.mark.parametrize(
    "layer",
    [
        conv(padding_mode="circular"),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, stride=(1, 2)),
        nn.Conv2d(8, 8, 3, dilation=(1, 2)),
        nn.ConvTranspose2d(8, 8, 3),
    ],
    ids=["padding mode", "same", "strides", "dilations", "transposed"],
)
def test_convolutions_the_kernels_do_not_know_are_pytorchs(layer: nn.Module) -> None:
    assert layers(lambda self, x: self.r(self.a(x)), a=layer, r=nn.ReLU()) == ["call", "call"]


@pytest.mark.parametrize(
    "layer",
    [conv(groups=8), conv(groups=2), nn.Conv2d(8, 8, 3, dilation=2), conv(8, 12), conv(3, 1)],
    ids=["depthwise", "groups", "dilation", "channels", "few channels"],
)
def test_convolutions_the_kernels_know(layer: nn.Module) -> None:
    assert layers(lambda self, x: self.r(self.a(x)), a=layer, r=nn.ReLU6()) == ["conv relu6"]


def test_gates_and_additions_are_one_with_what_follows() -> None:
    parts = {"a": conv(), "g": nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(8, 8, 1), nn.Sigmoid()), "r": nn.ReLU()}

    def gated(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.r(y * self.g(y) + x)

    assert layers(gated, **parts) == ["conv", "pooling", "conv", "call", "gate add relu"]
    assert layers(lambda self, x: self.r(self.r(x) + x), **parts) == ["call", "add relu"]
    assert layers(lambda _, x: (x * 3) * x + x + x, **parts) == ["call", "gate add", "add"]


def test_parts_of_a_picture_are_views_of_it() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        one, other = x.chunk(2, dim=1)
        return torch.cat([self.a(one), torch.split(other, 2, 1)[1]], 1)

    found = graph(forward, a=conv(4, 8)).layers
    assert [describe(layer) for layer in found] == ["part", "part", "conv", "part", "concatenation"]
    assert isinstance(found[0], Part)
    assert found[0].split(numbers(1, 8, 2, 2))[1].shape == (1, 4, 2, 2)
    assert layers(lambda _, x: x.chunk(2, 1)) == ["call"]  # nobody takes it apart


@pytest.mark.parametrize(
    ("forward", "alone"),
    [
        (lambda self, x: torch.flatten(self.p(functional.relu(self.a(x)) + x), 1), True),
        (lambda self, x: nn.functional.silu(self.a(x)) * torch.sigmoid(self.a(x)), True),
        (lambda self, x: self.a(x) - x.mean(0, keepdim=True), False),
        (lambda self, x: torch.flatten(self.a(x)), False),
        (lambda self, x: self.a(x).view(-1, 8), False),
        (lambda self, x: torch.cat([self.a(x), x], 0), False),
        (lambda self, x: self.a(x) * x.shape[0], False),
    ],
)  # fmt: skip
def test_which_networks_take_images_one_by_one(forward: Any, alone: bool) -> None:
    found = graph(forward, a=conv(), p=nn.AdaptiveAvgPool2d(1))
    assert found.takes_images_one_by_one is alone


def test_subclasses_of_layers_are_not_taken_for_them() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) * 2

    class Silent(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return x * 0

    model = nn.Sequential(Scaled(8, 8, 3), Silent(8))
    found = trace(model.eval()).layers
    assert not any(isinstance(layer, Convolution) for layer in found)


@pytest.mark.parametrize("arguments", [{"dim": 1}, {"axis": 1}])
def test_pictures_joined_by_channels(arguments: dict[str, int]) -> None:
    assert layers(lambda self, x: torch.cat([self.a(x), x], **arguments), a=conv()) == ["conv", "concatenation"]
    assert layers(lambda self, x: torch.cat([self.a(x), x]), a=conv()) == ["conv", "call"]
    assert layers(lambda self, x: torch.cat([self.a(x), x], 3), a=conv()) == ["conv", "call"]


def test_layers_come_after_all_they_need() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(x)
        c = functional.relu(self.c(b) + a)
        return torch.cat([self.p(c), self.p(b)], 1)

    found = graph(forward, a=conv(), b=conv(), c=conv(), p=nn.AvgPool2d(2))
    known = {found.input}
    for layer in found.layers:
        assert known.issuperset(layer.inputs)
        known.add(layer.node)
    assert found.output in known


def test_folding_is_the_norm_of_the_convolution_in_float64() -> None:
    norm = nn.BatchNorm2d(8, eps=0.01)
    found = graph(lambda self, x: self.n(self.a(x)), a=conv(8, 8), n=norm).layers[0]
    assert isinstance(found, Convolution)
    weight, bias = found.folded()
    x = numbers(2, 8, 6, 6)
    assert norm.running_mean is not None
    exact = norm.double().eval()(
        nn.functional.conv2d(x.double(), found.layer.weight.double(), found.layer.bias.double())
    )
    torch.testing.assert_close(
        functional.conv2d(x.double(), weight.double(), bias.double()), exact, rtol=1e-6, atol=1e-6
    )
    assert (weight.dtype, bias.dtype) == (torch.float32, torch.float32)


def test_a_norm_without_weights_scales_and_shifts() -> None:
    norm = network(lambda self, x: self.n(x), n=nn.BatchNorm2d(4, affine=False)).n.eval()
    scale, shift = scale_and_shift(norm, 4)
    x = numbers(2, 4, 3, 3).double()
    torch.testing.assert_close(x * scale[:, None, None] + shift[:, None, None], norm.double()(x))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 2, 0), (3, 3, 1), (2, 1, 0), (1, 2, 0)]
)
def test_sizes_of_pools(window: int, stride: int, padding: int, ceil_mode: bool) -> None:
    pool = nn.MaxPool2d(window, stride, padding, ceil_mode=ceil_mode)
    (layer,) = graph(lambda self, x: self.p(x), p=pool).layers
    assert isinstance(layer, Pooling)
    for size in range(3, 14):
        assert layer.output_size(size, 9) == pool(numbers(1, 8, size, 9)).shape[2:]


def test_tracing_leaves_the_training_flags_as_they_are() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.Dropout())
    model.train()
    model[1].eval()
    trace(model)
    assert [part.training for part in model.modules()] == [True, True, False, True]

    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    broken = nn.Sequential(conv(), Refuses()).train()
    with pytest.raises(Exception, match="control flow"):
        trace(broken)
    assert all(part.training for part in broken.modules())


def test_only_one_input_and_one_output_are_known() -> None:
    with pytest.raises(TypeError, match="one input and one output"):
        graph(lambda self, x: (self.a(x), x), a=conv())


def test_kinds_of_layers_name_what_they_need() -> None:
    found = graph(lambda self, x: torch.cat([self.p(self.a(x) + x), torch.sigmoid(x)], 1), a=conv(), p=nn.AvgPool2d(1))
    kinds = {type(layer): layer for layer in found.layers}
    assert set(kinds) == {Convolution, Pooling, Call, Concatenation}
    assert kinds[Convolution].inputs == (found.input, found.input)
    assert kinds[Concatenation].inputs == (kinds[Pooling].node, kinds[Call].node)
