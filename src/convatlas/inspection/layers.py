"""A trace as a list of layers: what each is called, takes, gives, holds and costs, and whose outputs it reads.

>>> import torch
>>> from convatlas.inspection.trace import trace_module
>>> network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
>>> trace = trace_module(network, torch.zeros(1, 3, 32, 32))
>>> for layer in list_layers(trace):
...     print(layer.name, layer.type, layer.detail, layer.output_shape, layer.parameters, layer.macs, layer.sources)
0 Conv2d 3x3 (1, 8, 32, 32) 224 221184 (-1,)
1 ReLU  (1, 8, 32, 32) 0 0 (0,)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import nn

from convatlas.inspection.cost import flops
from convatlas.inspection.reach import Field
from convatlas.inspection.receptive_field import Window, receptive_fields, what_is_unknown, window_of
from convatlas.inspection.trace import Call, Operator, Trace, Value

INPUT = -1  # among the sources of a layer: the network's own input


@dataclass(frozen=True)
class Layer:
    """One call of a layer, or what a block does itself between the calls of its children, such as an addition."""

    name: str  # path of the module, "" of the network itself
    tap: str | None  # the paper's name
    type: str  # class of the module
    detail: str  # "3x3, stride 2"
    call: int  # 2 of
    calls: int  # 3: how often the module is called
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    parameters: int  # trainable ones that no layer before it has used
    frozen_parameters: int
    buffers: int  # floating-point numbers, at the first call
    macs: int | None  # None: it has operators of unknown cost
    flops: int | None
    receptive_field: Window | None  # None: not known, or it sees no image
    activation_bytes: int  # memory that its output takes anew; 0 where it writes in place
    operators: tuple[str, ...]
    unknown_operators: tuple[str, ...]  # by name, and why where it is not for lack of a rule
    sources: tuple[int, ...]  # the layers whose outputs it reads, by place in the list


@dataclass(frozen=True)
class _Stretch:
    """Operators that ran one after another in the same call, perhaps none."""

    call: Call
    begins: int  # place of its first operator
    operators: Sequence[Operator]
    is_last: bool  # of its call


def list_layers(trace: Trace, taps: Mapping[str, str] | None = None) -> list[Layer]:
    """The layers of a network in the order in which they ran.

    Args:
        trace: one forward pass.
        taps: paper's name of a layer -> path of the module whose output it is.
    """
    stretches = [stretch for stretch in _stretches(trace) if _is_layer(stretch, trace)]
    producers = _producers(trace, stretches)
    fields = receptive_fields(trace)
    named = _tapped(trace, producers, taps or {})
    seen: set[int] = set()  # parameters that have been counted
    return [
        _layer(trace, stretch, place, producers, fields, named.get(place), seen)
        for place, stretch in enumerate(stretches)
    ]


def longest_path_depth(layers: Sequence[Layer]) -> int:
    """How many layers that multiply by weights lie on the longest path from the input: what a network's name counts.

    >>> import torch
    >>> from convatlas.inspection.trace import trace_module
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    >>> trace = trace_module(network, torch.zeros(1, 3, 32, 32))
    >>> longest_path_depth(list_layers(trace))
    2

    Layers of gates (squeeze-and-excitation) count too where they lengthen the path.
    """
    depths: list[int] = []
    for layer in layers:
        before = max((depths[source] for source in layer.sources if source != INPUT), default=0)
        depths.append(before + (1 if layer.macs else 0))
    return max(depths, default=0)


def _stretches(trace: Trace) -> Iterator[_Stretch]:
    """Every stretch, and every call in which nothing ran (dropout, in evaluation), in order."""
    running = [
        (call, list(group)) for call, group in groupby(enumerate(trace.operators), key=lambda each: each[1].call)
    ]
    last = {call: place for place, (call, _) in enumerate(running)}
    ran = [
        _Stretch(trace.calls[call], group[0][0], [operator for _, operator in group], last[call] == place)
        for place, (call, group) in enumerate(running)
        if trace.calls
    ]
    idle = [
        _Stretch(call, call.begins, (), is_last=True)
        for place, call in enumerate(trace.calls)
        if place not in last and not any(call.module.children())
    ]
    # an idle call comes before the operator that runs next
    yield from sorted([*idle, *ran], key=lambda stretch: (stretch.begins, bool(stretch.operators)))


def _is_layer(stretch: _Stretch, trace: Trace) -> bool:
    """A module without children, or a block that does more than look at its tensors in another shape."""
    if not any(stretch.call.module.children()):
        return True
    reads_parameters = any(value.index in trace.parameters for each in stretch.operators for value in each.inputs)
    return reads_parameters or not all(_is_view(operator) for operator in stretch.operators)


def _is_view(operator: Operator) -> bool:
    """Whether an operator computes nothing: it only looks at memory in another shape, or fills new memory."""
    if operator.overload._schema.is_mutable:  # `total += branch` computes, although it makes no new tensor
        return False
    shared = {value.storage for value in operator.inputs}
    return operator.overload.is_view or not operator.inputs or all(each.storage in shared for each in operator.outputs)


def _producers(trace: Trace, stretches: Sequence[_Stretch]) -> dict[int, tuple[int, ...]]:
    """Index of each value -> the layers that made it; those of its inputs for what no layer made, such as a view."""
    layer_of = {id(operator): place for place, stretch in enumerate(stretches) for operator in stretch.operators}
    producers: dict[int, tuple[int, ...]] = {value.index: (INPUT,) for value in trace.inputs}
    writers: dict[int, tuple[int, ...]] = {}  # memory -> the layers that have written to it
    for operator in trace.operators:
        for value in operator.inputs if operator.reads_overwritten else ():
            both = (*producers.get(value.index, ()), *writers.get(value.storage, ()))
            producers[value.index] = tuple(dict.fromkeys(both))
        inherited = tuple(dict.fromkeys(each for value in operator.inputs for each in producers.get(value.index, ())))
        place = layer_of.get(id(operator))
        for value in operator.outputs:
            producers[value.index] = inherited if place is None or not inherited else (place,)
            writers[value.storage] = (*writers.get(value.storage, ()), *producers[value.index])
    return producers


def _tapped(trace: Trace, producers: Mapping[int, tuple[int, ...]], taps: Mapping[str, str]) -> dict[int, str]:
    """Place of a layer -> what the paper calls its output."""
    named = {}
    tap_of = {path: tap for tap, path in taps.items()}
    for call in trace.calls:
        if call.name in tap_of and call.outputs:
            for place in producers.get(call.outputs[0].index, ()):
                named[place] = tap_of[call.name]
    return named


def _layer(
    trace: Trace,
    stretch: _Stretch,
    place: int,
    producers: Mapping[int, tuple[int, ...]],
    fields: Mapping[int, Field | None],
    tap: str | None,
    seen: set[int],
) -> Layer:
    call = stretch.call
    outputs = _outputs(stretch)
    costs = [flops(operator) for operator in stretch.operators]
    known_costs = [cost for cost in costs if cost is not None]
    total = sum(known_costs) if len(known_costs) == len(costs) else None
    trainable, frozen = _parameters(trace, stretch, seen)
    return Layer(
        name=call.name,
        tap=tap,
        type=type(call.module).__name__,
        detail=describe_module(call.module),
        call=call.number,
        calls=trace.times_called[call.module],
        input_shapes=tuple(value.shape for value in _inputs(stretch, place, producers)),
        output_shape=outputs[0].shape if outputs else (),
        parameters=trainable,
        frozen_parameters=frozen,
        buffers=_buffers(call.module) if call.number == 1 and stretch.is_last else 0,
        macs=None if total is None else total // 2,
        flops=total,
        receptive_field=window_of(fields.get(outputs[0].index)) if outputs else None,
        activation_bytes=_new_bytes(stretch, outputs),
        operators=tuple(operator.name for operator in stretch.operators),
        unknown_operators=_unknown(stretch, fields),
        sources=_sources(stretch, place, producers),
    )


def _unknown(stretch: _Stretch, fields: Mapping[int, Field | None]) -> tuple[str, ...]:
    said = (what_is_unknown(operator, fields) for operator in stretch.operators)
    return tuple(dict.fromkeys(words for words in said if words is not None))


def _outputs(stretch: _Stretch) -> tuple[Value, ...]:
    made = {value.index for operator in stretch.operators for value in operator.outputs}
    gives = stretch.call.outputs
    if gives and (not any(stretch.call.module.children()) or gives[0].index in made):  # else a child made them
        return gives
    return next((operator.outputs for operator in reversed(stretch.operators) if operator.outputs), ())


def _inputs(stretch: _Stretch, place: int, producers: Mapping[int, tuple[int, ...]]) -> Iterator[Value]:
    """What comes from other layers or is the network's input, once each."""
    if not stretch.operators:
        yield from stretch.call.inputs
        return
    read = {value.index: value for operator in stretch.operators for value in operator.inputs}
    yield from (value for value in read.values() if any(each != place for each in producers.get(value.index, ())))


