"""The layer diagram: a network from the image at the top to the logits, one box an operation."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from convatlas.reports.diagram_blocks import Box, Frame, Item, Kind, frames, fused_boxes, links
from convatlas.reports.diagram_layout import GAP, Point, lay_out
from convatlas.reports.figures import INK, MUTED
from convatlas.reports.inspected import InspectedModel, LayerRow, folded_to_depth, in_thousands, shortened_path
from convatlas.reports.lettering import text_width
from convatlas.reports.wording import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path

# What a box is -> its colour, its border's, and the word in the legend.
COLOURS: Mapping[Kind, tuple[str, str, str]] = {
    "convolution": ("#dbe8fb", "#1a5fd0", "convolution"),
    "pooling": ("#dcf3e1", "#1b7f3b", "pooling"),
    "dense": ("#fdebd6", "#b35900", "dense"),
    "join": ("#efe2fb", "#7a3fb8", "addition, concatenation"),
    "other": ("#eff1f3", "#818b98", "other"),
    "end": ("#ffffff", "#59636e", ""),
}
MOST_BOXES = 300  # of a larger network modules are drawn
POINTS = 7.0  # of most text
NAME_POINTS = 7.5
TITLE_POINTS = 8.0
LINE_HEIGHT = 0.125  # all lengths in inches
LONGEST = 44  # letters of a line
PADDING = 0.07
WIDEST_OPERATION = 1.5
NARROWEST = 1.15
FRAME_PADDING = 0.14
CARD = 0.05  # offset of the cards behind a frame that stands for several
GUTTER = 0.5  # between columns
MARGIN = 0.25
WIDE_BY_HIGH = 0.8  # width over height that columns aim at
FRAME = "#b3bcc6"
WIRE = "#59636e"


@dataclass
class Card:
    """A box or frame with its place; y grows downwards."""

    x: float
    y: float
    width: float
    height: float
    lines: list[str]  # of a box: name, operation, output; of a frame: its title
    kind: Kind | None = None  # None: a frame
    title_x: float = 0.0  # of a frame
    times: int = 1  # how many frames it stands for


@dataclass(frozen=True)
class Wire:
    """A line with rounded corners."""

    corners: tuple[Point, ...]
    arrow: bool = False


@dataclass
class Picture:
    """Boxes, frames and lines with their places."""

    width: float = 0.0
    height: float = 0.0
    cards: list[Card] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    entry: float = 0.0  # where the line from above meets it, from its left side
    exit: float = 0.0

    def put(self, other: Picture, x: float, y: float) -> None:
        """Add another picture with its top left corner there."""
        moved = [replace(card, x=card.x + x, y=card.y + y, title_x=card.title_x + x) for card in other.cards]
        self.cards += moved
        self.wires += [replace(wire, corners=tuple((a + x, b + y) for a, b in wire.corners)) for wire in other.wires]


def diagram_figure(model: InspectedModel) -> Figure:
    """A network as boxes and lines, wrapped into columns where it would be too tall.

    A convolution or dense layer is one box with its normalisation and activation; modules that branch have a frame;
    equal ones that follow each other are drawn once, in a frame that says how many there are and their names. Where
    more than 300 boxes would be left, modules are drawn in place of layers, and a note says so.

    >>> from convatlas.reports.inspected import inspected_model, layer_row
    >>> rows = [layer_row("conv", ["aten.convolution"], [-1]), layer_row("relu", ["aten.relu"], [0])]
    >>> figure = diagram_figure(inspected_model(rows))
    >>> [text.get_text() for text in figure.axes[0].texts][:2]
    ['image', '3×224×224']
    """
    rows, note = drawable_rows(model)
    return _drawn(picture_of(model, rows), model, note)


def picture_of(model: InspectedModel, rows: Sequence[LayerRow]) -> Picture:
    """Where everything of a diagram goes, from the image to the output."""
    return _wrapped(_items(model, rows))


def drawable_rows(model: InspectedModel) -> tuple[Sequence[LayerRow], str]:
    """The layers, or modules as deep as still can be drawn and a note that says so."""
    rows: Sequence[LayerRow] = model["layers"]
    if _count_drawn(rows) <= MOST_BOXES:
        return rows, ""
    depths = range(max(row["depth"] for row in rows) - 1, 0, -1)
    folded = {depth: folded_to_depth(model, depth) for depth in depths}
    depth = next((depth for depth, some in folded.items() if _count_drawn(some) <= MOST_BOXES), 1)
    return folded[depth], f"{len(rows):,} layers are too many to draw; these are modules, to depth {depth}"


def _count_drawn(rows: Sequence[LayerRow]) -> int:
    return sum(len(list(item.drawn_boxes())) for item in frames(rows, fused_boxes(rows)))


def _items(model: InspectedModel, rows: Sequence[LayerRow]) -> list[Item]:
    """Boxes and frames, between the image and the output."""
    boxes = fused_boxes(rows)
    items = frames(rows, boxes)
    shown = "image" if len(model["input_shape"]) == 4 else "input"
    image = Box([-1], "end", (0,), path=shown, shape=tuple(model["input_shape"][1:]))
    for box in boxes:
        if box.reads_input:
            box.sources.append(image)
            image.readers.append(box)
    last = [box for box in boxes if not box.readers]
    shape = last[-1].shape if last else image.shape
    output = Box([len(rows)], "end", (0,), path="output", shape=shape, sources=last or [image])
    for box in output.sources:
        box.readers.append(output)
    return [image, *items, output]


# --- from boxes to places


def _wrapped(items: Sequence[Item]) -> Picture:
    """All items, in as many columns as make the picture about as wide as high."""
    inner, _, _ = links(items)
    ranges = _segments(len(items), inner)
    twins = _twins(items)
    parts = [_part(items, inner, span, twins) for span in ranges]
    heights = [part.height for part in parts]
    columns = min(
        (_partition(heights, count) for count in range(1, len(parts) + 1)), key=lambda cut: _shape(parts, cut)
    )
    spans = [(ranges[start][0], ranges[end - 1][1]) for start, end in columns]
    return _side_by_side([_part(items, inner, span, twins) for span in spans])


def _segments(count: int, inner: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of items between which a single line passes, so that columns may end there."""
    cuts = [
        place for place in range(1, count) if len({a for a, b in inner if a < place <= b}) <= 1 and place < count - 1
    ]
    return list(zip([0, *cuts], [*cuts, count], strict=True))


