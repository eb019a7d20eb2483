"""Maximum and average over windows, channels side by side."""

from __future__ import annotations

from typing import Any

from convatlas.engine.codegen import vectors
from convatlas.engine.kernels.simd import BYTES, as_float, constant, load, maximum, number, spread, store


def pool(job: Any, task: int, scratch: int) -> None:
    """One row of outputs: the largest in each window, NaN where there is one, or the mean of a window."""
    image = task // job.out_height
    row = task - image * job.out_height
    top = row * job.stride - job.pad
    first_row, last_row = max(top, 0), min(top + job.window, job.height)
    y_pixel, x_pixel, x_row = job.y_pixel, job.x_pixel, job.x_row
    x = job.x + image * job.x_image * BYTES
    y = job.y + (image * job.y_image + row * job.y_row) * BYTES
    share = spread(number(1) / as_float(job.window * job.window))
    for column in range(job.out_width):
        left = column * job.stride - job.pad
        first, last = max(left, 0), min(left + job.window, job.width)
        corner = x + (first_row * x_row + first * x_pixel) * BYTES
        for channel, mask in vectors(job.channels):
            at = corner + channel * BYTES
            if job.average == 0:
                value = load(at, 0, mask)
                for down in range(last_row - first_row):
                    for across in range(last - first):
                        value = maximum(value, load(at, down * x_row + across * x_pixel, mask))
            else:
                value = constant(0)
                for down in range(last_row - first_row):
                    for across in range(last - first):
                        value = value + load(at, down * x_row + across * x_pixel, mask)
                value = value * share
            store(y, column * y_pixel + channel, value, mask)
