"""Depthwise convolution, and that of small groups: as many outputs as inputs, whole groups side by side in a vector.

Each output is a sum over the ``width`` channels of its group. For the first of them every lane wants the first channel
of its own group, and so on: the lanes of a vector of inputs are exchanged within their groups. A depthwise layer's
groups have one channel, and nothing is exchanged.
"""

from __future__ import annotations

from typing import Any

from convatlas.engine.codegen import static, vectors
from convatlas.engine.jobs import LANES
from convatlas.engine.kernels.epilogue import bias_of, bounded, bounds_of, output_place
from convatlas.engine.kernels.simd import BYTES, load, load_one, multiply_add, of_group, spread, store

AT_ONCE = 4  # outputs side by side that share one reading of the weights
MORE_AT_ONCE = 8  # of those with several channels a group, which compute rather than wait for memory


def first_inside(start: int, dilation: int) -> int:
    """The first tap that does not lie before the picture."""
    return 0 if start >= 0 else (dilation - 1 - start) // dilation


def last_inside(start: int, dilation: int, taps: int, size: int) -> int:
    """The tap after the last one that lies in it."""
    return 0 if start >= size else min(taps, (size - 1 - start) // dilation + 1)


def input_of(row: int, at: int, mask: Any, number: int, width: int) -> Any:
    """For each lane the channel of that number in its group; both are static."""
    return spread(load_one(row, at + number)) if width == LANES else of_group(load(row, at, mask), number, width)


def add_three(row: int, pixel: int, weights: int, mask: Any, sums: Any, stride: int, number: int, width: int) -> Any:
    """Three taps side by side, for outputs side by side; what two of them share is read once. ``stride`` is static."""
    inputs = [input_of(row, place * pixel, mask, number, width) for place in static((len(sums) - 1) * stride + 3)]
    for across in static(3):
        weight = load(weights, (across * width + number) * LANES)
        sums = [multiply_add(inputs[place * stride + across], weight, sums[place]) for place in static(len(sums))]
    return sums


def add_taps(job: Any, row: int, weights: int, across: Any, mask: Any, sums: Any, width: int) -> Any:
    """The taps of one line of the kernel that lie inside the picture, for outputs side by side."""
    step, apart = job.dilation * job.x_pixel, job.stride * job.x_pixel
    for tap in range(across[0], across[1]):
        at = tap * step
        for number in static(width):
            weight = load(weights, (tap * width + number) * LANES)
            sums = [
                multiply_add(input_of(row, at + place * apart, mask, number, width), weight, sums[place])
                for place in static(len(sums))
            ]
    return sums


def sum_three_by_three(job: Any, from_x: int, weights: int, mask: Any, sums: Any, stride: int, width: int) -> Any:
    """All nine taps, which lie inside the picture."""
    for line in static(3):
        row, of_line = from_x + line * job.x_row * BYTES, weights + 3 * line * width * LANES * BYTES
        for number in static(width):
            sums = add_three(row, job.x_pixel, of_line, mask, sums, stride, number, width)
    return sums


def sum_lines(job: Any, from_x: int, weights: int, down: Any, across: Any, mask: Any, sums: Any, width: int) -> Any:
    """The taps that lie inside the picture, whatever the kernel."""
    for number in range(down[0], down[1]):
        row = from_x + number * job.dilation * job.x_row * BYTES
        of_line = weights + number * job.kernel_width * width * LANES * BYTES
        sums = add_taps(job, row, of_line, across, mask, sums, width)
    return sums


def convolve_columns(
    job: Any, image: int, row: int, column: int, down: Any, count: int, stride: int, width: int
) -> None:
    """``count`` outputs side by side, all channels; ``down`` says which lines of the kernel lie inside.

    The last three are static: a stride of 0 says nothing; another one, that all taps of a 3x3 lie inside.
    """
    y = output_place(job, image, row, column)
    left = column * job.stride - job.pad_width
    across = (first_inside(left, job.dilation), last_inside(left, job.dilation, job.kernel_width, job.width))
    top = row * job.stride - job.pad_height
    from_x = job.x + (image * job.x_image + top * job.x_row + left * job.x_pixel) * BYTES
    weights, of_vector = job.weight, job.kernel_height * job.kernel_width * width * LANES * BYTES
    bounds = bounds_of(job)
    for channel, mask in vectors(job.channels):
        bias = bias_of(job, channel, mask)
        sums = [bias for _ in static(count)]
        if stride:
            sums = sum_three_by_three(job, from_x, weights, mask, sums, stride, width)
        else:
            sums = sum_lines(job, from_x, weights, down, across, mask, sums, width)
        for place in static(count):
            store(y, place * job.y_pixel + channel, bounded(sums[place], bounds), mask)
        from_x += LANES * BYTES
        weights += of_vector


def convolve_inner(job: Any, image: int, row: int, down: Any, first: int, last: int, stride: int, width: int) -> None:
    """Outputs of a row all of whose columns of taps lie inside the picture."""
    at_once = AT_ONCE if width == 1 else MORE_AT_ONCE
    whole = first + (last - first) // at_once * at_once
    for column in range(first, whole, at_once):
        convolve_columns(job, image, row, column, down, at_once, stride, width)
    for column in range(whole, last):
        convolve_columns(job, image, row, column, down, 1, stride, width)


def convolve(job: Any, task: int, scratch: int) -> None:
    """One row of outputs, each of one input channel."""
    convolve_row(job, task, 1)


def convolve_groups_of_4(job: Any, task: int, scratch: int) -> None:
    """One row of outputs, each of four input channels."""
    convolve_row(job, task, 4)


def convolve_groups_of_8(job: Any, task: int, scratch: int) -> None:
    """One row of outputs, each of eight input channels."""
    convolve_row(job, task, 8)


def convolve_groups_of_16(job: Any, task: int, scratch: int) -> None:
    """One row of outputs, each of sixteen input channels."""
    convolve_row(job, task, 16)


def convolve_row(job: Any, task: int, width: int) -> None:
    """One row of outputs, each of ``width`` (static) input channels."""
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
        convolve_columns(job, image, row, column, down, 1, 0, width)
    is_usual = job.kernel_width == 3 and job.kernel_height == 3 and job.dilation == 1 and down[1] - down[0] == 3
    if is_usual and stride == 1:
        convolve_inner(job, image, row, down, inner, beyond, 1, width)
    elif is_usual and stride == 2:
        convolve_inner(job, image, row, down, inner, beyond, 2, width)
    else:
        convolve_inner(job, image, row, down, inner, beyond, 0, width)
    for column in range(beyond, job.out_width):
        convolve_columns(job, image, row, column, down, 1, 0, width)
