"""What a call takes while it runs: made once, with PyTorch's allocations recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import torch
from torch.autograd import ProfilerConfig, ProfilerState  # type: ignore[attr-defined]

from convatlas.inspection.calls import Call, Results, extended, layouts_of, results_between, results_of

T = TypeVar("T")
Prepare = Callable[[], Callable[[], Any]]  # makes the arguments of a call, and gives the call

_one_at_a_time = threading.Lock()


class Keeper(Protocol):
    """Whoever keeps memory from call to call in the thread that calls."""

    @property
    def version(self) -> str:
        """Another one may keep other amounts."""

    def held(self) -> Mapping[str, int]:
        """Bytes by name; of a name the largest piece ever wanted is kept."""

    def give_back(self) -> None:
        """Keep nothing any more."""


@dataclass(frozen=True)
class Taken:
    """What a call took: bytes allocated since it began, its results among them, at each moment when they were most."""

    peaks: tuple[int, ...]
    kept: Mapping[str, int] = field(default_factory=dict)  # what stays with the thread, by name, beside the peaks
    results: Results | None = None  # what it gave, where that is not what the call says

    @property
    def most(self) -> int:
        """The largest of the peaks."""
        return max(self.peaks, default=0)


def between(batch: int, batches: tuple[int, int], taken: tuple[Taken, Taken]) -> Taken:
    """What a call takes for a batch, on the lines through what it took for two.

    An operator allocates the same pieces in the same order for any batch, each either of one size or in proportion to
    the images: every moment lies on a line of its own, but which is the highest changes with the batch.

    >>> between(10, (2, 4), (Taken((5, 2)), Taken((5, 4)))).most
    10
    """
    one, two = taken
    numbers = zip(one.peaks, two.peaks, strict=True) if len(one.peaks) == len(two.peaks) else [(one.most, two.most)]
    kept = {name: extended(batch, batches, (one.kept.get(name, 0), two.kept[name])) for name in two.kept}
    results = None
    if one.results is not None and two.results is not None:
        results = results_between(batch, batches, (one.results, two.results))
    return Taken(tuple(extended(batch, batches, pair) for pair in numbers), kept, results)


def try_calls(calls: Sequence[Call], keeper: Keeper | None = None) -> list[Taken | None]:
    """Make calls once each, with tensors of zeros; None for one that cannot be made so.

    They are in the order in which a network makes them. After one that gives tensors of other sizes than it says, other
    operators are not called: those that are to read them would read past their ends.

    They are made in a thread of their own: there nothing is recorded by anybody else, no mode is on, and
    whoever keeps memory for a thread has none yet. Random numbers are left as they were.
    """
    return _in_own_thread(lambda: list(_tried_in_order(calls, keeper)))


def try_out(prepare: Prepare, keeper: Keeper | None = None) -> Taken:
    """Make any call once, in the same way; ``prepare`` makes its arguments, which are not counted, and gives the call.

    Raises:
        Exception: whatever the call raises.
    """
    return _in_own_thread(lambda: _recorded(prepare(), keeper)[0])


def _in_own_thread(work: Callable[[], T]) -> T:
    with _one_at_a_time, ThreadPoolExecutor(max_workers=1, thread_name_prefix="trial") as pool:
        return pool.submit(_set_up_and, work).result()


def _set_up_and(work: Callable[[], T]) -> T:
    torch.get_num_threads()  # a new thread is told its number of helpers when it is first asked for
    return work()


def _tried_in_order(calls: Sequence[Call], keeper: Keeper | None) -> Iterator[Taken | None]:
    surprising = None
    for call in calls:
        if surprising not in (None, call.operator):
            break
        taken = _tried(call, keeper)
        yield taken
        if taken is not None and is_surprising(taken, call):
            surprising = call.operator


def is_surprising(taken: Taken, call: Call) -> bool:
    """Whether a call gives tensors of other sizes than it says."""
    return taken.results is not None and _sizes(taken.results) != _sizes(call.results)


def _sizes(results: Results) -> list[int]:
    return [form.bytes if form is not None else 0 for form in results]


def _tried(call: Call, keeper: Keeper | None) -> Taken | None:
    draws = torch.Tag.nondeterministic_seeded in call.operator.tags
    try:
        with torch.set_grad_enabled(call.with_gradients), _random_state_kept() if draws else nullcontext():
            taken, made = _recorded(call.prepare(), keeper)
            results = results_of(made)
            return taken if layouts_of(results) == layouts_of(call.results) else replace(taken, results=results)
    except Exception:  # whatever an operator makes of zeros
        return None


def _recorded(call: Callable[[], Any], keeper: Keeper | None) -> tuple[Taken, Any]:
    """What a call took, and what it gave."""
    if keeper is None:
        allocations, made = _allocations(call)
        return Taken(_peaks(allocations)), made
    keeper.give_back()
    allocations, made = _allocations(call)
    kept = {name: size for name, size in keeper.held().items() if size}
    if kept:  # what it allocated for good is not to be counted with what it takes each time
        allocations, made = _allocations(call)
        keeper.give_back()
    return Taken(_peaks(allocations), kept), made


def _allocations(call: Callable[[], Any]) -> tuple[list[int], Any]:
    """Sizes of what PyTorch allocated during a call, in order, negative where it was freed; and what the call gave."""
    # The recorder behind torch.profiler takes milliseconds to start, and writes to the terminal.
    torch.autograd._enable_profiler_legacy(_configuration())  # type: ignore[attr-defined]
    try:
        made = call()
    finally:
        events = torch.autograd._disable_profiler_legacy()  # type: ignore[attr-defined]
    sizes = [event.cpu_memory_usage() for thread in events for event in thread if str(event.kind()) == "memory_alloc"]
    return sizes, made


def _configuration() -> ProfilerConfig:
    return ProfilerConfig(
        ProfilerState.CPU,
        report_input_shapes=False,
        profile_memory=True,
        with_stack=False,
        with_flops=False,
        with_modules=False,
        experimental_config=torch._C._profiler._ExperimentalConfig(),
    )


def _peaks(allocations: list[int]) -> tuple[int, ...]:
    """Running totals where they turn from growing to shrinking, and the last."""
    peaks, total, grows = [], 0, False
    for size in allocations:
        if size < 0 and grows:
            peaks.append(total)
        total += size
        grows = size > 0 or (grows and size == 0)
    return (*peaks, total) if grows or not peaks else tuple(peaks)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
