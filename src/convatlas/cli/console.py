"""How results look in a terminal."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from convatlas.cli.text import Row, fitting, no_room_for, print_lines
from convatlas.reports.wording import printable, times

if TYPE_CHECKING:
    from rich.progress import TaskID

    from convatlas.acceleration import Acceleration
    from convatlas.assessment.classifier import EvaluationReport
    from convatlas.runs import Run
    from convatlas.runs.cards import Card
    from convatlas.tasks.classify.task import Prediction

MOST_CLASSES_SHOWN = 20
INTERRUPTED = 130


def print_json(content: Any) -> None:
    """JSON for programs: plain, never coloured or wrapped."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def wide_console() -> Console:
    """A console whose tables are not squeezed into 80 columns when they go to a file or another program.

    $COLUMNS, which shells keep to themselves unless a person exports it, is obeyed there too.
    """
    console = Console(emoji=False, highlight=False)
    return (
        console
        if console.is_terminal or os.environ.get("COLUMNS", "").isdigit()
        else Console(emoji=False, highlight=False, width=200)
    )


@contextmanager
def counting() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal for calls that are counted, with the time left; yields what is told of them."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(emoji=False, stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        yield tell


@contextmanager
def saying() -> Iterator[Callable[[str], None]]:
    """On a terminal, what is being done just now; yields what is told of it."""
    console = Console(emoji=False, stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("") as status:
        yield lambda what: status.update(f"[dim]{escape(what)}[/]")


def plain_table(*columns: str) -> Table:
    """A table without lines; columns after the first are figures, aligned right."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", overflow="fold")
    return table


def print_run_summary(run: Run) -> int:
    """What a training ended with and what to do next; returns the exit code."""
    from convatlas.assessment.anomalies import kept_test
    from convatlas.cli.anomalies import print_anomaly_summary
    from convatlas.runs import AnomalyRun

    console = Console(emoji=False, highlight=False, soft_wrap=True)
    card, path = run.card, escape(shlex.quote(str(run.path)))
    if card.best:
        validated = f"n = {card.data.counts['validation']:,}{_guessed(card.data)}"
        console.print(f"best validation {card.best_text} at epoch {card.best['epoch']:.4g} ({validated})")
    if card.status == "interrupted":
        console.print(f"[yellow]stopped; nothing is lost.[/] Go on with: convatlas train --resume {path}")
        return INTERRUPTED
    if isinstance(run, AnomalyRun):
        if (record := kept_test(run)) is not None:
            print_anomaly_summary(record, card.test_evaluations)
    else:
        _print_test_accuracy(console, card)
        _print_baseline(console, card)
    console.print(f"run     {escape(str(run.path))}")
    console.print(f"report  {escape(str(run.path / 'report.html'))}")
    console.print(f"next    convatlas predict {path} {'TABLE' if card.task == 'reconstruct' else 'IMAGE...'}")
    return 0


def _guessed(data: Any) -> str:
    """What a validation accuracy is to be read beside, where the card has it."""
    share = getattr(data, "guessing", None)
    return "" if share is None else f"; always answering {escape(data.most_frequent)} would give {share:.1%}"


def _print_test_accuracy(console: Console, card: Card) -> None:
    if card.test is None:
        console.print("no test set was given: the validation accuracy chose the weights and so flatters them")
        return
    low, high = card.test["interval"]
    console.print(
        f"[bold]test accuracy {card.test['accuracy']:.2%}[/]  "
        f"(95 % interval {low:.2%} to {high:.2%}, n = {card.test['n']:,}; chosen on validation, tested "
        f"{times(card.test_evaluations)})"
    )
    if card.test.get("guessing") is not None:
        console.print(_beside(card.test["balanced_accuracy"], card.test["most_frequent"], card.test["guessing"]))


def _beside(balanced: float, most_frequent: str, guessing: float) -> str:
    """What an accuracy is to be read beside."""
    return f"balanced accuracy {balanced:.2%}   always answering {escape(most_frequent)} would give {guessing:.1%}"


def _print_baseline(console: Console, card: Card) -> None:
    """What the weights that a training started from are worth as they are."""
    baseline = getattr(card, "baseline", None)
    if baseline is None:
        return
    from convatlas.transfer.baseline import Baseline

    console.print(f"without training, on the same {baseline.part} images:")
    for line in Baseline.of_card(baseline).lines():
        console.print(f"  {escape(line)}")


def print_evaluation(report: EvaluationReport) -> None:
    """Accuracy with its interval, the classes and the place of the figure."""
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    evaluation = report.evaluation
    low, high = evaluation.interval
    console.print(
        f"[bold]accuracy {evaluation.accuracy:.2%}[/]  (95 % interval {low:.2%} to {high:.2%}, n = {evaluation.n:,})"
    )
    console.print(_beside(evaluation.balanced_accuracy, evaluation.most_frequent, evaluation.guessing))
    top_k = f"top-{evaluation.k} {evaluation.top_k_accuracy:.2%}   " if evaluation.k > 1 else ""
    console.print(f"{top_k}loss {evaluation.loss:.4f}   on {escape(report.images)}")
    for remark in report.remarks:
        console.print(f"[yellow]! {escape(remark)}[/]")
    table = plain_table("class", "n", "precision", "recall", "F1")
    shown = [score for score in evaluation.per_class if score.support] or evaluation.per_class
    for score in shown[:MOST_CLASSES_SHOWN]:
        figures = (f"{value:.1%}" for value in (score.precision, score.recall, score.f1))
        table.add_row(escape(score.name), str(score.support), *figures)
    console.print(table)
    hidden = len(evaluation.per_class) - len(shown[:MOST_CLASSES_SHOWN])
    if hidden > 0:
        console.print(f"... and {hidden:,} more classes; --json prints them all")
    if report.figure_path is not None:
        console.print(f"confusion matrix  {escape(str(report.figure_path))}")


def print_acceleration(acceleration: Acceleration) -> None:
    """What ran the network, and the kernel of each layer."""
    Console(emoji=False, highlight=False, markup=False, soft_wrap=True).print(acceleration.explained())


def print_predictions(predictions: Sequence[Prediction]) -> None:
    """The classes of each image, best first."""
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    for prediction in predictions:
        unlike = "  [yellow]! unlike the training's pictures[/]" if prediction.unlike else ""
        console.print(f"[bold]{escape(prediction.image)}[/]{unlike}")
        for name, probability in prediction.top:
            console.print(f"  {probability:7.2%}  {escape(name)}")


def unlike_warning(predictions: Sequence[Prediction]) -> str | None:
    """One line on images that look unlike those a run was trained on, by what is most unusual; None without any."""
    unlike = [(each.image, each.unlike[0]) for each in predictions if each.unlike]
    if not unlike:
        return None
    if len(unlike) == 1:
        image, word = unlike[0]
        return (
            f"! {printable(image)} is unlike the pictures it was trained on: {word} than 99.9 % of them; the answer "
            "may mean little"
        )
    counts = Counter(word for _, word in unlike).most_common()
    how = ", ".join(f"{count:,} {word}" for word, count in counts)
    return (
        f"! {len(unlike):,} of {len(predictions):,} pictures are unlike those it was trained on: {how} than 99.9 % of "
        "them; their answers may mean little"
    )


def print_runs(runs: Sequence[Run], root: Path) -> None:
    """One line a run."""
    console = wide_console()
    if not runs:
        console.print(
            f"no runs in {escape(str(root))}; make one: convatlas train lenet5 --data fashion-mnist", soft_wrap=True
        )
        return
    rows: list[Row] = [("run", "model", "data", "status", "validation", "test")]
    for run in runs:
        card = run.card
        names = (printable(name) for name in (run.path.name, card.model.name, card.data.name))
        rows.append((*names, run.status, card.best_text if card.best else "-", card.test_text if card.test else "-"))
    # A run's own name, which is there to be copied, mostly has those of network and data in it.
    (first, *lines), dropped = fitting(rows, (4, 5), ("data", "model", "status", "validation"), console.width)
    print_lines(console, first, style="bold")
    print_lines(console, *lines, *no_room_for(dropped, console.width))
