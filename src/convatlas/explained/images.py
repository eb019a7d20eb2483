"""The images that a network was trained and judged on, or those that a person names: found, prepared, named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convatlas.assessment.classifier import DEFAULT_VALIDATION_FRACTION, dataset_of
from convatlas.data.cache import name_of_row, prepare
from convatlas.data.catalog import open_source
from convatlas.errors import ExplanationError
from convatlas.runs import ClassifierRun

if TYPE_CHECKING:
    from convatlas.data.dataset import Dataset, ImageArray
    from convatlas.data.source import Pixels
    from convatlas.runs import ImageClassifier

Tell = Callable[[str, int, int], None]
CHANGED = "the images have changed since the training: some of these may not have been trained on"


def untold(*_: object) -> None:
    """For whoever does not want to know what is being done."""


@dataclass(frozen=True)
class KnownImages:
    """Images of known classes, divided; what to call each, and what a reader should know about them."""

    dataset: Dataset
    name: Callable[[int], str]  # of a stored row
    remarks: tuple[str, ...] = ()

    @property
    def part(self) -> str:
        """Which images the network was not fitted to: "test", or else "validation"."""
        return "validation" if self.dataset.test is None else "test"

    @property
    def unfitted(self) -> ImageArray:
        """Those images."""
        return self.dataset.validation if self.dataset.test is None else self.dataset.test

    def name_in(self, images: ImageArray, position: int) -> str:
        """What an image of a part is called: a file, or its place in an array, "train[17]"."""
        return self.name(int(images.rows[position]))

    def class_in(self, images: ImageArray, position: int) -> str:
        """The class of an image of a part."""
        return self.dataset.classes[int(images.labels[position])]


def images_for(run: ImageClassifier, data: str | Path | None = None, tell: Tell = untold) -> KnownImages:
    """The images of a run; or those of ``data``, if they have moved or the network is no run.

    Raises:
        RunError: the run's images are gone.
        ExplanationError: a network by name has no images of its own.
        DataError: the images cannot be used.
    """
    watch = partial(tell, "images decoded")
    if isinstance(run, ClassifierRun):
        dataset = dataset_of(run, data, watch)
        remarks = () if dataset.fingerprint == run.card.data.fingerprint else (CHANGED,)
    elif data is None:
        raise ExplanationError(
            f"{run.network_name} comes without the images that it was trained on: name some with --data"
        )
    else:
        preprocessing, remarks = run.preprocessing, ()
        dataset = prepare(
            open_source(data),
            channels=preprocessing.channels,
            resize=preprocessing.resize,
            validation_fraction=DEFAULT_VALIDATION_FRACTION,
            watch=watch,
        )
    source = open_source(dataset.location, dataset.include)  # the same files, so that rows have the same names
    return KnownImages(dataset, partial(name_of_row, source), remarks)


def seen_pixels(run: ImageClassifier, images: ImageArray, position: int) -> Pixels:
    """The square [crop, crop, C] that the network sees of an image, before its pixels are normalized."""
    pixels = images.take(np.array([position]))[0]
    crop = run.preprocessing.crop
    top, left = (round((side - crop) / 2) for side in pixels.shape[:2])  # as `Preprocessing.normalize`
    return np.asarray(pixels[top : top + crop, left : left + crop])
