"""What a layer diagram shows: rows of a trace made to boxes, and boxes to frames of modules that branch or repeat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from convatlas.reports.inspected import LayerRow

Kind = Literal["convolution", "pooling", "dense", "join", "other", "end"]  # "end": the image and the output

# Operators without "aten." and without the "_" of those that write in place -> what the box says.
WORDS = {
    "native_batch_norm": "BN", "_native_batch_norm_legit_no_training": "BN", "_native_batch_norm_legit": "BN",
    "cudnn_batch_norm": "BN", "batch_norm": "BN", "native_layer_norm": "layer norm", "native_group_norm": "group norm",
    "relu": "ReLU", "hardtanh": "ReLU6", "leaky_relu": "leaky ReLU", "elu": "ELU", "gelu": "GELU", "silu": "SiLU",
    "hardswish": "hard swish", "hardsigmoid": "hard sigmoid", "sigmoid": "sigmoid", "tanh": "tanh",
    "_softmax": "softmax", "_log_softmax": "log softmax", "native_dropout": "dropout", "mish": "Mish",
    "_prelu_kernel": "PReLU", "clamp": "clamp",
}  # fmt: skip
SCALED = frozenset({"mul", "div", "add", "sub", "neg"})  # what an activation may do besides: 1.7 tanh(2/3 x)
JOINS = {"cat": "concatenate", "stack": "stack", "add": "add", "mul": "multiply"}
DENSE = frozenset({"addmm", "mm", "linear"})
SILENT = frozenset({  # they compute nothing: views, copies, memory that others fill
    "view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "squeeze", "unsqueeze", "t", "transpose", "permute",
    "alias", "clone", "detach", "contiguous", "expand", "dropout", "slice", "select",
    "empty", "empty_like", "new_empty", "as_strided",
})  # fmt: skip


MANY = 30  # boxes that are too many to stand in one frame


@dataclass(eq=False)
class Box:
    """Rows that run one after another, as one operation; the first says what it is."""

    rows: list[int]
    kind: Kind
    modules: tuple[int, ...]  # calls of the modules it is in, the network's first
    path: str = ""  # of its module
    tap: str = ""  # the paper's name
    operation: str = ""
    shape: tuple[int, ...] = ()  # of its output, without the batch
    parameters: int = 0
    sources: list[Box] = field(default_factory=list)  # without the network's input
    reads_input: bool = False
    last: int = 0  # the row whose output it gives
    readers: list[Box] = field(default_factory=list)

    def boxes(self) -> Iterator[Box]:
        """Itself, as a frame gives those inside."""
        yield self

    def drawn_boxes(self) -> Iterator[Box]:
        """Itself, as a frame gives those that are drawn."""
        yield self


@dataclass(eq=False)
class Frame:
    """A module with branches, or the first of several like it that follow each other."""

    items: list[Item]
    path: str  # of the module
    title: str
    like: list[Frame] = field(default_factory=list)  # those after it that look the same

    def boxes(self) -> Iterator[Box]:
        """All boxes inside, those of the frames that look the same too."""
        for item in self.items:
            yield from item.boxes()
        for other in self.like:
            yield from other.boxes()

    def drawn_boxes(self) -> Iterator[Box]:
        """The boxes that a picture shows: where frames look the same, those of the first."""
        for item in self.items:
            yield from item.drawn_boxes()


Item = Box | Frame


@dataclass(eq=False)
class _Module:
    """One call of a module."""

    number: int
    path: str
    call: int = 0  # as its own rows say, if it has any
    children: dict[object, _Module | Box] = field(default_factory=dict)


# --- from rows to boxes


def fused_boxes(rows: Sequence[LayerRow]) -> list[Box]:
    """Rows as boxes: normalisation, activation and dropout belong to what they follow, views to what reads them.

    >>> from convatlas.reports.inspected import layer_row
    >>> rows = [layer_row("conv", ["aten.convolution"], [-1]), layer_row("relu", ["aten.relu"], [0])]
    >>> [box.operation for box in fused_boxes(rows)]
    ['conv, ReLU']
    """
    modules = _modules_of(rows)
    readers = _count_readers(rows)
    boxes: list[Box] = []
    of_row: list[Box | None] = []  # None: the network's input itself, seen in another shape
    for place, row in enumerate(rows):
        reads_input, sources = _read(row, place, of_row)
        before = sources[0] if len(sources) == 1 and not reads_input else None
        belongs = before is not None and _follows(row, before, modules[place]) and readers[before.last] == 1
        if belongs or (_passes(row) and len(sources) + reads_input <= 1):
            box = before
        else:
            box = Box(
                [], _kind(row, len(sources) + reads_input), modules[place], sources=sources, reads_input=reads_input
            )
            boxes.append(box)
        if box is not None:
            box.rows.append(place)
            box.last = place if row["operators"] or len(box.rows) == 1 else box.last
            box.modules = box.modules if _passes(row) else _common(box.modules, modules[place])
        of_row.append(box)
    for box in boxes:
        _describe(box, [rows[place] for place in box.rows])
        for source in box.sources:
            source.readers.append(box)
    return boxes


def _read(row: LayerRow, place: int, of_row: Sequence[Box | None]) -> tuple[bool, list[Box]]:
    """Whether a row reads the network's input, and the boxes it reads; a row that runs later is none."""
    earlier = [source for source in row["sources"] if source < place]
    found = [None if source < 0 else of_row[source] for source in earlier]
    sources = list(dict.fromkeys(box for box in found if box is not None))
    return None in found, sources


