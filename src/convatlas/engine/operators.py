"""The 3x3 convolution as an operator of PyTorch, with gradients: ``torch.ops.convatlas.conv3x3``.

>>> y = conv3x3(images, weight, bias, padding=1)   # doctest: +SKIP

float32 pictures on the CPU are convolved by the kernels; float64 is computed by ``reference``, with the same formulas,
so that ``gradcheck`` checks them; anything else goes to PyTorch's own convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from convatlas.engine import convolutions, reference, taps
from convatlas.engine.convolutions import (
    LEAST_CHANNELS,
    Epilogue,
    Geometry,
    empty_picture,
    is_picture,
    pack_weight,
    transform_weight,
)


@torch.library.custom_op("convatlas::conv3x3", mutates_args=())
def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, winograd: bool = True) -> Tensor:
    """``torch.nn.functional.conv2d(x, weight, bias, padding=padding)`` by Winograd's minimal filtering.

    Args:
        x: [N, C, H, W], fastest in ``torch.channels_last``.
        weight: [O, C, 3, 3].
        bias: [O], or None.
        padding: zeros on each side: 0 or 1, or 2 for the gradient of the former.
        winograd: false for a product for each tap, which is faster on maps of a few pixels.

    Source: Lavin & Gray 2015 (arXiv 1509.09308), section 4.
    """
    if x.dtype == torch.float64 and x.numel() > 0:
        y = _as_said(reference.convolve(x, weight, padding))
        return y if bias is None else y + bias[:, None, None]
    if not winograd and _goes_by_taps(_geometry(weight, padding), x, weight):
        return taps.convolve(x, weight, bias, padding)
    made = _convolve(_geometry(weight, padding), x, weight, bias, turned=False)
    return _as_said(functional.conv2d(x, weight, bias, padding=padding)) if made is None else made


@torch.library.custom_op("convatlas::conv3x3_input_gradient", mutates_args=())
def input_gradient(gradient: Tensor, weight: Tensor, padding: int, winograd: bool = True) -> Tensor:
    """The gradient [N, C, H, W] of the input: a convolution of ``gradient`` with the weight turned round."""
    if gradient.dtype == torch.float64 and gradient.numel() > 0:
        turned = weight.flip(2, 3).transpose(0, 1)
        return _as_said(reference.convolve(gradient, turned, 2 - padding))
    geometry = _geometry(weight.transpose(0, 1), 2 - padding)
    if not winograd and _goes_by_taps(geometry, gradient, weight.transpose(0, 1)):
        return taps.input_gradient(gradient, weight, padding)
    made = _convolve(geometry, gradient, weight, None, turned=True)
    if made is not None:
        return made
    size = (gradient.shape[2] + 2 - 2 * padding, gradient.shape[3] + 2 - 2 * padding)
    x = gradient.new_empty((gradient.shape[0], weight.shape[1], *size)).contiguous(memory_format=torch.channels_last)
    return _as_said(_gradients_by_torch(gradient, x, weight, padding)[0])


@torch.library.custom_op("convatlas::conv3x3_weight_gradient", mutates_args=())
def weight_gradient(x: Tensor, gradient: Tensor, padding: int, winograd: bool = True) -> Tensor:
    """The gradient [O, C, 3, 3] of the weight."""
    if x.dtype == torch.float64 and gradient.numel() > 0:
        return _as_said(reference.weight_gradient(x, gradient, padding))
    geometry = Geometry(x.shape[1], gradient.shape[1], (3, 3), 1, (padding, padding))
    if not winograd and x.dtype == gradient.dtype == torch.float32:
        return taps.weight_gradient(x, gradient, padding)
    if _is_ours(geometry, x) and gradient.numel() > 0:
        made = convolutions.weight_gradient(geometry, _as_picture(x), _as_picture(gradient))
        if made is not None:
            return made
    weight = x.new_empty((gradient.shape[1], x.shape[1], 3, 3)).contiguous(memory_format=torch.channels_last)
    return _as_said(_gradients_by_torch(gradient, x, weight, padding, of_weight=True)[1])


def _goes_by_taps(geometry: Geometry, x: Tensor, weight: Tensor) -> bool:
    """Whether sizes and types fit together; what does not, PyTorch refuses in words."""
    return (
        x.dim() == 4
        and x.shape[1] == geometry.channels
        and x.dtype == weight.dtype == torch.float32
        and min(geometry.output_size(x.shape[2], x.shape[3])) > 0
    )


def _gradients_by_torch(
    gradient: Tensor, x: Tensor, weight: Tensor, padding: int, *, of_weight: bool = False
) -> tuple[Tensor, Tensor]:
    """The gradient of the input, or of the weight; of the other tensor only the shape matters."""
    both, wanted = [padding, padding], [not of_weight, of_weight, False]
    for_x, for_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], both, [1, 1], False, [0, 0], 1, wanted
    )
    return for_x, for_weight


def _convolve(geometry: Geometry, x: Tensor, weight: Tensor, bias: Tensor | None, *, turned: bool) -> Tensor | None:
    """By the kernels; None where they do not apply, or where infinities and NaN must spread as in a direct sum."""
    high, wide = geometry.output_size(x.shape[2], x.shape[3])
    if not _is_ours(geometry, x) or min(high, wide) < 1 or not _fit(geometry, weight, bias):
        return None
    y = empty_picture(x.shape[0], geometry.out_channels, high, wide)
    transformed = transform_weight(weight, turned=turned, reuse=True)
    bias = None if bias is None else bias.detach().contiguous()
    return y if convolutions.winograd(geometry, _as_picture(x), transformed, y, Epilogue(bias))() else None


def _is_ours(geometry: Geometry, x: Tensor) -> bool:
    is_picture_of_it = x.dim() == 4 and x.shape[1] == geometry.channels
    return (
        min(geometry.channels, geometry.out_channels) >= LEAST_CHANNELS
        and is_picture_of_it
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() > 0
    )


def _fit(geometry: Geometry, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether PyTorch would take them too: what it refuses, it refuses in words, and the kernels check nothing."""
    if weight.dtype != torch.float32 or weight.shape[2:] != geometry.kernel:
        return False
    return bias is None or (bias.dtype == torch.float32 and bias.shape == (geometry.out_channels,))


