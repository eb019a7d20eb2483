"""Figures of what an autoencoder finds: scores beside the threshold, precision and recall, rivals, columns.

Made from what ``convatlas.tasks.reconstruct.metrics.AnomalyEvaluation.to_dict`` writes; matplotlib without pyplot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convatlas.reports.figures import INK, MUTED, TRAIN, VALIDATION, framed, new_figure, shortened_name
from convatlas.reports.standings import AT_STATED_PREVALENCE, AVERAGE_PRECISION, Contender, contenders
from convatlas.reports.wording import rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NORMAL, ANOMALIES = VALIDATION, TRAIN  # the page's two colours
WIDTH = 4.5  # inches: narrow, so that its text can be read on a phone
MOST_COLUMNS = 12  # drawn; the page's table has the others
DISTRIBUTIONS = (  # kind, name, colour, how much of it fills the area
    ("calibration", "calibration", MUTED, 0.0),
    ("normal", "normal", NORMAL, 0.25),
    ("anomalies", "anomalies", ANOMALIES, 0.25),
    ("rows", "these rows", NORMAL, 0.25),
)


def score_figure(test: Mapping[str, Any]) -> Figure:
    """How the scores of each kind of rows are distributed, and the threshold between them.

    >>> shares = {"edges": [0.1, 1.0, 10.0], "calibration": [0.9, 0.1], "normal": [1, 0], "anomalies": [0.2, 0.8]}
    >>> score_figure({"distributions": shares, "threshold": None}).axes[0].get_xlabel()
    'Score'
    """
    figure = new_figure(WIDTH, 2.9)
    axes = figure.add_subplot()
    shares = test["distributions"]
    for kind, name, colour, filled in DISTRIBUTIONS:
        if shares.get(kind):
            axes.stairs(
                [100 * share for share in shares[kind]], shares["edges"], color=colour, linewidth=1.4, label=name
            )
            axes.stairs([100 * share for share in shares[kind]], shares["edges"], color=colour, alpha=filled, fill=True)
    axes.set_ylim(bottom=0)
    _score_axis(axes, shares["edges"][0], shares["edges"][-1])
    axes.set_ylabel("Share of the rows of its kind (%)", color=MUTED, fontsize=9)
    _mark_threshold(axes, test["threshold"])
    _legend_above(axes)
    return figure


def precision_recall_figure(test: Mapping[str, Any]) -> Figure:
    """Precision against recall on the test rows, with what so many rows can tell and where the threshold lies.

    >>> curve = {"recall": [0.5, 1.0], "precision": [1.0, 0.4], "low": [0.9, 0.3], "high": [1.0, 0.5]}
    >>> figure = precision_recall_figure({"precision_recall": curve, "prevalence": 0.05, "threshold": None})
    >>> figure.axes[0].get_ylabel()
    'Precision (%)'
    """
    figure = new_figure(WIDTH, 2.9)
    axes = figure.add_subplot()
    curve = {name: [100 * value for value in values] for name, values in test["precision_recall"].items()}
    axes.fill_between(curve["recall"], curve["low"], curve["high"], color=NORMAL, alpha=0.18, linewidth=0)
    axes.plot(curve["recall"], curve["precision"], color=NORMAL, linewidth=1.8, label="network, with 95 % interval")
    axes.axhline(100 * test["prevalence"], color=MUTED, linewidth=1, linestyle=":", label="guessing")
    _mark_operating_point(axes, test)
    framed(axes)
    axes.set(xlim=(0, 102), ylim=(0, 104))
    axes.set_xlabel("Recall: anomalies found (%)", color=MUTED, fontsize=9)
    axes.set_ylabel("Precision (%)", color=MUTED, fontsize=9)
    _legend_above(axes)
    return figure


def threshold_figure(test: Mapping[str, Any]) -> Figure:
    """Recall, precision and false alarms for every threshold; precision is that at the stated prevalence.

    >>> curve = {"threshold": [0.1, 1.0], "precision": [0.1, 0.9], "recall": [1.0, 0.5], "false_alarm_rate": [0.9, 0.1]}
    >>> figure = threshold_figure({"by_threshold": curve, "stated_prevalence": 0.002, "threshold": None})
    >>> [text.get_text().replace("\N{NO-BREAK SPACE}", " ") for text in figure.axes[0].get_legend().get_texts()]
    ['recall', 'precision at 0.2 %', 'false alarms']
    """
    figure = new_figure(WIDTH, 2.9)
    axes = figure.add_subplot()
    curve = test["by_threshold"]
    stated = test["stated_prevalence"]
    precision = f"precision at {rate(stated)}" if stated else "precision"
    for key, name, colour, line in (
        ("recall", "recall", NORMAL, "-"),
        ("precision", precision, ANOMALIES, "-"),
        ("false_alarm_rate", "false alarms", MUTED, "--"),
    ):
        shares = [100 * share for share in curve[key]]
        axes.plot(curve["threshold"], shares, color=colour, linestyle=line, linewidth=1.6, label=name)
    axes.set_ylim(0, 104)
    _score_axis(axes, curve["threshold"][0], curve["threshold"][-1])
    axes.set_xlabel("Threshold (a score)", color=MUTED, fontsize=9)
    axes.set_ylabel("Share (%)", color=MUTED, fontsize=9)
    _mark_threshold(axes, test["threshold"])
    _legend_above(axes)
    return figure


def rivals_figure(test: Mapping[str, Any]) -> Figure:
    """The average precision of the network and of its rivals, each with its interval, the best on top.

    >>> rival = {"name": "PCA", "average_precision": 0.6, "average_precision_interval": [0.5, 0.7]}
    >>> figures = {"average_precision": 0.7, "average_precision_interval": [0.6, 0.8], "rivals": [rival]}
    >>> [text.get_text() for text in rivals_figure(figures).axes[0].get_yticklabels()]
    ['network', 'PCA']
    """
    ranked = _ranked(test, AVERAGE_PRECISION)
    rarer = {contender.name: contender for contender in _ranked(test, AT_STATED_PREVALENCE)}
    figure = new_figure(WIDTH, 0.8 + 0.42 * len(ranked))
    axes = figure.add_subplot()
    for place, contender in enumerate(ranked):
        colour = NORMAL if contender.name == "network" else MUTED
        _draw_contender(axes, place, contender, colour, filled=True)
        if contender.name in rarer:
            _draw_contender(axes, place + 0.24, rarer[contender.name], colour, filled=False)
    framed(axes)
    axes.set(xlim=(0, 1.02), ylim=(len(ranked) - 0.4, -0.5))
    axes.set_yticks(range(len(ranked)), [shortened_name(contender.name) for contender in ranked], parse_math=False)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("Average precision", color=MUTED, fontsize=9)
    if rarer:
        axes.plot([], [], "o", color=MUTED, markersize=5, label="on the test rows")
        label = f"where {rate(test['stated_prevalence'])} are anomalies"
        axes.plot([], [], "o", color=MUTED, markersize=5, fillstyle="none", label=label)
        _legend_above(axes)
    return figure


def columns_figure(columns: Sequence[Mapping[str, Any]]) -> Figure:
    """The share of each column in the scores, of anomalies and of normal rows; the first twelve.

    >>> figure = columns_figure([{"name": "V14", "share": 0.4, "normal_share": 0.1}])
    >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
    ['V14']
    """
    drawn = columns[:MOST_COLUMNS]
    figure = new_figure(WIDTH, 0.8 + 0.28 * len(drawn))
    axes = figure.add_subplot()
    for key, name, colour, offset in (
        ("share", "anomalies", ANOMALIES, -0.19),
        ("normal_share", "normal rows", NORMAL, 0.19),
    ):
        places = [place + offset for place in range(len(drawn))]
        shares = [100 * column[key] for column in drawn]
        axes.barh(places, shares, height=0.34, color=colour, alpha=0.85, linewidth=0, label=name)
    framed(axes)
    names = [shortened_name(column["name"]) for column in drawn]
    axes.set_yticks(range(len(drawn)), names, parse_math=False)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
    axes.locator_params(axis="x", nbins=5)
    axes.set_ylim(len(drawn) - 0.45, -0.55)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("Share of the score (%)", color=MUTED, fontsize=9)
    _legend_above(axes)
    return figure


def _ranked(test: Mapping[str, Any], figure: str) -> list[Contender]:
    own, rivals = contenders(test, figure)
    return sorted([*([own] if own else []), *rivals], key=lambda contender: -contender.value)


def _draw_contender(axes: Axes, height: float, contender: Contender, colour: str, *, filled: bool) -> None:
    if contender.interval is not None:
        axes.plot(contender.interval, [height, height], color=colour, linewidth=2 if filled else 1)
    axes.plot([contender.value], [height], "o", color=colour, markersize=6 if filled else 4.5,
              fillstyle="full" if filled else "none")  # fmt: skip


def _score_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis with plain numbers: scores lie orders of magnitude apart."""
    from matplotlib.ticker import LogLocator, NullFormatter

    framed(axes)
    axes.set_xscale("log")
    axes.set_xlim(*((low, high) if low < high else (low / 2, high * 2)))
    axes.xaxis.set_major_locator(LogLocator(numticks=7))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="both", length=0)
    axes.set_xlabel("Score", color=MUTED, fontsize=9)


