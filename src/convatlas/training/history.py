"""The learning curve: one row a validation, kept as CSV and mirrored to TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convatlas import files

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

TRAIN, VALIDATION = "train_", "validation_"  # before the names of their figures


@dataclass(frozen=True)
class HistoryRow:
    """What was known at one validation.

    ``epoch`` counts passes over the training images and may be fractional. ``train`` and ``validation`` hold the task's
    figures by name; those of training are means over the steps since the row before, with dropout and augmentation on.
    """

    epoch: float
    step: int
    seconds: float
    learning_rate: float
    train: dict[str, float]
    validation: dict[str, float]
    images_per_second: float

    def flat(self) -> dict[str, float]:
        """One value a column, as files have them: ``train_loss``, ``validation_loss`` and so on.

        >>> list(HistoryRow(1.0, 10, 2.5, 0.1, {"loss": 1.5}, {"loss": 1.2}, 100.0).flat())[4:6]
        ['train_loss', 'validation_loss']
        """
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "learning_rate": self.learning_rate,
            **{f"{TRAIN}{name}": value for name, value in self.train.items()},
            **{f"{VALIDATION}{name}": value for name, value in self.validation.items()},
            "images_per_second": self.images_per_second,
        }

    @classmethod
    def from_flat(cls, columns: Mapping[str, Any]) -> HistoryRow:
        """The row that ``flat`` wrote, from numbers or their texts.

        Raises:
            KeyError, ValueError: a column is missing, or is no number.
        """
        return cls(
            epoch=float(columns["epoch"]),
            step=int(columns["step"]),
            seconds=float(columns["seconds"]),
            learning_rate=float(columns["learning_rate"]),
            train=_below(TRAIN, columns),
            validation=_below(VALIDATION, columns),
            images_per_second=float(columns["images_per_second"]),
        )


def write_csv(path: Path, rows: Sequence[HistoryRow]) -> None:
    """Replace the CSV file atomically with a header and one line a row, of which there is one at least."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].flat(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.flat() for row in rows)
    files.write_text(path, text.getvalue())


def read_csv(path: Path) -> list[HistoryRow]:
    """The rows of a history file, oldest first."""
    with path.open(newline="", encoding="utf-8") as file:
        return [HistoryRow.from_flat(row) for row in csv.DictReader(file)]


def _below(prefix: str, columns: Mapping[str, Any]) -> dict[str, float]:
    return {name.removeprefix(prefix): float(value) for name, value in columns.items() if name.startswith(prefix)}


class TensorBoardLog:
    """Writes rows as TensorBoard scalars; opened at the first row, since importing TensorBoard takes a while."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: EventFileWriter | None = None

    def add(self, row: HistoryRow) -> None:
        """Write every figure of the row under its own tag, at the row's step."""
        import time

        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(row).items()]
        self._open().add_event(Event(wall_time=time.time(), step=row.step, summary=Summary(value=values)))
        self._open().flush()

    def close(self) -> None:
        """Finish the event file."""
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> EventFileWriter:
        if self._writer is None:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._writer = EventFileWriter(str(self._directory))
        return self._writer


def _scalars(row: HistoryRow) -> dict[str, float]:
    return {
        **{f"{name}/train": value for name, value in row.train.items()},
        **{f"{name}/validation": value for name, value in row.validation.items()},
        "learning_rate": row.learning_rate,
        "images_per_second": row.images_per_second,
        "epoch": row.epoch,
    }