def _part(items: Sequence[Item], inner: Sequence[tuple[int, int]], span: tuple[int, int], twins: Twins) -> Picture:
    start, end = span
    return _arranged(
        [_pictured(item, None, twins) for item in items[start:end]],
        [(a - start, b - start) for a, b in inner if start <= a and b < end],
        sorted({b - start for a, b in inner if a < start <= b < end}),
        sorted({a - start for a, b in inner if start <= a < end <= b}),
    )


def _partition(heights: Sequence[float], count: int) -> list[tuple[int, int]]:
    """Cut a list into at most so many ranges, the highest as low as possible."""
    low, high = max(heights), sum(heights) + GAP * len(heights)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_filled(heights, middle)) <= count else (middle, high)
    return _filled(heights, high)


def _filled(heights: Sequence[float], room: float) -> list[tuple[int, int]]:
    ranges, start, filled = [], 0, 0.0
    for place, height in enumerate(heights):
        if place > start and filled + height > room:
            ranges.append((start, place))
            start, filled = place, 0.0
        filled += height + GAP
    return [*ranges, (start, len(heights))]


def _shape(parts: Sequence[Picture], columns: Sequence[tuple[int, int]]) -> float:
    """How far the picture of these columns is from what is wanted."""
    width = sum(max(part.width for part in parts[start:end]) + GUTTER for start, end in columns)
    height = max(sum(part.height + GAP for part in parts[start:end]) for start, end in columns)
    return abs(math.log(width / height / WIDE_BY_HIGH))


