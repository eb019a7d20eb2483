"""What each operator does to the fields of its inputs: see ``receptive_field``.

A rule takes an operator and the fields of its inputs, and gives those of its outputs; None where it cannot tell. An
operator without a rule is not known, unless PyTorch itself says that it works on every element alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from convatlas.inspection.reach import (
    COLUMNS,
    ROWS,
    Axis,
    Field,
    IntArray,
    Reach,
    Taps,
    adaptive_taps,
    blind,
    common_axes,
    seen_through,
    transposed_taps,
    union,
    window_taps,
)
from convatlas.inspection.trace import Operator

Fields = Mapping[int, Field]
Rule = Callable[[Operator, Fields], "Sequence[Field | None] | None"]


#: operators that read a number out of a tensor
NUMBERS = ("_local_scalar_dense", "equal", "is_nonzero")


def rule_of(operator: Operator) -> Rule | None:
    """The rule of an operator; None where there is none."""
    if torch.Tag.pointwise in operator.overload.tags:
        return _pointwise
    return RULES.get(operator.name)


def _pointwise(operator: Operator, fields: Fields) -> Sequence[Field]:
    """Each element depends on those in its place; a smaller tensor is spread over the larger.

    A gate, the same number for all positions, adds to what they see and not to the window that they slide: else layers
    after it would not widen it any more.
    """
    shape = operator.outputs[0].shape if operator.outputs else ()
    inputs = [(fields[value.index], value.shape == shape) for value in operator.inputs]
    joined = union([field for field, _ in inputs], common_axes([field for field, is_whole in inputs if is_whole]))
    sliding = [field for field, is_whole in inputs if is_whole or not field.is_uniform]
    if any(not field.is_blind for field in sliding):
        joined = replace(joined, window=union(sliding).window)
    return [joined] * len(operator.outputs)


def _overwriting(operator: Operator, fields: Fields) -> Sequence[Field]:
    """``copy_``: what was there before is gone."""
    target, source = operator.inputs[:2]
    copied = fields[source.index]
    lacking = len(target.shape) - len(source.shape)
    return [copied.move(lambda array: array.reshape((1,) * lacking + array.shape))]


def _unread(operator: Operator, _fields: Fields) -> Sequence[Field]:
    """Of the input only shape and type are looked at."""
    return [blind(len(value.shape)) for value in operator.outputs]


def _anywhere(operator: Operator, fields: Fields) -> Sequence[Field] | None:
    """Elements taken from places that only numbers tell: known where all elements see the same."""
    inputs = [fields[value.index] for value in operator.inputs]
    if not all(field.is_uniform for field in inputs):
        return None
    ndim = len(operator.outputs[0].shape)
    return [union([_point(field, ndim) for field in inputs])]


def _point(uniform: Field, ndim: int) -> Field:
    """A field that is the same everywhere, for another number of dimensions; without positions."""
    return replace(uniform, axes=(None, None)).move(lambda array: array.reshape((1,) * ndim))


def _somewhere(_operator: Operator, _fields: Fields) -> None:
    """Elements put in places that only numbers tell: no product, but nothing can be said of what they see."""


def _restrided(operator: Operator, fields: Fields) -> Sequence[Field] | None:
    """``as_strided``: the same tensor, where only strides of dimensions of size 1 change."""
    (value,), sizes, strides = operator.inputs, _argument(operator, "size"), _argument(operator, "stride")
    same = [(size, step) for size, step in zip(value.shape, value.strides, strict=True) if size > 1]
    if tuple(sizes) == value.shape and same == [each for each in zip(sizes, strides, strict=True) if each[0] > 1]:
        return [_first(operator, fields)]
    return _anywhere(operator, fields)


def _first(operator: Operator, fields: Fields) -> Field:
    return fields[operator.inputs[0].index]


def _weighted(rule: Rule) -> Rule:
    """A rule for the first input of an operator whose weights, bias or scale may have been computed from the image."""

    def applied(operator: Operator, fields: Fields) -> Sequence[Field | None] | None:
        outputs = rule(operator, fields)
        weights = [fields[value.index] for value in operator.inputs[1:] if not fields[value.index].is_blind]
        if not weights or outputs is None:
            return outputs
        if not all(weight.is_uniform for weight in weights):
            return None
        return [field and union([field, *_points(weights, field)], field.axes) for field in outputs]

    return applied


def _points(uniform: Sequence[Field], like: Field) -> list[Field]:
    return [_point(field, like.window[ROWS].low.ndim) for field in uniform]


def _dims(given: Any, ndim: int) -> tuple[int, ...]:
    """Dimensions as an operator was given them: one, several, or None for all."""
    if given is None or given == [] or ndim == 0:
        return tuple(range(ndim))
    several = [given] if isinstance(given, int) else given
    return tuple(dim % ndim for dim in several)


def _argument_names(operator: Operator) -> list[str]:
    return [argument.name for argument in operator.overload._schema.arguments]


def _argument(operator: Operator, name: str) -> Any:
    """An argument by its name in the operator's schema, its default where it was not given."""
    for place, argument in enumerate(operator.overload._schema.arguments):
        if argument.name == name:
            given = place < len(operator.arguments)
            return operator.arguments[place] if given else operator.keywords.get(name, argument.default_value)
    raise KeyError(name)


