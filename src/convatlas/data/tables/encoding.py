"""How the columns of a table become the numbers a network is shown, and back: learnt once, kept with the run.

Numbers are centred and scaled; a text is one of a few categories. What is kept is plain data that a stranger may have
written, so all of it is bounded.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from convatlas.data.source import printable
from convatlas.data.tables.columns import (
    LONGEST_NAME,
    MOST_COLUMNS,
    kind_of,
    numbers_of,
    shown_name,
    text_codes,
    text_of,
)
from convatlas.data.tables.table import no_such_column
from convatlas.errors import DataError, shortened

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Scaling = Literal["none", "standard", "robust"]
SCALINGS: tuple[Scaling, ...] = ("none", "standard", "robust")

MOST_CATEGORIES = 64  # of a column; rarer texts are "other"
FEW_TEXTS = 16  # are categories even where each comes once
LONGEST_CATEGORY = 200  # characters; a longer text is "other"
MOST_FEATURES = 100_000  # numbers a row is encoded as
FARTHEST = 1e12  # from the centre that a number is shown to a network; its square is still one of float32
LARGEST = 1e140  # of a number that is learnt from; the squares of many of them still add up
QUARTILES_OF_ONE_SIGMA = 1.3489795  # between the quartiles of a normal distribution

EXPECTED_DIGITS = 3  # of a number that a network expects; more would be more than it knows

MISSING, OTHER = "missing", "another value"  # as a person reads them

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class NumberColumn(BaseModel):
    """A column of numbers: (value - centre) / scale; ``fill`` stands where a value is missing.

    Where the rows that it was learnt from miss some, a second number says whether this one is missing.
    """

    model_config = _STRICT

    kind: Literal["number"] = "number"
    name: Name
    centre: Number
    scale: Annotated[float, Field(ge=1 / LARGEST, le=LARGEST)]
    fill: Number
    has_missing: bool = False

    @property
    def width(self) -> int:
        """Numbers that one value becomes."""
        return 1 + self.has_missing

    def write(self, column: Series[Any], out: NDArray[np.float32], first_row: int) -> None:
        """Encode a column into ``out``, [n, width]."""
        values = numbers_of(column)
        if values is None:
            raise _no_number(column, self.name, first_row)
        is_missing = np.isnan(values)
        if np.isinf(values).any():
            row = int(np.flatnonzero(np.isinf(values))[0])
            raise DataError(
                f"row {first_row + row:,}: {values[row]} in column {shown_name(self.name)} is not finite. "
                "Leave the row out, or the value empty"
            )
        if self.has_missing:
            out[:, 1] = is_missing
        with np.errstate(over="ignore"):  # what is too far away is brought back
            scaled = (np.where(is_missing, self.fill, values) - self.centre) / self.scale
        out[:, 0] = np.clip(scaled, -FARTHEST, FARTHEST)

    def usual(self) -> list[float]:
        """The usual value, encoded: what stands where one is missing."""
        return [(self.fill - self.centre) / self.scale, 0.0][: self.width]

    def read(self, numbers: NDArray[np.floating[Any]]) -> str:
        """The value that encoded numbers, [width], stand for."""
        if self.has_missing and numbers[1] > 0.5:
            return MISSING
        return number_text(_sum(float(numbers[0]) * self.scale, self.centre), EXPECTED_DIGITS)


class CategoryColumn(BaseModel):
    """A column of texts: a number for each category, one for any other text, one for a missing one.

    One of them is 1, the others are 0. ``most_frequent`` is the place of a category.
    """

    model_config = _STRICT

    kind: Literal["category"] = "category"
    name: Name
    categories: Annotated[
        tuple[Annotated[str, Field(max_length=LONGEST_CATEGORY)], ...],
        Field(min_length=1, max_length=MOST_CATEGORIES, strict=False),
    ]
    most_frequent: Annotated[int, Field(ge=0, lt=MOST_CATEGORIES)] = 0

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.categories)) < len(self.categories):
            raise ValueError("a category comes twice")
        if self.most_frequent >= len(self.categories):
            raise ValueError(f"no category has the place {self.most_frequent}")
        return self

    @property
    def width(self) -> int:
        """Numbers that one value becomes."""
        return len(self.categories) + 2

    def write(self, column: Series[Any], out: NDArray[np.float32], first_row: int) -> None:  # noqa: ARG002  # any text goes
        """Encode a column into ``out``, [n, width], which is zero."""
        codes, texts = text_codes(column)
        known = {text: place for place, text in enumerate(self.categories)}
        other, missing = len(known), len(known) + 1
        places = np.array([*(known.get(text, other) for text in texts), missing])
        out[np.arange(len(codes)), places[codes]] = 1  # a missing one has the code -1, which is the last place

    def usual(self) -> list[float]:
        """The most frequent category, encoded."""
        return [float(place == self.most_frequent) for place in range(self.width)]

    def read(self, numbers: NDArray[np.floating[Any]]) -> str:
        """The category that encoded numbers, [width], are nearest to."""
        return _text((*self.categories, OTHER, MISSING)[int(np.argmax(numbers))])


ColumnEncoding = Annotated[NumberColumn | CategoryColumn, Field(discriminator="kind")]


class RowEncoding(BaseModel):
    """The encoding of every column, in order.

    >>> encoding = RowEncoding.fit(frame, "standard")   # doctest: +SKIP
    >>> encoding.encode(frame).shape == (len(frame), encoding.width)   # doctest: +SKIP
    True
    """

    model_config = _STRICT

    scaling: Scaling
    columns: Annotated[tuple[ColumnEncoding, ...], Field(min_length=1, max_length=MOST_COLUMNS, strict=False)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.names)) < len(self.columns):
            raise ValueError("a column comes twice")
        if self.width > MOST_FEATURES:
            raise ValueError(f"rows of {self.width:,} numbers; up to {MOST_FEATURES:,} are taken")
        return self

    @classmethod
    def fit(cls, frame: DataFrame, scaling: Scaling = "standard") -> Self:
        """Learn the encoding of all columns of some rows.

        Args:
            frame: the rows to learn from, without label and time.
            scaling: of numbers: "none"; "standard", mean and standard deviation; "robust", median and quartiles.

        Raises:
            DataError: columns that no network here is shown: moments, texts of which hardly any comes twice.
        """
        if scaling not in SCALINGS:
            raise DataError(f"scaling is one of {', '.join(SCALINGS)}; received {scaling!r}")
        if len(frame.columns) > MOST_COLUMNS:
            raise DataError(f"{len(frame.columns):,} columns; up to {MOST_COLUMNS:,} are taken")
        columns, refused = [], []
        for name in frame.columns:
            found = _fit_column(frame[name], scaling)
            if isinstance(found, str):
                refused.append(f"{shown_name(name)} {found}")
            else:
                columns.append(found)
        if refused:
            more = f"; and {len(refused) - 3:,} more" if len(refused) > 3 else ""
            raise DataError(
                f"columns that a network cannot be shown: {'; '.join(refused[:3])}{more}. Leave them out of the table"
            )
        width = sum(column.width for column in columns)
        if width > MOST_FEATURES:
            raise DataError(f"the columns become {width:,} numbers a row; up to {MOST_FEATURES:,} are taken")
        return cls(scaling=scaling, columns=tuple(columns))

    @property
    def width(self) -> int:
        """Numbers that a row becomes."""
        return sum(column.width for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Names of the columns of text, which are to be read as such."""
        return tuple(column.name for column in self.columns if column.kind == "category")

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """For each number that a row becomes, the place of the column it comes from, [width]."""
        return np.repeat(np.arange(len(self.columns)), [column.width for column in self.columns])

    @cached_property
    def usual(self) -> NDArray[np.float32]:
        """A row of usual values, encoded, [width]: medians, and the most frequent categories."""
        return np.concatenate([np.array(column.usual(), dtype=np.float32) for column in self.columns])

    def encode(self, frame: DataFrame, first_row: int = 1) -> NDArray[np.float32]:
        """Rows as a network is shown them, float32 [n, width]; columns that it does not know are left alone.

        Args:
            frame: n rows.
            first_row: what messages call the first of them.

        Raises:
            DataError: by row and column: a number that is not finite, a text among numbers; a column is not there.
        """
        present = set(frame.columns)
        missing = [name for name in self.names if name not in present]
        if missing:
            error = no_such_column(missing[0], list(frame.columns), "the table")
            raise DataError(f"{error}{f' ({len(missing) - 1:,} more are not there)' if missing[1:] else ''}")
        encoded = np.zeros((len(frame), self.width), dtype=np.float32)
        for column, start in zip(self.columns, self._starts, strict=True):
            column.write(frame[column.name], encoded[:, start : start + column.width], first_row)
        return encoded

    def shown(self, frame: DataFrame, row: int, column: int) -> str:
        """A value of a table as a person reads it, by the position of its row and the place of its column."""
        from pandas import isna

        value = frame[self.columns[column].name].iloc[row]
        if isna(value):
            return MISSING
        if self.columns[column].kind == "number":
            try:
                return number_text(float(value))
            except (TypeError, ValueError):
                pass
        return _text(text_of(value))

    def decode_column(self, features: NDArray[np.floating[Any]], column: int) -> str:
        """What the encoded row, [width], says of a column, in the table's own units."""
        start = self._starts[column]
        return self.columns[column].read(np.asarray(features).reshape(-1)[start : start + self.columns[column].width])

    @cached_property
    def _starts(self) -> list[int]:
        widths = np.array([column.width for column in self.columns])
        starts: list[int] = (np.cumsum(widths) - widths).tolist()
        return starts


