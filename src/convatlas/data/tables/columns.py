"""What a column holds, whatever it came from: numbers, texts, or what no network here is shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from convatlas.data.source import printable
from convatlas.errors import DataError, first_of, shortened

if TYPE_CHECKING:
    from pandas import Series

Kind = Literal["number", "text", "truth", "moment", "empty", "other"]

MOST_COLUMNS = 10_000
LONGEST_NAME = 200  # characters of a column's name
WHOLE = 2**53  # from here on not every whole number is one of float64

_KINDS: dict[str, Kind] = {  # by what pandas infers of a column of Python objects
    "string": "text", "mixed": "text", "mixed-integer": "text", "categorical": "text",
    "integer": "number", "floating": "number", "mixed-integer-float": "number", "decimal": "number",
    "boolean": "truth", "empty": "empty",
    "datetime": "moment", "datetime64": "moment", "date": "moment", "time": "moment",
    "timedelta": "moment", "timedelta64": "moment", "period": "moment",
}  # fmt: skip


def kind_of(column: Series[Any]) -> Kind:
    """What a column holds; "empty" where every value is missing.

    >>> kind_of(pandas.Series([1, 2, None]))   # doctest: +SKIP
    'number'
    """
    from pandas import CategoricalDtype
    from pandas.api import types

    dtype = column.dtype
    if not column.notna().any():
        return "empty"
    if isinstance(dtype, CategoricalDtype):
        return "text"
    if types.is_bool_dtype(dtype):
        return "truth"
    if types.is_complex_dtype(dtype):
        return "other"
    if types.is_numeric_dtype(dtype):
        return "number"
    return _KINDS.get(types.infer_dtype(column, skipna=True), "other")


def numbers_of(column: Series[Any]) -> NDArray[np.float64] | None:
    """The values as float64, NaN where one is missing; None where some are no numbers."""
    from pandas import CategoricalDtype, to_numeric
    from pandas.api import types

    dtype = column.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        return np.asarray(column.to_numpy(), dtype=np.float64)
    if isinstance(dtype, CategoricalDtype):
        column = column.astype(object)
    elif types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype):
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    if types.is_datetime64_any_dtype(dtype) or types.is_complex_dtype(dtype):
        return None
    try:
        found = to_numeric(column, errors="coerce")
        numbers = np.asarray(found.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if (np.isnan(numbers) & column.notna().to_numpy()).any() else numbers


def text_codes(column: Series[Any]) -> tuple[NDArray[np.int64], list[str]]:
    """The distinct values as texts, and for each row the number of its own; -1 where it is missing.

    Raises:
        DataError: values that are lists, or whatever else cannot be told apart.
    """
    from pandas import factorize

    try:
        codes, values = factorize(column)
    except TypeError as error:
        raise DataError(f"column {shown_name(column.name)} holds what is neither number nor text: {error}") from error
    return np.asarray(codes, dtype=np.int64), [text_of(value) for value in values]


def text_of(value: Any) -> str:
    """A value as text; a whole number is written without a fraction, whatever its type.

    >>> text_of(1.0), text_of(True), text_of("1.0")
    ('1', 'True', '1.0')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (int, float, np.integer, np.floating)):
        return _number_text(float(value)) if abs(float(value)) < WHOLE else str(value)
    return str(value)


def label_text(value: Any) -> str:
    """A label as text: "0", 0, 0.0 and "0.0" are one label.

    >>> label_text("0.0"), label_text(0), label_text("fraud")
    ('0', '0', 'fraud')
    """
    text = text_of(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return _number_text(number) if abs(number) < WHOLE else text


def _number_text(number: float) -> str:
    return str(int(number)) if math.isfinite(number) and number == int(number) else repr(number)


def require_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The names of columns, each once; one without a name is called by its place.

    Raises:
        DataError: a name comes twice, is too long or cannot be printed; or there are too many.
    """
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{where} has {len(names):,} columns; up to {MOST_COLUMNS:,} are taken")
    if not names:
        raise DataError(f"{where} has no columns")
    found = tuple(name or f"unnamed {place}" for place, name in enumerate(names, start=1))
    for name in found:
        if len(name) > LONGEST_NAME or printable(name) != name:
            raise DataError(f"{where}: {shown_name(name)} is no name for a column: too long, or it cannot be printed")
    if len(set(found)) < len(found):
        twice = dict.fromkeys(name for name in found if found.count(name) > 1)
        raise DataError(f"{where} has columns of the same name: {first_of(twice)}. Rename them")
    return found


def shown_name(name: object) -> str:
    """A column's name as a message repeats it."""
    return repr(printable(shortened(name, 60)))