def _as_said(made: Tensor) -> Tensor:
    """In the layout that the stand-ins below promise, whoever computed it."""
    return made.contiguous(memory_format=torch.channels_last)


def _as_picture(x: Tensor) -> Tensor:
    return x if is_picture(x) else x.contiguous(memory_format=torch.channels_last)


def _geometry(weight: Tensor, padding: int) -> Geometry:
    return Geometry(weight.shape[1], weight.shape[0], (3, 3), 1, (padding, padding))


@conv3x3.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, winograd: bool = True) -> Tensor:
    shape = (x.shape[0], weight.shape[0], x.shape[2] + 2 * padding - 2, x.shape[3] + 2 * padding - 2)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@input_gradient.register_fake
def _(gradient: Tensor, weight: Tensor, padding: int, winograd: bool = True) -> Tensor:
    size = (gradient.shape[2] + 2 - 2 * padding, gradient.shape[3] + 2 - 2 * padding)
    shape = (gradient.shape[0], weight.shape[1], *size)
    return torch.empty(shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last)


@weight_gradient.register_fake
def _(x: Tensor, gradient: Tensor, padding: int, winograd: bool = True) -> Tensor:
    shape = (gradient.shape[1], x.shape[1], 3, 3)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.padding, ctx.winograd = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
    for_x = input_gradient(gradient, weight, ctx.padding, ctx.winograd) if wants_x else None
    for_weight = weight_gradient(x, gradient, ctx.padding, ctx.winograd) if wants_weight else None
    for_bias = gradient.sum((0, 2, 3)) if wants_bias and ctx.has_bias else None
    return for_x, for_weight, for_bias, None, None


conv3x3.register_autograd(_backward, setup_context=_remember)


@torch.library.custom_op("convatlas::first_convolution", mutates_args=())
def first_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: list[int]) -> Tensor:
    """A convolution of images, of which no gradient is wanted: ``conv2d(x, weight, bias, stride, padding)``.

    Args:
        x: float32 [N, C, H, W] on the CPU, without a gradient.
        weight: [O, C, h, w], where O fills whole vectors.
        bias: [O], or None.
        stride: the same both ways.
        padding: zeros above and below, and at the sides.

    Raises:
        RuntimeError: another type, or sizes that do not fit together.
    """
    geometry = _any_geometry(weight, stride, padding)
    if x.dtype != torch.float32 or x.shape[1] != geometry.channels or not _fit(geometry, weight, bias):
        raise RuntimeError(
            f"a convolution of float32 images with {geometry.channels} channels, and a weight and bias of the same "
            f"dtype; received {x.dtype} {tuple(x.shape)}, {weight.dtype} {tuple(weight.shape)}, "
            f"{None if bias is None else (bias.dtype, *bias.shape)}"
        )
    y = empty_picture(x.shape[0], weight.shape[0], *geometry.output_size(x.shape[2], x.shape[3]))
    bias = None if bias is None else bias.detach().contiguous()
    convolutions.direct(geometry, _as_picture(x), pack_weight(weight.detach()), y, Epilogue(bias))()
    return y


@first_convolution.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: list[int]) -> Tensor:
    size = _any_geometry(weight, stride, padding).output_size(x.shape[2], x.shape[3])
    return empty_picture(x.shape[0], weight.shape[0], *size)


@torch.library.custom_op("convatlas::first_weight_gradient", mutates_args=())
def first_weight_gradient(x: Tensor, gradient: Tensor, kernel: list[int], stride: int, padding: list[int]) -> Tensor:
    """The gradient [O, C, h, w] of the weight of ``first_convolution``."""
    geometry = Geometry(x.shape[1], gradient.shape[1], (kernel[0], kernel[1]), stride, (padding[0], padding[1]))
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    return convolutions.direct_weight_gradient(geometry, _as_picture(x), gradient)


@first_weight_gradient.register_fake
def _(x: Tensor, gradient: Tensor, kernel: list[int], stride: int, padding: list[int]) -> Tensor:
    return empty_picture(gradient.shape[1], x.shape[1], kernel[0], kernel[1])


def _any_geometry(weight: Tensor, stride: int, padding: list[int]) -> Geometry:
    outputs, inputs, high, wide = weight.shape
    return Geometry(inputs, outputs, (high, wide), stride, (padding[0], padding[1]))


def _remember_first(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.stride, ctx.padding = inputs
    ctx.has_bias = bias is not None
    ctx.kernel = list(weight.shape[2:])
    ctx.save_for_backward(x)


def _backward_first(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    for_weight = first_weight_gradient(x, gradient, ctx.kernel, ctx.stride, ctx.padding)
    for_bias = gradient.sum((0, 2, 3)) if ctx.has_bias else None
    return None, for_weight, for_bias, None, None


first_convolution.register_autograd(_backward_first, setup_context=_remember_first)
