"""Vectors of eight float32 values for kernels written in Numba, and the few operations a kernel needs on memory.

Numba vectorises simple loops by itself, but neither the register tile of a matrix product nor a Winograd transform.
Here a kernel says which vectors it holds; LLVM keeps them in registers, and splits them where those are shorter.

Memory is named by an address (an integer, in bytes) and an index counted in float32 values. Nothing is checked: the
callers own their buffers and choose the sizes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.core.extending import intrinsic, lower_builtin, models, register_model
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from convatlas.engine.jobs import LANES

BYTES = 4  # of one value
FLOAT = ir.FloatType()
INTEGER = ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)
WIDE = ir.VectorType(ir.DoubleType(), LANES)
WIDE_BYTES = 8  # of one value in float64
AHEAD = 1024  # bytes of a panel that are asked for before they are needed: the machine's own guesses end with a page

Generator = Callable[[Any, Any, Any, Any], Any]

inline = numba.njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)  # a piece of a kernel


class Vector(types.Type):
    """Eight float32 values in a register."""

    def __init__(self) -> None:
        super().__init__(name="float32x8")


vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR)


class Wide(types.Type):
    """Eight float64 values in registers."""

    def __init__(self) -> None:
        super().__init__(name="float64x8")


wide = Wide()


@register_model(Wide)
class _WideModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, WIDE)


def _give_operator(kind: types.Type, symbol: Any, instruction: str) -> None:
    @infer_global(symbol)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            return signature(kind, kind, kind) if args == (kind, kind) else None

    @lower_builtin(symbol, type(kind), type(kind))
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)


for _kind in (vector, wide):
    for _symbol, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
        _give_operator(_kind, _symbol, _instruction)


def _place(builder: Any, address: Any, index: Any, kind: Any) -> Any:
    base = builder.inttoptr(address, FLOAT.as_pointer())
    return builder.bitcast(builder.gep(base, [index]), kind.as_pointer())


def _spread(builder: Any, value: Any) -> Any:
    nothing = ir.Constant(VECTOR, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    return builder.call(get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32"), [a, b, c])


def _prefetch(builder: Any, address: Any) -> None:
    """Start to bring the memory at an address into the caches; any address will do."""
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
    function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    hints = [ir.Constant(flag, hint) for hint in (0, 3, 1)]  # to read, into all caches, data
    builder.call(function, [builder.inttoptr(address, byte), *hints])


@intrinsic
def load(typing: Any, address: Any, index: Any) -> tuple[Any, Generator]:
    """Eight values from memory."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_place(builder, *args, VECTOR), align=BYTES)

    return vector(types.int64, types.int64), generate


@intrinsic
def store(typing: Any, address: Any, index: Any, value: Any) -> tuple[Any, Generator]:
    """Eight values to memory."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _place(builder, args[0], args[1], VECTOR), align=BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, vector), generate


@intrinsic
def load_one(typing: Any, address: Any, index: Any) -> tuple[Any, Generator]:
    """One value from memory."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_place(builder, *args, FLOAT), align=BYTES)

    return types.float32(types.int64, types.int64), generate


@intrinsic
def store_one(typing: Any, address: Any, index: Any, value: Any) -> tuple[Any, Generator]:
    """One value to memory."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _place(builder, args[0], args[1], FLOAT), align=BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), generate


@intrinsic
def spread(typing: Any, value: Any) -> tuple[Any, Generator]:
    """A value, eight times."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _spread(builder, args[0])

    return vector(types.float32), generate


@inline
def constant(value: float) -> Any:
    """A number, eight times."""
    return spread(np.float32(value))


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> tuple[Any, Generator]:
    """``a * b + c``, rounded once where the machine can."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _fused(builder, *args)

    return vector(vector, vector, vector), generate


@intrinsic
def larger(typing: Any, bound: Any, value: Any) -> tuple[Any, Generator]:
    """``bound`` where it is larger, else ``value``: a NaN in ``value`` stays, as in PyTorch's ReLU."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return vector(vector, vector), generate


@intrinsic
def maximum(typing: Any, a: Any, b: Any) -> tuple[Any, Generator]:
    """The larger of two; NaN where either is, as in PyTorch's max-pool."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = args
        chosen = builder.select(builder.fcmp_ordered(">", a, b), a, b)  # b where either is NaN
        return builder.select(builder.fcmp_unordered("uno", a, a), a, chosen)

    return vector(vector, vector), generate


@intrinsic
def where_beats(typing: Any, challenger: Any, holder: Any, a: Any, b: Any) -> tuple[Any, Generator]:
    """``a`` where the challenger is larger than the holder or NaN, else ``b``: PyTorch's rule for a maximum.

    Against zero it is the gradient of its ReLU, which lets a NaN's gradient through.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        challenger, holder, a, b = args
        larger_one = builder.fcmp_ordered(">", challenger, holder)
        return builder.select(builder.or_(larger_one, builder.fcmp_unordered("uno", challenger, challenger)), a, b)

    return vector(vector, vector, vector, vector), generate


