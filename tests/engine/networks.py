"""Networks for the tests of the engine, and what is compared of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

EXACT = 1e-5  # of the largest logit, against float64


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
