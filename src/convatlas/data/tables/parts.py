"""The four parts of a table: to learn from, to validate, to calibrate a threshold, and to test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convatlas.data.tables.columns import kind_of, numbers_of, shown_name
from convatlas.data.tables.table import Table
from convatlas.errors import DataError, shortened

Rows = NDArray[np.int64]

FIT, VALIDATION, CALIBRATION, TEST, NONE = 0, 1, 2, 3, 4
FEWEST_TO_LEARN_FROM = 2


@dataclass(frozen=True, eq=False)
class RowParts:
    """Positions of rows, ascending. Only ``test`` has anomalies; ``left_out`` counts rows in no part."""

    fit: Rows
    validation: Rows
    calibration: Rows
    test: Rows
    left_out: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each part, by name."""
        return {name: len(getattr(self, name)) for name in ("fit", "validation", "calibration", "test")}


def split_rows(
    table: Table,
    anomalies: NDArray[np.bool_] | None,
    *,
    validation: float,
    calibration: float,
    test: float,
    seed: int,
) -> RowParts:
    """Divide the rows, the same way every time.

    Normal rows are divided by the shares, and what is left is learnt from; anomalies are all in the test. Rows that a
    network cannot tell apart, being the same in every input, are never in two parts. With a time the oldest rows are
    learnt from and the newest are the test; what is then left out are anomalies older than the test, and rows that
    are there already in another part.

    >>> shares = {"validation": 0.1, "calibration": 0.2, "test": 0.2}
    >>> parts = split_rows(table, anomalies_in(table), **shares, seed=0)   # doctest: +SKIP
    >>> parts.counts   # doctest: +SKIP
    {'fit': 11478, 'validation': 2296, 'calibration': 4591, 'test': 5084}

    Args:
        table: of n rows.
        anomalies: which rows are no normal ones, [n]; None where nobody knows: all are taken for normal.
        validation: a share of the normal rows, above 0 and below 1, as the two others.
        calibration: the same.
        test: the same.
        seed: decides which, where there is no time.

    Raises:
        DataError: too few normal rows, or too few that differ; a time that is no time.
    """
    shares = (validation, calibration, test)
    if not all(0 < share < 1 for share in shares) or sum(shares) >= 1:
        raise DataError(
            "the shares for validation, calibration and test must each be above 0, and below 1 together; received "
            f"{', '.join(f'{share:g}' for share in shares)}"
        )
    is_anomaly = np.zeros(len(table.frame), dtype=bool) if anomalies is None else np.asarray(anomalies, dtype=bool)
    sizes = _sizes(int((~is_anomaly).sum()), shares, table.name)
    copies = copies_of(table)
    if table.time is None:
        part = _at_random(is_anomaly, copies, sizes, seed)
    else:
        part = _by_time(_moments(table), is_anomaly, copies, sizes)
    _require_all(part, is_anomaly, table.name)
    fit, validating, calibrating, testing = (
        np.flatnonzero(part == place) for place in (FIT, VALIDATION, CALIBRATION, TEST)
    )
    return RowParts(fit, validating, calibrating, testing, left_out=int((part == NONE).sum()))


def copies_of(table: Table) -> Rows:
    """For each row a number that it shares with those that are the same in every input, [n], from 0 without gaps."""
    from pandas.util import hash_pandas_object

    try:
        hashes = hash_pandas_object(table.frame[list(table.inputs)], index=False).to_numpy()
    except TypeError as error:
        raise DataError(f"a column of {table.name} holds what is neither number nor text: {error}") from error
    return np.asarray(np.unique(hashes, return_inverse=True)[1], dtype=np.int64)


def _sizes(rows: int, shares: tuple[float, float, float], name: str) -> tuple[int, int, int]:
    """Rows for validation, calibration and test."""
    needed = max(*(math.ceil(1 / share) for share in shares), math.ceil(FEWEST_TO_LEARN_FROM / (1 - sum(shares))))
    if rows < needed:
        raise DataError(f"{name} has {rows:,} normal rows; its parts need at least {needed:,}. Give more rows")
    validation, calibration, test = (max(1, round(rows * share)) for share in shares)
    return validation, calibration, test


