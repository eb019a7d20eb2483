"""Networks compared: published accuracy against multiply-adds, and parameters as the area of a bubble."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict

from convatlas.errors import ConvatlasError
from convatlas.reports.figures import GRID, INK, MUTED
from convatlas.reports.inspected import in_thousands
from convatlas.reports.lettering import text_width
from convatlas.reports.wording import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by lightness as well as by hue; families beyond the last begin again.
COLOURS = (
    "#1a5fd0", "#e8590c", "#1b7f3b", "#a61e4d", "#7a3fb8", "#8a5a00", "#15aabf", "#e64980", "#59636e", "#a3b400",
    "#f0b400", "#1f2328", "#74b816", "#9775fa",
)  # fmt: skip
LARGEST = 0.18  # inches: radius of the largest bubble
POINTS = 7.5
LABEL_HEIGHT = 0.125  # inches
PASSES = 4

Rectangle = tuple[float, float, float, float]  # left, bottom, right, top, in inches
Circle = tuple[float, float, float]  # of a bubble: middle and radius
Segment = tuple[tuple[float, float], tuple[float, float]]
_Label = tuple[Rectangle, Segment | None]  # where a name is, and the line that leads to it


class BubbleRow(TypedDict):
    """A network as a bubble."""

    name: str
    family: str
    accuracy: float  # percent, published
    macs: int  # of one image
    parameters: int


def bubble_figure(rows: Sequence[BubbleRow], source: str = "") -> Figure:
    """Top-1 accuracy against multiply-adds, whose axis is logarithmic; a bubble's area is the parameters.

    >>> row = BubbleRow(name="vgg16", family="vgg", accuracy=71.6, macs=15_470_264_320, parameters=138_357_544)
    >>> figure = bubble_figure([row], source="torchvision's weights")
    >>> figure.axes[0].get_ylabel(), figure.axes[0].texts[0].get_text()
    ('ImageNet top-1 accuracy (%)', 'vgg16')

    Args:
        rows: networks of which everything is known.
        source: where the accuracies come from, for the line below.

    Raises:
        ConvatlasError: there are no networks, or one without multiply-adds or parameters.
    """
    from matplotlib.figure import Figure

    _refuse_nothing(rows)
    colour_of = _colours(rows)
    legend = max(text_width(family, POINTS) for family in [*map(printable, colour_of), "Parameters"]) + 0.7
    frame = (0.65, 0.85, *((6.4, 4.4) if len(rows) <= 12 else (10.4, 7.6)))  # of the axes: left, bottom, width, height
    width, height = frame[0] + frame[2] + legend, frame[1] + frame[3] + 0.55
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((frame[0] / width, frame[1] / height, frame[2] / width, frame[3] / height))
    _set_limits(axes, rows)
    circles = _circles(axes, rows, frame)
    for row, (x, y, radius) in sorted(zip(rows, circles, strict=True), key=lambda each: -each[1][2]):
        _draw_bubble(axes, (x / frame[2], y / frame[3]), radius, colour_of[row["family"]])
    for row, circle, label in zip(rows, circles, _labels(rows, circles, frame), strict=True):
        _draw_label(axes, row["name"], circle, label, frame)
    _draw_families(axes, colour_of, frame)
    _draw_sizes(axes, rows, frame)
    title = "Published accuracy, multiply-adds and parameters"
    figure.text(0.15 / width, 1 - 0.28 / height, title, color=INK, fontsize=12, weight="bold", parse_math=False)
    said = f"Accuracy: as published{f' ({printable(source)})' if source else ''}; sources train and crop differently."
    figure.text(0.15 / width, 0.15 / height, said, color=MUTED, fontsize=8, parse_math=False)
    return figure


def _refuse_nothing(rows: Sequence[BubbleRow]) -> None:
    if not rows:
        raise ConvatlasError("cannot compare networks: received none with a published accuracy. Name one that has")
    for row in rows:
        if min(row["macs"], row["parameters"]) <= 0:
            received = f"{row['macs']} multiply-adds and {row['parameters']} parameters"
            raise ConvatlasError(f"cannot draw {row['name']}: received {received}; both must be above 0")


def _colours(rows: Sequence[BubbleRow]) -> dict[str, str]:
    families = dict.fromkeys(row["family"] for row in rows)
    return {family: COLOURS[place % len(COLOURS)] for place, family in enumerate(families)}


def _set_limits(axes: Axes, rows: Sequence[BubbleRow]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    macs, accuracies = [row["macs"] for row in rows], [row["accuracy"] for row in rows]
    axes.set_xscale("log")
    axes.set_xlim(min(macs) / 1.7, max(macs) * 1.9)
    spread = max(4.0, max(accuracies) - min(accuracies))
    axes.set_ylim(min(accuracies) - 0.12 * spread, max(accuracies) + 0.12 * spread)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _round_label(round(value))))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Multiply-adds of one image", color=MUTED, fontsize=9)
    axes.set_ylabel("ImageNet top-1 accuracy (%)", color=MUTED, fontsize=9)
    axes.tick_params(colors=MUTED, labelsize=8, length=0, which="both")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _circles(axes: Axes, rows: Sequence[BubbleRow], frame: Rectangle) -> list[Circle]:
    """Middle and radius of each bubble, in inches from the lower left corner of the axes."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    return [
        (
            math.log(row["macs"] / left) / math.log(right / left) * frame[2],
            (row["accuracy"] - low) / (high - low) * frame[3],
            _radius(row["parameters"], rows),
        )
        for row in rows
    ]