@intrinsic
def widen(typing: Any, value: Any) -> tuple[Any, Generator]:
    """Eight float32 values as float64."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fpext(args[0], WIDE)

    return wide(vector), generate


@intrinsic
def load_wide(typing: Any, address: Any) -> tuple[Any, Generator]:
    """Eight float64 values from memory."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], WIDE.as_pointer()), align=WIDE_BYTES)

    return wide(types.int64), generate


@intrinsic
def store_wide(typing: Any, address: Any, value: Any) -> tuple[Any, Generator]:
    """Eight float64 values to memory."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], WIDE.as_pointer()), align=WIDE_BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, wide), generate


@intrinsic
def total(typing: Any, value: Any) -> tuple[Any, Generator]:
    """The sum of the eight, added pairwise."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = [builder.extract_element(args[0], ir.Constant(ir.IntType(32), lane)) for lane in range(LANES)]
        while len(lanes) > 1:
            lanes = [builder.fadd(one, other) for one, other in zip(lanes[::2], lanes[1::2], strict=True)]
        return lanes[0]

    return types.float32(vector), generate


@intrinsic
def transpose(typing: Any, rows: Any) -> tuple[Any, Generator]:
    """Eight vectors as the rows of a matrix; its eight columns."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vectors = [builder.extract_value(args[0], row) for row in range(LANES)]
        for width in (1, 2, 4):  # exchange blocks of width x width across the diagonal
            vectors = _exchange(builder, vectors, width)
        result = ir.Constant(args[0].type, ir.Undefined)
        for row, value in enumerate(vectors):
            result = builder.insert_value(result, value, row)
        return result

    eight = types.UniTuple(vector, LANES)
    return eight(eight), generate


def _exchange(builder: Any, vectors: list[Any], width: int) -> list[Any]:
    exchanged = list(vectors)
    for row in range(LANES):
        if row & width:
            continue
        low, high = vectors[row], vectors[row + width]
        picks_low = [lane if not lane & width else lane - width + LANES for lane in range(LANES)]
        picks_high = [lane + width if not lane & width else lane + LANES for lane in range(LANES)]
        for target, picks in ((row, picks_low), (row + width, picks_high)):
            mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), picks)
            exchanged[target] = builder.shuffle_vector(low, high, mask)
    return exchanged


@intrinsic
def accumulate(typing: Any, sums: Any, a: Any, a_row: Any, b: Any) -> tuple[Any, Generator]:
    """One step of a register tile: ``sums[6][2 vectors] += a[6 values, a_row apart] * b[16 values]``."""
    tile = types.UniTuple(vector, 12)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sums, a, a_row, b = args
        _prefetch(builder, builder.add(b, ir.Constant(INTEGER, AHEAD)))
        halves = [
            builder.load(_place(builder, b, ir.Constant(INTEGER, lane), VECTOR), align=BYTES) for lane in (0, LANES)
        ]
        for row in range(6):
            index = builder.mul(a_row, ir.Constant(INTEGER, row))
            factor = _spread(builder, builder.load(_place(builder, a, index, FLOAT), align=BYTES))
            for half in range(2):
                value = _fused(builder, factor, halves[half], builder.extract_value(sums, 2 * row + half))
                sums = builder.insert_value(sums, value, 2 * row + half)
        return sums

    return tile(tile, types.int64, types.int64, types.int64), generate


@intrinsic
def take(typing: Any, address: Any) -> tuple[Any, Generator]:
    """Add one to the int64 at an address, atomically; what it was before."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], INTEGER.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(INTEGER, 1), "monotonic")

    return types.int64(types.int64), generate


@inline
def load6(address: int, stride: int) -> Any:
    """Six vectors, ``stride`` values apart."""
    return (
        load(address, 0),
        load(address, stride),
        load(address, 2 * stride),
        load(address, 3 * stride),
        load(address, 4 * stride),
        load(address, 5 * stride),
    )


@inline
def store6(address: int, stride: int, values: Any) -> None:
    """Six vectors, ``stride`` values apart."""
    store(address, 0, values[0])
    store(address, stride, values[1])
    store(address, 2 * stride, values[2])
    store(address, 3 * stride, values[3])
    store(address, 4 * stride, values[4])
    store(address, 5 * stride, values[5])


@inline
def copy(source: int, target: int, count: int) -> None:
    """``count`` values, any number."""
    whole = count & -LANES
    for index in range(0, whole, LANES):
        store(target, index, load(source, index))
    for index in range(whole, count):
        store_one(target, index, load_one(source, index))


@inline
def clear(target: int, count: int) -> None:
    """``count`` zeros."""
    whole = count & -LANES
    for index in range(0, whole, LANES):
        store(target, index, constant(0))
    for index in range(whole, count):
        store_one(target, index, np.float32(0))


@inline
def load8(address: int, stride: int) -> Any:
    """Eight vectors, ``stride`` values apart."""
    return (*load6(address, stride), load(address, 6 * stride), load(address, 7 * stride))


@inline
def store8(address: int, stride: int, values: Any) -> None:
    """Eight vectors, ``stride`` values apart."""
    store6(address, stride, values[:6])
    store(address, 6 * stride, values[6])
    store(address, 7 * stride, values[7])
