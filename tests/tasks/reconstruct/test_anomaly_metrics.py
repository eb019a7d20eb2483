from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from convatlas.errors import DataError
from convatlas.tasks.reconstruct.metrics import (
    CURVE_POINTS,
    AnomalyEvaluation,
    average_precision,
    judge_scores,
    recall_at,
    roc_auc,
)
from convatlas.tasks.reconstruct.thresholds import Threshold

RANKINGS = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=60)


def rows(normal: int = 900, unusual: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = np.r_[random.lognormal(0, 1, normal), random.lognormal(1.5, 1, unusual)]
    return scores, np.arange(normal + unusual) >= normal


def judged(scores: object, truth: object, **options: object) -> AnomalyEvaluation:
    calibration = np.random.default_rng(9).lognormal(0, 1, 400)
    return judge_scores(scores, truth, **({"calibration": calibration, "threshold": None, "resamples": 200} | options))  # type: ignore[arg-type]


def counted(evaluation: AnomalyEvaluation) -> dict[str, object]:
    """The record as JSON has it, every number of it finite."""
    record: dict[str, object] = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    return record


@given(RANKINGS, st.sampled_from([None, 0.001, 0.5, 0.9]))
def test_figures_of_a_ranking_are_scikit_learns(ranking: list[tuple[int, bool]], prevalence: float | None) -> None:
    scores, truth = np.array([s for s, _ in ranking], dtype=float), np.array([t for _, t in ranking])
    assume(truth.any() and not truth.all())
    odds = None if prevalence is None else prevalence / (1 - prevalence) * (~truth).sum() / truth.sum()
    weights = None if odds is None else np.where(truth, odds, 1.0)
    expected = average_precision_score(truth, scores, sample_weight=weights)
    assert average_precision(scores, truth, prevalence) == pytest.approx(expected)
    assert roc_auc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))
    false, found, _ = roc_curve(truth, scores, drop_intermediate=False)
    for rate in (0.001, 0.01, 0.3):
        assert recall_at(scores, truth, rate) == pytest.approx(found[false <= rate].max())


def test_precision_and_recall_are_scikit_learns() -> None:
    scores, truth = rows()
    curve = judged(scores.round(1), truth).precision_recall
    assert curve is not None
    precision, recall, _ = precision_recall_curve(truth, scores.round(1))
    for r, p in zip(curve["recall"], curve["precision"], strict=True):
        assert np.isclose(precision[np.isclose(recall, r)], p).any()
    assert curve["recall"][-1] == 1


def test_the_interval_is_that_of_drawing_anomalies_and_normal_rows_again() -> None:
    scores, truth = rows(300, 40)
    random = np.random.default_rng(5)
    drawn = []
    for _ in range(2000):
        index = np.r_[random.integers(0, 300, 300), random.integers(300, 340, 40)]
        drawn.append(average_precision_score(truth[index], scores[index]))
    found = judged(scores, truth, resamples=2000).average_precision_interval
    assert found == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))), abs=0.02)


def test_the_interval_holds_the_figure_and_is_narrower_with_more_rows() -> None:
    few, many = (judged(*rows(10 * n, n), prevalence=0.01) for n in (20, 500))
    for evaluation in (few, many):
        low, high = evaluation.average_precision_interval or (1, 0)
        assert low <= evaluation.average_precision <= high  # type: ignore[operator]
        low, high = evaluation.natural_average_precision_interval or (1, 0)
        assert low <= evaluation.natural_average_precision <= high  # type: ignore[operator]
    width_of_few, width_of_many = (np.diff(each.average_precision_interval or (0, 0)) for each in (few, many))
    assert width_of_few > 2 * width_of_many


def test_a_stated_prevalence_is_as_if_that_many_rows_were_there() -> None:
    scores, truth = rows(1000, 50)
    ten_times = np.r_[np.repeat(scores[:1000], 10), scores[1000:]]
    labels = np.arange(len(ten_times)) >= 10_000
    natural = judged(scores, truth, prevalence=50 / 10_050).natural_average_precision
    assert natural == pytest.approx(judged(ten_times, labels).average_precision)
    assert natural < judged(scores, truth).average_precision  # type: ignore[operator]


def test_the_same_seed_gives_the_same_interval() -> None:
    assert counted(judged(*rows(), seed=3)) == counted(judged(*rows(), seed=3))
    assert judged(*rows(), seed=3).average_precision_interval != judged(*rows(), seed=4).average_precision_interval


@settings(max_examples=30)
@given(st.permutations(range(60)))
def test_the_order_of_rows_changes_nothing(order: list[int]) -> None:
    scores, truth = rows(50, 10)
    assert counted(judged(scores[order], truth[order])) == counted(judged(scores, truth))


def test_no_figure_of_a_ranking_depends_on_the_scores_size() -> None:
    scores, truth = rows()
    first, second = judged(scores, truth), judged(scores**3, truth)
    assert first.average_precision_interval == second.average_precision_interval
    assert first.recall_at == second.recall_at