def _mark_threshold(axes: Axes, threshold: Mapping[str, Any] | None) -> None:
    """A line at the threshold, named beside it on the side with more room; none where it lies beyond the scores."""
    low, high = axes.get_xlim()
    if threshold is None or not low <= threshold["value"] <= high:
        return
    value = threshold["value"]
    axes.axvline(value, color=INK, linewidth=1, linestyle="--")
    is_right = axes.transAxes.inverted().transform(axes.transData.transform((value, 0)))[0] > 0.5
    axes.annotate(f"alarm above {value:.3g}", (value, 1), xycoords=("data", "axes fraction"), color=INK, fontsize=8,
                  xytext=(-4 if is_right else 4, -4), textcoords="offset points", va="top",
                  ha="right" if is_right else "left")  # fmt: skip


def _mark_operating_point(axes: Axes, test: Mapping[str, Any]) -> None:
    if test["threshold"] is None or test["recall"] is None or not test["alarms"]:
        return
    precision = (test["alarms"] - test["false_alarms"]) / test["alarms"]
    axes.plot([100 * test["recall"]], [100 * precision], "o", color=INK, markersize=7, fillstyle="none",
              label="the threshold")  # fmt: skip


def _legend_above(axes: Axes) -> None:
    """Above the axes, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, fontsize=8, labelcolor=INK,
                handlelength=1.3, columnspacing=1.0, handletextpad=0.5)  # fmt: skip
