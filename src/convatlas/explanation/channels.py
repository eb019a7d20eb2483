"""Which of many images excite a channel most, and where in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from convatlas.errors import ExplanationError
from convatlas.explanation.layers import passing_through, tap_of
from convatlas.explanation.shown import evaluating
from convatlas.models.contract import Classifier


class Channel(NamedTuple):
    """One channel of a layer's output."""

    layer: str
    number: int

    def __str__(self) -> str:
        return f"{self.layer}:{self.number}"


class Peak(NamedTuple):
    """A channel's largest value in one image, and the place of the layer's map where it is."""

    image: int  # its number among those that were shown
    value: float
    row: int
    column: int


def parse_channel(model: Classifier, text: str) -> Channel:
    """A channel as a person writes it, LAYER:NUMBER.

    >>> from convatlas.models import outline_model
    >>> parse_channel(outline_model("lenet5"), "c3:15")
    Channel(layer='c3', number=15)

    Raises:
        UnknownNameError: no such layer.
        ExplanationError: it is written otherwise, the layer has no map, or has no channel of that number.
    """
    name, _, number = text.rpartition(":")
    if not name or not (number.isascii() and number.isdecimal()):
        raise ExplanationError(f"a channel is written LAYER:NUMBER, such as conv5_3:17; received {text!r}")
    layer, tap = tap_of(model, name)
    if len(number) > len(str(tap.shape[0])) or int(number) >= tap.shape[0]:
        raise ExplanationError(f"{layer} has channels 0 to {tap.shape[0] - 1}; received {text!r}")
    return Channel(layer, int(number))


def strongest_peaks(
    model: Classifier, batches: Iterable[Tensor], channels: Sequence[Channel], most: int = 9
) -> dict[Channel, list[Peak]]:
    """The images in which each channel's largest value is largest, the largest first; all channels in one pass.

    An image that does not excite a channel, with no value above zero, is left out.

    >>> from convatlas.models import create_model
    >>> channel = Channel("c1", 0)
    >>> found = strongest_peaks(create_model("lenet5"), [torch.ones(2, 1, 28, 28)], [channel])
    >>> len(found[channel]) <= 2
    True

    Args:
        model: in either mode; it is evaluated, and nothing of it changes.
        batches: images [N, C, H, W], as the network takes them.
        channels: of layers whose output is a map.
        most: images of a channel.

    Raises:
        UnknownNameError, ExplanationError: no such layer, or one without places; values that are not finite.
    Source: Zeiler & Fergus 2014, arXiv 1311.2901, section 4.1, whose figure 2 shows the top nine activations.
    """
    layers: dict[str, list[int]] = {}
    for channel in channels:
        layers.setdefault(channel.layer, []).append(channel.number)
    widths = {layer: tap_of(model, layer)[1].shape[2] for layer in layers}
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode())
        for layer, numbers in layers.items():
            module = model.get_submodule(tap_of(model, layer)[1].module)
            stack.enter_context(passing_through(module, _keeper(numbers, seen[layer])))
        for images in batches:
            model(images)
    return {channel: _largest(seen, layers, widths, channel, most) for channel in channels}


def _keeper(numbers: Sequence[int], kept: list[tuple[Tensor, Tensor]]) -> Callable[[Tensor], Tensor]:
    def keep(maps: Tensor) -> Tensor:
        """Of [N, C, h, w] the largest value of each channel, and its place, [N, channels]."""
        values, places = maps[:, numbers].flatten(2).max(dim=2)
        kept.append((values.cpu(), places.cpu()))
        return maps

    return keep


def _largest(
    seen: Mapping[str, list[tuple[Tensor, Tensor]]],
    layers: Mapping[str, list[int]],
    widths: Mapping[str, int],
    channel: Channel,
    most: int,
) -> list[Peak]:
    position, width = layers[channel.layer].index(channel.number), widths[channel.layer]
    values = torch.cat([values[:, position] for values, _ in seen[channel.layer]])
    places = torch.cat([places[:, position] for _, places in seen[channel.layer]])
    if not values.isfinite().all():
        raise ExplanationError(f"layer {channel.layer} gives values that are not finite: such weights know no images")
    order = values.argsort(descending=True, stable=True)[:most].tolist()
    peaks = [Peak(image, float(values[image]), *divmod(int(places[image]), width)) for image in order]
    return [peak for peak in peaks if peak.value > 0]
