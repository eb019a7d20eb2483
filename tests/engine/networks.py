"""Networks for the tests of the engine, and what is compared of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from rounding import EXACT, share_lost
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

GRADIENT = 10 * EXACT  # of the largest value of a tensor, in networks of a few layers forward and back
ROUNDING = 1e-9  # of a gradient that should be zero, such as that of a bias before a norm
CLASSES = 10
WIDEST = 512  # channels of a 3x3 convolution in a network here
MARGIN, DRAWS = 3, 8  # of what the rounding in a network comes to, by chance more and less


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(forward: Callable[[Any, Tensor], Any], /, **layers: nn.Module) -> nn.Module:
    """A network of some layers with this forward method, its batch norms far from how they begin."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, layer in layers.items():
                setattr(self, name, layer)

        def forward(self, x: Tensor) -> Any:
            return forward(self, x)

    return randomised(Network())


def conv(channels: int = 8, out_channels: int = 8, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, **options)


def torchvision_network(name: str, **options: Any) -> nn.Module:
    """One of torchvision's networks with ten classes; of VGG with one linear layer, not 120 million weights."""
    options = {"num_classes": 10, **options}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "vgg11_bn":
            layers = torchvision.models.vgg.make_layers(
                [64, "M", 128, "M", 256, 256, "M", 512, 512, "M"], batch_norm=True
            )
            return randomised(nn.Sequential(layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(2048, 10)))
        return randomised(getattr(torchvision.models, name)(**options))


def randomised(model: nn.Module) -> nn.Module:
    """The network with batch norms as a training would leave them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                if norm.running_mean is not None and norm.running_var is not None:
                    norm.running_mean.normal_(0, 0.2, generator=generator)
                    norm.running_var.uniform_(0.5, 2, generator=generator)
                if norm.affine:
                    norm.weight.uniform_(0.5, 1.5, generator=generator)
                    norm.bias.normal_(0, 0.2, generator=generator)
    return model


def error(got: Tensor, exact: Tensor) -> float:
    """The largest difference, of the largest value."""
    return ((got.double() - exact.double()).abs().max() / exact.double().abs().max()).item()


def rounding_allows(lost: float, within: float, model: nn.Module, repeat: Callable[[nn.Module], float]) -> bool:
    """Whether results that are ``lost`` away from float64's are ``within`` that, or as near as rounding lets them be.

    ``repeat`` computes them with another module and says how far away those are. Some networks multiply the rounding in
    their layers, such as those that normalise few values; and where it carries a value over the edge of a ReLU, or lets
    another pixel win a pooling, a gradient moves as a whole. How far is the network's own, and the same on every
    processor: copies in float64 that lose on purpose show it.
    """
    return lost <= within or any(lost <= MARGIN * repeat(inexact(model, seed)) for seed in range(DRAWS))


def inexact(model: nn.Module, seed: int) -> nn.Module:
    """A copy in float64 whose layers lose as much of their outputs, and of gradients on the way back, as in float32."""
    noise = torch.Generator().manual_seed(seed)

    def loss_of(exact: Tensor) -> Tensor:
        drawn = torch.randn(exact.shape, generator=noise, dtype=exact.dtype)
        return drawn * exact.detach().square().mean().sqrt() * share_lost(WIDEST)

    def after(_layer: nn.Module, _inputs: object, output: object) -> object:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return output
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient + loss_of(gradient))
        return output + loss_of(output)

    copied = copy.deepcopy(model).double()
    for layer in copied.modules():
        if not any(layer.children()):
            layer.register_forward_hook(after)
    return copied


class _Edges(TorchFunctionMode):
    """Notes how near values are to where a gradient changes its way, as a share of their root mean square."""

    def __init__(self) -> None:
        super().__init__()
        self.distances: list[float] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (functional.relu, torch.relu):
            self._note(args[0], args[0].abs())
        if function in (functional.max_pool2d, functional.max_pool2d_with_indices):
            windows = args[0].unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).sort(-1).values
            self._note(args[0], (windows[..., -1] - windows[..., -2])[windows[..., -1] > 0])  # behind a ReLU
        return function(*args, **(kwargs or {}))

    def _note(self, values: Tensor, distances: Tensor) -> None:
        self.distances.append(float(distances.min() / values.square().mean().sqrt()))


@torch.no_grad()
def nearest_edge(model: nn.Module, images: Tensor) -> float:
    """How near a value comes to 0 at a ReLU, or to the largest of a 2x2 window, as a share of the values there."""
    with _Edges() as edges:
        copy.deepcopy(model).double()(images.double())
    return min(edges.distances)


@torch.no_grad()
def assert_same_outputs(fast: nn.Module, model: nn.Module, images: Tensor) -> None:
    """The outputs are those of float64, but for what the layers' rounding comes to."""
    exact = copy.deepcopy(model).double()(images.double())
    got = fast(images)
    assert got.shape == exact.shape
    assert rounding_allows(error(got, exact), EXACT, model, lambda other: error(other(images.double()), exact))


def targets(images: Tensor) -> Tensor:
    return torch.arange(len(images)) % CLASSES


def step(module: nn.Module, model: nn.Module, images: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Loss, gradients and buffers after one step of ``module``, whose parameters are those of ``model``."""
    model.zero_grad()
    torch.manual_seed(seed)
    loss = functional.cross_entropy(module(images), targets(images))
    loss.backward()
    gradients = {f"gradient of {name}": part.grad for name, part in model.named_parameters() if part.grad is not None}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return {"loss": loss.detach(), **{name: part.clone() for name, part in gradients.items()}, **buffers}


def assert_step_of(fast: nn.Module, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """One step of ``fast``, whose parameters are those of ``model``, is float64's, but for what rounding comes to."""
    before, exact_model = copy.deepcopy(model), copy.deepcopy(model).double()
    exact = step(exact_model, exact_model, images.double())
    got = step(fast, model, images)
    assert got.keys() == exact.keys()
    lost = largest_error(got, exact)
    assert rounding_allows(
        lost, GRADIENT, before, lambda other: largest_error(step(other, other, images.double()), exact)
    )
    for name, value in exact.items():
        if not value.is_floating_point():
            assert torch.equal(got[name], value), name
    return got


def largest_error(got: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Of all tensors that are more than rounding."""
    compared = [name for name, value in exact.items() if value.is_floating_point() and value.abs().max() > ROUNDING]
    return max(error(got[name], exact[name]) for name in compared)
