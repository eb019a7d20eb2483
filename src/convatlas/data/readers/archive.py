"""Zip and tar archives, packed once into the cache: all members in one file, with an index.

No member is ever written under its own name, so that no archive can write anywhere else; and 60,000 small images cost
one file instead of 60,000. What a data set has no use for (links, devices, names that point outside) is refused.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import mmap
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from convatlas.data.allowance import Allowance
from convatlas.data.memo import file_stamp, read_json, remembered
from convatlas.data.readers.folder import is_hidden
from convatlas.errors import DataError, shortened
from convatlas.files import cache_directory, open_regular, replacing, write_text

PACK_VERSION = 1  # raise it when packs are laid out otherwise

MAX_NAME = 4096  # bytes of one name, which is what systems take
MAX_TAR_HEADER = 2**20  # of what a tar says of one member; tarfile reads it whole

_CHUNK = 2**20


@dataclass(frozen=True)
class Pack:
    """The members of an archive, by name, in one file of the cache."""

    path: Path
    sha256: str  # of the archive
    members: dict[str, tuple[int, int, str]]  # name -> offset and size in the file, SHA-256
    folders: tuple[str, ...]

    @cached_property
    def _content(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, name: str) -> bytes:
        """A member's bytes."""
        offset, size, _ = self.members[name]
        return self._content[offset : offset + size] if size else b""

    def digest(self, name: str) -> str:
        """SHA-256 of a member's bytes."""
        return self.members[name][2]


def is_archive(path: Path) -> bool:
    """Whether the name is one that `open_archive` takes."""
    endings = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst", ".tzst")
    return path.name.lower().endswith(endings)


def open_archive(path: Path) -> Pack:
    r"""The archive's members; packed into the cache the first time, found there by its SHA-256 afterwards.

    >>> open_archive(Path("ants-bees.tar")).read("ants-bees/train/ants/0013035.jpg")[:3]   # doctest: +SKIP
    b'\xff\xd8\xff'

    Raises:
        DataError: the archive is damaged, holds links, devices or names that point outside, or unpacks to more than
            the bounds above.
        StorageError: the disk is full.
    """
    sha256 = remembered("archive", file_stamp(path), lambda: _sha256_of(path))
    place = cache_directory() / "archives" / f"{sha256}-v{PACK_VERSION}"
    index = read_json(place / "index.json")
    if index is None or not _is_whole(place / "members.bin", index):
        index = _pack(path, place)
    members = {name: (offset, size, digest) for name, (offset, size, digest) in index["members"].items()}
    return Pack(place / "members.bin", sha256, members, tuple(index["folders"]))


def _is_whole(packed: Path, index: dict[str, Any]) -> bool:
    return packed.is_file() and packed.stat().st_size == index["size"]


def _pack(path: Path, place: Path) -> dict[str, Any]:
    """Write ``members.bin``, then ``index.json``: where the index is, the pack is whole."""
    members: dict[str, tuple[int, int, str]] = {}
    folders: list[str] = []
    allowance = Allowance(path)
    with replacing(place / "members.bin") as temporary, temporary.open("wb") as packed:
        for member in _members(path, allowance):
            allowance.count_member(member.name)
            name = _safe_name(member.name, path)
            content = _content(member.read) if member.read else None
            if is_hidden(name):
                deque(content or (), maxlen=0)  # read and not kept: it takes as long as any other, so it counts
            elif content is None:
                folders.append(name)
            else:
                members[name] = _copy(content, packed)
        size = packed.tell()
    index = {"size": size, "members": members, "folders": folders}
    write_text(place / "index.json", json.dumps(index))
    return index


