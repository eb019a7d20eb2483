"""What an operator takes for itself while it runs on a CPU, beside its inputs and outputs.

The rules are what PyTorch's kernels and oneDNN (its library of convolutions) do, found by recording their allocations.
An operator that is not named here takes nothing worth counting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

FLOAT = 4  # bytes
BLOCK = 8  # channels that oneDNN keeps together in a weight
SCRATCH = 12_464  # bytes that every convolution of oneDNN's takes, whatever its size
SUMS = 4  # times the weight that its general kernel asks for, for each thread

aten = torch.ops.aten


def workspace_bytes(operator: torch._ops.OpOverload, arguments: Sequence[Any]) -> int:
    """The most memory that an operator holds at once, less its inputs and its outputs.

    >>> image, weight = torch.empty(2, 64, 8, 8), torch.empty(64, 64, 3, 3)
    >>> arguments = (image, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    >>> workspace_bytes(torch.ops.aten.convolution.default, arguments) - weight.nbytes
    12464
    """
    rule = _RULES.get(operator)
    return rule(*arguments) if rule is not None else 0


def _convolution(images: Tensor, weight: Tensor, _bias: Tensor | None, *how: Any) -> int:
    """The weight is copied into blocks of output channels."""
    if _is_by_columns(images, weight, how):
        return len(images) * _columns(weight, _positions(images, weight, how)) + _copies(images, weight)
    return _in_blocks(weight, how[-1], outputs=True) + SCRATCH + _copies(images, weight)


def _convolution_backward(gradient: Tensor, images: Tensor, weight: Tensor, _bias: Any, *rest: Any) -> int:
    """First the gradient of the input, before there is one of the weight; then that of the weight, in blocks.

    Out of its blocks it is copied twice. Where the images have fewer rows than the kernel, only oneDNN's general kernel
    applies: every thread has sums of its own, and a copy of the image for each position of the kernel.
    """
    *how, groups, wanted = rest
    columns = _columns(weight, math.prod(gradient.shape[2:]))
    if _is_by_columns(images, weight, (*how, groups)):
        return len(images) * columns + _copies(images, weight, gradient)
    of_input = _in_blocks(weight, groups, inputs=True) + SCRATCH - weight.nbytes if wanted[0] else 0
    of_weight = _in_blocks(weight, groups, outputs=True, inputs=True) + weight.nbytes
    if images.dim() == 4 and images.shape[2] < weight.shape[2]:
        of_weight = torch.get_num_threads() * (SUMS * weight.nbytes + columns)
    return max(of_input, of_weight if wanted[1] else 0) + _copies(images, weight, gradient)


def _copies(images: Tensor, weight: Tensor, *others: Tensor) -> int:
    """What does not lie in memory as a convolution wants it is copied first."""
    layouts = [suggest_memory_format(tensor) for tensor in (images, weight)]
    layout = torch.channels_last if torch.channels_last in layouts else layouts[0]
    return sum(each.nbytes for each in (images, *others) if not each.is_contiguous(memory_format=layout))


def _is_by_columns(images: Tensor, weight: Tensor, how: Sequence[Any]) -> bool:
    """Whether PyTorch does it by a matrix product itself: what oneDNN has no kernel for, and the smallest."""
    names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    settings = dict(zip(names, how, strict=True))
    backend = torch._C._select_conv_backend(images, weight, bias=None, bias_sizes=None, **settings)
    is_product_as_it_is = weight.shape[2:].numel() == 1 and set(settings["stride"]) == {1}
    return backend.name == "Slow2d" and not is_product_as_it_is


def _columns(weight: Tensor, positions: int) -> int:
    """Bytes of one image, its pixels repeated for each position of the kernel."""
    return weight[0].numel() * positions * weight.element_size()


def _positions(images: Tensor, weight: Tensor, how: Sequence[Any]) -> int:
    """Of one image's outputs."""
    stride, padding, dilation = how[:3]
    sides = zip(images.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    return math.prod((side + 2 * pad - gap * (kernel - 1) - 1) // step + 1 for side, kernel, step, pad, gap in sides)


def _pool_backward(gradient: Tensor, images: Tensor, *rest: Any) -> int:
    """In the layout of the gradient that comes in; what lies in another is copied."""
    layout = suggest_memory_format(gradient)
    indices = [rest[-1]] if rest and isinstance(rest[-1], Tensor) else []
    return sum(tensor.nbytes for tensor in (images, *indices) if not tensor.is_contiguous(memory_format=layout))


def _in_blocks(weight: Tensor, groups: int, *, outputs: bool = False, inputs: bool = False) -> int:
    """Bytes of a weight whose channels are filled up to whole blocks; the few of an image are left as they are."""
    made, read = weight.shape[0] // groups, weight.shape[1]
    if max(made, read) < BLOCK and groups > 1:  # a depthwise convolution has blocks of groups
        return weight.nbytes if read == 1 else weight.nbytes * BLOCK * BLOCK // (made * read)
    filled = (_whole_blocks(made) if outputs else made) * (_whole_blocks(read) if inputs and read > 3 else read)
    return weight.nbytes // (made * read) * filled


def _whole_blocks(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK


_RULES: dict[torch._ops.OpOverload, Callable[..., int]] = {
    aten.convolution.default: _convolution,
    aten.convolution_backward.default: _convolution_backward,
    aten.max_pool2d_with_indices_backward.default: _pool_backward,
    aten.avg_pool2d_backward.default: _pool_backward,
    aten._adaptive_avg_pool2d_backward.default: _pool_backward,
}
