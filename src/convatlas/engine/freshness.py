"""Whether a network is still what a program was made from.

A program keeps copies of weights and of settings. Before each call it is asked whether any of these has changed, in the
ways that people change networks: optimizers, ``load_state_dict``, writes through ``.data`` or a NumPy view, exchanged
layers, another ``eps``. Versions and addresses show most; for the rest, values are sampled across the whole length of
every tensor, at least one of each output channel. What a sample misses, such as one weight among many set to zero
behind PyTorch's back, is for ``Accelerated.refresh``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from convatlas.engine import threads
from convatlas.engine.jobs import FINGERPRINT

EVERY_VALUE = 64  # of a tensor no longer than that
MOST_VALUES = 4096  # of one tensor
GOLDEN = 0.6180339887  # the share of a row by which its sample moves on from one to the next

FLOAT = 4  # bytes
SIMPLE = (int, float, bool, str, bytes, type(None), tuple, torch.Size, torch.dtype)
GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


class Form:
    """A network's layers and their settings at one moment."""

    def __init__(self, model: nn.Module) -> None:
        self.parts = list(model.modules())
        self._checks = [_check_of(part) for part in self.parts]
        self._before = [check() for check in self._checks]

    def holds(self) -> bool:
        """Whether the layers and settings are what they were."""
        return all(check() == before for check, before in zip(self._checks, self._before, strict=True))


class Values:
    """The numbers in a network's parameters and buffers at one moment.

    ``are_readable`` is false where there are none that a kernel could read: on another device, or without memory.
    """

    def __init__(self, model: nn.Module) -> None:
        self._owners = [part._parameters for part in model.modules()] + [part._buffers for part in model.modules()]
        self._tensors = list(self._current())
        self._places = [_place_of(tensor) for tensor in self._tensors]
        self.are_readable = all(map(_is_readable, self._tensors))
        # Dense layers read their weights where they are, so nothing of those is kept
        dense = {id(part.weight) for part in model.modules() if type(part) is nn.Linear}
        sampled = [tensor for tensor in self._tensors if id(tensor) not in dense] if self.are_readable else []
        addresses = [_sample(tensor) for tensor in sampled if tensor.dtype == torch.float32]
        self._addresses = np.concatenate([np.empty(0, np.int64), *addresses])
        self._fingerprint = self._read()

    def hold(self) -> bool:
        """Whether they are what they were, as far as is looked."""
        now = list(self._current())
        if len(now) != len(self._tensors):
            return False
        for tensor, before, place in zip(now, self._tensors, self._places, strict=True):
            if tensor is not before or _place_of(tensor) != place:
                return False
        return self._read() == self._fingerprint

    def _current(self) -> Iterator[Tensor]:
        for owner in self._owners:
            for tensor in owner.values():
                if tensor is not None:
                    yield tensor

    def _read(self) -> int:
        count = len(self._addresses)
        if count == 0:
            return 0
        return int(threads.run(FINGERPRINT, tasks=1, places=self._addresses.ctypes.data, count=count).strange)


def is_watched(parts: Sequence[nn.Module]) -> bool:
    """Whether somebody wants to see the layers called, one by one."""
    return any(getattr(nn_module, name) for name in GLOBAL_HOOKS) or any(map(_has_hooks, parts))


def _has_hooks(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


def _check_of(part: nn.Module) -> Callable[[], tuple[Any, ...]]:
    """What a part says of its form."""
    children, attributes = part._modules, vars(part)
    is_pytorchs = type(part).__module__.startswith("torch.nn.")
    settings = _settings(part) if is_pytorchs else None

    def check() -> tuple[Any, ...]:
        layers = tuple(map(id, children.values()))
        if settings is not None:
            return type(part), layers, settings(part), attributes.get("forward")
        return type(part), layers, tuple(_simple(name, value) for name, value in attributes.items())

    return check


def _settings(part: nn.Module) -> Callable[[nn.Module], Any] | None:
    """Reads what PyTorch's own modules name as their constants, such as ``stride`` and ``eps``."""
    names = [name for name in getattr(part, "__constants__", ()) if hasattr(part, name)]
    return attrgetter(*names) if names else None


def _simple(name: str, value: Any) -> Any:
    """An attribute of somebody's own module: itself where it can be compared, else which object it is."""
    if name == "training":
        return None
    return (name, value) if isinstance(value, SIMPLE) else (name, id(value))


def _place_of(tensor: Tensor) -> tuple[Any, ...]:
    version = 0 if tensor.is_inference() else tensor._version
    return version, tensor.data_ptr() if tensor.device.type == "cpu" else 0, tensor.shape


def _is_readable(tensor: Tensor) -> bool:
    """Whether all its values lie in memory of this process."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return False
    if tensor.numel() == 0:
        return True
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return bool((tensor.storage_offset() + last + 1) * tensor.element_size() <= tensor.untyped_storage().nbytes())


def _sample(tensor: Tensor) -> Any:
    """The addresses of some of a tensor's values: all of a short one, else some of each row, up and down its length."""
    count = tensor.numel()
    if count <= EVERY_VALUE:
        chosen = np.arange(count)
    else:
        rows = min(max(EVERY_VALUE, tensor.shape[0]), MOST_VALUES, count)
        starts = np.arange(rows) * count // rows
        lengths = (np.arange(rows) + 1) * count // rows - starts
        inside = np.floor(np.modf(np.arange(rows) * GOLDEN)[0] * lengths).astype(np.int64)
        chosen = np.concatenate([starts + inside, [0, count - 1]])
    places = np.unravel_index(chosen, tuple(tensor.shape)) if tensor.dim() else ()
    offsets = sum(
        (place * stride for place, stride in zip(places, tensor.stride(), strict=True)), np.zeros(len(chosen), np.int64)
    )
    return tensor.data_ptr() + FLOAT * offsets
