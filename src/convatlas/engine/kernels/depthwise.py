"""Depthwise convolution: each channel by a kernel of its own, channels side by side in a vector."""

from __future__ import annotations

from typing import Any

from convatlas.engine.codegen import static, vectors
from convatlas.engine.jobs import LANES
from convatlas.engine.kernels.epilogue import bias_of, bounded, bounds_of, output_place
from convatlas.engine.kernels.simd import BYTES, load, multiply_add, store

AT_ONCE = 4  # outputs side by side that share one reading of the weights


def first_inside(start: int, dilation: int) -> int:
    """The first tap that does not lie before the picture."""
    return 0 if start >= 0 else (dilation - 1 - start) // dilation


def last_inside(start: int, dilation: int, taps: int, size: int) -> int:
    """The tap after the last one that lies in it."""
    return 0 if start >= size else min(taps, (size - 1 - start) // dilation + 1)


def add_three(row: int, pixel: int, weights: Any, mask: Any, sums: Any, stride: int) -> Any:
    """Three taps side by side, for outputs side by side; what two of them share is read once. ``stride`` is static."""
    inputs = [load(row, place * pixel, mask) for place in static((len(sums) - 1) * stride + 3)]
    for across in static(3):
        sums = [
            multiply_add(inputs[place * stride + across], weights[across], sums[place]) for place in static(len(sums))
        ]
    return sums


def add_taps(job: Any, row: int, weights: int, across: Any, mask: Any, sums: Any) -> Any:
    """The taps of one line of the kernel that lie inside the picture, for outputs side by side."""
    step, apart = job.dilation * job.x_pixel, job.stride * job.x_pixel
    for number in range(across[0], across[1]):
        weight = load(weights, number * LANES)
        at = number * step
        sums = [multiply_add(load(row, at + place * apart, mask), weight, sums[place]) for place in static(len(sums))]
    return sums


def sum_three_by_three(job: Any, from_x: int, weights: int, mask: Any, sums: Any, stride: int) -> Any:
    """All nine taps, which lie inside the picture."""
    for line in static(3):
        of_line = [load(weights, (3 * line + across) * LANES) for across in static(3)]
        sums = add_three(from_x + line * job.x_row * BYTES, job.x_pixel, of_line, mask, sums, stride)
    return sums


def sum_lines(job: Any, from_x: int, weights: int, down: Any, across: Any, mask: Any, sums: Any) -> Any:
    """The taps that lie inside the picture, whatever the kernel."""
    for number in range(down[0], down[1]):
        row = from_x + number * job.dilation * job.x_row * BYTES
        of_line = weights + number * job.kernel_width * LANES * BYTES
        sums = add_taps(job, row, of_line, across, mask, sums)
    return sums


def convolve_columns(job: Any, image: int, row: int, column: int, down: Any, count: int, stride: int) -> None:
    """``count`` outputs side by side, all channels; ``down`` says which lines of the kernel lie inside.

    ``count`` and ``stride`` are static: a stride of 0 says nothing; another one, that all taps of a 3x3 lie inside.
    """
    y = output_place(job, image, row, column)
    left = column * job.stride - job.pad_width
    across = (first_inside(left, job.dilation), last_inside(left, job.dilation, job.kernel_width, job.width))
    top = row * job.stride - job.pad_height
    from_x = job.x + (image * job.x_image + top * job.x_row + left * job.x_pixel) * BYTES
    weights, of_vector = job.weight, job.kernel_height * job.kernel_width * LANES * BYTES
    bounds = bounds_of(job)
    for channel, mask in vectors(job.channels):
        bias = bias_of(job, channel, mask)
        sums = [bias for _ in static(count)]
        if stride:
            sums = sum_three_by_three(job, from_x, weights, mask, sums, stride)
        else:
            sums = sum_lines(job, from_x, weights, down, across, mask, sums)
        for place in static(count):
            store(y, place * job.y_pixel + channel, bounded(sums[place], bounds), mask)
        from_x += LANES * BYTES
        weights += of_vector


def convolve_inner(job: Any, image: int, row: int, down: Any, first: int, last: int, stride: int) -> None:
    """Outputs of a row all of whose columns of taps lie inside the picture."""
    whole = first + (last - first) // AT_ONCE * AT_ONCE
    for column in range(first, whole, AT_ONCE):
        convolve_columns(job, image, row, column, down, AT_ONCE, stride)
    for column in range(whole, last):
        convolve_columns(job, image, row, column, down, 1, stride)


def convolve(job: Any, task: int, scratch: int) -> None:
    """One row of outputs."""
    image = task // job.out_height
    row = task - image * job.out_height
    stride, pad = job.stride, job.pad_width
    top = row * stride - job.pad_height
    down = (first_inside(top, job.dilation), last_inside(top, job.dilation, job.kernel_height, job.height))
    span = (job.kernel_width - 1) * job.dilation
    inner = min((pad + stride - 1) // stride, job.out_width)  # the first output whose taps all lie inside
    inside = (job.width - 1 - span + pad + stride) // stride if job.width > span else 0
    beyond = max(inner, min(inside, job.out_width))
    for column in range(inner):
        convolve_columns(job, image, row, column, down, 1, 0)
    is_usual = job.kernel_width == 3 and job.kernel_height == 3 and job.dilation == 1 and down[1] - down[0] == 3
    if is_usual and stride == 1:
        convolve_inner(job, image, row, down, inner, beyond, 1)
    elif is_usual and stride == 2:
        convolve_inner(job, image, row, down, inner, beyond, 2)
    else:
        convolve_inner(job, image, row, down, inner, beyond, 0)
    for column in range(beyond, job.out_width):
        convolve_columns(job, image, row, column, down, 1, 0)
