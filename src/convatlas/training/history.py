"""The learning curve: one row a validation, kept as CSV and mirrored to TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from convatlas import files

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter


@dataclass(frozen=True)
class HistoryRow:
    """What was known at one validation.

    ``epoch`` counts passes over the training images and may be fractional; losses are nats per image; accuracies are
    shares; training figures are means over the steps since the row before, with dropout and augmentation on.
    """

    epoch: float
    step: int
    seconds: float
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    images_per_second: float


COLUMNS = tuple(field.name for field in fields(HistoryRow))


def write_csv(path: Path, rows: Sequence[HistoryRow]) -> None:
    """Replace the CSV file atomically with a header and one line a row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    files.write_text(path, text.getvalue())


def read_csv(path: Path) -> list[HistoryRow]:
    """The rows of a history file, oldest first."""
    with path.open(newline="", encoding="utf-8") as file:
        return [_row_from(row) for row in csv.DictReader(file)]


def _row_from(texts: dict[str, str]) -> HistoryRow:
    step = int(texts.pop("step"))
    return HistoryRow(step=step, **{name: float(text) for name, text in texts.items()})


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
        "loss/train": row.train_loss,
        "loss/validation": row.validation_loss,
        "accuracy/train": row.train_accuracy,
        "accuracy/validation": row.validation_accuracy,
        "learning_rate": row.learning_rate,
        "images_per_second": row.images_per_second,
        "epoch": row.epoch,
    }
