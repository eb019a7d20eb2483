"""The record of an inspected network, as ``convatlas inspect --json`` prints it, and the same as a table."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NotRequired, TypedDict

from convatlas.errors import ConvatlasError
from convatlas.reports.wording import printable


class LayerRow(TypedDict):
    """One call of a layer, or what a block does itself between the calls of its children, such as an addition."""

    name: str  # path of the module: "features.28"; "" is the network itself
    tap: str | None  # the paper's name: "conv5_3"
    type: str  # class of the module
    detail: str  # "3x3, stride 2"
    depth: int  # of the path: 2 for "features.28"
    call: int  # 2 of
    calls: int  # 3: how often the module is called
    input_shapes: list[list[int]]  # with the batch, as all shapes
    output_shape: list[int]
    parameters: int  # trainable ones that no row before has
    frozen_parameters: int
    buffers: int
    macs: int | None  # None: an operator's cost is not known
    flops: int | None
    receptive_field: list[int] | None  # [rows, columns] in pixels; None: not known, or no image
    jump: list[float] | None  # pixels between the windows of neighbouring positions
    centre: list[float] | None  # of the first position's window; pixel 0 has its centre at 0
    activation_bytes: int  # memory that the output takes anew
    operators: list[str]
    unknown_operators: list[str]
    sources: list[int]  # places of the rows whose outputs it reads; -1: the network's input


class FoldedRow(LayerRow):
    """Rows that ran one after another inside the same module, as one."""

    layers: int  # how many


class MemoryRecord(TypedDict, total=False):
    """What a batch takes, as far as it has been asked for."""

    batch_size: int
    inference_peak_bytes: int
    training_peak_bytes: int
    textbook_bytes: int
    planned_for: str  # the engine, the processor, the layout: others take other amounts
    peak_at: str  # the module in which training takes most
    at_peak: dict[str, int]  # what the memory holds there
    limit_bytes: int | None
    largest_batch: int | None  # that the limit is enough for


class InspectedModel(TypedDict):
    """A network as it was traced on one input."""

    model: str
    input_shape: list[int]
    parameters: int  # trainable
    frozen_parameters: int
    buffers: int
    unused_parameters: NotRequired[dict[str, int]]  # of modules that the pass does not read, such as auxiliary heads
    macs: int | None
    flops: int | None
    memory: MemoryRecord | None
    why_no_memory: NotRequired[str | None]
    unknown_operators: list[str]
    layers: list[LayerRow]


COLUMNS = (
    "name", "tap", "type", "detail", "call", "calls", "output_shape", "parameters", "frozen_parameters", "buffers",
    "macs", "flops", "receptive_field", "jump", "centre", "activation_bytes", "unknown_operators", "sources",
)  # fmt: skip
FIRST_NUMBER = 3  # column of a table in Markdown: those before it are names


def layers_csv(model: InspectedModel) -> str:
    """The layers as CSV: a line of names, a line a layer; shapes and windows as "64x56x56", what is not known empty.

    >>> layers_csv(inspected_model([])).partition(",detail")[0]
    'name,tap,type'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in model["layers"]:
        lists = {"unknown_operators": " ".join(row["unknown_operators"]), "sources": " ".join(map(str, row["sources"]))}
        writer.writerow([_cell({**row, **lists}[column]) for column in COLUMNS])
    return text.getvalue()


def layers_markdown(model: InspectedModel, depth: int | None = None) -> str:
    """A title, the totals and a table of the layers, or of the modules at ``depth``.

    Raises:
        ConvatlasError: a depth below 1.
    """
    rows: Sequence[LayerRow] = model["layers"] if depth is None else folded_to_depth(model, depth)
    header = ("Layer", "Paper's name", "Type", "Output", "Parameters", "MACs", "Receptive field", "Jump", "Activation")
    of_images = ("Receptive field", "Jump")  # left out where the input is something else
    is_image = len(model["input_shape"]) == 4
    kept = [place for place, name in enumerate(header) if is_image or name not in of_images]
    return "\n".join(
        [
            f"# {_escaped(model['model'])}",
            "",
            *totals_in_words(model),
            "",
            _markdown_line([header[place] for place in kept]),
            _markdown_line([("---" if place < FIRST_NUMBER else "---:") for place in kept]),
            *(_markdown_line([_markdown_cells(row)[place] for place in kept]) for row in rows),
            "",
            *_unknown_in_words(model),
        ]
    )


def _markdown_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def totals_in_words(model: InspectedModel) -> list[str]:
    """Lines of a list: what the whole network takes, holds and costs."""
    shape = _by(model["input_shape"])
    frozen = f" and {model['frozen_parameters']:,} frozen" if model["frozen_parameters"] else ""
    cost = "not known" if model["macs"] is None else f"{model['macs']:,} multiply-adds ({model['flops']:,} FLOPs)"
    return [
        f"- Input: {shape}, batch first",
        f"- Parameters: {model['parameters']:,}{frozen}; buffers: {model['buffers']:,}",
        f"- Cost: {cost}",
        *_memory_in_words(model["memory"]),
    ]


