"""Figures of a run as matplotlib objects: confusion matrix and learning curves, to save or to put into a page.

matplotlib's object interface is used throughout, without pyplot: no global figure, no window.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convatlas.errors import ConvatlasError
from convatlas.files import replacing
from convatlas.reports.record import HistoryRow, ReconstructionHistoryRow
from convatlas.reports.wording import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One colour per role. The page replaces each by a CSS variable, so that a figure follows light and dark.
INK = "#1f2328"
MUTED = "#59636e"
GRID = "#d1d9e0"
TRAIN = "#b35900"
VALIDATION = "#1a5fd0"
ON_STRONG = "#fffffe"  # text on a strongly coloured cell; stays light in both themes

SUFFIXES = (".png", ".svg", ".pdf")
LONGEST_NAME = 24  # characters of a class name on an axis
MOST_ANNOTATED = 20  # classes up to which every cell of a confusion matrix carries its count
MOST_NAMED = 100  # classes up to which every row is named


def confusion_figure(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """The confusion matrix as a picture: rows are true classes, columns are answers, colour is the share of the row.

    The colour runs with the square root of the share, so that rare confusions show. Up to 20 classes each cell carries
    its count; up to 100 each row is named.

    >>> figure = confusion_figure([[8, 2], [1, 9]], ["cat", "dog"])
    >>> figure.axes[0].get_title(loc="left")
    '17 of 20 images correct (85.0 %)'
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    # From transparent, not from white: the empty cells are the page, whatever its colour.
    shades = LinearSegmentedColormap.from_list("share", [f"{VALIDATION}00", f"{VALIDATION}ff"])
    shares = [_shares(row) for row in confusion]
    side = max(3.4, 0.36 * len(classes)) if len(classes) <= MOST_ANNOTATED else min(12, max(7.2, 0.12 * len(classes)))
    figure = new_figure(side + 1.2, side + 1.0)
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap=shades, norm=PowerNorm(0.5, 0, 1), interpolation="none")
    _name_rows_and_columns(axes, classes, inches_a_class=side / len(classes))
    axes.set_title(_share_correct(confusion), loc="left", color=INK, fontsize=10)
    if len(classes) <= MOST_ANNOTATED:
        _write_counts(axes, confusion, shares)
    else:
        _explain_shades(figure, picture)
    return figure


def learning_curves(history: Sequence[HistoryRow], best_epoch: float | None = None) -> Figure:
    """Accuracy and loss against epochs, side by side; ``best_epoch`` is marked when given.

    >>> learning_curves([], best_epoch=None).axes[1].get_ylabel()
    'Loss (nats)'
    """
    figure = new_figure(10, 3.4)
    _draw_accuracy(figure.add_subplot(1, 2, 1), history, best_epoch)
    _draw_loss(figure.add_subplot(1, 2, 2), history, best_epoch)
    return figure


def accuracy_curve(history: Sequence[HistoryRow], best_epoch: float | None = None) -> Figure:
    """The left half of :func:`learning_curves`, for places too narrow for both."""
    figure = new_figure(5, 3.1)
    _draw_accuracy(figure.add_subplot(), history, best_epoch)
    return figure


def loss_curve(history: Sequence[HistoryRow], best_epoch: float | None = None) -> Figure:
    """The right half of :func:`learning_curves`, for places too narrow for both."""
    figure = new_figure(5, 3.1)
    _draw_loss(figure.add_subplot(), history, best_epoch)
    return figure


def error_curve(history: Sequence[ReconstructionHistoryRow], best_epoch: float | None = None) -> Figure:
    """The error of an autoencoder against epochs; on a logarithmic scale where it falls by factors.

    >>> error_curve([], best_epoch=None).axes[0].get_ylabel()
    'Mean squared error'
    """
    figure = new_figure(5, 3.1)
    axes = figure.add_subplot()
    _draw_curves(axes, history, best_epoch, "loss", scale=1)
    axes.set_ylabel("Mean squared error", color=MUTED, fontsize=9)
    errors = [row[part] for row in history for part in ("train_loss", "validation_loss")]
    if errors and 0 < 4 * min(errors) < max(errors):
        _plain_logarithm(axes)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG or PDF, by the suffix of ``path``; an existing file is replaced whole or not at all.

    >>> save_figure(confusion_figure([[8, 2], [1, 9]], ["cat", "dog"]), Path("confusion.png"))  # doctest: +SKIP

    Raises:
        ConvatlasError: another suffix.
        StorageError: the disk refused the write.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConvatlasError(
            f"cannot save a figure as {path}: the suffix must be one of {', '.join(SUFFIXES)}; "
            f"received {path.suffix or 'none'}. End the name in .png, for example"
        )
    with replacing(path) as temporary, missing_glyphs_allowed():
        figure.savefig(temporary, format=suffix[1:], dpi=160, facecolor="white", bbox_inches="tight")


