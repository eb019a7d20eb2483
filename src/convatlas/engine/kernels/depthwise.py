"""Depthwise convolution: each channel by a kernel of its own, channels side by side in a vector."""

from __future__ import annotations

from typing import Any

from convatlas.engine.codegen import static, vectors
from convatlas.engine.kernels.epilogue import bias_of, finished, output_place, residual_place
from convatlas.engine.kernels.simd import BYTES, load, multiply_add, store

AT_ONCE = 4  # outputs side by side that share one reading of the weights


def first_inside(start: int, dilation: int) -> int:
    """The first tap that does not lie before the picture."""
    return 0 if start >= 0 else (dilation - 1 - start) // dilation


def last_inside(start: int, dilation: int, taps: int, size: int) -> int:
    """The tap after the last one that lies in it."""
    return 0 if start >= size else min(taps, (size - 1 - start) // dilation + 1)


def sum_taps(job: Any, image: int, top: int, column: int, channel: int, mask: Any, sums: Any) -> Any:
    """The products of outputs side by side from ``column`` on, all of whose columns lie inside the picture."""
    channels, stride, dilation = job.channels, job.stride, job.dilation
    apart = stride * job.x_pixel
    left = column * stride - job.pad_width
    first = first_inside(left, dilation)
    last = last_inside(left, dilation, job.kernel_width, job.width)
    for down in range(first_inside(top, dilation), last_inside(top, dilation, job.kernel_height, job.height)):
        row = job.x + (image * job.x_image + (top + down * dilation) * job.x_row + channel) * BYTES
        weights = job.weight + (down * job.kernel_width * channels + channel) * BYTES
        for across in range(first, last):
            weight = load(weights, across * channels, mask)
            at = (left + across * dilation) * job.x_pixel
            sums = [
                multiply_add(load(row, at + place * apart, mask), weight, sums[place]) for place in static(len(sums))
            ]
    return sums


def store_outputs(job: Any, sums: Any, y: int, residual: int, channel: int, mask: Any) -> None:
    """Outputs side by side, finished."""
    for place in static(len(sums)):
        value = finished(sums[place], residual, place * job.residual_pixel + channel, job.activation, mask)
        store(y, place * job.y_pixel + channel, value, mask)


def convolve_columns(job: Any, image: int, row: int, column: int, count: int) -> None:
    """``count`` outputs side by side (static), all channels."""
    y = output_place(job, image, row, column)
    residual = residual_place(job, image, row, column)
    top = row * job.stride - job.pad_height
    for channel, mask in vectors(job.channels):
        bias = bias_of(job, channel, mask)
        sums = sum_taps(job, image, top, column, channel, mask, [bias for _ in static(count)])
        store_outputs(job, sums, y, residual, channel, mask)


def convolve(job: Any, task: int, scratch: int) -> None:
    """One row of outputs."""
    image = task // job.out_height
    row = task - image * job.out_height
    stride, pad = job.stride, job.pad_width
    span = (job.kernel_width - 1) * job.dilation
    inner = min((pad + stride - 1) // stride, job.out_width)  # the first output whose taps all lie inside
    beyond = (
        max(inner, min((job.width - 1 - span + pad + stride) // stride, job.out_width)) if job.width > span else inner
    )
    for column in range(inner):
        convolve_columns(job, image, row, column, 1)
    whole = inner + (beyond - inner) // AT_ONCE * AT_ONCE
    for column in range(inner, whole, AT_ONCE):
        convolve_columns(job, image, row, column, AT_ONCE)
    for column in range(whole, job.out_width):
        convolve_columns(job, image, row, column, 1)
