from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from convatlas.errors import DataError
from convatlas.tasks.reconstruct.thresholds import (
    benjamini_hochberg,
    exact_interval,
    p_values,
    parse_rate,
    rate_from_alarms,
    rate_from_cost,
    rows_needed,
    smallest_rate,
    threshold_at,
)

RATES = st.floats(1e-5, 0.5)
CONFIDENCES = st.floats(0.5, 0.999)


def above(n: int, rate: float, confidence: float) -> int:
    """Calibration rows above the threshold, as the definition says: tried one by one."""
    fits = itertools.takewhile(lambda k: stats.binom.cdf(k, n, rate) <= 1 - confidence, range(n))
    return max(fits)


@pytest.mark.parametrize("n", [299, 300, 472, 473, 2000, 7000])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.3])
def test_a_threshold_is_the_largest_order_statistic_that_holds_its_promise(n: int, rate: float) -> None:
    scores = np.random.default_rng(n).permutation(n).astype(float)
    found = threshold_at(scores, rate)
    assert found.value == n - 1 - above(n, rate, 0.95)
    assert (found.rate, found.confidence, found.calibration_rows) == (rate, 0.95, n)


def test_rows_that_a_promise_takes() -> None:
    assert [rows_needed(rate) for rate in (0.01, 0.001, 0.0001)] == [299, 2995, 29956]
    threshold_at(np.arange(299.0), 0.01)
    with pytest.raises(DataError, match=r"0\.01 with 95% confidence take 299 calibration rows; received 298"):
        threshold_at(np.arange(298.0), 0.01)
    with pytest.raises(DataError, match="299 of them; received none"):
        threshold_at([], 0.01)


@given(rate=RATES, confidence=CONFIDENCES)
def test_one_row_fewer_is_not_enough(rate: float, confidence: float) -> None:
    n = rows_needed(rate, confidence)
    assert (1 - rate) ** n <= (1 - confidence) * (1 + 1e-6)
    assert n == 1 or (1 - rate) ** (n - 1) >= (1 - confidence) * (1 - 1e-6)


@given(rows=st.integers(1, 10**6), confidence=CONFIDENCES)
def test_the_smallest_rate_is_one_that_the_rows_suffice_for(rows: int, confidence: float) -> None:
    assert rows_needed(smallest_rate(rows, confidence), confidence) <= rows


@given(n=st.integers(70, 400), rate=st.floats(0.1, 0.5), confidence=CONFIDENCES, seed=st.integers(0, 100))
def test_more_confidence_and_fewer_false_alarms_never_lower_a_threshold(
    n: int, rate: float, confidence: float, seed: int
) -> None:
    scores = np.random.default_rng(seed).normal(size=n)
    sure, easy = max(confidence, 0.9), min(confidence, 0.9)
    assert threshold_at(scores, rate, sure).value >= threshold_at(scores, rate, easy).value
    assert threshold_at(scores, rate, easy).value >= threshold_at(scores, min(0.6, 1.1 * rate), easy).value


def test_the_promise_is_kept_as_often_as_it_says() -> None:
    """Of a known distribution the true share of false alarms is known: at most 5 of 100 thresholds pass it."""
    random = np.random.default_rng(0)
    rates = np.array([stats.expon.sf(threshold_at(random.exponential(size=1000), 0.01).value) for _ in range(2000)])
    expected = stats.binom.cdf(above(1000, 0.01, 0.95), 1000, 0.01)
    assert expected <= 0.05
    assert abs((rates > 0.01).mean() - expected) < 4 * np.sqrt(expected / 2000)


def test_equal_scores_are_no_alarms() -> None:
    found = threshold_at(np.ones(400), 0.01)
    assert found.value == 1
    assert not (np.ones(3) > found.value).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_cannot_be_ranked_are_refused(bad: float) -> None:
    scores = np.arange(400.0)
    scores[7] = bad
    for call in (lambda: threshold_at(scores, 0.01), lambda: p_values(np.arange(9.0), scores)):
        with pytest.raises(DataError, match="1 of 400 scores are not finite"):
            call()


