"""Augmentations as data: what a recipe says; `convatlas.data.augment` carries them out on whole batches."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0)]


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Flip(_Step):
    """Mirror left and right with probability ``p``."""

    kind: Literal["flip"] = "flip"
    p: Probability = 0.5


class Shift(_Step):
    """Move by a whole number of pixels, up to ``pixels`` or ``fraction`` of the side, evenly drawn in both directions.

    What is uncovered is filled with the image ``reflect``-ed, its ``edge`` repeated, the ``constant`` black or the
    ``mean`` colour of the training set, which becomes zero once the mean is subtracted. ``pixels = 4`` with
    ``fill = "constant"`` is torchvision's ``RandomCrop(32, padding=4)``.
    """

    kind: Literal["shift"] = "shift"
    fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    pixels: Annotated[int, Field(ge=1)] | None = None
    fill: Literal["reflect", "constant", "edge", "mean"] = "reflect"

    @model_validator(mode="after")
    def _one_distance(self) -> Self:
        if (self.fraction is None) == (self.pixels is None):
            raise ValueError("give either fraction or pixels")
        return self

    def distance(self, side: int) -> int:
        """The longest shift of an image of this side, in pixels: at least 1, and some of the image stays in sight."""
        return min(self.pixels or max(1, round((self.fraction or 0) * side)), side - 1)


class Cutout(_Step):
    """Cover a square of ``size`` pixels, centred anywhere in the image, with the mean colour of the training set.

    Source: DeVries & Taylor 2017, arXiv 1708.04552, section 3.2 (zeros, after the mean was subtracted).
    """

    kind: Literal["cutout"] = "cutout"
    size: Annotated[int, Field(ge=1)]


class PCAColour(_Step):
    """Add the principal components of the training set's colours, each times its eigenvalue and a draw from N(0, std).

    Source: Krizhevsky, Sutskever & Hinton 2012, section 4.1; eigenvalues of the covariance of pixels in 0..1.
    """

    kind: Literal["pca_colour"] = "pca_colour"
    std: Strength = 0.1


class RandomResizedCrop(_Step):
    """Cut out a rectangle with a share ``scale`` of the area and an aspect ``ratio``, and resize it (bilinear).

    Source: Szegedy et al. 2014, arXiv 1409.4842, section 6 (training methodology).
    """

    kind: Literal["random_resized_crop"] = "random_resized_crop"
    scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.08, 1.0)
    ratio: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.scale[0] > self.scale[1] or self.ratio[0] > self.ratio[1]:
            raise ValueError("scale and ratio are (lowest, highest)")
        return self


class ColourJitter(_Step):
    """Brightness, contrast and saturation times a factor in 1 ± the setting; hue turned by up to ± the setting.

    The whole circle of hues is 1. Always in this order.
    """

    kind: Literal["colour_jitter"] = "colour_jitter"
    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


Augmentation = Annotated[
    Flip | Shift | Cutout | PCAColour | RandomResizedCrop | ColourJitter, Field(discriminator="kind")
]