def test_what_a_threshold_does() -> None:
    scores, truth = [1.0, 2.0, 3.0, 4.0, 3.0, 5.0], [False, False, False, False, True, True]
    found = judged(scores, truth, threshold=Threshold(3.0, 0.01, 0.95, 400), prevalence=0.01)
    assert (found.alarms, found.false_alarms, found.false_alarm_rate, found.recall) == (2, 1, 0.25, 0.5)
    assert found.precision_at_stated == pytest.approx(0.01 * 0.5 / (0.01 * 0.5 + 0.99 * 0.25))
    low, high = found.false_alarm_interval or (1, 0)
    assert low < 0.25 < high
    none = judged(scores, truth, threshold=Threshold(9.0, 0.01, 0.95, 400), prevalence=0.01)
    assert (none.alarms, none.recall, none.precision_at_stated) == (0, 0.0, None)


def test_precision_by_threshold_is_at_the_stated_prevalence() -> None:
    scores, truth = rows()
    curve = judged(scores, truth, prevalence=0.002).by_threshold
    assert curve is not None
    assert len(curve["threshold"]) <= CURVE_POINTS
    i = len(curve["threshold"]) // 2
    alarm = scores > curve["threshold"][i]
    false, found = alarm[~truth].mean(), alarm[truth].mean()
    assert curve["false_alarm_rate"][i] == false
    assert curve["recall"][i] == found
    assert curve["precision"][i] == pytest.approx(0.002 * found / (0.002 * found + 0.998 * false))


def test_rows_without_labels_have_alarms_and_a_distribution() -> None:
    scores, _ = rows()
    found = judged(scores, None, threshold=Threshold(3.0, 0.01, 0.95, 400))
    assert found.alarms == (scores > 3).sum()
    record = counted(found)
    assert all(record[name] is None for name in ("anomalies", "average_precision", "recall", "by_threshold"))
    assert sum(found.distributions["rows"] or []) == pytest.approx(1)
    assert found.distributions["normal"] is None


def test_distributions_are_shares_over_rising_edges() -> None:
    scores, truth = rows()
    found = judged(np.r_[scores, 0.0], np.r_[truth, False]).distributions
    edges = np.array(found["edges"])
    assert (np.diff(edges) > 0).all()
    np.testing.assert_allclose(edges[1:] / edges[:-1], edges[1] / edges[0])
    for kind in ("calibration", "normal", "anomalies"):
        assert len(found[kind] or []) == len(edges) - 1
        assert sum(found[kind] or []) == pytest.approx(1)


@pytest.mark.parametrize("truth", [[False] * 4, [True] * 4])
def test_one_kind_of_rows_cannot_be_ranked_against_the_other(truth: list[bool]) -> None:
    found = judged([1.0, 2.0, 3.0, 4.0], truth, threshold=Threshold(3.0, 0.01, 0.95, 400), prevalence=0.01)
    record = counted(found)
    assert record["average_precision"] is record["roc_auc"] is record["precision_at_stated"] is None
    assert found.recall == (0.25 if truth[0] else None)
    assert found.false_alarm_rate == (None if truth[0] else 0.25)
    assert found.recall_at[0] == {"false_alarm_rate": 0.01, "recall": None}


@pytest.mark.parametrize("score", [0.0, 2.5])
def test_equal_scores_rank_nothing(score: float) -> None:
    truth = np.arange(100) < 20
    found = judged(np.full(100, score), truth, calibration=np.full(50, score), prevalence=0.001)
    assert (found.average_precision, found.roc_auc) == (pytest.approx(0.2), 0.5)
    assert found.natural_average_precision == pytest.approx(0.001)
    counted(found)


def test_scores_below_zero_are_ranked_too() -> None:
    counted(judged(np.linspace(-3, -1, 50), np.arange(50) > 40))


def test_an_interval_of_hardly_any_anomalies_is_not_told() -> None:
    assert judged(*rows(100, 4)).average_precision_interval is None
    assert judged(*rows(100, 5)).average_precision_interval is not None


def test_curves_stay_short() -> None:
    found = judged(*rows(3000, 2000))
    assert all(len(points) <= CURVE_POINTS for points in (found.precision_recall or {}).values())


def test_the_summary_is_what_a_card_holds() -> None:
    found = judged(*rows(), threshold=Threshold(3.0, 0.01, 0.95, 400))
    assert all(value is None or isinstance(value, int | float | list) for value in found.summary().values())
    assert found.summary()["false_alarms"] == found.false_alarms
    assert found.figures == {"average_precision": found.average_precision}


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(DataError, match="received 0 rows"):
        judged([], [])
    with pytest.raises(DataError, match="1 of 2 scores are not finite"):
        judged([1.0, math.nan], [True, False])
    with pytest.raises(DataError, match=r"one truth value a row, \[2\]"):
        judged([1.0, 2.0], [True])
    for prevalence in (0.0, 1.0, 3.0):
        with pytest.raises(DataError, match="above 0 and below 1"):
            judged([1.0, 2.0], [True, False], prevalence=prevalence)
    with pytest.raises(DataError, match="only one of the two"):
        average_precision([1.0, 2.0], [True, True])


def test_metrics_are_read_without_torch() -> None:
    code = "import sys, convatlas.tasks.reconstruct.metrics as m; assert 'torch' not in sys.modules and m"
    subprocess.run([sys.executable, "-c", code], check=True)
