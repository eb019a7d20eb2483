"""What the elements of a tensor see of an image, and what happens to that when windows move over them.

A ``Reach`` is one direction's first and last pixel, a ``Field`` both directions', counted twice: as the *window*, for
which padding is more image, and as the *support*, which ends at the border. ``Axis`` says where the positions of a map
lie in the image; it moves with the elements, so it is still known after tensors were permuted, cut and reshaped.

Arrays hold integers (pixels) and have size 1 along dimensions in which they do not vary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 0, 1
NOTHING = 1 << 40  # first row of an element that sees none; the last is its negative

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Reach:
    """First and last row (or column) that each element of a tensor sees; the arrays broadcast to its shape."""

    low: IntArray
    high: IntArray

    def map(self, change: Callable[[IntArray], IntArray]) -> Reach:
        """The same change of both ends: what moves elements without joining them."""
        return Reach(change(self.low), change(self.high))

    @property
    def is_empty(self) -> NDArray[np.bool_]:
        """Of each element, whether it sees nothing."""
        empty: NDArray[np.bool_] = self.low > self.high
        return empty

    def over(self, dims: tuple[int, ...], *, keep: bool = True) -> Reach:
        """What all elements along some dimensions see together."""
        return Reach(self.low.min(dims, keepdims=keep), self.high.max(dims, keepdims=keep))


@dataclass(frozen=True)
class Axis:
    """How the positions of a map lie along the rows (or columns) of the image."""

    places: IntArray  # of each element, the number of its position; broadcasts like a reach
    jump: Fraction  # pixels from a position to the next
    period: int = 1  # after so many positions windows repeat, farther on; above 1 after upsampling

    def along(self, dim: int) -> Axis | None:
        """The axis for positions numbered 0, 1, 2, ... along a dimension; None if they do not lie there."""
        if [each for each, side in enumerate(self.places.shape) if side > 1] != [dim]:
            return None
        steps = np.diff(self.places.ravel())
        step = abs(int(steps[0]))
        if step == 0 or (steps != steps[0]).any():
            return None
        return Axis(self.places, self.jump * step, self.period // math.gcd(self.period, step))

    def over(self, dims: tuple[int, ...], *, keep: bool) -> Axis:
        """The axis of what is left of a map; where that is one position, the next would be a whole map away."""
        places = self.places.min(dims, keepdims=keep)
        return Axis(places, self.jump * (self.places.size // places.size), self.period)

    @property
    def is_point(self) -> bool:
        """Whether there is one position only."""
        return self.places.size == 1

    def resampled(self, dim: int, outputs: int, scale: Fraction) -> Axis:
        """The axis of a map with ``outputs`` positions along a dimension, ``scale`` old ones apart."""
        shape = [outputs if each == dim else 1 for each in range(self.places.ndim)]
        period = self.period * scale.denominator
        places = np.arange(outputs, dtype=np.int64).reshape(shape)
        return Axis(places, self.jump * scale, period // math.gcd(period, scale.numerator))


@dataclass(frozen=True)
class Field:
    """What the elements of a tensor see; each pair is (rows, columns)."""

    window: tuple[Reach, Reach]
    support: tuple[Reach, Reach]
    axes: tuple[Axis | None, Axis | None]  # None: the elements no longer have positions

    def map(self, change: Callable[[Reach], Reach]) -> Field:
        """The same change of all four reaches; positions stay."""
        return Field(both(change, self.window), both(change, self.support), self.axes)

    def move(self, change: Callable[[IntArray], IntArray]) -> Field:
        """The same change of all arrays: what moves elements without joining them."""
        rows, columns = (replace(axis, places=change(axis.places)) if axis else None for axis in self.axes)
        return replace(self.map(lambda reach: reach.map(change)), axes=(rows, columns))

    def over(self, dims: tuple[int, ...], *, keep: bool = True) -> Field:
        """What all elements along some dimensions see together; their positions become one."""
        rows, columns = (axis.over(dims, keep=keep) if axis else None for axis in self.axes)
        return replace(self.map(lambda reach: reach.over(dims, keep=keep)), axes=(rows, columns))

    @property
    def is_blind(self) -> bool:
        """Whether no element sees anything, nor would in a larger image: weights, and what is made of them."""
        return all(bool(reach.is_empty.all()) for reach in (*self.window, *self.support))

    @property
    def is_uniform(self) -> bool:
        """Whether all elements see the same."""
        return all(reach.low.size == reach.high.size == 1 for reach in (*self.window, *self.support))


def both(change: Callable[[Reach], Reach], pair: tuple[Reach, Reach]) -> tuple[Reach, Reach]:
    """The same change of rows and columns."""
    return change(pair[ROWS]), change(pair[COLUMNS])


def blind(ndim: int) -> Field:
    """The field of a tensor with ``ndim`` dimensions that sees nothing."""
    shape = (1,) * ndim
    nothing = Reach(np.full(shape, NOTHING), np.full(shape, -NOTHING))
    return Field((nothing, nothing), (nothing, nothing), (None, None))


def union(fields: Sequence[Field], axes: tuple[Axis | None, Axis | None] | None = None) -> Field:
    """What elements see together; arrays broadcast as tensors do. Positions are those that all fields agree on."""
    seeing = [field for field in fields if not field.is_blind]
    rows, columns = axes or common_axes(seeing)
    return Field(
        (_joined([field.window[ROWS] for field in fields]), _joined([field.window[COLUMNS] for field in fields])),
        (_joined([field.support[ROWS] for field in fields]), _joined([field.support[COLUMNS] for field in fields])),
        (rows, columns),
    )


def _joined(reaches: Sequence[Reach]) -> Reach:
    low, high = reaches[0].low, reaches[0].high
    for reach in reaches[1:]:
        low, high = np.minimum(low, reach.low), np.maximum(high, reach.high)
    return Reach(low, high)


def common_axes(fields: Sequence[Field]) -> tuple[Axis | None, Axis | None]:
    """The positions that fields of tensors of one shape agree on; fields without any do not matter."""
    return _common_axis([field.axes[ROWS] for field in fields]), _common_axis([field.axes[COLUMNS] for field in fields])


def _common_axis(axes: Sequence[Axis | None]) -> Axis | None:
    known = [axis for axis in axes if axis is not None]
    if not known or any(axis.jump != known[0].jump or not _same(axis, known[0]) for axis in known):
        return None
    return replace(known[0], period=math.lcm(*(axis.period for axis in known)))


def _same(one: Axis, other: Axis) -> bool:
    """Whether positions lie alike, whatever the number of the first: maps may have been cut to one size."""
    if one.places is other.places or one.places.shape != other.places.shape:
        return one.places is other.places
    return bool((one.places - one.places.min() == other.places - other.places.min()).all())


def tidy(field: Field) -> Field:
    """The same field in the smallest arrays. An element that sees no row sees no column, and the other way round."""
    rows, columns = (
        replace(axis, places=_compressed(Reach(axis.places, axis.places)).low) if axis else None for axis in field.axes
    )
    return Field(both(_compressed, _agreed(field.window)), both(_compressed, _agreed(field.support)), (rows, columns))


def _agreed(pair: tuple[Reach, Reach]) -> tuple[Reach, Reach]:
    rows, columns = (reach.is_empty for reach in pair)
    if not rows.any() and not columns.any():
        return pair
    empty = rows | columns
    return both(lambda reach: Reach(np.where(empty, NOTHING, reach.low), np.where(empty, -NOTHING, reach.high)), pair)


def _compressed(reach: Reach) -> Reach:
    low, high = reach.low, reach.high
    if low.shape != high.shape:
        low, high = np.broadcast_arrays(low, high)
    for dim, side in enumerate(low.shape):
        if side > 1:
            first_low, first_high = low.take([0], axis=dim), high.take([0], axis=dim)
            if (low == first_low).all() and (high == first_high).all():
                low, high = first_low, first_high
    return Reach(low, high)


# --- windows that move over a dimension


@dataclass(frozen=True)
class Taps:
    """Which positions of an input each position of an output reads along one dimension; outside it is padding."""

    places: IntArray  # [outputs, taps]
    reads: NDArray[np.bool_]  # of which taps read at all, padding included

    @classmethod
    def all_of(cls, places: IntArray) -> Taps:
        """Every place is read."""
        return cls(places, np.ones(places.shape, dtype=bool))

    def within(self, length: int) -> Taps:
        """Those that read what is there."""
        return Taps(self.places, self.reads & (self.places >= 0) & (self.places < length))


def seen_through(field: Field, dim: int, length: int, taps: Taps, scale: Fraction) -> Field | None:
    """The field after a window has moved over a dimension of ``length`` positions.

    Args:
        field: what the input sees.
        dim: the dimension, from 0.
        length: how many positions the input has along it.
        taps: which of them the window reads.
        scale: how far apart outputs are, in positions of the input: the stride.

    Returns:
        None where windows stand over the border of what has no known place in the image.
    """
    lines = [_line(axis, dim, length, direction) for direction, axis in enumerate(field.axes)]
    inside = taps.within(length)
    over_border = bool((inside.reads != taps.reads).any())
    is_map = any(line is not None for line in lines)
    if over_border and not is_map and None in field.axes and not field.is_blind:
        return None  # is it padding of the image, or of channels? in NHWC, say
    windows = [
        _looked_through(reach, dim, length, taps if is_map else inside, line)
        for reach, line in zip(field.window, lines, strict=True)
    ]
    supports = [_looked_through(reach, dim, length, inside, None) for reach in field.support]
    axes = [
        _resampled(axis, line, dim, taps.places.shape[0], scale) for axis, line in zip(field.axes, lines, strict=True)
    ]
    return Field((windows[0], windows[1]), (supports[0], supports[1]), (axes[0], axes[1]))


def _line(axis: Axis | None, dim: int, length: int, direction: int) -> Axis | None:
    """The axis, if its positions lie along a dimension."""
    if axis is None or not axis.is_point or length > 1:
        return axis.along(dim) if axis else None
    return axis if dim == axis.places.ndim - 2 + direction else None  # a map of one position: [N, C, 1, 1]


def _resampled(axis: Axis | None, line: Axis | None, dim: int, outputs: int, scale: Fraction) -> Axis | None:
    if line is not None:
        return line.resampled(dim, outputs, scale)
    return None if axis is None or axis.places.shape[dim] > 1 else axis


def _looked_through(reach: Reach, dim: int, length: int, taps: Taps, line: Axis | None) -> Reach:
    uniform = reach.low.shape[dim] == 1 and reach.high.shape[dim] == 1
    if uniform and length > 1 and taps.reads.any(axis=1).all():
        return reach  # all positions see the same, and so do those beyond the border
    beyond = _beyond(taps.places, length, line)
    along = (1,) * dim + taps.places.shape + (1,) * (reach.low.ndim - dim - 1)
    reads = taps.reads.reshape(along)

    def taken(array: IntArray, shift: IntArray, missing: int) -> IntArray:
        spread = np.expand_dims(array, dim) if array.shape[dim] == 1 else array.take(beyond.instead, axis=dim)
        return np.where(reads, spread + shift.reshape(along), missing)

    return Reach(
        taken(reach.low, beyond.low_shift, NOTHING).min(axis=dim + 1),
        taken(reach.high, beyond.high_shift, -NOTHING).max(axis=dim + 1),
    )


@dataclass(frozen=True)
class _Beyond:
    """For places that may lie outside a map: one inside whose window is the same but for a shift, and that shift."""

    instead: IntArray
    low_shift: IntArray  # pixels
    high_shift: IntArray


def _beyond(places: IntArray, length: int, line: Axis | None) -> _Beyond:
    period = line.period if line else 1
    before, after = np.maximum(-places, 0), np.maximum(places - (length - 1), 0)
    periods = -(-before // period) + (-after // period)  # how many a place must be moved up to be on the map
    instead = np.clip(places + periods * period, 0, length - 1)
    moved = places - instead
    jump = line.jump if line else Fraction(0)
    # whole pixels, unless the map is shorter than a period: then as many as cover the window
    down = moved * jump.numerator // jump.denominator
    up = -(-moved * jump.numerator // jump.denominator)
    return _Beyond(instead, down, up)


def window_taps(outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> Taps:
    """What a convolution or pooling reads: output o from o * stride - padding on, a dilation apart."""
    starts = np.arange(outputs)[:, None] * stride - padding
    return Taps.all_of(starts + np.arange(kernel)[None, :] * dilation)


def transposed_taps(outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> Taps:
    """What a transposed convolution reads: input i writes from i * stride - padding on, a dilation apart."""
    numerators = np.arange(outputs)[:, None] + padding - np.arange(kernel)[None, :] * dilation
    return Taps(numerators // stride, numerators % stride == 0)


def adaptive_taps(outputs: int, length: int) -> Taps:
    """What adaptive pooling reads: output o the positions from floor(o n / m) up to ceil((o + 1) n / m)."""
    starts = np.arange(outputs) * length // outputs
    ends = -(-(np.arange(outputs) + 1) * length // outputs)
    places = starts[:, None] + np.arange((ends - starts).max())[None, :]
    return Taps(places, places < ends[:, None])
