"""Receptive fields drawn over a picture: how much of it the middle of a map can see, layer after layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convatlas.errors import ConvatlasError, InspectionError, shortened, unknown_name
from convatlas.reports.figures import INK, MUTED
from convatlas.reports.inspected import InspectedModel, LayerRow
from convatlas.reports.wording import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

CHOSEN = 6  # layers, where none are named
BEYOND = 0.6  # of the picture's side: how far around it windows are shown; larger ones are only named
SHARP = 640  # pixels that a picture is shown with, unless the network sees so few that they should be seen
FEW_PIXELS = 64
# From small windows to large ones; light and dark enough to be seen on a photograph with a white edge around them.
COLOURS = ("#ffb000", "#fe6100", "#dc267f", "#785ef0", "#1a5fd0", "#1b7f3b", "#8a5a00", "#59636e")


@dataclass(frozen=True)
class SeenWindow:
    """What one position of a layer's map sees, in pixels; pixel 0 reaches from -0.5 to 0.5."""

    name: str
    size: tuple[int, int]  # rows, columns
    top: float
    left: float


def receptive_field_figure(
    image: NDArray[Any] | Path | str, model: InspectedModel, layers: Sequence[str] | None = None
) -> Figure:
    """Windows of some layers' middle positions over a picture, and the grid of positions of the last of them.

    >>> from convatlas.reports.inspected import inspected_model, layer_row
    >>> import numpy as np
    >>> seen = {"receptive_field": [3, 3], "jump": [1.0, 1.0], "centre": [0.0, 0.0], "output_shape": [1, 8, 224, 224]}
    >>> model = inspected_model([layer_row("conv1", **seen)])
    >>> figure = receptive_field_figure(np.zeros((300, 400, 3), np.uint8), model)
    >>> figure.axes[0].texts[0].get_text()
    'conv1  3x3'

    Args:
        image: uint8 pixels [height, width, 3] or [height, width], or a file that Pillow opens. Its middle is shown,
            scaled to the size that the network was inspected with.
        model: an inspected network whose input is an image.
        layers: paper's names or paths; six of different windows are chosen where it is left out.

    Raises:
        UnknownNameError: there is no such layer; the nearest are named.
        InspectionError: the input is no image, or a receptive field is not known.
        ConvatlasError: the picture cannot be read.
    """
    from matplotlib.figure import Figure

    height, width = _sides(model)
    rows = _named(model, layers) if layers else _spread(model)
    rows.sort(key=_area)
    windows = _windows(rows)
    pixels = _fitted(image, height, width)
    figure = Figure(figsize=(8.6, 6.4))
    axes = figure.add_axes((0.02, 0.08, 0.68, 0.82))
    view = _view(windows, height, width)
    _draw_picture(axes, pixels, (height, width), view, padded=_reaches_beyond(windows, height, width))
    for place, window in enumerate(windows):
        _draw_window(axes, window, COLOURS[place % len(COLOURS)])
    _label(axes, windows, view)
    _draw_grid(axes, rows[-1], (height, width))
    _explain(figure, model, rows[-1], padded=_reaches_beyond(windows, height, width))
    return figure


def read_picture(path: Path | str) -> NDArray[Any]:
    """The pixels of an image file, upright: uint8 [height, width, 3].

    Raises:
        ConvatlasError: it is none, or damaged.
    """
    import numpy as np
    from PIL import ImageOps, UnidentifiedImageError

    from convatlas import pictures

    try:
        with pictures.read_picture(Path(path)) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except UnidentifiedImageError as error:
        raise ConvatlasError(f"cannot read the picture {shortened(path)}: it is no image that Pillow knows") from error
    except OSError as error:
        raise ConvatlasError(f"cannot read the picture {shortened(path)}: {error.strerror or error}") from error
    except Exception as error:  # a damaged file makes Pillow's plugins raise nearly anything
        raise ConvatlasError(f"cannot read the picture {shortened(path)}: {shortened(error)}") from error


def _windows(rows: Sequence[LayerRow]) -> list[SeenWindow]:
    """What each layer sees at a position in the middle: of the last one at its own, of others where they lie inside."""
    windows: list[SeenWindow] = []
    middle = None
    for row in reversed(rows):
        middle = _middle(row, middle)
        windows.append(seen_window(row, middle))
    return windows[::-1]


def _middle(row: LayerRow, near: tuple[float, float] | None) -> tuple[float, float]:
    """The middle of the window of a layer's middle position, or of the position nearest to a point."""
    if row["jump"] is None or row["centre"] is None:
        raise InspectionError(
            f"cannot draw the receptive field of {_called(row)}: it is not known. Choose a layer before it"
        )
    found = []
    for axis, (jump, first) in enumerate(zip(row["jump"], row["centre"], strict=True)):
        count = _positions(row, axis)
        place = (count - 1) // 2 if near is None or not jump else round((near[axis] - first) / jump)
        found.append(first + jump * min(max(place, 0), count - 1))
    return found[0], found[1]


