"""How images look as a whole, and which look unlike those that a network was trained on.

A classifier answers any image with one of its classes, an inverted digit as surely as a digit. A few plain measures
tell most of the images that it knows nothing of, and say in words what is unusual about them.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from convatlas.data.dataset import ImageArray
from convatlas.data.source import Pixels

Measure = Literal["brightness", "contrast", "border", "detail", "colour"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
WORDS: dict[Measure, tuple[str, str]] = {  # of an image below the usual range, and above it
    "brightness": ("darker", "brighter"),
    "contrast": ("of less contrast", "of more contrast"),
    "border": ("darker at its border", "brighter at its border"),
    "detail": ("smoother", "more finely patterned"),
    "colour": ("less colourful", "more colourful"),
}
FEWEST = 50  # images of which the usual range can be told
MOST = 4000  # images that are measured: a thousandth of them are still four
TAIL = 0.001  # share of the training's images that are outside the usual range, on either side
# Ranges are widened by this share of themselves, and by 1/sqrt(n) of it: few images tell the outermost values badly.
# As they are, 1.7 % of digits' own test images and 4.6 % of 153 photographs beside 245 would be called unlike;
# widened, none of the digits and 0.7 to 2 % of the photographs are, and all inverted digits still.
MARGIN = 0.05
NARROWEST = 1 / 255  # range that is widened: of images that are all alike in a measure
BORDER = 8  # the border is an eighth of the side wide

Share = Annotated[float, Field(ge=0, le=1)]


class Appearance(BaseModel):
    """Between what values nearly all the training's images lie, in each measure of how they look.

    >>> rng = np.random.default_rng(0)
    >>> dark = ImageArray.of(rng.integers(0, 90, (100, 8, 8, 1), np.uint8), np.zeros(100, np.int64))
    >>> usual = Appearance.of(dark, crop=8)
    >>> usual.unlike(np.full((1, 8, 8, 1), 255, np.uint8))[0]
    ('brighter', 'brighter at its border', 'of less contrast', 'smoother')
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    crop: Annotated[int, Field(ge=1)]  # side of the centre that is measured: what the network sees
    ranges: dict[Measure, tuple[Share, Share]]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, (low, high) in self.ranges.items():
            if low > high:
                raise ValueError(f"the range of {name} ends before it begins: {low:g} to {high:g}")
        return self

    @classmethod
    def of(cls, images: ImageArray, *, crop: int) -> Appearance | None:
        """The usual ranges of some images; None where there are too few to tell."""
        if len(images) < FEWEST:
            return None
        chosen = np.random.default_rng(0).permutation(len(images))[:MOST]
        pieces = [_measured(chunk, crop) for chunk in images.subset(np.sort(chosen)).chunks(megabytes=4)]
        margin, ranges = MARGIN + len(chosen) ** -0.5, {}
        for name in MEASURES:
            low, high = np.quantile(np.concatenate([piece[name] for piece in pieces]), (TAIL, 1 - TAIL))
            beyond = margin * max(high - low, NARROWEST)
            ranges[name] = (max(0.0, float(low - beyond)), min(1.0, float(high + beyond)))
        return cls(crop=crop, ranges=ranges)

    def unlike(self, images: Pixels) -> list[tuple[str, ...]]:
        """Of each image uint8 [n, H, W, C] what is unusual, in words, the furthest out first; nothing of most."""
        measured = _measured(images, self.crop)
        return [
            self._words({name: float(values[place]) for name, values in measured.items()})
            for place in range(len(images))
        ]

    def _words(self, values: dict[Measure, float]) -> tuple[str, ...]:
        found = []
        for name, (low, high) in self.ranges.items():
            beyond = max(low - values[name], values[name] - high)
            if beyond > 0:
                found.append((beyond / max(high - low, NARROWEST), WORDS[name][values[name] > high]))
        return tuple(word for _, word in sorted(found, key=lambda each: -each[0]))


def _measured(images: Pixels, crop: int) -> dict[Measure, NDArray[np.floating]]:
    """Every measure, 0..1, of the centres of images uint8 [n, H, W, C]; alpha is no colour."""
    top, left = (round((side - crop) / 2) for side in images.shape[1:3])
    colours = images[:, top : top + crop, left : left + crop, :3].astype(np.float32) / 255
    grey = colours.mean(axis=3)
    width = max(1, crop // BORDER)
    border = np.ones(grey.shape[1:], bool)
    border[width:-width, width:-width] = False
    return {
        "brightness": grey.mean(axis=(1, 2)),
        "contrast": grey.std(axis=(1, 2)),
        "border": grey[:, border].mean(axis=1),
        "detail": (_steps(grey, 1) + _steps(grey, 2)) / 2,
        "colour": (colours.max(axis=3) - colours.min(axis=3)).mean(axis=(1, 2)),
    }


def _steps(grey: NDArray[np.float32], axis: int) -> NDArray[np.floating]:
    """How much neighbouring pixels differ on average; nothing where an image is one pixel wide."""
    if grey.shape[axis] < 2:
        return np.zeros(len(grey), np.float32)
    steps: NDArray[np.floating] = np.abs(np.diff(grey, axis=axis)).mean(axis=(1, 2))
    return steps
