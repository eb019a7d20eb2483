"""Decode once: a source's images become one memory-mapped uint8 array, kept by content and found again at once.

Two levels find it. A stamp (paths, sizes, times of change) leads to the hash of the content without reading any image;
the hash leads to the array, so that a copied or renamed folder is not decoded again either.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from convatlas.data.dataset import Dataset, ImageArray, Rows
from convatlas.data.decode import UnreadableImageError, decode, load_from, open_from, pillow_silenced
from convatlas.data.memo import digest_of, read_json, remembered
from convatlas.data.pieces import Piece, in_order, pieces
from convatlas.data.source import Labels, Pixels, Source, SplitName
from convatlas.data.splits import grouped_cut
from convatlas.errors import DataError
from convatlas.files import cache_directory, replacing, write_text

Watch = Callable[[int, int], None]

DECODER_VERSION = 2  # raise it when `decode` gives other pixels or entries hold something else: all are made anew
TEST_FRACTION = 0.1  # of a set that brings none
TEST_SEED = 0  # always: which images are the test set never depends on a run
MOST_COPIES, MOST_COPIES_SHARE = 10, 0.01  # of one picture; beyond both, one of them is kept
ABANDONED_AFTER = 3600.0  # seconds since the last write


def prepare(
    source: Source,
    *,
    channels: int,
    resize: int,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
    strict: bool = False,
    leaves_out_copies: bool = True,
    watch: Watch | None = None,
) -> Dataset:
    """The source decoded to uint8 [resize, resize, channels] and divided into train, validation and test.

    A validation split that the source brings is used; otherwise one is cut from train, stratified by class and drawn by
    ``split_seed``. A source with neither has a tenth cut off as test first, the same tenth for every seed. Images of
    the very same pixels stay on one side of a cut, and of a picture that is there many times one is kept, unless
    ``leaves_out_copies`` is false; splits from which nothing is cut are left as they are. ``watch`` is
    told how many images of how many are done, while there is something to decode.

    >>> dataset = prepare(open_source("digits"), channels=1, resize=28)   # doctest: +SKIP
    >>> dataset.train.image_shape, dataset.counts   # doctest: +SKIP
    ((28, 28, 1), {'train': 1294, 'validation': 144, 'test': 359})

    Raises:
        DataError: a class without images, or with too few to cut; fewer than two classes; with ``strict``, any
            unreadable file.
        StorageError: the cache cannot be written.
    """
    fingerprint, entry = _decoded(source, channels, resize, watch)
    skipped = tuple((name_of_row(source, row), reason) for row, reason in entry.unreadable)
    if strict and skipped:
        name, reason = skipped[0]
        raise DataError(
            f"{len(skipped)} of the files in {source.name} cannot be read; the first is {name} ({reason}). "
            "Mend or remove them, or leave out --strict to skip them"
        )
    parts = _without_repetitions(entry, source) if leaves_out_copies else _Parts(entry.splits(), entry.groups)
    train, validation, test = _divide(parts.splits, parts.groups, source, validation_fraction, split_seed)
    return Dataset(
        name=source.name,
        classes=source.classes,
        train=train,
        validation=validation,
        test=test,
        fingerprint=fingerprint,
        skipped=skipped,
        mirror=source.mirror,
        split_seed=split_seed,
        validation_fraction=0.0 if "validation" in source.splits else validation_fraction,
        location=source.location,
        include=source.include,
        repeated=parts.repeated,
    )


def every_image(source: Source, *, channels: int, resize: int, watch: Watch | None = None) -> tuple[str, ImageArray]:
    """All readable images of a source that brings no test split, or else its test split: what an evaluation wants.

    With them comes the source's fingerprint, which tells whether a run was trained on these very images.

    >>> fingerprint, images = every_image(open_source("digits"), channels=1, resize=28)   # doctest: +SKIP
    >>> len(images)   # doctest: +SKIP
    359

    Raises:
        DataError: there is none.
        StorageError: the cache cannot be written.
    """
    fingerprint, entry = _decoded(source, channels, resize, watch)
    splits = entry.splits()
    chosen = [splits["test"]] if "test" in splits else list(splits.values())
    rows = np.concatenate([split.rows for split in chosen])
    if len(rows) == 0:
        raise DataError(f"{source.name} holds no readable image")
    return fingerprint, ImageArray(entry.images, rows, entry.labels[rows])


@dataclass(frozen=True)
class DecodedSource:
    """All the readable images of a source, split by split, undivided; ``groups`` [M] says which rows are copies."""

    fingerprint: str
    splits: dict[SplitName, ImageArray]
    groups: Rows
    skipped: tuple[tuple[str, str], ...]
    names: Callable[[int], str]  # of a stored row


def decode_source(source: Source, *, channels: int, resize: int, watch: Watch | None = None) -> DecodedSource:
    """A source decoded to uint8 [resize, resize, channels], for whoever divides it in another way than `prepare`.

    >>> decode_source(open_source("digits"), channels=1, resize=8).splits["test"].image_shape   # doctest: +SKIP
    (8, 8, 1)

    Raises:
        StorageError: the cache cannot be written.
    """
    fingerprint, entry = _decoded(source, channels, resize, watch)
    skipped = tuple((name_of_row(source, row), reason) for row, reason in entry.unreadable)
    return DecodedSource(fingerprint, entry.splits(), entry.groups, skipped, partial(name_of_row, source))


def _decoded(source: Source, channels: int, resize: int, watch: Watch | None) -> tuple[str, _Entry]:
    """The fingerprint of a source, and its images: found in the cache, or decoded into it."""
    fingerprint = remembered("content", [source.stamp, source.classes], lambda: _content_hash(source))
    place = cache_directory() / "images" / f"{fingerprint}-{resize}x{resize}x{channels}-v{DECODER_VERSION}"
    return fingerprint, _read_entry(place) or _decode_all(source, place, channels, resize, watch)


def _content_hash(source: Source) -> str:
    """SHA-256 over the class names and every image's split, label and digest, in order."""
    whole = hashlib.sha256(digest_of(source.classes).encode())
    for split_name, split in source.splits.items():
        for index, label in enumerate(split.labels.tolist()):
            whole.update(f"{split_name} {label} {split.digest(index)}\n".encode())
    return whole.hexdigest()


