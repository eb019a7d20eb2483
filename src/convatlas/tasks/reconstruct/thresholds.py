"""Above which score a row is an alarm: from a share of false alarms that is borne, and held-out normal rows.

No label is looked at, and no share of anomalies has to be known. NumPy and SciPy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convatlas.errors import DataError, shortened

CONFIDENCE = 0.95  # where nobody asks for another


@dataclass(frozen=True)
class Threshold:
    """A row is an alarm when its score is greater than ``value``.

    With ``confidence``, no more than the share ``rate`` of normal rows is; ``calibration_rows`` say so.
    """

    value: float
    rate: float
    confidence: float
    calibration_rows: int


def threshold_at(scores: ArrayLike, rate: float, confidence: float = CONFIDENCE, *, of: str = "rows") -> Threshold:
    """The lowest threshold that keeps the share of false alarms below ``rate``, from scores [n] of held-out normals.

    >>> threshold_at(np.arange(1000.0), rate=0.01)
    Threshold(value=995.0, rate=0.01, confidence=0.95, calibration_rows=1000)

    Four of these thousand lie above it and not ten: the true share is then at most 1 % for 95 of 100 such sets of
    calibration rows. That holds whatever the scores' distribution, as long as later rows are drawn like these.
    ``of`` says in messages what the scores are of.

    Raises:
        DataError: fewer scores than `rows_needed`, scores that are no numbers, a rate or confidence outside 0..1.

    Source: Wilks 1941, "Determination of sample sizes for setting tolerance limits", Ann. Math. Stat. 12(1).
    """
    from scipy.stats import binom

    ordered = np.sort(finite_scores(scores))
    n, needed = len(ordered), rows_needed(rate, confidence)
    if n == 0:
        raise DataError(f"a threshold needs scores of normal {of}, {needed:,} of them; received none")
    if n < needed:
        possible = rounded_up(smallest_rate(n, confidence))
        raise DataError(
            f"false alarms of {rate:.3g} with {confidence:.0%} confidence take {needed:,} calibration {of}; received "
            f"{n:,}, enough for {possible:.3g}. Ask for more false alarms, or give more {of}"
        )
    above = int(binom.ppf(1 - confidence, n, rate))  # the fewest with P(Binomial(n, rate) <= above) >= 1 - confidence
    if binom.cdf(above, n, rate) > 1 - confidence:
        above = max(above - 1, 0)
    return Threshold(float(ordered[n - 1 - above]), rate, confidence, n)


def rows_needed(rate: float, confidence: float = CONFIDENCE) -> int:
    """How many calibration rows a threshold takes: so many that the highest of their scores is one.

    >>> rows_needed(0.01), rows_needed(0.001), rows_needed(0.0001)
    (299, 2995, 29956)

    Raises:
        DataError: a rate or confidence outside 0..1.
    """
    _refuse_no_share("a rate of false alarms", rate)
    _refuse_no_share("a confidence", confidence)
    rounding = 1e-9  # so that the rate of `smallest_rate` needs the rows that it was made from
    return max(1, math.ceil(math.log1p(-confidence) / math.log1p(-rate) * (1 - rounding)))


def smallest_rate(rows: int, confidence: float = CONFIDENCE) -> float:
    """The smallest rate of false alarms that so many calibration rows can promise; 1 where there are none.

    >>> round(smallest_rate(299), 4)
    0.01
    """
    _refuse_no_share("a confidence", confidence)
    return -math.expm1(math.log1p(-confidence) / rows) if rows > 0 else 1.0


def rounded_up(rate: float) -> float:
    """A rate with three digits that is none too small, so that what is told as possible can be asked for.

    >>> rounded_up(0.00065171)
    0.000652
    """
    step = 10.0 ** (math.floor(math.log10(rate)) - 2)
    return min(1.0, float(f"{math.ceil(rate / step) * step:.3g}"))


def p_values(calibration: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """How rare each score [m] is among normal rows: (1 + calibration scores as high or higher) / (n + 1).

    >>> p_values([1.0, 2.0, 3.0, 4.0], [0.5, 3.0, 9.0]).tolist()
    [1.0, 0.6, 0.2]

    A normal row has a p-value of at most p with a probability of at most p; it is not the probability of being normal.

    Raises:
        DataError: scores that are no numbers, or no calibration scores.

    Source: Bates et al. 2023, "Testing for outliers with conformal p-values", Ann. Stat. 51(1).
    """
    ordered, asked = np.sort(finite_scores(calibration)), finite_scores(scores)
    if len(ordered) == 0:
        raise DataError("p-values need scores of calibration rows; received none")
    as_high = len(ordered) - np.searchsorted(ordered, asked, side="left")
    return np.asarray((1 + as_high) / (len(ordered) + 1), dtype=np.float64)


def benjamini_hochberg(p: ArrayLike, rate: float) -> NDArray[np.bool_]:
    """Which of a batch of p-values [m] to call anomalies, so that of those the share ``rate`` is expected to be none.

    >>> benjamini_hochberg([0.001, 0.9, 0.015, 0.04], rate=0.05).tolist()
    [True, False, True, False]

    Source: Benjamini & Hochberg 1995, "Controlling the false discovery rate", JRSS B 57(1).
    """
    values = np.asarray(p, dtype=np.float64)
    m = len(values)
    if m == 0:
        return np.zeros(0, dtype=np.bool_)
    ordered = np.sort(values)
    small = np.flatnonzero(ordered <= rate * np.arange(1, m + 1) / m)
    limit = ordered[small[-1]] if len(small) else -1.0
    return np.asarray(values <= limit, dtype=np.bool_)


def exact_interval(k: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of a share of which k of n were seen; it is never too narrow, however rare what is counted.

    >>> [round(bound, 4) for bound in exact_interval(2, 1000)]
    [0.0002, 0.0072]

    Source: Clopper & Pearson 1934, "The use of confidence or fiducial limits", Biometrika 26(4).
    """
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return low, high


