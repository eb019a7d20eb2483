"""Any convolution as a matrix product: [output pixels, taps * channels] @ [taps * channels, out_channels].

Each task gathers the inputs of a block of output pixels into rows, multiplies, and finishes its outputs while they are
in its core's cache. A 1x1 convolution needs no gathering: its inputs are rows already. Groups are products of their own
on the same rows.
"""

from __future__ import annotations

from typing import Any

from convatlas.engine.codegen import vectors
from convatlas.engine.jobs import COLUMNS, LANES, ROWS
from convatlas.engine.kernels.epilogue import bias_of, finished, output_place, residual_place
from convatlas.engine.kernels.products import (
    accumulate,
    empty_tile,
    product_of_rows,
    store_tile,
)
from convatlas.engine.kernels.simd import BYTES, clear, constant, copy, larger, load, multiply_add, prefetch, store


def place_of(job: Any, pixel: int) -> Any:
    """Image, row and column of an output pixel, counted through all images."""
    per_image = job.out_height * job.out_width
    image = pixel // per_image
    inside = pixel - image * per_image
    row = inside // job.out_width
    return image, row, inside - row * job.out_width


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


def gather_pixel(job: Any, place: Any, to: int) -> None:
    """The inputs of one output pixel, tap after tap; zeros beyond the border."""
    channels, dilation = job.channels, job.dilation
    image, out_row, out_column = place
    top = out_row * job.stride - job.pad_height
    left = out_column * job.stride - job.pad_width
    line = job.kernel_width * channels
    side_by_side = job.x_pixel == channels and dilation == 1
    for y in range(top, top + job.kernel_height * dilation, dilation):
        if y < 0 or y >= job.height:
            clear(to, line)
        elif side_by_side and left >= 0 and left + job.kernel_width <= job.width:
            copy(job.x + (image * job.x_image + y * job.x_row + left * channels) * BYTES, to, line)
        else:
            gather_line(job, image, y, left, to)
        to += line * BYTES


def gather_line(job: Any, image: int, y: int, left: int, row: int) -> None:
    """The taps of one line of the kernel, one by one."""
    channels, dilation = job.channels, job.dilation
    for x in range(left, left + job.kernel_width * dilation, dilation):
        if x >= 0 and x < job.width:
            copy(job.x + (image * job.x_image + y * job.x_row + x * job.x_pixel) * BYTES, row, channels)
        else:
            clear(row, channels)
        row += channels * BYTES


def activate(job: Any, row: int) -> None:
    """Scale, shift and ReLU in place, for networks that normalise before they convolve."""
    for channel, mask in vectors(job.channels):
        scaled = multiply_add(load(row, channel, mask), load(job.scale, channel, mask), load(job.shift, channel, mask))
        store(row, channel, larger(constant(0), scaled), mask)


def finish_pixel(job: Any, place: Any, sums: int, first: int, count: int) -> None:
    """Bias, residual and activation of one output pixel, for ``count`` channels from ``first`` on."""
    image, row, column = place
    y = output_place(job, image, row, column)
    residual = residual_place(job, image, row, column)
    activation = job.activation
    for index, mask in vectors(count):
        channel = first + index
        value = load(sums, index) + bias_of(job, channel, mask)
        store(y, channel, finished(value, residual, channel, activation, mask), mask)


def multiply_block(a: int, a_row: int, rows: int, depth: int, deep: int, panels: int, columns: int, sums: int) -> None:
    """``sums[rows, columns] = a[rows, depth] @ panels``, ``deep`` of the depth at a time.

    A panel that deep fills the fastest cache; then the sums are visited again.
    """
    whole = columns // COLUMNS * COLUMNS
    for start in range(0, depth, deep):
        count = min(deep, depth - start)
        from_a = a + start * BYTES
        onto = start > 0
        for column in range(0, whole, COLUMNS):
            b = panels + (column * depth + start * COLUMNS) * BYTES
            product_of_rows(from_a, a_row, 1, b, COLUMNS, sums + column * BYTES, columns, count, onto, rows, 2)
        if whole < columns:
            b = panels + (whole * depth + start * LANES) * BYTES
            product_of_rows(from_a, a_row, 1, b, LANES, sums + whole * BYTES, columns, count, onto, rows, 1)


def multiply_taps(
    a: int, a_row: int, a_tap: int, taps: int, inner: int, b: int, c: int, c_row: int, halves: int
) -> None:
    """A tile of one group's products: of each tap, only the group's own channels."""
    sums = empty_tile(ROWS, halves)
    for _ in range(taps):
        for index in range(inner):
            prefetch(b, halves * LANES)
            sums = accumulate(sums, a + index * BYTES, a_row, b)
            b += halves * LANES * BYTES
        a += a_tap * BYTES
    store_tile(c, c_row, sums)


