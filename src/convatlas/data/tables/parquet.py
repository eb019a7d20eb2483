"""Parquet files: columns of numbers, texts and moments; nothing nested."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convatlas.data.allowance import Allowance
from convatlas.data.tables.columns import require_names, shown_name
from convatlas.errors import DataError, shortened
from convatlas.files import open_regular

if TYPE_CHECKING:
    from pandas import DataFrame

ENDINGS = (".parquet",)
BYTES_OF_A_VALUE = 8
LONGEST_FOOTER = 64 * 2**20  # bytes of what a file says of itself


def read_parquet(path: Path, rows: int) -> Iterator[DataFrame]:
    """The rows of a file, ``rows`` at a time.

    >>> len(next(read_parquet(Path("payments.parquet"), 1000)))   # doctest: +SKIP
    1000

    Raises:
        DataError: pyarrow is not installed; the file is damaged, claims to unpack to far more than any honest one, or
            has columns of lists.
        OSError: it cannot be read.
    """
    parquet = _pyarrow_parquet(path)
    with open_regular(path) as stream, _reading(path), parquet.ParquetFile(stream, **_LIMITS) as file:
        names = require_names([str(name) for name in file.schema_arrow.names], str(path))
        _require_flat(file.schema_arrow, path)
        allowance = Allowance(path)
        allowance.count_bytes(file.metadata.num_rows * len(names) * BYTES_OF_A_VALUE)
        for batch in file.iter_batches(batch_size=rows, use_threads=False):
            # Without what pandas left in the schema: it could name an index, or types of its own.
            table = batch.replace_schema_metadata(None)
            yield table.to_pandas().set_axis(list(names), axis=1)


_LIMITS: dict[str, Any] = {
    "thrift_string_size_limit": LONGEST_FOOTER,
    "thrift_container_size_limit": 1_000_000,
    "pre_buffer": False,
    "buffer_size": 2**16,  # of a column; without any, all of a row group's columns are read at once
}


def _pyarrow_parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path} needs the pyarrow package: pip install 'convatlas[parquet]'") from None
    return parquet


def _require_flat(schema: Any, path: Path) -> None:
    from pyarrow import types

    for field in schema:
        if types.is_nested(field.type) or isinstance(field.type, _extension()):
            raise DataError(
                f"{path}: column {shown_name(field.name)} holds {shortened(field.type, 40)}; only numbers, texts and "
                "moments are read"
            )


def _extension() -> type:
    import pyarrow

    kind: type = pyarrow.BaseExtensionType
    return kind


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
        reason = shortened(" ".join(str(error).split()), 200)
        raise DataError(f"{path} is no Parquet file that can be read: {reason or type(error).__name__}") from error
