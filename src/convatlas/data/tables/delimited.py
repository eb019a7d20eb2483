"""Delimited text, CSV and its kin, read a piece at a time and looked at before pandas is given it.

pandas reads fast, and forgivingly: a row that is short is filled up, a NUL or a broken character goes through, and a
line without end is waited for. So each piece is whole records, of which every one is known to have its fields.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convatlas.data.allowance import Allowance
from convatlas.data.source import printable
from convatlas.data.tables.columns import require_names
from convatlas.errors import DataError, shortened
from convatlas.files import open_regular

if TYPE_CHECKING:
    from pandas import DataFrame

ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
PIECE = 4 * 2**20  # bytes that are read at once, and the longest record

_BYTE_ORDER = b"\xef\xbb\xbf"  # at the head of UTF-8 that came from a spreadsheet
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_NEWLINE, _QUOTE = 10, 34


@dataclass(frozen=True)
class _Form:
    """What the header says, and how much of the first piece it takes."""

    names: tuple[str, ...]
    delimiter: str
    size: int


def read_delimited(
    path: Path, text: Iterable[str] = (), watch: Callable[[bytes], Any] | None = None
) -> Iterator[DataFrame]:
    """The rows of a file, a few MiB at a time; numbers where a piece holds nothing else, text where not.

    >>> next(read_delimited(Path("payments.csv"))).columns[:2]   # doctest: +SKIP
    Index(['Time', 'V1'], dtype='str')

    Args:
        path: of a file whose name ends as `ENDINGS` has it; separated by commas, semicolons or tabs, UTF-8.
        text: columns that are text even where they look like numbers.
        watch: hears every byte of the text.

    Raises:
        DataError: by name and line: no header, names that come twice, a row with more or fewer fields, a byte that is
            no text, a record without end.
        OSError: the file cannot be read.
    """
    form, line = None, 1
    for piece in _pieces(path, watch):
        _require_text(piece, path, line)
        records = piece
        if form is None:
            form = _form(piece, path)
            records = piece[form.size :]
        first = line + piece.count(b"\n") - records.count(b"\n")
        line += piece.count(b"\n")
        if records:
            yield _parse(records, form, text, path, first)
    if form is None:
        raise DataError(f"{path} is empty")


def _pieces(path: Path, watch: Callable[[bytes], Any] | None) -> Iterator[bytes]:
    """Whole records, each piece ending with a line feed; empty lines at the end of the file are left out."""
    rest = b""
    for block in _blocks(path):
        if watch is not None:
            watch(block)
        if b"\0" in block:
            raise DataError(f"{path} holds NUL bytes: it is no text, or in UTF-16. Save it as CSV in UTF-8")
        rest += block
        cut = _end_of_records(rest)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]
        elif len(rest) > PIECE:
            raise DataError(
                f"{path} has a line of more than {PIECE / 2**20:.0f} MiB, or a quotation mark that is never closed"
            )
    rest = rest.rstrip(b"\r\n")
    if rest:
        yield rest + b"\n"


def _blocks(path: Path) -> Iterator[bytes]:
    is_packed = path.name.lower().endswith(".gz")
    if is_packed:
        _require_no_bomb(path)
    with open_regular(path) as file:
        stream: Any = gzip.GzipFile(fileobj=file) if is_packed else file
        block = _unpacked(stream, path)
        if block.startswith(_UTF_16):
            raise DataError(f"{path} is in UTF-16. Save it as UTF-8")
        block = block.removeprefix(_BYTE_ORDER)
        while block:
            yield block
            block = _unpacked(stream, path)


def _require_no_bomb(path: Path) -> None:
    """Unpack it once and keep nothing: that takes a fraction of the time and memory of reading what it holds."""
    with open_regular(path) as file:
        allowance = Allowance(path)
        stream: Any = gzip.GzipFile(fileobj=file)
        while block := _unpacked(stream, path):
            allowance.count_bytes(len(block))


def _unpacked(stream: IO[bytes], path: Path) -> bytes:
    try:
        return stream.read(PIECE)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked: {error}. It is damaged or cut short; get it again") from error


def _end_of_records(block: bytes) -> int:
    """Where the last whole record ends that something follows, or whose end is not an empty line; 0 if there is none.

    A line feed within quotation marks ends no record. Where the marks do not pair (an inch mark will do) any will do.
    """
    ends = _ends(block)
    last = int(ends[-1]) if len(ends) else block.rfind(b"\n")
    body = block[: last + 1].rstrip(b"\r\n")
    return block.index(b"\n", len(body)) + 1 if body and last >= 0 else 0


def _ends(block: bytes) -> NDArray[np.int64]:
    """Positions of the line feeds outside of quotation marks."""
    content = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(content == _NEWLINE)
    return ends[~_inside(content)[ends]] if b'"' in block else ends


def _inside(content: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.logical_xor.accumulate(content == _QUOTE)


def _require_text(piece: bytes, path: Path, line: int) -> None:
    if piece.isascii():
        return
    try:
        piece.decode()
    except UnicodeDecodeError as error:
        line += piece[: error.start].count(b"\n")
        raise DataError(
            f"{path}, line {line:,}: byte 0x{piece[error.start]:02x} is no UTF-8. Save it as UTF-8 "
            "(of Latin-1: iconv -f latin1 -t utf-8)"
        ) from error


def _form(piece: bytes, path: Path) -> _Form:
    ends = _ends(piece)
    size = int(ends[0]) + 1 if len(ends) else len(piece)
    header = piece[:size].decode().strip("\r\n")
    if "\r" in header:
        raise DataError(f"{path} ends its lines with carriage returns alone. Save it with line feeds")
    delimiters = "\t,;" if ".tsv" in path.name.lower()[-7:] else ",;\t"
    try:
        rows = {mark: next(csv.reader([header], delimiter=mark), []) for mark in delimiters}
    except csv.Error as error:
        raise DataError(f"{path}: the header cannot be read: {error}") from error
    delimiter = max(rows, key=lambda mark: len(rows[mark]))  # the first of those that are as good
    names = [name.strip() for name in rows[delimiter]]
    if names and all(_is_number(name) for name in names):
        raise DataError(f"{path} has no header: its first line holds numbers. Add a line with the columns' names")
    return _Form(require_names(names, str(path)), delimiter, size)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse(records: bytes, form: _Form, text: Iterable[str], path: Path, line: int) -> DataFrame:
    import pandas

    count = _count_records(records, form, path, line)
    wanted = set(text)
    try:
        frame = pandas.read_csv(
            io.BytesIO(records),
            sep=form.delimiter,
            header=None,
            names=list(form.names),
            index_col=False,
            dtype={name: str for name in form.names if name in wanted},
            skip_blank_lines=False,
            low_memory=False,  # a column is of one type, or text
            encoding="utf-8",
        )
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, ValueError, OverflowError, csv.Error) as error:
        raise DataError(f"{path}, from line {line:,}: {printable(shortened(str(error).strip()))}") from error
    if len(frame) != count:
        raise DataError(
            f"{path}, from line {line:,}: {count:,} lines are read as {len(frame):,} rows: a quotation mark that is "
            "not closed, or a carriage return alone"
        )
    return frame


def _count_records(records: bytes, form: _Form, path: Path, line: int) -> int:
    """How many records there are, each with as many fields as the header.

    Raises:
        DataError: the first one that has not.
    """
    content = np.frombuffer(records, np.uint8)
    ends, marks = np.flatnonzero(content == _NEWLINE), np.flatnonzero(content == ord(form.delimiter))
    is_quoted = b'"' in records
    if is_quoted:
        inside = _inside(content)
        ends, marks = ends[~inside[ends]], marks[~inside[marks]]
    fields = np.diff(np.searchsorted(marks, ends), prepend=0) + 1
    wrong = np.flatnonzero(fields != len(form.names))
    if is_quoted and (len(wrong) or inside[-1]):
        return _count_carefully(records, form, path, line)
    if len(wrong):
        start = int(ends[wrong[0] - 1]) + 1 if wrong[0] else 0
        raise _ragged(path, line + records[:start].count(b"\n"), int(fields[wrong[0]]), form)
    return len(ends)


def _count_carefully(records: bytes, form: _Form, path: Path, line: int) -> int:
    """The same where quotation marks do not simply pair: only one at the head of a field opens anything."""
    reader = csv.reader(io.StringIO(records.decode(), newline=""), delimiter=form.delimiter)
    count, before = 0, 0
    try:
        for fields in reader:
            if len(fields or [""]) != len(form.names):
                raise _ragged(path, line + before, len(fields), form)
            count, before = count + 1, reader.line_num
    except csv.Error as error:
        raise DataError(f"{path}, line {line + before:,}: {error}") from error
    return count


def _ragged(path: Path, line: int, fields: int, form: _Form) -> DataError:
    return DataError(
        f"{path}, line {line:,} has {fields:,} field{'s' * (fields != 1)}, and the header names {len(form.names):,}"
    )
