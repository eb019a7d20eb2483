"""Networks for the tests of the engine, and what is compared of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

EXACT = 1e-5  # of the largest logit, against float64
GRADIENT = 1e-4  # of the largest value of a tensor, against float64
ROUNDING = 1e-9  # of a gradient that should be zero, such as that of a bias before a norm
CLASSES = 10


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


@torch.no_grad()
def assert_same_outputs(fast: nn.Module, model: nn.Module, images: Tensor) -> None:
    """The outputs are those of float64, as nearly as the network's own code computes them."""
    exact = copy.deepcopy(model).double()(images.double())
    allowed = max(EXACT, 3 * error(model(images.clone()), exact))
    got = fast(images)
    assert got.shape == exact.shape
    assert error(got, exact) <= allowed


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


def assert_step_of(fast: nn.Module, model: nn.Module, images: Tensor, *, within: float = GRADIENT) -> dict[str, Tensor]:
    """One step of ``fast``, whose parameters are those of ``model``, is as near to float64 as PyTorch's own."""
    eager, exact_model = copy.deepcopy(model), copy.deepcopy(model).double()
    exact = step(exact_model, exact_model, images.double())
    expected = step(eager, eager, images)
    got = step(fast, model, images)
    assert got.keys() == expected.keys() == exact.keys()
    compared = [name for name, value in exact.items() if value.is_floating_point() and value.abs().max() > ROUNDING]
    # a deep network that normalises few values multiplies the rounding of every layer, in one tensor or in another
    allowed = max(within, 3 * max(error(expected[name], exact[name]) for name in compared))
    for name, value in exact.items():
        if name in compared:
            assert error(got[name], value) <= allowed, name
        elif not value.is_floating_point():
            assert torch.equal(got[name], value), name
    return got
