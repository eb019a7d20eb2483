"""A run as one HTML file that needs nothing else: no network, no scripts, light and dark, paper and phone.

The layout and the words are in ``run.html.jinja`` and in a template for each task; here the record is turned into what
they show.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convatlas.reports import anomalies, figures
from convatlas.reports.confusions import most_confused
from convatlas.reports.inline_svg import inline_svg
from convatlas.reports.record import AnomalyRunRecord, EvaluationRecord, HistoryRow, RunRecord
from convatlas.reports.standings import AVERAGE_PRECISION, broken_promise, contenders, verdicts
from convatlas.reports.wording import decimal, duration, grouped, percent, printable, rate, settings

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
MOST_CATEGORIES = 8  # of a column, that are named


def render_run(record: RunRecord | AnomalyRunRecord) -> str:
    """The report page of a run, as HTML text.

    >>> from pathlib import Path
    >>> Path("report.html").write_text(render_run(record), encoding="utf-8")  # doctest: +SKIP

    Names of classes, columns, files and settings are escaped: a folder called ``<script>`` is shown, not run. The same
    record gives the same bytes.
    """
    is_classifier = record["task"] == "classify"
    template = environment().get_template("classify.html.jinja" if is_classifier else "reconstruct.html.jinja")
    shown = _of_classification(record) if record["task"] == "classify" else _of_reconstruction(record)
    return template.render(run=record, **shown)


def _of_classification(record: RunRecord) -> dict[str, Any]:
    """What ``classify.html.jinja`` shows besides the record itself."""
    judged, best = record["test"] or record.get("validation"), record["best"]
    return {
        "speed_unit": "images/s",
        "curves": _curves(record["history"], best["epoch"] if best else None),
        "judged": judged,
        "part": "test" if record["test"] else "validation",
        "matrix": _matrix(judged) if judged else None,
        "mistakes": most_confused(judged["confusion"], judged["classes"]) if judged else [],
        "commands": _commands(record),
    }


def _of_reconstruction(record: AnomalyRunRecord) -> dict[str, Any]:
    """What ``reconstruct.html.jinja`` shows besides the record itself."""
    test, best, history = record["test"], record["best"], record["history"]
    examples = "images" if record["task"] == "reconstruct_images" else "rows"
    curve = figures.error_curve(history, best["epoch"] if best else None) if history else None
    return {
        "examples": examples,
        "one": "An image" if examples == "images" else "A row",
        "speed_unit": f"{examples}/s",
        "curves": [_inline(curve, "error", "Mean squared error by epoch; the values are in a table")] if curve else [],
        "drawn": _anomaly_figures(test) if test else {},
        "verdicts": verdicts(test) if test else [],
        "broken": broken_promise(test) if test else None,
        **{name: (test or {}).get(name) for name in ("kinds", "located", "found")},  # of images
        "ranked": _ranked(test) if test else [],
        "encoded": [_encoded_column(column) for column in record["preprocessing"].get("columns", ())],
        "encoding": {name: value for name, value in record["preprocessing"].items() if name != "columns"},
        "commands": _anomaly_commands(record),
    }


def _anomaly_figures(test: Mapping[str, Any]) -> dict[str, Markup]:
    """The figures that there is something to draw of, by name."""
    wanted = {
        "scores": (test["distributions"], anomalies.score_figure, "Distribution of the scores of each kind of rows"),
        "precision": (test["precision_recall"], anomalies.precision_recall_figure, "Precision against recall"),
        "thresholds": (
            test["by_threshold"],
            anomalies.threshold_figure,
            "Recall, precision and false alarms by threshold",
        ),
        "rivals": (_ranked(test), anomalies.rivals_figure, "Average precision of the network and of other detectors"),
    }
    drawn = {name: _inline(draw(test), name, about) for name, (there, draw, about) in wanted.items() if there}
    if test["columns"]:
        about = "Share of each column in the scores of anomalies and of normal rows"
        drawn["columns"] = _inline(anomalies.columns_figure(test["columns"]), "columns", about)
    return drawn


def _ranked(test: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The network and its rivals with their figures, best first; empty where there are no rivals."""
    own, rivals = contenders(test, AVERAGE_PRECISION)
    if own is None or not rivals:
        return []
    by_name = {rival["name"]: rival for rival in test["rivals"]} | {own.name: test}
    ranked = sorted([own, *rivals], key=lambda contender: -contender.value)
    return [(contender.name, by_name[contender.name]) for contender in ranked]


def _encoded_column(column: Mapping[str, Any]) -> tuple[str, str, str]:
    """A column's name, its kind, and how it becomes numbers."""
    rest = {key: _first_of(value) for key, value in column.items() if key not in ("name", "kind")}
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings(rest))
    return str(column["name"]), str(column.get("kind", "")), told


def _first_of(value: Any) -> Any:
    """A long list in short: a column may have thousands of categories."""
    if not isinstance(value, list | tuple) or len(value) <= MOST_CATEGORIES:
        return value
    return [*value[:MOST_CATEGORIES], f"and {len(value) - MOST_CATEGORIES:,} more"]


def environment() -> Environment:
    r"""Templates of this folder: what goes into them is escaped, and what is not there is an error.

    >>> environment().from_string("{{ name }} {{ share | percent }}").render(name="<b>", share=0.5)
    '&lt;b&gt; 50.00\xa0%'
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("convatlas.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable_unless_markup,
    )
    templates.filters.update(
        percent=percent, rate=rate, decimal=decimal, grouped=grouped, duration=duration, settings=settings
    )
    return templates


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


def _anomaly_commands(record: AnomalyRunRecord) -> list[tuple[str, str]]:
    run = shlex.quote(record["run_path"])
    longer = max(2, int(2 * record["history"][-1]["epoch"])) if record["history"] else 10
    if record["task"] == "reconstruct_images":
        return [
            ("Find what is unusual in other images, and mark where",
             f"convatlas predict {run} photo.jpg --maps marked/"),
            ("Bear fewer false alarms, or more, without training", f"convatlas threshold {run} --false-alarms 5%"),
            ("Measure it on other images", f"convatlas evaluate {run} --data FOLDER"),
            ("Train it for longer", f"convatlas train --resume {run} --epochs {longer}"),
            ("Use it from Python", f'convatlas.load({json.dumps(record["run_path"])}).predict("photo.jpg")[0].boxes'),
        ]  # fmt: skip
    return [
        ("Find what is unusual in other rows, and write every score to a file",
         f"convatlas predict {run} new.csv --out scores.csv"),
        ("Bear fewer false alarms, or more, without training", f"convatlas threshold {run} --false-alarms 0.1%"),
        ("Measure it on later rows; without labels, see whether they still look alike",
         f"convatlas evaluate {run} --data later.csv"),
        ("Train it for longer", f"convatlas train --resume {run} --epochs {longer}"),
        ("Use it from Python", f'convatlas.load({json.dumps(record["run_path"])}).predict("new.csv").highest[0]'),
    ]  # fmt: skip