@contextmanager
def missing_glyphs_allowed() -> Iterator[None]:
    """Draw a character that matplotlib's font lacks as a box, silently: class names may be in any script."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _shares(row: Sequence[int]) -> list[float]:
    total = max(1, sum(row))  # a class without images is a row of zeros
    return [count / total for count in row]


def _share_correct(confusion: Sequence[Sequence[int]]) -> str:
    n = sum(map(sum, confusion))
    correct = sum(row[i] for i, row in enumerate(confusion))
    return f"{correct:,} of {n:,} images correct ({correct / max(1, n):.1%})".replace("%", " %")


def _name_rows_and_columns(axes: Axes, classes: Sequence[str], inches_a_class: float) -> None:
    points = 9 if len(classes) <= MOST_ANNOTATED else 6
    step = math.ceil(len(classes) / MOST_NAMED)
    places = range(0, len(classes), step)
    names = [shortened_name(classes[place]) for place in places]
    # A class name is text, not TeX: "$" must not start a formula.
    text: dict[str, Any] = {"parse_math": False, "color": INK, "fontsize": points}
    widest = max(map(len, names)) * 0.7 * points / 72  # inches; a letter is about 0.7 of its height wide
    axes.set_xticks(places, names, rotation=90 if widest > inches_a_class * step else 0, **text)
    axes.set_yticks(places, names, **text)
    axes.set_xlabel("Answer", color=MUTED, fontsize=9)
    axes.set_ylabel("True class", color=MUTED, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_color(GRID)


def shortened_name(class_name: str) -> str:
    """A name as an axis has room for it."""
    name = printable(class_name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _write_counts(axes: Axes, confusion: Sequence[Sequence[int]], shares: Sequence[Sequence[float]]) -> None:
    for i, row in enumerate(confusion):
        for j, count in enumerate(row):
            if count:
                colour = ON_STRONG if shares[i][j] > 0.6 else INK
                axes.text(j, i, str(count), ha="center", va="center", fontsize=8, color=colour)


def _explain_shades(figure: Figure, picture: Any) -> None:
    bar = figure.colorbar(picture, shrink=0.4, ticks=[0, 0.1, 0.5, 1], format=lambda share, _: f"{share:.0%}")
    bar.set_label("Share of the true class", color=MUTED, fontsize=9)
    bar.ax.tick_params(colors=MUTED, labelsize=8)
    bar.outline.set_edgecolor(GRID)


def _draw_accuracy(axes: Axes, history: Sequence[HistoryRow], best_epoch: float | None) -> None:
    _draw_curves(axes, history, best_epoch, "accuracy", scale=100)
    axes.set_ylabel("Accuracy (%)", color=MUTED, fontsize=9)


def _draw_loss(axes: Axes, history: Sequence[HistoryRow], best_epoch: float | None) -> None:
    _draw_curves(axes, history, best_epoch, "loss", scale=1)
    axes.set_ylabel("Loss (nats)", color=MUTED, fontsize=9)


def _draw_curves(
    axes: Axes, history: Sequence[ReconstructionHistoryRow], best_epoch: float | None, quantity: str, scale: float
) -> None:
    epochs = [row["epoch"] for row in history]
    train = _column(history, f"train_{quantity}", scale)
    validation = _column(history, f"validation_{quantity}", scale)
    dots = "o" if len(history) <= 30 else ""  # a line through one epoch is nothing but its dot
    axes.plot(epochs, train, marker=dots, markersize=3, color=TRAIN, linewidth=1.3, linestyle="--", label="train")
    axes.plot(epochs, validation, marker=dots, markersize=3, color=VALIDATION, linewidth=1.8, label="validation")
    if best_epoch is not None:
        _mark_best(axes, epochs, validation, best_epoch)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    axes.set_xlabel("Epoch", color=MUTED, fontsize=9)
    axes.set_xlim(0, 1.03 * max([1.0, *epochs]))
    axes.locator_params(axis="x", integer=True)
    framed(axes)


def framed(axes: Axes) -> None:
    """Axes as the page has them: a faint grid, no frame."""
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _plain_logarithm(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="both", length=0)


def _column(history: Sequence[ReconstructionHistoryRow], name: str, scale: float) -> list[float]:
    return [scale * row[name] for row in history]  # type: ignore[literal-required]


def _mark_best(axes: Axes, epochs: Sequence[float], validation: Sequence[float], best_epoch: float) -> None:
    axes.axvline(best_epoch, color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
    best = [value for epoch, value in zip(epochs, validation, strict=True) if epoch == best_epoch]
    label = f"best: epoch {best_epoch:g}"
    axes.plot([best_epoch] * len(best), best, "o", color=VALIDATION, markersize=7, fillstyle="none", label=label)