def _at_random(is_anomaly: NDArray[np.bool_], copies: Rows, sizes: tuple[int, int, int], seed: int) -> Rows:
    """Copies go together: to the test if one is an anomaly, and to learn from if they alone are more than a part."""
    validation, calibration, test = sizes
    normal_copies = np.bincount(copies, weights=~is_anomaly).astype(np.int64)
    with_anomaly = np.bincount(copies, weights=is_anomaly) > 0
    place = np.full(len(normal_copies), FIT)
    place[with_anomaly] = TEST
    is_free = ~with_anomaly & (normal_copies <= min(sizes))
    # RandomState, since numpy promises never to change its stream (NEP 19): a division is the same in ten years.
    free = np.random.RandomState(seed).permutation(np.flatnonzero(is_free))
    before = np.cumsum(normal_copies[free]) - normal_copies[free]
    taken = int(normal_copies[with_anomaly].sum())
    ends = np.cumsum([max(0, test - taken), calibration, validation])
    place[free] = np.array([TEST, CALIBRATION, VALIDATION, FIT])[np.searchsorted(ends, before, side="right")]
    return place[copies]


def _by_time(
    moments: NDArray[np.float64], is_anomaly: NDArray[np.bool_], copies: Rows, sizes: tuple[int, int, int]
) -> Rows:
    validation, calibration, test = sizes
    order = np.argsort(moments, kind="stable")
    normal = order[~is_anomaly[order]]
    part = np.full(len(moments), NONE)
    bounds = np.cumsum([len(normal) - validation - calibration - test, validation, calibration])
    for place, rows in enumerate(np.split(normal, bounds)):
        part[rows] = place
    part[is_anomaly & (moments >= moments[normal[bounds[-1]]])] = TEST
    # A copy stays where its first one is, in time; a normal row that an anomaly of the test repeats is not learnt from.
    earliest = np.full(copies.max() + 1, NONE)
    np.minimum.at(earliest, copies, part)
    earliest[copies[is_anomaly & (part == TEST)]] = TEST
    part[part != earliest[copies]] = NONE
    return part


def _moments(table: Table) -> NDArray[np.float64]:
    """The time of each row as a number: seconds, where it is a date.

    Raises:
        DataError: a row has none, or one that is neither a number nor an ISO 8601 date.
    """
    moments = moments_of(table.frame[table.time])
    wrong = np.flatnonzero(~np.isfinite(moments))
    if len(wrong):
        value = shortened(table.frame[table.time].iloc[wrong[0]], 40)
        raise DataError(
            f"{table.name}, row {wrong[0] + 1:,}: {value!r} in column {shown_name(table.time)} is no time. Times are "
            "numbers, or dates such as 2024-05-31 or 2024-05-31 17:00:00"
        )
    return moments


def moments_of(column: object) -> NDArray[np.float64]:
    """Times as numbers, [n]; NaN for what is none."""
    from pandas import Series, to_datetime

    assert isinstance(column, Series)
    numbers = None if kind_of(column) == "moment" else numbers_of(column)
    if numbers is not None:
        return numbers
    try:
        found = to_datetime(column, format="ISO8601", utc=True, errors="coerce")
    except (ValueError, TypeError, OverflowError):  # what is no date, nor text
        return np.full(len(column), np.nan)
    seconds = found.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.float64) / 1e6
    return np.where(found.isna().to_numpy(), np.nan, seconds)


def _require_all(part: Rows, is_anomaly: NDArray[np.bool_], name: str) -> None:
    counts = np.bincount(part[~is_anomaly], minlength=NONE + 1)
    if counts[FIT] < FEWEST_TO_LEARN_FROM or not counts[VALIDATION : TEST + 1].all():
        raise DataError(
            f"too few rows of {name} differ: rows that are the same in every column belong in one part, and then "
            "one of the four parts is empty. Give more rows, or more columns"
        )
