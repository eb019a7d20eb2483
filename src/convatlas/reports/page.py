"""A run as one HTML file that needs nothing else: no network, no scripts, light and dark, paper and phone.

The layout and the words are in ``run.html.jinja`` and in a template for each task; here the record is turned into what
they show.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convatlas.reports import figures
from convatlas.reports.confusions import most_confused
from convatlas.reports.inline_svg import inline_svg
from convatlas.reports.record import EvaluationRecord, HistoryRow, RunRecord
from convatlas.reports.wording import decimal, duration, grouped, percent, printable, settings

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from matplotlib.figure import Figure

CSS_VARIABLES = {
    figures.INK: "--ink",
    figures.MUTED: "--muted",
    figures.GRID: "--line",
    figures.TRAIN: "--train",
    figures.VALIDATION: "--accent",
}


def render_run(record: RunRecord) -> str:
    """The report page of a run, as HTML text.

    >>> from pathlib import Path
    >>> Path("report.html").write_text(render_run(record), encoding="utf-8")  # doctest: +SKIP

    Names of classes, files and settings are escaped: a folder called ``<script>`` is shown, not run. The same record
    gives the same bytes.
    """
    template = _environment().get_template(f"{record['task']}.html.jinja")
    return template.render(run=record, commands=_commands(record), **_OF_TASK[record["task"]](record))


def _of_classification(record: RunRecord) -> dict[str, Any]:
    """What ``classify.html.jinja`` shows besides the record itself."""
    test, best = record["test"], record["best"]
    return {
        "curves": _curves(record["history"], best["epoch"] if best else None),
        "matrix": _matrix(test) if test else None,
        "mistakes": most_confused(test["confusion"], test["classes"]) if test else [],
    }


_OF_TASK = {"classify": _of_classification}


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("convatlas.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable_unless_markup,
    )
    environment.filters.update(percent=percent, decimal=decimal, grouped=grouped, duration=duration, settings=settings)
    return environment


def _printable_unless_markup(value: Any) -> Any:
    return printable(value) if type(value) is str else value


def _curves(history: Sequence[HistoryRow], best_epoch: float | None) -> list[Markup]:
    if not history:
        return []
    about = f"by epoch, for training and validation, up to epoch {history[-1]['epoch']:g}; the values are in a table"
    return [
        _inline(figures.accuracy_curve(history, best_epoch), "accuracy", f"Accuracy {about}"),
        _inline(figures.loss_curve(history, best_epoch), "loss", f"Loss {about}"),
    ]


def _matrix(test: EvaluationRecord) -> Markup:
    about = f"Confusion matrix of {len(test['classes'])} classes: {test['correct']:,} of {test['n']:,} images correct"
    return _inline(figures.confusion_figure(test["confusion"], test["classes"]), "confusion", about)


def _inline(figure: Figure, name: str, description: str) -> Markup:
    from markupsafe import Markup

    return Markup(inline_svg(figure, name, description, CSS_VARIABLES))  # safe: an XML writer has escaped its text


def _commands(record: RunRecord) -> list[tuple[str, str]]:
    """What a reader may want next, and the command that does it."""
    run = shlex.quote(record["run_path"])
    longer = max(2, int(2 * record["history"][-1]["epoch"])) if record["history"] else 10
    has_margin = record["preprocessing"].get("resize", 0) > record["preprocessing"].get("crop", 0)
    again = ("averaging ten crops an image", " --ten-crop") if has_margin else ("or on other images", " --data FOLDER")
    return [
        ("Name the class of an image", f"convatlas predict {run} photo.jpg"),
        (f"Measure it again, {again[0]}", f"convatlas evaluate {run}{again[1]}"),
        ("Train it for longer", f"convatlas train --resume {run} --epochs {longer}"),
        ("Use it from Python", f'convatlas.load({json.dumps(record["run_path"])}).predict("photo.jpg")'),
    ]
