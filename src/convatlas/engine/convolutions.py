"""Convolutions of pictures in memory: what a layer is, how its weights are laid out, and the kernels that do it.

Pictures are float32 tensors [N, C, H, W] whose channels lie side by side (``torch.channels_last``, or a slice of the
channels of one).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from convatlas.engine import threads
from convatlas.engine.jobs import (
    APART,
    COLUMNS,
    CONVOLUTION,
    FEWER,
    GRADIENT_FINISH,
    GRADIENT_PRODUCT,
    GRADIENT_TRANSFORM,
    GROUPED,
    LANES,
    POSITIONS,
    ROWS,
    TILE,
    WEIGHT_GRADIENT,
    WINOGRAD,
    WINOGRAD_WEIGHT,
)
from convatlas.engine.processor import cache_bytes, shared_cache_bytes

CHUNK = 64  # output channels between two visits to the products of a block
FLOAT = 4  # bytes
# Tiles a task, in few and in many channels, and output pixels of a direct convolution. Tiles of twice as many rows, as
# AVX-512 has them, read the weights half as often: there smaller blocks do, whose V is nearer.
LEAST_BLOCK, LARGE_BLOCK = (2 * ROWS, 8 * ROWS) if LANES == 8 else (ROWS, 2 * ROWS)
MANY_CHANNELS = 256
PIXEL_BLOCK = 8 * ROWS if LANES == 8 else 4 * ROWS
LEAST_CHANNELS = 8  # of inputs and outputs: with fewer, most of a vector is empty
LEAST_TILES = 128  # of one product for the gradient of a weight
LAST_CACHE_SHARE = 0.2  # that the operands of those products may fill: the sums, and other processes, want the rest
GRADIENT_BLOCK = 8  # tiles a task
SHARES = 16  # sums of their own that the gradient of a small weight is added up from
PIXELS = 256  # whose inputs are gathered at once for it


@dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution layer, as ``torch.nn.Conv2d`` has them."""

    channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    groups: int = 1
    dilation: int = 1

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the outputs."""
        high = (height + 2 * self.padding[0] - self.dilation * (self.kernel[0] - 1) - 1) // self.stride + 1
        wide = (width + 2 * self.padding[1] - self.dilation * (self.kernel[1] - 1) - 1) // self.stride + 1
        return high, wide

    @property
    def suits_winograd(self) -> bool:
        """Whether F(4x4, 3x3) computes it: 3x3, stride 1, the same padding of 0 or 1 on all sides."""
        return (
            self.kernel == (3, 3)
            and self.stride == self.dilation == self.groups == 1
            and self.padding in ((0, 0), (1, 1))
            and min(self.channels, self.out_channels) >= LEAST_CHANNELS
        )

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel has a kernel of its own and one output."""
        return self.groups == self.channels == self.out_channels > 1

    @property
    def has_small_groups(self) -> bool:
        """Whether a vector holds whole groups of as many outputs as inputs; depthwise layers among others."""
        return self.channels == self.out_channels and self.groups > 1 and self.channels // self.groups in GROUPED

    @property
    def depth(self) -> int:
        """Inputs that are gathered for an output pixel, all groups together."""
        return self.kernel[0] * self.kernel[1] * self.channels


@dataclass(frozen=True)
class Epilogue:
    """What is done to the outputs before they are stored: ``pool(activation(y + bias + residual))``, each if given."""

    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: int = 0  # RELU or RELU6
    pool: bool = False  # 2x2, stride 2; without a residual


def picture(name: str, tensor: Tensor) -> dict[str, int]:
    """The fields of a job that say where a picture is."""
    strides = tensor.stride()
    return {
        name: tensor.data_ptr(),
        f"{name}_image": strides[0],
        f"{name}_row": strides[2],
        f"{name}_pixel": strides[3],
    }


def is_picture(tensor: Tensor) -> bool:
    """Whether the kernels can read it: float32 on the CPU, channels side by side, nothing empty."""
    return (
        tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and tensor.dim() == 4
        and tensor.numel() > 0
        and (tensor.stride(1) == 1 or tensor.shape[1] == 1)
        and min(tensor.stride()) > 0
    )


def empty_picture(images: int, channels: int, height: int, width: int) -> Tensor:
    """A new picture, its values not set."""
    return torch.empty((images, channels, height, width), memory_format=torch.channels_last)


def pack_weight(weight: Tensor, groups: int = 1) -> Tensor:
    """Weights [out, in, h, w] as the panels of the direct kernel, one after another, group by group.

    A panel is [h * w * in, two vectors], the last of a group one vector wide where that is enough.
    """
    outputs = weight.shape[0] // groups
    matrix = weight.reshape(groups, outputs, *weight.shape[1:]).permute(0, 3, 4, 2, 1).reshape(groups, -1, outputs)
    matrix = functional.pad(matrix, (0, -outputs % LANES))
    whole = matrix.shape[2] // COLUMNS * COLUMNS
    panels = matrix[..., :whole].reshape(groups, matrix.shape[1], -1, COLUMNS).transpose(1, 2)
    return torch.cat([panels.flatten(1), matrix[..., whole:].flatten(1)], dim=1).flatten()


