"""Vectors of float32 values, as wide as the processor's registers, and the few operations a kernel needs on memory.

A kernel says which vectors it holds; LLVM keeps them in registers, and splits them where those are shorter. Memory is
named by an address (an integer, in bytes) and an index counted in float32 values. Nothing is checked: the callers own
their buffers and choose the sizes. A ``mask`` leaves the last lanes of a vector out: they are read as zeros, and not
written.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from convatlas.engine.codegen import FLOAT, INT, POINTER, intrinsic, mask_of, static, vectors
from convatlas.engine.jobs import LANES

BYTES = 4  # of one value
WIDE_BYTES = 8  # of one value in float64
VECTOR = ir.VectorType(FLOAT, LANES)
WIDE = ir.VectorType(ir.DoubleType(), LANES)
INDEX = ir.IntType(32)  # of a lane
BITS = ir.VectorType(ir.IntType(32), LANES)
MASK = ir.VectorType(ir.IntType(1), LANES)
FNV32_PRIME, FNV64_PRIME = 16777619, 1099511628211  # of Fowler, Noll and Vo's hash
LINE = 64  # bytes that the caches fetch at once


def _index(value: Any) -> Any:
    return ir.Constant(INT, value) if isinstance(value, int) else value


def _place(builder: ir.IRBuilder, address: Any, index: Any) -> Any:
    base = builder.inttoptr(_index(address), POINTER)
    return builder.gep(base, [_index(index)], source_etype=FLOAT)


def _spread(builder: ir.IRBuilder, value: Any) -> Any:
    if isinstance(value, ir.Constant):
        return ir.Constant(VECTOR, [value.constant] * LANES)
    nothing = ir.Constant(VECTOR, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(INDEX, 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(INDEX, LANES), [0] * LANES))


def _declared(builder: ir.IRBuilder, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, arguments)
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


def _fused(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    return builder.call(_declared(builder, f"llvm.fmuladd.v{LANES}f32", VECTOR, VECTOR, VECTOR, VECTOR), [a, b, c])


def _prefetch(builder: ir.IRBuilder, address: Any, level: int) -> None:
    """Start to bring the memory at an address into the caches from a level on; any address will do."""
    function = _declared(builder, "llvm.prefetch.p0", ir.VoidType(), POINTER, INDEX, INDEX, INDEX)
    hints = [ir.Constant(INDEX, hint) for hint in (0, 4 - level, 1)]  # to read, how near, data
    builder.call(function, [builder.inttoptr(address, POINTER), *hints])


def _read(builder: ir.IRBuilder, place: Any, kind: Any, name: str, mask: Any, align: int) -> Any:
    if mask is None:
        return builder.load(place, typ=kind, align=align)
    function = _declared(builder, f"llvm.masked.load.{name}.p0", kind, POINTER, INDEX, MASK, kind)
    return builder.call(function, [place, ir.Constant(INDEX, align), mask, ir.Constant(kind, None)])


def _write(builder: ir.IRBuilder, value: Any, place: Any, name: str, mask: Any, align: int) -> None:
    if mask is None:
        builder.store(value, place, align=align)
        return
    function = _declared(builder, f"llvm.masked.store.{name}.p0", ir.VoidType(), value.type, POINTER, INDEX, MASK)
    builder.call(function, [value, place, ir.Constant(INDEX, align), mask])


@intrinsic
def load(builder: ir.IRBuilder, address: Any, index: Any, mask: Any = None) -> Any:
    """A vector from memory."""
    return _read(builder, _place(builder, address, index), VECTOR, f"v{LANES}f32", mask, BYTES)


@intrinsic
def store(builder: ir.IRBuilder, address: Any, index: Any, value: Any, mask: Any = None) -> None:
    """A vector to memory."""
    _write(builder, value, _place(builder, address, index), f"v{LANES}f32", mask, BYTES)


@intrinsic
def first_lanes(builder: ir.IRBuilder, count: Any) -> Any:
    """A mask of the first ``count`` lanes."""
    return mask_of(builder, count, LANES)


@intrinsic
def load_bits(builder: ir.IRBuilder, address: Any) -> Any:
    """The bits of one float32 value, as an integer."""
    return builder.zext(builder.load(builder.inttoptr(address, POINTER), typ=ir.IntType(32), align=BYTES), INT)


@intrinsic
def load_integer(builder: ir.IRBuilder, address: Any, index: Any) -> Any:
    """One int64 from a list of them."""
    place = builder.gep(builder.inttoptr(address, POINTER), [_index(index)], source_etype=INT)
    return builder.load(place, typ=INT, align=WIDE_BYTES)


@intrinsic
def no_bits(builder: ir.IRBuilder) -> Any:
    """The lanes of a fingerprint, before anything is mixed into them."""
    return ir.Constant(BITS, [0] * LANES)


@intrinsic
def read_bits(builder: ir.IRBuilder, address: Any, index: Any, mask: Any = None) -> Any:
    """The bits of a vector in memory."""
    return builder.bitcast(load.generate(builder, address, index, mask), BITS)


@intrinsic
def mixed_with(builder: ir.IRBuilder, lanes: Any, bits: Any) -> Any:
    """A step of a 32-bit FNV hash in each lane."""
    return builder.mul(builder.xor(lanes, bits), ir.Constant(BITS, [FNV32_PRIME] * LANES))


@intrinsic
def bits_total(builder: ir.IRBuilder, lanes: Any) -> Any:
    """The lanes of a fingerprint in one integer: each matters, and so does which is which."""
    mixed: Any = ir.Constant(INT, 0)
    for lane in range(LANES):
        value = builder.zext(builder.extract_element(lanes, ir.Constant(INDEX, lane)), INT)
        mixed = builder.mul(builder.xor(mixed, value), ir.Constant(INT, FNV64_PRIME))
    return mixed


@intrinsic
def as_float(builder: ir.IRBuilder, value: Any) -> Any:
    """An integer as float32."""
    return builder.sitofp(value, FLOAT)


@intrinsic
def load_one(builder: ir.IRBuilder, address: Any, index: Any) -> Any:
    """One value from memory."""
    return builder.load(_place(builder, address, index), typ=FLOAT, align=BYTES)


@intrinsic
def store_one(builder: ir.IRBuilder, address: Any, index: Any, value: Any) -> None:
    """One value to memory."""
    builder.store(value, _place(builder, address, index), align=BYTES)


@intrinsic
def spread(builder: ir.IRBuilder, value: Any) -> Any:
    """A value in every lane."""
    return _spread(builder, value)


@intrinsic
def of_group(builder: ir.IRBuilder, value: Any, number: int, width: int) -> Any:
    """In each lane the lane of that number in its group of ``width``; both are static."""
    lanes = [lane // width * width + number for lane in range(LANES)]
    return builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(INDEX, LANES), lanes))


@intrinsic
def constant(builder: ir.IRBuilder, value: float) -> Any:
    """A number in every lane."""
    return ir.Constant(VECTOR, [float(value)] * LANES)


@intrinsic
def number(builder: ir.IRBuilder, value: float) -> Any:
    """A number, as float32."""
    return ir.Constant(FLOAT, float(value))


@intrinsic
def multiply_add(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded once where the machine can."""
    return _fused(builder, a, b, c)


