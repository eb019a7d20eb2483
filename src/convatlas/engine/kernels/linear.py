"""A dense layer for few images: reads each weight once, which takes all the time there is.

A matrix product wants many images; for one to a few dozen the weights stream through, and every image's sum with the
same piece of them is taken while it is in the fastest cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convatlas.engine.jobs import LANES, OUTPUTS
from convatlas.engine.kernels.simd import (
    BYTES,
    constant,
    inline,
    load,
    load_one,
    multiply_add,
    store,
    store_one,
    total,
)

PIECE = 1024  # of their values


@inline
def add_piece(x: int, w: int, depth: int, count: int, sums: int) -> None:
    """Add ``count`` products of one image with each of four rows of the weight to their sums."""
    first = load(sums, 0)
    second = load(sums, LANES)
    third = load(sums, 2 * LANES)
    fourth = load(sums, 3 * LANES)
    for index in range(0, count, LANES):
        value = load(x, index)
        first = multiply_add(value, load(w, index), first)
        second = multiply_add(value, load(w, index + depth), second)
        third = multiply_add(value, load(w, index + 2 * depth), third)
        fourth = multiply_add(value, load(w, index + 3 * depth), fourth)
    store(sums, 0, first)
    store(sums, LANES, second)
    store(sums, 2 * LANES, third)
    store(sums, 3 * LANES, fourth)


def multiply(job: Any, task: int, scratch: int) -> None:
    """Four outputs of all images: ``x @ w.T + bias`` and ReLU."""
    depth, images, outputs = job.depth, job.images, job.outputs
    output = task * OUTPUTS
    w = job.w + output * depth * BYTES
    for index in range(0, images * OUTPUTS * LANES, LANES):
        store(scratch, index, constant(0))
    for piece in range(0, depth, PIECE):
        count = min(PIECE, depth - piece)
        for image in range(images):
            x = job.x + (image * depth + piece) * BYTES
            add_piece(x, w + piece * BYTES, depth, count, scratch + image * OUTPUTS * LANES * BYTES)
    for image in range(images):
        for row in range(OUTPUTS):
            value = total(load(scratch, (image * OUTPUTS + row) * LANES))
            if job.bias != 0:
                value += load_one(job.bias, output + row)
            if job.relu != 0 and value < np.float32(0):
                value = np.float32(0)
            store_one(job.y, image * outputs + output + row, value)
