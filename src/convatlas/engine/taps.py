"""A 3x3 convolution of maps of a few pixels, as products of PyTorch's: one for each tap of the kernel.

On a map of 2x2 five of nine taps of a direct sum multiply the zeros around it, and a Winograd tile is mostly empty.
Here each tap is a matrix product over those outputs alone whose input lies inside the map, and so are both gradients.
Maps are [N, C, H, W].
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MOST_PIXELS = 9  # of a map: with more of them a direct sum multiplies few zeros


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """``conv2d(x, weight, bias, padding=padding)`` in ``torch.channels_last``; weight [O, C, 3, 3]."""
    pixels, of_tap = x.permute(0, 2, 3, 1), _by_taps(weight)
    high, wide = x.shape[2] + 2 * padding - 2, x.shape[3] + 2 * padding - 2
    y = _zeros(x, len(x), len(weight), high, wide)
    made = y.permute(0, 2, 3, 1)
    for row, column, inputs, outputs in _taps(x.shape[2:], padding):
        part = pixels[:, inputs[0], inputs[1]]
        made[:, outputs[0], outputs[1]] += torch.matmul(part, of_tap[row, column].t())
    return y if bias is None else y.add_(bias[:, None, None])


def input_gradient(gradient: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The gradient [N, C, H, W] of ``x``, from that of the outputs."""
    size = (gradient.shape[2] + 2 - 2 * padding, gradient.shape[3] + 2 - 2 * padding)
    pixels, of_tap = gradient.permute(0, 2, 3, 1), _by_taps(weight)
    x = _zeros(gradient, len(gradient), weight.shape[1], *size)
    made = x.permute(0, 2, 3, 1)
    for row, column, inputs, outputs in _taps(size, padding):
        part = pixels[:, outputs[0], outputs[1]]
        made[:, inputs[0], inputs[1]] += torch.matmul(part, of_tap[row, column])
    return x


def weight_gradient(x: Tensor, gradient: Tensor, padding: int) -> Tensor:
    """The gradient [O, C, 3, 3] of the weight, in ``torch.channels_last``."""
    inputs_of, outputs_of = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    weight = _zeros(x, gradient.shape[1], x.shape[1], 3, 3)
    made = weight.permute(0, 2, 3, 1)
    for row, column, inputs, outputs in _taps(x.shape[2:], padding):
        part = inputs_of[:, inputs[0], inputs[1]].reshape(-1, x.shape[1])
        of_part = outputs_of[:, outputs[0], outputs[1]].reshape(-1, gradient.shape[1])
        made[:, row, column] = torch.mm(of_part.t(), part)
    return weight


def _by_taps(weight: Tensor) -> Tensor:
    """A matrix [O, C] for each tap, whose rows are in one piece: products would copy others every time."""
    return weight.contiguous(memory_format=torch.channels_last).permute(2, 3, 0, 1)


def _zeros(like: Tensor, *shape: int) -> Tensor:
    """Not a view of another tensor: whoever gets it may change it in place."""
    made = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
    return made.zero_()


def _taps(size: torch.Size | tuple[int, int], padding: int) -> Iterator[tuple[int, int, list[slice], list[slice]]]:
    """Row and column of each tap, with the inputs that it meets and the outputs that these go to."""
    for row in range(3):
        for column in range(3):
            spans = [_span(size[0], row, padding), _span(size[1], column, padding)]
            if all(first < last for first, last in spans):
                inputs = [slice(first, last) for first, last in spans]
                moved = zip(spans, (row, column), strict=True)
                outputs = [slice(first + padding - tap, last + padding - tap) for (first, last), tap in moved]
                yield row, column, inputs, outputs


def _span(size: int, tap: int, padding: int) -> tuple[int, int]:
    """The first input that a tap meets, and the one after the last, along one side."""
    outputs = size + 2 * padding - 2
    return max(0, tap - padding), min(size, outputs + tap - padding)