def parse_rate(asked: float | str) -> float:
    """A share of rows as a person writes it.

    >>> parse_rate("1%"), parse_rate("0.1 %"), parse_rate(0.01)
    (0.01, 0.001, 0.01)

    Raises:
        DataError: no number, or not above 0 and below 1.
    """
    text = str(asked).strip()
    number, percent = text.removesuffix("%").strip(), text.endswith("%")
    try:
        value = float("" if isinstance(asked, bool) else number)
    except ValueError:
        value = math.nan
    share = value / 100 if percent else value
    if not 0 < share < 1:
        raise DataError(f"a share of rows is above 0 and below 1, such as 1% or 0.01; received {shortened(text, 40)!r}")
    return share


def rate_from_alarms(alarms_a_day: float, rows_a_day: float) -> float:
    """The rate of false alarms that gives so many a day.

    >>> rate_from_alarms(5, rows_a_day=10_000)
    0.0005

    Raises:
        DataError: numbers that are not above 0, or as many alarms as rows.
    """
    require_positive("rows a day", rows_a_day)
    require_positive("alarms a day", alarms_a_day)
    if alarms_a_day >= rows_a_day:
        raise DataError(f"{alarms_a_day:g} alarms a day of {rows_a_day:g} rows a day leave nothing to find; bear fewer")
    return alarms_a_day / rows_a_day


def rate_from_cost(cost: float, budget: float, rows_a_day: float) -> float:
    """The rate of false alarms that costs ``budget`` a day, where a look at one of them costs ``cost``.

    >>> rate_from_cost(cost=4.0, budget=40.0, rows_a_day=10_000)
    0.001

    Raises:
        DataError: numbers that are not above 0, or a budget for as many alarms as rows.
    """
    require_positive("the cost of an alarm", cost)
    require_positive("the budget", budget)
    return rate_from_alarms(budget / cost, rows_a_day)


def finite_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores [n] in double precision.

    Raises:
        DataError: some are no numbers, which cannot be ranked; a row that has one would never be an alarm.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise DataError(f"scores are one number a row, [n]; received shape {list(values.shape)}")
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise DataError(f"{bad:,} of {len(values):,} scores are not finite: such rows cannot be ranked")
    return values


def _refuse_no_share(what: str, value: float) -> None:
    if not 0 < value < 1:
        raise DataError(f"{what} is above 0 and below 1; received {value:g}")


def require_positive(what: str, value: float) -> None:
    """Refuse what is no number above 0.

    Raises:
        DataError: says what it is.
    """
    if not (value > 0 and math.isfinite(value)):
        raise DataError(f"{what} must be a number above 0; received {value:g}")
