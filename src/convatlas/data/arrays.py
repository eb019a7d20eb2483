"""The arrays of a NumPy ``.npz`` file that a stranger may have made: nothing is unpickled, and no header believed."""

from __future__ import annotations

import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from convatlas.data.allowance import Allowance
from convatlas.errors import DataError
from convatlas.files import require_regular

ENDING = ".npy"
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# zipfile and NumPy raise nearly anything over bytes that make no sense; RuntimeError where a member is encrypted.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, ValueError, TypeError, LookupError,
    ArithmeticError, RuntimeError, SyntaxError, AssertionError,
)  # fmt: skip


def array_names(path: Path) -> set[str]:
    """The names under which the file holds arrays.

    >>> np.savez("shapes.npz", images=images, labels=labels)   # doctest: +SKIP
    >>> sorted(array_names(Path("shapes.npz")))   # doctest: +SKIP
    ['images', 'labels']

    Raises:
        DataError: it is no such file.
    """
    with _reading(path, f"{path} is not a .npz file"), zipfile.ZipFile(path) as file:
        return {name.removesuffix(ENDING) for name in file.namelist()}


def array_form(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array, by its header alone.

    Raises:
        DataError: the header makes no sense, or claims more than there is.
    """
    with _opened(path, name) as archive:
        return _checked_form(archive, name)


def read_array(path: Path, name: str) -> Any:
    """An array, of which the header is looked at before memory is taken for it.

    Raises:
        DataError: it holds Python objects, claims more than there is, unpacks to far more than any honest file does,
            or is damaged.
    """
    with _opened(path, name) as archive:
        shape, dtype = _checked_form(archive, name)
        Allowance(path).count_bytes(math.prod(shape) * int(dtype.itemsize))
        with archive.open(_member(archive, name)) as file:
            return npy.read_array(file, allow_pickle=False)


def read_rows(path: Path, name: str, rows: int) -> Iterator[NDArray[Any]]:
    """An array along its first axis, no more than ``rows`` at a time; what is kept column by column is read whole.

    Raises:
        DataError: as ``read_array``.
    """
    with _opened(path, name) as archive:
        shape, dtype = _checked_form(archive, name)
        Allowance(path).count_bytes(math.prod(shape) * int(dtype.itemsize))
        with archive.open(_member(archive, name)) as file:
            is_by_columns = _read_header(file)[1] and len(shape) > 1
            if shape[0] > rows and not is_by_columns:
                yield from _streamed(file, shape, dtype, rows)
                return
    whole = read_array(path, name)
    for start in range(0, len(whole), rows):
        yield whole[start : start + rows]


def _streamed(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], rows: int) -> Iterator[NDArray[Any]]:
    size = math.prod(shape[1:]) * int(dtype.itemsize)
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        content = file.read(count * size)
        if len(content) < count * size:
            raise ValueError("it is cut short")
        yield np.frombuffer(content, dtype).reshape(count, *shape[1:])


@contextmanager
def _opened(path: Path, name: str) -> Iterator[zipfile.ZipFile]:
    with _reading(path, f"{path}: {name!r} cannot be read"), zipfile.ZipFile(path) as archive:
        yield archive


def _member(archive: zipfile.ZipFile, name: str) -> str:
    return name + ENDING if name + ENDING in archive.namelist() else name


def _checked_form(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    member = _member(archive, name)
    with archive.open(member) as file:
        shape, dtype = _form_in_header(file)
    size, held = math.prod(shape) * int(dtype.itemsize), archive.getinfo(member).file_size
    if size > held:
        raise ValueError(f"its header claims {size:,} bytes, and there are {held:,}")
    return shape, dtype


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"it is of version {version[0]}.{version[1]}, which is not read")
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = _HEADERS[version](file)
    return header


def _form_in_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    shape, _, dtype = _read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded. Save numbers or text")
    if any(length < 0 for length in shape):
        raise ValueError(f"its header claims the shape {list(shape)}")
    return shape, dtype


@contextmanager
def _reading(path: Path, complaint: str) -> Iterator[None]:
    try:
        require_regular(path)
        yield
    except _DAMAGE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{complaint}: {reason or type(error).__name__}") from error