def _count_readers(rows: Sequence[LayerRow]) -> list[int]:
    """How many rows read each; one in which nothing runs, such as dropout in evaluation, reads nothing."""
    readers = [0] * len(rows)
    for row in (row for row in rows if row["operators"]):
        for source in set(row["sources"]) - {-1}:
            readers[source] += 1
    return readers


def plain_name(operator: str) -> str:
    """An operator without its library and without the mark of those that write in place.

    >>> plain_name("aten.relu_")
    'relu'
    """
    name = operator.rpartition(".")[2]
    return name[:-1] if name.endswith("_") else name


def _names(row: LayerRow) -> list[str]:
    return [plain_name(operator) for operator in row["operators"]]


def _passes(row: LayerRow) -> bool:
    return not row["parameters"] and all(name in SILENT for name in _names(row))


def _follows(row: LayerRow, before: Box, modules: tuple[int, ...]) -> bool:
    """Whether a row is the normalisation or activation of the box before it."""
    names = [name for name in _names(row) if name not in SILENT]
    is_activation = all(name in WORDS or name in SCALED for name in names) and any(name in WORDS for name in names)
    if before.kind == "pooling" or not (is_activation or not names):
        return False
    # what joins branches stays in the module that branches
    return before.kind != "join" or modules[: len(before.modules)] == before.modules


def _kind(row: LayerRow, sources: int) -> Kind:
    names = _names(row)
    if any("convolution" in name for name in names):
        return "convolution"
    if any("pool" in name for name in names) or (set(names) <= {"mean", *SILENT} and "mean" in names):
        return "pooling"
    if row["parameters"] and DENSE & set(names):
        return "dense"
    joins = "cat" in names or (sources > 1 and JOINS.keys() & set(names))  # a dense block's first layer joins one map
    return "join" if joins else "other"


