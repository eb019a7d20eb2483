"""Which size and how many channels a network is given, from what the images are and what the network was made for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convatlas.data.decode import UnreadableImageError, open_from, pillow_silenced
from convatlas.data.memo import remembered
from convatlas.data.preprocessing import LARGEST_SIDE
from convatlas.data.source import Source
from convatlas.errors import ImageSizeError

SMALL = 64  # images up to this side are shown whole and as they are
MARGIN = 256 / 224  # larger ones are kept with the border that random crops need: Krizhevsky et al. 2012, section 2
LOOKED_AT = 64  # images whose header is read to find out what the set is like


@dataclass(frozen=True)
class Geometry:
    """Images are stored as [resize, resize, channels] and shown to the network as [crop, crop, channels]."""

    channels: int
    resize: int
    crop: int
    small_side: int | None = None  # of small square images of one size, as they are

    @property
    def enlarges(self) -> bool:
        """Whether small images are shown larger than they are."""
        return self.small_side is not None and self.small_side < self.crop


def choose_geometry(
    source: Source, *, native_size: int, minimum_size: int = 1, image_size: int | None = None
) -> Geometry:
    """The geometry for a network of ``native_size``, or for ``image_size`` where a person asked for it.

    Small square images of one size stay as they are (CIFAR-10 is shown to VGG at 32x32); everything else is brought to
    the network's own size, as are small ones below ``minimum_size``, the smallest that the network takes.

    >>> choose_geometry(open_source("digits"), native_size=28)  # doctest: +SKIP
    Geometry(channels=1, resize=8, crop=8)

    Raises:
        ImageSizeError: a size that is no side of an image, or is larger than any that is shown.
    """
    if image_size is not None and not (isinstance(image_size, int) and 1 <= image_size <= LARGEST_SIDE):
        raise ImageSizeError(f"image_size is a side in pixels, 1 to {LARGEST_SIDE}; received {image_size!r}")
    channels, side = remembered("geometry", source.stamp, lambda: _look_at(source))
    if side is not None and side <= SMALL:
        crop = image_size or (side if side >= minimum_size else native_size)
        return Geometry(channels, crop, crop, side)
    crop = image_size or native_size
    return Geometry(channels, round(crop * MARGIN), crop)


def _look_at(source: Source) -> tuple[int, int | None]:
    """Channels, 1 when every image looked at is grey and else 3; and their common side, None when they differ."""
    split = source.splits["train"]
    indices = np.unique(np.linspace(0, len(split) - 1, min(LOOKED_AT, len(split))).astype(int))
    modes, sizes = set(), set()
    for index in indices:
        try:
            with pillow_silenced():
                image = open_from(split, int(index))
        except UnreadableImageError:  # a damaged file has no say; it is reported when the images are decoded
            continue
        modes.add(image.mode)
        sizes.add(image.size)
    channels = 1 if modes and all(mode in {"1", "L", "LA"} or mode.startswith("I") for mode in modes) else 3
    width, height = next(iter(sizes), (0, 1))
    return channels, width if len(sizes) == 1 and width == height else None
