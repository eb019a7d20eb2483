"""What each kernel is told: its job, a row of int64 fields, and where its Python source is.

A job is cut into tasks, and these into one run of neighbours for each thread: what a layer writes is read in the next
by the same thread as a rule, from its own core's cache. Whoever is done helps the others. Every thread takes one slice
of the scratch memory for itself, so one kernel runs on any pool of threads, and which thread does a task changes no
result. Addresses are in bytes; strides, in values of float32.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property

from convatlas.engine.processor import vector_width

# How memory is laid out: by whoever prepares a job, and by the kernel that does it.
LANES = vector_width()  # values in a vector
ROWS = 6 if LANES == 8 else 14  # of the register tile that all products are made of: sixteen registers, or thirty-two
FEWER = ROWS // 2  # rows of the tile that does what is left of them
COLUMNS = 2 * LANES  # of that tile; weights lie in panels of so many columns, the last perhaps half as wide
TILE = 4  # outputs a side of a Winograd tile
POSITIONS = 36  # of its products
APART = 16  # values between two positions beyond their size, or all 36 would compete for one set of the cache
OUTPUTS = 4  # of a dense layer, a task
RELU, RELU6 = 1, 2  # the activations that kernels know; 0 is none

COMMON = ("tasks", "threads", "counters", "scratch", "scratch_bytes", "strange")
COUNTER_BYTES = 64  # between two counters: a line of the cache, so that threads do not wait for each other's


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
_KERNEL = ("kernel_height", "kernel_width", "stride", "dilation", "pad_height", "pad_width")
_EPILOGUE = ("bias", *_picture("residual"), "activation")

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
    ("channels", "out_channels", "onto", "u", "u_apart", "u_row", *_FOR_WEIGHT),
)
GRADIENT_FINISH = Kernel("winograd", "finish_weight_gradient", ("channels", "u", "u_apart", "u_row", "w"))
CONVOLUTION = Kernel(
    "convolution",
    "convolve",
    (
        *(*_picture("x"), *_picture("y"), *_SIZES, *_EPILOGUE, *_KERNEL, "pixels", "block"),
        *("groups", "weight", "splits", "packed", "even", "deep", "scale", "shift"),
    ),
)
WEIGHT_GRADIENT = Kernel(
    "convolution",
    "weight_gradient",
    (*_picture("x"), *_SIZES, *_KERNEL, "pixels", "block", "gradient", "shares"),
)
_GROUPS = (*_picture("x"), *_picture("y"), *_SIZES, "bias", "activation", *_KERNEL, "weight")
DEPTHWISE = Kernel("depthwise", "convolve", _GROUPS)
GROUPED = {  # by the channels of a group
    1: DEPTHWISE,
    **{width: Kernel("depthwise", f"convolve_groups_of_{width}", _GROUPS) for width in (4, 8, 16) if width <= LANES},
}
POOLING = Kernel(
    "pooling",
    "pool",
    (*_picture("x"), *_picture("y"), *_SIZES, "window", "stride", "pad", "average"),
)
LINEAR = Kernel("linear", "multiply", ("x", "w", "bias", "y", "images", "depth", "outputs", "activation"))
AFFINE = Kernel(
    "affine", "scale_and_shift",
    (*_picture("x"), *_picture("y"), *_picture("residual"), "height", "width", "channels", "scale", "scale_image",
     "shift", "activation"),
)  # fmt: skip
FINGERPRINT = Kernel("fingerprint", "read", ("ranges", "range_count", "places", "place_count"))

_SHAPE = ("rows", "block", "channels", "height", "width", "out_height", "out_width", "pool")
MEASURE = Kernel("normalization", "measure", ("x", "centre", "sums", "pixels", "block", "channels"))
NORMALISE = Kernel("normalization", "normalise", ("x", "y", "residual", "constants", "relu", *_SHAPE))
SUM_GRADIENT = Kernel(
    "normalization", "sum_gradient", ("x", "dy", "output", "masked", "constants", "sums", "relu", *_SHAPE)
)
WRITE_GRADIENT = Kernel(
    "normalization", "write_gradient", ("x", "dy", "dx", "constants", "normalised", "relu", *_SHAPE)
)

KERNELS = (
    *(WINOGRAD, WINOGRAD_WEIGHT, GRADIENT_TRANSFORM, GRADIENT_PRODUCT, GRADIENT_FINISH),
    *(CONVOLUTION, WEIGHT_GRADIENT, *GROUPED.values(), POOLING, LINEAR, AFFINE, FINGERPRINT),
    *(MEASURE, NORMALISE, SUM_GRADIENT, WRITE_GRADIENT),
)