def _memory_in_words(memory: MemoryRecord | None) -> list[str]:
    if memory is None:
        return []
    named = {
        "inference_peak_bytes": "inference",
        "training_peak_bytes": "training",
        "textbook_bytes": "training by the textbook's formula",
    }
    parts = [f"{in_bytes(memory[key])} {word}" for key, word in named.items() if key in memory]  # type: ignore[literal-required]
    if limit := memory.get("limit_bytes"):
        parts.append(f"{in_bytes(limit)} enough for batches of {memory.get('largest_batch') or 0}")
    batch = f" at a batch of {memory['batch_size']}" if "batch_size" in memory else ""
    setting = f" ({memory['planned_for']})" if "planned_for" in memory else ""
    return [f"- Memory{batch}{setting}: {', '.join(parts)}"] if parts else []


def _unknown_in_words(model: InspectedModel) -> list[str]:
    if not model["unknown_operators"]:
        return []
    count = Counter(chain.from_iterable(row["unknown_operators"] for row in model["layers"]))
    names = [f"`{name}`{f' ({count[name]} times)' if count[name] > 1 else ''}" for name in model["unknown_operators"]]
    them = "it" if len(names) == 1 else "them"
    return [f"Not known: {', '.join(names)}. What depends on {them} is left empty, not guessed.", ""]


def _markdown_cells(row: LayerRow) -> list[str]:
    name = row["name"] or "(the network itself)"
    call = f" (call {row['call']} of {row['calls']})" if row["calls"] > 1 else ""
    cells = [
        name + call,
        row["tap"] or "",
        f"{row['type']} {row['detail']}".strip(),
        _by(row["output_shape"][1:]),
        in_thousands(row["parameters"] + row["frozen_parameters"]),
        "?" if row["macs"] is None else in_thousands(row["macs"]),
        "" if row["receptive_field"] is None else _by(row["receptive_field"]),
        "" if row["jump"] is None else _by(row["jump"]),
        in_bytes(row["activation_bytes"]) if row["activation_bytes"] else "",
    ]
    return [_escaped(cell) for cell in cells]


def _escaped(text: str) -> str:
    plain = " ".join(printable(text).split())
    for letter in "\\`*_[]<>|":
        plain = plain.replace(letter, f"\\{letter}")
    return plain


def folded_to_depth(model: InspectedModel, depth: int) -> list[FoldedRow]:
    """The rows, those that ran one after another inside the same module ``depth`` parts deep as one.

    Parameters, buffers, costs and memory are summed, so that they add up to the same as before; a sum of which a part
    is not known is not known. Output and receptive field are the last row's and the input the first's; the paper's name
    is the module's own, or that of the only named row.

    >>> rows = [layer_row("block.conv", parameters=8), layer_row("block.bn", parameters=2), layer_row("head")]
    >>> folded = folded_to_depth(inspected_model(rows), 1)
    >>> [(row["name"], row["parameters"], row["layers"]) for row in folded]
    [('block', 10, 2), ('head', 0, 1)]

    Raises:
        ConvatlasError: a depth below 1.
    """
    if depth < 1:
        raise ConvatlasError(
            f"cannot show a network to depth {depth}: the depth counts parts of a path and starts at 1"
        )
    groups = _calls_at(model["layers"], depth)
    group_of = {-1: -1, **{place: number for number, group in enumerate(groups) for place in group}}
    return [
        _folded(_key(model["layers"][group[0]], depth), [model["layers"][place] for place in group], number, group_of)
        for number, group in enumerate(groups)
    ]


def _key(row: LayerRow, depth: int) -> str:
    return ".".join(row["name"].split(".")[:depth])


def _calls_at(rows: Sequence[LayerRow], depth: int) -> list[list[int]]:
    """Places of the rows of each call of a module at that depth; rows of one call follow each other."""
    groups: list[list[int]] = []
    key, call = None, 0
    for place, row in enumerate(rows):
        own = row["name"] == _key(row, depth)  # what the module itself does: it alone tells which call this is
        if _key(row, depth) != key or (own and call not in (0, row["call"])):
            groups.append([])
            key, call = _key(row, depth), 0
        groups[-1].append(place)
        call = row["call"] if own else call
    return groups


