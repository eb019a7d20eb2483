"""How long something takes here: some calls to warm up, then calls timed one by one.

>>> timing = time_calls(lambda: sum(range(1000)), warm_up=1, calls=5)
>>> timing.calls, timing.mean > 0
(5, True)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: mean and standard deviation over ``calls`` of them."""

    mean: float
    deviation: float
    calls: int

    @property
    def error(self) -> float:
        """Standard error of the mean, in seconds."""
        return float(self.deviation / self.calls**0.5)


def time_calls(
    call: Callable[[], object],
    *,
    warm_up: int,
    calls: int,
    seconds: float | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Timing:
    """Call something again and again, and time it.

    Args:
        call: what is timed.
        warm_up: calls that are not counted.
        calls: calls that are.
        seconds: stop earlier, once this much time has passed and two calls have been timed.
        watch: told after each call how many have been made, and of how many.
    """
    began = time.perf_counter()
    taken: list[float] = []
    for place in range(warm_up + calls):
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        if place >= warm_up:
            taken.append(now - start)
        if watch is not None:
            watch(place + 1, warm_up + calls)
        if seconds is not None and now - began > seconds and len(taken) >= 2:
            break
    deviation = statistics.stdev(taken) if len(taken) > 1 else 0.0
    return Timing(statistics.fmean(taken), deviation, len(taken))
