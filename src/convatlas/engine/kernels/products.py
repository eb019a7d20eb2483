"""The matrix product all convolutions end in: a register tile of six or fourteen rows and two vectors.

With AVX2, twelve vectors of sums, two of ``b`` and one of ``a`` fill the sixteen registers, and six rows keep its two
multiply-add units busy through their latency; AVX-512 has twice the registers, of twice the width: there rows are
fourteen, for maps of 7, 14, 28 and 56 pixels a side. The columns of ``b`` lie in *panels* of two vectors, one row after
another; what is left of the columns may be a panel of one vector. The tiles that multiply by one panel fetch the next
into the core's own cache meanwhile, a share each.
"""

from __future__ import annotations

from typing import Any

from convatlas.engine.codegen import static
from convatlas.engine.jobs import COLUMNS, FEWER, LANES, ROWS
from convatlas.engine.kernels.simd import BYTES, constant, load, load_one, multiply_add, prefetch, spread, store


def load_tile(c: int, c_row: int, rows: int, halves: int) -> Any:
    """The vectors of a tile, row by row."""
    return [[load(c + row * c_row * BYTES, half * LANES) for half in static(halves)] for row in static(rows)]


def empty_tile(rows: int, halves: int) -> Any:
    """Zeros."""
    return [[constant(0) for _ in static(halves)] for _ in static(rows)]


def store_tile(c: int, c_row: int, sums: Any) -> None:
    """The vectors of a tile to memory."""
    for row in static(len(sums)):
        for half in static(len(sums[row])):
            store(c + row * c_row * BYTES, half * LANES, sums[row][half])


def accumulate(sums: Any, a: int, a_row: int, b: int) -> Any:
    """One step of a tile: ``sums[rows][halves] += a[rows values, a_row apart] * b[halves vectors]``."""
    parts = [load(b, half * LANES) for half in static(len(sums[0]))]
    return [add_products(sums[row], spread(load_one(a, row * a_row)), parts) for row in static(len(sums))]


def add_products(sums: Any, factor: Any, parts: Any) -> Any:
    """One row of a tile."""
    return [multiply_add(factor, parts[half], sums[half]) for half in static(len(sums))]


def product(
    a: int,
    a_row: int,
    a_step: int,
    b: int,
    b_step: int,
    c: int,
    c_row: int,
    depth: int,
    onto: bool,
    coming: int,
    pace: int,
    rows: int,
    halves: int,
) -> None:
    """``c[rows, halves * LANES] = a[rows, depth] @ b[depth, halves * LANES]``, or ``+=`` where ``onto``.

    All distances are in values: ``a_row`` between the rows of ``a``, ``a_step`` between its columns, ``b_step`` and
    ``c_row`` between the rows of the others. Meanwhile ``pace`` bytes a step are fetched from ``coming`` on.
    ``rows`` and ``halves`` are static.
    """
    sums = load_tile(c, c_row, rows, halves) if onto else empty_tile(rows, halves)
    for _ in range(depth):
        prefetch(coming, halves * LANES, 2)
        sums = accumulate(sums, a, a_row, b)
        a += a_step * BYTES
        b += b_step * BYTES
        coming += pace
    store_tile(c, c_row, sums)


def product_of_rows(
    a: int,
    a_row: int,
    a_step: int,
    b: int,
    b_step: int,
    c: int,
    c_row: int,
    depth: int,
    onto: bool,
    rows: int,
    halves: int,
    following: int,
) -> None:
    """The same for any number of rows, made up to a multiple of ``FEWER``: there ``a`` is read and ``c`` is written.

    ``following`` is what ``b`` will be next: each tile fetches a share of it.
    """
    pace = pace_of(rows, halves)
    done = rows // tall(halves) * tall(halves)
    for row in range(0, done, tall(halves)):
        at, to = a + row * a_row * BYTES, c + row * c_row * BYTES
        product(at, a_row, a_step, b, b_step, to, c_row, depth, onto, following, pace, tall(halves), halves)
        following += depth * pace
    whole = done + (rows - done + FEWER - 1) // ROWS * ROWS
    for row in range(done, whole, ROWS):
        at, to = a + row * a_row * BYTES, c + row * c_row * BYTES
        product(at, a_row, a_step, b, b_step, to, c_row, depth, onto, following, pace, ROWS, halves)
        following += depth * pace
    if whole < rows:
        at, to = a + whole * a_row * BYTES, c + whole * c_row * BYTES
        product(at, a_row, a_step, b, b_step, to, c_row, depth, onto, following, pace, FEWER, halves)


def tall(halves: int) -> int:
    """Rows of the tile that has as many sums as there are registers for: twice as many where it is half as wide."""
    return 2 * ROWS // halves


def pace_of(rows: int, halves: int) -> int:
    """Bytes a step of what follows, for each of the tiles of so many rows: together they fetch all of it."""
    tiles = (rows + tall(halves) - 1) // tall(halves)
    return halves * LANES * BYTES // max(tiles, 1)


def product_with_panels(
    a: int,
    a_row: int,
    panels: int,
    panel_depth: int,
    c: int,
    c_row: int,
    depth: int,
    onto: bool,
    rows: int,
    columns: int,
) -> None:
    """``c[rows, columns] = a[rows, depth] @ panels``, or ``+=`` where ``onto``; columns are whole vectors.

    Panels are ``panel_depth`` deep, of which the first ``depth`` rows are used.
    """
    whole = columns // COLUMNS * COLUMNS
    for column in range(0, whole, COLUMNS):
        b = panels + column * panel_depth * BYTES
        after = b + panel_depth * COLUMNS * BYTES
        product_of_rows(a, a_row, 1, b, COLUMNS, c + column * BYTES, c_row, depth, onto, rows, 2, after)
    if whole < columns:
        b = panels + whole * panel_depth * BYTES
        after = b + panel_depth * LANES * BYTES
        product_of_rows(a, a_row, 1, b, LANES, c + whole * BYTES, c_row, depth, onto, rows, 1, after)
