"""Which pixels of the image each element of each tensor can depend on: exact through strides, dilation and branches.

For every tensor the first and the last row and column that each of its elements sees are carried along the trace
(``reach``). Operators move, join and widen these intervals as they move and join the elements themselves (``rules``),
so a concatenation or an addition is their union.

The *window* counts padding as if the image went on: it is the receptive field of the literature, the same for every
position, and it may be larger than the image (404x404 at VGG-16's first dense layer, of images of 224). After a gate
that sees the whole image, as in squeeze-and-excitation, it is the image at least. The *support* counts only
what is there: outside it the gradient of an element with respect to the image is zero, and it is the
smallest rectangle of which that can be said. A number that leaves the tensors (``item()``) takes no gradient with it,
and is not followed.

>>> from convatlas.inspection.trace import trace_module
>>> stack = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3))
>>> trace = trace_module(stack, torch.zeros(1, 1, 32, 32))
>>> fields = receptive_fields(trace)
>>> [window_of(fields[operator.outputs[0].index]).size for operator in trace.operators]
[(3, 3), (5, 5), (7, 7)]

Sources: Dumoulin & Visin 2016, arXiv 1603.07285, for the arithmetic of convolutions; Araujo, Norris & Sim 2019,
"Computing Receptive Fields of Convolutional Neural Networks", Distill, for branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from convatlas.inspection.reach import COLUMNS, ROWS, Axis, Field, Reach, blind, tidy
from convatlas.inspection.rules import NUMBERS, rule_of
from convatlas.inspection.trace import Operator, Trace, Value

UNSEEN = blind(0)  # of a tensor that is not known: a weight, a constant


@dataclass(frozen=True)
class Window:
    """The receptive field of the positions of a map, in pixels of the image, as (rows, columns)."""

    size: tuple[int, int]  # of the largest, where positions differ
    jump: tuple[float, float] | None  # between the windows of neighbouring positions; None where there is no map
    centre: tuple[float, float]  # of the first position's window; pixel 0 has its centre at 0


def receptive_fields(trace: Trace) -> dict[int, Field | None]:
    """Index of each value -> its field; None where it is not known, because an operator on its way is not.

    Nothing is known of a network without an image among its inputs: [N, C, H, W]. Several images of one size count as
    one; of another size than the first, they are not known.
    """
    fields: dict[int, Field | None] = _image_fields(trace.inputs)
    if not fields:
        return {}
    touched = {value.storage for value in trace.inputs}  # memory that holds something that may see
    for operator in trace.operators:
        outputs = _propagate(operator, fields, touched)
        for value, field in zip(operator.outputs, outputs, strict=True):
            fields[value.index] = field
            if field is None or not field.is_blind:
                touched.add(value.storage)
    return fields


def _image_fields(inputs: Sequence[Value]) -> dict[int, Field | None]:
    images = [value for value in inputs if _is_image(value)]
    return {value.index: image_field(value) if value.shape[2:] == images[0].shape[2:] else None for value in images}


def _is_image(value: Value) -> bool:
    return len(value.shape) == 4 and (value.dtype.is_floating_point or value.dtype == torch.uint8)


def image_field(value: Value) -> Field:
    """What the pixels of an image [N, C, H, W] see: themselves."""
    rows, columns = (np.arange(side, dtype=np.int64) for side in value.shape[2:])
    down, across = rows.reshape(1, 1, -1, 1), columns.reshape(1, 1, 1, -1)
    itself = Reach(down, down), Reach(across, across)
    return Field(itself, itself, (Axis(down, Fraction(1)), Axis(across, Fraction(1))))


def window_of(field: Field | None) -> Window | None:
    """The largest window of a map's positions, each with all its channels; None where nothing is known or seen.

    What is no map any more, such as the output of a dense layer, has the largest window of its elements.
    """
    if field is None or field.is_blind:
        return None
    jump, channels = _layout(field)
    seen = tidy(field)
    reaches = [reach.over(channels) for reach in seen.window]
    # after a gate an element also depends on what its window does not reach
    widths = [max(_widest(slides), _widest(sees)) for slides, sees in zip(reaches, seen.support, strict=True)]
    first = [_first_centre(reach) for reach in reaches]
    return Window((widths[ROWS], widths[COLUMNS]), jump, (first[ROWS], first[COLUMNS]))


def _layout(field: Field) -> tuple[tuple[float, float] | None, tuple[int, ...]]:
    """Pixels between positions, and the dimensions along which one position has its elements."""
    ndim = field.window[ROWS].low.ndim
    jumps, dims = [], set()
    for axis in field.axes:
        if axis is None:
            return None, ()
        varying = [dim for dim, side in enumerate(axis.places.shape) if side > 1]
        line = axis.along(varying[0]) if varying else axis
        if line is None:
            return None, ()
        jumps.append(float(line.jump))
        dims.update(varying)
    return (jumps[ROWS], jumps[COLUMNS]), tuple(dim for dim in range(ndim) if dim not in dims)


def _widest(reach: Reach) -> int:
    return int((reach.high - reach.low).max()) + 1


def _first_centre(reach: Reach) -> float:
    low, high = np.broadcast_arrays(reach.low, reach.high)
    sees = low <= high
    return float((low[sees][0] + high[sees][0]) / 2)


def is_understood(operator: Operator) -> bool:
    """Whether what an operator does to its inputs is known, and so that it multiplies no matrices unless it is said."""
    return rule_of(operator) is not None or not operator.inputs


def what_is_unknown(operator: Operator, fields: Mapping[int, Field | None]) -> str | None:
    """What cannot be said of an operator, in words; None where nothing is missing, or it went missing before."""
    if not is_understood(operator):
        return operator.name
    if operator.name.removeprefix("aten.") in NUMBERS:
        return f"{operator.name} (the path may depend on the number)"
    if not operator.outputs or operator.outputs[0].index not in fields or fields[operator.outputs[0].index] is not None:
        return None
    if any(fields.get(value.index, UNSEEN) is None for value in operator.inputs):
        return None
    if operator.reads_overwritten:
        return f"{operator.name} (of memory that was written to through another tensor)"
    return f"{operator.name} (of elements whose place in the image is not known)"


def _propagate(operator: Operator, fields: Mapping[int, Field | None], touched: set[int]) -> Sequence[Field | None]:
    unknown = [None] * len(operator.outputs)
    if operator.reads_overwritten and any(value.storage in touched for value in operator.inputs):
        return unknown  # what was written into it through another tensor
    inputs = [fields.get(value.index, blind(len(value.shape))) for value in operator.inputs]
    if all(field is not None and field.is_blind for field in inputs):
        return [blind(len(value.shape)) for value in operator.outputs]  # weights, and what is made of them
    rule = rule_of(operator)
    if rule is None or any(field is None for field in inputs):
        return unknown
    known = {value.index: field for value, field in zip(operator.inputs, inputs, strict=True) if field is not None}
    result = rule(operator, known)
    if result is None or len(result) != len(operator.outputs):
        return unknown
    return [tidy(field) if field is not None else None for field in result]
