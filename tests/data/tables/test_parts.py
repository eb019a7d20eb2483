from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_tables import payments

from convatlas.data.tables import RowParts, Table, anomalies_in, normal_label, open_table, split_rows
from convatlas.errors import DataError

SHARES = {"validation": 0.1, "calibration": 0.2, "test": 0.2}
NAMES = ("fit", "validation", "calibration", "test")


def divided(table: Table, seed: int = 0) -> RowParts:
    return split_rows(table, anomalies_in(table), **SHARES, seed=seed)


def require_rules(table: Table, parts: RowParts) -> None:
    """What holds of every division."""
    anomalies = anomalies_in(table)
    anomalies = np.zeros(len(table), bool) if anomalies is None else anomalies
    whole = np.concatenate([getattr(parts, name) for name in NAMES])
    assert len(np.unique(whole)) == len(whole) == len(table) - parts.left_out
    assert sum(parts.counts.values()) == len(whole)
    assert not anomalies[np.concatenate([parts.fit, parts.validation, parts.calibration])].any()
    seen = [{tuple(row) for row in table.frame[list(table.inputs)].iloc[getattr(parts, name)].astype(str).to_numpy()}
            for name in NAMES]  # fmt: skip
    assert sum(map(len, seen)) == len(set().union(*seen)), "a row is on two sides"
    for name in NAMES:
        rows = getattr(parts, name)
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()


def test_normal_rows_are_divided_by_the_shares_and_all_anomalies_are_tested() -> None:
    table = open_table(payments(), label="fraud")
    parts = divided(table)
    assert parts.counts == {"fit": 190, "validation": 38, "calibration": 76, "test": 96}
    assert parts.left_out == 0
    require_rules(table, parts)


def test_a_seed_decides() -> None:
    table = open_table(payments(), label="fraud")
    once, again, other = divided(table), divided(table), divided(table, seed=1)
    assert np.array_equal(once.test, again.test)
    assert np.array_equal(once.fit, again.fit)
    assert not np.array_equal(once.fit, other.fit)


def test_without_a_label_every_row_is_taken_for_normal() -> None:
    table = open_table(payments())
    assert anomalies_in(table) is None
    assert normal_label(table) is None
    assert divided(table).counts == {"fit": 200, "validation": 40, "calibration": 80, "test": 80}


def test_by_time_the_oldest_are_learnt_from_and_the_newest_tested() -> None:
    frame = payments().sample(frac=1, random_state=1, ignore_index=True)
    table = open_table(frame, label="fraud", time="seconds")
    parts = divided(table)
    require_rules(table, parts)
    moments = [frame["seconds"].to_numpy()[getattr(parts, name)] for name in NAMES]
    for earlier, later in pairwise(moments):
        assert earlier.max() <= later.min()
    anomalies = anomalies_in(table)
    assert anomalies is not None
    older = anomalies & (frame["seconds"].to_numpy() < moments[-1].min())
    assert parts.left_out == older.sum() > 0


def test_dates_are_times() -> None:
    frame = payments()
    by_number = divided(open_table(frame, label="fraud", time="seconds"))
    moments = pd.Timestamp("2024-05-31") + pd.to_timedelta(frame["seconds"], unit="s")
    for written in (moments, moments.astype(str), moments.dt.strftime("%Y-%m-%dT%H:%M:%S.%f+02:00")):
        by_date = divided(open_table(frame.assign(seconds=written), label="fraud", time="seconds"))
        assert np.array_equal(by_date.test, by_number.test)
    frame["seconds"] = "31/05/2024"
    with pytest.raises(DataError, match="row 1: '31/05/2024' in column 'seconds' is no time"):
        divided(open_table(frame, label="fraud", time="seconds"))


@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(3, 60))
def test_copies_of_a_row_are_never_on_two_sides(seed: int, by_time: bool, different: int) -> None:
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"a": draw.integers(0, different, 120), "when": draw.permutation(120), "fraud": draw.random(120) < 0.1}
    )
    table = open_table(frame, label="fraud", time="when" if by_time else None)
    if not by_time:
        table = open_table(frame[["a", "fraud"]], label="fraud")
    try:
        parts = divided(table)
    except DataError as error:
        assert "differ" in str(error)  # noqa: PT017  # often there are too few
    else:
        require_rules(table, parts)


def test_too_few_rows_are_told_with_how_many_it_takes() -> None:
    with pytest.raises(DataError, match="rows has 9 normal rows; its parts need at least 10"):
        divided(open_table(np.arange(18.0).reshape(9, 2)))
    assert divided(open_table(np.arange(20.0).reshape(10, 2))).counts == {
        "fit": 5, "validation": 1, "calibration": 2, "test": 2,
    }  # fmt: skip
    with pytest.raises(DataError, match="too few rows of rows differ"):
        divided(open_table(np.zeros((100, 2))))


@pytest.mark.parametrize(
    "shares", [(0, 0.2, 0.2), (0.5, 0.3, 0.2), (-0.1, 0.2, 0.2), (1, 0.2, 0.2), (float("nan"),) * 3]
)
def test_shares_that_make_no_sense_are_refused(shares: tuple[float, float, float]) -> None:
    table = open_table(payments())
    with pytest.raises(DataError, match="must each be above 0, and below 1 together"):
        split_rows(table, None, validation=shares[0], calibration=shares[1], test=shares[2], seed=0)


@pytest.mark.parametrize("labels", [[0, 1], [0.0, 1.0], ["0", "1"], ["0.0", "1.0"], [False, True]])
def test_labels_compare_as_text(labels: list[object]) -> None:
    values = [labels[0]] * 15 + [labels[1]] * 5
    table = open_table(pd.DataFrame({"a": range(20), "y": values}), label="y")
    name = "False" if labels[0] is False else "0"
    assert normal_label(table) == name
    for asked in {name, "0.0" if name == "0" else name}:
        anomalies = anomalies_in(table, asked)
        assert anomalies is not None
        assert anomalies.sum() == 5
    other = "True" if name == "False" else "1"
    assert normal_label(table, other) == other
    with pytest.raises(DataError, match="no row of rows has the label 'normal' in column 'y'; there are"):
        normal_label(table, "normal")


def test_labels_that_are_missing_or_too_many_are_refused() -> None:
    frame = pd.DataFrame({"a": range(20), "y": ["ok"] * 18 + [None, "bad"]})
    with pytest.raises(DataError, match="gives no label to 1 rows, the first of them row 19"):
        anomalies_in(open_table(frame, label="y"))
    with pytest.raises(DataError, match="holds 2,000 different values: it is no label"):
        anomalies_in(open_table(pd.DataFrame({"a": range(2000), "y": range(2000)}), label="y"))
