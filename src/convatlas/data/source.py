"""What a data set is before it is decoded: named classes, and up to three splits of images read one at a time."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from convatlas.errors import DataError, shortened
from convatlas.pictures import open_picture

Labels = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
SplitName = Literal["train", "validation", "test"]

MOST_CLASSES = 100_000
LONGEST_CLASS_NAME = 255  # characters: what a folder's name may have
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control characters, halves of characters, and ends of lines

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class Split(Protocol):
    """Labelled images in a fixed order; an image is read only when it is asked for."""

    @property
    def labels(self) -> Labels:
        """Class number of every image, int64 [N]."""
        ...

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """The image, opened; a file's pixels are decoded only when they are first used."""
        ...

    def name(self, index: int) -> str:
        """What messages call the image, such as ``train/cats/0001.jpg``."""
        ...

    def digest(self, index: int) -> str:
        """SHA-256 of the image as it is stored: a file's bytes, an array's pixels."""
        ...


class ArraySplit:
    """Images that are already one uint8 array [N, H, W] or [N, H, W, C], read at first use.

    >>> split = ArraySplit("train", lambda: (np.zeros((2, 8, 8), np.uint8), np.array([0, 1])))
    >>> len(split), split.image(0).size, split.name(1)
    (2, (8, 8), 'train[1]')
    """

    def __init__(self, name: str, read: Callable[[], tuple[Pixels, Labels]]) -> None:
        self._name = name
        self._read = read

    @cached_property
    def _content(self) -> tuple[Pixels, Labels]:
        return self._read()

    @property
    def images(self) -> Pixels:
        """All the pixels, uint8."""
        return self._content[0]

    @property
    def labels(self) -> Labels:
        """Class number of every image, int64 [N]."""
        return self._content[1]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """One image as Pillow has it (mode L, RGB or RGBA)."""
        pixels = self.images[index]
        return Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)

    def name(self, index: int) -> str:
        """``train[17]``: arrays have no file names."""
        return f"{self._name}[{index}]"

    def digest(self, index: int) -> str:
        """SHA-256 of the pixels."""
        return hashlib.sha256(np.ascontiguousarray(self.images[index]).data).hexdigest()


class FileStore(Protocol):
    """Files by relative name, wherever they are: in a folder or packed from an archive."""

    def read(self, name: str) -> bytes:
        """The file's bytes.

        Raises:
            OSError: it is gone, is no regular file, or is larger than a picture may be.
        """
        ...

    def digest(self, name: str) -> str:
        """SHA-256 of the file's bytes."""
        ...


@dataclass(frozen=True)
class FileSplit:
    """Images that are files of a store; ``names`` are relative, with forward slashes."""

    store: FileStore
    names: Sequence[str]
    labels: Labels

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Image.Image:
        """One image, opened but not yet decoded.

        Raises:
            Exception: the file is gone, or is not an image (`open_picture`).
        """
        return open_picture(self.store.read(self.names[index]))

    def name(self, index: int) -> str:
        """The file's relative name, `printable`."""
        return printable(self.names[index])

    def digest(self, index: int) -> str:
        """SHA-256 of the file's bytes."""
        return self.store.digest(self.names[index])


@dataclass(frozen=True)
class Source:
    """A data set by name or path, opened but not decoded.

    ``splits`` come in the order of ``SPLITS``. ``stamp`` says what the source is made of without reading it (paths,
    sizes and times of change): while it stays the same, so do the images. ``mirror`` says whether a mirrored image
    keeps its class, as a digit does not. ``ignored`` are files beside the images that are no images. ``location`` is
    what `open_source`, which sets it, can be given again from any folder: a catalog's name, or an absolute path.
    ``include`` is the pattern that all its files fit, where one was asked for.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[SplitName, Split]
    stamp: str
    mirror: bool = True
    ignored: tuple[str, ...] = ()
    location: str = ""
    include: str | None = None


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Sorting key that counts as people do.

    >>> sorted(["10", "2", "1"], key=natural_key)
    ['1', '2', '10']
    """
    parts = re.split(r"(\d+)", text)  # text, digits, text, ...: like is compared with like
    return tuple(int(part) if index % 2 else part.casefold() for index, part in enumerate(parts)), text


def printable(name: str) -> str:
    r"""A file's name as text that can be printed: what is no UTF-8 on disk, or commands a terminal, is escaped.

    >>> printable("é.png"), printable("caf\udce9.png"), printable("\x1b[2J.png")
    ('é.png', 'caf\\udce9.png', '\\x1b[2J.png')
    """
    if name.isprintable():  # nearly all are, and this is fast
        return name
    return "".join(_escaped(c) if unicodedata.category(c) in _UNPRINTABLE else c for c in name)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def require_class_names(classes: Sequence[str], where: object) -> None:
    """Refuse names that cannot be printed, or are longer than the name of any folder.

    Raises:
        DataError: the first such name; or there are more classes than anything here counts.
    """
    if len(classes) > MOST_CLASSES:
        raise DataError(f"{where} has {len(classes):,} classes; up to {MOST_CLASSES:,} are taken")
    for name in classes:
        if printable(name) != name:
            raise DataError(
                f"the class {shortened(name)!r} in {where} has a name that is no UTF-8, or holds what no terminal "
                "prints; rename it"
            )
        if len(name) > LONGEST_CLASS_NAME:
            raise DataError(
                f"the class {shortened(name)!r} in {where} has a name of {len(name):,} characters; up to "
                f"{LONGEST_CLASS_NAME} are taken. Rename it"
            )


def mirrored_images_keep_their_class(classes: Sequence[str]) -> bool:
    """False for a set of glyphs: every class is one character, so that a mirrored image is another class or none.

    >>> mirrored_images_keep_their_class(["cat", "dog"]), mirrored_images_keep_their_class(["0", "1", "2"])
    (True, False)
    """
    return any(len(name) > 1 for name in classes)
