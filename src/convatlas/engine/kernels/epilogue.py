"""What is done to outputs before they are stored: bias, residual, activation."""

from __future__ import annotations

import math
from typing import Any

from convatlas.engine.jobs import RELU6
from convatlas.engine.kernels.simd import BYTES, constant, larger, load, smaller


def bounds_of(job: Any) -> Any:
    """Between which two numbers the activation keeps outputs; no branch is then needed for each of them."""
    activation = job.activation
    lower = constant(0) if activation != 0 else constant(-math.inf)
    upper = constant(6) if activation == RELU6 else constant(math.inf)
    return lower, upper


def bounded(value: Any, bounds: Any) -> Any:
    """ReLU or ReLU6 of a vector, or the vector; a NaN stays."""
    return smaller(bounds[1], larger(bounds[0], value))


def finished(value: Any, residual: int, index: int, bounds: Any, mask: Any) -> Any:
    """A vector of outputs with the residual at an index, where there is one, and the activation."""
    if residual != 0:
        value = value + load(residual, index, mask)
    return bounded(value, bounds)


def bias_of(job: Any, channel: int, mask: Any) -> Any:
    """The bias of a vector of channels; zeros where there is none."""
    return load(job.bias, channel, mask) if job.bias != 0 else constant(0)


def output_place(job: Any, image: int, row: int, column: int) -> int:
    """The address of an output's first channel."""
    return job.y + (image * job.y_image + row * job.y_row + column * job.y_pixel) * BYTES


def residual_place(job: Any, image: int, row: int, column: int) -> int:
    """The address of what is added to it; 0 for nothing."""
    at = (image * job.residual_image + row * job.residual_row + column * job.residual_pixel) * BYTES
    return job.residual + at if job.residual != 0 else 0
