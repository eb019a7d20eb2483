"""Rows in NumPy arrays, and in ``.npz`` files: a 2-D array of numbers, named columns, and 1-D arrays beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convatlas.data.arrays import array_form, array_names, read_array, read_rows
from convatlas.data.tables.columns import MOST_COLUMNS, require_names
from convatlas.errors import DataError, first_of

if TYPE_CHECKING:
    from pandas import DataFrame

ENDINGS = (".npz",)
NAMES = ("columns", "names", "features", "feature_names")  # the keys under which columns are named
MOST_ARRAYS = 1000

Form = tuple[tuple[int, ...], np.dtype[Any]]


def holds_rows(path: Path) -> bool:
    """Whether a ``.npz`` file holds rows, not images: a 2-D array of numbers, and none of more dimensions.

    >>> holds_rows(Path("digits.npz"))   # doctest: +SKIP
    False
    """
    try:
        forms = _forms(path)
    except (DataError, OSError):
        return False
    return bool(_matrices(forms)) and all(len(shape) <= 2 for shape, _ in forms.values())


def read_npz(path: Path) -> DataFrame:
    """The rows of a ``.npz`` file.

    The 2-D array gives columns, named by a list of texts (`NAMES`) where there is one and x1, x2... where not; arrays
    of one dimension that are as long are columns under their own names.

    >>> read_npz(Path("payments.npz")).columns[-2:]   # doctest: +SKIP
    Index(['Amount', 'y'], dtype='str')

    Raises:
        DataError: there is no such array, or more than one; or it cannot be read.
    """
    from pandas import DataFrame

    return next(npz_pieces(path, sys.maxsize), DataFrame())


def npz_pieces(path: Path, rows_at_once: int) -> Iterator[DataFrame]:
    """The rows of a ``.npz`` file, no more than so many at a time.

    Raises:
        DataError: as ``read_npz``.
    """
    forms = _forms(path)
    matrices = _matrices(forms)
    if len(matrices) != 1:
        found = f"there are {len(matrices)}: {first_of(matrices)}" if matrices else f"there are {first_of(forms)}"
        raise DataError(f"{path} must hold one array of rows, [n, columns]; {found or 'none'}")
    (rows, width), _ = forms[matrices[0]]
    if width > MOST_COLUMNS:
        raise DataError(f"{path} has {width:,} columns; up to {MOST_COLUMNS:,} are taken")
    names = _names(path, forms, width)
    beside = [
        key for key, (shape, dtype) in forms.items()
        if key not in (*matrices, *NAMES) and dtype.kind in "biufU" and shape in ((rows,), (rows, 1))
    ]  # fmt: skip
    require_names([*names, *beside], str(path))
    every = [read_rows(path, key, rows_at_once) for key in (matrices[0], *beside)]
    for matrix, *columns in zip(*every, strict=True):
        frame = frame_of(matrix, str(path), names)
        for key, column in zip(beside, columns, strict=True):
            frame[key] = _native(column.reshape(-1))
        yield frame


def frame_of(array: Any, where: str, names: tuple[str, ...] | None = None) -> DataFrame:
    """A 2-D array of numbers as a table, its columns called x1, x2... where ``names`` does not say otherwise.

    Raises:
        DataError: it is of another shape, or holds no numbers.
    """
    from pandas import DataFrame

    array = np.asarray(array)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise DataError(f"{where} must be numbers, [n, columns]; received {array.dtype} {list(array.shape)}")
    names = names or require_names(_numbered(array.shape[1]), where)
    return DataFrame(_native(array), columns=list(names))


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """In this machine's order of bytes, bools as numbers, and of a precision that pandas knows."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _forms(path: Path) -> dict[str, Form]:
    names = sorted(array_names(path))
    if len(names) > MOST_ARRAYS:
        raise DataError(f"{path} holds {len(names):,} arrays; up to {MOST_ARRAYS:,} are looked at")
    return {name: array_form(path, name) for name in names}


def _matrices(forms: dict[str, Form]) -> list[str]:
    """The arrays of rows; one of a single column beside a wider one is a column."""
    two = [key for key, (shape, dtype) in forms.items() if len(shape) == 2 and dtype.kind in "biuf" and shape[1]]
    return [key for key in two if forms[key][0][1] > 1] or two


def _numbered(width: int) -> list[str]:
    return [f"x{place}" for place in range(1, width + 1)]


def _names(path: Path, forms: dict[str, Form], width: int) -> tuple[str, ...]:
    for key in NAMES:
        shape, dtype = forms.get(key, ((), np.dtype(np.uint8)))
        if dtype.kind == "U" and shape == (width,):
            return require_names([str(name) for name in read_array(path, key)], str(path))
    return require_names(_numbered(width), str(path))