def _fit_column(column: Series[Any], scaling: Scaling) -> NumberColumn | CategoryColumn | str:
    """The encoding of a column, or why there is none."""
    kind = kind_of(column)
    if kind in ("number", "empty"):
        return _fit_number(column, scaling)
    if kind in ("text", "truth"):
        return _fit_category(column)
    return "holds moments: name it as the time" if kind == "moment" else "holds neither numbers nor text"


def _fit_number(column: Series[Any], scaling: Scaling) -> NumberColumn | str:
    values = numbers_of(column)
    assert values is not None, "its kind says so"
    known = values[~np.isnan(values)]
    has_missing = len(known) < len(values)
    name = str(column.name)
    if not len(known):
        return NumberColumn(name=name, centre=0.0, scale=1.0, fill=0.0, has_missing=True)
    if not np.isfinite(known).all() or np.abs(known).max() > LARGEST:
        return "has numbers that are not finite, or nearly so"
    centre, scale = _centre_and_scale(known, scaling)
    return NumberColumn(name=name, centre=centre, scale=scale, fill=float(np.median(known)), has_missing=has_missing)


def _centre_and_scale(known: NDArray[np.float64], scaling: Scaling) -> tuple[float, float]:
    if scaling == "none":
        return 0.0, 1.0
    centre, scale = float(known.mean()), float(known.std())
    if scaling == "robust":
        low, middle, high = (float(value) for value in np.quantile(known, (0.25, 0.5, 0.75)))
        centre, scale = middle, (high - low) / QUARTILES_OF_ONE_SIGMA or scale
    # Of a column that is all one number, rounding makes a spread of its own.
    return centre, scale if scale > 1e-12 * abs(centre) and scale >= 1 / LARGEST else 1.0


