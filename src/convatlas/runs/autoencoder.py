"""The run of an autoencoder: says how unusual rows are, and which columns make them so."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import RunError
from convatlas.runs.anomalies import AnomalyRun
from convatlas.runs.cards import ReconstructionCard

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

    from convatlas.models.contract import Autoencoder
    from convatlas.tasks.reconstruct.answers import RowPrediction

ROWS_AT_ONCE = 16_384  # that are scored; bounds the memory
ROWS_READ_AT_ONCE = 131_072  # of a file
COLUMNS_NAMED = 5  # of a row that is explained


@dataclass(frozen=True, eq=False)
class Calibration:
    """The scores of normal rows that were not learnt from, and what each column adds to them."""

    scores: NDArray[np.float64]  # [n]
    columns: NDArray[np.float64]  # [n, columns]


@dataclass(frozen=True, eq=False)
class Scored:
    """The rows of a table, scored; ``highest`` are explained, first the highest."""

    scores: NDArray[np.float64]  # [n]
    p_values: NDArray[np.float64]  # [n]
    alarms: NDArray[np.bool_]  # [n]
    highest: tuple[RowPrediction, ...]


class AutoencoderRun(AnomalyRun, card_type=ReconstructionCard):
    """An autoencoder, how rows are encoded for it, and the scores of normal rows.

    >>> run = Run.open("runs/2026-11-26-autoencoder_plain-payments-3f2a")  # doctest: +SKIP
    >>> run.predict("new.csv").highest[0].columns[0].name  # doctest: +SKIP
    'V14'
    """

    card: ReconstructionCard
    examples: ClassVar[str] = "rows"

    def __init__(self, path: Path, card: ReconstructionCard) -> None:
        super().__init__(path, card)
        self._model: Autoencoder | None = None

    def model(self) -> Autoencoder:
        """The network with its best weights, in evaluation mode; built once.

        Raises:
            RunError: there are no weights yet, or they are not those of this network.
        """
        from convatlas.models import outline_autoencoder

        if self._model is None:
            card = self.card.model
            self._model = self.with_weights(outline_autoencoder(card.name, columns=card.columns, **card.settings))
        return self._model

    def rebuilt(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network makes of encoded rows, float32 [n, features] -> the same."""
        pieces = [rebuilt.numpy() for _, rebuilt in self._passed(rows)]
        return np.concatenate(pieces) if pieces else rows

    def scored(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The score of each of some encoded rows [n], and what each column adds to it [n, columns].

        Raises:
            DataError: a row is rebuilt as numbers that are not finite.
        """
        from convatlas.tasks.reconstruct.explanation import column_errors
        from convatlas.tasks.reconstruct.task import errors

        owner, columns = self.card.encoding.owner, len(self.card.encoding.names)
        parts = [column_errors(errors(rebuilt, piece), owner, columns) for piece, rebuilt in self._passed(rows)]
        added = np.concatenate(parts) if parts else np.zeros((0, columns))
        return added.sum(axis=1), added

    def calibration(self) -> Calibration:
        """The scores of the calibration rows.

        Raises:
            RunError: the training has not come to its end, or the file is not the run's.
        """
        rows, columns = self.card.data.counts.get("calibration", 0), len(self.card.encoding.names)
        return Calibration(**self.kept_calibration({"scores": (rows,), "columns": (rows, columns)}))

    def keep_calibration(self, rows: NDArray[np.float32]) -> None:
        """Score the encoded calibration rows and keep the scores."""
        scores, columns = self.scored(rows)
        self.keep_calibration_of(scores=scores, columns=columns)

    def predict(self, rows: Any, *, explain: int = 10) -> Scored:
        """Score the rows of a table, a piece at a time, and explain the highest.

        >>> scored = run.predict("new.csv", explain=3)  # doctest: +SKIP
        >>> scored.highest[0].columns[0].name  # doctest: +SKIP
        'V14'

        Args:
            rows: a .csv, .parquet or .npz file, a pandas DataFrame, or a NumPy array [n, columns].
            explain: how many rows to explain.

        Raises:
            DataError: no such file, or it has not the columns that the network was trained on.
            RunError: the run is not calibrated.
        """
        from convatlas.data.tables import read_chunks
        from convatlas.tasks.reconstruct.thresholds import p_values

        if not isinstance(explain, int) or isinstance(explain, bool) or explain < 0:
            raise RunError(f"explain is how many rows to explain, 0 or more; received {explain!r}")
        calibration, encoding = self.calibration(), self.card.encoding
        scores: list[NDArray[np.float64]] = []
        highest: list[tuple[float, int, DataFrame]] = []  # the row as a table of one
        first = 1
        for chunk in read_chunks(rows, ROWS_READ_AT_ONCE, text=encoding.text_columns):
            encoded = encoding.encode(chunk, first_row=first)
            scores.append(self._scores(encoded))
            order = np.argsort(-scores[-1], kind="stable")[:explain]
            found = [(float(scores[-1][i]), -(first + int(i)), chunk.iloc[[i]]) for i in order]
            highest = heapq.nlargest(explain, highest + found, key=lambda row: row[:2])
            first += len(chunk)
        every = np.concatenate(scores) if scores else np.zeros(0)
        return Scored(
            scores=every,
            p_values=p_values(calibration.scores, every),
            alarms=every > self.card.threshold.value if self.card.threshold else np.zeros(len(every), dtype=bool),
            highest=tuple(row for _, number, frame in highest for row in self.explained(frame, [-number], calibration)),
        )

    def explained(self, frame: DataFrame, numbers: Sequence[int], calibration: Calibration) -> list[RowPrediction]:
        """Rows with the columns that explain most of their scores; ``numbers`` are those of the rows in their table."""
        from convatlas.tasks.reconstruct.answers import ColumnPart, RowPrediction
        from convatlas.tasks.reconstruct.explanation import explained_by
        from convatlas.tasks.reconstruct.thresholds import p_values

        if not numbers:
            return []
        encoding, threshold = self.card.encoding, self.card.threshold
        rows = encoding.encode(frame, first_row=numbers[0])
        rebuilt = self.rebuilt(rows)
        scores, added = self.scored(rows)
        rarity = p_values(calibration.scores, scores)
        found = []
        for place, number in enumerate(numbers):
            explains = explained_by(self._scores, rows[place], encoding.usual, encoding.owner, len(encoding.names))
            order = np.lexsort((-added[place], -explains))[:COLUMNS_NAMED]
            parts = tuple(
                ColumnPart(
                    encoding.names[column],
                    seen=encoding.shown(frame, place, int(column)),
                    expected=encoding.decode_column(rebuilt[place], int(column)),
                    share=float(added[place, column] / scores[place]) if scores[place] else 0.0,
                    explains=float(explains[column]),
                )
                for column in order
            )
            is_alarm = threshold is not None and bool(scores[place] > threshold.value)
            found.append(RowPrediction(int(number), float(scores[place]), float(rarity[place]), is_alarm, parts))
        return found

    def _scores(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        from convatlas.tasks.reconstruct.task import scores

        pieces = [scores(rebuilt, piece).numpy() for piece, rebuilt in self._passed(rows)]
        return np.concatenate(pieces) if pieces else np.zeros(0)

    def _passed(self, rows: NDArray[np.float32]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pieces of encoded rows, and what the network makes of them."""
        import torch

        network = self.model()
        for start in range(0, len(rows), ROWS_AT_ONCE):
            piece = torch.from_numpy(rows[start : start + ROWS_AT_ONCE])
            with torch.inference_mode():
                rebuilt = network(piece)
            yield piece, rebuilt
