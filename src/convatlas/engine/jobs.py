"""What each kernel is told: its job, a row of int64 fields, and where its Python source is.

A job is cut into tasks. Every thread that runs the kernel takes the number of the next task until none is left, and
one slice of the scratch memory for itself, so one kernel runs on any pool of threads, and which thread does a task
changes no result. Addresses are in bytes; strides, in values of float32.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property

# How memory is laid out: by whoever prepares a job, and by the kernel that does it.
LANES = 8  # values in a vector
ROWS, COLUMNS = 6, 16  # of the register tile that all products are made of; weights lie in panels of so many columns
TILE = 4  # outputs a side of a Winograd tile
POSITIONS = 36  # of its products
APART = 16  # values between two positions beyond their size, or all 36 would compete for one set of the cache
OUTPUTS = 4  # of a dense layer, a task

COMMON = ("next", "tasks", "slot", "scratch", "scratch_bytes", "strange")


@dataclass(frozen=True)
class Kernel:
    """A compiled function, named by the module below ``kernels`` that has its source and by its name there."""

    module: str
    name: str
    fields: tuple[str, ...]

    @cached_property
    def layout(self) -> type[ctypes.Structure]:
        """The job as it lies in memory."""
        fields = [(name, ctypes.c_int64) for name in (*COMMON, *self.fields)]
        return type(f"{self.name}_job", (ctypes.Structure,), {"_fields_": fields})


# a picture in memory: its address and the distances between images, rows and pixels; channels lie side by side
def _picture(name: str) -> tuple[str, ...]:
    return (name, f"{name}_image", f"{name}_row", f"{name}_pixel")


_SIZES = ("height", "width", "channels", "out_height", "out_width", "out_channels")
_TILES = ("pad", "tiles_wide", "tiles_per_image", "block")  # of which ``block`` a task
_WINDOW = ("kernel_height", "kernel_width", "stride", "pad_height", "pad_width", "pixels", "block")
_EPILOGUE = ("bias", *_picture("residual"), "relu")

WINOGRAD = Kernel(
    "winograd",
    "convolve",
    (*_picture("x"), *_picture("y"), *_SIZES, *_EPILOGUE, *_TILES, "pool", "weight", "tiles", "chunk", "splits"),
)
WINOGRAD_WEIGHT = Kernel(
    "winograd", "transform_weight", ("w", "w_out", "w_tap", "channels", "out_channels", "turned", "chunk", "u")
)
_FOR_WEIGHT = ("v", "v_apart", "v_panel", "d", "d_apart", "d_row", "first", "last")
GRADIENT_TRANSFORM = Kernel(
    "winograd",
    "transform_for_weight",
    (*_picture("x"), *_picture("y"), *_SIZES, *_TILES, *_FOR_WEIGHT),
)
GRADIENT_PRODUCT = Kernel(
    "winograd",
    "multiply_for_weight",
    ("out_channels", "panels", "onto", "u", "u_apart", "u_row", *_FOR_WEIGHT),
)
GRADIENT_FINISH = Kernel("winograd", "finish_weight_gradient", ("channels", "u", "u_apart", "u_row", "w"))
CONVOLUTION = Kernel(
    "convolution",
    "convolve",
    (*_picture("x"), *_picture("y"), *_SIZES, *_EPILOGUE, *_WINDOW, "weight", "splits", "packed", "scale", "shift"),
)
WEIGHT_GRADIENT = Kernel(
    "convolution",
    "weight_gradient",
    (*_picture("x"), *_SIZES, *_WINDOW, "gradient", "shares"),
)
POOLING = Kernel(
    "pooling",
    "pool",
    (*_picture("x"), *_picture("y"), *_SIZES, "window", "stride", "pad", "average"),
)
LINEAR = Kernel("linear", "multiply", ("x", "w", "bias", "y", "images", "depth", "outputs", "relu"))

_SHAPE = ("rows", "block", "channels", "height", "width", "out_height", "out_width", "pool")
MEASURE = Kernel("normalization", "measure", ("x", "centre", "sums", "pixels", "block", "channels"))
NORMALISE = Kernel("normalization", "normalise", ("x", "y", "residual", "constants", "relu", *_SHAPE))
SUM_GRADIENT = Kernel(
    "normalization", "sum_gradient", ("x", "dy", "output", "masked", "constants", "sums", "relu", *_SHAPE)
)
WRITE_GRADIENT = Kernel(
    "normalization", "write_gradient", ("x", "dy", "dx", "constants", "normalised", "relu", *_SHAPE)
)

EVALUATION = (WINOGRAD, CONVOLUTION, LINEAR, WINOGRAD_WEIGHT, POOLING)
TRAINING = (
    *EVALUATION,
    *(GRADIENT_TRANSFORM, GRADIENT_PRODUCT, GRADIENT_FINISH, WEIGHT_GRADIENT),
    *(MEASURE, NORMALISE, SUM_GRADIENT, WRITE_GRADIENT),
)