# --- operators that move elements


def _moving(change: Callable[[Operator, tuple[int, ...], IntArray], IntArray]) -> Rule:
    def rule(operator: Operator, fields: Fields) -> Sequence[Field]:
        shape = operator.inputs[0].shape
        return [_first(operator, fields).move(lambda array: change(operator, shape, array))]

    return rule


def _reshaped(operator: Operator, fields: Fields) -> Sequence[Field] | None:
    old, new = operator.inputs[0].shape, operator.outputs[0].shape
    if math.prod(old) != math.prod(new):  # seen as numbers of another type
        return None
    groups = list(_regrouped(old, new))
    return [_first(operator, fields).move(lambda array: reshape(array, old, new, groups))]


def reshape(
    array: IntArray, old: tuple[int, ...], new: tuple[int, ...], groups: Sequence[tuple[list[int], list[int]]]
) -> IntArray:
    """An array that broadcasts to ``old`` as one that broadcasts to ``new``, as small as it can be."""
    varies = [any(array.shape[dim] > 1 for dim in dims) for dims, _ in groups]
    full = [old[dim] if wide else 1 for (dims, _), wide in zip(groups, varies, strict=True) for dim in dims]
    result = [new[dim] if wide else 1 for (_, dims), wide in zip(groups, varies, strict=True) for dim in dims]
    reshaped: IntArray = np.broadcast_to(array, full).reshape(result)
    return reshaped