def _common(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return tuple(one[:shared])


# --- what a box says


def _describe(box: Box, rows: Sequence[LayerRow]) -> None:
    taps = [row["tap"] for row in rows if row["tap"]]
    box.path, box.tap = rows[0]["name"], taps[-1] if taps else ""
    told = [row for row in rows if not _passes(row)] or rows
    box.shape = tuple(told[-1]["output_shape"][1:])
    box.parameters = sum(row["parameters"] + row["frozen_parameters"] for row in rows)
    following = [word for row in rows[1:] for word in _following_words(row)]
    box.operation = ", ".join([*_operation(rows[0], box.kind), *following])


def _operation(row: LayerRow, kind: Kind) -> list[str]:
    window, *settings = row["detail"].split(", ")
    settings = [setting for setting in settings if not setting.startswith("padding")]
    names = _names(row)
    match kind:
        case "convolution":
            conv = "transposed conv" if "Transpose" in row["type"] else "conv"
            said = [_without_count(setting, row) for setting in settings]
            return [f"{window} {conv}".strip(), *_width(row, 1), *said, *_words_after(row, "convolution")]
        case "pooling":
            return [_pooling(row, window), *(setting for setting in settings if setting.startswith("stride"))]
        case "dense" if "_softmax" in names or any("attention" in name for name in names):
            return [row["type"], *_width(row, -1)]
        case "dense":
            return ["dense", *_width(row, -1), *_words_after(row, "mm")]
        case "join":
            return [*dict.fromkeys(JOINS[name] for name in names if name in JOINS), *_words_after(row, "")]
        case _:
            return _words(row)


def _following_words(row: LayerRow) -> list[str]:
    if "Dropout" in row["type"]:
        return ["dropout"]
    return [] if _passes(row) else _words(row)


def _words(row: LayerRow) -> list[str]:
    """What a row does that has no more to say; its class's name, where that is not plain."""
    names = [name for name in _names(row) if name not in SILENT]
    if row["type"] == "ReLU" or not names or any(name not in WORDS for name in names):
        return [row["type"]]
    return list(dict.fromkeys(WORDS[name] for name in names))


def _words_after(row: LayerRow, main: str) -> list[str]:
    """Normalisation and activation that a row has after its main operator."""
    names = _names(row)
    first = next((place for place, name in enumerate(names) if main in name), 0)
    return list(dict.fromkeys(WORDS[name] for name in names[first:] if name in WORDS))


def _width(row: LayerRow, dimension: int) -> list[str]:
    return [str(row["output_shape"][dimension])] if len(row["output_shape"]) > 1 else []


def _without_count(setting: str, row: LayerRow) -> str:
    """Groups as many as channels are one filter a channel."""
    return "each channel" if [setting] == [f"groups {width}" for width in _width(row, 1)] else setting


def _pooling(row: LayerRow, window: str) -> str:
    how = "max" if "max" in " ".join(_names(row)) else "average"
    if row["detail"].startswith("to "):
        return f"{how} pool {window}"
    whole = all(side == 1 for side in row["output_shape"][2:])
    return f"{window or ('global' if whole else '')} {how} pool".strip()


# --- from boxes to frames


def frames(rows: Sequence[LayerRow], boxes: Sequence[Box]) -> list[Item]:
    """The boxes in the order in which they run; modules that branch in frames, and those that repeat drawn once."""
    root = _Module(0, "")
    paths = _module_paths(rows)
    for box in boxes:
        place: _Module = root
        for number in box.modules[1:]:
            found = place.children.setdefault(number, _Module(number, paths[number]))
            assert isinstance(found, _Module)
            place = found
        place.children[box] = box
    items = _items(root)
    while wrapper := _wrapper(items):
        at = items.index(wrapper)
        items[at : at + 1] = wrapper.items
    return items


def _wrapper(items: Sequence[Item]) -> Frame | None:
    """A frame around everything, or around most of a network of many boxes: without it they stand in columns."""
    drawn = [len(list(item.drawn_boxes())) for item in items]
    for item, count in zip(items, drawn, strict=True):
        most = len(items) == 1 or (count > MANY and count > sum(drawn) / 2)
        if isinstance(item, Frame) and not item.like and most:
            return item
    return None


def _items(module: _Module) -> list[Item]:
    found: list[Item] = [
        child if isinstance(child, Box) else _frame(_items(child), child.path) for child in module.children.values()
    ]
    if module.path and len(found) == 1 and isinstance(found[0], Box):
        found[0].path = module.path
    return [item for run in _runs(found) for item in _folded(run)]


def _runs(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Items that look the same and each of which reads the one before it, together."""
    inner = set(links(items)[0])
    looks = list(map(signature, items))
    run: list[Item] = []
    for place, item in enumerate(items):
        if run and (looks[place] != looks[place - 1] or (place - 1, place) not in inner):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def _folded(run: list[Item]) -> list[Item]:
    """One for all, where that is shorter; frames that are not needed are opened."""
    frames_of_run = [item if isinstance(item, Frame) else Frame([item], "", item.tap or item.path) for item in run]
    first = frames_of_run[0]
    enough = 2 if branches(first.items) else 3 if len(first.items) > 1 else 4
    if len(run) >= enough:
        return [Frame(first.items, first.path, first.title, like=frames_of_run[1:])]
    if isinstance(run[0], Box) or branches(first.items):
        return run
    return [item for frame in frames_of_run for item in frame.items]


def _frame(items: list[Item], path: str) -> Frame:
    """The paper's name of a module is its last box's, unless that is one layer among others that have names."""
    *earlier, last = sorted((box for item in items for box in item.boxes()), key=lambda box: box.rows[-1])
    named = last.path == path or not any(box.tap for box in earlier)
    return Frame(items, path, last.tap if named and last.tap else path)


def links(items: Sequence[Item]) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Which item reads which, by place; which read something from outside; and which are read there, or by nobody."""
    owner = {box: place for place, item in enumerate(items) for box in item.boxes()}
    inner = {(owner[source], place) for box, place in owner.items() for source in box.sources if source in owner}
    entries = {
        place for box, place in owner.items() if box.reads_input or any(source not in owner for source in box.sources)
    }
    exits = {
        place for box, place in owner.items() if not box.readers or any(reader not in owner for reader in box.readers)
    }
    return sorted((a, b) for a, b in inner if a != b), sorted(entries), sorted(exits)


def branches(items: Sequence[Item]) -> bool:
    """Whether items are more than one after another."""
    inner, entries, exits = links(items)
    chain = [(place, place + 1) for place in range(len(items) - 1)]
    return inner != chain or any(place > 0 for place in entries) or any(place < len(items) - 1 for place in exits)


def signature(item: Item) -> object:
    """What has to be the same for items to be drawn once: operations and sides of maps; channels may grow."""
    if isinstance(item, Box):
        counted = item.kind in ("convolution", "dense")
        return item.operation, item.kind, item.shape if counted else item.shape[1:]
    inner, entries, _ = links(item.items)
    return tuple(map(signature, item.items)), tuple(inner), tuple(entries), len(item.like)


# --- calls of modules


def _module_paths(rows: Sequence[LayerRow]) -> dict[int, str]:
    return {number: path for row in _walk(rows) for number, path in row}


def _modules_of(rows: Sequence[LayerRow]) -> list[tuple[int, ...]]:
    """For each row the calls of modules it ran in, from the network inwards."""
    return [tuple(number for number, _ in stack) for stack in _walk(rows)]


def _walk(rows: Sequence[LayerRow]) -> Iterator[list[tuple[int, str]]]:
    """The open calls at each row. Rows of a call follow each other; the module's own say which call it is."""
    parents = {parent for row in rows for parent in _ancestors(row["name"])}
    stack: list[tuple[int, str]] = [(0, "")]
    calls: dict[int, int] = {}  # number of an open call -> which of its module's calls it is
    count = 0
    for row in rows:
        name = row["name"]
        wanted = [*_ancestors(name), *([name] if name in parents and name else [])]
        shared = 0
        while shared < min(len(wanted), len(stack)) and stack[shared][1] == wanted[shared]:
            shared += 1
        own = name in parents and name != ""
        if own and shared == len(wanted) and calls.get(stack[shared - 1][0], row["call"]) != row["call"]:
            shared -= 1
        del stack[shared:]
        for path in wanted[shared:]:
            count += 1
            stack.append((count, path))
        if own:
            calls[stack[-1][0]] = row["call"]
        yield list(stack)


def _ancestors(name: str) -> list[str]:
    """Paths around a path: of "a.b.c" the network, "a" and "a.b".

    >>> _ancestors("a.b.c")
    ['', 'a', 'a.b']
    """
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts))] if name else [""]
