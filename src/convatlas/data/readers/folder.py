"""Image folders: which files are images, of which class and split, by where they lie.

``class/image`` is a flat set, ``train|val|test/class/image`` a divided one; one enclosing folder is looked through.
Archives are arranged by the same rules.
"""

from __future__ import annotations

import glob
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import numpy as np

from convatlas.data.memo import digest_of
from convatlas.data.source import (
    SPLITS,
    FileSplit,
    FileStore,
    Source,
    SplitName,
    mirrored_images_keep_their_class,
    natural_key,
    printable,
    require_class_names,
)
from convatlas.errors import DataError, first_of, shortened
from convatlas.files import read_regular
from convatlas.pictures import MOST_BYTES

# A file with no suffix or one of these is taken for an image, and named when it turns out not to be one.
IMAGE_SUFFIXES = {
    "apng", "avif", "bmp", "dds", "dib", "gif", "heic", "heif", "ico", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg",
    "pbm", "pcx", "pgm", "png", "pnm", "ppm", "psd", "sgi", "tga", "tif", "tiff", "webp",
}  # fmt: skip
SPLIT_FOLDERS: dict[str, SplitName] = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
DEEPEST = 64  # folders in folders
# Links may show a folder in several places, such as one image in two classes; a few links in each other's targets would
# show it in exponentially many.
MOST_VISITS = 1000, 8  # so many altogether, and so many more for every folder that there is


@dataclass(frozen=True)
class Folder:
    """The files below a folder, by relative name with forward slashes."""

    root: Path

    def read(self, name: str) -> bytes:
        """The file's bytes.

        Raises:
            OSError: it is gone, is no regular file, or is larger than a picture may be.
        """
        return read_regular(self.root / name, MOST_BYTES)

    def digest(self, name: str) -> str:
        """SHA-256 of the file's bytes; of nothing, when it cannot be read."""
        try:
            return hashlib.sha256(self.read(name)).hexdigest()
        except OSError:  # decoding will name the file and the reason
            return ""


def open_folder(root: Path, include: str | None = None) -> Source:
    """The data set in an image folder on disk; with ``include``, of the files that fit the pattern.

    Raises:
        DataError: there are no class folders with images, a val or test folder has no train beside it, folders lie
            deeper than ``DEEPEST``, or links lead to the same folders over and over.
    """
    files, folders, stamps, special = [], [], [], []
    for name, entry in _walk(root):
        if entry.is_dir():
            folders.append(name)
        elif entry.is_file():
            status = entry.stat()
            files.append(name)
            stamps.append((name, status.st_size, status.st_mtime_ns))
        elif not entry.is_symlink() or Path(entry.path).exists():  # a pipe, socket or device, or a link to one
            special.append(printable(name))
    stamp = digest_of(["folder", str(root.resolve()), sorted(stamps), sorted(folders)])
    store, name = Folder(root), root.resolve().name
    source = arrange(store, files, folders, name=name, where=str(root), stamp=stamp, include=include)
    return replace(source, ignored=tuple(sorted((*source.ignored, *special))))


def arrange(
    store: FileStore,
    files: Iterable[str],
    folders: Iterable[str],
    *,
    name: str,
    where: str,
    stamp: str,
    include: str | None = None,
) -> Source:
    """The data set that files make by where they lie; an empty folder counts too, as a class with no images.

    With a pattern, only files that fit it are there; a folder in which none does is no class then.

    Raises:
        DataError: as for `open_folder`; no file fits the pattern.
    """
    files, folders, where = sorted(files), list(folders), shortened(where)
    _require_shallow((*files, *folders), where)
    if include is not None:
        files, folders, stamp = _fitting(files, include, where), [], digest_of([stamp, include])
    images = [file for file in files if _looks_like_an_image(file)]
    layout = _layout(images, where)
    placed = {image: place for image in images if (place := layout.place(image))}
    if not placed:
        raise DataError(
            f"{where} holds no class folders with images; put the images of each class in a folder of its name"
        )
    empty = [place for folder in folders if (place := layout.place(f"{folder}/"))]
    classes = tuple(sorted({class_name for _, class_name in (*placed.values(), *empty)}, key=natural_key))
    require_class_names(classes, where)
    present = {split for split, _ in placed.values()}
    return Source(
        name,
        classes,
        {split: _file_split(store, placed, split, classes) for split in SPLITS if split in present},
        stamp,
        mirror=mirrored_images_keep_their_class(classes),
        ignored=tuple(printable(file) for file in files if file not in placed),
        include=include,
    )


def _fitting(files: Sequence[str], pattern: str, where: str) -> list[str]:
    """The files whose name fits a pattern, whatever the case; a pattern with folders in it is of the whole path."""
    wanted = pattern.lower()
    fits = [file for file in files if fnmatchcase((file if "/" in wanted else file.rpartition("/")[2]).lower(), wanted)]
    if not fits:
        endings = Counter(PurePosixPath(file).suffix.lower() or "no ending" for file in files).most_common()
        held = first_of([f"{count:,} {ending}" for ending, count in endings], 4) or "no files"
        raise DataError(f"no file in {where} fits --include {shortened(pattern, 60)!r}: it holds {held}")
    return fits