@pytest.mark.parametrize(
    ("rate", "confidence"), [(0, 0.95), (1, 0.95), (-1, 0.9), (float("nan"), 0.9), (0.1, 1), (0.1, 0)]
)
def test_rates_and_confidences_that_are_none(rate: float, confidence: float) -> None:
    with pytest.raises(DataError, match="above 0 and below 1"):
        threshold_at(np.arange(400.0), rate, confidence)


@given(calibration=st.lists(st.integers(0, 20), min_size=1, max_size=60), score=st.integers(-1, 21))
def test_a_p_value_counts_the_calibration_rows_as_high(calibration: list[int], score: int) -> None:
    as_high = sum(each >= score for each in calibration)
    assert p_values(calibration, [score])[0] == (1 + as_high) / (len(calibration) + 1)


def test_p_values_of_normal_rows_are_no_smaller_than_chance_makes_them() -> None:
    random = np.random.default_rng(1)
    small = [(p_values(random.normal(size=99), random.normal(size=50)) <= 0.05).mean() for _ in range(2000)]
    assert abs(np.mean(small) - 0.05) < 4 * np.std(small) / np.sqrt(2000)


def test_p_values_without_calibration() -> None:
    with pytest.raises(DataError, match="received none"):
        p_values([], [1.0])


@given(st.lists(st.floats(0, 1), max_size=40), st.sampled_from([0.01, 0.05, 0.2]))
def test_benjamini_hochberg_is_scipys(p: list[float], rate: float) -> None:
    expected = stats.false_discovery_control(p) <= rate if p else np.zeros(0, bool)
    found = benjamini_hochberg(p, rate)
    # The two multiply in another order: only values that rounding alone separates may differ.
    close = np.isclose(stats.false_discovery_control(p), rate) if p else expected
    assert ((found == expected) | close).all()


def test_benjamini_hochberg_bounds_the_share_of_false_discoveries() -> None:
    random = np.random.default_rng(2)
    shares = []
    for _ in range(400):
        calibration, normal, unusual = random.normal(size=2000), random.normal(size=180), random.normal(5, 1, size=20)
        found = benjamini_hochberg(p_values(calibration, np.r_[normal, unusual]), 0.1)
        shares.append(found[:180].sum() / max(found.sum(), 1))
    assert np.mean(shares) < 0.1


@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_exact_intervals_are_scipys(n: int, share: float) -> None:
    k = round(share * n)
    expected = stats.binomtest(k, n).proportion_ci(method="exact")
    assert exact_interval(k, n) == pytest.approx((expected.low, expected.high))


def test_nothing_counted_tells_nothing() -> None:
    assert exact_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("asked", "rate"),
    [
        ("1%", 0.01),
        ("0.1 %", 0.001),
        (" 0.01 ", 0.01),
        (0.01, 0.01),
        ("1e-3", 0.001),
        ("99.9%", 0.999),
        ("1e-2 %", 1e-4),
    ],
)
def test_rates_as_they_are_written(asked: str | float, rate: float) -> None:
    assert parse_rate(asked) == pytest.approx(rate)


@pytest.mark.parametrize(
    "asked", ["", "%", "1", "0", "100%", "-1%", "nan", "inf%", "one", "1%%", "0,1%", 1, 0, 2.5, True, None]
)
def test_rates_that_are_none_are_named(asked: object) -> None:
    with pytest.raises(DataError, match=r"above 0 and below 1, such as 1% or 0\.01; received"):
        parse_rate(asked)  # type: ignore[arg-type]


def test_rates_from_a_days_work() -> None:
    assert rate_from_alarms(20, 1e6) == 2e-5
    assert rate_from_cost(cost=5, budget=100, rows_a_day=1e6) == 2e-5
    for call in (
        lambda: rate_from_alarms(0, 10),
        lambda: rate_from_alarms(5, 0),
        lambda: rate_from_alarms(float("nan"), 10),
        lambda: rate_from_alarms(1, float("inf")),
        lambda: rate_from_cost(0, 10, 100),
        lambda: rate_from_cost(1, -10, 100),
    ):
        with pytest.raises(DataError, match="must be a number above 0"):
            call()
    with pytest.raises(DataError, match="leave nothing to find"):
        rate_from_alarms(10, 10)
