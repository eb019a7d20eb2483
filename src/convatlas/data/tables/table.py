"""A table: rows and named columns, from a file, a pandas DataFrame or a NumPy array."""

from __future__ import annotations

import difflib
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convatlas.data.source import printable
from convatlas.data.tables import arrays, delimited, parquet
from convatlas.data.tables.columns import kind_of, require_names, shown_name, text_codes
from convatlas.errors import DataError, first_of, shortened
from convatlas.files import expanded, open_regular

if TYPE_CHECKING:
    from pandas import DataFrame, Series

IN_MEMORY = "memory"  # the location of rows that came from no file
ROWS_AT_ONCE = 65_536  # of a Parquet file that is read whole


@dataclass(frozen=True, eq=False)
class Table:
    """Rows, and what their columns are.

    ``frame`` holds every column, the label and the time among them; ``inputs`` are those that a network is shown.
    """

    name: str
    location: str  # of the file; "memory" where there is none
    fingerprint: str  # of the content, hexadecimal
    frame: DataFrame
    label: str | None
    time: str | None
    inputs: tuple[str, ...]

    def __len__(self) -> int:
        """Rows."""
        return len(self.frame)


def is_table(source: Any) -> bool:
    """Whether `open_table` is who opens it: by its kind, or by its name; of a ``.npz`` file, by what it holds.

    >>> is_table("payments.csv"), is_table("photos.zip"), is_table(np.zeros((4, 2))), is_table(np.zeros((4, 8, 8)))
    (True, False, True, False)
    """
    if _is_frame(source):
        return True
    if isinstance(source, np.ndarray):
        return source.ndim == 2
    if not isinstance(source, (str, PathLike)):
        return False
    path = expanded(str(source))
    if path.name.lower().endswith((*delimited.ENDINGS, *parquet.ENDINGS)):
        return True
    is_archive = path.name.lower().endswith(arrays.ENDINGS)
    return is_archive and (not os.path.lexists(path) or arrays.holds_rows(path))  # nothing there: that is said then


def open_table(source: Any, *, label: str | None = None, time: str | None = None, text: Iterable[str] = ()) -> Table:
    """A table, read whole.

    >>> table = open_table("payments.csv", label="Class", time="Time")   # doctest: +SKIP
    >>> len(table), table.inputs[:2]   # doctest: +SKIP
    (23449, ('V1', 'V2'))

    Args:
        source: a ``.csv`` (``.csv.gz``, ``.tsv``), ``.parquet`` or ``.npz`` file, a DataFrame, or an array
            [n, columns].
        label: the column that says what a row is. No network sees it.
        time: the column that says when a row was. No network sees it.
        text: columns of a text file that are texts even where they look like numbers.

    Raises:
        DataError: nothing is there, it cannot be read or is no table; no such column; no rows.
    """
    if isinstance(source, (str, PathLike)):
        path = _path(source)
        with _opening(path):
            frame, fingerprint = _read(path, tuple(text))
        name, location = path.name.split(".")[0] or path.name, str(path.resolve())
    else:
        frame = _frame_in_memory(source)
        name, location, fingerprint = "rows", IN_MEMORY, _fingerprint(frame)
    if frame.empty:
        raise DataError(f"{shortened(location)} has no rows")
    for column in (label, time):
        if column is not None and column not in frame.columns:
            raise no_such_column(column, frame.columns, location)
    if label is not None and label == time:
        raise DataError(f"column {shown_name(label)} cannot be both the label and the time")
    inputs = tuple(column for column in frame.columns if column not in (label, time))
    if not inputs:
        raise DataError(f"{shortened(location)} has no column beside the label and the time")
    return Table(printable(name), location, fingerprint, frame, label, time, inputs)


def read_chunks(source: Any, rows: int, *, text: Iterable[str] = ()) -> Iterator[DataFrame]:
    """A table of any length, no more than ``rows`` of them at a time, for whoever need not see it whole.

    Arguments and errors as of `open_table`; what is wrong further on is found when it is reached.

    >>> sum(len(chunk) for chunk in read_chunks("payments.csv", 4096))   # doctest: +SKIP
    23449
    """
    if not isinstance(source, (str, PathLike)):
        yield from _sliced(_frame_in_memory(source), rows)
        return
    path, count = _path(source), 0
    with _opening(path):
        for piece in _pieces(path, tuple(text), rows):
            count += len(piece)
            yield from _sliced(piece, rows)
    if not count:
        raise DataError(f"{path} has no rows")