def _radius(parameters: float, rows: Sequence[BubbleRow]) -> float:
    return LARGEST * math.sqrt(parameters / max(row["parameters"] for row in rows))


# --- labels


def _labels(rows: Sequence[BubbleRow], circles: Sequence[Circle], frame: Rectangle) -> list[Rectangle]:
    """A place for each name: near its bubble, over no other name, and over as little of bubbles and lines as can be.

    Names are placed one after another, the most crowded first, and then each again among all others.
    """
    widths = [text_width(printable(row["name"]), POINTS) for row in rows]
    choices = [
        [(box, _own_cost(box, circle, circles, frame)) for box in _candidates(circle, width)]
        for circle, width in zip(circles, widths, strict=True)
    ]
    crowd = [sum(math.dist(one[:2], other[:2]) < 0.9 for other in circles) for one in circles]
    placed: dict[int, _Label] = {}
    for _ in range(PASSES):
        for index in sorted(range(len(rows)), key=lambda place: -crowd[place]):
            others = [label for place, label in placed.items() if place != index]
            placed[index] = _best(choices[index], circles[index], others)
    return [placed[index][0] for index in range(len(rows))]


def _best(choices: Sequence[tuple[Rectangle, float]], circle: Circle, others: Sequence[_Label]) -> _Label:
    best, least = choices[0][0], math.inf
    for box, own in sorted(choices, key=lambda choice: choice[1]):
        if own >= least:  # the others cost even more
            break
        cost = own + _shared_cost((box, _leader(circle, box)), others)
        if cost < least:
            best, least = box, cost
    return best, _leader(circle, best)


def _candidates(circle: Circle, width: float) -> Iterator[Rectangle]:
    """Places around a bubble, ever farther away."""
    x, y, radius = circle
    for step in range(14):
        away = radius + 0.03 + 0.09 * step
        for turn in range(16):
            angle = math.tau * turn / 16
            across, up = math.cos(angle), math.sin(angle)
            # the label's nearest side touches a circle around the bubble
            middle_x = x + across * (away + width / 2)
            middle_y = y + up * (away + LABEL_HEIGHT / 2)
            yield middle_x - width / 2, middle_y - LABEL_HEIGHT / 2, middle_x + width / 2, middle_y + LABEL_HEIGHT / 2


def _own_cost(box: Rectangle, own: Circle, circles: Sequence[Circle], frame: Rectangle) -> float:
    outside = box[0] < 0 or box[1] < 0 or box[2] > frame[2] or box[3] > frame[3]
    away, *others = (_gap(box, circle) for circle in (own, *(circle for circle in circles if circle != own)))
    touched = -sum(gap for gap in (away, *others) if gap < 0)
    leader = _leader(own, box)
    if leader:
        crossed = sum(_meets(leader, circle) for circle in circles if circle != own)
        return 1000 * outside + 30 * touched + 0.4 * crossed + away + 0.15
    mistaken = sum(gap < away + 0.03 for gap in others)  # the name seems to be another bubble's
    return 1000 * outside + 30 * touched + 0.6 * mistaken + away


def _shared_cost(label: _Label, others: Sequence[_Label]) -> float:
    box, leader = label
    covered = sum(_overlap(box, other) > 0 for other, _ in others)
    through = sum(_passes(line, box) for _, line in others if line)
    if leader:
        through += sum(_passes(leader, other) for other, _ in others)
        through += sum(_cross(leader, line) for _, line in others if line)
    return 100.0 * covered + 2.0 * through


def _overlap(one: Rectangle, other: Rectangle) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0]) + 0.04
    up = min(one[3], other[3]) - max(one[1], other[1]) + 0.01
    return across * up if across > 0 and up > 0 else 0.0


def _nearest(box: Rectangle, circle: Circle) -> tuple[float, float]:
    return min(max(circle[0], box[0]), box[2]), min(max(circle[1], box[1]), box[3])


def _gap(box: Rectangle, circle: Circle) -> float:
    """Between a label and a bubble; less than 0 where they overlap."""
    return math.dist(_nearest(box, circle), circle[:2]) - circle[2]


