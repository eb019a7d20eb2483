from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from row_tables import payments

from convatlas.data.tables import open_table
from convatlas.data.tables.audit import audit_table
from convatlas.errors import DataError

ROWS = 200


def remarks(values: object, label: object = None) -> str:
    """What is said of a column, beside an ordinary one."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"ordinary": draw.normal(size=ROWS), "odd": values})
    if label is not None:
        frame["label"] = label
    found = audit_table(open_table(frame, label="label" if label is not None else None))
    ordinary, odd = found.columns[:2]
    assert ordinary.remarks == ()
    return "; ".join(odd.remarks)


@pytest.mark.parametrize(
    ("values", "remark"),
    [
        ([7] * ROWS, "is the same in every row"),
        ([None] * ROWS, "holds nothing"),
        ([1.5, 2.5, None, None, None] * 40, "misses 60% of its values"),
        (range(ROWS), "numbers the rows: leave it out"),
        (np.random.default_rng(0).permutation(ROWS * 1000)[:ROWS], "is another whole number in every row"),
        (np.arange(ROWS) // 2 + 0.5, "only grows from row to row: if it is the time, name it with --time"),
        ([f"id {i}" for i in range(ROWS)], "has 200 different texts, too many for categories: leave it out"),
        ([f"2024-01-01 00:{i // 60:02}:{i % 60:02}" for i in range(ROWS)], "holds dates: name it with --time"),
        (pd.date_range("2024-01-01", periods=ROWS), "holds moments: name it with --time, or leave it out"),
        (["1", "2", "3", "4", "5", "6", "7", "8", "9", "?"] * 20, "is numbers but for texts such as '?'"),
        (["1,5", "2,25", "17,0", "1'000,0"] * 50, "looks like numbers, written as '1,5'"),
        ([b"x"] * ROWS, "holds neither numbers nor text: leave it out"),
        ([1.0, np.inf] * 100, "is infinite in 100 rows, the first of them row 2"),
        (["a", "b", "c", "d"] * 50, ""),
        ([True, False] * 100, ""),
    ],
)
def test_what_is_odd_about_a_column_is_said(values: object, remark: str) -> None:
    found = remarks(values)
    assert remark in found
    assert bool(remark) == bool(found)


@pytest.mark.parametrize("kind", ["size", "far from the middle", "category", "missing"])
def test_a_column_that_gives_the_answer_away_is_named(kind: str) -> None:
    draw = np.random.default_rng(1)
    label = draw.random(ROWS) < 0.2
    noise = draw.normal(size=ROWS)
    values = {
        "size": noise - 20 * label,
        "far from the middle": noise + 20 * label * draw.choice([-1, 1], ROWS),
        "category": np.where(label, "bad", draw.choice(["good", "fine"], ROWS)),
        "missing": np.where(label, np.nan, noise),
    }[kind]
    assert "alone tells the labels apart" in remarks(values, label)
    assert remarks(noise, label) == ""
    assert remarks(draw.choice(list("abcdefgh"), ROWS), label) == ""


def test_a_table_is_counted() -> None:
    frame = payments()
    frame.loc[399, ["amount", "distance", "country"]] = frame.loc[0, ["amount", "distance", "country"]]
    found = audit_table(
        open_table(frame.assign(fraud=[*frame["fraud"][:399], 1 - frame["fraud"][0]]), label="fraud", time="seconds")
    )
    assert found.rows == 400
    assert found.labels == {"0": 379, "1": 21}
    assert (found.copies, found.torn, found.in_order) == (1, 2, True)
    assert {look.name: look.role for look in found.columns} == {
        "seconds": "time", "amount": "input", "distance": "input", "country": "input", "fraud": "label",
    }  # fmt: skip
    country = found.columns[3]
    assert [text for text, _ in country.commonest] == ["CH", "DE", "FR"]
    assert any("1 rows are copies" in finding for finding in found.findings)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["rows"] == 400


def test_time_is_looked_at() -> None:
    frame = payments()
    shuffled = frame.sample(frac=1, random_state=0)
    found = audit_table(open_table(shuffled, label="fraud", time="seconds"))
    assert found.in_order is False
    assert any("not in the order of time" in finding for finding in found.findings)
    same = audit_table(open_table(frame.assign(seconds=3), label="fraud", time="seconds"))
    assert "every row has the same time" in same.findings
    missing = audit_table(open_table(frame.assign(seconds=frame["seconds"].where(frame.index > 4)), time="seconds"))
    assert "5 rows have no time" in missing.findings


def test_what_looks_like_a_label_is_named() -> None:
    found = audit_table(open_table(payments()))
    assert any("column 'fraud' looks like a label: name it with --label" in finding for finding in found.findings)
    assert found.labels is None
    assert "every row has the same label" in audit_table(open_table(payments(frauds=0), label="fraud")).findings
    with pytest.raises(DataError, match="it is no label"):
        audit_table(open_table(pd.DataFrame({"a": range(2000), "b": range(2000)}), label="a"))


def test_names_and_texts_of_a_stranger_are_printed_without_commands_to_a_terminal() -> None:
    found = audit_table(open_table(pd.DataFrame({"a": ["\x1b[2J", "b"] * 20, "y": ["\x1b[2J", "ok"] * 20}), label="y"))
    assert "\x1b" not in repr(found).replace("\\x1b", "")
    assert set(found.labels or ()) == {"\\x1b[2J", "ok"}