def transform_weight(weight: Tensor, *, turned: bool = False, reuse: bool = False) -> Tensor:
    """Weights [out, in, 3, 3] in the Winograd domain, as panels.

    Args:
        weight: float32.
        turned: those of the gradient of the input: rotated by half a turn, outputs and inputs exchanged.
        reuse: into memory that this thread's next call with ``reuse`` overwrites.
    """
    weight = weight.detach().contiguous(memory_format=torch.channels_last)
    outputs, inputs = weight.shape[:2]
    columns, depth = (inputs, outputs) if turned else (outputs, inputs)
    size = POSITIONS * _whole_vectors(columns) * depth
    transformed = threads.workspace("transformed", size) if reuse else torch.empty(size)
    threads.run(
        WINOGRAD_WEIGHT,
        tasks=_whole_vectors(inputs) // LANES * (_whole_vectors(outputs) // LANES),
        scratch=POSITIONS * LANES * (LANES + 1) * FLOAT,
        w=weight.data_ptr(),
        w_out=9 * inputs,
        w_tap=inputs,
        channels=inputs,
        out_channels=outputs,
        turned=int(turned),
        chunk=CHUNK,
        u=transformed.data_ptr(),
    )
    return transformed


def winograd(geometry: Geometry, x: Tensor, transformed: Tensor, y: Tensor, epilogue: Epilogue) -> Callable[[], bool]:
    """A call that convolves ``x`` into ``y``; false if an output is not finite, and then ``y`` is worthless.

    An infinity or NaN spreads over its whole tile in the Winograd domain: the caller computes such a layer again.
    """
    images, channels, height, width = x.shape
    out_height, out_width = geometry.output_size(height, width)
    tiles_high, tiles_wide = -(-out_height // TILE), -(-out_width // TILE)
    tiles = images * tiles_high * tiles_wide
    block, splits = _winograd_blocks(tiles, geometry)
    v = block * channels + APART
    m = block * CHUNK + APART
    job = threads.Job(
        WINOGRAD,
        tasks=-(-tiles // block) * splits,
        work=POSITIONS * tiles * channels * geometry.out_channels,
        owners=(x, y, transformed, epilogue),
        scratch=(POSITIONS * (LANES + v + m + channels) + LANES) * FLOAT,
        **picture("x", x),
        **picture("y", y),
        **_sizes(geometry, height, width),
        **_epilogue(epilogue),
        pool=int(epilogue.pool),
        pad=geometry.padding[0],
        weight=transformed.data_ptr(),
        tiles_wide=tiles_wide,
        tiles_per_image=tiles_high * tiles_wide,
        tiles=tiles,
        block=block,
        chunk=CHUNK,
        splits=splits,
    )

    def call() -> bool:
        return bool(job.run().strange == 0)

    return call


def weight_gradient(geometry: Geometry, x: Tensor, gradient: Tensor) -> Tensor | None:
    """The gradient of a 3x3 weight [out, in, 3, 3], from inputs and the gradient of the outputs.

    A sum over tiles of products in the Winograd domain, as many tiles at a time as fit into the last cache.
    None if a value of it is not finite: then the caller computes it again, as infinities and NaN must spread.
    """
    out_height, out_width = gradient.shape[2:]
    tiles_high, tiles_wide = -(-out_height // TILE), -(-out_width // TILE)
    tiles = x.shape[0] * tiles_high * tiles_wide
    panels = -(-geometry.channels // COLUMNS)
    rows = max(-(-geometry.out_channels // ROWS) * ROWS, _whole_vectors(geometry.out_channels))
    fitting = int(LAST_CACHE_SHARE * shared_cache_bytes()) // (FLOAT * POSITIONS * (panels * COLUMNS + rows))
    at_once = min(tiles, max(LEAST_TILES, fitting))
    v_panel, d_row, u_row = at_once * COLUMNS, rows, panels * COLUMNS
    v_apart, d_apart, u_apart = panels * v_panel + APART, at_once * d_row + APART, rows * u_row + APART
    v, d, u = (
        threads.workspace(name, POSITIONS * apart)
        for name, apart in (("inputs", v_apart), ("gradients", d_apart), ("products", u_apart))
    )
    for first in range(0, tiles, at_once):
        last = min(first + at_once, tiles)
        operands = {"v": v.data_ptr(), "v_apart": v_apart, "v_panel": v_panel}
        operands |= {"d": d.data_ptr(), "d_apart": d_apart, "d_row": d_row, "first": first, "last": last}
        threads.run(
            GRADIENT_TRANSFORM,
            tasks=-(-(last - first) // GRADIENT_BLOCK),
            scratch=(POSITIONS * (LANES + max(geometry.channels, geometry.out_channels)) + LANES) * FLOAT,
            **picture("x", x),
            **picture("y", gradient),
            **_sizes(geometry, x.shape[2], x.shape[3]),
            pad=geometry.padding[0],
            tiles_wide=tiles_wide,
            tiles_per_image=tiles_high * tiles_wide,
            block=GRADIENT_BLOCK,
            **operands,
        )
        threads.run(
            GRADIENT_PRODUCT,
            tasks=POSITIONS,
            channels=geometry.channels,
            out_channels=geometry.out_channels,
            onto=int(first > 0),
            u=u.data_ptr(),
            u_apart=u_apart,
            u_row=u_row,
            **operands,
        )
    weight = torch.empty((geometry.out_channels, geometry.channels, 3, 3), memory_format=torch.channels_last)
    finish = threads.run(
        GRADIENT_FINISH,
        tasks=geometry.out_channels,
        scratch=POSITIONS * LANES * FLOAT,
        channels=geometry.channels,
        u=u.data_ptr(),
        u_apart=u_apart,
        u_row=u_row,
        w=weight.data_ptr(),
    )
    return None if finish.strange else weight


def direct(
    geometry: Geometry,
    x: Tensor,
    panels: Tensor,
    y: Tensor,
    epilogue: Epilogue,
    pre_norm: tuple[Tensor, Tensor] | None = None,
) -> Callable[[], None]:
    """A call that convolves ``x`` into ``y`` as matrix products.

    Args:
        geometry: the layer.
        x: the input picture.
        panels: weights as ``pack_weight`` makes them.
        y: the output picture.
        epilogue: what is done to the outputs; not a pool.
        pre_norm: scale and shift [channels] of the inputs, which then go through ReLU; for a layer without padding.
    """
    pixels = y.shape[0] * y.shape[2] * y.shape[3]
    columns = _whole_vectors(geometry.out_channels) + (COLUMNS if geometry.groups > 1 else 0)
    block, splits = _direct_blocks(pixels, geometry)
    job = threads.Job(
        CONVOLUTION,
        tasks=-(-pixels // block) * splits,
        work=pixels * geometry.depth * geometry.out_channels // geometry.groups,
        owners=(x, y, panels, epilogue, pre_norm),
        scratch=(-(-block // ROWS) * ROWS * (columns + geometry.depth + APART) + LANES) * FLOAT,
        **picture("x", x),
        **picture("y", y),
        **_sizes(geometry, x.shape[2], x.shape[3]),
        **_kernel(geometry),
        **_epilogue(epilogue),
        groups=geometry.groups,
        weight=panels.data_ptr(),
        pixels=pixels,
        block=block,
        splits=splits,
        packed=int(pre_norm is not None or not _is_matrix(geometry, x)),
        even=int(_are_even(y) and (epilogue.residual is None or _are_even(epilogue.residual))),
        deep=cache_bytes(1) // (2 * COLUMNS * FLOAT),
        scale=pre_norm[0].data_ptr() if pre_norm else 0,
        shift=pre_norm[1].data_ptr() if pre_norm else 0,
    )

    def call() -> None:
        job.run()

    return call


def pack_taps(weight: Tensor) -> Tensor:
    """Weights [channels, width, h, w] of small groups for their kernel.

    They are [vectors of channels, h * w, width, a vector].
    """
    channels, width = weight.shape[:2]
    taps = functional.pad(weight.permute(2, 3, 1, 0).reshape(-1, width, channels), (0, -channels % LANES))
    return taps.reshape(len(taps), width, -1, LANES).permute(2, 0, 1, 3).contiguous()


def grouped(geometry: Geometry, x: Tensor, taps: Tensor, y: Tensor, epilogue: Epilogue) -> Callable[[], None]:
    """A call that convolves each small group of channels of ``x`` by kernels of its own.

    Args:
        geometry: a layer that ``has_small_groups``.
        x, y: the pictures.
        taps: weights as ``pack_taps`` makes them.
        epilogue: what is done to the outputs; neither a residual nor a pool.
    """
    width = geometry.channels // geometry.groups
    job = threads.Job(
        GROUPED[width],
        tasks=y.shape[0] * y.shape[2],
        work=y.numel() * taps.shape[1] * width,
        owners=(x, y, taps, epilogue),
        **picture("x", x),
        **picture("y", y),
        **_sizes(geometry, x.shape[2], x.shape[3]),
        **_kernel(geometry),
        **_epilogue(epilogue),
        weight=taps.data_ptr(),
    )

    def call() -> None:
        job.run()

    return call


def direct_weight_gradient(geometry: Geometry, x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of a small weight [out, in, h, w], such as a network's first, as one product over all pixels.

    Args:
        geometry: a layer whose ``out_channels`` are whole vectors; without groups.
        x: the input picture.
        gradient: that of the outputs, in ``torch.channels_last`` without gaps.
    """
    high, wide = geometry.kernel
    depth = geometry.depth
    rows = -(-depth // ROWS) * ROWS
    pixels = gradient.numel() // geometry.out_channels
    shares = torch.empty(min(SHARES, pixels), rows, geometry.out_channels)
    threads.run(
        WEIGHT_GRADIENT,
        tasks=shares.shape[0],
        scratch=(PIXELS * rows + LANES) * FLOAT,
        **picture("x", x),
        **_sizes(geometry, x.shape[2], x.shape[3]),
        **_kernel(geometry),
        gradient=gradient.data_ptr(),
        shares=shares.data_ptr(),
        pixels=pixels,
        block=PIXELS,
    )
    weight = shares.sum(0)[:depth].view(high, wide, geometry.channels, geometry.out_channels)
    return weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)


def _is_matrix(geometry: Geometry, x: Tensor) -> bool:
    """Whether the inputs of neighbouring outputs are equally spaced rows, which need no gathering."""
    is_pointwise = geometry.kernel == (1, 1) and geometry.stride == 1 and geometry.padding == (0, 0)
    return is_pointwise and _are_even(x)


def _are_even(pixels: Tensor) -> bool:
    """Whether the pixels of a picture, from row to row and from image to image, are equally far apart."""
    image, _, row, pixel = pixels.stride()
    height, width = pixels.shape[2:]
    evenly = (height == 1 or row == width * pixel) and (pixels.shape[0] == 1 or image == height * width * pixel)
    return evenly and (height * width > 1 or pixel == image)


def _winograd_blocks(tiles: int, geometry: Geometry) -> tuple[int, int]:
    """Tiles a task, and shares of the output channels; neither changes a bit of the result.

    Small blocks keep V in a core's own cache; where the weights are larger than that, a larger block reads them less
    often.
    """
    values = cache_bytes(2) // FLOAT // POSITIONS
    block = LEAST_BLOCK if 2 * LEAST_BLOCK * (geometry.channels + CHUNK) > values else 2 * LEAST_BLOCK
    if geometry.channels > MANY_CHANNELS:
        block = LARGE_BLOCK
    return _even_blocks(tiles, block, -(-geometry.out_channels // CHUNK))


def _direct_blocks(pixels: int, geometry: Geometry) -> tuple[int, int]:
    """Output pixels a task, and shares of the output channels; neither changes a bit of the result."""
    block = PIXEL_BLOCK
    if geometry.depth * FLOAT * block > cache_bytes(2) // 2:
        block //= 2
    shares = geometry.groups if geometry.groups > 1 else -(-geometry.out_channels // COLUMNS)
    return _even_blocks(pixels, block, shares)


def _even_blocks(rows: int, usual: int, most_shares: int) -> tuple[int, int]:
    """Rows a task, about ``usual``, and into how many shares the columns are cut: all threads have the same to do.

    Where there are fewer blocks than threads, these share the columns, so that each reads a part of the weights alone.
    """
    workers = threads.thread_count()
    blocks = max(1, round(rows / usual))
    shares = 1 if blocks >= workers else min(workers // blocks, most_shares)
    tasks = -(-blocks * shares // workers) * workers
    blocks = -(-tasks // shares)
    return -(-rows // (blocks * FEWER)) * FEWER, shares


def _whole_vectors(channels: int) -> int:
    return -(-channels // LANES) * LANES


def _kernel(geometry: Geometry) -> dict[str, int]:
    return {
        "kernel_height": geometry.kernel[0],
        "kernel_width": geometry.kernel[1],
        "stride": geometry.stride,
        "dilation": geometry.dilation,
        "pad_height": geometry.padding[0],
        "pad_width": geometry.padding[1],
    }


def _sizes(geometry: Geometry, height: int, width: int) -> dict[str, int]:
    out_height, out_width = geometry.output_size(height, width)
    return {
        "height": height,
        "width": width,
        "channels": geometry.channels,
        "out_height": out_height,
        "out_width": out_width,
        "out_channels": geometry.out_channels,
    }


def _epilogue(epilogue: Epilogue) -> dict[str, int]:
    fields = {"activation": epilogue.activation}
    if epilogue.bias is not None:
        fields["bias"] = epilogue.bias.data_ptr()
    if epilogue.residual is not None:
        fields |= picture("residual", epilogue.residual)
    return fields
