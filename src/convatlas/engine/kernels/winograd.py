"""Winograd's minimal filtering F(4x4, 3x3): four times fewer multiplications than the direct convolution.

A tile is 4x4 outputs and the 6x6 inputs under them. With V = B'dB, U = GwG' and Y = A'MA, the 36 positions of M are
products of matrices [tiles, channels] @ [channels, out_channels]. A task takes one block of tiles through all three
steps, so that V and M stay in its core's own cache.

Source: Lavin & Gray 2015, "Fast algorithms for convolutional neural networks" (arXiv 1509.09308), section 4.2.
"""

from __future__ import annotations

from typing import Any

from convatlas.engine.codegen import static, vectors
from convatlas.engine.jobs import APART, COLUMNS, LANES, POSITIONS, TILE
from convatlas.engine.kernels.epilogue import (
    bias_of,
    bounded,
    bounds_of,
    finished,
    output_place,
    residual_place,
)
from convatlas.engine.kernels.products import product_of_rows, product_with_panels
from convatlas.engine.kernels.simd import (
    BYTES,
    clear,
    constant,
    copy,
    first_lanes,
    larger,
    load,
    load_all,
    multiply_add,
    store,
    store_all,
    total,
    transpose,
)

PATCH = 6  # inputs a side

# The polynomials are evaluated at 0, +-NEAR, +-FAR and infinity. The paper's 1 and 2 lose twice as much to rounding
# (measured against float64); these two are exact in binary, and so are their squares.
NEAR = 5 / 8
FAR = 3 / 2
INNER = NEAR**2
OUTER = FAR**2
NEAR_SHARE = 1 / (2 * INNER * (INNER - OUTER))
FAR_SHARE = 1 / (2 * OUTER * (OUTER - INNER))


def input_1d(d: Any) -> Any:
    """B'd: six values to six."""
    outer = constant(INNER * OUTER)
    middle = constant(-(INNER + OUTER))
    even_near = multiply_add(constant(-OUTER), d[2], d[4])
    odd_near = constant(NEAR) * multiply_add(constant(-OUTER), d[1], d[3])
    even_far = multiply_add(constant(-INNER), d[2], d[4])
    odd_far = constant(FAR) * multiply_add(constant(-INNER), d[1], d[3])
    return (
        multiply_add(outer, d[0], multiply_add(middle, d[2], d[4])),
        even_near + odd_near,
        even_near - odd_near,
        even_far + odd_far,
        even_far - odd_far,
        multiply_add(outer, d[1], multiply_add(middle, d[3], d[5])),
    )


def output_1d(m: Any) -> Any:
    """A'm: six values to four."""
    near_sum = m[1] + m[2]
    near_difference = m[1] - m[2]
    far_sum = m[3] + m[4]
    far_difference = m[3] - m[4]
    return (
        m[0] + near_sum + far_sum,
        multiply_add(constant(FAR), far_difference, constant(NEAR) * near_difference),
        multiply_add(constant(OUTER), far_sum, constant(INNER) * near_sum),
        multiply_add(constant(FAR * OUTER), far_difference, constant(NEAR * INNER) * near_difference) + m[5],
    )


def weight_1d(w0: Any, w1: Any, w2: Any) -> Any:
    """Gw: three values to six."""
    near = constant(NEAR_SHARE) * multiply_add(constant(INNER), w2, w0)
    near_odd = constant(NEAR_SHARE * NEAR) * w1
    far = constant(FAR_SHARE) * multiply_add(constant(OUTER), w2, w0)
    far_odd = constant(FAR_SHARE * FAR) * w1
    return (constant(1 / (INNER * OUTER)) * w0, near + near_odd, near - near_odd, far + far_odd, far - far_odd, w2)