@intrinsic
def larger(builder: ir.IRBuilder, bound: Any, value: Any) -> Any:
    """``bound`` where it is larger, else ``value``: a NaN in ``value`` stays, as in PyTorch's ReLU."""
    return builder.select(builder.fcmp_ordered(">", bound, value), bound, value)


@intrinsic
def smaller(builder: ir.IRBuilder, bound: Any, value: Any) -> Any:
    """``bound`` where it is smaller, else ``value``: a NaN in ``value`` stays, as in PyTorch's ReLU6."""
    return builder.select(builder.fcmp_ordered("<", bound, value), bound, value)


@intrinsic
def maximum(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """The larger of two; NaN where either is, as in PyTorch's max-pool."""
    chosen = builder.select(builder.fcmp_ordered(">", a, b), a, b)  # b where either is NaN
    return builder.select(builder.fcmp_unordered("uno", a, a), a, chosen)


@intrinsic
def where_beats(builder: ir.IRBuilder, challenger: Any, holder: Any, a: Any, b: Any) -> Any:
    """``a`` where the challenger is larger than the holder or NaN, else ``b``: PyTorch's rule for a maximum.

    Against zero it is the gradient of its ReLU, which lets a NaN's gradient through.
    """
    larger_one = builder.fcmp_ordered(">", challenger, holder)
    return builder.select(builder.or_(larger_one, builder.fcmp_unordered("uno", challenger, challenger)), a, b)


@intrinsic
def widen(builder: ir.IRBuilder, value: Any) -> Any:
    """A vector's values as float64."""
    return builder.fpext(value, WIDE)


@intrinsic
def load_wide(builder: ir.IRBuilder, address: Any, mask: Any = None) -> Any:
    """A vector of float64 values from memory."""
    return _read(builder, builder.inttoptr(address, POINTER), WIDE, f"v{LANES}f64", mask, WIDE_BYTES)


@intrinsic
def store_wide(builder: ir.IRBuilder, address: Any, value: Any, mask: Any = None) -> None:
    """A vector of float64 values to memory."""
    _write(builder, value, builder.inttoptr(address, POINTER), f"v{LANES}f64", mask, WIDE_BYTES)


@intrinsic
def total(builder: ir.IRBuilder, value: Any) -> Any:
    """The sum of a vector's values, added pairwise."""
    lanes = [builder.extract_element(value, ir.Constant(INDEX, lane)) for lane in range(LANES)]
    while len(lanes) > 1:
        lanes = [builder.fadd(one, other) for one, other in zip(lanes[::2], lanes[1::2], strict=True)]
    return lanes[0]


@intrinsic
def transpose(builder: ir.IRBuilder, rows: Any) -> Any:
    """As many vectors as lanes as the rows of a matrix; its columns."""
    vectors_, width = list(rows), 1
    while width < LANES:  # exchange blocks of width x width across the diagonal
        vectors_ = _exchange(builder, vectors_, width)
        width *= 2
    return tuple(vectors_)


def _exchange(builder: ir.IRBuilder, rows: list[Any], width: int) -> list[Any]:
    exchanged = list(rows)
    for row in range(LANES):
        if row & width:
            continue
        low, high = rows[row], rows[row + width]
        picks_low = [lane if not lane & width else lane - width + LANES for lane in range(LANES)]
        picks_high = [lane + width if not lane & width else lane + LANES for lane in range(LANES)]
        for target, picks in ((row, picks_low), (row + width, picks_high)):
            mask = ir.Constant(ir.VectorType(INDEX, LANES), picks)
            exchanged[target] = builder.shuffle_vector(low, high, mask)
    return exchanged


@intrinsic
def prefetch(builder: ir.IRBuilder, address: Any, count: int, level: int) -> None:
    """Ask for the memory of ``count`` values at an address, into the cache of a level; both are static."""
    for line in range(0, count * BYTES, LINE):
        _prefetch(builder, builder.add(address, ir.Constant(INT, line)), level)


@intrinsic
def take(builder: ir.IRBuilder, address: Any) -> Any:
    """Add one to an int64 in memory, atomically; what it was before."""
    return builder.atomic_rmw("add", builder.inttoptr(address, POINTER), ir.Constant(INT, 1), "monotonic")


def load_all(address: int, stride: int, count: int, mask: Any = None) -> Any:
    """``count`` vectors, ``stride`` values apart; a static number of them."""
    return [load(address, place * stride, mask) for place in static(count)]


def store_all(address: int, stride: int, values: Any, mask: Any = None) -> None:
    """Vectors, ``stride`` values apart."""
    for place in static(len(values)):
        store(address, place * stride, values[place], mask)


def copy(source: int, target: int, count: int) -> None:
    """``count`` values, then zeros up to a whole vector: for memory that is filled from its beginning to its end."""
    for index, mask in vectors(count):
        store(target, index, load(source, index, mask))


def clear(target: int, count: int) -> None:
    """``count`` zeros, made up to whole vectors."""
    for index in range(0, count, LANES):
        store(target, index, constant(0))
