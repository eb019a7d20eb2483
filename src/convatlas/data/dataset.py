"""What training takes: decoded splits of one data set, each a set of rows in a memory-mapped uint8 array."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convatlas.data.source import Labels, Pixels

Rows = npt.NDArray[np.int64]

MOST_IMAGES_IN_A_CHUNK = 2**16  # so that products of their bytes can be summed in 32 bits


@dataclass(frozen=True)
class ImageArray:
    """Labelled images: some rows of a stored array, which may be larger than memory.

    >>> array = ImageArray.of(np.zeros((6, 4, 4, 3), np.uint8), np.array([0, 1, 2, 0, 1, 2]))
    >>> array.subset(np.array([1, 4])).labels
    array([1, 1])
    >>> array.take(np.array([0, 5])).shape
    (2, 4, 4, 3)
    """

    stored: Pixels  # [M, R, R, C], memory-mapped; shared between the splits of a data set
    rows: Rows  # [N], the rows of `stored` that belong to this split
    labels: Labels  # [N]

    @classmethod
    def of(cls, images: Pixels, labels: Labels) -> ImageArray:
        """All the images of an array [N, R, R, C]."""
        return cls(images, np.arange(len(images), dtype=np.int64), np.asarray(labels, np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.stored.shape[1:]
        return height, width, channels

    def take(self, indices: Rows) -> Pixels:
        """The images at some positions of this split, copied into memory, uint8 [n, R, R, C]."""
        return np.asarray(self.stored[self.rows[indices]])

    def subset(self, indices: Rows) -> ImageArray:
        """The split made of some positions of this one; no pixel is copied."""
        return ImageArray(self.stored, self.rows[indices], self.labels[indices])

    def chunks(self, megabytes: int = 16) -> Iterator[Pixels]:
        """All the images in order, a bounded piece at a time."""
        size = min(max(1, megabytes * 2**20 // int(np.prod(self.image_shape))), MOST_IMAGES_IN_A_CHUNK)
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))


@dataclass(frozen=True)
class Dataset:
    """A data set ready for training.

    ``fingerprint`` is a SHA-256 over all images, labels and class names as given, before any cut; ``skipped`` are the
    files left out, each with the reason. ``location`` is what `open_source` takes to find the source again, empty for a
    data set that was made without one. ``validation_fraction`` is 0 when the source brought its own validation split.
    ``test`` is None when the source has train and validation folders only.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageArray
    validation: ImageArray
    test: ImageArray | None
    fingerprint: str
    skipped: tuple[tuple[str, str], ...]
    mirror: bool
    split_seed: int
    validation_fraction: float
    location: str = ""
    include: str | None = None  # the pattern that all files fit
    repeated: tuple[tuple[str, int], ...] = ()  # pictures of which one is kept, and how many there were

    @property
    def guessing(self) -> tuple[str, float]:
        """The class that most validation images have, and the share of them that have it."""
        counts = np.bincount(self.validation.labels, minlength=len(self.classes))
        return self.classes[int(counts.argmax())], float(counts.max() / counts.sum())

    @property
    def counts(self) -> dict[str, int]:
        """Images in each split."""
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test) if self.test is not None else 0,
        }
