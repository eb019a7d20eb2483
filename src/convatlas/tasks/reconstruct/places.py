"""Where in an image it is unlike what was learnt from: errors place by place, beside what is usual there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Maps = NDArray[np.float32]  # [n, h, w]

SMALLEST_SCALE = 0.1  # of a place, as a share of the mean over all: in a plain background nothing ever varies
NEIGHBOURHOOD = 12  # parts of a side; a place is averaged over one, and over 3 pixels at least, to be called wrong
MOST_BOXES = 10  # in an image


@dataclass(frozen=True, eq=False)
class Places:
    """How large the errors of good images are at each place: their mean, and how far they vary."""

    mean: NDArray[np.float32]  # [h, w]
    scale: NDArray[np.float32]  # [h, w], above 0

    @classmethod
    def of(cls, errors: ArrayLike) -> Places:
        """What is usual among the errors of some good images, [n, h, w].

        >>> places = Places.of([[[1.0, 0.0]], [[3.0, 0.0]]])
        >>> places.mean.tolist(), places.scale.astype(float).round(2).tolist()
        ([[2.0, 0.0]], [[1.05, 0.05]])
        """
        found = np.asarray(errors, dtype=np.float64)
        spread = found.std(axis=0)
        least = max(SMALLEST_SCALE * float(spread.mean()), np.finfo(np.float32).tiny)
        return cls(found.mean(axis=0).astype(np.float32), (spread + least).astype(np.float32))

    def unusual(self, errors: ArrayLike) -> Maps:
        """How far each error of [n, h, w] is above what is usual at its place; 0 where it is not.

        >>> Places.of([[[1.0]], [[3.0]]]).unusual([[[2.0]], [[4.2]]]).round(2).tolist()
        [[[0.0]], [[2.0]]]
        """
        above = (np.asarray(errors, dtype=np.float32) - self.mean) / self.scale
        return np.asarray(np.maximum(above, 0.0), dtype=np.float32)


@dataclass(frozen=True)
class Box:
    """A part of an image, in pixels; ``right`` and ``bottom`` are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int

    def scaled(self, by: float) -> Box:
        """The same part of the image in another size; never empty.

        >>> Box(1, 2, 3, 4).scaled(2.5)
        Box(left=2, top=5, right=8, bottom=10)
        """
        left, top = int(self.left * by), int(self.top * by)
        right, bottom = int(np.ceil(self.right * by)), int(np.ceil(self.bottom * by))
        return Box(left, top, max(right, left + 1), max(bottom, top + 1))

    def moved(self, right: int, down: int) -> Box:
        """The same box elsewhere."""
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down)


def place_errors(rebuilt: Any, images: Any) -> Maps:
    """The squared error of each place, the mean over the channels: [n, C, h, w] twice -> [n, h, w].

    >>> place_errors(np.zeros((1, 2, 1, 1)), np.array([[[[1.0]], [[3.0]]]])).tolist()
    [[[5.0]]]
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is for the caller to refuse
        difference = np.asarray(rebuilt, dtype=np.float32) - np.asarray(images, dtype=np.float32)
        return np.asarray((difference**2).mean(axis=1), dtype=np.float32)


def map_scores(maps: Maps) -> NDArray[np.float64]:
    """How unlike the good images each image is, [n]: the mean over its places [n, h, w], which add up to it."""
    return np.asarray(maps.mean(axis=(1, 2), dtype=np.float64))


def smoothed(maps: Maps) -> Maps:
    """Each place averaged with its neighbours, [n, h, w]: single pixels are noise more often than defects."""
    from scipy.ndimage import uniform_filter

    side = max(3, min(maps.shape[1:]) // NEIGHBOURHOOD | 1)  # odd, so that it has a middle
    return np.asarray(uniform_filter(maps, size=(0, side, side), mode="nearest"), dtype=np.float32)


def peaks(maps: Maps) -> NDArray[np.float64]:
    """The most unusual place of each image, [n], after `smoothed`."""
    return np.asarray(smoothed(maps).max(axis=(1, 2)), dtype=np.float64)


def boxes(residual: NDArray[np.float32], above: float) -> tuple[Box, ...]:
    """Round each part of an image [h, w] where its map, smoothed, is above a bound; first the most unusual.

    >>> residual = np.zeros((8, 8), dtype=np.float32)
    >>> residual[2:5, 1:4] = 9.0
    >>> boxes(residual, above=8.0)
    (Box(left=2, top=3, right=3, bottom=4),)
    """
    from scipy.ndimage import find_objects, label, maximum

    even = smoothed(residual[None])[0]
    parts, count = label(even > above)
    if not count:
        return ()
    heights = maximum(even, parts, index=np.arange(1, count + 1))
    order = np.argsort(-np.asarray(heights), kind="stable")[:MOST_BOXES]
    slices = find_objects(parts)
    found = [slices[place] for place in order]
    return tuple(Box(across.start, down.start, across.stop, down.stop) for down, across in found)
