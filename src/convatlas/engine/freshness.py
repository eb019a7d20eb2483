"""Whether a network is still what a program was made from.

A program keeps copies of weights and of settings. Before each call it is asked whether any of these has changed, in the
ways that people change networks: optimizers, ``load_state_dict``, writes through ``.data`` or a NumPy view, exchanged
layers, another ``eps``. Versions and addresses show most. For the rest the values themselves are looked at: all of a
normalisation's and of a bias, and in a large weight some of each output channel, across its whole length. What that
misses, such as one weight among many set to zero behind PyTorch's back, is for ``Accelerated.refresh``.

All of it stands between a person and every prediction, so the loops here are Python's own, over lists made beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from convatlas.engine import threads
from convatlas.engine.jobs import FINGERPRINT

SHORT = 8192  # values of a tensor that are all looked at
LEAST_SHARES = 32  # of a longer one; at least as many as it has output channels
VALUES = 2  # that are looked at in a share: so many in all that a slice along the other channels is seen as well
GOLDEN = 0.6180339887  # the part of a share by which a place moves on from one to the next: it leaves no gaps

FLOAT = 4  # bytes
COMPARED = (
    int,
    float,
    str,
    bytes,
    tuple,
    torch.dtype,
)  # what is the same if it is equal; else it must be the same object
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS = tuple(getattr(nn_module, f"_global{name}") for name in HOOKS)

_is_training = attrgetter("training")
_version = attrgetter("_version")


class Form:
    """A network's layers and their settings at one moment.

    ``is_plain`` is false where somebody has put another method in the place of a layer's ``forward``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parts: list[nn.Module] = list(model.modules())
        self._attributes = [vars(part) for part in self.parts]
        self._hooks = [attributes[name] for attributes in self._attributes for name in HOOKS] + list(GLOBAL_HOOKS)
        self._children = [attributes["_modules"] for attributes in self._attributes]
        self._readers = _readers_of(self.parts)
        self._before = self._now()
        self.is_plain = not any("forward" in attributes for attributes in self._attributes)

    @property
    def is_watched(self) -> bool:
        """Whether somebody wants to see the layers called, one by one."""
        return any(self._hooks)

    @property
    def has_part_in_training(self) -> bool:
        """Whether any part is."""
        return any(map(_is_training, self.parts))

    @property
    def training_flags(self) -> tuple[bool, ...]:
        """Which parts are in training."""
        return tuple(map(_is_training, self.parts))

    def holds(self) -> bool:
        """Whether the layers and settings are what they were."""
        return _are_the_same(self._now(), self._before)

    def _now(self) -> list[Any]:
        children = chain.from_iterable(map(dict.values, self._children))
        sizes = map(len, self._attributes)  # one more where somebody has given a part an attribute
        settings = chain.from_iterable(chain.from_iterable(map(read, parts)) for read, parts in self._readers)
        return [*children, *map(type, self.parts), *sizes, *settings]


class Values:
    """The numbers in a network's parameters and buffers at one moment.

    ``are_readable`` is false where there are none that a kernel could read: on another device, or without memory.
    """

    def __init__(self, model: nn.Module) -> None:
        parts = list(model.modules())
        self._owners: list[dict[str, Any]] = [each for part in parts for each in (part._parameters, part._buffers)]
        self._found = list(self._held())
        self._tensors = [tensor for tensor in self._found if tensor is not None]
        self._placed = [tensor for tensor in self._tensors if tensor.device.type == "cpu"]
        self._counted = [tensor for tensor in self._placed if not tensor.is_inference()]  # others have no version
        self._before = self._now()
        self.are_readable = all(map(_is_readable, self._tensors))
        # Dense layers read their weights where they are, so that nothing of those is kept.
        dense = {id(part.weight) for part in parts if type(part) is nn.Linear}
        looked_at = [tensor for tensor in self._tensors if id(tensor) not in dense and tensor.dtype == torch.float32]
        self._samples = _Samples(looked_at if self.are_readable else [])

    def hold(self) -> bool:
        """Whether they are what they were, as far as is looked."""
        found = list(self._held())
        if len(found) != len(self._found) or not all(map(is_, found, self._found)):
            return False
        return self._now() == self._before and self._samples.hold()

    def _held(self) -> Iterable[Tensor | None]:
        return chain.from_iterable(map(dict.values, self._owners))

    def _now(self) -> list[Any]:
        places = map(Tensor.data_ptr, self._placed)
        sizes = (*map(Tensor.numel, self._placed), *map(Tensor.stride, self._placed))
        return [*places, *map(_version, self._counted), *sizes]