def _side_by_side(columns: Sequence[Picture]) -> Picture:
    """Columns from left to right, joined by lines from the foot of one to the head of the next."""
    whole = Picture()
    foot: Point | None = None
    for column in columns:
        left = whole.width + (GUTTER if foot else 0.0)
        top = 0.0 if len(columns) == 1 else 2 * GAP if foot else 3 * GAP  # the first begins with a box, not with a line
        if foot:
            x, low, head = left - GUTTER / 2, foot[1] + GAP, left + column.entry
            whole.wires.append(Wire((foot, (foot[0], low), (x, low), (x, GAP), (head, GAP), (head, top))))
        whole.put(column, left, top)
        foot = (left + column.exit, top + column.height)
        whole.width, whole.height = left + column.width, max(whole.height, top + column.height + GAP)
    return whole


def _arranged(
    pictures: Sequence[Picture], inner: Iterable[tuple[int, int]], entries: Sequence[int], exits: Sequence[int]
) -> Picture:
    """Pictures below and beside each other, with the lines between them and from above and to below."""
    first = 1 if entries else 0
    sizes = [*[(0.0, 0.0)] * first, *[(each.width, each.height) for each in pictures]]
    edges = [(a + first, b + first) for a, b in inner] + [(0, place + first) for place in entries]
    if exits:
        edges += [(place + first, len(sizes)) for place in exits]
        sizes.append((0.0, 0.0))
    layout = lay_out(sizes, edges)
    whole = Picture(layout.width, layout.height)
    for picture, (x, y) in zip(pictures, layout.corners[first:], strict=False):
        whole.put(picture, x, y)
    for line in layout.lines:
        reached = None if line.target is None or not sizes[line.target][1] else pictures[line.target - first]
        whole.wires.append(Wire(line.corners, arrow=reached is not None and reached.cards[0].kind is not None))
    whole.entry = layout.corners[0][0] if entries else layout.width / 2
    whole.exit = layout.corners[-1][0] if exits else layout.width / 2
    return whole


def _pictured(item: Item, around: Frame | None, twins: Twins) -> Picture:
    """One item, and the frame around it."""
    if isinstance(item, Frame):
        return _framed(item, around, twins)
    lines = _box_lines(item, around, twins.get(item, []))
    width = max(NARROWEST, *(text_width(line, NAME_POINTS, bold=not place) for place, line in enumerate(lines)))
    width, height = width + 2 * PADDING, len([line for line in lines if line]) * LINE_HEIGHT + PADDING
    return Picture(width, height, [Card(0.0, 0.0, width, height, lines, item.kind)], entry=width / 2, exit=width / 2)


def _framed(frame: Frame, around: Frame | None, twins: Twins) -> Picture:
    inner, entries, exits = links(frame.items)
    inside = _arranged([_pictured(item, frame, twins) for item in frame.items], inner, entries, exits)
    title = _frame_title(frame, around)
    words = max(text_width(line, TITLE_POINTS, bold=True) for line in title) + PADDING
    # the line from above meets a frame in its middle, and the title stands left of it
    half = max(inside.entry, inside.width - inside.entry, words) + FRAME_PADDING
    behind = CARD * min(2, len(frame.like))
    width, top = 2 * (half + behind), len(title) * LINE_HEIGHT + PADDING
    crooked = bool(exits) and abs(inside.entry - inside.exit) > 1e-6
    height = top + inside.height + (FRAME_PADDING if crooked or not exits else 0.0)
    whole = Picture(width, height + behind, entry=width / 2, exit=width / 2)
    whole.cards.append(
        Card(behind, 0.0, 2 * half, height, title, title_x=behind + FRAME_PADDING / 2, times=1 + len(frame.like))
    )
    left = half + behind - inside.entry
    whole.put(inside, left, top)
    if entries:
        whole.wires.append(Wire(((width / 2, 0.0), (width / 2, top))))
    if exits:
        foot, middle = top + inside.height, (left + inside.exit, width / 2)
        bends = ((middle[0], foot + FRAME_PADDING / 2), (middle[1], foot + FRAME_PADDING / 2))
        whole.wires.append(Wire(((middle[0], foot), *(bends if crooked else ()), (middle[1], height + behind))))
    return whole


