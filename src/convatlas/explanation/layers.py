"""Which layers can be looked into, and what they hold for one image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convatlas.errors import ExplanationError, first_of, unknown_name
from convatlas.explanation.shown import evaluating, require_image
from convatlas.models.contract import Classifier, Tap


class Strongest(NamedTuple):
    """The channels of a layer that answer most to one image, strongest first."""

    maps: Tensor  # [n, h, w]
    channels: tuple[int, ...]


def map_layers(model: Classifier) -> list[str]:
    """The taps whose output is a map, not a single place: those that say where something is, first to last.

    >>> from convatlas.models import outline_model
    >>> map_layers(outline_model("lenet5"))
    ['c1', 's2', 'c3', 's4']
    """
    return [name for name, tap in model.taps.items() if _is_map(tap)]


def target_layer(model: Classifier) -> str:
    """The layer that Grad-CAM looks at: the last tap whose output is a map larger than 1x1.

    It has seen most of the image and still knows where.

    >>> from convatlas.models import outline_model
    >>> target_layer(outline_model("vgg16")), target_layer(outline_model("resnet50"))
    ('pool5', 'conv5_3')

    Raises:
        ExplanationError: at this size of image every layer of the network has a single place.
    """
    layers = map_layers(model)
    if not layers:
        raise ExplanationError(f"no layer of the network has a map larger than 1x1 for images of {model.image_size}")
    return layers[-1]


def tap_of(model: Classifier, layer: str | None) -> tuple[str, Tap]:
    """Name and place of the layer that is looked at; of `target_layer` when none is asked for.

    Raises:
        UnknownNameError: no layer has that name; the nearest are named.
        ExplanationError: its output is no map.
    """
    name = target_layer(model) if layer is None else layer
    if name not in model.taps:
        raise unknown_name("layer", name, model.taps)
    tap = model.taps[name]
    if not _is_map(tap):
        sizes = "x".join(map(str, tap.shape))
        raise ExplanationError(f"{name} gives {sizes} numbers without a place. Layers with one: {_named(model)}")
    return name, tap


def feature_maps(model: Classifier, image: Tensor, layer: str | None = None) -> Tensor:
    """What a layer makes of an image: [C, H, W] -> [channels, h, w].

    >>> from convatlas.models import create_model
    >>> feature_maps(create_model("lenet5"), torch.zeros(1, 28, 28), "c3").shape
    torch.Size([16, 10, 10])

    Raises:
        UnknownNameError, ExplanationError: no such layer, or one without places; an image of another shape.
    """
    require_image(model, image)
    _, tap = tap_of(model, layer)
    seen: list[Tensor] = []

    def keep(maps: Tensor) -> Tensor:
        seen.append(maps)
        return maps.clone()  # a ReLU that writes in place may come next

    with evaluating(model), torch.no_grad(), passing_through(model.get_submodule(tap.module), keep):
        model(image[None])
    return seen[-1][0]


def strongest(maps: Tensor, most: int = 16) -> Strongest:
    """The channels with the largest mean of absolute values, of maps [C, h, w].

    >>> strongest(torch.stack([torch.zeros(2, 2), torch.ones(2, 2)]), most=1).channels
    (1,)
    """
    strength = maps.abs().mean(dim=(1, 2))
    chosen = strength.argsort(descending=True, stable=True)[:most]
    return Strongest(maps[chosen], tuple(chosen.tolist()))


def first_filters(model: Classifier) -> Tensor | None:
    """The filters that see the image itself, [n, in_channels, k, k]; None where the first layer is no convolution.

    >>> from convatlas.models import create_model
    >>> first_filters(create_model("lenet5")).shape
    torch.Size([6, 1, 5, 5])
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == model.in_channels and layer.groups == 1:
            return layer.weight.detach()
    return None


@contextmanager
def passing_through(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block, what the layer gives goes through ``change`` before the network goes on with it."""
    handle = layer.register_forward_hook(lambda _layer, _inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def _is_map(tap: Tap) -> bool:
    return len(tap.shape) == 3 and max(tap.shape[1:]) > 1


def _named(model: Classifier) -> str:
    return first_of(reversed(map_layers(model)))