def name_of_row(source: Source, row: int) -> str:
    """What messages call an image, by its row in `ImageArray.stored`; splits come one after the other.

    >>> name_of_row(open_source("digits"), 1500)   # doctest: +SKIP
    'test[62]'
    """
    for split in source.splits.values():
        if row < len(split):
            return split.name(row)
        row -= len(split)
    raise IndexError(row)


@dataclass(frozen=True)
class _Entry:
    """All images of a source, split after split, in one array; an unreadable image leaves a row of zeros."""

    images: Pixels
    labels: Labels
    groups: Rows  # for every row, the first row with the very same pixels
    sizes: dict[SplitName, int]
    unreadable: tuple[tuple[int, str], ...]  # row, reason

    def splits(self) -> dict[SplitName, ImageArray]:
        readable = np.ones(len(self.images), dtype=bool)
        readable[[row for row, _ in self.unreadable]] = False
        found: dict[SplitName, ImageArray] = {}
        start = 0
        for name, size in self.sizes.items():
            rows = start + np.flatnonzero(readable[start : start + size])
            found[name] = ImageArray(self.images, rows, self.labels[rows])
            start += size
        return found


def _read_entry(place: Path) -> _Entry | None:
    """The array made earlier; None when there is none, or when somebody damaged it."""
    record = read_json(place / "entry.json")
    if record is None:
        return None
    try:
        images = np.load(place / "images.npy", mmap_mode="r")
    except (OSError, ValueError):
        return None
    unreadable = tuple((row, reason) for row, reason in record["unreadable"])
    groups = np.arange(len(images))
    for row, first in record["copies"]:
        groups[row] = first
    return _Entry(images, np.array(record["labels"], dtype=np.int64), groups, record["sizes"], unreadable)


