"""NumPy ``.npz`` files of images.

Keys: ``images`` and ``labels``; or ``x_train``, ``y_train`` and, if there are, ``x_test``, ``y_test``,
``x_val``, ``y_val``. Optional: ``classes``, the class names. Images are [N, H, W] or [N, H, W, C], unsigned bytes;
labels are class numbers from 0, [N] or [N, 1].
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from convatlas.data.arrays import array_names, read_array
from convatlas.data.memo import digest_of, file_stamp
from convatlas.data.source import (
    ArraySplit,
    Labels,
    Pixels,
    Source,
    Split,
    SplitName,
    mirrored_images_keep_their_class,
    require_class_names,
)
from convatlas.errors import DataError, first_of

_KEYS: dict[SplitName, tuple[tuple[str, str], ...]] = {
    "train": (("images", "labels"), ("x_train", "y_train")),
    "validation": (("x_val", "y_val"),),
    "test": (("x_test", "y_test"),),
}


def open_npz(path: Path) -> Source:
    """The data set in a ``.npz`` file.

    >>> np.savez("shapes.npz", images=images, labels=labels, classes=["disc", "square"])   # doctest: +SKIP
    >>> open_npz(Path("shapes.npz")).classes   # doctest: +SKIP
    ('disc', 'square')

    Raises:
        DataError: keys, types or shapes other than those above.
    """
    keys = _keys_by_split(path)
    labels = {split: _read_labels(path, label_key) for split, (_, label_key) in keys.items()}
    highest = max((int(numbers.max()) for numbers in labels.values() if len(numbers)), default=-1)
    classes = _read_classes(path, highest, sum(map(len, labels.values())))
    splits: dict[SplitName, Split] = {
        split: ArraySplit(split, partial(_read_images, path, image_key, labels[split]))
        for split, (image_key, _) in keys.items()
    }
    stamp = digest_of(["npz", file_stamp(path)])
    return Source(path.stem, classes, splits, stamp, mirror=mirrored_images_keep_their_class(classes))


def _keys_by_split(path: Path) -> dict[SplitName, tuple[str, str]]:
    present = array_names(path)
    found: dict[SplitName, tuple[str, str]] = {}
    for split, pairs in _KEYS.items():
        for image_key, label_key in pairs:
            if image_key in present and label_key in present:
                found[split] = (image_key, label_key)
    if "train" not in found:
        raise DataError(
            f"{path} needs the keys images and labels, or x_train and y_train; received "
            f"{first_of(sorted(present)) or 'none'}"
        )
    return found


def _read_images(path: Path, key: str, labels: Labels) -> tuple[Pixels, Labels]:
    images = read_array(path, key)
    if images.dtype != np.uint8:
        raise DataError(
            f"{path}: {key!r} must hold unsigned bytes, 0 to 255; received {images.dtype}. Save it as uint8"
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)):
        shape = "x".join(map(str, images.shape))
        raise DataError(f"{path}: {key!r} must be [N, H, W] or [N, H, W, C] with 1, 3 or 4 channels; received {shape}")
    if len(images) != len(labels):
        raise DataError(f"{path}: {key!r} holds {len(images)} images for {len(labels)} labels")
    return images, labels


def _read_labels(path: Path, key: str) -> Labels:
    labels = read_array(path, key)
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim == 0 or labels.size != len(labels):
        raise DataError(f"{path}: {key!r} must be class numbers, [N]; received {labels.dtype} {list(labels.shape)}")
    numbers = np.asarray(labels.reshape(-1), dtype=np.int64)
    if len(numbers) and numbers.min() < 0:
        raise DataError(f"{path}: {key!r} must count classes from 0; received {numbers.min()}")
    return numbers


def _read_classes(path: Path, highest: int, images: int) -> tuple[str, ...]:
    if "classes" not in array_names(path):
        if highest >= images > 0:
            raise DataError(
                f"{path}: labels must count classes from 0 without gaps; received {highest} for {images} images"
            )
        return tuple(str(number) for number in range(highest + 1))
    names = read_array(path, "classes")
    if names.ndim != 1:
        raise DataError(f"{path}: 'classes' must be a list of names, [C]; received {list(names.shape)}")
    classes = tuple(str(name) for name in names)
    require_class_names(classes, path)
    if len(classes) <= highest or len(set(classes)) < len(classes):
        raise DataError(
            f"{path}: 'classes' must name each of the {highest + 1} classes once; received {len(classes)} names"
        )
    return classes