@dataclass(frozen=True)
class _Layout:
    enclosing: int  # folders above the split or class folders
    divided: bool  # into train, validation and test folders

    def place(self, name: str) -> tuple[SplitName, str] | None:
        """The split and class of a file, or None for one that lies in no class folder."""
        parts = name.split("/")[self.enclosing :]
        if len(parts) < 2 + self.divided:
            return None
        split: SplitName | None = "train"
        if self.divided:
            split, parts = SPLIT_FOLDERS.get(parts[0].lower()), parts[1:]
        class_name = unicodedata.normalize("NFC", parts[0])  # macOS archives spell accents in two characters
        return None if split is None else (split, class_name)


def _layout(images: list[str], where: str) -> _Layout:
    paths = [image.split("/") for image in images]
    depth = 0
    while _is_enclosed(paths, depth):
        depth += 1
    tops = {path[depth].lower() for path in paths if len(path) > depth + 1}
    # Only a folder of class folders is a split: a class may be called "train" too, as one of CIFAR-100's is.
    divided = any(SPLIT_FOLDERS.get(path[depth].lower()) == "train" for path in paths if len(path) > depth + 2)
    if tops and tops <= set(SPLIT_FOLDERS) and not divided:
        raise DataError(
            f"{where} has folders {first_of(sorted(tops))} and no train folder with class folders in it; add one, or "
            "rename them"
        )
    return _Layout(depth, divided)


def _is_enclosed(paths: list[list[str]], depth: int) -> bool:
    """Whether everything at this depth lies in one folder that is neither a split nor a class."""
    tops = {path[depth] for path in paths if len(path) > depth + 1}
    return len(tops) == 1 and tops.pop().lower() not in SPLIT_FOLDERS and any(len(path) > depth + 2 for path in paths)


def _file_split(
    store: FileStore, placed: dict[str, tuple[SplitName, str]], split: SplitName, classes: tuple[str, ...]
) -> FileSplit:
    number = {class_name: index for index, class_name in enumerate(classes)}
    members = [(file, number[class_name]) for file, (of, class_name) in placed.items() if of == split]
    return FileSplit(store, [file for file, _ in members], np.array([label for _, label in members], np.int64))


def is_hidden(name: str) -> bool:
    """Whether a file belongs to an operating system rather than to the data: .DS_Store, __MACOSX, Thumbs.db."""
    return any(part.startswith(".") or part in ("__MACOSX", "Thumbs.db", "desktop.ini") for part in name.split("/"))


def _looks_like_an_image(name: str) -> bool:
    _, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return not dot or suffix.lower() in IMAGE_SUFFIXES


def _require_shallow(names: Iterable[str], where: object) -> None:
    for name in names:
        if name.count("/") > DEEPEST:
            raise DataError(
                f"{where} has folders more than {DEEPEST} deep, such as {shortened(name, 60)!r}; put the images of "
                "each class in a folder of its name"
            )


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder, through links, but never round a ring of them."""
    resolved_root = root.resolve()
    waiting = [(root, "")]
    folders, visits = set[tuple[int, int]](), 0
    while waiting:
        folder, prefix = waiting.pop()
        status = folder.stat()
        folders.add((status.st_dev, status.st_ino))
        visits += 1
        if visits > MOST_VISITS[0] + MOST_VISITS[1] * len(folders):
            raise DataError(
                f"{root} has links that lead to the same folders over and over, such as {prefix[:60]!r}; remove them"
            )
        _require_shallow([prefix], root)
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                yield prefix + entry.name, entry
                if _leads_on(entry, folder, resolved_root):
                    waiting.append((Path(entry.path), f"{prefix}{entry.name}/"))


def _leads_on(entry: os.DirEntry[str], folder: Path, root: Path) -> bool:
    """Whether an entry is a folder to look into: not a link to one that it lies in."""
    if not entry.is_dir():
        return False
    return not entry.is_symlink() or Path(entry.path).resolve() not in _above(folder, root)


def _above(folder: Path, root: Path) -> set[Path]:
    resolved = folder.resolve()
    return {root, resolved, *resolved.parents}


def named_images(places: Sequence[Path]) -> list[Path]:
    """The image files that a person means: files as they are, those below a folder, those that a pattern fits.

    >>> named_images([Path("photos/"), Path("more/*.jpg")])  # doctest: +SKIP
    [PosixPath('photos/cat/1.png'), PosixPath('more/2.jpg')]

    Raises:
        DataError: a folder or a pattern without images.
    """
    found: list[Path] = []
    for place in places:
        is_pattern = not place.exists() and glob.has_magic(str(place))
        # Path.glob takes no pattern that begins at the root.
        matches = [Path(name) for name in glob.glob(str(place), recursive=True)] if is_pattern else [place]  # noqa: PTH207
        below = [image for match in sorted(matches, key=lambda path: natural_key(str(path))) for image in _at(match)]
        if not below:
            raise DataError(f"there are no images in {shortened(place)!r}")
        found += below
    return list(dict.fromkeys(found))


def _at(place: Path) -> list[Path]:
    """The images below a folder; a file is what it is."""
    if not place.is_dir():
        return [place]
    names = [name for name, _ in _walk(place) if _looks_like_an_image(name) and not is_hidden(name)]
    return [place / name for name in sorted(names, key=natural_key)]
