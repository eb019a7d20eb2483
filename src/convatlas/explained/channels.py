"""The training images that most excite a channel, and what of them its strongest place sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from convatlas.data.batch import Place
from convatlas.data.batches import Batches
from convatlas.errors import UnknownNameError
from convatlas.explained.images import KnownImages, Tell, images_for, seen_pixels, untold
from convatlas.explanation import Channel, Peak, parse_channel, strongest_peaks
from convatlas.inspection import Window, inspect_module
from convatlas.models.contract import blank_input

if TYPE_CHECKING:
    from PIL import Image

    from convatlas.models import Classifier
    from convatlas.reports.explained import ThumbnailRecord
    from convatlas.reports.sheets import Tile
    from convatlas.runs import ImageClassifier

MOST_EXCITING = 9
NEARLY_ALL = 0.8  # of the image: what sees so much is not shown apart from it

Box = tuple[int, int, int, int]


class Sight(NamedTuple):
    """What of an image a place of a layer's map sees, in pixels of the network's input."""

    box: Box  # left, top, right, bottom; the last two are outside
    centre: tuple[float, float]  # x, y


@dataclass(frozen=True)
class ExcitingImage:
    """A training image in which a channel is strong, how strong, and where."""

    image: str  # its file, or its place in an array
    class_name: str
    value: float  # the channel's largest
    box: Box  # what the place of that value sees: left, top, right, bottom of the network's input
    centre: tuple[float, float]
    position: int  # among the training images


def exciting_images(
    run: ImageClassifier, channel: str, most: int = MOST_EXCITING, data: str | Path | None = None
) -> list[ExcitingImage]:
    """The training images in which a channel's largest value is largest, the largest first.

    >>> exciting_images(convatlas.load("runs/mine"), "conv4_3:17")[0].box  # doctest: +SKIP
    (12, 60, 104, 152)

    Args:
        run: of a classifier; or a network with somebody's weights.
        channel: LAYER:NUMBER, the layer by the paper's name.
        most: how many.
        data: where the run's images are now, if they have moved; of a network by name, any images.

    Raises:
        ConvatlasError: no such channel, the images are gone, or there are none.
    Source: Zeiler & Fergus 2014, arXiv 1311.2901, section 4.1.
    """
    wanted = parse_channel(run.model(), channel)
    return exciting_each(run, [wanted], images_for(run, data), most)[wanted]


def exciting_each(
    run: ImageClassifier,
    channels: Sequence[Channel],
    known: KnownImages,
    most: int = MOST_EXCITING,
    tell: Tell = untold,
) -> dict[Channel, list[ExcitingImage]]:
    """As `exciting_images`, of several channels, for one pass over the training images."""
    network, train = run.model(), known.dataset.train
    peaks = strongest_peaks(network, _inputs(run, known, tell), channels, most)
    sights = {layer: _Sights.of(network, layer) for layer in dict.fromkeys(channel.layer for channel in channels)}

    def told(peak: Peak, sight: Sight) -> ExcitingImage:
        name, class_name = known.name_in(train, peak.image), known.class_in(train, peak.image)
        return ExcitingImage(name, class_name, round(peak.value, 4), sight.box, sight.centre, peak.image)

    return {
        channel: [told(peak, sights[channel.layer].of_place(peak.row, peak.column)) for peak in found]
        for channel, found in peaks.items()
    }


def _inputs(run: ImageClassifier, known: KnownImages, tell: Tell) -> Iterator[Tensor]:
    train, preprocessing = known.dataset.train, run.preprocessing
    telling, done = partial(tell, "training images, for channels"), 0
    place = Place(next(run.model().parameters()).device)
    for batch in Batches(train, preprocessing, preprocessing.evaluation_batch, place=place).epoch(0):
        telling(done, len(train))
        yield batch.inputs
        done += len(batch.inputs)


@dataclass(frozen=True)
class _Sights:
    """What the places of a layer's map see of an image of so many pixels a side."""

    side: int
    size: tuple[float, float]  # rows, columns
    jump: tuple[float, float]
    first: tuple[float, float]  # the centre of the first place

    @classmethod
    def of(cls, network: Classifier, layer: str) -> _Sights:
        """By the layer's receptive field; where that is not known, a place is its part of the image."""
        side, (_, *cells) = network.image_size, network.taps[layer].shape
        window = _window(network, layer)
        if window is not None and window.jump is not None:
            return cls(side, (float(window.size[0]), float(window.size[1])), window.jump, window.centre)
        jump = side / cells[0], side / cells[1]
        return cls(side, jump, jump, (jump[0] / 2 - 0.5, jump[1] / 2 - 0.5))

    def of_place(self, row: int, column: int) -> Sight:
        down, across = (
            first + jump * place for first, jump, place in zip(self.first, self.jump, (row, column), strict=True)
        )
        top, bottom = self._reach(down, self.size[0])
        left, right = self._reach(across, self.size[1])
        centre = min(max(across, 0.0), self.side - 1.0), min(max(down, 0.0), self.side - 1.0)
        return Sight((left, top, right, bottom), centre)

    def _reach(self, centre: float, size: float) -> tuple[int, int]:
        """First pixel, and the one after the last, of those that are in the image; at least one."""
        start = min(max(round(centre - (size - 1) / 2), 0), self.side - 1)
        return start, max(min(round(centre + (size + 1) / 2), self.side), start + 1)


def _window(network: Classifier, layer: str) -> Window | None:
    taps = {layer: network.taps[layer].module}
    try:
        return inspect_module(network, blank_input(network), taps=taps).layer(layer).receptive_field
    except UnknownNameError:  # a module that only holds others
        return None


def draw_exciting(
    run: ImageClassifier, known: KnownImages, found: Sequence[ExcitingImage], are_pairs: bool
) -> tuple[Image.Image, list[ThumbnailRecord]]:
    """A sheet of the images that excite a channel; and each for the page.

    Of each the whole, what the strongest place sees outlined; and that alone beside it, where there ``are_pairs``.
    """
    from convatlas.reports.heat import address
    from convatlas.reports.sheets import sheet

    tiles = [_tile(run, known, exciting, are_pairs) for exciting in found]
    shown: list[ThumbnailRecord] = [
        {"picture": address(tile.picture), "title": tile.caption[0], "note": tile.caption[1], "name": exciting.image}
        for tile, exciting in zip(tiles, found, strict=True)
    ]
    return sheet(tiles, columns=3), shown


def shows_apart(run: ImageClassifier, found: Sequence[ExcitingImage]) -> bool:
    """Whether what the strongest places see is worth a picture of its own: it is less than nearly all of each image."""
    whole = run.preprocessing.crop**2
    return all(_area(exciting.box) < NEARLY_ALL * whole for exciting in found)


def _area(box: Box) -> int:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def _tile(run: ImageClassifier, known: KnownImages, exciting: ExcitingImage, are_pairs: bool) -> Tile:
    from convatlas.reports.sheets import Tile, beside, outlined, thumbnail

    pixels = seen_pixels(run, known.dataset.train, exciting.position)
    left, top, right, bottom = exciting.box
    whole = outlined(pixels, exciting.box, exciting.centre)
    picture = beside(whole, thumbnail(pixels[top:bottom, left:right])) if are_pairs else whole
    return Tile(picture, (exciting.class_name, f"largest value {exciting.value:#.4g}"))
