"""Batch normalisation in training, with what follows it: a residual, ReLU, 2x2 max-pooling.

All of it is bound by memory, so each way is one pass that reads and one that writes. Nothing between x and the output
is kept: the backward pass computes the normalised values, the mask of ReLU and the place of each maximum again.

Pictures are dense [images, height, width, channels], channels a multiple of eight. ``constants`` holds rows of one
value a channel: the normalised value is ``(x - CENTRE) * SCALE + SHIFT``, and where its gradient is g, that of x is
``g * SCALE + (x - CENTRE) * SLOPE + OFFSET``. Sums are kept in float64, one set a task, [tasks, 2, channels].
"""

from __future__ import annotations

from typing import Any

from convatlas.engine.codegen import static, vectors
from convatlas.engine.kernels.simd import (
    BYTES,
    WIDE_BYTES,
    constant,
    larger,
    load,
    load_wide,
    multiply_add,
    store,
    store_wide,
    where_beats,
    widen,
)

CENTRE, SCALE, SHIFT, SLOPE, OFFSET = range(5)  # rows of the constants
RUN = 16  # pixels whose sums stay in registers; so many rows of channels stay in the fastest cache


def normalised(value: Any, constants: int, channels: int, channel: int, mask: Any) -> Any:
    """The output of batch normalisation, a vector of channels."""
    from_centre = value - load(constants, CENTRE * channels + channel, mask)
    scale = load(constants, SCALE * channels + channel, mask)
    return multiply_add(from_centre, scale, load(constants, SHIFT * channels + channel, mask))


def first_value(job: Any, row: int) -> int:
    """Where a row of pooled outputs finds its inputs: the index of the first value, for all its windows."""
    image = row // job.out_height
    return (image * job.height + (row - image * job.out_height) * 2) * job.width * job.channels


def load_window(x: int, upper: int, below: int, channels: int, mask: Any) -> Any:
    """The four inputs of a pooled output: upper left, upper right, lower left, lower right."""
    return (
        load(x, upper, mask),
        load(x, upper + channels, mask),
        load(x, upper + below, mask),
        load(x, upper + below + channels, mask),
    )


def measure(job: Any, task: int, scratch: int) -> None:
    """Sums of the distances from ``centre``, and of their squares, of one block of pixels."""
    x, centre, channels = job.x, job.centre, job.channels
    first = task * job.block
    last = min(first + job.block, job.pixels)
    sums = job.sums + task * 2 * channels * WIDE_BYTES
    for start in range(first, last, RUN):
        stop = min(start + RUN, last)
        for channel, mask in vectors(channels):
            at = sums + channel * WIDE_BYTES
            middle = widen(load(centre, channel, mask))
            distances = load_wide(at, mask)
            squares = load_wide(at + channels * WIDE_BYTES, mask)
            for pixel in range(start, stop):
                distance = widen(load(x, pixel * channels + channel, mask)) - middle
                distances = distances + distance
                squares = squares + distance * distance
            store_wide(at, distances, mask)
            store_wide(at + channels * WIDE_BYTES, squares, mask)


def normalise_pixel(job: Any, at: int) -> None:
    """The outputs of one pixel, whose first value is number ``at``."""
    x, y, residual, constants, relu = job.x, job.y, job.residual, job.constants, job.relu
    channels = job.channels
    for channel, mask in vectors(channels):
        value = normalised(load(x, at + channel, mask), constants, channels, channel, mask)
        if residual != 0:
            value = value + load(residual, at + channel, mask)
        if relu != 0:
            value = larger(constant(0), value)
        store(y, at + channel, value, mask)


