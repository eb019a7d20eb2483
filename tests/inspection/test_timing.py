"""Calls that are counted, and calls that are not."""

from __future__ import annotations

import time

import pytest

from convatlas.inspection.timing import Timing, time_calls


def test_the_first_calls_do_not_count() -> None:
    waits = iter([0.05, 0.0, 0.0, 0.0])
    timing = time_calls(lambda: time.sleep(next(waits)), warm_up=1, calls=3)
    assert timing.calls == 3
    assert timing.mean < 0.04


def test_a_limit_in_seconds_leaves_two_timed_calls() -> None:
    timing = time_calls(lambda: time.sleep(0.01), warm_up=1, calls=100, seconds=0.0)
    assert timing.calls == 2


def test_the_error_of_the_mean_shrinks_with_the_calls() -> None:
    assert Timing(1.0, 0.2, 4).error == pytest.approx(0.1)
    assert Timing(1.0, 0.2, 16).error == pytest.approx(0.05)