def transform_patch(x: int, x_row: int, x_pixel: int, channels: int, half: int, v: int, apart: int, panel: int) -> None:
    """B'dB of one 6x6 patch, for all channels.

    ``half`` is room for 36 vectors. In ``v``, positions are ``apart`` and panels of channels are ``panel`` apart; what
    a vector reaches beyond the last channel is written as zeros.
    """
    for channel, mask in vectors(channels):
        place = channel // COLUMNS * panel + channel % COLUMNS
        for column in range(PATCH):
            values = load_all(x + (column * x_pixel + channel) * BYTES, x_row, PATCH, mask)
            store_all(half + column * LANES * BYTES, PATCH * LANES, input_1d(values))
        for row in range(PATCH):
            values = load_all(half + row * PATCH * LANES * BYTES, LANES, PATCH)
            store_all(v + (row * PATCH * apart + place) * BYTES, apart, input_1d(values))


def copy_patch(job: Any, x: int, top: int, left: int, patch: int) -> None:
    """A 6x6 patch that reaches over the border, with zeros there."""
    channels = job.channels
    for row in range(top, top + PATCH):
        for column in range(left, left + PATCH):
            if row >= 0 and row < job.height and column >= 0 and column < job.width:
                copy(x + (row * job.x_row + column * job.x_pixel) * BYTES, patch, channels)
            else:
                clear(patch, channels)
            patch += channels * BYTES


def place_of(job: Any, tile: int) -> Any:
    """The image of a tile, and the row and column of its first output."""
    image = tile // job.tiles_per_image
    inside = tile - image * job.tiles_per_image
    row = inside // job.tiles_wide
    return image, row * TILE, (inside - row * job.tiles_wide) * TILE


def transform_tile(job: Any, tile: int, half: int, patch: int, v: int, apart: int, panel: int) -> None:
    """V of one tile."""
    image, out_top, out_left = place_of(job, tile)
    top = out_top - job.pad
    left = out_left - job.pad
    x = job.x + image * job.x_image * BYTES
    channels = job.channels
    if top >= 0 and left >= 0 and top + PATCH <= job.height and left + PATCH <= job.width:
        corner = x + (top * job.x_row + left * job.x_pixel) * BYTES
        transform_patch(corner, job.x_row, job.x_pixel, channels, half, v, apart, panel)
    else:
        copy_patch(job, x, top, left, patch)
        transform_patch(patch, PATCH * channels, channels, channels, half, v, apart, panel)


def output_pair(half: int, bias: Any) -> Any:
    """Two rows of a tile's outputs from the half-transformed M, with the bias."""
    rows = [output_1d(load_all(half + row * PATCH * LANES * BYTES, LANES, PATCH)) for row in static(2)]
    return [[value + bias for value in row] for row in rows]


def store_row(values: Any, y: int, y_pixel: int, residual: int, residual_pixel: int, how: Any, wide: int) -> None:
    """A row of a tile's outputs, as far as they lie inside the picture; ``how`` is bounds and mask."""
    bounds, mask = how
    for column in static(TILE):
        if column < wide:
            value = finished(values[column], residual, column * residual_pixel, bounds, mask)
            store(y, column * y_pixel, value, mask)


def largest_of(a: Any, b: Any, c: Any, d: Any) -> Any:
    """The largest of four."""
    return larger(larger(a, b), larger(c, d))


