"""PyTorch's own convolution as one of the kernels that can do a layer: oneDNN's, its weight laid out once.

Where this PyTorch has no oneDNN, or names its operators otherwise, it is the convolution that everybody calls.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from convatlas.engine.convolutions import Epilogue, Geometry
from convatlas.engine.jobs import RELU, RELU6


def lay_out(geometry: Geometry, weight: Tensor, like: Tensor) -> Tensor | None:
    """A weight [out, in / groups, h, w] as oneDNN wants it for inputs like ``like``; None where it cannot be had."""
    padding, stride, dilation = list(geometry.padding), [geometry.stride] * 2, [geometry.dilation] * 2
    try:
        made: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            weight, padding, stride, dilation, geometry.groups, list(like.shape)
        )
    except (AttributeError, RuntimeError, NotImplementedError):
        return None
    return made


def convolve(
    geometry: Geometry, x: Tensor, weight: Tensor, y: Tensor, epilogue: Epilogue, *, laid_out: bool
) -> Callable[[], object]:
    """A call that convolves ``x`` into ``y`` by PyTorch.

    Args:
        geometry: the layer.
        x, y: the pictures.
        weight: [out, in / groups, h, w], as ``lay_out`` has made it where ``laid_out``.
        epilogue: what follows.
    """
    padding, stride, dilation = list(geometry.padding), [geometry.stride] * 2, [geometry.dilation] * 2

    def call() -> None:
        if laid_out:  # without its own ReLU, which makes zeros of NaN
            made = torch.ops.mkldnn._convolution_pointwise(
                x, weight, epilogue.bias, padding, stride, dilation, geometry.groups, "none", [], ""
            )
        else:
            made = functional.conv2d(x, weight, epilogue.bias, stride, padding, dilation, geometry.groups)
        y.copy_(finished(made, epilogue))

    return call


def finished(made: Tensor, epilogue: Epilogue) -> Tensor:
    """What follows a convolution, by PyTorch; in the memory of ``made`` as far as it can be."""
    if epilogue.residual is not None:
        made += epilogue.residual
    made = activate(made, epilogue.activation)
    return functional.max_pool2d(made, 2) if epilogue.pool else made


def activate(made: Tensor, activation: int) -> Tensor:
    """ReLU or ReLU6 in place, if it is one."""
    if activation == RELU:
        return made.relu_()
    return made.clamp_(0, 6) if activation == RELU6 else made