# --- what boxes and frames say

Twins = dict[Box, list[Box]]


def _twins(items: Iterable[Item]) -> Twins:
    """Box -> those that it is drawn for as well."""
    found: Twins = defaultdict(list)
    for frame in (item for item in items if isinstance(item, Frame)):
        for other in frame.like:
            for box, twin in zip(frame.drawn_boxes(), other.drawn_boxes(), strict=True):
                found[box].append(twin)
        for box, twins in _twins(frame.items).items():
            found[box] += twins
    return found


def _box_lines(box: Box, around: Frame | None, twins: Sequence[Box]) -> list[str]:
    """Name, operation and output with parameters; the first is empty where the frame says it."""
    name = box.tap if box.tap and (around is None or box.tap != around.title) else _inside(box.path, around)
    operation = re.sub(r"(?<=\d)x(?=\d)", "×", box.operation)
    return [_cut(name), *map(_cut, _broken(printable(operation))), _output_and_parameters([box, *twins])]


def _cut(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def _inside(path: str, around: Frame | None) -> str:
    """A path from the frame around it on, without its first parts where it is long."""
    if around is not None and path == around.path:
        return ""
    return shortened_path(path.removeprefix(f"{around.path}.") if around is not None and around.path else path)


def _broken(operation: str) -> list[str]:
    """In two lines if it is long, broken after a comma."""
    if not operation:
        return []
    words = operation.split(", ")
    if len(words) == 1 or text_width(operation, POINTS) <= WIDEST_OPERATION:
        return [operation]
    halves = [(", ".join(words[:count]) + ",", ", ".join(words[count:])) for count in range(1, len(words))]
    return list(min(halves, key=lambda pair: max(text_width(line, POINTS) for line in pair)))


def _output_and_parameters(boxes: Sequence[Box]) -> str:
    sides = zip(*(box.shape for box in boxes), strict=False)
    shape = "×".join(_range([str(side) for side in sorted(set(each))]) for each in sides)
    counts = sorted({box.parameters for box in boxes})
    weights = _range([in_thousands(count) for count in counts]) if counts[-1] else ""
    return " · ".join(part for part in (shape, weights) if part)


def _range(values: Sequence[str]) -> str:
    return values[0] if values[0] == values[-1] else f"{values[0]}–{values[-1]}"


def _frame_title(frame: Frame, around: Frame | None) -> list[str]:
    first = _cut(_inside(frame.title, around))
    if not frame.like:
        return [first]
    last = _cut(_inside(frame.like[-1].title, around))
    return [f"{1 + len(frame.like)} × {first}", f"{'…' if len(frame.like) > 1 else 'and'} {last}"]


# --- from places to ink


def _drawn(picture: Picture, model: InspectedModel, note: str) -> Figure:
    from matplotlib.figure import Figure

    header = 0.75 + (0.18 if note else 0.0)
    title, facts = printable(model["model"]), _facts(model)
    words = max(text_width(title, 13, bold=True), text_width(facts, 8), text_width(note, 8), 5.2)
    width = max(picture.width, words) + 2 * MARGIN
    height = picture.height + header + 2 * MARGIN
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    whole = Picture()
    whole.put(picture, (width - picture.width) / 2, MARGIN + header)
    for place, card in enumerate(whole.cards):  # a frame comes before what is in it
        _draw_card(axes, card, level=place / len(whole.cards))
    for wire in whole.wires:
        _draw_wire(axes, wire)
    _write(axes, (MARGIN, MARGIN), title, color=INK, fontsize=13, weight="bold")
    _write(axes, (MARGIN, MARGIN + 0.23), facts, color=MUTED, fontsize=8)
    _draw_legend(axes)
    if note:
        _write(axes, (MARGIN, MARGIN + 0.64), note, color=INK, fontsize=8, style="italic")
    return figure


def _draw_card(axes: Axes, card: Card, level: float) -> None:
    if card.kind is None:
        _draw_frame(axes, card, level)
        return
    fill, edge, _ = COLOURS[card.kind]
    _draw_rectangle(axes, card, fill, edge, level=3)
    lines = [line for line in card.lines if line]
    for place, line in enumerate(lines):
        named = place == 0 and bool(card.lines[0])
        y = card.y + PADDING / 2 + (place + 0.5) * LINE_HEIGHT
        style: dict[str, Any] = {"fontsize": NAME_POINTS, "weight": "bold"} if named else {"fontsize": POINTS}
        colour = MUTED if place == len(lines) - 1 and len(lines) > 1 else INK
        _write(axes, (card.x + card.width / 2, y), line, color=colour, ha="center", **style)


def _draw_frame(axes: Axes, card: Card, level: float) -> None:
    for behind in range(min(2, card.times - 1), 0, -1):
        shifted = replace(card, x=card.x + behind * CARD, y=card.y + behind * CARD)
        _draw_rectangle(axes, shifted, "#f6f8fa", FRAME, level=level)
    _draw_rectangle(axes, card, "#fbfcfd", FRAME, level=level)
    for place, line in enumerate(card.lines):
        y = card.y + PADDING / 2 + (place + 0.6) * LINE_HEIGHT
        _write(axes, (card.title_x, y), line, color=INK, fontsize=TITLE_POINTS, weight="bold")


def _draw_rectangle(axes: Axes, card: Card, fill: str, edge: str, level: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    rounding = min(0.06, card.height / 2)
    axes.add_patch(
        FancyBboxPatch(
            (card.x + rounding, card.y + rounding),
            card.width - 2 * rounding,
            card.height - 2 * rounding,
            boxstyle=f"round,pad={rounding},rounding_size={rounding}",
            facecolor=fill,
            edgecolor=edge,
            linewidth=0.8,
            zorder=level,
        )
    )


def _draw_wire(axes: Axes, wire: Wire) -> None:
    from matplotlib.patches import PathPatch, Polygon

    axes.add_patch(PathPatch(_rounded(wire.corners), facecolor="none", edgecolor=WIRE, linewidth=0.9, zorder=2))
    if wire.arrow:
        x, y = wire.corners[-1]
        axes.add_patch(Polygon([(x, y), (x - 0.03, y - 0.065), (x + 0.03, y - 0.065)], facecolor=WIRE, zorder=2.5))


def _rounded(corners: Sequence[Point], radius: float = 0.05) -> Path:
    """A line through these corners, the inner ones rounded."""
    from matplotlib.path import Path

    points, codes = [corners[0]], [Path.MOVETO]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        points += [_towards(corner, before, radius), corner, _towards(corner, after, radius)]
        codes += [Path.LINETO, Path.CURVE3, Path.CURVE3]
    return Path([*points, corners[-1]], [*codes, Path.LINETO])


def _towards(start: Point, end: Point, distance: float) -> Point:
    length = math.dist(start, end)
    share = min(0.5, distance / length) if length else 0.0
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _facts(model: InspectedModel) -> str:
    total = model["parameters"] + model["frozen_parameters"]
    read = sum(row["parameters"] + row["frozen_parameters"] for row in model["layers"])
    weights = f"{in_thousands(read)} of {in_thousands(total)}" if read < total else in_thousands(total)
    macs = "" if model["macs"] is None else f", {in_thousands(model['macs'])} multiply-adds"
    return f"{weights} parameters{macs}. In a box: channels × height × width of its output · parameters"


def _draw_legend(axes: Axes) -> None:
    x = MARGIN
    for fill, edge, word in COLOURS.values():
        if word:
            _draw_rectangle(axes, Card(x, MARGIN + 0.36, 0.2, 0.14, []), fill, edge, level=3)
            _write(axes, (x + 0.27, MARGIN + 0.43), word, color=INK, fontsize=8)
            x += 0.47 + text_width(word, 8)


def _write(axes: Axes, place: Point, text: str, **style: Any) -> None:
    axes.text(*place, text, va=style.pop("va", "center"), zorder=4, parse_math=False, **style)
