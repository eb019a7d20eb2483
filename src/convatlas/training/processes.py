"""One process or many (``torchrun``, ``accelerate launch``): who writes, and how the others learn of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list

from convatlas.errors import RecipeError, shortened

T = TypeVar("T")


def has_accelerator() -> bool:
    """Whether there is a GPU that PyTorch can train on."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def processes() -> PartialState:
    """This process's place among those that train together, and its device."""
    return PartialState(cpu=not has_accelerator())


def known_device(name: str) -> torch.device:
    """A device of this machine by its name.

    Raises:
        RecipeError: it is no name of a device, or there is no such one here.
    """
    match = re.fullmatch(r"cpu|mps|cuda(?::(\d{1,4}))?", name) if isinstance(name, str) else None
    if match is None:
        raise RecipeError(f"a device is cpu, cuda, cuda:0 or mps; received {shortened(repr(name))}")
    if name == "mps" and not torch.backends.mps.is_available():
        raise RecipeError("there is no device mps: PyTorch finds no GPU of Apple's here. Leave it out, or use cpu")
    if name.startswith("cuda"):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(match[1] or 0) >= found:
            held = f"PyTorch finds {', '.join(f'cuda:{number}' for number in range(found)) or 'no CUDA GPU'} here"
            raise RecipeError(f"there is no device {name}: {held}. Leave it out, or use another")
        return torch.device("cuda", int(match[1]) if match[1] else torch.cuda.current_device())
    return torch.device(name)


@contextmanager
def on_device(name: str | None) -> Iterator[None]:
    """Train and judge on a device by its name within the block; on the one that is chosen anyway, without a name.

    >>> with on_device("cpu"):
    ...     processes().device
    device(type='cpu')

    Raises:
        RecipeError: there is no such device; or a launcher has given each process its own.
    """
    if name is None:
        yield
        return
    device, state = known_device(name), processes()
    if state.num_processes > 1:
        raise RecipeError(f"each of {state.num_processes} processes has its device from the launcher: leave {name} out")
    before = state.device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _settle_on(state, device)
    try:
        yield
    finally:
        _settle_on(state, before)
        if before.type == "cuda":
            torch.cuda.set_device(before)


def _settle_on(state: PartialState, device: torch.device) -> None:
    """Every later Accelerator finds the device in this state, which all of them share."""
    state.device = device
    AcceleratorState._reset_state(reset_partial_state=False)


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
