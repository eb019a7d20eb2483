"""Batch normalisation in training, in one operation with the residual, the ReLU and the pooling that follow it.

PyTorch runs each of them over the whole picture, three times through memory each way, and keeps what each has read.
Here all of them are two passes each way, and the backward pass computes again what it needs from the input.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from convatlas.engine.jobs import MEASURE, NORMALISE, SUM_GRADIENT, WRITE_GRADIENT
from convatlas.engine.threads import run

TASK_BYTES = 128 * 1024  # of input; large against the cost of a task, small enough to share out evenly

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

# Infinite and NaN values are the caller's: they go through as in PyTorch, without a warning.
_quietly = np.errstate(all="ignore")


def can_normalise(x: Tensor, *, pool: bool = False) -> bool:
    """Whether ``batch_norm`` and ``relu_pool`` take ``x``; where not, PyTorch's operators are to be called."""
    if x.dim() != 4 or x.dtype != torch.float32 or x.device.type != "cpu":
        return False
    images, channels, height, width = x.shape
    if channels == 0 or images * height * width < 2:  # one value has no variance
        return False
    return not pool or min(height, width) >= 2


def batch_norm(  # noqa: PLR0913, the arguments of PyTorch's, and what follows it
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    momentum: float,
    eps: float,
    residual: Tensor | None = None,
    relu: bool = False,
    pool: bool = False,
) -> Tensor:
    """Batch normalisation by the statistics of the batch, then ``+ residual``, ReLU and 2x2 max-pooling as asked.

    ``batch_norm(x, bn.weight, bn.bias, bn.running_mean, bn.running_var, momentum=0.1, eps=1e-5, relu=True)`` is
    ``relu(bn(x))`` for an ``nn.BatchNorm2d`` in training, and moves the running statistics in the same way.

    Args:
        x: float32 [images, channels, height, width] for which ``can_normalise`` holds.
        weight: [channels]; None is ones, as a ``bias`` of None is zeros.
        running_mean: [channels], changed in place, as ``running_var`` is; None keeps none.
        residual: the shape of ``x``; not together with ``pool``.
        pool: halve height and width, rounded down; only with ``relu``.

    Returns:
        float32 [images, channels, height, width], halved where pooled, in channels_last.

    Raises:
        ValueError: a residual of another shape, or pooling with a residual or without ReLU.
    Source: Ioffe & Szegedy 2015, arXiv 1502.03167.
    """
    if pool and (residual is not None or not relu):
        raise ValueError("pooling is fused only behind ReLU and without a residual")
    x = x.contiguous(memory_format=torch.channels_last)
    if residual is not None:
        if residual.shape != x.shape or residual.dtype != x.dtype:
            raise ValueError(
                f"the residual must be float32 {tuple(x.shape)}; received {residual.dtype} {tuple(residual.shape)}"
            )
        residual = residual.contiguous(memory_format=torch.channels_last)
    how = _How(momentum, eps, relu, pool)
    return _BatchNorm.apply(x, residual, weight, bias, (running_mean, running_var), how)  # type: ignore[no-any-return]


def relu_pool(x: Tensor) -> Tensor:
    """``max_pool2d(relu(x), 2)`` in one pass each way, for networks without normalisation.

    Args:
        x: float32 [images, channels, height, width] for which ``can_normalise(x, pool=True)`` holds.

    Returns:
        float32 [images, channels, height // 2, width // 2] in channels_last.
    """
    return _ReLUPool.apply(x.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]


