"""A dense layer for few images: reads each weight once, which takes all the time there is.

A matrix product wants many images; for one to a few dozen the weights stream through, and every image's sum with the
same piece of them is taken while it is in the fastest cache.
"""

from __future__ import annotations

from typing import Any

from convatlas.engine.codegen import static, vectors
from convatlas.engine.jobs import LANES, OUTPUTS, RELU6
from convatlas.engine.kernels.simd import (
    BYTES,
    constant,
    load,
    load_all,
    load_one,
    multiply_add,
    number,
    store,
    store_all,
    store_one,
    total,
)

PIECE = 1024  # of their values


def add_piece(x: int, w: int, depth: int, count: int, sums: int, rows: int) -> None:
    """Add ``count`` products of one image with each of some rows of the weight (static) to their sums."""
    kept = load_all(sums, LANES, rows)
    for index, mask in vectors(count):
        value = load(x, index, mask)
        kept = [multiply_add(value, load(w, index + row * depth, mask), kept[row]) for row in static(rows)]
    store_all(sums, LANES, kept)


def activated(value: Any, activation: int) -> Any:
    """ReLU or ReLU6 of one value, or the value."""
    if activation != 0 and value < 0.0:
        value = number(0)
    if activation == RELU6 and value > 6.0:
        value = number(6)
    return value


def multiply_rows(job: Any, output: int, scratch: int, rows: int) -> None:
    """Some outputs (static) of all images, from ``output`` on."""
    depth, images, outputs = job.depth, job.images, job.outputs
    w = job.w + output * depth * BYTES
    for index in range(0, images * rows * LANES, LANES):
        store(scratch, index, constant(0))
    for piece in range(0, depth, PIECE):
        count = min(PIECE, depth - piece)
        for image in range(images):
            x = job.x + (image * depth + piece) * BYTES
            add_piece(x, w + piece * BYTES, depth, count, scratch + image * rows * LANES * BYTES, rows)
    for image in range(images):
        for row in range(rows):
            value = total(load(scratch, (image * rows + row) * LANES))
            if job.bias != 0:
                value += load_one(job.bias, output + row)
            store_one(job.y, image * outputs + output + row, activated(value, job.activation))


def multiply(job: Any, task: int, scratch: int) -> None:
    """Four outputs of all images, or the last few: ``x @ w.T + bias`` and the activation."""
    output = task * OUTPUTS
    if output + OUTPUTS <= job.outputs:
        multiply_rows(job, output, scratch, OUTPUTS)
    else:
        for last in range(output, job.outputs):
            multiply_rows(job, last, scratch, 1)
