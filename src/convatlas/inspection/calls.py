"""Calls of operators without their tensors: what an operator was given, as shapes, and how that grows with a batch.

>>> one, two = (call_of(torch.ops.aten.relu.default, (torch.empty(images, 3),), {}) for images in (1, 2))
>>> growing = grow(one, 1, two, 2)
>>> growing.text, growing.at(64).tensors[0].shape
('aten.relu.default(float32[1*n,3]/3,1)', (64, 3))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @property
    def layout(self) -> tuple[Any, ...]:
        """What tells it from another form: strides of sides of one have no meaning."""
        steps = tuple(stride for side, stride in zip(self.shape, self.strides, strict=True) if side > 1)
        return self.shape, steps, self.dtype

    @property
    def bytes(self) -> int:
        """Of the memory from its first number to its last."""
        if 0 in self.shape:
            return 0
        last = sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        return (last + 1) * self.dtype.itemsize

    def make(self) -> Tensor:
        """A tensor of this form: of zeros, which are good indices too and never slow to compute with.

        They come from the system as zeros: no page of them is written, so that reading them takes no memory.
        """
        zeros = torch.from_numpy(np.zeros(self.bytes, np.uint8)).view(self.dtype)
        return zeros.as_strided(self.shape, self.strides)


Results = tuple[Form | None, ...]  # of a call; None for what is no tensor


@dataclass(frozen=True)
class Call:
    """What an operator was called with; tensors as their forms, lists as tuples."""

    operator: torch._ops.OpOverload
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    with_gradients: bool  # whether PyTorch was to remember it for a backward pass: some operators keep more then
    results: Results = field(default=(), compare=False)

    @property
    def tensors(self) -> list[Form]:
        """Those among its arguments."""
        return [leaf for leaf in _leaves((self.arguments, self.keywords)) if isinstance(leaf, Form)]

    @property
    def bytes(self) -> int:
        """Of the tensors it was given."""
        return sum(form.bytes for form in self.tensors)

    def prepare(self) -> Callable[[], Any]:
        """The same call with tensors of zeros, to be made."""
        arguments, keywords = _made(self.arguments), {name: _made(value) for name, value in self.keywords}
        return lambda: self.operator(*arguments, **keywords)


@dataclass(frozen=True)
class GrowingCall:
    """A call for any batch, from what two batches have shown.

    ``text`` names it: numbers that grow with the batch are written as so many times n.
    """

    first: Call
    second: Call
    batches: tuple[int, int]
    text: str

    def at(self, batch: int) -> Call:
        """The call for a batch."""
        first, second = ((each.arguments, each.keywords, each.results) for each in (self.first, self.second))
        parts = _between(first, second, lambda low, high: extended(batch, self.batches, (low, high)))
        arguments, keywords, results = parts
        return Call(self.first.operator, arguments, keywords, self.first.with_gradients, results)


def call_of(operator: torch._ops.OpOverload, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Call:
    """A call as it was made."""
    named = tuple((name, _form(value)) for name, value in sorted(keywords.items()))
    return Call(operator, tuple(map(_form, arguments)), named, torch.is_grad_enabled())


def results_of(made: Any) -> Results:
    """The forms of what a call gave."""
    return tuple(leaf if isinstance(leaf, Form) else None for leaf in _leaves(_form(made)))


def layouts_of(results: Results) -> list[Any]:
    """What tells results from others."""
    return [form.layout if form is not None else None for form in results]


def results_between(batch: int, batches: tuple[int, int], results: tuple[Results, Results]) -> Results:
    """What a call gives for a batch, from what it gives for two.

    Raises:
        ValueError: that is not of the same make.
    """
    made: Results = _between(*results, lambda low, high: extended(batch, batches, (low, high)))
    return made


def grow(first: Call, one: int, second: Call, two: int) -> GrowingCall | None:
    """The call that is ``first`` for a batch of ``one`` and ``second`` for ``two``; None if they are not the same."""
    if (first.operator, first.with_gradients) != (second.operator, second.with_gradients):
        return None
    batches = (one, two)
    try:
        low, high = ((each.arguments, each.keywords, each.results) for each in (first, second))
        arguments, keywords, _ = _between(low, high, lambda *numbers: _told(batches, numbers))
    except ValueError:
        return None
    return GrowingCall(first, second, batches, _named(first, arguments, keywords))


def extended(batch: int, batches: tuple[int, int], numbers: tuple[int, int]) -> int:
    """A number for a batch, on the line through those for two batches.

    >>> extended(10, (2, 4), (30, 50))
    110
    """
    (one, two), (low, high) = batches, numbers
    return low + (high - low) * (batch - one) // (two - one)


def text_of(call: Call) -> str:
    """A name for a call."""
    return _named(call, call.arguments, call.keywords)


def _named(call: Call, arguments: Any, keywords: Any) -> str:
    given = (*map(_text, arguments), *(f"{name}={_text(value)}" for name, value in keywords))
    return f"{call.operator}({', '.join(given)}){'' if call.with_gradients else ' without gradients'}"


def _form(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Form(tuple(value.shape), tuple(value.stride()), value.dtype)
    if isinstance(value, list | tuple):
        return tuple(map(_form, value))
    return value


def _made(value: Any) -> Any:
    if isinstance(value, Form):
        return value.make()
    return [_made(part) for part in value] if isinstance(value, tuple) else value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _between(one: Any, two: Any, join: Callable[[int, int], Any]) -> Any:
    """Two nests of the same make as one, whole numbers that differ joined.

    Raises:
        ValueError: they differ in something else.
    """
    if isinstance(one, Form) and isinstance(two, Form) and one.dtype == two.dtype:
        return Form(_between(one.shape, two.shape, join), _between(one.strides, two.strides, join), one.dtype)
    if isinstance(one, tuple) and isinstance(two, tuple) and len(one) == len(two):
        return tuple(_between(left, right, join) for left, right in zip(one, two, strict=True))
    if type(one) is type(two) is int and one != two:
        return join(one, two)
    if type(one) is type(two) is float:
        return one  # a share, or a mean's factor: what an operator takes does not depend on it
    if one == two:
        return one
    raise ValueError("not the same call")


def _told(batches: tuple[int, int], numbers: tuple[int, int]) -> str:
    """A number that grows, in words: "64*n", or "64*n+2"."""
    at_none = extended(0, batches, numbers)
    each, rest = divmod(numbers[1] - numbers[0], batches[1] - batches[0])
    if rest:
        raise ValueError("it does not grow by whole numbers")
    return f"{each}*n" + (f"{at_none:+}" if at_none else "")


def _text(value: Any) -> str:
    if isinstance(value, Form):
        numbers = (",".join(map(str, part)) for part in (value.shape, value.strides))
        return f"{str(value.dtype).removeprefix('torch.')}[{next(numbers)}]/{next(numbers)}"
    if isinstance(value, tuple):
        return f"({' '.join(map(_text, value))})"
    if isinstance(value, float):
        return "float" if math.isfinite(value) else str(value)
    return str(value)