class _Samples:
    """The bits of some values, mixed into one number by a kernel: whole tensors, and places in longer ones."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        short = [tensor for tensor in tensors if tensor.numel() <= SHORT and _is_in_one_piece(tensor)]
        long = [tensor for tensor in tensors if tensor.numel() > SHORT or not _is_in_one_piece(tensor)]
        ranges = [(tensor.data_ptr(), tensor.numel()) for tensor in short]
        self._ranges = np.array(ranges, np.int64).reshape(-1, 2)
        self._places = np.concatenate([np.empty(0, np.int64), *map(_some_places, long)])
        self._job = threads.Job(
            FINGERPRINT,
            tasks=1,
            owners=(self._ranges, self._places),
            ranges=self._ranges.ctypes.data,
            range_count=len(self._ranges),
            places=self._places.ctypes.data,
            place_count=len(self._places),
        )
        self._before = self._read()

    def hold(self) -> bool:
        """Whether the values are what they were."""
        return self._read() == self._before

    def _read(self) -> int:
        return int(self._job.run().strange)


def _readers_of(parts: Sequence[nn.Module]) -> list[tuple[Callable[[Any], tuple[Any, ...]], list[nn.Module]]]:
    """What reads the settings of a part, and the parts that have those settings."""
    names = {id(part): _settings_of(part) for part in parts}
    groups: dict[tuple[str, ...], list[nn.Module]] = {}
    for part in parts:
        groups.setdefault(names[id(part)], []).append(part)
    # with one name alone a reader would give the value itself, not a tuple of it
    return [(attrgetter(*found, "__class__"), members) for found, members in groups.items() if found]


def _settings_of(part: nn.Module) -> tuple[str, ...]:
    """PyTorch's own modules name their settings, such as ``stride`` and ``eps``; of others, every attribute is one."""
    if type(part).__module__.startswith("torch.nn."):
        return tuple(name for name in getattr(part, "__constants__", ()) if hasattr(part, name))
    return tuple(name for name in vars(part) if not name.startswith("_") and name != "training" and name.isidentifier())


def _are_the_same(now: Sequence[Any], before: Sequence[Any]) -> bool:
    if len(now) != len(before):
        return False
    if all(map(is_, now, before)):
        return True
    return all(
        one is other or (isinstance(one, COMPARED) and type(one) is type(other) and one == other)
        for one, other in zip(now, before, strict=True)
    )


def _is_readable(tensor: Tensor) -> bool:
    """Whether all its values lie in memory of this process."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        return False
    if tensor.numel() == 0:
        return True
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return bool((tensor.storage_offset() + last + 1) * tensor.element_size() <= tensor.untyped_storage().nbytes())


def _is_in_one_piece(tensor: Tensor) -> bool:
    """Whether its values lie side by side, in whatever order."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.numel() == span or tensor.numel() == 0


def _some_places(tensor: Tensor) -> Any:
    """Addresses of some of a tensor's values: a few in each of many equal shares, here and there, and both ends."""
    count = tensor.numel()
    shares = min(max(LEAST_SHARES, tensor.shape[0]), count)
    edges = np.arange(shares + 1) * count // shares
    parts = np.modf(np.arange(VALUES * shares) * GOLDEN)[0].reshape(shares, VALUES)
    inside = edges[:-1, None] + np.floor(parts * np.diff(edges)[:, None]).astype(np.int64)
    places = np.unravel_index(np.concatenate([inside.ravel(), [0, count - 1]]), tuple(tensor.shape))
    return tensor.data_ptr() + FLOAT * (np.stack(places).T @ np.array(tensor.stride(), np.int64))
