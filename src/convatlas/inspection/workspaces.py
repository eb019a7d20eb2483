"""What operators take for themselves while they run, asked of the machine.

It is a property of PyTorch's build, the processor and the layout of the tensors, so there is no rule for it: each
distinct call is made once on this machine, with few images, and the answer is kept in the user's cache.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convatlas.errors import StorageError
from convatlas.files import cache_directory, write_text
from convatlas.inspection.calls import Call, Form, GrowingCall, text_of
from convatlas.inspection.machine import Machine, free_bytes
from convatlas.inspection.trial import Keeper, Taken, between, is_surprising, try_calls

FORMAT = 1  # of the file; another one is not read
LARGEST_FILE = 2**26  # bytes; what is larger was not written here
LARGEST_SIZE = 2**53

SHARE = 8  # of the free memory that trying a call may take: an eighth
BYTES_TO_TRY = 2**31  # and no more than this, of the tensors it is given
QUICK_BYTES = 2**28  # of the tensors that an operator of another engine is given
PRODUCTS_TO_TRY = 10**10  # multiply-adds of a convolution, a thread: about a second

DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}

aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.addmm.default)
CONVOLUTIONS = {aten.convolution.default: 0, aten.convolution_backward.default: 1}  # operator -> place of its images


@dataclass(frozen=True)
class _Trial:
    """A call to be made once."""

    text: str
    images: int  # 0 for a call that is meant exactly as it is
    call: Call


class Workspaces:
    """Asks the machine what calls take, and remembers.

    Args:
        machine: this one.
        keeper: who keeps memory in the thread that calls an operator.
        path: where answers are kept; in the user's cache by default.
    """

    def __init__(self, machine: Machine, keeper: Keeper | None = None, path: Path | None = None) -> None:
        self._threads = machine.threads
        self._keeper = keeper
        self._path = path or cache_directory() / "memory" / f"workspaces-{machine.name}.json"
        self._answers = _read(self._path)
        self._has_asked = False
        self._most_bytes = _most_to_try()

    @property
    def few(self) -> int:
        """Images that a call for a large batch is tried with, and twice as many: one or two for each thread."""
        return max(2, self._threads)

    def taken(self, calls: Sequence[Call | GrowingCall], batch: int) -> list[Taken | None]:
        """What calls take for a batch: each asked with few images where it grows with the batch, and extended to it.

        None for a call that cannot be tried.
        """
        trials = [self._trials(call, batch) for call in calls]
        self._try(chain.from_iterable(trials))
        return [self._joined(each, batch) for each in trials]

    def remember(self) -> None:
        """Write down what was asked since the last time."""
        if not self._has_asked:
            return
        self._has_asked = False
        answers = _read(self._path)  # another process may have asked other things meanwhile
        for text, by_batch in self._answers.items():
            answers.setdefault(text, {}).update(by_batch)
        content = {text: {few: _record(taken) for few, taken in each.items()} for text, each in answers.items()}
        with suppress(StorageError):  # it is asked again next time
            write_text(self._path, json.dumps({"format": FORMAT, "calls": content}))

    def _trials(self, call: Call | GrowingCall, batch: int) -> list[_Trial]:
        """The trials that tell what a call takes; none if all of them would take too much."""
        if isinstance(call, GrowingCall) and call.first == call.second:
            call = call.first
        if isinstance(call, Call):
            return [self._trial(text_of(call), 0, call)] if self._may_be_tried(call) else []
        return [self._trial(call.text, few, call.at(few)) for few in self._tried_batches(call, batch)]

    def _tried_batches(self, call: GrowingCall, batch: int) -> tuple[int, ...]:
        """The batches that a call is tried with: the one that is meant, where it is small.

        Where PyTorch has another library convolve so few images, more are tried.
        """
        few = self.few
        if call.first.operator.namespace != "aten":
            few = max(few, self._quick_images(call, batch))
        if call.first.operator in CONVOLUTIONS:
            meant = _library(call.at(batch))
            while 2 * few < batch and _library(call.at(few)) != meant:
                few *= 2
        if batch <= 2 * few and self._may_be_tried(call.at(batch)):
            return (batch,)
        few = min(few, batch // 2)
        while few > 1 and not self._may_be_tried(call.at(2 * few)):
            few //= 2
        return (few, 2 * few) if few > 0 and self._may_be_tried(call.at(2 * few)) else ()

    def _quick_images(self, call: GrowingCall, batch: int) -> int:
        """What another engine keeps grows up to some number of images, no further: as many are tried as are quick."""
        few = batch
        while few > 1 and call.at(2 * few).bytes > QUICK_BYTES:
            few //= 2
        return few

    def _trial(self, text: str, images: int, call: Call) -> _Trial:
        is_ours = self._keeper is not None and call.operator.namespace != "aten"
        return _Trial(f"{text} {self._keeper.version}" if is_ours and self._keeper else text, images, call)

    def _try(self, trials: Iterable[_Trial]) -> None:
        missing = {(trial.text, trial.images): trial for trial in self._safe(trials) if self._answer(trial) is None}
        calls = [trial.call for trial in missing.values()]
        for trial, taken in zip(missing.values(), try_calls(calls, self._keeper) if calls else (), strict=False):
            if taken is not None:
                self._answers.setdefault(trial.text, {})[str(trial.images)] = taken
                self._has_asked = True

    def _safe(self, trials: Iterable[_Trial]) -> Iterator[_Trial]:
        """Those before one of which is known that it gives tensors of other sizes than it says."""
        surprising = None
        for trial in trials:
            if surprising not in (None, trial.call.operator):
                return
            yield trial
            answer = self._answer(trial)
            if answer is not None and is_surprising(answer, trial.call):
                surprising = trial.call.operator

    def _answer(self, trial: _Trial) -> Taken | None:
        return self._answers.get(trial.text, {}).get(str(trial.images))

    def _joined(self, trials: Sequence[_Trial], batch: int) -> Taken | None:
        answers = [answer for trial in trials if (answer := self._answer(trial)) is not None]
        if not answers or len(answers) < len(trials):
            return None
        if len(answers) == 1:
            return answers[0]
        return between(batch, (trials[0].images, trials[1].images), (answers[0], answers[1]))

    def _may_be_tried(self, call: Call) -> bool:
        return call.bytes <= self._most_bytes and _products(call) <= PRODUCTS_TO_TRY * self._threads


def takes_nothing(call: Call) -> bool:
    """Whether a call certainly allocates nothing but its results, so that it need not be tried.

    Those are: what has no tensor to work on; views; element by element, in one type; and products of matrices that BLAS
    reads as they lie.
    """
    tensors = call.tensors
    if not tensors or call.operator.is_view:
        return True
    if torch.Tag.pointwise in call.operator.tags:
        return len({form.dtype for form in tensors if form.shape}) <= 1  # others are converted first
    if call.operator in PRODUCTS:
        return all(form.dtype == torch.float32 and _is_for_blas(form) for form in tensors[-2:])
    return False


def _is_for_blas(form: Form) -> bool:
    """Whether the numbers of a matrix's rows, or of its columns, lie side by side and do not overlap."""
    (high, wide), (down, across) = form.shape, form.strides
    return (across == 1 and down >= max(1, wide)) or (down == 1 and across >= max(1, high))


