"""Data sets by name, and any path as a data set."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from itertools import islice
from pathlib import Path

import numpy as np

from convatlas.data.memo import digest_of, file_stamp
from convatlas.data.readers.archive import is_archive, open_archive
from convatlas.data.readers.cifar import CIFAR10, CIFAR100, CifarFormat, find_cifar, open_cifar
from convatlas.data.readers.folder import Folder, arrange, is_hidden, open_folder
from convatlas.data.readers.idx import has_idx_files, open_idx_folder
from convatlas.data.readers.npz import open_npz
from convatlas.data.source import ArraySplit, Labels, Pixels, Source, SplitName, printable
from convatlas.data.splits import stratified_cut
from convatlas.errors import DataError, shortened, unknown_name
from convatlas.files import cache_directory, expanded

DIGITS = tuple("0123456789")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
DEBIAN_FOLDER = Path("/usr/share/datasets")  # where Debian's package dataset-fashion-mnist puts its files
DIGITS_TEST_FRACTION = 0.2
MOST_BESIDE = 10_000  # entries of a folder, among which a mistyped name is looked for


def open_source(name_or_path: str | Path, include: str | None = None) -> Source:
    """A data set by its name in `list_sources`, or the one at a path.

    A path is an image folder (``class/`` or ``train/ val/ test/``), a zip or tar archive of one, a ``.npz`` file, or a
    folder or archive with the original files of MNIST or CIFAR. Named sets are looked for in
    ``$CONVATLAS_DATA/<name>``, then where Debian puts them, and are downloaded otherwise. Of a folder or an archive of
    pictures, ``include`` is a pattern such as ``*.jpg``: only files that fit are taken.

    >>> source = open_source("digits")
    >>> source.classes[:3], len(source.splits["train"]), source.splits["train"].image(0).size
    (('0', '1', '2'), 1438, (8, 8))

    Raises:
        UnknownNameError: neither a name nor something that looks like a path.
        DataError: nothing is there, it may not be read, or it is not a data set; no file fits the pattern, or there
            are no files to choose among.
        StorageError: an archive cannot be unpacked into the cache.
    """
    path = expanded(name_or_path)
    if "\0" in str(path):
        raise DataError(f"{shortened(path)!r} has a NUL character in it, which no path may; give another")
    try:
        if opener := _OPENERS.get(str(name_or_path)):
            return replace(_with_all(opener(), include), location=str(name_or_path))
        if path.exists():
            source = _open_path(path, include)
            return replace(source, name=printable(source.name), location=str(path.resolve()))
    except OSError as error:  # a folder without permission, a pipe, a name that is too long for the file system
        named = shortened(error.filename or path)
        raise DataError(f"{named} cannot be opened: {error.strerror or error}") from error
    if isinstance(name_or_path, Path) or os.sep in name_or_path or path.suffix:
        near = difflib.get_close_matches(path.name, _names_beside(path), n=3)
        meant = [shortened(Path(name_or_path).parent / name) for name in near]
        raise DataError(
            f"there is nothing at {shortened(path)!r}; "
            + (f"did you mean {', '.join(meant)}? Otherwise " if meant else "")
            + "give an image folder, an archive, a .npz file or a known name"
        )
    raise unknown_name("data set or path", name_or_path, list_sources(), beside=_names_beside(path))


def _names_beside(path: Path) -> list[str]:
    """Folders, archives and .npz files that lie where a path that leads nowhere leads."""
    try:
        with os.scandir(path.parent) as entries:
            return [
                printable(entry.name)
                for entry in islice(entries, MOST_BESIDE)
                if not is_hidden(entry.name) and (entry.is_dir() or _is_a_file_of_images(Path(entry.name)))
            ]
    except OSError:
        return []


def _is_a_file_of_images(path: Path) -> bool:
    return path.suffix.lower() == ".npz" or is_archive(path)


def list_sources() -> list[str]:
    """Names that `open_source` knows.

    >>> list_sources()
    ['cifar10', 'cifar100', 'digits', 'fashion-mnist', 'mnist']
    """
    return sorted(_OPENERS)


def _open_path(path: Path, include: str | None) -> Source:
    if path.is_dir():
        return _open_directory(path, include)
    if path.suffix.lower() == ".npz":
        return _with_all(open_npz(path), include)
    if is_archive(path):
        return _open_archive(path, include)
    raise DataError(
        f"{shortened(path)} is no data set: give an image folder, a .zip, a .tar (.gz, .xz, .bz2, .zst) or a .npz file"
    )


def _with_all(source: Source, include: str | None) -> Source:
    """A source whose images are no files of their own, of which a pattern can leave none out."""
    if include not in (None, "*"):
        raise DataError(
            f"a pattern chooses among the files of an image folder or archive, and the images of {source.name} are no "
            f"files of their own: leave --include {include!r} out"
        )
    return source


def _open_directory(path: Path, include: str | None = None) -> Source:
    if has_idx_files(path):
        name = path.resolve().name
        return _with_all(open_idx_folder(path, name, FASHION if name == "fashion-mnist" else DIGITS), include)
    found = find_cifar(entry.name for entry in path.iterdir() if entry.is_file())
    if found is None:
        return open_folder(path, include)
    cifar, _ = found
    stamp = digest_of([file_stamp(path / file) for file in cifar.checksums])
    return _with_all(open_cifar(Folder(path), cifar, "", stamp), include)


def _open_archive(path: Path, include: str | None = None) -> Source:
    pack = open_archive(path)
    stamp = digest_of(["archive", pack.sha256])
    if found := find_cifar(pack.members):
        return _with_all(open_cifar(pack, *found, stamp), include)
    name = path.name.split(".")[0]
    return arrange(pack, pack.members, pack.folders, name=name, where=str(path), stamp=stamp, include=include)


def _open_digits() -> Source:
    """Scikit-learn's 1,797 digits of 8x8, with a fifth of each class always the test set."""

    def read(split: SplitName) -> tuple[Pixels, Labels]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        labels = digits.target.astype(np.int64)
        kept, cut = stratified_cut(labels, DIGITS_TEST_FRACTION, seed=0)
        chosen = kept if split == "train" else cut
        return images[chosen], labels[chosen]

    splits = {"train": ArraySplit("train", lambda: read("train")), "test": ArraySplit("test", lambda: read("test"))}
    stamp = digest_of(["digits", metadata.version("scikit-learn")])
    return Source("digits", DIGITS, splits, stamp, mirror=False)  # type: ignore[arg-type]  # the keys are split names


