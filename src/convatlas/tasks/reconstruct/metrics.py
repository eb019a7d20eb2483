"""How well scores find anomalies among rows: average precision with its interval, recall, false alarms, and curves.

A ranking of rows has no one accuracy. What precision comes to depends on how rare anomalies are, so that it is only
ever given for a stated prevalence; false alarms and recall do not. NumPy, and SciPy for intervals; no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convatlas.errors import DataError
from convatlas.tasks.reconstruct.thresholds import Threshold, exact_interval, finite_scores

RECALL_AT = (0.01, 0.001)  # shares of false alarms at which recall is told
CURVE_POINTS = 200
BINS = 60  # of the distributions
FEWEST_FOR_INTERVAL = 5  # anomalies: a bootstrap of fewer tells next to nothing, and looks sure of it
DRAWS = 20_000_000  # random numbers that a bootstrap may take: of very many anomalies fewer resamples do
DRAWS_AT_ONCE = 4_000_000  # 32 MB

Floats = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class AnomalyEvaluation:
    """What scores say of some rows; fields are None where they need labels, a threshold or a prevalence not given.

    >>> evaluation = judge_scores([0.1, 0.2, 0.9], [False, False, True], calibration=[0.1, 0.3], threshold=None)
    >>> evaluation.average_precision, evaluation.roc_auc
    (1.0, 1.0)
    """

    n: int
    anomalies: int | None
    prevalence: float | None  # of these rows
    average_precision: float | None  # at that prevalence
    average_precision_interval: Interval | None  # what so many rows can tell; 95 %, by bootstrap
    stated_prevalence: float | None  # where the network will be used
    natural_average_precision: float | None  # at the stated prevalence
    natural_average_precision_interval: Interval | None
    roc_auc: float | None
    recall_at: list[dict[str, float | None]]
    threshold: Threshold | None
    alarms: int | None
    false_alarms: int | None
    false_alarm_rate: float | None  # of the normal rows
    false_alarm_interval: Interval | None
    recall: float | None  # of the anomalies, the share that is an alarm
    recall_interval: Interval | None
    precision_at_stated: float | None  # of the alarms, the share that would be anomalies at the stated prevalence
    distributions: dict[str, list[float] | None]
    precision_recall: dict[str, list[float]] | None  # at the prevalence of these rows
    by_threshold: dict[str, list[float]] | None  # at the stated prevalence, or that of these rows

    @property
    def figures(self) -> dict[str, float]:
        """The average precision, where it is known."""
        return {} if self.average_precision is None else {"average_precision": self.average_precision}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        content = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return content | {"threshold": asdict(self.threshold) if self.threshold is not None else None}

    def summary(self) -> dict[str, Any]:
        """The figures that fit on a line."""
        content = self.to_dict()
        return {name: content[name] for name in SUMMARY}


SUMMARY = (
    "n",
    "anomalies",
    "average_precision",
    "average_precision_interval",
    "stated_prevalence",
    "natural_average_precision",
    "natural_average_precision_interval",
    "roc_auc",
    "recall",
    "false_alarm_rate",
    "false_alarms",
)


def judge_scores(
    scores: ArrayLike,
    anomalies: ArrayLike | None,
    *,
    calibration: ArrayLike,
    threshold: Threshold | None,
    prevalence: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> AnomalyEvaluation:
    """Judge the scores [n] of rows; greater scores are more unusual.

    Args:
        scores: of the rows.
        anomalies: which of them are, bool [n]; None where nobody knows.
        calibration: scores of held-out normal rows, for the distributions.
        threshold: above which a row is an alarm; it must not come from these rows.
        prevalence: the share of anomalies where the scores will be used.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: no rows, scores that are not finite, a prevalence outside 0..1.
    """
    values, held_out = finite_scores(scores), finite_scores(calibration)
    if len(values) == 0:
        raise DataError("there is nothing to evaluate: received 0 rows")
    if prevalence is not None and not 0 < prevalence < 1:
        raise DataError(f"a prevalence is a share of rows above 0 and below 1; received {prevalence:g}")
    truth = None if anomalies is None else _truth(anomalies, len(values))
    fields = _ranking(values, truth, prevalence, resamples, seed) | _alarms(values, truth, threshold, prevalence)
    return AnomalyEvaluation(
        n=len(values),
        anomalies=None if truth is None else int(truth.sum()),
        prevalence=None if truth is None else float(truth.mean()),
        stated_prevalence=prevalence,
        threshold=threshold,
        distributions=_distributions(values, truth, held_out),
        **fields,
    )


def average_precision(scores: ArrayLike, anomalies: ArrayLike, prevalence: float | None = None) -> float:
    """The mean precision over the anomalies, each with those at its score or above: the area under their steps.

    >>> average_precision([0.9, 0.8, 0.7, 0.6], [True, False, True, False])
    0.8333333333333333

    With ``prevalence`` anomalies are weighted so that they are this share of the rows. Not the trapezoid between
    points, which lies above what any threshold can give (Davis & Goadrich 2006).

    Raises:
        DataError: only anomalies, or only normal rows.
    """
    values = finite_scores(scores)
    truth = _truth(anomalies, len(values))
    if not truth.any() or truth.all():
        raise DataError("average precision takes anomalies and normal rows; received only one of the two")
    steps = _Steps.of(values, truth)
    return float(steps.average_precision(steps.weight(prevalence)))


def roc_auc(scores: ArrayLike, anomalies: ArrayLike) -> float:
    """How often an anomaly's score is above a normal row's, of two drawn at random; equal ones count half.

    >>> roc_auc([0.9, 0.8, 0.7, 0.6], [True, False, True, False])
    0.75
    """
    values = finite_scores(scores)
    truth = _truth(anomalies, len(values))
    normal, unusual = np.sort(values[~truth]), values[truth]
    below = np.searchsorted(normal, unusual, side="left") + np.searchsorted(normal, unusual, side="right")
    return float(below.mean() / 2 / len(normal))


def recall_at(scores: ArrayLike, anomalies: ArrayLike, rate: float) -> float:
    """The share of the anomalies above all but the share ``rate`` of these normal rows: what a ranking could give.

    >>> recall_at([0.9, 0.8, 0.7, 0.6], [True, False, True, False], rate=0.01)
    0.5
    """
    values = finite_scores(scores)
    truth = _truth(anomalies, len(values))
    normal = np.sort(values[~truth])
    borne = min(math.floor(rate * len(normal) + 1e-9), len(normal) - 1)
    return float(np.mean(values[truth] > normal[len(normal) - 1 - borne]))


@dataclass(frozen=True, eq=False)
class _Steps:
    """Rows by falling score, cut at the scores of anomalies: all that precision and recall depend on.

    ``unusual`` [steps] counts the anomalies with a step's score, ``normal`` [steps + 1] the normal rows that come in
    with it; the last of them are those below every anomaly. Counts may be [..., steps], of several resamples.
    """

    unusual: NDArray[np.int64]
    normal: NDArray[np.int64]

    @classmethod
    def of(cls, scores: Floats, truth: NDArray[np.bool_]) -> _Steps:
        levels, unusual = np.unique(-scores[truth], return_counts=True)
        where = np.searchsorted(levels, -scores[~truth], side="left")
        return cls(unusual.astype(np.int64), np.bincount(where, minlength=len(levels) + 1).astype(np.int64))

    def weight(self, prevalence: float | None) -> float:
        """How many rows an anomaly must count as, to be such a share of all."""
        if prevalence is None:
            return 1.0
        return float(prevalence / (1 - prevalence) * self.normal.sum() / self.unusual.sum())

    def precision(self, weight: float = 1.0) -> Floats:
        found = weight * self.unusual.cumsum(axis=-1)
        # A resample may begin with steps that drew no row; their precision has no weight in the average.
        return np.asarray(found / np.maximum(found + self.normal[..., :-1].cumsum(axis=-1), 1e-300), dtype=np.float64)

    def recall(self) -> Floats:
        return np.asarray(self.unusual.cumsum(axis=-1) / self.unusual.sum(axis=-1, keepdims=True), dtype=np.float64)

    def average_precision(self, weight: float = 1.0) -> Floats:
        share = self.unusual / self.unusual.sum(axis=-1, keepdims=True)
        mean = (share * self.precision(weight)).sum(axis=-1)
        return np.asarray(np.minimum(mean, 1.0), dtype=np.float64)  # rounding must not pass 1

    def resampled(self, count: int, seed: int) -> Iterator[_Steps]:
        """Steps of drawing as many anomalies, and as many normal rows, with replacement; several resamples at once."""
        random = np.random.default_rng(seed)
        left = max(1, min(count, DRAWS // len(self.normal)))
        while left > 0:
            now = min(left, max(1, DRAWS_AT_ONCE // len(self.normal)))
            unusual, normal = (
                random.multinomial(counts.sum(), counts / counts.sum(), size=now)
                for counts in (self.unusual, self.normal)
            )
            yield _Steps(unusual, normal)
            left -= now


def _ranking(
    scores: Floats, truth: NDArray[np.bool_] | None, prevalence: float | None, resamples: int, seed: int
) -> dict[str, Any]:
    """What depends on the order of the rows alone; None where there is none, for want of anomalies or normal rows."""
    if truth is None or not truth.any() or truth.all():
        names = ("average_precision", "average_precision_interval", "natural_average_precision",
                 "natural_average_precision_interval", "roc_auc", "precision_recall", "by_threshold")  # fmt: skip
        return dict.fromkeys(names) | {"recall_at": [{"false_alarm_rate": rate, "recall": None} for rate in RECALL_AT]}
    steps = _Steps.of(scores, truth)
    weight = steps.weight(prevalence)
    kept = _spread(len(steps.unusual), CURVE_POINTS)
    recalls, precisions = steps.recall()[kept], steps.precision()[kept]
    own, natural, curves = _bootstrapped(steps, weight, recalls, resamples, seed)
    average, natural_average = float(steps.average_precision()), float(steps.average_precision(weight))
    low, high = _bounds(curves, precisions)
    return {
        "average_precision": average,
        "average_precision_interval": _interval(own, average, truth),
        "natural_average_precision": natural_average if prevalence is not None else None,
        "natural_average_precision_interval": _interval(natural, natural_average, truth) if prevalence else None,
        "roc_auc": roc_auc(scores, truth),
        "recall_at": [{"false_alarm_rate": rate, "recall": recall_at(scores, truth, rate)} for rate in RECALL_AT],
        "precision_recall": _lists(recall=recalls, precision=precisions, low=low, high=high),
        "by_threshold": _by_threshold(scores, truth, weight),
    }


def _bootstrapped(
    steps: _Steps, weight: float, recalls: Floats, resamples: int, seed: int
) -> tuple[Floats, Floats, Floats]:
    """Of each resample: average precision as it is and weighted, and the precision [resamples, points] at recalls."""
    own, natural, curves = [], [], []
    for drawn in steps.resampled(resamples, seed):
        precision, recall = drawn.precision(), drawn.recall()
        own.append(drawn.average_precision())
        natural.append(drawn.average_precision(weight))
        at = [np.searchsorted(each, recalls - 1e-12) for each in recall]
        curves.append(np.take_along_axis(precision, np.minimum(at, precision.shape[1] - 1), axis=1))
    return np.concatenate(own), np.concatenate(natural), np.concatenate(curves)


def _alarms(
    scores: Floats, truth: NDArray[np.bool_] | None, threshold: Threshold | None, prevalence: float | None
) -> dict[str, Any]:
    """What the threshold does."""
    names = ("alarms", "false_alarms", "false_alarm_rate", "false_alarm_interval", "recall", "recall_interval",
             "precision_at_stated")  # fmt: skip
    fields: dict[str, Any] = dict.fromkeys(names)
    if threshold is None:
        return fields
    alarm = scores > threshold.value
    fields["alarms"] = int(alarm.sum())
    if truth is None:
        return fields
    normal, unusual = int((~truth).sum()), int(truth.sum())
    false, found = int((alarm & ~truth).sum()), int((alarm & truth).sum())
    fields["false_alarms"] = false
    if normal:
        fields |= {"false_alarm_rate": false / normal, "false_alarm_interval": exact_interval(false, normal)}
    if unusual:
        fields |= {"recall": found / unusual, "recall_interval": exact_interval(found, unusual)}
    if normal and unusual and prevalence is not None and (false or found):
        true_share = prevalence * found / unusual
        fields["precision_at_stated"] = true_share / (true_share + (1 - prevalence) * false / normal)
    return fields


def _by_threshold(scores: Floats, truth: NDArray[np.bool_], weight: float) -> dict[str, list[float]]:
    """Precision, recall and false alarms for thresholds from the lowest score to below the highest."""
    edges = _edges(scores, CURVE_POINTS)
    grid = edges[edges < scores.max()]  # above the highest there is no alarm, and no precision
    normal, unusual = np.sort(scores[~truth]), np.sort(scores[truth])
    false = len(normal) - np.searchsorted(normal, grid, side="right")
    found = len(unusual) - np.searchsorted(unusual, grid, side="right")
    return _lists(
        threshold=grid,
        precision=weight * found / np.maximum(weight * found + false, 1e-300),
        recall=found / len(unusual),
        false_alarm_rate=false / len(normal),
    )


def _distributions(
    scores: Floats, truth: NDArray[np.bool_] | None, calibration: Floats
) -> dict[str, list[float] | None]:
    """The share of each kind of rows in bins whose edges rise by a factor; what lies outside is in the outermost."""
    edges = _edges(np.concatenate([scores, calibration]), BINS + 1)
    kinds: dict[str, Floats | None] = {"calibration": calibration, "normal": None, "anomalies": None, "rows": None}
    kinds |= {"rows": scores} if truth is None else {"normal": scores[~truth], "anomalies": scores[truth]}
    shares = {name: _shares(kind, edges) for name, kind in kinds.items()}
    return {"edges": edges.tolist(), **shares}


def _shares(scores: Floats | None, edges: Floats) -> list[float] | None:
    if scores is None:
        return None
    counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)
    return [float(count) / max(len(scores), 1) for count in counts]


def _edges(scores: Floats, count: int) -> Floats:
    """Values that rise by a factor over the range of the scores above 0, or a range about 1 where there are none."""
    positive = scores[scores > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    if high <= low * (1 + 1e-9):
        low, high = low / 2, high * 2
    edges = np.geomspace(low, high, count)
    edges[0], edges[-1] = low, high
    return np.asarray(edges, dtype=np.float64)


def _interval(resampled: Floats, value: float, truth: NDArray[np.bool_]) -> Interval | None:
    if min(int(truth.sum()), int((~truth).sum())) < FEWEST_FOR_INTERVAL:
        return None
    low, high = _bounds(resampled[:, None], np.array([value]))
    return float(low[0]), float(high[0])


def _bounds(resampled: Floats, values: Floats) -> tuple[Floats, Floats]:
    """The middle 95 % of resamples [resamples, points]; drawn rows repeat, so it may miss the value, and is widened."""
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    return np.minimum(low, values), np.maximum(high, values)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Indices spread evenly over ``count``, the first and the last among them; no more than ``most``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _truth(anomalies: ArrayLike, n: int) -> NDArray[np.bool_]:
    truth = np.asarray(anomalies)
    if truth.shape != (n,):
        raise DataError(f"anomalies must be one truth value a row, [{n}]; received shape {list(truth.shape)}")
    return truth.astype(np.bool_)


def _lists(**curves: Floats) -> dict[str, list[float]]:
    return {name: curve.tolist() for name, curve in curves.items()}