def no_such_column(name: str, columns: Sequence[str], where: object) -> DataError:
    """An error that names the nearest columns."""
    near = difflib.get_close_matches(name, map(str, columns), n=3)
    known = f"did you mean {', '.join(near)}?" if near else f"it has {first_of(columns)}"
    return DataError(f"{shortened(where)} has no column {shown_name(name)}; {known}")


def _is_frame(source: Any) -> bool:
    pandas = sys.modules.get("pandas")  # whoever has a DataFrame has loaded it
    return pandas is not None and isinstance(source, pandas.DataFrame)


def _frame_in_memory(source: Any) -> DataFrame:
    if isinstance(source, np.ndarray):
        return arrays.frame_of(source, "the array")
    if not _is_frame(source):
        raise DataError(
            f"a table is a .csv, .parquet or .npz file, a DataFrame or an array [n, columns]; received "
            f"{type(source).__name__}"
        )
    return source.set_axis(list(require_names([str(name) for name in source.columns], "the DataFrame")), axis=1)


def _path(source: str | PathLike[str]) -> Path:
    path = expanded(str(source))
    if "\0" in str(path):
        raise DataError(f"{shortened(path)!r} has a NUL character in it, which no path may; give another")
    return path


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"there is nothing at {shortened(path)!r}; give a .csv, .parquet or .npz file") from error
    except OSError as error:  # a folder, a pipe, no permission, a name too long for the file system
        raise DataError(f"{shortened(path)} cannot be opened: {error.strerror or error}") from error


def _pieces(path: Path, text: Sequence[str], rows: int) -> Iterator[DataFrame]:
    name = path.name.lower()
    if name.endswith(delimited.ENDINGS):
        return delimited.read_delimited(path, text)
    if name.endswith(parquet.ENDINGS):
        return parquet.read_parquet(path, rows)
    if name.endswith(arrays.ENDINGS):
        path.stat()  # nothing there is said as of any other file
        return arrays.npz_pieces(path, rows)
    raise _no_table(path)


def _read(path: Path, text: Sequence[str]) -> tuple[DataFrame, str]:
    """The whole file, and its fingerprint."""
    import pandas

    name = path.name.lower()
    if name.endswith(delimited.ENDINGS):
        return _read_delimited(path, text)
    if name.endswith(parquet.ENDINGS):
        pieces = list(parquet.read_parquet(path, ROWS_AT_ONCE))
        with open_regular(path) as file:
            fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
        return (pandas.concat(pieces, ignore_index=True) if pieces else pandas.DataFrame()), fingerprint
    if name.endswith(arrays.ENDINGS):
        path.stat()  # nothing there is said as of any other file
        frame = arrays.read_npz(path)
        return frame, _fingerprint(frame)
    raise _no_table(path)


def _no_table(path: Path) -> DataError:
    return DataError(f"{shortened(path)} is no table: give a .csv, .tsv, .csv.gz, .parquet or .npz file")


def _read_delimited(path: Path, text: Sequence[str]) -> tuple[DataFrame, str]:
    """All pieces as one. A column that is numbers in some and not in others is text, and read again as such."""
    import pandas

    digest = hashlib.sha256()
    pieces = list(delimited.read_delimited(path, text, digest.update))
    if not pieces:
        return pandas.DataFrame(), ""
    mixed = [name for name in pieces[0].columns if name not in text and _is_mixed([piece[name] for piece in pieces])]
    if mixed:
        pieces = list(delimited.read_delimited(path, [*text, *mixed]))
    return pandas.concat(pieces, ignore_index=True), digest.hexdigest()


def _is_mixed(pieces: list[Series[Any]]) -> bool:
    if all(piece.dtype.kind in "iuf" for piece in pieces):  # nearly all are, and this is fast
        return False
    kinds = {kind_of(piece) for piece in pieces} - {"empty"}
    return len(kinds) > 1 or "truth" in kinds


def _sliced(frame: DataFrame, rows: int) -> Iterator[DataFrame]:
    for start in range(0, len(frame), rows):
        yield frame.iloc[start : start + rows]


def _fingerprint(frame: DataFrame) -> str:
    """SHA-256 of names and values, the same for the same ones in an array and in a DataFrame."""
    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame[name]
        digest.update(repr(name).encode())
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
            digest.update(np.ascontiguousarray(column.to_numpy(), dtype="<f8").data)
        else:
            codes, texts = text_codes(column)
            digest.update(codes.astype("<i8").data)
            digest.update(repr(texts).encode())
    return digest.hexdigest()