def _leader(circle: Circle, box: Rectangle) -> Segment | None:
    """A line from the middle of a bubble to a label that is not beside it."""
    end = _nearest(box, circle)
    return (circle[:2], end) if math.dist(end, circle[:2]) > circle[2] + 0.1 else None


def _points(line: Segment) -> Iterator[tuple[float, float]]:
    (x0, y0), (x1, y1) = line
    for part in range(1, 12):
        yield x0 + (x1 - x0) * part / 12, y0 + (y1 - y0) * part / 12


def _passes(line: Segment, box: Rectangle) -> bool:
    """Whether a line runs through a label."""
    if max(line[0][0], line[1][0]) < box[0] or min(line[0][0], line[1][0]) > box[2]:
        return False
    return any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in _points(line))


def _meets(line: Segment, circle: Circle) -> bool:
    (x0, y0), (x1, y1) = line
    along_x, along_y = x1 - x0, y1 - y0
    share = ((circle[0] - x0) * along_x + (circle[1] - y0) * along_y) / (along_x**2 + along_y**2 or 1.0)
    share = min(1.0, max(0.0, share))
    return math.dist((x0 + share * along_x, y0 + share * along_y), circle[:2]) < circle[2]


def _cross(one: Segment, other: Segment) -> bool:
    """Whether two lines cross."""

    def side(line: Segment, point: tuple[float, float]) -> float:
        (x0, y0), (x1, y1) = line
        return (x1 - x0) * (point[1] - y0) - (y1 - y0) * (point[0] - x0)

    return side(one, other[0]) * side(one, other[1]) < 0 and side(other, one[0]) * side(other, one[1]) < 0


# --- ink


def _draw_bubble(axes: Axes, place: tuple[float, float], radius: float, colour: str) -> None:
    axes.scatter(
        [place[0]], [place[1]], s=(2 * 72 * radius) ** 2, color=colour, alpha=0.45, edgecolors=colour,
        linewidths=1.0, transform=axes.transAxes, zorder=2, clip_on=False,
    )  # fmt: skip


def _draw_label(axes: Axes, name: str, circle: Circle, box: Rectangle, frame: Rectangle) -> None:
    leader = _leader(circle, box)
    if leader:
        xs, ys = zip(*leader, strict=True)
        axes.plot(
            [x / frame[2] for x in xs], [y / frame[3] for y in ys],
            color=MUTED, linewidth=0.6, marker="o", markersize=1.8, markevery=[0], transform=axes.transAxes, zorder=3,
        )  # fmt: skip
    axes.text(
        box[0] / frame[2], (box[1] + box[3]) / 2 / frame[3], printable(name), transform=axes.transAxes,
        va="center", color=INK, fontsize=POINTS, parse_math=False, zorder=4,
    )  # fmt: skip


def _draw_families(axes: Axes, colours: dict[str, str], frame: Rectangle) -> None:
    for place, (family, colour) in enumerate(colours.items()):
        _draw_entry(axes, printable(family), frame[3] - 0.12 - 0.19 * place, 0.06, colour, frame)


def _draw_sizes(axes: Axes, rows: Sequence[BubbleRow], frame: Rectangle) -> None:
    y = 0.0
    for size in _round_sizes(rows):
        radius = _radius(size, rows)
        y += max(radius, LABEL_HEIGHT / 2)
        _draw_entry(axes, _round_label(size), y, radius, MUTED, frame)
        y += max(radius, LABEL_HEIGHT / 2) + 0.05
    x = (frame[2] + 0.1) / frame[2]
    axes.text(x, (y + 0.1) / frame[3], "Parameters", transform=axes.transAxes, va="center", color=INK, fontsize=POINTS)


def _draw_entry(axes: Axes, text: str, y: float, radius: float, colour: str, frame: Rectangle) -> None:
    """A bubble and a word right of the axes."""
    _draw_bubble(axes, ((frame[2] + 0.3) / frame[2], y / frame[3]), radius, colour)
    axes.text(
        (frame[2] + 0.55) / frame[2], y / frame[3], text, transform=axes.transAxes,
        va="center", color=INK, fontsize=POINTS, parse_math=False,
    )  # fmt: skip


def _round_label(count: int) -> str:
    """A round count without needless digits.

    >>> _round_label(5_000_000), _round_label(1_500)
    ('5 M', '1.5 k')
    """
    number, _, unit = in_thousands(count).partition(" ")
    return f"{float(number):g} {unit}".strip()


def _round_sizes(rows: Sequence[BubbleRow]) -> list[int]:
    """Round numbers of parameters up to the largest, the smallest first.

    >>> _round_sizes([BubbleRow(name="", family="", accuracy=0, macs=1, parameters=138_000_000)])
    [5000000, 20000000, 100000000]
    """
    largest = max(row["parameters"] for row in rows)
    steps = [digit * 10**power for power in range(13) for digit in (1, 2, 5)]
    below = [step for step in steps if step <= largest]
    return below[::-2][2::-1]
