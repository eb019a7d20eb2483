"""Any convolution as a matrix product: [output pixels, taps * channels] @ [taps * channels, out_channels].

Each task gathers the inputs of a block of output pixels into rows, multiplies, and finishes its outputs while they are
in its core's cache. A 1x1 convolution needs no gathering: its inputs are rows already. Groups are products of their own
on the same rows.
"""

from __future__ import annotations

from typing import Any

from convatlas.engine.codegen import static, vectors
from convatlas.engine.jobs import APART, COLUMNS, FEWER, LANES, ROWS
from convatlas.engine.kernels.epilogue import bias_of, bounded, bounds_of, finished, output_place, residual_place
from convatlas.engine.kernels.products import (
    accumulate,
    empty_tile,
    load_tile,
    pace_of,
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
    bounds = bounds_of(job)
    for index, mask in vectors(count):
        channel = first + index
        value = load(sums, index) + bias_of(job, channel, mask)
        store(y, channel, finished(value, residual, channel, bounds, mask), mask)


def piece_of(panels: int, column: int, depth: int, start: int, width: int) -> int:
    """Where row ``start`` of the panel that begins at a column is."""
    return panels + (column * depth + start * width) * BYTES


def piece_after(panels: int, column: int, depth: int, start: int, count: int, columns: int) -> int:
    """Where the piece is that is multiplied after this one: in the next panel, or at the beginning of the first."""
    if column + COLUMNS < columns:
        return piece_of(panels, column + COLUMNS, depth, start, COLUMNS)
    return piece_of(panels, 0, depth, (start + count) % depth, COLUMNS)


def multiply_piece(
    a: int, a_row: int, rows: int, depth: int, start: int, count: int, panels: int, columns: int, sums: int
) -> None:
    """``sums[rows, columns] = a[rows, start : start + count] @ panels``, or ``+=`` for all but the first piece."""
    whole = columns // COLUMNS * COLUMNS
    at, onto = a + start * BYTES, start > 0
    for column in range(0, whole, COLUMNS):
        b, c = piece_of(panels, column, depth, start, COLUMNS), sums + column * BYTES
        after = piece_after(panels, column, depth, start, count, columns)
        product_of_rows(at, a_row, 1, b, COLUMNS, c, columns, count, onto, rows, 2, after)
    if whole < columns:
        b, c = piece_of(panels, whole, depth, start, LANES), sums + whole * BYTES
        product_of_rows(at, a_row, 1, b, LANES, c, columns, count, onto, rows, 1, b)


def with_bias(job: Any, sums: Any, channel: int) -> Any:
    """A tile of sums and the bias of its channels."""
    biases = [bias_of(job, channel + half * LANES, None) for half in static(len(sums[0]))]
    return [[row[half] + biases[half] for half in static(len(row))] for row in sums]


def with_residual(job: Any, sums: Any, pixel: int, channel: int) -> Any:
    """A tile of sums and what is added to each of them."""
    residual, apart = job.residual + (pixel * job.residual_pixel + channel) * BYTES, job.residual_pixel
    return [
        [sums[row][half] + load(residual + row * apart * BYTES, half * LANES) for half in static(len(sums[row]))]
        for row in static(len(sums))
    ]


def store_outputs(job: Any, sums: Any, pixel: int, channel: int) -> None:
    """A tile of outputs to where it goes: whole vectors of pixels that are equally far apart."""
    y, apart = job.y + (pixel * job.y_pixel + channel) * BYTES, job.y_pixel
    bounds = bounds_of(job)
    for row in static(len(sums)):
        for half in static(len(sums[row])):
            store(y + row * apart * BYTES, half * LANES, bounded(sums[row][half], bounds))


def multiply_tile(
    job: Any, a: int, a_row: int, b: int, count: int, c: int, c_row: int, onto: bool, pixel: int, channel: int,
    coming: int, pace: int, rows: int, halves: int,
) -> None:  # fmt: skip
    """The last piece of a tile of outputs, finished while its sums are in registers."""
    sums = load_tile(c, c_row, rows, halves) if onto else empty_tile(rows, halves)
    for _ in range(count):
        prefetch(coming, halves * LANES, 2)
        sums = accumulate(sums, a, a_row, b)
        a += BYTES
        b += halves * LANES * BYTES
        coming += pace
    sums = with_bias(job, sums, channel)
    if job.residual != 0:
        sums = with_residual(job, sums, pixel, channel)
    store_outputs(job, sums, pixel, channel)


def multiply_last_piece(
    job: Any, a: int, a_row: int, rows: int, depth: int, start: int, panels: int, columns: int, sums: int, first: int,
    channel: int,
) -> None:  # fmt: skip
    """The outputs of whole tiles of pixels, from what the pieces before have left in ``sums``."""
    whole = columns // COLUMNS * COLUMNS
    count, onto = depth - start, start > 0
    for column in range(0, whole, COLUMNS):
        b = piece_of(panels, column, depth, start, COLUMNS)
        after, pace = piece_after(panels, column, depth, start, count, columns), pace_of(rows, 2)
        for row in range(0, rows, ROWS):
            at, c = a + (row * a_row + start) * BYTES, sums + (row * columns + column) * BYTES
            to = channel + column
            multiply_tile(job, at, a_row, b, count, c, columns, onto, first + row, to, after, pace, ROWS, 2)
            after += count * pace
    if whole < columns:
        b = piece_of(panels, whole, depth, start, LANES)
        pairs = rows // (2 * ROWS) * (2 * ROWS)
        for row in range(0, pairs, 2 * ROWS):
            at, c = a + (row * a_row + start) * BYTES, sums + (row * columns + whole) * BYTES
            multiply_tile(job, at, a_row, b, count, c, columns, onto, first + row, channel + whole, b, 0, 2 * ROWS, 1)
        if pairs < rows:
            at, c = a + (pairs * a_row + start) * BYTES, sums + (pairs * columns + whole) * BYTES
            multiply_tile(job, at, a_row, b, count, c, columns, onto, first + pairs, channel + whole, b, 0, ROWS, 1)


def multiply_block(
    job: Any, a: int, a_row: int, rows: int, depth: int, panels: int, columns: int, sums: int, first: int, channel: int,
    count: int,
) -> None:  # fmt: skip
    """The outputs of a block of pixels, a piece of the depth at a time: a panel that deep fills the fastest cache."""
    last = (depth - 1) // job.deep * job.deep
    for start in range(0, last, job.deep):
        multiply_piece(a, a_row, rows, depth, start, job.deep, panels, columns, sums)
    whole = rows // ROWS * ROWS if job.even != 0 and count == columns else 0
    multiply_last_piece(job, a, a_row, whole, depth, last, panels, columns, sums, first, channel)
    if whole < rows:
        at, to = a + whole * a_row * BYTES, sums + whole * columns * BYTES
        multiply_piece(at, a_row, rows - whole, depth, last, depth - last, panels, columns, to)
        finish_pixels(job, first + whole, rows - whole, to, columns, channel, count)


def finish_pixels(job: Any, first: int, rows: int, sums: int, columns: int, channel: int, count: int) -> None:
    """The outputs of pixels one by one, wherever they lie."""
    place = place_of(job, first)
    for pixel in range(rows):
        finish_pixel(job, place, sums + pixel * columns * BYTES, channel, count)
        place = next_place(job, place)


def multiply_taps(
    a: int, a_row: int, a_tap: int, taps: int, inner: int, b: int, c: int, c_row: int, halves: int
) -> None:
    """A tile of one group's products: of each tap, only the group's own channels."""
    sums = empty_tile(ROWS, halves)
    for _ in range(taps):
        for index in range(inner):
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
    tile = ROWS if job.groups > 1 else FEWER
    if job.packed != 0 or rows % tile != 0:
        a, a_row = scratch + (block + ROWS - 1) // ROWS * ROWS * columns * BYTES, depth + APART
        place = place_of(job, first)
        for pixel in range(rows):
            row = a + pixel * a_row * BYTES
            gather_pixel(job, place, row)
            place = next_place(job, place)
            if job.scale != 0:
                activate(job, row)
    if job.groups > 1:
        outputs = job.out_channels // job.groups
        for number in range(count // outputs):
            group = from_channel // outputs + number
            multiply_group(job, a, a_row, rows, group, sums + number * outputs * BYTES, columns)
        finish_pixels(job, first, rows, sums, columns, from_channel, count)
    else:
        weight = job.weight + from_channel * depth * BYTES
        multiply_block(job, a, a_row, rows, depth, weight, columns, sums, first, from_channel, count)


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
            product_of_rows(scratch, 1, rows, b, outputs, c, outputs, last - first, True, rows, 2, b)
        if whole < outputs:
            b, c = gradient + whole * BYTES, share + whole * BYTES
            product_of_rows(scratch, 1, rows, b, outputs, c, outputs, last - first, True, rows, 1, b)
