"""Winograd's minimal filtering F(4x4, 3x3): four times fewer multiplications than the direct convolution.

A tile is 4x4 outputs and the 6x6 inputs under them. With V = B'dB, U = GwG' and Y = A'MA, the 36 positions of M are
products of matrices [tiles, channels] @ [channels, out_channels]. A task takes one block of tiles through all three
steps, so that V and M stay in its core's own cache.

Source: Lavin & Gray 2015, "Fast algorithms for convolutional neural networks" (arXiv 1509.09308), section 4.2.
"""

from __future__ import annotations

from typing import Any

from convatlas.engine.jobs import APART, COLUMNS, LANES, POSITIONS, ROWS, TILE
from convatlas.engine.kernels.products import product
from convatlas.engine.kernels.simd import (
    BYTES,
    clear,
    constant,
    copy,
    inline,
    larger,
    load,
    load6,
    load8,
    multiply_add,
    store,
    store6,
    store8,
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


@inline
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


@inline
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


@inline
def weight_1d(w0: Any, w1: Any, w2: Any) -> Any:
    """Gw: three values to six."""
    near = constant(NEAR_SHARE) * multiply_add(constant(INNER), w2, w0)
    near_odd = constant(NEAR_SHARE * NEAR) * w1
    far = constant(FAR_SHARE) * multiply_add(constant(OUTER), w2, w0)
    far_odd = constant(FAR_SHARE * FAR) * w1
    return (constant(1 / (INNER * OUTER)) * w0, near + near_odd, near - near_odd, far + far_odd, far - far_odd, w2)


@inline
def transform_patch(x: int, x_row: int, x_pixel: int, channels: int, half: int, v: int, apart: int, panel: int) -> None:
    """B'dB of one 6x6 patch, for all channels.

    ``half`` is room for 36 vectors. In ``v``, positions are ``apart`` and panels of 16 channels are ``panel`` apart.
    """
    for channel in range(0, channels, LANES):
        place = channel // COLUMNS * panel + channel % COLUMNS
        for column in range(PATCH):
            values = load6(x + (column * x_pixel + channel) * BYTES, x_row)
            store6(half + column * LANES * BYTES, PATCH * LANES, input_1d(values))
        for row in range(PATCH):
            values = load6(half + row * PATCH * LANES * BYTES, LANES)
            store6(v + (row * PATCH * apart + place) * BYTES, apart, input_1d(values))


@inline
def copy_patch(job: Any, x: int, top: int, left: int, patch: int) -> None:
    """A 6x6 patch that reaches over the border, with zeros there."""
    channels = job.channels
    for row in range(top, top + PATCH):
        for column in range(left, left + PATCH):
            if 0 <= row < job.height and 0 <= column < job.width:
                copy(x + (row * job.x_row + column * job.x_pixel) * BYTES, patch, channels)
            else:
                clear(patch, channels)
            patch += channels * BYTES


@inline
def transform_tile(job: Any, tile: int, half: int, patch: int, v: int, apart: int, panel: int) -> None:
    """V of one tile."""
    image = tile // job.tiles_per_image
    inside = tile - image * job.tiles_per_image
    row = inside // job.tiles_wide
    top = row * TILE - job.pad
    left = (inside - row * job.tiles_wide) * TILE - job.pad
    x = job.x + image * job.x_image * BYTES
    channels = job.channels
    if top >= 0 and left >= 0 and top + PATCH <= job.height and left + PATCH <= job.width:
        corner = x + (top * job.x_row + left * job.x_pixel) * BYTES
        transform_patch(corner, job.x_row, job.x_pixel, channels, half, v, apart, panel)
    else:
        copy_patch(job, x, top, left, patch)
        transform_patch(patch, PATCH * channels, channels, channels, half, v, apart, panel)


@inline
def output_pair(half: int, bias: Any) -> Any:
    """Two rows of a tile's outputs from the half-transformed M, with the bias."""
    upper = output_1d(load6(half, LANES))
    lower = output_1d(load6(half + PATCH * LANES * BYTES, LANES))
    return (
        upper[0] + bias,
        upper[1] + bias,
        upper[2] + bias,
        upper[3] + bias,
        lower[0] + bias,
        lower[1] + bias,
        lower[2] + bias,
        lower[3] + bias,
    )


@inline
def finish(value: Any, residual: int, index: int, relu: int) -> Any:
    """Add the residual and apply ReLU, where there are."""
    if residual != 0:
        value = value + load(residual, index)
    if relu != 0:
        value = larger(constant(0), value)
    return value


@inline
def store_row(values: Any, job: Any, y: int, residual: int, wide: int) -> None:
    """The outputs of one row that lie inside the picture."""
    relu, pixel, step = job.relu, job.y_pixel, job.residual_pixel
    store(y, 0, finish(values[0], residual, 0, relu))
    if wide > 1:
        store(y, pixel, finish(values[1], residual, step, relu))
    if wide > 2:
        store(y, 2 * pixel, finish(values[2], residual, 2 * step, relu))
    if wide > 3:
        store(y, 3 * pixel, finish(values[3], residual, 3 * step, relu))


@inline
def largest_of(a: Any, b: Any, c: Any, d: Any) -> Any:
    """The largest of four."""
    return larger(larger(a, b), larger(c, d))


@inline
def store_pooled(values: Any, y: int, y_pixel: int, relu: int, wide: int) -> None:
    """The largest of each 2x2 outputs that lie inside the picture."""
    if wide > 1:
        store(y, 0, finish(largest_of(values[0], values[1], values[4], values[5]), 0, 0, relu))
    if wide > 3:
        store(y, y_pixel, finish(largest_of(values[2], values[3], values[6], values[7]), 0, 0, relu))


@inline
def half_transform(m: int, apart: int, half: int) -> None:
    """A'M of eight channels of a tile, into four rows of six vectors."""
    for column in range(PATCH):
        values = output_1d(load6(m + column * apart * BYTES, PATCH * apart))
        store(half, column * LANES, values[0])
        store(half, (PATCH + column) * LANES, values[1])
        store(half, (2 * PATCH + column) * LANES, values[2])
        store(half, (3 * PATCH + column) * LANES, values[3])


@inline
def store_pair(job: Any, values: Any, image: int, top: int, left: int, channel: int) -> None:
    """Two rows of a tile's outputs from (top, left) on, as far as they lie inside the picture."""
    wide = min(TILE, job.out_width - left)
    is_pair = top + 1 < job.out_height
    if job.pool != 0:
        if is_pair:
            y = job.y + (image * job.y_image + top // 2 * job.y_row + left // 2 * job.y_pixel + channel) * BYTES
            store_pooled(values, y, job.y_pixel, job.relu, wide)
        return
    y = job.y + (image * job.y_image + top * job.y_row + left * job.y_pixel + channel) * BYTES
    residual = job.residual
    if residual != 0:
        at = image * job.residual_image + top * job.residual_row + left * job.residual_pixel
        residual += (at + channel) * BYTES
    store_row(values[:4], job, y, residual, wide)
    if is_pair:
        if residual != 0:
            residual += job.residual_row * BYTES
        store_row(values[4:], job, y + job.y_row * BYTES, residual, wide)


@inline
def transform_outputs(job: Any, tile: int, m: int, apart: int, half: int, first: int, last: int, strange: Any) -> Any:
    """Y of one tile, channels ``first`` to ``last``; ``strange`` becomes NaN if an output is not finite."""
    image = tile // job.tiles_per_image
    inside = tile - image * job.tiles_per_image
    row = inside // job.tiles_wide
    top = row * TILE
    left = (inside - row * job.tiles_wide) * TILE
    for channel in range(first, last, LANES):
        half_transform(m + (channel - first) * BYTES, apart, half)
        bias = load(job.bias, channel) if job.bias != 0 else constant(0)
        for pair in range(0, min(TILE, job.out_height - top), 2):
            values = output_pair(half + pair * PATCH * LANES * BYTES, bias)
            upper = (values[0] + values[1]) + (values[2] + values[3])
            lower = (values[4] + values[5]) + (values[6] + values[7])
            strange = multiply_add(constant(0), upper + lower, strange)
            store_pair(job, values, image, top + pair, left, channel)
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
        to_channel = min(from_channel + chunk, job.out_channels)
        wide = (to_channel - from_channel + COLUMNS - 1) // COLUMNS * COLUMNS
        panel = job.weight + from_channel * POSITIONS * channels * BYTES
        for position in range(POSITIONS):
            for column in range(0, wide, COLUMNS):
                for row in range(0, last - first, ROWS):
                    a = v + (position * v_apart + row * channels) * BYTES
                    c = m + (position * m_apart + row * chunk + column) * BYTES
                    product(a, channels, 1, panel, COLUMNS, c, chunk, channels, False)
                panel += channels * COLUMNS * BYTES
        for tile in range(first, last):
            m_tile = m + (tile - first) * chunk * BYTES
            strange = transform_outputs(job, tile, m_tile, m_apart, half, from_channel, to_channel, strange)
    if total(strange) != 0:
        job.strange = 1


@inline
def transform_filter(w: int, tap: int, half: int, u: int, apart: int) -> None:
    """GwG' of eight 3x3 filters side by side; ``tap`` is the distance between their taps, negative where turned."""
    for column in range(3):
        at = w + column * tap * BYTES
        store6(half + column * LANES * BYTES, 3 * LANES, weight_1d(load(at, 0), load(at, 3 * tap), load(at, 6 * tap)))
    for row in range(PATCH):
        at = half + row * 3 * LANES * BYTES
        values = weight_1d(load(at, 0), load(at, LANES), load(at, 2 * LANES))
        store6(u + row * PATCH * apart * BYTES, apart, values)


def transform_weight(job: Any, task: int, scratch: int) -> None:
    """U of eight input and eight output channels, into panels.

    The filters lie [out_channels, 3, 3, channels]. ``turned`` transforms those of the gradient of the input: rotated by
    half a turn, and with the two kinds of channels exchanged.
    """
    inputs, outputs, chunk = job.channels, job.out_channels, job.chunk
    depth, columns = (outputs, inputs) if job.turned != 0 else (inputs, outputs)
    input_blocks = inputs // LANES
    first_input = task % input_blocks * LANES
    first_output = task // input_blocks * LANES
    first_row, first_column = (first_output, first_input) if job.turned != 0 else (first_input, first_output)
    number = first_column // chunk
    wide = (min(chunk, columns - number * chunk) + COLUMNS - 1) // COLUMNS * COLUMNS
    inside = first_column - number * chunk
    panel = number * chunk * POSITIONS * depth + inside // COLUMNS * COLUMNS * depth + inside % COLUMNS
    u = job.u + (panel + first_row * COLUMNS) * BYTES
    apart = wide * depth
    half = scratch
    transformed = scratch + POSITIONS * LANES * BYTES
    for output in range(LANES):
        w = job.w + ((first_output + output) * job.w_out + first_input) * BYTES
        to = transformed + output * LANES * BYTES
        if job.turned != 0:
            transform_filter(w + 8 * job.w_tap * BYTES, -job.w_tap, half, to, LANES * LANES)
        else:
            transform_filter(w, job.w_tap, half, to, LANES * LANES)
    for position in range(POSITIONS):  # by way of scratch memory: 36 streams this far apart would evict each other
        block = load8(transformed + position * LANES * LANES * BYTES, LANES)
        if job.turned == 0:
            block = transpose(block)
        store8(u + position * apart * BYTES, COLUMNS, block)


@inline
def gradient_1d(y0: Any, y1: Any, y2: Any, y3: Any) -> Any:
    """Ay: four values to six."""
    near = multiply_add(constant(INNER), y2, y0)
    near_odd = constant(NEAR) * multiply_add(constant(INNER), y3, y1)
    far = multiply_add(constant(OUTER), y2, y0)
    far_odd = constant(FAR) * multiply_add(constant(OUTER), y3, y1)
    return (y0, near + near_odd, near - near_odd, far + far_odd, far - far_odd, y3)


@inline
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


@inline
def transform_gradient(job: Any, tile: int, half: int, patch: int, d: int, apart: int) -> None:
    """AyA' of one tile of the output's gradient; zeros beyond the border."""
    channels, y_row, y_pixel = job.out_channels, job.y_row, job.y_pixel
    image = tile // job.tiles_per_image
    inside = tile - image * job.tiles_per_image
    row = inside // job.tiles_wide
    top = row * TILE
    left = (inside - row * job.tiles_wide) * TILE
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
    for channel in range(0, channels, LANES):
        for column in range(TILE):
            at = y + (column * y_pixel + channel) * BYTES
            values = gradient_1d(load(at, 0), load(at, y_row), load(at, 2 * y_row), load(at, 3 * y_row))
            store6(half + column * LANES * BYTES, TILE * LANES, values)
        for line in range(PATCH):
            at = half + line * TILE * LANES * BYTES
            values = gradient_1d(load(at, 0), load(at, LANES), load(at, 2 * LANES), load(at, 3 * LANES))
            store6(d + (line * PATCH * apart + channel) * BYTES, apart, values)


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
    v = job.v + task * job.v_apart * BYTES
    u = job.u + task * job.u_apart * BYTES
    tiles = job.last - job.first
    for panel in range(job.panels):
        b = v + panel * job.v_panel * BYTES
        for row in range(0, job.out_channels, ROWS):
            c = u + (row * job.u_row + panel * COLUMNS) * BYTES
            product(d + row * BYTES, 1, job.d_row, b, COLUMNS, c, job.u_row, tiles, job.onto != 0)


def finish_weight_gradient(job: Any, task: int, scratch: int) -> None:
    """G'uG for one output channel: from the gradient of U to that of the weight [out_channels, 3, 3, channels]."""
    channels, apart = job.channels, job.u_apart
    strange = constant(0)
    for channel in range(0, channels, LANES):
        at = job.u + (task * job.u_row + channel) * BYTES
        for column in range(PATCH):
            values = weight_gradient_1d(load6(at + column * apart * BYTES, PATCH * apart))
            store(scratch, column * LANES, values[0])
            store(scratch, (PATCH + column) * LANES, values[1])
            store(scratch, (2 * PATCH + column) * LANES, values[2])
        for row in range(3):
            values = weight_gradient_1d(load6(scratch + row * PATCH * LANES * BYTES, LANES))
            w = job.w + ((task * 9 + row * 3) * channels + channel) * BYTES
            store(w, 0, values[0])
            store(w, channels, values[1])
            store(w, 2 * channels, values[2])
            strange = multiply_add(constant(0), values[0] + values[1] + values[2], strange)
    if total(strange) != 0:
        job.strange = 1