def multiply_group(job: Any, a: int, a_row: int, rows: int, group: int, sums: int, c_row: int) -> None:
    """Products of one group. Beyond its columns it leaves zeros or worse, which the next group writes over."""
    inner = job.channels // job.groups
    outputs = job.out_channels // job.groups
    taps = job.kernel_height * job.kernel_width
    padded = (outputs + LANES - 1) // LANES * LANES
    panels = job.weight + group * taps * inner * padded * BYTES
    whole = padded // COLUMNS * COLUMNS
    for row in range(0, rows, ROWS):
        from_a = a + (row * a_row + group * inner) * BYTES
        to = sums + row * c_row * BYTES
        for column in range(0, whole, COLUMNS):
            b = panels + column * taps * inner * BYTES
            multiply_taps(from_a, a_row, job.channels, taps, inner, b, to + column * BYTES, c_row, 2)
        if whole < padded:
            b = panels + whole * taps * inner * BYTES
            multiply_taps(from_a, a_row, job.channels, taps, inner, b, to + whole * BYTES, c_row, 1)


def share_of(job: Any, task: int) -> Any:
    """The first output channel of a task's share, how many they are, and how many columns their sums take."""
    share, splits = task % job.splits, job.splits
    if job.groups > 1:
        outputs = job.out_channels // job.groups
        first = job.groups * share // splits
        last = job.groups * (share + 1) // splits
        return first * outputs, (last - first) * outputs, (last - first) * outputs + COLUMNS
    panels = (job.out_channels + COLUMNS - 1) // COLUMNS
    first = panels * share // splits * COLUMNS
    count = min(panels * (share + 1) // splits * COLUMNS, job.out_channels) - first
    return first, count, (count + LANES - 1) // LANES * LANES


def convolve(job: Any, task: int, scratch: int) -> None:
    """Convolve one block of output pixels, for one share of the output channels."""
    block = job.block
    first = task // job.splits * block
    rows = min(block, job.pixels - first)
    from_channel, count, columns = share_of(job, task)
    depth = job.kernel_height * job.kernel_width * job.channels

    a, a_row = job.x + first * job.x_pixel * BYTES, job.x_pixel
    sums = scratch
    # Rows are made up to whole tiles, which must not be read beyond the end of the picture.
    if job.packed != 0 or rows % ROWS != 0:
        a, a_row = scratch + block * columns * BYTES, depth
        place = place_of(job, first)
        for pixel in range(rows):
            row = a + pixel * depth * BYTES
            gather_pixel(job, place, row)
            place = next_place(job, place)
            if job.scale != 0:
                activate(job, row)
    if job.groups > 1:
        outputs = job.out_channels // job.groups
        for number in range(count // outputs):
            group = from_channel // outputs + number
            multiply_group(job, a, a_row, rows, group, sums + number * outputs * BYTES, columns)
    else:
        weight = job.weight + from_channel * depth * BYTES
        multiply_block(a, a_row, rows, depth, job.deep, weight, columns, sums)
    place = place_of(job, first)
    for pixel in range(rows):
        finish_pixel(job, place, sums + pixel * columns * BYTES, from_channel, count)
        place = next_place(job, place)


def weight_gradient(job: Any, task: int, scratch: int) -> None:
    """A share of the gradient of a weight: the sum over some output pixels of their inputs times their gradients.

    The share is [taps * channels, out_channels], its rows made up to whole tiles; the shares are added later.
    """
    depth = job.kernel_height * job.kernel_width * job.channels
    rows = (depth + ROWS - 1) // ROWS * ROWS
    outputs, block = job.out_channels, job.block
    share = job.shares + task * rows * outputs * BYTES
    start = job.pixels * task // job.tasks
    stop = job.pixels * (task + 1) // job.tasks
    clear(share, rows * outputs)
    clear(scratch, block * rows)
    for first in range(start, stop, block):
        last = min(first + block, stop)
        place = place_of(job, first)
        for pixel in range(last - first):
            gather_pixel(job, place, scratch + pixel * rows * BYTES)
            place = next_place(job, place)
        gradient = job.gradient + first * outputs * BYTES
        whole = outputs // COLUMNS * COLUMNS
        for column in range(0, whole, COLUMNS):
            b, c = gradient + column * BYTES, share + column * BYTES
            product_of_rows(scratch, 1, rows, b, outputs, c, outputs, last - first, True, rows, 2)
        if whole < outputs:
            b, c = gradient + whole * BYTES, share + whole * BYTES
            product_of_rows(scratch, 1, rows, b, outputs, c, outputs, last - first, True, rows, 1)
