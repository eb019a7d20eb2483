"""What a person reads of a row: its score, how rare that is among normal rows, and the columns that did it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ColumnPart:
    """One column of a row in the table's own units: what it holds, what was expected, its share of the score."""

    name: str
    seen: str
    expected: str
    share: float  # 0..1


@dataclass(frozen=True)
class RowPrediction:
    """A row and what is unusual about it; a score is no probability.

    ``p_value`` is the share of normal rows with such a score or a higher one, as the calibration rows have it.
    """

    row: int  # in its table, counted from 1
    score: float
    p_value: float
    alarm: bool
    columns: tuple[ColumnPart, ...]  # those that add most to the score, first the most

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return asdict(self) | {"columns": [asdict(part) for part in self.columns]}