def _folded(name: str, rows: Sequence[LayerRow], number: int, group_of: Mapping[int, int]) -> FoldedRow:
    last = rows[-1]
    own = [row for row in rows if row["name"] == name]
    return FoldedRow(
        name=name,
        tap=_shared_tap(rows, own),
        type=own[-1]["type"] if own else "",
        detail=own[-1]["detail"] if own else "",
        depth=len(name.split(".")),
        call=own[-1]["call"] if own else 1,
        calls=own[-1]["calls"] if own else 1,
        input_shapes=rows[0]["input_shapes"],
        output_shape=last["output_shape"],
        parameters=sum(row["parameters"] for row in rows),
        frozen_parameters=sum(row["frozen_parameters"] for row in rows),
        buffers=sum(row["buffers"] for row in rows),
        macs=known_sum(row["macs"] for row in rows),
        flops=known_sum(row["flops"] for row in rows),
        receptive_field=last["receptive_field"],
        jump=last["jump"],
        centre=last["centre"],
        activation_bytes=sum(row["activation_bytes"] for row in rows),
        operators=[operator for row in rows for operator in row["operators"]],
        unknown_operators=list(dict.fromkeys(operator for row in rows for operator in row["unknown_operators"])),
        sources=_outer_sources(rows, number, group_of),
        layers=len(rows),
    )


def _shared_tap(rows: Sequence[LayerRow], own: Sequence[LayerRow]) -> str | None:
    """What the paper calls the whole: the name of the module's own row, or of the last if no other has one."""
    if own and own[-1]["tap"]:
        return own[-1]["tap"]
    named = [row["tap"] for row in rows if row["tap"]]
    return rows[-1]["tap"] if len(named) == 1 else None


def _outer_sources(rows: Sequence[LayerRow], number: int, group_of: Mapping[int, int]) -> list[int]:
    read = (group_of[source] for row in rows for source in row["sources"])
    return list(dict.fromkeys(group for group in read if group != number))


def known_sum(values: Iterable[int | None]) -> int | None:
    """The sum, or None where a part is not known.

    >>> known_sum([1, 2]), known_sum([1, None])
    (3, None)
    """
    parts = list(values)
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def layer_row(name: str, operators: Iterable[str] = (), sources: Iterable[int] = (), **given: object) -> LayerRow:
    """A row of which only some columns matter, the others empty; for examples and tests.

    >>> layer_row("conv1", ["aten.convolution"], parameters=9)["parameters"]
    9
    """
    row = LayerRow(
        name=name, tap=None, type="", detail="", depth=len(name.split(".")), call=1, calls=1, input_shapes=[],
        output_shape=[], parameters=0, frozen_parameters=0, buffers=0, macs=0, flops=0, receptive_field=None, jump=None,
        centre=None, activation_bytes=0, operators=list(operators), unknown_operators=[], sources=list(sources),
    )  # fmt: skip
    row.update(given)  # type: ignore[typeddict-item]
    return row


def inspected_model(layers: Sequence[LayerRow], **given: object) -> InspectedModel:
    """A network of these rows, its totals theirs; for examples and tests.

    >>> inspected_model([layer_row("fc", parameters=10)])["parameters"]
    10
    """
    model = InspectedModel(
        model="network",
        input_shape=[1, 3, 224, 224],
        parameters=sum(row["parameters"] for row in layers),
        frozen_parameters=sum(row["frozen_parameters"] for row in layers),
        buffers=sum(row["buffers"] for row in layers),
        macs=known_sum(row["macs"] for row in layers),
        flops=known_sum(row["flops"] for row in layers),
        memory=None,
        unknown_operators=list(dict.fromkeys(name for row in layers for name in row["unknown_operators"])),
        layers=list(layers),
    )
    model.update(given)  # type: ignore[typeddict-item]
    return model


# --- numbers in words


def in_thousands(count: int) -> str:
    """A count in three digits: k, M, G.

    >>> in_thousands(832), in_thousands(36_928), in_thousands(2_359_808), in_thousands(15_470_264_320)
    ('832', '36.9 k', '2.36 M', '15.5 G')
    """
    return _scaled(count, ("", " k", " M", " G", " T"))


def shortened_path(path: str, letters: int = 22) -> str:
    """A path without its first parts where it is long.

    >>> shortened_path("features.denseblock1.denselayer2.conv1"), shortened_path("features.28")
    ('denselayer2.conv1', 'features.28')
    """
    parts = path.split(".")
    while len(parts) > 1 and len(".".join(parts)) > letters:
        parts = parts[1:]
    return ".".join(parts)


def in_bytes(count: int) -> str:
    """Bytes in three digits, in steps of 1000.

    >>> in_bytes(12_845_056)
    '12.8 MB'
    """
    return _scaled(count, (" B", " kB", " MB", " GB", " TB"))


def _scaled(count: int, units: Sequence[str]) -> str:
    value, step = float(count), 0
    while value >= 999.5 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    digits = 0 if step == 0 else max(0, 2 - (value >= 9.995) - (value >= 99.95))
    return f"{value:.{digits}f}{units[step]}"


def _by(sides: Iterable[float]) -> str:
    """[64, 56, 56] as 64x56x56; of equal sides of a window each is said."""
    return "x".join(f"{side:g}" if isinstance(side, float) else str(side) for side in sides)


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, list):
        return _by(value)
    return printable(value) if isinstance(value, str) else value
