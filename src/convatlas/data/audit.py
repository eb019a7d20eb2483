"""What a data set holds, before anything is trained on it: counts, sizes, colours, and what looks wrong."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from convatlas.data.decode import (
    STRIP,
    UnreadableImageError,
    load,
    one_large_at_a_time,
    open_from,
    pillow_silenced,
    to_mode,
    upright,
)
from convatlas.data.pieces import Piece, in_order, pieces
from convatlas.data.source import Source, SplitName
from convatlas.errors import first_of, shortened

GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I")
ONE_COLOUR_BELOW = 3.0  # standard deviation of an image's values, of 255
RARE_FORMAT = 0.01  # share of the files
SAME_FORMAT = {"MPO": "JPEG", "JPEG2000": "JPEG 2000", "DIB": "BMP"}  # a JPEG with a second picture in it is a JPEG
MOST_FINDINGS_ALIKE = 8  # more are one finding
PHOTOGRAPHS, MASKS = (".jpg", ".jpeg"), (".png", ".bmp", ".gif", ".tif", ".tiff")  # endings of names
FEWEST_MASKS = 3  # files of one ending that share their names with another's
NEARLY_ALL = 0.95  # of a class's images, that make it a grey one; or one in colour
IMBALANCE = 10  # times more images in the largest class than in the smallest


@dataclass(frozen=True)
class Sizes:
    """Width and height in pixels, and the commonest pairs of them with their counts."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    commonest: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Duplicate:
    """Files whose decoded pixels are the same."""

    files: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """What `audit` found. ``mean`` and ``std`` are of pixels in 0..1: red, green, blue, or grey alone."""

    name: str
    counts: Mapping[str, Mapping[str, int]]  # split -> class -> files
    sizes: Sizes | None
    modes: Mapping[str, int]
    formats: Mapping[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    unreadable: tuple[tuple[str, str], ...]  # file, reason
    duplicates: tuple[Duplicate, ...]
    suspects: tuple[tuple[str, str], ...]  # file, what is odd about it
    empty_classes: tuple[str, ...]
    ignored: tuple[str, ...]
    mirror: bool  # whether a mirrored image keeps its class
    masks: Mapping[str, tuple[str, int]]  # ending -> of files that it shares so many names with
    repeated_classes: Mapping[str, int]  # that are one picture, and how many times
    grey_classes: tuple[str, ...]  # beside others in colour
    findings: tuple[str, ...] = field(default=())

    @property
    def total(self) -> int:
        """Files in all splits."""
        return sum(sum(by_class.values()) for by_class in self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"total": self.total, **asdict(self)}


def audit(source: Source, watch: Callable[[int, int], None] | None = None) -> Audit:
    """Look at every image of a source once.

    >>> result = audit(open_source("digits"))   # doctest: +SKIP
    >>> result.total, result.sizes.median, result.findings   # doctest: +SKIP
    (1797, (8, 8), ())

    Args:
        source: any data set.
        watch: told how many images of how many have been looked at.
    """
    tally = _Tally(source)
    total = sum(len(split) for split in source.splits.values())
    with pillow_silenced():
        for split_name, split in source.splits.items():
            for looks in in_order(_look_at_piece, pieces([split])):
                for look in looks:
                    tally.add(split_name, look)
                if watch is not None:
                    watch(tally.files, total)
    return tally.result()


@dataclass(frozen=True)
class _Look:
    """What one image is; ``reason`` is why it cannot be read, and the rest is then empty."""

    name: str
    label: int
    reason: str = ""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    format: str = ""
    digest: bytes = b""
    pixels: int = 0
    total: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    squares: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    @property
    def is_grey(self) -> bool:
        """Whether red, green and blue are the same, as far as their sums and their squares' tell."""
        return bool(np.ptp(self.total) == 0 and np.ptp(self.squares) == 0)

    @property
    def spread(self) -> float:
        """Standard deviation of all values of all channels."""
        count = 3 * self.pixels
        return float(np.sqrt(max(0.0, self.squares.sum() / count - (self.total.sum() / count) ** 2)))


def _look_at_piece(piece: Piece) -> list[_Look]:
    split, indices = piece
    looks = []
    for index in indices:
        name, label = split.name(index), int(split.labels[index])
        try:
            picture = open_from(split, index)
            with one_large_at_a_time(picture):
                colours = np.asarray(to_mode(upright(load(picture)), "RGB"))
                looks.append(_look(name, label, picture, colours))
                del colours, picture  # before another large one is worked on
        except UnreadableImageError as error:
            looks.append(_Look(name, label, reason=str(error)))
    return looks


def _look(name: str, label: int, picture: Image.Image, colours: npt.NDArray[np.uint8]) -> _Look:
    height, width, _ = colours.shape
    digest = hashlib.sha256(f"{width}x{height}".encode())
    total, squares = np.zeros(3), np.zeros(3)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        strip = np.ascontiguousarray(colours[top : top + rows])
        digest.update(strip.data)
        # Down the columns first: a sum along an axis of three is twenty times slower.
        total += strip.sum(axis=0, dtype=np.uint64).sum(axis=0)
        squares += np.square(strip, dtype=np.uint16).sum(axis=0, dtype=np.uint64).sum(axis=0)
    image_format = SAME_FORMAT.get(picture.format or "", picture.format or "")
    return _Look(
        name, label, "", (width, height), picture.mode, image_format, digest.digest(), width * height, total, squares
    )


class _Tally:
    """Adds looks up to an audit."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.files = 0
        self._counts = {split: Counter[int]() for split in source.splits}
        self._sizes = Counter[tuple[int, int]]()
        self._modes = Counter[str]()
        self._by_format = defaultdict[str, list[str]](list)
        self._by_digest = defaultdict[bytes, list[tuple[str, str, str]]](list)  # file, split, class
        self._grey = Counter[str]()  # by class
        self._unreadable: list[tuple[str, str]] = []
        self._suspects: list[tuple[str, str]] = []
        self._pixels = 0
        self._total, self._squares = np.zeros(3), np.zeros(3)

    def add(self, split: SplitName, look: _Look) -> None:
        self.files += 1
        self._counts[split][look.label] += 1
        if look.reason:
            self._unreadable.append((look.name, look.reason))
            return
        self._sizes[look.size] += 1
        self._modes[look.mode] += 1
        self._by_digest[look.digest].append((look.name, split, self._source.classes[look.label]))
        self._grey[self._source.classes[look.label]] += look.is_grey
        self._pixels += look.pixels
        self._total += look.total
        self._squares += look.squares
        if look.format:
            self._by_format[look.format].append(look.name)
        if look.spread < ONE_COLOUR_BELOW:
            self._suspects.append((look.name, "nearly one colour"))

    def result(self) -> Audit:
        mean = self._total / max(self._pixels, 1) / 255
        variance = self._squares / max(self._pixels, 1) / 255**2 - mean**2
        channels = 1 if self._modes and set(self._modes) <= set(GREY_MODES) else 3
        classes = self._source.classes
        audit = Audit(
            name=self._source.name,
            counts={
                split: {name: counts[label] for label, name in enumerate(classes)}
                for split, counts in self._counts.items()
            },
            sizes=_sizes(self._sizes),
            modes=dict(self._modes.most_common()),
            formats={
                name: len(files) for name, files in sorted(self._by_format.items(), key=lambda item: -len(item[1]))
            },
            mean=tuple(mean[:channels].tolist()),
            std=tuple(np.sqrt(variance.clip(0))[:channels].tolist()),
            unreadable=tuple(self._unreadable),
            duplicates=_duplicates(self._by_digest.values()),
            suspects=(*self._suspects, *_odd_formats(self._by_format)),
            empty_classes=tuple(
                name for label, name in enumerate(classes) if not any(counts[label] for counts in self._counts.values())
            ),
            ignored=self._source.ignored,
            mirror=self._source.mirror,
            masks=_masks(name for group in self._by_digest.values() for name, _, _ in group),
            repeated_classes=_one_picture(self._by_digest.values()),
            grey_classes=self._grey_classes(),
        )
        return replace(audit, findings=tuple(_findings(audit)))

    def _grey_classes(self) -> tuple[str, ...]:
        """Classes of grey images, where others are in colour."""
        images = Counter(of for group in self._by_digest.values() for _, _, of in group)
        shares = {name: self._grey[name] / images[name] for name in self._source.classes if images[name]}
        if not any(share <= 1 - NEARLY_ALL for share in shares.values()):
            return ()
        return tuple(name for name, share in shares.items() if share >= NEARLY_ALL)


def _masks(files: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Endings that masks have, of which most files share a name with a photograph beside them.

    >>> _masks(f"cat/{number}{ending}" for number in range(5) for ending in (".jpg", ".png"))
    {'.png': ('.jpg', 5)}
    """
    stems = defaultdict[str, set[PurePosixPath]](set)
    for file in map(PurePosixPath, files):
        stems[file.suffix.lower()].add(file.with_suffix(""))
    found = {}
    for photograph in (ending for ending in PHOTOGRAPHS if ending in stems):
        for ending in MASKS:
            shared = len(stems.get(ending, set()) & stems[photograph])
            if shared >= FEWEST_MASKS and 2 * shared > len(stems[ending]):
                found[ending] = (photograph, shared)
    return found


def _one_picture(groups: Iterable[list[tuple[str, str, str]]]) -> dict[str, int]:
    """Classes all of whose images, two or more, are the same; and how many they are."""
    pictures = defaultdict[str, list[int]](list)
    for group in groups:
        for name, count in Counter(of for _, _, of in group).items():
            pictures[name].append(count)
    return {name: counts[0] for name, counts in pictures.items() if len(counts) == 1 and counts[0] > 1}


def _sizes(counts: Counter[tuple[int, int]]) -> Sizes | None:
    if not counts:
        return None
    pairs = np.array(list(counts))
    repeats = np.array(list(counts.values()))
    return Sizes(
        smallest=(int(pairs[:, 0].min()), int(pairs[:, 1].min())),
        median=(_median(pairs[:, 0], repeats), _median(pairs[:, 1], repeats)),
        largest=(int(pairs[:, 0].max()), int(pairs[:, 1].max())),
        commonest=tuple((f"{width}x{height}", count) for (width, height), count in counts.most_common(5)),
    )


def _median(values: npt.NDArray[np.int64], repeats: npt.NDArray[np.int64]) -> int:
    order = np.argsort(values)
    below = np.cumsum(repeats[order])
    return int(values[order][np.searchsorted(below, below[-1] / 2)])


def _duplicates(groups: Iterable[list[tuple[str, str, str]]]) -> tuple[Duplicate, ...]:
    found = []
    for group in groups:
        if len(group) > 1:
            files, splits, classes = zip(*group, strict=True)
            found.append(Duplicate(files, tuple(dict.fromkeys(splits)), tuple(dict.fromkeys(classes))))
    return tuple(found)


def _odd_formats(by_format: Mapping[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Files whose ending belongs to another format, and formats that hardly any other file has."""
    by_suffix = {suffix: SAME_FORMAT.get(name, name) for suffix, name in Image.registered_extensions().items()}
    total = sum(len(files) for files in by_format.values())
    for name, files in by_format.items():
        is_rare = len(files) < RARE_FORMAT * total
        for file in files:
            suffix = PurePosixPath(file).suffix.lower()
            if by_suffix.get(suffix, name) != name:
                yield file, f"named {suffix}, and is a {name}"
            elif is_rare:
                yield file, f"{'the only' if len(files) == 1 else f'one of {len(files)}'} {name} among {total:,} files"


def _findings(audit: Audit) -> Iterator[str]:
    """What a person should know before training, most serious first."""
    if audit.unreadable:
        yield f"{_files(len(audit.unreadable))} of {audit.total:,} cannot be read and would be skipped"
    if len(audit.empty_classes) > MOST_FINDINGS_ALIKE:
        yield f"{len(audit.empty_classes):,} classes have no images: {first_of(audit.empty_classes)}"
    else:
        yield from (f"class {name!r} has no images" for name in audit.empty_classes)
    for ending, (photograph, shared) in audit.masks.items():
        yield (
            f"{shared:,} {ending} share their names with {photograph}: masks? Leave them out with "
            f"--include '*{photograph}'"
        )
    yield from _findings_of_classes(audit)
    yield from _duplicate_findings(audit.duplicates)
    if audit.suspects:
        yield f"{_files(len(audit.suspects))} unlike the rest: {_named(audit.suspects)}"
    counts = [count for count in audit.counts.get("train", {}).values() if count]
    if counts and max(counts) >= IMBALANCE * min(counts):
        yield f"the largest class has {max(counts) / min(counts):.0f} times the images of the smallest"
    if audit.ignored:
        yield f"{_files(len(audit.ignored))} left alone: no image by its name, or in no class folder"


def _findings_of_classes(audit: Audit) -> Iterator[str]:
    """What tells a class by something else than what is shown."""
    if repeated := [f"{name!r} ({count:,} times)" for name, count in audit.repeated_classes.items()]:
        yield f"{_classes(len(repeated))} one picture, repeated: {first_of(repeated)}"
    if grey := audit.grey_classes:
        yield (
            f"{_classes(len(grey))} grey beside others in colour: {first_of(map(repr, grey))}; a network may tell them "
            "by that alone"
        )


def _classes(number: int) -> str:
    return f"{number:,} classes are" if number > 1 else "1 class is"


def _duplicate_findings(duplicates: Sequence[Duplicate]) -> Iterator[str]:
    across = sum(len(duplicate.splits) > 1 for duplicate in duplicates)
    torn = sum(len(duplicate.classes) > 1 for duplicate in duplicates)
    if across:
        yield f"images found in more than one split: {across:,}; accuracy on them is flattered"
    if torn:
        yield f"images found in more than one class: {torn:,}"
    if len(duplicates) > across:
        yield f"images found more than once within a split: {len(duplicates) - across:,}"


def _files(number: int) -> str:
    return f"{number:,} file{'s' if number > 1 else ''}"


def _named(files: Sequence[tuple[str, str]], most: int = 3) -> str:
    names = ", ".join(f"{shortened(name)} ({reason})" for name, reason in files[:most])
    return names + (" and others" if len(files) > most else "")