def _sources(stretch: _Stretch, place: int, producers: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    found = (each for value in _inputs(stretch, place, producers) for each in producers.get(value.index, ()))
    return tuple(dict.fromkeys(each for each in found if each != place))


def _parameters(trace: Trace, stretch: _Stretch, seen: set[int]) -> tuple[int, int]:
    """How many trainable and frozen numbers a layer reads that none before it has read."""
    read = {value.index: value for operator in stretch.operators for value in operator.inputs}
    fresh = [value for index, value in read.items() if index in trace.parameters and index not in seen]
    seen.update(value.index for value in fresh)
    sizes = {value.index: value.bytes // value.dtype.itemsize for value in fresh}
    frozen = sum(size for index, size in sizes.items() if trace.parameters[index] in trace.frozen)
    return sum(sizes.values()) - frozen, frozen


def _buffers(module: nn.Module) -> int:
    return sum(buffer.numel() for buffer in module.buffers(recurse=False) if buffer.is_floating_point())


def _new_bytes(stretch: _Stretch, outputs: Sequence[Value]) -> int:
    given = {value.storage for operator in stretch.operators for value in operator.inputs}
    made = {value.storage for operator in stretch.operators for value in operator.outputs}
    before = {value.storage for value in stretch.call.inputs} | (given - made)
    new = {value.storage: value.bytes for value in outputs if value.storage in made - before}
    return sum(new.values())


def describe_module(module: nn.Module) -> str:
    """What a convolution's or pooling's window is, in a few words.

    >>> import torch
    >>> describe_module(torch.nn.Conv2d(3, 64, 7, stride=2, padding=3)), describe_module(torch.nn.ReLU())
    ('7x7, stride 2', '')

    Padding is named where it is not the usual one: half a convolution's window, none for a pooling.
    """
    kernel = getattr(module, "kernel_size", None)
    if kernel is None:
        side = getattr(module, "output_size", None)
        return f"to {_sides(side)}" if side is not None and "Adaptive" in type(module).__name__ else ""
    said = [_sides(kernel)]
    for name, usual in (("stride", 1), ("dilation", 1), ("groups", 1)):
        value = getattr(module, name, usual)
        if not _all_equal(value, usual):
            said.append(f"{name} {_short(value)}")
    padding = getattr(module, "padding", 0)
    if not isinstance(padding, str) and not _keeps_the_size(module, kernel, padding):
        said.append(f"padding {_short(padding)}")
    return ", ".join(said)


def _keeps_the_size(module: nn.Module, kernel: Any, padding: Any) -> bool:
    """Whether a window is padded as windows of its kind mostly are: a convolution's by half of it, a pooling's not."""
    if not hasattr(module, "weight"):
        return _all_equal(padding, 0)
    sides = [kernel] if isinstance(kernel, int) else kernel
    dilation = getattr(module, "dilation", 1)
    steps = [dilation] * len(sides) if isinstance(dilation, int) else dilation
    pads = [padding] * len(sides) if isinstance(padding, int) else padding
    return all(2 * pad == step * (side - 1) for side, step, pad in zip(sides, steps, pads, strict=True))


def _sides(value: Any) -> str:
    return f"{value}x{value}" if isinstance(value, int) else "x".join(map(str, value))


def _all_equal(value: Any, usual: int) -> bool:
    return value == usual if isinstance(value, int) else all(each == usual for each in value)


def _short(value: Any) -> str:
    """2 for (2, 2), 2x1 for (2, 1)."""
    if isinstance(value, int) or len(set(value)) == 1:
        return str(value if isinstance(value, int) else value[0])
    return "x".join(map(str, value))