class _Plan(NamedTuple):
    """How a picture is cut into tasks. It depends on the shape only, so the sums do not depend on the threads."""

    tasks: int
    fields: dict[str, int]

    @classmethod
    def of(cls, x: Tensor, *, pool: bool) -> _Plan:
        images, channels, height, width = x.shape
        out_height, out_width = (height // 2, width // 2) if pool else (height, width)
        rows, row_values = (images * out_height, 2 * width * channels) if pool else (images * height * width, channels)
        block = max(1, TASK_BYTES // (row_values * x.element_size()))
        return cls(
            tasks=-(-rows // block),
            fields={
                "rows": rows, "block": block, "channels": channels, "pool": int(pool),
                "height": height, "width": width, "out_height": out_height, "out_width": out_width,
            },
        )  # fmt: skip

    def output(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], x.shape[1], self.fields["out_height"], self.fields["out_width"])
        return torch.empty(shape, memory_format=torch.channels_last)

    def sums(self) -> Doubles:
        zeros: Doubles = torch.zeros(self.tasks, 2, self.fields["channels"], dtype=torch.float64).numpy()
        return zeros


class _How(NamedTuple):
    momentum: float
    eps: float
    relu: bool
    pool: bool


# These operators are defined by their schemas: calling such a one costs a third of calling a ``custom_op``, and a
# network of small pictures makes hundreds of calls a step. Their gradients are those of the functions below, which
# alone call them.
torch.library.define(
    "convatlas::batch_norm",
    "(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, float eps, bool relu, bool pool)"
    " -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "convatlas::batch_norm_backward",
    "(Tensor gradient, Tensor x, Tensor? output, Tensor moments, Tensor constants, bool relu, bool pool) -> Tensor[]",
)
torch.library.define("convatlas::relu_pool", "(Tensor x) -> Tensor")
torch.library.define("convatlas::relu_pool_backward", "(Tensor gradient, Tensor x) -> Tensor")


@torch.library.impl("convatlas::batch_norm", "CPU")
def _forward(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float, relu: bool, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs; of each channel mean, variance and inverse deviation in float64; centre, scale and shift."""
    mean, variance = _statistics(x)
    inverse = _inverse_deviation(variance, eps)
    constants = torch.from_numpy(_forward_constants(mean, inverse, weight, bias))
    y = _normalised(x, residual, constants, relu=relu, pool=pool)
    return y, torch.from_numpy(np.stack([mean, variance, inverse])), constants


@torch.library.register_fake("convatlas::batch_norm")  # type: ignore[untyped-decorator]
def _(
    x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float, relu: bool, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    channels = x.shape[1]
    moments, constants = x.new_empty(3, channels, dtype=torch.float64), x.new_empty(3, channels)
    return _Plan.of(x, pool=pool).output(x), moments, constants


@torch.library.impl("convatlas::relu_pool", "CPU")
def _relu_pool(x: Tensor) -> Tensor:
    return _normalised(x, None, _identity(x.shape[1]), relu=True, pool=True)


@torch.library.register_fake("convatlas::relu_pool")  # type: ignore[untyped-decorator]
def _(x: Tensor) -> Tensor:
    return _Plan.of(x, pool=True).output(x)


def _normalised(x: Tensor, residual: Tensor | None, constants: Tensor, *, relu: bool, pool: bool) -> Tensor:
    plan = _Plan.of(x, pool=pool)
    y = plan.output(x)
    run(
        NORMALISE, tasks=plan.tasks, x=x.data_ptr(), y=y.data_ptr(), residual=_address(residual),
        constants=constants.data_ptr(), relu=int(relu), **plan.fields,
    )  # fmt: skip
    return y


@torch.library.impl("convatlas::batch_norm_backward", "CPU")
def _backward(
    gradient: Tensor, x: Tensor, output: Tensor | None, moments: Tensor, constants: Tensor, relu: bool, pool: bool
) -> list[Tensor]:
    """The gradients of x, weight and bias; and where there is an output, the gradient behind its ReLU."""
    plan = _Plan.of(x, pool=pool)
    sums = plan.sums()
    masked = gradient if output is None else torch.empty_like(x, memory_format=torch.channels_last)
    run(
        SUM_GRADIENT, tasks=plan.tasks, x=x.data_ptr(), dy=gradient.data_ptr(), output=_address(output),
        masked=masked.data_ptr(), constants=constants.data_ptr(), sums=sums.ctypes.data, relu=int(relu),
        **plan.fields,
    )  # fmt: skip
    mean, _, inverse = moments.numpy()
    ends = _backward_ends(sums, mean, inverse, constants.numpy(), x.numel() // x.shape[1])
    is_masked = int(relu and output is None)
    dx = _write_gradient(plan, x, masked, constants=ends.constants.ctypes.data, normalised=1, relu=is_masked)
    gradients = [dx, torch.from_numpy(ends.weight), torch.from_numpy(ends.bias)]
    return gradients if output is None else [*gradients, masked]


@torch.library.register_fake("convatlas::batch_norm_backward")  # type: ignore[untyped-decorator]
def _(
    gradient: Tensor, x: Tensor, output: Tensor | None, moments: Tensor, constants: Tensor, relu: bool, pool: bool
) -> list[Tensor]:
    dx, *masked = (torch.empty_like(x, memory_format=torch.channels_last) for _ in range(1 if output is None else 2))
    return [dx, x.new_empty(x.shape[1]), x.new_empty(x.shape[1]), *masked]


@torch.library.impl("convatlas::relu_pool_backward", "CPU")
def _relu_pool_backward(gradient: Tensor, x: Tensor) -> Tensor:
    constants = _identity(x.shape[1]).numpy()
    return _write_gradient(_Plan.of(x, pool=True), x, gradient, constants=constants.ctypes.data)


@torch.library.register_fake("convatlas::relu_pool_backward")  # type: ignore[untyped-decorator]
def _(gradient: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        how: _How,
    ) -> Tensor:
        y, moments, constants = torch.ops.convatlas.batch_norm(x, residual, weight, bias, how.eps, how.relu, how.pool)
        count = x.numel() // x.shape[1]
        _move(running[0], moments[0], how.momentum)
        _move(running[1], moments[1] * (count / (count - 1)), how.momentum)
        # Behind a residual the mask of ReLU is in the output, which whatever comes next keeps anyway.
        ctx.save_for_backward(x, moments, constants, y if how.relu and residual is not None else None)
        ctx.relu, ctx.pool = how.relu, how.pool
        return cast(Tensor, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, moments, constants, output = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        dx, weight, bias, *masked = torch.ops.convatlas.batch_norm_backward(
            gradient, x, output, moments, constants, ctx.relu, ctx.pool
        )
        gradients = (dx, masked[0] if masked else gradient, weight, bias, None, None)
        wanted = zip(gradients, ctx.needs_input_grad, strict=True)
        return tuple(gradient if needed else None for gradient, needed in wanted)


class _ReLUPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return cast(Tensor, torch.ops.convatlas.relu_pool(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return cast(Tensor, torch.ops.convatlas.relu_pool_backward(gradient, x))


class _BackwardEnds(NamedTuple):
    constants: Floats  # [5, channels]
    weight: Floats
    bias: Floats


@_quietly
def _statistics(x: Tensor) -> tuple[Doubles, Doubles]:
    """Mean and variance of each channel, from the sums of the distances from the first pixel and of their squares.

    The first pixel is one of the values, so its distance from the mean is at most the standard deviation times the
    square root of their number: in float64 the difference of the two sums keeps its digits.
    Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", on shifted data.
    """
    plan = _Plan.of(x, pool=False)
    first = x[0, :, 0, 0].numpy()
    centre = np.where(np.isfinite(first), first, np.float32(0))
    sums = plan.sums()
    run(
        MEASURE, tasks=plan.tasks, x=x.data_ptr(), centre=centre.ctypes.data, sums=sums.ctypes.data,
        pixels=plan.fields["rows"], block=plan.fields["block"], channels=plan.fields["channels"],
    )  # fmt: skip
    distance, squares = sums.sum(axis=0) / plan.fields["rows"]
    return centre + distance, np.maximum(squares - distance * distance, 0)


@_quietly
def _inverse_deviation(variance: Doubles, eps: float) -> Doubles:
    return np.asarray(1 / np.sqrt(variance + eps))


def _move(running: Tensor | None, value: Tensor, momentum: float) -> None:
    if running is not None:
        running.copy_((1 - momentum) * running.double() + momentum * value)


@_quietly
def _forward_constants(mean: Doubles, inverse: Doubles, weight: Tensor | None, bias: Tensor | None) -> Floats:
    """Centre, scale and shift of each channel: the output is ``(x - centre) * scale + shift``."""
    scale = inverse if weight is None else inverse * weight.detach().numpy()
    shift = np.zeros_like(mean) if bias is None else bias.detach().numpy()
    constants = np.empty((3, len(mean)), np.float32)
    constants[0] = mean
    constants[1] = scale
    constants[2] = shift - (mean - constants[0]) * scale  # with what float32 has rounded off the mean
    return constants


@_quietly
def _backward_ends(sums: Doubles, mean: Doubles, inverse: Doubles, constants: Floats, count: int) -> _BackwardEnds:
    """What the sums over the gradient g of the normalised values come to.

    With n values, mean m, inverse deviation r and x^ = (x - m) r, the gradient of x is
    ``weight * r * (g - sum(g) / n - x^ * sum(g * x^) / n)``.
    """
    rounded_off = mean - constants[0]
    scale = constants[1]
    bias, products = sums.sum(axis=0)
    weight = inverse * (products - rounded_off * bias)
    slope = -scale * inverse * weight / count
    offset = -scale * bias / count - slope * rounded_off
    rows = np.concatenate([constants, np.stack([slope, offset]).astype(np.float32)])
    return _BackwardEnds(rows, weight.astype(np.float32), bias.astype(np.float32))


def _write_gradient(plan: _Plan, x: Tensor, gradient: Tensor, *, relu: int = 1, **fields: int) -> Tensor:
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    run(
        WRITE_GRADIENT, tasks=plan.tasks, x=x.data_ptr(), dy=gradient.data_ptr(), dx=dx.data_ptr(), relu=relu,
        **fields, **plan.fields,
    )  # fmt: skip
    return dx


def _identity(channels: int) -> Tensor:
    """The constants of a normalisation that changes nothing: centre 0, scale 1, shift 0."""
    constants = torch.zeros(3, channels)
    constants[1] = 1
    return constants


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
