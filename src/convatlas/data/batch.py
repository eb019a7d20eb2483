"""What batches of images and of rows have in common: a process's share, and random numbers that a key decides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ORDER, AUGMENTATION = 1, 2  # streams of random numbers: the same key gives each other draws


@dataclass(frozen=True)
class Batch:
    """One process's share of a batch: images float32 [n, C, s, s], channels last, and their labels int64 [n].

    ``global_size`` is the number of images that all processes together have in it. With ten crops, images are
    [n, 10, C, s, s].
    """

    inputs: Tensor
    targets: Tensor
    global_size: int


@dataclass(frozen=True)
class Place:
    """Where batches are wanted: on which device, and in which process, ``rank`` of ``world`` that share every batch."""

    device: torch.device
    rank: int = 0
    world: int = 1


def share_of(total: int, rank: int, world: int) -> slice:
    """The part of a batch of ``total`` that process ``rank`` of ``world`` is given; the parts differ by one at most.

    >>> [share_of(10, rank, 3) for rank in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    return slice(total * rank // world, total * (rank + 1) // world)


def generator(*key: int) -> torch.Generator:
    """Random numbers that depend on nothing but the key.

    >>> torch.equal(torch.rand(3, generator=generator(1, 2)), torch.rand(3, generator=generator(1, 2)))
    True
    """
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed)