def seen_window(row: LayerRow, middle: tuple[float, float]) -> SeenWindow:
    """A layer's window around this point.

    >>> from convatlas.reports.inspected import layer_row
    >>> seen_window(layer_row("conv1", receptive_field=[3, 3]), (10.0, 10.0))
    SeenWindow(name='conv1', size=(3, 3), top=8.5, left=8.5)
    """
    rows, columns = row["receptive_field"] or (0, 0)
    return SeenWindow(_called(row), (rows, columns), middle[0] - rows / 2, middle[1] - columns / 2)


def _positions(row: LayerRow, axis: int) -> int:
    shape = row["output_shape"]
    return shape[2 + axis] if len(shape) == 4 else 1


def _called(row: LayerRow) -> str:
    return printable(row["tap"] or row["name"] or row["type"])


def _sides(model: InspectedModel) -> tuple[int, int]:
    shape = model["input_shape"]
    if len(shape) != 4:
        raise InspectionError(
            f"cannot draw receptive fields of {model['model']}: its input is no image; received the shape {shape}. "
            "Inspect it with images, [N, C, H, W]"
        )
    return shape[2], shape[3]


def _named(model: InspectedModel, layers: Sequence[str]) -> list[LayerRow]:
    """The rows of these names; of a layer that is called more than once, the last; of a module of several, its last.

    A module has the name of the row that a table folded to its depth shows for it.
    """
    rows = {}
    for row in model["layers"]:
        for depth in range(1, row["name"].count(".") + 1):
            module = row.copy()
            module["name"], module["tap"] = ".".join(row["name"].split(".")[:depth]), None
            rows[module["name"]] = module
    rows |= {row["name"]: row for row in model["layers"]}
    rows |= {row["tap"]: row for row in model["layers"] if row["tap"]}
    for name in layers:
        if name not in rows:
            raise unknown_name("layer", name, filter(None, (row["tap"] or row["name"] for row in model["layers"])))
    return [rows[name] for name in layers]


def _spread(model: InspectedModel) -> list[LayerRow]:
    """Layers of different windows through the network: of those with a paper's name, if there are any, on maps."""
    known = [row for row in model["layers"] if row["receptive_field"] and row["jump"] and row["centre"]]
    maps = [row for row in known if _positions(row, 0) > 1]
    tapped = [row for row in maps if row["tap"]]
    candidates = list({tuple(row["receptive_field"] or ()): row for row in tapped or maps or known}.values())
    if not candidates:
        raise InspectionError(f"cannot draw receptive fields of {model['model']}: that of no layer is known")
    candidates.sort(key=_area)
    limit = (1 + 2 * BEYOND) * min(_sides(model))
    *smaller, last = [row for row in candidates[:-1] if max(row["receptive_field"] or ()) <= limit] + candidates[-1:]
    count = min(CHOSEN - 1, len(smaller))
    places = sorted({round((index + 0.5 * (count < len(smaller))) * len(smaller) / count) for index in range(count)})
    return [*(smaller[min(place, len(smaller) - 1)] for place in places), last]


def _area(row: LayerRow) -> int:
    rows, columns = row["receptive_field"] or (0, 0)
    return rows * columns


