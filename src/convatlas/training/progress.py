"""What a person sees while a network trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from convatlas.training.history import HistoryRow

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from convatlas.acceleration import Acceleration
    from convatlas.tasks.contract import Column, Task

REDRAW_EVERY = 0.1  # seconds
_WIDTHS = {"train": 12, "validation": 16}  # of the loss, which is called "train loss", "validation loss"


@dataclass(frozen=True)
class StepReport:
    """One training step as it is shown.

    ``progress`` is the share done, ``figures`` the means of the task's columns, ``seconds_left`` None until it can be
    told.
    """

    progress: float
    epoch: int
    figures: Mapping[str, float]
    images_per_second: float
    seconds_left: float | None


class Watch(Protocol):
    """Whoever wants to follow a training."""

    def decoding(self, done: int, total: int) -> None:
        """Hear how many images are decoded, while some are not."""

    def engine(self, acceleration: Acceleration) -> None:
        """Hear what will run the network, before the first step."""

    def weights(self, lines: Sequence[str]) -> None:
        """Hear what became of the weights that the training starts from."""

    def task(self, task: Task) -> None:
        """Hear what is learnt, before the first step."""

    def step(self, report: StepReport) -> None:
        """Hear of each training step."""

    def row(self, row: HistoryRow, is_best: bool) -> None:
        """Hear of each validation."""

    def finding(self, text: str) -> None:
        """Hear what the health check found."""

    def close(self) -> None:
        """The training is over."""


class Silent:
    """Follows nothing."""

    def decoding(self, done: int, total: int) -> None:
        """Ignore."""

    def engine(self, acceleration: Acceleration) -> None:
        """Ignore."""

    def weights(self, lines: Sequence[str]) -> None:
        """Ignore."""

    def task(self, task: Task) -> None:
        """Ignore."""

    def step(self, report: StepReport) -> None:
        """Ignore."""

    def row(self, row: HistoryRow, is_best: bool) -> None:
        """Ignore."""

    def finding(self, text: str) -> None:
        """Ignore."""

    def close(self) -> None:
        """Ignore."""


class RichWatch:
    """A live bar on a terminal and a line for each validation; only the lines where output goes to a file.

    With ``explain`` it also says which kernel runs each layer.
    """

    def __init__(self, *, explain: bool = False) -> None:
        self._explain = explain
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._drawn_header = False
        self._columns: tuple[Column, ...] = ()
        self._examples = "images"

    def decoding(self, done: int, total: int) -> None:
        """Move the bar."""
        progress, task = self._bar()
        progress.update(
            task, completed=done / max(total, 1), description="decoding", figures=f"{done:,} of {total:,} images"
        )

    def engine(self, acceleration: Acceleration) -> None:
        """Print what runs the network."""
        progress, _ = self._bar()
        text = acceleration.explained() if self._explain else f"engine  {acceleration}"
        progress.console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)

    def weights(self, lines: Sequence[str]) -> None:
        """Print what was loaded and what not."""
        progress, _ = self._bar()
        for line in lines:
            progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def task(self, task: Task) -> None:
        """Remember which figures there will be, and of what."""
        self._columns, self._examples = task.columns, task.examples

    def step(self, report: StepReport) -> None:
        """Move the bar."""
        progress, task = self._bar()
        figures = "  ".join(f"{column.name} {column.short(report.figures[column.name])}" for column in self._columns)
        progress.update(
            task,
            completed=report.progress,
            description=f"epoch {report.epoch + 1}",
            figures=f"{figures}  {report.images_per_second:,.0f} {self._examples}/s",
            left=_clock(report.seconds_left),
        )

    def row(self, row: HistoryRow, is_best: bool) -> None:
        """Print the figures of a validation; a star marks the best so far."""
        progress, _ = self._bar()
        if not self._drawn_header:
            progress.console.print(f"[dim]{_header(self._columns, self._examples)}[/]")
            self._drawn_header = True
        star = "★" if progress.console.encoding.startswith("utf") else "*"
        progress.console.print(
            _line(row, self._columns) + (f"  [green]{star}[/]" if is_best else ""),
            highlight=False,
        )

    def finding(self, text: str) -> None:
        """Print what the health check found."""
        from rich.markup import escape

        progress, _ = self._bar()
        progress.console.print(f"[yellow]! {escape(text)}[/]", highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()

    def _bar(self) -> tuple[Progress, TaskID]:
        if self._progress is None or self._task is None:
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[figures]}"),
                TextColumn("[dim]{task.fields[left]} left[/]"),
                refresh_per_second=1 / REDRAW_EVERY,
                transient=True,
            )
            self._task = self._progress.add_task("", total=1.0, figures="", left="-:--")
            if self._progress.console.is_terminal:
                self._progress.start()
        return self._progress, self._task


def _header(columns: Sequence[Column], examples: str) -> str:
    figures = [*_titles("train", columns), *_titles("validation", columns)]
    return " ".join([f"{'epoch':>6}", *figures, f"{f'{examples}/s':>10}", f"{'time':>7}"])


def _titles(part: str, columns: Sequence[Column]) -> list[str]:
    """The loss is called by whose it is; the figures beside it are of the same part."""
    first, *others = columns
    return [f"{f'{part} {first.name}':>{_WIDTHS[part]}}", *(f"{column.name:>9}" for column in others)]


def _line(row: HistoryRow, columns: Sequence[Column]) -> str:
    figures = [*_texts("train", row.train, columns), *_texts("validation", row.validation, columns)]
    return " ".join([f"{row.epoch:6.2f}", *figures, f"{row.images_per_second:10,.0f}", f"{_clock(row.seconds):>7}"])


def _texts(part: str, figures: Mapping[str, float], columns: Sequence[Column]) -> list[str]:
    first, *others = (column.text(figures[column.name]) for column in columns)
    return [f"{first:>{_WIDTHS[part]}}", *(f"{text:>9}" for text in others)]


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