def _decode_all(source: Source, place: Path, channels: int, resize: int, watch: Watch | None) -> _Entry:
    """Write ``images.npy``, then ``entry.json``: where the second is, the first is whole."""
    splits = source.splits
    shape = (sum(len(split) for split in splits.values()), resize, resize, channels)
    unreadable: list[tuple[int, str]] = []
    first_rows: dict[bytes, int] = {}
    copies: list[tuple[int, int]] = []  # row, first row with the same pixels
    _remove_leftovers(place)
    with (
        replacing(place / "images.npy") as temporary,
        temporary.open("wb") as file,
        pillow_silenced(),
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        done = 0
        work = partial(_decode_chunk, channels=channels, resize=resize)
        for chunk in in_order(work, pieces(list(splits.values()))):
            file.write(chunk.pixels.data)  # written, not memory-mapped: a full disk is then an error and not a crash
            unreadable += [(done + position, reason) for position, reason in chunk.failures]
            for position, digest in chunk.digests:
                first = first_rows.setdefault(digest, done + position)
                if first < done + position:
                    copies.append((done + position, first))
            done += len(chunk.pixels)
            if watch is not None:
                watch(done, shape[0])
    record = {
        "sizes": {name: len(split) for name, split in splits.items()},
        "labels": [label for split in splits.values() for label in split.labels.tolist()],
        "unreadable": unreadable,
        "copies": copies,
    }
    try:
        write_text(place / "entry.json", json.dumps(record))
    except BaseException:
        (place / "images.npy").unlink()
        raise
    entry = _read_entry(place)
    assert entry is not None, "what was just written can be read"
    return entry


def _remove_leftovers(place: Path) -> None:
    """Unfinished arrays of processes that were killed; one that is still being written is younger."""
    for leftover in place.glob(".images.npy.*.tmp"):
        if time.time() - leftover.stat().st_mtime > ABANDONED_AFTER:
            leftover.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Chunk:
    """Some decoded images; of each, by position, a digest of its pixels or the reason why there are none."""

    pixels: Pixels
    digests: list[tuple[int, bytes]]
    failures: list[tuple[int, str]]


def _decode_chunk(piece: Piece, *, channels: int, resize: int) -> _Chunk:
    split, indices = piece
    chunk = _Chunk(np.zeros((len(indices), resize, resize, channels), dtype=np.uint8), [], [])
    for position, index in enumerate(indices):
        try:
            chunk.pixels[position] = decode(open_from(split, index), channels, resize)
        except UnreadableImageError as error:
            chunk.failures.append((position, str(error)))
        else:
            chunk.digests.append((position, hashlib.sha256(chunk.pixels[position]).digest()))
    return chunk


@dataclass(frozen=True)
class _Parts:
    """The splits of a source, which rows are copies, and the pictures that were there many times: name and number."""

    splits: dict[SplitName, ImageArray]
    groups: Rows
    repeated: tuple[tuple[str, int], ...] = ()


def _without_repetitions(entry: _Entry, source: Source) -> _Parts:
    """The splits with one image of those that are there many times.

    Copies stay together where a split is cut, and hundreds of one picture would be the better part of the test set.
    Nothing is left out of given validation and test images, nor where no validation is cut from those to learn from.
    """
    splits = entry.splits()
    if "validation" in splits:
        return _Parts(splits, entry.groups)
    train = splits["train"]
    groups = entry.groups.copy()
    for group in _large(groups[train.rows], len(train)):
        _regroup_as_given(groups, np.flatnonzero(groups == group), source)
    own = groups[train.rows]
    many = _large(own, len(train))
    is_kept = ~np.isin(own, many)
    is_kept[np.unique(own, return_index=True)[1]] = True  # the first of each
    repeated = tuple((name_of_row(source, row), int((own == row).sum())) for row in many)
    return _Parts({**splits, "train": train.subset(np.flatnonzero(is_kept))}, groups, repeated)


def _large(groups: Rows, images: int) -> list[int]:
    """Groups of more images than one picture may be."""
    named, counts = np.unique(groups, return_counts=True)
    large: list[int] = named[counts > max(MOST_COPIES, int(MOST_COPIES_SHARE * images))].tolist()
    return large


def _regroup_as_given(groups: Rows, rows: Rows, source: Source) -> None:
    """Tell pictures apart that have become equal only by being made smaller, as masks do."""
    first: dict[bytes, int] = {}
    with pillow_silenced():
        for row in rows.tolist():
            groups[row] = first.setdefault(_digest_as_given(source, row), row)


def _digest_as_given(source: Source, row: int) -> bytes:
    """Of a picture's own pixels, whatever file they are in."""
    for split in source.splits.values():
        if row < len(split):
            picture = load_from(split, row)
            return hashlib.sha256(f"{picture.mode} {picture.size}".encode() + picture.tobytes()).digest()
        row -= len(split)
    raise IndexError(row)


def _divide(
    splits: dict[SplitName, ImageArray], groups: Rows, source: Source, fraction: float, seed: int
) -> tuple[ImageArray, ImageArray, ImageArray | None]:
    train, validation, test = splits["train"], splits.get("validation"), splits.get("test")
    cuts = (validation is None) + (validation is None and test is None)
    _require_images(splits, source)
    if cuts:
        _require_enough_to_cut(train, groups, source, at_least=1 + cuts)
    if validation is not None:
        return train, validation, test
    if test is None:
        train, test = _cut(train, groups, TEST_FRACTION, TEST_SEED)
    train, validation = _cut(train, groups, fraction, seed)
    return train, validation, test


def _cut(array: ImageArray, groups: Rows, fraction: float, seed: int) -> tuple[ImageArray, ImageArray]:
    kept, cut = grouped_cut(array.labels, groups[array.rows], fraction, seed)
    return array.subset(kept), array.subset(cut)


def _require_images(splits: dict[SplitName, ImageArray], source: Source) -> None:
    if len(source.classes) < 2:
        raise DataError(f"{source.name} has the single class {source.classes[0]!r}; there is nothing to tell apart")
    counts = np.bincount(splits["train"].labels, minlength=len(source.classes))
    for class_name, count in zip(source.classes, counts.tolist(), strict=True):
        if count == 0:
            raise DataError(
                f"class {class_name!r} of {source.name} has no readable image in train; add some, or remove its folder"
            )
    for split_name, array in splits.items():
        if not len(array):
            raise DataError(f"none of the {split_name} images of {source.name} can be read; mend or remove them")


def _require_enough_to_cut(train: ImageArray, groups: Rows, source: Source, at_least: int) -> None:
    """Copies stay together, so an image with copies counts once, in the class of the first."""
    _, first = np.unique(groups[train.rows], return_index=True)
    counts = np.bincount(train.labels[first], minlength=len(source.classes))
    for class_name, count in zip(source.classes, counts.tolist(), strict=True):
        if count < at_least:
            raise DataError(
                f"class {class_name!r} of {source.name} has {count} readable images in train, besides copies; "
                f"{at_least} are needed, since {'validation and test are' if at_least > 2 else 'validation is'} "
                "cut from them"
            )
