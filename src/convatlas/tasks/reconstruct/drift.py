"""Whether rows without labels still look like those the threshold was set on; what an alarm means depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convatlas.errors import DataError, first_of
from convatlas.tasks.reconstruct.thresholds import Threshold, benjamini_hochberg, exact_interval, finite_scores

SIGNIFICANCE = 0.01  # of the comparison of scores, and of the share of columns wrongly named
WORTH_TELLING = 0.05  # of the Kolmogorov-Smirnov distance: with very many rows, any difference is significant
ROWS_COMPARED = 20_000  # of each side, column by column
COLUMNS_NAMED = 10

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ColumnShift:
    """One column's part of the scores, in the calibration rows and now."""

    name: str
    calibration_median: float
    median: float
    ks_statistic: float  # the largest difference between the two distributions, 0..1
    p_value: float


@dataclass(frozen=True)
class Drift:
    """Rows compared with the calibration rows; what needs a threshold is None without one."""

    calibration_rows: int
    rows: int
    ks_statistic: float  # of the scores
    p_value: float
    calibration_median: float
    median: float
    alarms: int | None
    alarm_rate: float | None
    alarm_interval: tuple[float, float] | None
    expected_rate: float | None  # of alarms, at most, were all rows normal ones like the calibration rows
    columns: tuple[ColumnShift, ...]  # that moved, first those that moved most
    alike: bool
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        interval = list(self.alarm_interval) if self.alarm_interval is not None else None
        return asdict(self) | {"alarm_interval": interval, "columns": [asdict(column) for column in self.columns]}


def drift(
    calibration: ArrayLike,
    scores: ArrayLike,
    *,
    threshold: Threshold | None,
    names: Sequence[str],
    calibration_columns: ArrayLike,
    columns: ArrayLike,
    seed: int = 0,
) -> Drift:
    """Compare the scores [m] of rows with those [n] of the calibration rows, and the columns' parts of them.

    Drift and a share of anomalies look alike to scores: many small changes are drift, a few great ones are anomalies.

    >>> normal, same = np.arange(100.0), np.arange(100.0) + 0.5
    >>> nothing = np.zeros((100, 0))
    >>> drift(normal, same, threshold=None, names=[], calibration_columns=nothing, columns=nothing).verdict
    'the rows look like the calibration rows'

    Args:
        calibration: scores of the calibration rows.
        scores: of the rows in question.
        threshold: above which a row is an alarm.
        names: of the columns.
        calibration_columns: what each column adds to the calibration rows' scores, [n, columns].
        columns: the same of the rows, [m, columns].
        seed: of which rows are compared column by column, where there are very many.

    Raises:
        DataError: no rows on one side, or scores that are not finite.
    """
    before, now = finite_scores(calibration), finite_scores(scores)
    if len(before) == 0 or len(now) == 0:
        raise DataError(f"a comparison takes rows on both sides; received {len(before):,} and {len(now):,}")
    statistic, p = _compared(before, now)
    shifts = _shifts(names, np.asarray(calibration_columns), np.asarray(columns), seed)
    alarms = int((now > threshold.value).sum()) if threshold is not None else None
    interval = exact_interval(alarms, len(now)) if alarms is not None else None
    has_moved = p < SIGNIFICANCE and statistic >= WORTH_TELLING
    too_many = threshold is not None and interval is not None and interval[0] > threshold.rate
    return Drift(
        calibration_rows=len(before),
        rows=len(now),
        ks_statistic=statistic,
        p_value=p,
        calibration_median=float(np.median(before)),
        median=float(np.median(now)),
        alarms=alarms,
        alarm_rate=alarms / len(now) if alarms is not None else None,
        alarm_interval=interval,
        expected_rate=threshold.rate if threshold is not None else None,
        columns=shifts,
        alike=not has_moved and not too_many,
        verdict=_verdict(
            has_moved, _alarms_in_words(alarms, len(now), threshold) if too_many else "", [s.name for s in shifts]
        ),
    )


def _verdict(has_moved: bool, too_many: str, names: Sequence[str]) -> str:
    """One sentence; ``too_many`` says how many alarms, where they are more than expected."""
    if has_moved:
        where = f", most in {first_of(names, 3)}" if names else ""
        held = f": {too_many}, so the threshold does not hold for them" if too_many else ""
        return f"the rows have drifted from the calibration rows{where}{held}. Train on newer rows"
    if too_many:
        return (
            f"most rows look like the calibration rows, but {too_many}: anomalies, or the highest scores have drifted"
        )
    return "the rows look like the calibration rows"


def _alarms_in_words(alarms: int | None, rows: int, threshold: Threshold | None) -> str:
    if alarms is None or threshold is None:
        return ""
    return f"{alarms / rows:.2%} are alarms where at most {threshold.rate:.2%} of normal rows would be"


def _shifts(names: Sequence[str], before: NDArray[Any], now: NDArray[Any], seed: int) -> tuple[ColumnShift, ...]:
    """The columns whose part of the scores has moved by more than chance, the worst first."""
    before, now = _some(before, seed), _some(now, seed)
    compared = [
        ColumnShift(
            name,
            float(np.median(before[:, column])),
            float(np.median(now[:, column])),
            *_compared(before[:, column], now[:, column]),
        )
        for column, name in enumerate(names)
    ]
    is_found = benjamini_hochberg([shift.p_value for shift in compared], SIGNIFICANCE)
    moved = [
        shift for shift, found in zip(compared, is_found, strict=True) if found and shift.ks_statistic >= WORTH_TELLING
    ]
    return tuple(sorted(moved, key=lambda shift: -shift.ks_statistic)[:COLUMNS_NAMED])


def _some(rows: NDArray[Any], seed: int) -> NDArray[Any]:
    if len(rows) <= ROWS_COMPARED:
        return rows
    return rows[np.random.default_rng(seed).choice(len(rows), ROWS_COMPARED, replace=False)]


def _compared(before: NDArray[Any], now: NDArray[Any]) -> tuple[float, float]:
    """Statistic and p-value of Kolmogorov's and Smirnov's test; equal values only make its p-value too large."""
    from scipy.stats import ks_2samp

    # The exact distribution takes minutes for some sizes, and SciPy warns where it overflows.
    method = "exact" if max(len(before), len(now)) <= 1000 else "asymp"
    found = ks_2samp(before, now, method=method)
    return float(found.statistic), float(found.pvalue)