def _library(call: Call) -> str:
    """Which of PyTorch's implementations does a convolution."""
    place = CONVOLUTIONS[call.operator]
    images, weight = (_outline(form) for form in call.arguments[place : place + 2])
    stride, padding, dilation, transposed, output_padding, groups = call.arguments[place + 3 : place + 9]
    return str(
        torch._C._select_conv_backend(
            images,
            weight,
            bias=None,
            stride=stride,
            padding=padding,
            dilation=dilation,
            transposed=transposed,
            output_padding=output_padding,
            groups=groups,
            bias_sizes=None,
        )
    )


def _outline(form: Form) -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty_strided(form.shape, form.strides, dtype=form.dtype)


def _products(call: Call) -> int:
    """Multiply-adds of a convolution, forward; 0 for whatever is quick beside it."""
    place = CONVOLUTIONS.get(call.operator)
    if place is None:
        return 0
    images, weight = call.arguments[place : place + 2]
    outputs = call.arguments[0].shape if place else _output_shape(images, weight, call.arguments[3:6])
    return int(math.prod(weight.shape) * outputs[0] * math.prod(outputs[2:]))


def _output_shape(images: Form, weight: Form, how: Any) -> tuple[int, ...]:
    """Of a convolution; of a transposed one, at least."""
    sides = zip(images.shape[2:], weight.shape[2:], *how, strict=True)
    reached = ((side + 2 * pad - gap * (kernel - 1) - 1) // step + 1 for side, kernel, step, pad, gap in sides)
    return (images.shape[0], weight.shape[0], *reached)


def _most_to_try() -> int:
    free = free_bytes()
    return BYTES_TO_TRY if free is None else min(BYTES_TO_TRY, free // SHARE)


def _record(taken: Taken) -> dict[str, Any]:
    record: dict[str, Any] = {"peaks": list(taken.peaks)}
    if taken.kept:
        record["kept"] = dict(taken.kept)
    if taken.results is not None:
        record["results"] = [form and [str(form.dtype), list(form.shape), list(form.strides)] for form in taken.results]
    return record


def _read(path: Path) -> dict[str, dict[str, Taken]]:
    """The answers in a file; those that are not, or none, where it is damaged: they are asked again."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("calls"), dict):
        return {}
    known = {text: each for text, each in content["calls"].items() if isinstance(each, dict)}
    return {
        text: {few: taken for few, record in each.items() if (taken := _parsed(record)) is not None}
        for text, each in known.items()
    }


def _parsed(record: Any) -> Taken | None:
    """An answer out of a file; None for what is none."""
    try:
        peaks, kept, results = record["peaks"], record.get("kept", {}), record.get("results")
        sizes = (*_sizes(peaks), *_sizes(list(kept.values())))
        forms = None if results is None else tuple(each and _parsed_form(*each) for each in results)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return Taken(sizes[: len(peaks)], dict(kept), forms)


def _parsed_form(dtype: Any, shape: Any, strides: Any) -> Form:
    if dtype not in DTYPES or len(shape) != len(strides):
        raise ValueError("no form of a tensor")
    form = Form(_sizes(shape), _sizes(strides), DTYPES[dtype])
    if form.bytes > LARGEST_SIZE:
        raise ValueError("larger than any tensor")
    return form


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(map(_is_size, values)):
        raise ValueError("no sizes")
    return tuple(values)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_SIZE
