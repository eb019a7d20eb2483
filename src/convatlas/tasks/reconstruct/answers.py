"""What a person reads of a row or an image: its score, how rare that is among normal ones, and what did it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.tasks.reconstruct.places import Box


@dataclass(frozen=True)
class ColumnPart:
    """One column of a row in the table's own units: what it holds, what was expected, and what the score has of it.

    The shares of all columns add up to 1. What each explains does not: it is the share of the score that goes when the
    column, alone, holds its usual value.
    """

    name: str
    seen: str
    expected: str
    share: float  # 0..1
    explains: float  # 0..1


@dataclass(frozen=True)
class RowPrediction:
    """A row and what is unusual about it; a score is no probability.

    ``p_value`` is the share of normal rows with such a score or a higher one, as the calibration rows have it.
    """

    row: int  # in its table, counted from 1
    score: float
    p_value: float
    alarm: bool
    columns: tuple[ColumnPart, ...]  # those that explain most of the score, first the most

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it."""
        return asdict(self) | {"columns": [asdict(part) for part in self.columns]}


@dataclass(frozen=True, eq=False)
class ImagePrediction:
    """An image and what is unusual about it; a score is no probability.

    ``boxes`` are in the image's own pixels, first the most unusual; ``residual`` [h, w] is how far each place, as the
    network sees it, is above what is usual there.
    """

    image: str
    score: float
    p_value: float
    alarm: bool
    boxes: tuple[Box, ...]
    residual: NDArray[np.float32]

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON has it, without the map."""
        kept = {name: getattr(self, name) for name in ("image", "score", "p_value", "alarm")}
        return kept | {"boxes": [asdict(box) for box in self.boxes]}