def _open_idx_set(name: str, classes: tuple[str, ...]) -> Source:
    for folder in _local_folders(name):
        if has_idx_files(folder):
            return open_idx_folder(folder, name, classes)
    return open_idx_folder(_download_idx(name), name, classes)


def _open_cifar_set(cifar: CifarFormat) -> Source:
    for folder in _local_folders(cifar.name):
        if not folder.is_dir():
            continue
        if (folder / cifar.archive).is_file():
            return _open_archive(folder / cifar.archive)
        source = _open_cifar_below(folder)
        if source is not None and source.name == cifar.name:
            return source
    return _open_archive(_download_cifar(cifar))


def _open_cifar_below(folder: Path) -> Source | None:
    """The batches in a folder, or in the folder that the archive unpacks to inside it."""
    for place in (folder, folder / "cifar-10-batches-py", folder / "cifar-100-python"):
        if place.is_dir() and find_cifar(entry.name for entry in place.iterdir()):
            return _open_directory(place)
    return None


def _local_folders(name: str) -> list[Path]:
    own = [expanded(root) / name] if (root := os.environ.get("CONVATLAS_DATA")) else []
    return [*own, DEBIAN_FOLDER / name]


def _download_idx(name: str) -> Path:
    root = cache_directory() / "downloads"

    def download() -> None:
        from torchvision import datasets

        {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name](root, download=True)

    folder = root / {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[name] / "raw"
    if not has_idx_files(folder):
        _downloading(name, download, "the four idx files")
    return folder


def _download_cifar(cifar: CifarFormat) -> Path:
    root = cache_directory() / "downloads"

    def download() -> None:
        from torchvision import datasets
        from torchvision.datasets.utils import download_url

        of = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[cifar.name]
        download_url(of.url, root, of.filename, of.tgz_md5)

    if not (root / cifar.archive).is_file():
        _downloading(cifar.name, download, cifar.archive)
    return root / cifar.archive


def _downloading(name: str, download: Callable[[], None], files: str) -> None:
    try:
        download()
    except (OSError, RuntimeError) as error:  # no network, or torchvision's word for a wrong checksum
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{name} is not on this machine and could not be downloaded: {reason}. Put {files} into a folder {name} "
            "and set CONVATLAS_DATA to the folder above it"
        ) from error


_OPENERS: dict[str, Callable[[], Source]] = {
    "digits": _open_digits,
    "mnist": lambda: _open_idx_set("mnist", DIGITS),
    "fashion-mnist": lambda: _open_idx_set("fashion-mnist", FASHION),
    "cifar10": lambda: _open_cifar_set(CIFAR10),
    "cifar100": lambda: _open_cifar_set(CIFAR100),
}
