"""Pictures as the engine's kernels meet them, and how far a result is from the truth."""

from __future__ import annotations

import torch
from torch import Tensor

GUARD = float("nan")  # lies around a part of a picture: whoever reads or writes beyond the part is found out


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(*shape: int, seed: int = 0) -> Tensor:
    return numbers(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


def part_of_larger(tensor: Tensor) -> Tensor:
    """The same values as some channels, rows and columns of a larger picture of NaN."""
    images, channels, height, width = tensor.shape
    larger = torch.full((images, channels + 24, height + 3, width + 2), GUARD)
    larger = larger.contiguous(memory_format=torch.channels_last)
    part = larger[:, 8 : 8 + channels, 1 : 1 + height, 2 : 2 + width]
    return part.copy_(tensor)


def surroundings(part: Tensor) -> Tensor:
    """What lies around a part of a larger picture, a number for each value: 1 where it was written to."""
    whole = part._base
    assert whole is not None
    inside = torch.zeros_like(whole, dtype=torch.bool)
    inside.as_strided(part.shape, part.stride(), part.storage_offset()).fill_(True)
    return ~whole[~inside].isnan()


def relative_error(got: Tensor, expected: Tensor) -> float:
    """The largest error, as a share of the largest value."""
    assert got.shape == expected.shape
    worst = (got.detach().double() - expected.detach()).abs().max()
    return float(worst / expected.detach().abs().max().clamp_min(1e-300))


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))