def normalise_windows(job: Any, row: int) -> None:
    """One row of outputs, each the largest of its window."""
    x, constants, channels = job.x, job.constants, job.channels
    upper, below = first_value(job, row), job.width * job.channels
    y = job.y + row * job.out_width * channels * BYTES
    for _ in range(job.out_width):
        for channel, mask in vectors(channels):
            values = load_window(x, upper + channel, below, channels, mask)
            best = normalised(values[0], constants, channels, channel, mask)
            for place in static(1, 4):
                rival = normalised(values[place], constants, channels, channel, mask)
                best = where_beats(rival, best, rival, best)
            store(y, channel, larger(constant(0), best), mask)
        upper += 2 * channels
        y += channels * BYTES


def normalise(job: Any, task: int, scratch: int) -> None:
    """The outputs of one block: of pixels, or of rows of pooled outputs."""
    first = task * job.block
    for row in range(first, min(first + job.block, job.rows)):
        if job.pool != 0:
            normalise_windows(job, row)
        else:
            normalise_pixel(job, row * job.channels)


def sum_pixels(job: Any, start: int, stop: int, sums: int) -> None:
    """Add a run of pixels to the sums; with a residual, write the gradient behind ReLU."""
    x, dy, output, masked, constants = job.x, job.dy, job.output, job.masked, job.constants
    relu, channels, zero = job.relu, job.channels, constant(0)
    for channel, mask in vectors(channels):
        at = sums + channel * WIDE_BYTES
        centre = load(constants, CENTRE * channels + channel, mask)
        gradients = load_wide(at, mask)
        products = load_wide(at + channels * WIDE_BYTES, mask)
        for index in range(start * channels + channel, stop * channels, channels):
            value = load(x, index, mask)
            gradient = load(dy, index, mask)
            if output != 0:
                gradient = where_beats(load(output, index, mask), zero, gradient, zero)
                store(masked, index, gradient, mask)
            elif relu != 0:
                output_here = normalised(value, constants, channels, channel, mask)
                gradient = where_beats(output_here, zero, gradient, zero)
            gradients = gradients + widen(gradient)
            products = products + widen(gradient) * widen(value - centre)
        store_wide(at, gradients, mask)
        store_wide(at + channels * WIDE_BYTES, products, mask)


def sum_windows(job: Any, row: int, start: int, stop: int, sums: int) -> None:
    """Add a run of pooled outputs to the sums: only the largest of a window has a gradient."""
    x, dy, constants, channels, zero = job.x, job.dy, job.constants, job.channels, constant(0)
    below = job.width * channels
    windows = first_value(job, row)
    outputs = row * job.out_width * channels
    for channel, mask in vectors(channels):
        at = sums + channel * WIDE_BYTES
        centre = load(constants, CENTRE * channels + channel, mask)
        gradients = load_wide(at, mask)
        products = load_wide(at + channels * WIDE_BYTES, mask)
        for column in range(start, stop):
            values = load_window(x, windows + 2 * column * channels + channel, below, channels, mask)
            source = values[0]
            best = normalised(source, constants, channels, channel, mask)
            for place in static(1, 4):
                rival = normalised(values[place], constants, channels, channel, mask)
                source = where_beats(rival, best, values[place], source)
                best = where_beats(rival, best, rival, best)
            gradient = where_beats(best, zero, load(dy, outputs + column * channels + channel, mask), zero)
            gradients = gradients + widen(gradient)
            products = products + widen(gradient) * widen(source - centre)
        store_wide(at, gradients, mask)
        store_wide(at + channels * WIDE_BYTES, products, mask)


def sum_gradient(job: Any, task: int, scratch: int) -> None:
    """Sums of the gradients, and of their products with the distance from the centre, of one block."""
    first = task * job.block
    last = min(first + job.block, job.rows)
    sums = job.sums + task * 2 * job.channels * WIDE_BYTES
    if job.pool == 0:
        for start in range(first, last, RUN):
            sum_pixels(job, start, min(start + RUN, last), sums)
    else:
        for row in range(first, last):
            for start in range(0, job.out_width, RUN):
                sum_windows(job, row, start, min(start + RUN, job.out_width), sums)


