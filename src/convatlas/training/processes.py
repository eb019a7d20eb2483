"""One process or many (``torchrun``, ``accelerate launch``): who writes, and how the others learn of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

T = TypeVar("T")


def has_accelerator() -> bool:
    """Whether there is a GPU that PyTorch can train on."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def processes() -> PartialState:
    """This process's place among those that train together, and its device."""
    return PartialState(cpu=not has_accelerator())


def is_main() -> bool:
    """Whether this process is the one that writes files and prints."""
    return bool(processes().is_main_process)


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the first process run the block before the others: it fills the cache that they then read."""
    with processes().main_process_first():
        yield


def made_by_main(make: Callable[[], T]) -> T:
    """What ``make`` returns in the first process, in every process; it is called only there."""
    shared = [make() if is_main() else None]
    if processes().num_processes > 1:
        broadcast_object_list(shared)
    return shared[0]  # type: ignore[return-value]  # the first process put a T there