def _fitted(image: NDArray[Any] | Path | str, height: int, width: int) -> NDArray[Any]:
    """The middle of a picture, in these sides."""
    import numpy as np
    from PIL import Image, ImageOps

    pixels = read_picture(image) if isinstance(image, str | Path) else image
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or not pixels.size:
        raise ConvatlasError(
            f"cannot draw on this picture: received {pixels.dtype} {list(pixels.shape)}; give uint8 pixels "
            "[height, width, 3] or [height, width]"
        )
    picture = Image.fromarray(pixels).convert("RGB")
    finer = max(1, SHARP // max(height, width)) if max(height, width) > FEW_PIXELS else 1
    return np.asarray(ImageOps.fit(picture, (width * finer, height * finer), Image.Resampling.BICUBIC))


# --- ink


@dataclass(frozen=True)
class _View:
    """What is shown, in pixels."""

    left: float
    right: float
    top: float
    bottom: float


def _reaches_beyond(windows: Sequence[SeenWindow], height: int, width: int) -> bool:
    return any(
        min(window.top, window.left) < -0.5
        or window.top + window.size[0] > height - 0.5
        or window.left + window.size[1] > width - 0.5
        for window in windows
    )


def _is_shown(window: SeenWindow, height: int, width: int) -> bool:
    return min(window.top / height, window.left / width) >= -BEYOND and (
        max((window.top + window.size[0]) / height, (window.left + window.size[1]) / width) <= 1 + BEYOND
    )


def _view(windows: Sequence[SeenWindow], height: int, width: int) -> _View:
    """The picture, and around it as much as the windows need that are not much larger."""
    shown = [window for window in windows if _is_shown(window, height, width)]
    left, top = (min([-0.5, *sides]) for sides in ([each.left for each in shown], [each.top for each in shown]))
    right = max([width - 0.5, *(each.left + each.size[1] for each in shown)])
    bottom = max([height - 0.5, *(each.top + each.size[0] for each in shown)])
    padding = 0.08 if _reaches_beyond(windows, height, width) else 0.01
    margin = padding * max(right - left, bottom - top)
    return _View(left - margin, right + margin, top - margin, bottom + margin)


def _draw_picture(axes: Axes, pixels: NDArray[Any], side: tuple[int, int], view: _View, *, padded: bool) -> None:
    from matplotlib.patches import Rectangle

    height, width = side
    if padded:
        around = Rectangle((view.left, view.top), view.right - view.left, view.bottom - view.top)
        around.set(facecolor="#f6f8fa", edgecolor="#d1d9e0", hatch="///", linewidth=0)
        axes.add_patch(around)
    axes.imshow(pixels, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="antialiased", zorder=1)
    axes.set_xlim(view.left, view.right)
    axes.set_ylim(view.bottom, view.top)
    axes.set_anchor("W")
    axes.set_axis_off()


def _draw_window(axes: Axes, window: SeenWindow, colour: str) -> None:
    from matplotlib.patches import Rectangle

    for edge, thickness in (("white", 3.2), (colour, 1.8)):
        axes.add_patch(
            Rectangle(
                (window.left, window.top), window.size[1], window.size[0],
                fill=False, edgecolor=edge, linewidth=thickness, zorder=4, joinstyle="miter",
            )
        )  # fmt: skip


def _label(axes: Axes, windows: Sequence[SeenWindow], view: _View) -> None:
    """Names right of the picture, the largest window's at the top, each with a line to its window."""
    width, height = view.right - view.left, view.bottom - view.top
    tops = [max(window.top, view.top) for window in reversed(windows)]
    ends = _spaced(tops, step=min(0.075, 0.95 / len(windows)) * height, low=view.top, high=view.bottom)
    for place, (top, y) in enumerate(zip(tops, ends, strict=True)):
        window, colour = windows[-1 - place], COLOURS[(len(windows) - 1 - place) % len(COLOURS)]
        right = window.left + window.size[1]
        cut = right > view.right
        corners = [(view.right, y)] if cut else [(right, top), (view.right, y)]
        axes.plot(
            *zip(*corners, (view.right + 0.04 * width, y), strict=True),
            color=colour, linewidth=0.9, clip_on=False, zorder=5,
        )  # fmt: skip
        text = f"{window.name}  {window.size[0]}x{window.size[1]}{' (beyond this view)' if cut else ''}"
        axes.text(view.right + 0.05 * width, y, text, va="center", color=INK, fontsize=9, parse_math=False)


def _spaced(wanted: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Places at least a step apart, in this order, as near to the wanted ones as the room allows.

    >>> _spaced([0.0, 0.0, 9.0], step=1.0, low=0.0, high=10.0)
    [0.5, 1.5, 9.0]
    """
    ends: list[float] = []
    for y in wanted:
        ends.append(max(y, ends[-1] + step if ends else low + step / 2))
    highest = high - step / 2
    for place in range(len(ends) - 1, -1, -1):
        ends[place] = min(ends[place], highest)
        highest = ends[place] - step
    return ends


def _has_grid(row: LayerRow, side: tuple[int, int]) -> bool:
    """Whether a map has several positions, and few enough to be told apart."""
    return 1 < max(_positions(row, 0), _positions(row, 1)) <= max(side) // 4


def _draw_grid(axes: Axes, row: LayerRow, side: tuple[int, int]) -> None:
    """The middles of all windows of a map."""
    jump, centre = row["jump"], row["centre"]
    if jump is None or centre is None or not _has_grid(row, side):
        return
    ys, xs = ([centre[axis] + jump[axis] * place for place in range(_positions(row, axis))] for axis in (0, 1))
    points = [(x, y) for y in ys for x in xs]
    axes.scatter(
        [x for x, _ in points], [y for _, y in points], s=9, color="white", edgecolors=INK, linewidths=0.7, zorder=3
    )


def _explain(figure: Figure, model: InspectedModel, row: LayerRow, *, padded: bool) -> None:
    title = f"What the middle of a map of {printable(model['model'])} can see"
    figure.text(0.02, 0.95, title, color=INK, fontsize=12, weight="bold", parse_math=False)
    height, width = _sides(model)
    said = [f"Picture: {height}x{width} pixels."]
    if padded:
        said.append("Hatched: padding, beyond its border.")
    if _has_grid(row, (height, width)):
        rows, columns, jump = _positions(row, 0), _positions(row, 1), row["jump"] or [0.0, 0.0]
        said.append(f"Dots: the {rows}x{columns} positions of {_called(row)}, {jump[0]:g} pixels apart.")
    figure.text(0.02, 0.03, " ".join(said), color=MUTED, fontsize=9, parse_math=False)
