"""Scale, shift, residual and activation of a picture: a normalisation that stands alone, a gate, an addition."""

from __future__ import annotations

from typing import Any

from convatlas.engine.codegen import vectors
from convatlas.engine.kernels.epilogue import bounds_of, finished, output_place, residual_place
from convatlas.engine.kernels.simd import BYTES, load, store


def scale_and_shift(job: Any, task: int, scratch: int) -> None:
    """``y = activation(x * scale + shift + residual)`` for one row of pixels; each part only where it is given.

    Scales are one a channel; ``scale_image`` is the distance between those of two images, 0 where they share them.
    """
    image = task // job.height
    row = task - image * job.height
    x = job.x + (image * job.x_image + row * job.x_row) * BYTES
    y = output_place(job, image, row, 0)
    residual = residual_place(job, image, row, 0)
    scale = job.scale + image * job.scale_image * BYTES if job.scale != 0 else 0
    shift, bounds = job.shift, bounds_of(job)
    x_pixel, y_pixel, residual_pixel = job.x_pixel, job.y_pixel, job.residual_pixel
    for _ in range(job.width):
        for channel, mask in vectors(job.channels):
            value = load(x, channel, mask)
            if scale != 0:
                value = value * load(scale, channel, mask)
            if shift != 0:
                value = value + load(shift, channel, mask)
            store(y, channel, finished(value, residual, channel, bounds, mask), mask)
        x += x_pixel * BYTES
        y += y_pixel * BYTES
        if residual != 0:
            residual += residual_pixel * BYTES
