"""Points of a plane in the colours of their classes, the misclassified ones ringed: as a figure, and for a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from convatlas.reports.figures import GRID, INK, MUTED, missing_glyphs_allowed, new_figure, shortened_name
from convatlas.reports.inline_svg import inline_svg
from convatlas.reports.page import CSS_VARIABLES

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart with any kind of colour vision, on white and on black; then again, with other marks. Paul Tol's, adapted.
COLOURS = ("#3f7fd4", "#e07b00", "#1f9e6e", "#c2407f", "#8a6fd1", "#3aa7c9", "#a8871a")
MARKS = ("o", "^", "s", "D", "v")
MOST_COLOURED = 20  # classes; the rarer ones share one colour
OTHERS = MUTED
NARROW = 4  # inches: on a page that a telephone shows letters must not be small
FEW, MANY = 200, 1000  # points, that are drawn large and small


def features_figure(
    points: Sequence[Sequence[float]], classes: Sequence[str], wrong: Sequence[int], width: float = 7
) -> Figure:
    """A point for each image, in the colour and with the mark of its class; a ring round those that are ``wrong``.

    >>> figure = features_figure([(0, 0), (1, 1)], ["ant", "bee"], wrong=[1])
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['ant (1)', 'bee (1)', 'misclassified (1)']

    ``width`` is in inches. Of more than 20 classes the 20 most frequent have marks of their own. The axes have no unit,
    and so no scale.
    """
    figure = new_figure(width, 0.92 * width)
    axes = figure.add_subplot()
    shown = sorted(name for name, _ in Counter(classes).most_common(MOST_COLOURED))
    columns = 3 if width > NARROW else 2
    size = 34 if len(points) <= FEW else 18 if len(points) <= MANY else 9
    for place, name in enumerate(shown):
        own = [point for point, each in zip(points, classes, strict=True) if each == name]
        colour, mark = COLOURS[place % len(COLOURS)], MARKS[place // len(COLOURS) % len(MARKS)]
        _scatter(axes, own, size, colour, mark, f"{shortened_name(name)} ({len(own):,})")
    rest = [point for point, each in zip(points, classes, strict=True) if each not in shown]
    if rest:
        others = f"{len(set(classes)) - len(shown):,} other classes ({len(rest):,})"
        _scatter(axes, rest, size, OTHERS, "o", others)
    if wrong:
        ringed = [points[place] for place in wrong]
        across, up = zip(*ringed, strict=True)
        label = f"misclassified ({len(wrong):,})"
        axes.scatter(across, up, s=4 * size, facecolors="none", edgecolors=INK, linewidths=1.1, label=label, zorder=3)
    _without_scale(axes)
    legend = figure.legend(
        loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK, handletextpad=0.3
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a class name is text, not TeX
    return figure


def features_svg(points: Sequence[Sequence[float]], classes: Sequence[str], wrong: Sequence[int], title: str) -> Markup:
    """The same to stand in a page, in its colours.

    >>> str(features_svg([(0, 0), (1, 1)], ["ant", "bee"], [], "t-SNE"))[:4]
    '<svg'
    """
    from markupsafe import Markup

    with missing_glyphs_allowed():
        figure = features_figure(points, classes, wrong, width=NARROW)
    description = f"{title} of {len(points):,} images, {len(wrong):,} of them misclassified"
    return Markup(inline_svg(figure, "features", description, CSS_VARIABLES))  # safe: an XML writer escaped its text


def _scatter(axes: Axes, points: Sequence[Sequence[float]], size: float, colour: str, mark: str, label: str) -> None:
    across, up = zip(*points, strict=True)
    axes.scatter(across, up, s=size, c=colour, marker=mark, linewidths=0, alpha=0.85, label=label, zorder=2)


def _without_scale(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.06)
    axes.spines[:].set_color(GRID)