def store_gradient(job: Any, index: int, channel: int, value: Any, gradient: Any, mask: Any) -> None:
    """The gradient of one input ``value``, given that of its normalised value."""
    channels = job.channels
    if job.normalised != 0:
        from_centre = value - load(job.constants, CENTRE * channels + channel, mask)
        slope = load(job.constants, SLOPE * channels + channel, mask)
        through_statistics = multiply_add(from_centre, slope, load(job.constants, OFFSET * channels + channel, mask))
        scale = load(job.constants, SCALE * channels + channel, mask)
        gradient = multiply_add(gradient, scale, through_statistics)
    store(job.dx, index, gradient, mask)


def write_pixel(job: Any, at: int) -> None:
    """The gradient of one pixel, whose first value is number ``at``."""
    x, dy, constants, relu, channels, zero = job.x, job.dy, job.constants, job.relu, job.channels, constant(0)
    for channel, mask in vectors(channels):
        value = load(x, at + channel, mask)
        gradient = load(dy, at + channel, mask)
        if relu != 0:
            output = normalised(value, constants, channels, channel, mask)
            gradient = where_beats(output, zero, gradient, zero)
        store_gradient(job, at + channel, channel, value, gradient, mask)


def write_unpooled(job: Any, at: int, pixels: int) -> None:
    """The gradient of pixels that no window covers, at an odd border."""
    x, channels = job.x, job.channels
    for _ in range(pixels):
        for channel, mask in vectors(channels):
            store_gradient(job, at + channel, channel, load(x, at + channel, mask), constant(0), mask)
        at += channels


def write_windows(job: Any, row: int) -> None:
    """The gradient of the two rows of pixels below a row of pooled outputs."""
    x, constants, channels, zero = job.x, job.constants, job.channels, constant(0)
    below = job.width * channels
    upper = first_value(job, row)
    dy = job.dy + row * job.out_width * channels * BYTES
    for _ in range(job.out_width):
        for channel, mask in vectors(channels):
            values = load_window(x, upper + channel, below, channels, mask)
            rivals = [normalised(value, constants, channels, channel, mask) for value in values]
            best1 = where_beats(rivals[1], rivals[0], rivals[1], rivals[0])
            best2 = where_beats(rivals[2], best1, rivals[2], best1)
            best3 = where_beats(rivals[3], best2, rivals[3], best2)
            # The last to beat all before it has the gradient: of equals, the first.
            left3 = where_beats(best3, zero, load(dy, channel, mask), zero)
            left2 = where_beats(rivals[3], best2, zero, left3)
            left1 = where_beats(rivals[2], best1, zero, left2)
            left0 = where_beats(rivals[1], rivals[0], zero, left1)
            at = upper + channel
            store_gradient(job, at, channel, values[0], left0, mask)
            gradient1 = where_beats(rivals[1], rivals[0], left1, zero)
            store_gradient(job, at + channels, channel, values[1], gradient1, mask)
            gradient2 = where_beats(rivals[2], best1, left2, zero)
            store_gradient(job, at + below, channel, values[2], gradient2, mask)
            gradient3 = where_beats(rivals[3], best2, left3, zero)
            store_gradient(job, at + below + channels, channel, values[3], gradient3, mask)
        upper += 2 * channels
        dy += channels * BYTES


def write_gradient(job: Any, task: int, scratch: int) -> None:
    """The gradient of the inputs of one block: of pixels, or of rows of pooled outputs."""
    channels, width = job.channels, job.width
    first = task * job.block
    for row in range(first, min(first + job.block, job.rows)):
        if job.pool == 0:
            write_pixel(job, row * channels)
            continue
        write_windows(job, row)
        upper = first_value(job, row)
        if width % 2 != 0:
            write_unpooled(job, upper + (width - 1) * channels, 1)
            write_unpooled(job, upper + (2 * width - 1) * channels, 1)
        if job.height % 2 != 0 and (row + 1) % job.out_height == 0:
            write_unpooled(job, upper + 2 * width * channels, width)