def _regrouped(old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Dimensions before and after a change of shape, in the smallest groups of equal sizes.

    >>> list(_regrouped((2, 12, 5), (2, 3, 4, 5)))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    if 0 in old:
        yield list(range(len(old))), list(range(len(new)))
        return
    left, right = 0, 0
    while left < len(old) or right < len(new):
        before, after = [left] if left < len(old) else [], [right] if right < len(new) else []
        left, right = left + len(before), right + len(after)
        while (sizes := (math.prod(old[dim] for dim in before), math.prod(new[dim] for dim in after)))[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                before.append(left)
                left += 1
            else:
                after.append(right)
                right += 1
        yield before, after


def _transposed(operator: Operator, _shape: tuple[int, ...], array: IntArray) -> IntArray:
    if operator.name == "aten.t":
        return array.T
    first, second = (_argument(operator, name) for name in ("dim0", "dim1"))
    return array.swapaxes(first, second) if array.ndim else array


def _permuted(operator: Operator, shape: tuple[int, ...], array: IntArray) -> IntArray:
    return array.transpose(_dims(_argument(operator, "dims"), len(shape)))


def _unsqueezed(operator: Operator, shape: tuple[int, ...], array: IntArray) -> IntArray:
    return np.expand_dims(array, _argument(operator, "dim") % (len(shape) + 1))


def _expanded(operator: Operator, _shape: tuple[int, ...], array: IntArray) -> IntArray:
    return array.reshape((1,) * (len(operator.outputs[0].shape) - array.ndim) + array.shape)


def _repeated(operator: Operator, shape: tuple[int, ...], array: IntArray) -> IntArray:
    wide = _expanded(operator, shape, array)
    repeats = _argument(operator, "repeats")
    return np.tile(wide, [times if side > 1 else 1 for times, side in zip(repeats, wide.shape, strict=True)])


def _sliced(operator: Operator, shape: tuple[int, ...], array: IntArray) -> IntArray:
    dim = _argument(operator, "dim") % len(shape)
    if array.shape[dim] == 1:
        return array
    start, end, step = (_argument(operator, name) for name in ("start", "end", "step"))
    sliced: IntArray = array[(slice(None),) * dim + (slice(start, end, step),)]
    return sliced


def _selected(operator: Operator, shape: tuple[int, ...], array: IntArray) -> IntArray:
    dim = _argument(operator, "dim") % len(shape)
    return np.squeeze(_cut(array, dim, _argument(operator, "index") % shape[dim], 1), dim)


def _cut(array: IntArray, dim: int, start: int, length: int) -> IntArray:
    if array.shape[dim] == 1:
        return array
    cut: IntArray = array[(slice(None),) * dim + (slice(start, start + length),)]
    return cut


def _flipped(operator: Operator, shape: tuple[int, ...], array: IntArray) -> IntArray:
    return np.flip(array, _dims(_argument(operator, "dims"), len(shape)))


def _rolled(operator: Operator, shape: tuple[int, ...], array: IntArray) -> IntArray:
    shifts, dims = _argument(operator, "shifts"), _argument(operator, "dims")
    if not dims:
        return np.roll(np.broadcast_to(array, shape).ravel(), shifts).reshape(shape)
    return np.roll(array, shifts, _dims(dims, len(shape)))


def _split(operator: Operator, fields: Fields) -> Sequence[Field]:
    shape = operator.inputs[0].shape
    dim = _argument(operator, "dim") % len(shape)
    drop = operator.name == "aten.unbind"
    pieces, start = [], 0
    for value in operator.outputs:
        length = 1 if drop else value.shape[dim]
        pieces.append(_piece(_first(operator, fields), dim, start, length, drop=drop))
        start += length
    return pieces


def _piece(field: Field, dim: int, start: int, length: int, *, drop: bool = False) -> Field:
    def cut(array: IntArray) -> IntArray:
        piece = _cut(array, dim, start, length)
        return np.squeeze(piece, dim) if drop else piece

    return field.move(cut)


def _shuffled(operator: Operator, fields: Fields) -> Sequence[Field]:
    """``pixel_shuffle``: [N, C r r, H, W] -> [N, C, H r, W r], and back."""
    back = operator.name == "aten.pixel_unshuffle"
    factor = _argument(operator, "downscale_factor" if back else "upscale_factor")
    shape = operator.inputs[0].shape
    batch, (channels, rows, columns) = shape[:-3], shape[-3:]
    first = len(batch)
    inner: tuple[int, ...]
    if back:
        inner = (*batch, channels, rows // factor, factor, columns // factor, factor)
        order = (*range(first), first, first + 2, first + 4, first + 1, first + 3)
    else:
        inner = (*batch, channels // factor**2, factor, factor, rows, columns)
        order = (*range(first), first, first + 3, first + 1, first + 4, first + 2)

    def change(array: IntArray) -> IntArray:
        split = reshape(array, shape, inner, list(_regrouped(shape, inner))).transpose(order)
        mixed = tuple(inner[dim] for dim in order)
        result = operator.outputs[0].shape
        return reshape(split, mixed, result, list(_regrouped(mixed, result)))

    field = _first(operator, fields)
    moved = field.move(change)
    scale = Fraction(factor) if back else Fraction(1, factor)
    down, across = (
        _rescaled(axis, dim, operator.outputs[0].shape[dim], scale)
        for axis, dim in zip(field.axes, (len(shape) - 2, len(shape) - 1), strict=True)
    )
    return [replace(moved, axes=(down, across))]


def _rescaled(axis: Axis | None, dim: int, outputs: int, scale: Fraction) -> Axis | None:
    line = axis.along(dim) if axis else None
    return line.resampled(dim, outputs, scale) if line else None


def _concatenated(operator: Operator, fields: Fields) -> Sequence[Field]:
    values = [value for value in operator.inputs if value.shape != (0,)]  # torch lets an empty tensor be joined to any
    shapes = [value.shape for value in values]
    parts = [fields[value.index] for value in values]
    dim = _argument(operator, "dim")
    if operator.name == "aten.stack":
        dim %= len(shapes[0]) + 1
        parts = [part.move(lambda array: np.expand_dims(array, dim)) for part in parts]
        shapes = [(*shape[:dim], 1, *shape[dim:]) for shape in shapes]
    dim %= len(shapes[0])

    def join(reaches: Sequence[Reach]) -> Reach:
        low = _joined_along(dim, [reach.low for reach in reaches], shapes)
        return Reach(low, _joined_along(dim, [reach.high for reach in reaches], shapes))

    return [
        Field(
            (join([part.window[ROWS] for part in parts]), join([part.window[COLUMNS] for part in parts])),
            (join([part.support[ROWS] for part in parts]), join([part.support[COLUMNS] for part in parts])),
            _axes_across(parts, dim),
        )
    ]


def _axes_across(parts: Sequence[Field], dim: int) -> tuple[Axis | None, Axis | None]:
    """Positions of maps whose channels are put one after another; none where the maps themselves are."""
    rows, columns = common_axes([part for part in parts if not part.is_blind])
    return (
        rows if rows and rows.places.shape[dim] == 1 else None,
        columns if columns and columns.places.shape[dim] == 1 else None,
    )


def _joined_along(dim: int, arrays: Sequence[IntArray], shapes: Sequence[tuple[int, ...]]) -> IntArray:
    # apart from the joined dimension, arrays are spread only where one of them varies
    widths = [max(array.shape[axis] for array in arrays) for axis in range(arrays[0].ndim)]
    spread = [
        np.broadcast_to(array, [*widths[:dim], shape[dim], *widths[dim + 1 :]])
        for array, shape in zip(arrays, shapes, strict=True)
    ]
    return np.concatenate(spread, axis=dim)


# --- operators that join elements


def _reduced(operator: Operator, fields: Fields) -> Sequence[Field]:
    ndim = len(operator.inputs[0].shape)
    names = _argument_names(operator)
    dims = _dims(_argument(operator, "dim") if "dim" in names else None, ndim)
    keep = bool(_argument(operator, "keepdim")) if "keepdim" in names else False
    return [_first(operator, fields).over(dims, keep=keep)] * len(operator.outputs)


def _mixed(field: Field, dims: tuple[int, ...]) -> Field:
    """Every element depends on all along some dimensions, and keeps its position."""
    return field.map(lambda reach: reach.over(dims))


def _mixed_along(operator: Operator, fields: Fields) -> Sequence[Field]:
    """Softmax and its like: every element depends on all of its line."""
    dims = _dims(_argument(operator, "dim"), len(operator.inputs[0].shape))
    return [_mixed(_first(operator, fields), dims)]


def _sorted(operator: Operator, fields: Fields) -> Sequence[Field]:
    """Every element depends on all of its line, and has no place any more."""
    dims = _dims(_argument(operator, "dim"), len(operator.inputs[0].shape))
    field = _mixed(_first(operator, fields), dims)
    return [replace(field, axes=(None, None))] * len(operator.outputs)


def _accumulated(operator: Operator, fields: Fields) -> Sequence[Field]:
    """Sums from the beginning: every element depends on those before it."""
    (dim,) = _dims(_argument(operator, "dim"), max(1, len(operator.inputs[0].shape)))
    field = _first(operator, fields)
    if not operator.inputs[0].shape:
        return [field]
    return [
        field.map(lambda reach: Reach(np.minimum.accumulate(reach.low, dim), np.maximum.accumulate(reach.high, dim)))
    ]


def _gated(operator: Operator, fields: Fields) -> Sequence[Field]:
    """``glu``: the first half times a function of the second."""
    shape = operator.inputs[0].shape
    dim = _argument(operator, "dim") % len(shape)
    half = shape[dim] // 2
    field = _first(operator, fields)
    first = _piece(field, dim, 0, half)
    return [union([first, _piece(field, dim, half, half)], first.axes)]


def _layer_norm(operator: Operator, fields: Fields) -> Sequence[Field | None]:
    ndim = len(operator.inputs[0].shape)
    normalized = len(_argument(operator, "normalized_shape"))
    return _normalized(operator, _mixed(_first(operator, fields), tuple(range(ndim - normalized, ndim))))


def _group_norm(operator: Operator, fields: Fields) -> Sequence[Field | None]:
    groups = _argument(operator, "group")
    ndim = len(operator.inputs[0].shape)
    field = _mixed(_first(operator, fields), tuple(range(2, ndim)))
    return _normalized(operator, field.map(lambda reach: _over_groups(reach, groups)))


def _batch_norm(operator: Operator, fields: Fields) -> Sequence[Field | None]:
    field = _first(operator, fields)
    if "training" not in _argument_names(operator) or not _argument(operator, "training"):
        return _normalized(operator, field)
    ndim = len(operator.inputs[0].shape)
    return _normalized(operator, _mixed(field, (0, *range(2, ndim))))


def _normalized(operator: Operator, field: Field) -> Sequence[Field | None]:
    """The normalised tensor; of the statistics that come with it nothing is said."""
    return [field, *[None] * (len(operator.outputs) - 1)]


def _matrix_product(operator: Operator, fields: Fields) -> Sequence[Field]:
    """[..., n, k] times [..., k, m]; a bias is added. Dense layers keep the positions of their input."""
    *bias, left, right = (fields[value.index] for value in operator.inputs[-3:])
    rows, columns = left.over((-1,)), right.over((-2,))
    axes = _kept_axes(left, rows) if right.is_blind else (None, None)
    return [union([rows, columns, *bias], axes)]


def _kept_axes(field: Field, summed: Field) -> tuple[Axis | None, Axis | None]:
    """Positions of which none were summed over."""
    rows, columns = (
        after if before is not None and after is not None and before.places.size == after.places.size else None
        for before, after in zip(field.axes, summed.axes, strict=True)
    )
    return rows, columns


# --- operators that look through windows

Along = Callable[[int], tuple[Taps, Fraction]]  # dimension -> what is read along it, and how far apart outputs are


def _through(operator: Operator, field: Field, spatial: int, along: Along) -> Field | None:
    """The field after windows have moved over the last ``spatial`` dimensions."""
    shape = operator.inputs[0].shape
    seen: Field | None = field
    for dim in range(len(shape) - spatial, len(shape)):
        taps, scale = along(dim)
        seen = seen_through(seen, dim, shape[dim], taps, scale) if seen is not None else None
    return seen


def _convolution(operator: Operator, fields: Fields) -> Sequence[Field | None]:
    image, weight, result = operator.inputs[0], operator.inputs[1], operator.outputs[0]
    spatial = len(image.shape) - 2
    stride, padding, dilation = (
        _each(_argument(operator, name), spatial) for name in ("stride", "padding", "dilation")
    )
    groups, transposed = _argument(operator, "groups"), _argument(operator, "transposed")

    def along(dim: int) -> tuple[Taps, Fraction]:
        axis = dim - 2
        make = transposed_taps if transposed else window_taps
        taps = make(result.shape[dim], weight.shape[dim], stride[axis], padding[axis], dilation[axis])
        return taps, Fraction(1, stride[axis]) if transposed else Fraction(stride[axis])

    field = _first(operator, fields).map(lambda reach: _over_groups(reach, groups, result.shape[1]))
    return [_through(operator, field, spatial, along)]


def _over_groups(reach: Reach, groups: int, outputs: int | None = None) -> Reach:
    """What the channels of each group see together, for each of ``outputs`` channels (as many as there were)."""
    channels = reach.low.shape[1]
    if groups == 1 or channels == 1:
        return reach.over((1,))
    split = (reach.low.shape[0], groups, channels // groups, *reach.low.shape[2:])
    each = (outputs or channels) // groups
    return reach.map(lambda array: array.reshape(split)).over((2,), keep=False).map(lambda array: array.repeat(each, 1))


def _pooling(operator: Operator, fields: Fields) -> Sequence[Field | None]:
    spatial = _spatial(operator)
    kernel = _each(_argument(operator, "kernel_size"), spatial)
    stride = _each(_argument(operator, "stride") or kernel, spatial)
    padding = _each(_argument(operator, "padding"), spatial)
    has_dilation = "dilation" in _argument_names(operator)
    dilation = _each(_argument(operator, "dilation"), spatial) if has_dilation else [1] * spatial
    first = len(operator.inputs[0].shape) - spatial
    pooled = operator.outputs[0].shape

    def along(dim: int) -> tuple[Taps, Fraction]:
        axis = dim - first
        taps = window_taps(pooled[dim], kernel[axis], stride[axis], padding[axis], dilation[axis])
        return taps, Fraction(stride[axis])

    return [_through(operator, _first(operator, fields), spatial, along)] * len(operator.outputs)


def _spatial(operator: Operator) -> int:
    """2 of max_pool2d."""
    return int(operator.name[operator.name.index("pool") + 4])


def _adaptive_pooling(operator: Operator, fields: Fields) -> Sequence[Field | None]:
    shape, pooled = operator.inputs[0].shape, operator.outputs[0].shape

    def along(dim: int) -> tuple[Taps, Fraction]:
        return adaptive_taps(pooled[dim], shape[dim]), Fraction(shape[dim], pooled[dim])

    return [_through(operator, _first(operator, fields), _spatial(operator), along)] * len(operator.outputs)


def _upsampling(operator: Operator, fields: Fields) -> Sequence[Field | None]:
    """Interpolation: each new position lies between old ones, one, two or four of which it reads."""
    shape, result = operator.inputs[0].shape, operator.outputs[0].shape

    def along(dim: int) -> tuple[Taps, Fraction]:
        return _interpolation_taps(operator, dim), Fraction(shape[dim], result[dim])

    return [_through(operator, _first(operator, fields), len(shape) - 2, along)]


def _interpolation_taps(operator: Operator, dim: int) -> Taps:
    """The places as PyTorch computes them, rounding included."""
    old, new = operator.inputs[0].shape[dim], operator.outputs[0].shape[dim]
    number: Any = np.float64 if operator.inputs[0].dtype == torch.float64 else np.float32
    positions = np.arange(new).astype(number)
    if "nearest" in operator.name:
        shift = number(0.5 if "exact" in operator.name else 0.0)
        lower = np.floor((positions + shift) * _step(operator, dim, number)).astype(np.int64)
        return Taps.all_of(np.minimum(lower, old - 1)[:, None])
    if _argument(operator, "align_corners"):
        between = positions * (number(old - 1) / number(max(1, new - 1)))
    else:
        between = (positions + number(0.5)) * _step(operator, dim, number) - number(0.5)
    return _taps_between(between, old, cubic="bicubic" in operator.name)


def _taps_between(between: NDArray[Any], old: int, *, cubic: bool) -> Taps:
    neighbours = np.array((-1, 0, 1, 2) if cubic else (0, 1))
    if not cubic:
        between = np.maximum(between, 0)
    lower = np.floor(between).astype(np.int64)
    places = np.clip(lower[:, None] + neighbours, 0, old - 1)
    return Taps(places, (between > lower)[:, None] | (neighbours == 0)[None, :])


def _step(operator: Operator, dim: int, number: Any) -> Any:
    """How far apart new positions are, in old ones: as the factor that was given, if it was, says."""
    names = _argument_names(operator)
    axis = dim - 2
    factors = _argument(operator, "scale_factors") if "scale_factors" in names else None
    name = ("scales_h", "scales_w")[axis]
    factor = factors[axis] if factors else _argument(operator, name) if name in names else None
    old, new = operator.inputs[0].shape[dim], operator.outputs[0].shape[dim]
    return number(1.0 / factor) if factor else number(old) / number(new)


def _padded(operator: Operator, fields: Fields) -> Sequence[Field | None]:
    shape = operator.inputs[0].shape
    pads = _argument(operator, "pad" if operator.name == "aten.constant_pad_nd" else "padding")

    def along(dim: int) -> tuple[Taps, Fraction]:
        before, after = pads[2 * (len(shape) - 1 - dim) :][:2]  # last dimension first
        return Taps.all_of(_padded_places(operator.name, shape[dim], before, after)[:, None]), Fraction(1)

    return [_through(operator, _first(operator, fields), len(pads) // 2, along)]


def _padded_places(name: str, length: int, before: int, after: int) -> IntArray:
    places = np.arange(-before, length + after)
    if name == "aten.constant_pad_nd":
        return places
    if "reflection" in name:
        places = (length - 1) - np.abs((length - 1) - np.abs(places))
    return places.clip(0, length - 1)


def _each(given: Any, count: int) -> list[int]:
    """A setting for each dimension, where one may stand for all."""
    several = [given] if isinstance(given, int) else list(given)
    return several * count if len(several) == 1 else several


def _named(rule: Rule, *names: str) -> Iterator[tuple[str, Rule]]:
    yield from ((f"aten.{name}", rule) for name in names)


RULES: dict[str, Rule] = dict(
    [
        *_named(_weighted(_convolution), "convolution"),
        *_named(
            _pooling,
            "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
            "avg_pool1d", "avg_pool2d", "avg_pool3d",
        ),
        *_named(
            _adaptive_pooling,
            "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
        ),
        *_named(
            _upsampling,
            "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d",
        ),
        *_named(_padded, "constant_pad_nd", "reflection_pad2d", "replication_pad2d"),
        *_named(_matrix_product, "mm", "addmm", "bmm", "baddbmm"),
        *_named(
            _weighted(_batch_norm),
            "native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit",
            "_batch_norm_no_update", "cudnn_batch_norm",
        ),
        *_named(_weighted(_layer_norm), "native_layer_norm", "_fused_rms_norm"),
        *_named(_weighted(_group_norm), "native_group_norm"),
        *_named(_mixed_along, "_softmax", "_log_softmax", "_safe_softmax"),
        *_named(_sorted, "sort", "topk"),
        *_named(_accumulated, "cumsum", "cumprod"),
        *_named(_gated, "glu"),
        *_named(
            _reduced,
            "mean", "sum", "amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "var", "std", "var_mean",
            "std_mean", "prod", "norm", "linalg_vector_norm", "logsumexp",
        ),
        *_named(
            _reshaped,
            "view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unflatten",
        ),
        *_named(_shuffled, "pixel_shuffle", "pixel_unshuffle"),
        *_named(_moving(_transposed), "t", "transpose"),
        *_named(_moving(_permuted), "permute"),
        *_named(_moving(_unsqueezed), "unsqueeze"),
        *_named(_moving(_expanded), "expand"),
        *_named(_moving(_repeated), "repeat"),
        *_named(_moving(_sliced), "slice"),
        *_named(_moving(_selected), "select"),
        *_named(_moving(_flipped), "flip"),
        *_named(_moving(_rolled), "roll"),
        *_named(_split, "split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes", "chunk", "unbind"),
        *_named(_concatenated, "cat", "stack"),
        *_named(_overwriting, "copy_"),
        *_named(
            _unread,
            "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
            "new_empty", "new_full", "new_empty_strided", "zero_", *NUMBERS,
        ),
        *_named(_weighted(_unread), "fill_"),
        *_named(_anywhere, "index", "index_select", "gather", "embedding"),
        *_named(_somewhere, "index_put", "index_put_", "index_copy", "scatter", "scatter_", "masked_select", "nonzero"),
        *_named(_restrided, "as_strided", "as_strided_"),
        *_named(
            _pointwise,
            "alias", "clone", "detach", "contiguous", "_to_copy", "to", "lift_fresh", "native_dropout",
            "hardtanh", "hardtanh_", "hardswish", "hardswish_", "masked_fill", "where", "_prelu_kernel",
        ),
    ]
)  # fmt: skip
