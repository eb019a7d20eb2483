"""The idx files of MNIST and Fashion-MNIST, plain or gzipped.

Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits", section *File formats*.
"""

from __future__ import annotations

import gzip
import math
import zlib
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from convatlas.data.memo import digest_of, file_stamp
from convatlas.data.source import (
    ArraySplit,
    Labels,
    Pixels,
    Source,
    Split,
    SplitName,
    mirrored_images_keep_their_class,
)
from convatlas.errors import DataError

_UNSIGNED_BYTE = 8
_FILE_PREFIX: dict[SplitName, str] = {"train": "train", "test": "t10k"}
_DIGITS = tuple("0123456789")


def has_idx_files(folder: Path) -> bool:
    """Whether a folder holds MNIST's four files."""
    return _find(folder, "train-images") is not None


def open_idx_folder(folder: Path, name: str, classes: tuple[str, ...] = _DIGITS) -> Source:
    """The data set in ``train-images-idx3-ubyte[.gz]`` and its three companions.

    Raises:
        DataError: one of the four files is missing.
    """
    files = {split: (_require(folder, f"{prefix}-images"), _require(folder, f"{prefix}-labels"))
             for split, prefix in _FILE_PREFIX.items()}  # fmt: skip
    splits: dict[SplitName, Split] = {
        split: ArraySplit(split, partial(_read_pair, *pair, len(classes))) for split, pair in files.items()
    }
    stamp = digest_of([file_stamp(path) for pair in files.values() for path in pair])
    return Source(name, classes, splits, stamp, mirror=mirrored_images_keep_their_class(classes))


def read_idx(path: Path) -> Pixels:
    """The array of unsigned bytes in an idx file.

    >>> read_idx(Path("t10k-images-idx3-ubyte.gz")).shape   # doctest: +SKIP
    (10000, 28, 28)

    Raises:
        DataError: not an idx file of unsigned bytes, or one that is cut short or too long.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read_array(cast(BinaryIO, file), path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Download it again") from error


def _read_array(file: BinaryIO, path: Path) -> Pixels:
    magic = file.read(4)
    dimensions = magic[3] if len(magic) == 4 else 0
    header = file.read(4 * dimensions)
    if magic[:3] != bytes([0, 0, _UNSIGNED_BYTE]) or len(header) != 4 * dimensions:
        raise DataError(f"{path} is not an idx file of unsigned bytes")
    shape = tuple(int(size) for size in np.frombuffer(header, dtype=">u4"))
    promised = math.prod(shape)
    content = file.read(promised + 1)
    if len(content) != promised:
        held = len(content) if len(content) < promised else "more"
        raise DataError(f"{path} promises {promised} bytes and holds {held}: it is damaged. Download it again")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read_pair(images_path: Path, labels_path: Path, num_classes: int) -> tuple[Pixels, Labels]:
    images, labels = read_idx(images_path), read_idx(labels_path).astype(np.int64)
    if len(images) != len(labels):
        raise DataError(f"{images_path} holds {len(images)} images and {labels_path.name} {len(labels)} labels")
    if len(labels) and labels.max() >= num_classes:
        raise DataError(f"{labels_path} has the label {labels.max()}; there are {num_classes} classes, counted from 0")
    return images, labels


def _find(folder: Path, stem: str) -> Path | None:
    dimensions = 3 if stem.endswith("images") else 1
    names = [f"{stem}{joint}idx{dimensions}-ubyte{suffix}" for joint in "-." for suffix in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _require(folder: Path, stem: str) -> Path:
    found = _find(folder, stem)
    if found is None:
        raise DataError(f"{folder} has no {stem}-idx file (plain or .gz), which belongs with train-images")
    return found
