"""Calls that are counted, and calls that are not."""

from __future__ import annotations

import pytest

from convatlas.inspection import timing as module
from convatlas.inspection.timing import Timing, time_calls


class Clock:
    """Stands for the module ``time``: stands still but for what is waited."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_the_first_calls_do_not_count(clock: Clock) -> None:
    waits = iter([50.0, 1.0, 2.0, 3.0])
    assert time_calls(lambda: clock.wait(next(waits)), warm_up=1, calls=3) == Timing(mean=2.0, deviation=1.0, calls=3)


@pytest.mark.parametrize(("seconds", "calls"), [(0.0, 2), (3.5, 3), (1000.0, 100)])
def test_a_limit_in_seconds_leaves_two_timed_calls(seconds: float, calls: int, clock: Clock) -> None:
    assert time_calls(lambda: clock.wait(1.0), warm_up=1, calls=100, seconds=seconds).calls == calls


def test_the_error_of_the_mean_shrinks_with_the_calls() -> None:
    assert Timing(1.0, 0.2, 4).error == pytest.approx(0.1)
    assert Timing(1.0, 0.2, 16).error == pytest.approx(0.05)
