"""Where a network has its parameters, its multiply-adds and its memory: bars by layer, in the order of the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convatlas.reports.diagram_blocks import fused_boxes
from convatlas.reports.figures import GRID, INK, MUTED, TRAIN, VALIDATION
from convatlas.reports.inspected import (
    InspectedModel,
    LayerRow,
    folded_to_depth,
    in_bytes,
    in_thousands,
    known_sum,
    shortened_path,
)
from convatlas.reports.wording import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 40
ROW_HEIGHT = 0.19  # inches
ACTIVATION = "#1b7f3b"


@dataclass(frozen=True)
class Bar:
    """What a layer and what follows it, or a module, come to."""

    name: str
    parameters: int
    macs: int | None  # None: not known
    activation_bytes: int


def layer_bars_figure(model: InspectedModel) -> Figure:
    """Parameters, multiply-adds and memory of activations by layer, side by side.

    Normalisation and activation count to the layer they follow. Where there are more than 40 layers, modules are shown
    in place of layers, as deep as there are 40 of them or fewer. Of parameters that a forward pass does not read, such
    as those of auxiliary heads, only the title tells.

    >>> from convatlas.reports.inspected import inspected_model, layer_row
    >>> rows = [layer_row("conv", ["aten.convolution"], parameters=9, macs=81), layer_row("fc", parameters=20)]
    >>> [panel.get_title(loc="left") for panel in layer_bars_figure(inspected_model(rows)).axes]
    ['Parameters: 29', 'Multiply-adds: 81', 'Activations: 0 B']
    """
    from matplotlib.figure import Figure

    bars = layer_bars(model)
    figure = Figure(figsize=(10.5, 1.1 + ROW_HEIGHT * max(4, len(bars))), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    batch = model["input_shape"][0] if model["input_shape"] else 1
    images = "" if batch == 1 else f" of {batch} images"
    for panel, (title, colour, in_words, values) in zip(panels, _quantities(bars, model, images), strict=True):
        _draw_panel(panel, values, title, colour, in_words)
    names = [printable(bar.name) for bar in bars]
    panels[0].set_yticks(range(len(bars)), names, color=INK, fontsize=8, parse_math=False)
    panels[0].set_ylim(len(bars) - 0.4, -0.6)
    title = printable(model["model"])
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=12, weight="bold", parse_math=False)
    return figure


def layer_bars(model: InspectedModel) -> list[Bar]:
    """The figures of each bar; they add up to those of all rows.

    >>> from convatlas.reports.inspected import inspected_model, layer_row
    >>> rows = [layer_row("block.conv", ["aten.convolution"], [-1], parameters=9)]
    >>> layer_bars(inspected_model([*rows, layer_row("block.relu", ["aten.relu"], [0], macs=0)]))
    [Bar(name='block.conv', parameters=9, macs=0, activation_bytes=0)]
    """
    rows = model["layers"]
    boxes = [[rows[place] for place in sorted(box.rows)] for box in fused_boxes(rows)]
    counted = {id(row) for box in boxes for row in box}
    before = [row for row in rows if id(row) not in counted]  # views of the input
    groups = [group for group in [before, *boxes] if any(map(_weighs, group))]
    if len(groups) <= MOST_BARS:
        return [_bar(group) for group in groups]
    depths = range(max(row["depth"] for row in rows) - 1, 0, -1)
    folded = ([row for row in folded_to_depth(model, depth) if _weighs(row)] for depth in depths)
    fitting = (modules for modules in folded if len(modules) <= MOST_BARS)
    modules = next(fitting, None)
    return _few([_bar([module]) for module in modules] if modules else [_bar(group) for group in groups])


def _weighs(row: LayerRow) -> bool:
    counted = (row["parameters"], row["frozen_parameters"], row["macs"] != 0, row["activation_bytes"])
    return any(counted)


def _bar(rows: Sequence[LayerRow]) -> Bar:
    taps = [row["tap"] for row in rows if row["tap"]]
    return Bar(
        name=taps[-1] if taps else shortened_path(rows[0]["name"]) or rows[0]["type"],
        parameters=sum(row["parameters"] + row["frozen_parameters"] for row in rows),
        macs=known_sum(row["macs"] for row in rows),
        activation_bytes=sum(row["activation_bytes"] for row in rows),
    )


def _few(bars: list[Bar]) -> list[Bar]:
    """Neighbours together, where even whole modules are too many."""
    size = -(-len(bars) // MOST_BARS)
    groups = [bars[start : start + size] for start in range(0, len(bars), size)]
    return [
        Bar(
            name=group[0].name if len(group) == 1 else f"{group[0].name} … {group[-1].name}",
            parameters=sum(bar.parameters for bar in group),
            macs=known_sum(bar.macs for bar in group),
            activation_bytes=sum(bar.activation_bytes for bar in group),
        )
        for group in groups
    ]


Quantity = tuple[str, str, Callable[[int], str], list[int | None]]


def _quantities(bars: Sequence[Bar], model: InspectedModel, images: str) -> list[Quantity]:
    parameters: list[int | None] = [bar.parameters for bar in bars]
    activations: list[int | None] = [bar.activation_bytes for bar in bars]
    macs = [bar.macs for bar in bars]
    everything = model["parameters"] + model["frozen_parameters"]
    others = f" of {in_thousands(everything)}" if everything > sum(bar.parameters for bar in bars) else ""
    return [
        (f"Parameters: {_total(parameters, in_thousands)}{others}", VALIDATION, in_thousands, parameters),
        (f"Multiply-adds{images}: {_total(macs, in_thousands)}", TRAIN, in_thousands, macs),
        (f"Activations{images}: {_total(activations, in_bytes)}", ACTIVATION, in_bytes, activations),
    ]


def _total(values: Sequence[int | None], in_words: Callable[[int], str]) -> str:
    total = known_sum(values)
    return "not known" if total is None else in_words(total)


def _draw_panel(
    panel: Axes, values: Sequence[int | None], title: str, colour: str, in_words: Callable[[int], str]
) -> None:
    lengths = [value or 0 for value in values]
    longest = max([*lengths, 1])
    panel.barh(range(len(values)), lengths, height=0.72, color=colour)
    for place, value in enumerate(values):
        if value != 0:
            said = "?" if value is None else in_words(value)
            panel.text((value or 0) + 0.015 * longest, place, said, va="center", color=MUTED, fontsize=7.5)
    panel.set_xlim(0, 1.24 * longest)  # room for the label of the longest
    panel.set_title(title, loc="left", color=INK, fontsize=10)
    panel.xaxis.set_visible(False)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.spines["left"].set(visible=True, color=GRID)