def _fit_category(column: Series[Any]) -> CategoryColumn | str:
    codes, texts = text_codes(column)
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    order = sorted(range(len(texts)), key=lambda place: (-counts[place], texts[place]))
    usable = [place for place in order if len(texts[place]) <= LONGEST_CATEGORY]
    kept = usable[:MOST_CATEGORIES]
    rows = int(counts.sum())
    is_many = len(texts) > max(FEW_TEXTS, rows / 2) or counts[kept].sum() < rows / 2
    if is_many or not kept:
        return f"holds {len(texts):,} different texts in {rows:,} rows, too many for categories"
    # Values of several types may be the same text.
    categories = sorted({texts[place] for place in kept})
    first = categories.index(texts[kept[0]])
    return CategoryColumn(name=str(column.name), categories=tuple(categories), most_frequent=first)


def _no_number(column: Series[Any], name: str, first_row: int) -> DataError:
    from pandas import Series, to_numeric

    objects = column.astype(object)
    for row, value in enumerate(objects):
        one = Series([value], dtype=object)
        if one.notna().all() and (isinstance(value, complex) or to_numeric(one, errors="coerce").isna().all()):
            seen = printable(shortened(value, 40))
            return DataError(
                f"row {first_row + row:,}: {seen!r} in column {shown_name(name)} is no number, and the network was "
                "trained on numbers there"
            )
    return DataError(f"column {shown_name(name)} holds no numbers, and the network was trained on numbers there")


def number_text(number: float, digits: int | None = None) -> str:
    """A number as a person reads it, rounded to ``digits`` that count; a whole one without a fraction.

    >>> number_text(3.0), number_text(-0.123456789), number_text(1879.18, digits=3)
    ('3', '-0.123457', '1880')
    """
    rounded = number if digits is None else float(f"{number:.{digits}g}")
    is_whole = rounded % 1 == 0 and abs(rounded) < 1e15  # the remainder of an infinite one is no number
    return str(int(rounded)) if is_whole else f"{rounded:.6g}"


def _sum(one: float, other: float) -> float:
    """Rounded as far as float32 goes, so that what should be 0 is no 5.7e-09."""
    largest, total = max(abs(one), abs(other)), one + other
    return round(total, 6 - math.floor(math.log10(largest))) if 0 < largest < math.inf else total


def _text(text: str) -> str:
    return printable(shortened(text, 60))
