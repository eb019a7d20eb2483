"""Any convolution as a matrix product: [output pixels, taps * channels] @ [taps * channels, out_channels].

Each task gathers the inputs of a block of output pixels into rows, multiplies, and finishes its outputs while they are
in its core's cache. A 1x1 convolution needs no gathering: its inputs are rows already.
"""

from __future__ import annotations

from typing import Any

from convatlas.engine.jobs import COLUMNS, LANES, ROWS
from convatlas.engine.kernels.products import product
from convatlas.engine.kernels.simd import (
    BYTES,
    clear,
    constant,
    copy,
    inline,
    larger,
    load,
    multiply_add,
    store,
)

DEPTH = 512  # values of the sum between two visits to the outputs: a panel that deep fills the fastest cache


@inline
def place_of(job: Any, pixel: int) -> Any:
    """Image, row and column of an output pixel, counted through all images."""
    per_image = job.out_height * job.out_width
    image = pixel // per_image
    inside = pixel - image * per_image
    row = inside // job.out_width
    return image, row, inside - row * job.out_width


@inline
def next_place(job: Any, place: Any) -> Any:
    """The place after a place; divisions for each pixel would take as long as its sums."""
    image, row, column = place
    column += 1
    if column == job.out_width:
        column = 0
        row += 1
        if row == job.out_height:
            row = 0
            image += 1
    return image, row, column


@inline
def gather_pixel(job: Any, place: Any, to: int) -> None:
    """The inputs of one output pixel, tap after tap; zeros beyond the border."""
    channels = job.channels
    image, out_row, out_column = place
    top = out_row * job.stride - job.pad_height
    left = out_column * job.stride - job.pad_width
    line = job.kernel_width * channels
    side_by_side = job.x_pixel == channels
    for y in range(top, top + job.kernel_height):
        if y < 0 or y >= job.height:
            clear(to, line)
        elif side_by_side and left >= 0 and left + job.kernel_width <= job.width:
            copy(job.x + (image * job.x_image + y * job.x_row + left * channels) * BYTES, to, line)
        else:
            gather_line(job, image, y, left, to)
        to += line * BYTES


@inline
def gather_line(job: Any, image: int, y: int, left: int, row: int) -> None:
    """The taps of one line of the kernel, one by one."""
    channels = job.channels
    for x in range(left, left + job.kernel_width):
        if 0 <= x < job.width:
            copy(job.x + (image * job.x_image + y * job.x_row + x * job.x_pixel) * BYTES, row, channels)
        else:
            clear(row, channels)
        row += channels * BYTES


@inline
def activate(job: Any, row: int) -> None:
    """Scale, shift and ReLU in place, for networks that normalise before they convolve."""
    for channel in range(0, job.channels, LANES):
        value = multiply_add(load(row, channel), load(job.scale, channel), load(job.shift, channel))
        store(row, channel, larger(constant(0), value))


@inline
def finish_pixel(job: Any, place: Any, sums: int, first: int, last: int) -> None:
    """Bias, residual and ReLU of one output pixel, for the channels from ``first`` to ``last``."""
    image, row, column = place
    y = job.y + (image * job.y_image + row * job.y_row + column * job.y_pixel) * BYTES
    residual = job.residual
    if residual != 0:
        residual += (image * job.residual_image + row * job.residual_row + column * job.residual_pixel) * BYTES
    bias, relu = job.bias, job.relu
    for channel in range(first, last, LANES):
        value = load(sums, channel - first)
        if bias != 0:
            value = value + load(bias, channel)
        if residual != 0:
            value = value + load(residual, channel)
        if relu != 0:
            value = larger(constant(0), value)
        store(y, channel, value)


@inline
def multiply_block(a: int, a_row: int, rows: int, depth: int, panels: int, columns: int, sums: int) -> None:
    """``sums[rows, columns] = a[rows, depth] @ panels``, a part of the depth at a time."""
    for from_depth in range(0, depth, DEPTH):
        deep = min(DEPTH, depth - from_depth)
        for column in range(0, columns, COLUMNS):
            b = panels + (column * depth + from_depth * COLUMNS) * BYTES
            for row in range(0, rows, ROWS):
                from_a = a + (row * a_row + from_depth) * BYTES
                to = sums + (row * columns + column) * BYTES
                product(from_a, a_row, 1, b, COLUMNS, to, columns, deep, from_depth > 0)


def convolve(job: Any, task: int, scratch: int) -> None:
    """Convolve one block of output pixels, for one share of the output channels."""
    splits, block = job.splits, job.block
    first = task // splits * block
    last = min(first + block, job.pixels)
    share = task % splits
    panels = (job.out_channels + COLUMNS - 1) // COLUMNS
    from_channel = panels * share // splits * COLUMNS
    padded = panels * (share + 1) // splits * COLUMNS
    to_channel = min(padded, job.out_channels)
    depth = job.kernel_height * job.kernel_width * job.channels

    a, a_row = job.x + first * job.x_pixel * BYTES, job.x_pixel
    sums = scratch
    # Rows are made up to a multiple of six, which must not be read beyond the end of the picture.
    if job.packed != 0 or (last - first) % ROWS != 0:
        a, a_row = scratch + block * (padded - from_channel) * BYTES, depth
        place = place_of(job, first)
        for pixel in range(last - first):
            row = a + pixel * depth * BYTES
            gather_pixel(job, place, row)
            place = next_place(job, place)
            if job.scale != 0:
                activate(job, row)
    weight = job.weight + from_channel * depth * BYTES
    multiply_block(a, a_row, last - first, depth, weight, padded - from_channel, sums)
    place = place_of(job, first)
    for pixel in range(last - first):
        row = sums + pixel * (padded - from_channel) * BYTES
        finish_pixel(job, place, row, from_channel, to_channel)
        place = next_place(job, place)


def weight_gradient(job: Any, task: int, scratch: int) -> None:
    """A share of the gradient of a weight: the sum over some output pixels of their inputs times their gradients.

    The share is [taps * channels, out_channels], its rows made up to a multiple of six; the shares are added later.
    """
    depth = job.kernel_height * job.kernel_width * job.channels
    rows = (depth + ROWS - 1) // ROWS * ROWS
    share = job.shares + task * rows * job.out_channels * BYTES
    block = job.block
    start = job.pixels * task // job.tasks
    stop = job.pixels * (task + 1) // job.tasks
    clear(share, rows * job.out_channels)
    clear(scratch, block * rows)
    for first in range(start, stop, block):
        last = min(first + block, stop)
        place = place_of(job, first)
        for pixel in range(last - first):
            gather_pixel(job, place, scratch + pixel * rows * BYTES)
            place = next_place(job, place)
        for column in range(0, job.out_channels, COLUMNS):
            gradient = job.gradient + (first * job.out_channels + column) * BYTES
            for row in range(0, rows, ROWS):
                c = share + (row * job.out_channels + column) * BYTES
                a = scratch + row * BYTES
                product(a, 1, rows, gradient, job.out_channels, c, job.out_channels, last - first, True)
