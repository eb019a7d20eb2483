"""The matrix product all convolutions end in: a register tile of six rows and sixteen columns.

Twelve vectors of sums, two of ``b`` and one of ``a`` fill the sixteen registers of AVX2, and six rows keep its two
multiply-add units busy through their latency. The columns of ``b`` lie in *panels* of sixteen, one row after another.
"""

from __future__ import annotations

from typing import Any

from convatlas.engine.jobs import LANES
from convatlas.engine.kernels.simd import BYTES, accumulate, constant, inline, load, store


@inline
def load_tile(c: int, c_row: int) -> Any:
    """The twelve vectors of a tile."""
    row1 = c + c_row * BYTES
    row2 = row1 + c_row * BYTES
    row3 = row2 + c_row * BYTES
    row4 = row3 + c_row * BYTES
    row5 = row4 + c_row * BYTES
    return (
        load(c, 0), load(c, LANES), load(row1, 0), load(row1, LANES), load(row2, 0), load(row2, LANES),
        load(row3, 0), load(row3, LANES), load(row4, 0), load(row4, LANES), load(row5, 0), load(row5, LANES),
    )  # fmt: skip


@inline
def empty_tile() -> Any:
    """Twelve vectors of zeros."""
    zero = constant(0)
    return (zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)


@inline
def product(a: int, a_row: int, a_step: int, b: int, b_step: int, c: int, c_row: int, depth: int, onto: bool) -> None:
    """``c[6, 16] = a[6, depth] @ b[depth, 16]``, or ``+=`` where ``onto``.

    All distances are in values: ``a_row`` between the rows of ``a``, ``a_step`` between its columns, ``b_step`` and
    ``c_row`` between the rows of the others; ``b_step`` is 16 in a panel.
    """
    sums = load_tile(c, c_row) if onto else empty_tile()
    for _ in range(depth):
        sums = accumulate(sums, a, a_row, b)
        a += a_step * BYTES
        b += b_step * BYTES
    store(c, 0, sums[0])
    store(c, LANES, sums[1])
    store(c, c_row, sums[2])
    store(c, c_row + LANES, sums[3])
    store(c, 2 * c_row, sums[4])
    store(c, 2 * c_row + LANES, sums[5])
    store(c, 3 * c_row, sums[6])
    store(c, 3 * c_row + LANES, sums[7])
    store(c, 4 * c_row, sums[8])
    store(c, 4 * c_row + LANES, sums[9])
    store(c, 5 * c_row, sums[10])
    store(c, 5 * c_row + LANES, sums[11])