def _content(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while chunk := read(_CHUNK):
        yield chunk


def _copy(content: Iterator[bytes], packed: IO[bytes]) -> tuple[int, int, str]:
    """Append a member; its offset, size and SHA-256."""
    start, digest = packed.tell(), hashlib.sha256()
    for chunk in content:
        digest.update(chunk)
        packed.write(chunk)
    return start, packed.tell() - start, digest.hexdigest()


@dataclass(frozen=True)
class _Member:
    name: str
    read: Callable[[int], bytes] | None  # None for a folder


def _members(path: Path, allowance: Allowance) -> Iterator[_Member]:
    # By how it begins: a tar whose last member is a zip ends as that zip does, which is where zipfile looks.
    is_zip = _beginning(path).startswith(_ZIP)
    return _zip_members(path, allowance) if is_zip else _tar_members(path, allowance)


def _beginning(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(max(map(len, _OPENERS)))


def _zip_members(path: Path, allowance: Allowance) -> Iterator[_Member]:
    with _reading(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if stat.S_ISLNK(info.external_attr >> 16):
                raise _refused(path, info.filename, "is a link")
            if info.is_dir():
                yield _Member(info.filename, None)
                continue
            with archive.open(info) as file:
                yield _Member(info.filename, _reader(path, _Counting(file, allowance)))


def _tar_members(path: Path, allowance: Allowance) -> Iterator[_Member]:
    with _reading(path), _tar_stream(path) as stream, _open_tar(_Counting(stream, allowance)) as archive:
        for info in archive:
            if info.isdir():
                yield _Member(info.name, None)
            elif info.isreg():
                file = archive.extractfile(info)
                assert file is not None, "a regular member has content"
                yield _Member(info.name, _reader(path, file))
            else:
                raise _refused(path, info.name, "is a link" if info.issym() or info.islnk() else "is no regular file")
        # To the end: checksums of compressed streams come last, and tarfile takes a damaged header for the end.
        assert archive.fileobj is not None, "it is open"
        if any(chunk.strip(b"\0") for chunk in _content(archive.fileobj.read)):
            raise tarfile.ReadError("there is more after a header that makes no sense")


class _Counting:
    """A file that counts what is read of it, headers and padding too."""

    def __init__(self, file: IO[bytes], allowance: Allowance) -> None:
        self._file, self._allowance = file, allowance

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._allowance.count_bytes(len(content))
        return content


class _Header(tarfile.TarInfo):
    """What a tar says of a member: a long name is a member of its own before it, which tarfile reads whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if not (header.isreg() or header.isdir()) and header.size > MAX_TAR_HEADER:
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header


def _open_tar(stream: _Counting) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header)  # type: ignore[call-overload,no-any-return]  # it only reads


def _tar_stream(path: Path) -> IO[bytes]:
    """The file, through what unpacks it; tarfile's own way through gzip never looks at the checksum."""
    beginning = _beginning(path)
    opener = next((opener for magic, opener in _OPENERS.items() if beginning.startswith(magic)), None)
    stream: IO[bytes] = opener(path) if opener else path.open("rb")
    return stream


def _open_zstandard(path: Path) -> IO[bytes]:
    try:
        import zstandard
    except ImportError:
        raise DataError(f"{path} needs the zstandard package: pip install 'convatlas[zstd]'") from None
    reader = zstandard.ZstdDecompressor()
    stream: IO[bytes] = reader.stream_reader(path.open("rb"), closefd=True, read_across_frames=True)
    return stream


_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # with members, and without

_OPENERS: dict[bytes, Callable[[Path], Any]] = {  # by what their files begin with
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _open_zstandard,
}


def _reader(path: Path, file: IO[bytes] | _Counting) -> Callable[[int], bytes]:
    def read(size: int) -> bytes:
        with _reading(path):
            return file.read(size)

    return read


def _kinds_of_damage() -> tuple[type[Exception], ...]:
    zstandard = sys.modules.get("zstandard")  # it is loaded where it is needed
    of_zstandard = (zstandard.ZstdError,) if zstandard else ()
    of_libraries = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, *of_zstandard)
    # What zipfile and tarfile raise over numbers and names that make no sense.
    return (*of_libraries, OSError, EOFError, struct.error, ValueError, LookupError, ArithmeticError, AssertionError)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Damage in an archive is the archive's fault, and is said so, whichever library finds it."""
    try:
        yield
    except _kinds_of_damage() as error:
        raise DataError(f"{path} cannot be unpacked: {error}. It is damaged or cut short; get it again") from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile's way to say encrypted, or an unknown method
        raise DataError(f"{path} cannot be unpacked: {error}. Unpack it yourself and give the folder") from error


def _safe_name(name: str, path: Path) -> str:
    if len(name) > MAX_NAME or "\0" in name:
        raise _refused(path, shortened(name), "has a name that no system takes")
    inside = PurePosixPath(name.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts:
        raise _refused(path, name, "points outside of the archive")
    return str(inside)


def _refused(path: Path, member: str, why: str) -> DataError:
    return DataError(f"{path} is refused: its member {member!r} {why}. Unpack it yourself, look, and give the folder")


def _sha256_of(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