def store_pooled(values: Any, y: int, y_pixel: int, how: Any, wide: int) -> None:
    """The largest of each 2x2 outputs that lie inside the picture."""
    bounds, mask = how
    upper, lower = values
    for pair in static(TILE // 2):
        left, right = 2 * pair, 2 * pair + 1
        if right < wide:
            largest = largest_of(upper[left], upper[right], lower[left], lower[right])
            store(y, pair * y_pixel, bounded(largest, bounds), mask)


def half_transform(m: int, apart: int, half: int) -> None:
    """A'M of a vector of channels of a tile, into four rows of six vectors."""
    for column in range(PATCH):
        values = output_1d(load_all(m + column * apart * BYTES, PATCH * apart, PATCH))
        store_all(half + column * LANES * BYTES, PATCH * LANES, values)


def store_pair(job: Any, values: Any, image: int, top: int, left: int, channel: int, how: Any) -> None:
    """Two rows of a tile's outputs from (top, left) on, as far as they lie inside the picture."""
    wide = min(TILE, job.out_width - left)
    is_pair = top + 1 < job.out_height
    if job.pool != 0:
        if is_pair:
            y = output_place(job, image, top // 2, left // 2) + channel * BYTES
            store_pooled(values, y, job.y_pixel, how, wide)
        return
    y = output_place(job, image, top, left) + channel * BYTES
    residual = residual_place(job, image, top, left)
    if residual != 0:
        residual += channel * BYTES
    store_row(values[0], y, job.y_pixel, residual, job.residual_pixel, how, wide)
    if is_pair:
        if residual != 0:
            residual += job.residual_row * BYTES
        store_row(values[1], y + job.y_row * BYTES, job.y_pixel, residual, job.residual_pixel, how, wide)


def transform_outputs(job: Any, tile: int, m: int, apart: int, half: int, first: int, count: int, strange: Any) -> Any:
    """Y of one tile, ``count`` channels from ``first`` on; ``strange`` becomes NaN if an output is not finite."""
    image, top, left = place_of(job, tile)
    bounds = bounds_of(job)
    for index, mask in vectors(count):
        channel = first + index
        half_transform(m + index * BYTES, apart, half)
        bias = bias_of(job, channel, mask)
        for pair in range(0, min(TILE, job.out_height - top), 2):
            values = output_pair(half + pair * PATCH * LANES * BYTES, bias)
            sums = [(row[0] + row[1]) + (row[2] + row[3]) for row in values]
            strange = multiply_add(constant(0), sums[0] + sums[1], strange)
            store_pair(job, values, image, top + pair, left, channel, (bounds, mask))
    return strange


def convolve(job: Any, task: int, scratch: int) -> None:
    """Convolve one block of tiles, for one share of the output channels."""
    channels, block, chunk, splits = job.channels, job.block, job.chunk, job.splits
    v_apart = block * channels + APART
    m_apart = block * chunk + APART
    half = scratch
    v = half + POSITIONS * LANES * BYTES
    m = v + POSITIONS * v_apart * BYTES
    patch = m + POSITIONS * m_apart * BYTES
    first = task // splits * block
    last = min(first + block, job.tiles)
    for tile in range(first, last):
        transform_tile(job, tile, half, patch, v + (tile - first) * channels * BYTES, v_apart, COLUMNS)

    share = task % splits
    chunks = (job.out_channels + chunk - 1) // chunk
    strange = constant(0)
    for number in range(chunks * share // splits, chunks * (share + 1) // splits):
        from_channel = number * chunk
        count = min(chunk, job.out_channels - from_channel)
        wide = (count + LANES - 1) // LANES * LANES
        panels = job.weight + from_channel * POSITIONS * channels * BYTES
        for position in range(POSITIONS):
            a = v + position * v_apart * BYTES
            c = m + position * m_apart * BYTES
            product_with_panels(a, channels, panels, channels, c, chunk, channels, False, last - first, wide)
            panels += channels * wide * BYTES
        for tile in range(first, last):
            m_tile = m + (tile - first) * chunk * BYTES
            strange = transform_outputs(job, tile, m_tile, m_apart, half, from_channel, count, strange)
    if total(strange) != 0.0:
        job.strange = 1


def transform_filter(w: int, tap: int, half: int, u: int, apart: int, mask: Any) -> None:
    """GwG' of 3x3 filters side by side; ``tap`` is the distance between their taps, negative where turned."""
    for column in range(3):
        at = w + column * tap * BYTES
        values = weight_1d(load(at, 0, mask), load(at, 3 * tap, mask), load(at, 6 * tap, mask))
        store_all(half + column * LANES * BYTES, 3 * LANES, values)
    for row in range(PATCH):
        at = half + row * 3 * LANES * BYTES
        values = weight_1d(load(at, 0), load(at, LANES), load(at, 2 * LANES))
        store_all(u + row * PATCH * apart * BYTES, apart, values)


def turned_or_not(job: Any, w: int, half: int, u: int, mask: Any) -> None:
    """GwG' of the filters at ``w``, as the job wants them."""
    if job.turned != 0:
        transform_filter(w + 8 * job.w_tap * BYTES, -job.w_tap, half, u, LANES * LANES, mask)
    else:
        transform_filter(w, job.w_tap, half, u, LANES * LANES, mask)


def transform_filters(job: Any, output: int, first_input: int, half: int, u: int) -> None:
    """Those of one output channel and a vector of input channels."""
    w = job.w + (output * job.w_out + first_input) * BYTES
    if first_input + LANES <= job.channels:
        turned_or_not(job, w, half, u, None)
    else:
        turned_or_not(job, w, half, u, first_lanes(job.channels - first_input))


def transform_weight(job: Any, task: int, scratch: int) -> None:
    """U of a vector of input and as many output channels, into panels; zeros for what the panels have beyond them.

    The filters lie [out_channels, 3, 3, channels]. ``turned`` transforms those of the gradient of the input: rotated by
    half a turn, and with the two kinds of channels exchanged.
    """
    inputs, outputs, chunk = job.channels, job.out_channels, job.chunk
    depth, columns = (outputs, inputs) if job.turned != 0 else (inputs, outputs)
    input_blocks = (inputs + LANES - 1) // LANES
    first_input = task % input_blocks * LANES
    first_output = task // input_blocks * LANES
    first_row, first_column = (first_output, first_input) if job.turned != 0 else (first_input, first_output)
    number = first_column // chunk
    wide = (min(chunk, columns - number * chunk) + LANES - 1) // LANES * LANES
    inside = first_column - number * chunk
    before = inside // COLUMNS * COLUMNS
    panel_wide = min(COLUMNS, wide - before)
    panel = number * chunk * POSITIONS * depth + before * depth + inside - before
    u = job.u + (panel + first_row * panel_wide) * BYTES
    apart = wide * depth
    half = scratch
    transformed = scratch + POSITIONS * LANES * BYTES
    for output in range(LANES):
        to = transformed + output * LANES * BYTES
        if first_output + output < outputs:
            transform_filters(job, first_output + output, first_input, half, to)
        else:
            for position in range(POSITIONS):
                store(to, position * LANES * LANES, constant(0))
    rows = min(LANES, depth - first_row)
    for position in range(POSITIONS):  # by way of scratch memory: 36 streams this far apart would evict each other
        block = load_all(transformed + position * LANES * LANES * BYTES, LANES, LANES)
        if job.turned == 0:
            block = transpose(block)
        for row in static(LANES):
            if row < rows:
                store(u + position * apart * BYTES, row * panel_wide, block[row])


def gradient_1d(y0: Any, y1: Any, y2: Any, y3: Any) -> Any:
    """Ay: four values to six."""
    near = multiply_add(constant(INNER), y2, y0)
    near_odd = constant(NEAR) * multiply_add(constant(INNER), y3, y1)
    far = multiply_add(constant(OUTER), y2, y0)
    far_odd = constant(FAR) * multiply_add(constant(OUTER), y3, y1)
    return (y0, near + near_odd, near - near_odd, far + far_odd, far - far_odd, y3)


def weight_gradient_1d(u: Any) -> Any:
    """G'u: six values to three."""
    near_sum = constant(NEAR_SHARE) * (u[1] + u[2])
    near_difference = constant(NEAR_SHARE * NEAR) * (u[1] - u[2])
    far_sum = constant(FAR_SHARE) * (u[3] + u[4])
    far_difference = constant(FAR_SHARE * FAR) * (u[3] - u[4])
    return (
        multiply_add(constant(1 / (INNER * OUTER)), u[0], near_sum + far_sum),
        near_difference + far_difference,
        multiply_add(constant(INNER), near_sum, multiply_add(constant(OUTER), far_sum, u[5])),
    )


def transform_gradient(job: Any, tile: int, half: int, patch: int, d: int, apart: int) -> None:
    """AyA' of one tile of the output's gradient; zeros beyond the border."""
    channels, y_row, y_pixel = job.out_channels, job.y_row, job.y_pixel
    image, top, left = place_of(job, tile)
    y = job.y + (image * job.y_image + top * y_row + left * y_pixel) * BYTES
    if top + TILE > job.out_height or left + TILE > job.out_width:
        for down in range(TILE):
            for across in range(TILE):
                to = patch + (down * TILE + across) * channels * BYTES
                if top + down < job.out_height and left + across < job.out_width:
                    copy(y + (down * y_row + across * y_pixel) * BYTES, to, channels)
                else:
                    clear(to, channels)
        y, y_row, y_pixel = patch, TILE * channels, channels
    for channel, mask in vectors(channels):
        for column in range(TILE):
            at = y + (column * y_pixel + channel) * BYTES
            values = gradient_1d(
                load(at, 0, mask), load(at, y_row, mask), load(at, 2 * y_row, mask), load(at, 3 * y_row, mask)
            )
            store_all(half + column * LANES * BYTES, TILE * LANES, values)
        for line in range(PATCH):
            at = half + line * TILE * LANES * BYTES
            values = gradient_1d(load(at, 0), load(at, LANES), load(at, 2 * LANES), load(at, 3 * LANES))
            store_all(d + (line * PATCH * apart + channel) * BYTES, apart, values)


def transform_for_weight(job: Any, task: int, scratch: int) -> None:
    """V, in panels, and D = AyA', in rows, of a few tiles: what the gradient of the weight is a product of."""
    half = scratch
    patch = half + POSITIONS * LANES * BYTES
    first = job.first + task * job.block
    for tile in range(first, min(first + job.block, job.last)):
        place = tile - job.first
        transform_tile(job, tile, half, patch, job.v + place * COLUMNS * BYTES, job.v_apart, job.v_panel)
        transform_gradient(job, tile, half, patch, job.d + place * job.d_row * BYTES, job.d_apart)


def multiply_for_weight(job: Any, task: int, scratch: int) -> None:
    """The product of D and V at one position: added to the gradient of U."""
    d = job.d + task * job.d_apart * BYTES
    u = job.u + task * job.u_apart * BYTES
    tiles, rows, onto = job.last - job.first, job.out_channels, job.onto != 0
    for column in range(0, job.channels, COLUMNS):
        b = job.v + (task * job.v_apart + column // COLUMNS * job.v_panel) * BYTES
        c = u + column * BYTES
        if column + LANES < job.channels:
            product_of_rows(d, 1, job.d_row, b, COLUMNS, c, job.u_row, tiles, onto, rows, 2, b + job.v_panel * BYTES)
        else:
            product_of_rows(d, 1, job.d_row, b, COLUMNS, c, job.u_row, tiles, onto, rows, 1, b)


def finish_weight_gradient(job: Any, task: int, scratch: int) -> None:
    """G'uG for one output channel: from the gradient of U to that of the weight [out_channels, 3, 3, channels]."""
    channels, apart = job.channels, job.u_apart
    strange = constant(0)
    for channel, mask in vectors(channels):
        at = job.u + (task * job.u_row + channel) * BYTES
        for column in range(PATCH):
            values = weight_gradient_1d(load_all(at + column * apart * BYTES, PATCH * apart, PATCH, mask))
            store_all(scratch + column * LANES * BYTES, PATCH * LANES, values)
        for row in range(3):
            values = weight_gradient_1d(load_all(scratch + row * PATCH * LANES * BYTES, LANES, PATCH))
            store_all(job.w + ((task * 9 + row * 3) * channels + channel) * BYTES, channels, values, mask)
            strange = multiply_add(constant(0), values[0] + values[1] + values[2], strange)
    if total(strange) != 0.0:
        job.strange = 1
