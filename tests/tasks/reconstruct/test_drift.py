from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from convatlas.errors import DataError
from convatlas.tasks.reconstruct.drift import COLUMNS_NAMED, Drift, drift
from convatlas.tasks.reconstruct.thresholds import threshold_at

NAMES = ["amount", "hour", "country"]


def parts(n: int, seed: int, moved: float = 1.0, factor: float = 1.0) -> np.ndarray:
    """What three columns add to the scores of n rows: the second ``moved`` times, all ``factor`` times, as usual."""
    columns = np.random.default_rng(seed).exponential(size=(n, 3)) * factor
    columns[:, 1] *= moved
    return columns


def compared(now: np.ndarray, before: np.ndarray | None = None, rate: float | None = 0.01, **options: Any) -> Drift:
    before = parts(2000, 0) if before is None else before
    threshold = threshold_at(before.sum(axis=1), rate) if rate is not None else None
    return drift(
        before.sum(axis=1),
        now.sum(axis=1),
        threshold=threshold,
        names=NAMES,
        calibration_columns=before,
        columns=now,
        **options,
    )


def test_rows_of_the_same_kind_are_alike() -> None:
    found = compared(parts(1500, 1))
    assert found.alike
    assert found.verdict == "the rows look like the calibration rows"
    assert found.columns == ()
    assert found.ks_statistic == pytest.approx(
        stats.ks_2samp(parts(2000, 0).sum(axis=1), parts(1500, 1).sum(axis=1)).statistic
    )


def test_rows_of_the_same_kind_are_hardly_ever_called_others() -> None:
    verdicts = [compared(parts(500, 1000 + seed), parts(800, seed)).alike for seed in range(100)]
    assert sum(verdicts) >= 94  # of the two tests one is at 1 %, one at 5 % of those thresholds that keep their promise


def test_a_column_that_moved_is_named_first() -> None:
    found = compared(parts(1500, 1, moved=3))
    assert not found.alike
    assert found.columns[0].name == "hour"
    assert found.columns[0].median > found.columns[0].calibration_median
    assert "drifted from the calibration rows, most in hour: " in found.verdict
    assert "alarms where at most 1.00% of normal rows would be" in found.verdict


def test_lower_scores_are_drift_too_though_there_are_no_alarms() -> None:
    found = compared(parts(1500, 1, factor=0.5))
    assert not found.alike
    assert found.alarms == 0
    assert "alarms" not in found.verdict


def test_a_few_anomalies_among_rows_of_the_same_kind_are_told_apart_from_drift() -> None:
    now = parts(2000, 1)
    now[:60] += 50
    found = compared(now)
    assert not found.alike
    assert "most rows look like the calibration rows, but 3." in found.verdict
    low, high = found.alarm_interval or (1, 0)
    assert found.expected_rate == 0.01 < low < (found.alarm_rate or 0) < high


def test_a_difference_that_only_very_many_rows_show_is_not_worth_telling() -> None:
    found = compared(parts(60_000, 1, factor=1.03), parts(60_000, 0), rate=None)
    assert found.p_value < 1e-6
    assert found.alike


def test_without_a_threshold_scores_are_compared_all_the_same() -> None:
    found = compared(parts(1500, 1, moved=3), rate=None)
    assert (found.alarms, found.alarm_rate, found.alarm_interval, found.expected_rate) == (None, None, None, None)
    assert not found.alike


def test_one_row_can_be_compared() -> None:
    assert compared(parts(1, 3)).rows == 1


def test_many_columns_are_not_all_named() -> None:
    before, now = np.random.default_rng(0).random((300, 40)), 2 + np.random.default_rng(1).random((300, 40))
    found = drift(
        before.sum(axis=1),
        now.sum(axis=1),
        threshold=None,
        names=[f"c{i}" for i in range(40)],
        calibration_columns=before,
        columns=now,
    )
    assert len(found.columns) == COLUMNS_NAMED
    assert "and 7 more" in found.verdict


def test_it_is_json_and_the_same_twice() -> None:
    now = parts(30_000, 1, moved=2)
    first, second = (json.dumps(compared(now).to_dict(), allow_nan=False) for _ in range(2))
    assert first == second


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(DataError, match="rows on both sides; received 2,000 and 0"):
        compared(parts(0, 1))
