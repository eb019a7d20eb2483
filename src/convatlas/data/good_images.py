"""Images of what is normal, divided to learn from and to judge by; images of anything else are for the test alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from convatlas.data.cache import DecodedSource, Watch, decode_source
from convatlas.data.dataset import ImageArray, Rows
from convatlas.data.source import Labels, Pixels, Source, SplitName
from convatlas.data.splits import grouped_cut
from convatlas.errors import DataError, first_of

USUAL_NORMALS = ("good", "normal", "ok")  # names of a class that is taken to be normal
FEWEST = 4  # images of the normal class, besides copies: one for each part


@dataclass(frozen=True)
class PreparedImages:
    """Normal images in four disjoint parts; ``test`` has the anomalies as well.

    Labels are numbers of ``classes``; ``left_out`` counts the images that are in no part: anomalies beside those to
    learn from, where there are test images of their own, and copies of what is learnt from.
    """

    name: str
    location: str
    fingerprint: str
    classes: tuple[str, ...]
    normal: str
    fit: ImageArray
    validation: ImageArray
    calibration: ImageArray
    test: ImageArray
    left_out: int
    skipped: tuple[tuple[str, str], ...]
    split_seed: int
    names: Callable[[int], str]  # of a stored row
    include: str | None = None  # the pattern that all files fit

    @property
    def counts(self) -> dict[str, int]:
        """Images of each part."""
        return {part: len(getattr(self, part)) for part in ("fit", "validation", "calibration", "test")}

    def is_anomaly(self, images: ImageArray) -> np.typing.NDArray[np.bool_]:
        """Which images are not of the normal class, [n]."""
        return np.not_equal(images.labels, self.classes.index(self.normal))

    def name_of(self, images: ImageArray, place: int) -> str:
        """What messages call an image of a part."""
        return self.names(int(images.rows[place]))


def normal_class(source: Source, normal: str | None) -> str:
    """The class of normal images: the one asked for, or the only one to learn from, or one that is called so.

    >>> normal_class(open_source("bottle/"), None)   # doctest: +SKIP
    'good'

    Raises:
        DataError: no class has that name, or none is known to be normal.
    """
    if normal is not None:
        if normal not in source.classes:
            raise DataError(f"{source.name} has no class {normal!r}; there are {first_of(source.classes)}")
        return normal
    learnt = [source.classes[label] for label in np.unique(source.splits["train"].labels).tolist()]
    named = [name for name in learnt if name.lower() in USUAL_NORMALS]
    candidates = named or learnt
    if len(candidates) == 1:
        return str(candidates[0])
    raise DataError(
        f"{source.name} has {len(learnt):,} classes to learn from: say which one is normal, such as --normal "
        f"{learnt[0]!r}"
    )


def prepare_images(
    source: Source,
    *,
    normal: str | None,
    channels: int,
    side: int,
    shares: tuple[float, float, float] = (0.1, 0.2, 0.2),
    used: float = 1.0,
    split_seed: int = 0,
    watch: Watch | None = None,
) -> PreparedImages:
    """Divide the images of a source by what is normal; copies of an image are never on two sides.

    A test split that the source brings is the test set; otherwise a share of the normal images is, with all others.

    >>> prepare_images(open_source("bottle/"), normal=None, channels=3, side=64).counts   # doctest: +SKIP
    {'fit': 146, 'validation': 21, 'calibration': 42, 'test': 83}

    Args:
        source: images by class.
        normal: the class of the normal ones; see `normal_class`.
        channels: 1, or 3.
        side: in pixels, of the square that every image is brought to, whole.
        shares: of the normal images: for validation, for calibration, for the test where the source brings none.
        used: share of the images to learn from that is used.
        split_seed: of the division.
        watch: told how many images of how many are decoded.

    Raises:
        DataError: it is not known what is normal, or there are too few such images.
    """
    chosen = normal_class(source, normal)
    decoded = decode_source(source, channels=channels, resize=side, watch=watch)
    pool = _Pool.of(decoded, source.classes.index(chosen))
    brought = pool.rows("test")
    learnt = pool.rows("train", "validation")
    good, others = learnt[pool.is_normal[learnt]], learnt[~pool.is_normal[learnt]]
    tested = brought if len(brought) else others
    good = good[~np.isin(pool.groups[good], pool.groups[tested])]
    _require_enough(len(np.unique(pool.groups[good])), chosen, source.name)
    validation, calibration, test = shares
    if pool.is_normal[tested].any():
        test = 0.0  # the source brings normal images to test on
    fit, (held_out, calibrating, validating) = pool.cut(good, (test, calibration, validation), split_seed)
    if used < 1:
        fit, _ = pool.cut(fit, (1 - used,), split_seed)
    parts = [pool.images(part) for part in (fit, validating, calibrating, np.concatenate([tested, held_out]))]
    return PreparedImages(
        name=source.name,
        location=source.location,
        fingerprint=decoded.fingerprint,
        classes=source.classes,
        normal=chosen,
        fit=parts[0],
        validation=parts[1],
        calibration=parts[2],
        test=parts[3],
        left_out=len(learnt) + len(brought) - sum(map(len, parts)),
        skipped=decoded.skipped,
        split_seed=split_seed,
        names=decoded.names,
        include=source.include,
    )


@dataclass(frozen=True)
class _Pool:
    """All stored images of a source, by row."""

    decoded: DecodedSource
    stored: Pixels
    labels: Labels  # [M]; -1 where a row could not be read
    is_normal: np.typing.NDArray[np.bool_]  # [M]

    @classmethod
    def of(cls, decoded: DecodedSource, normal: int) -> _Pool:
        stored = decoded.splits["train"].stored
        labels = np.full(len(stored), -1, dtype=np.int64)
        for split in decoded.splits.values():
            labels[split.rows] = split.labels
        return cls(decoded, stored, labels, labels == normal)

    @property
    def groups(self) -> Rows:
        """For every row, the first row with the very same pixels, [M]."""
        return self.decoded.groups

    def rows(self, *splits: SplitName) -> Rows:
        """The readable rows of some splits; of one that is not there, none."""
        found = [self.decoded.splits[name].rows for name in splits if name in self.decoded.splits]
        return np.concatenate([np.zeros(0, dtype=np.int64), *found])

    def images(self, rows: Rows) -> ImageArray:
        """Some rows as a part, in the order that they are stored in."""
        ordered = np.sort(rows)
        return ImageArray(self.stored, ordered, self.labels[ordered])

    def cut(self, rows: Rows, shares: Sequence[float], seed: int) -> tuple[Rows, list[Rows]]:
        """What is left of some rows, and a part of them for each share of the whole; copies stay together."""
        parts, left = [], 1.0
        for share in shares:
            part = rows[:0]
            if share > 0:
                kept, taken = grouped_cut(np.zeros(len(rows), dtype=np.int64), self.groups[rows], share / left, seed)
                rows, part = rows[kept], rows[taken]
            parts.append(part)
            left -= share
        return rows, parts


def _require_enough(images: int, normal: str, name: str) -> None:
    if images < FEWEST:
        raise DataError(
            f"class {normal!r} of {name} has {images} images to learn from, besides copies and those of the test; "
            f"{FEWEST} are needed at least, and some hundred to set a threshold"
        )
