from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from row_tables import payments

from convatlas.data.tables import SCALINGS, RowEncoding
from convatlas.data.tables.encoding import FARTHEST
from convatlas.errors import DataError

INPUTS = ["amount", "distance", "country"]

THREE_DIGITS = 5.1e-3  # what rounding to them may change, as a share


def test_numbers_are_scaled_texts_are_categories_and_what_is_missing_is_said() -> None:
    frame = payments()[INPUTS]
    encoding = RowEncoding.fit(frame, "standard")
    rows = encoding.encode(frame)
    assert encoding.names == ("amount", "distance", "country")
    assert encoding.text_columns == ("country",)
    assert encoding.owner.tolist() == [0, 1, 1, 2, 2, 2, 2, 2]
    assert (rows.shape, rows.dtype, encoding.width) == ((400, 8), np.float32, 8)
    amount = frame["amount"].to_numpy()
    assert np.allclose(rows[:, 0], (amount - amount.mean()) / amount.std(), atol=1e-5)
    assert np.array_equal(rows[:, 2] == 1, frame["distance"].isna())
    assert np.array_equal(rows[:, 3:6].argmax(axis=1), frame["country"].map({"CH": 0, "DE": 1, "FR": 2}))
    assert (rows[:, 3:].sum(axis=1) == 1).all()
    assert (rows[:, 6:] == 0).all()


def test_scalings() -> None:
    frame = pd.DataFrame({"a": [1.0, 2, 3, 4, 1000]})
    encoded = {scaling: RowEncoding.fit(frame, scaling).encode(frame)[:, 0] for scaling in SCALINGS}
    assert encoded["none"].tolist() == [1, 2, 3, 4, 1000]
    assert abs(encoded["standard"].mean()) < 1e-6
    assert encoded["standard"].std() == pytest.approx(1)
    assert encoded["robust"].tolist() == pytest.approx([-1.349, -0.6745, 0, 0.6745, 672.5], rel=1e-3)
    with pytest.raises(DataError, match="scaling is one of none, standard, robust"):
        RowEncoding.fit(frame, "minmax")  # type: ignore[arg-type]


def test_rows_never_seen_are_encoded_all_the_same() -> None:
    encoding = RowEncoding.fit(payments()[INPUTS], "standard")
    new = pd.DataFrame(
        {"country": ["XX", None, "CH"], "amount": [None, 1e300, 3], "distance": [1, 2, None], "more": "?"}
    )
    rows = encoding.encode(new)
    assert rows[:, 3:].argmax(axis=1).tolist() == [3, 4, 0]
    assert rows[1, 0] == np.float32(FARTHEST)
    assert np.isfinite(rows).all()
    assert abs(rows[0, 0]) < 1, "what is missing where nothing was is as usual"
    assert len(encoding.encode(new.iloc[:0])) == 0


def test_what_cannot_be_encoded_is_said_with_its_row_and_column() -> None:
    frame = payments()[INPUTS]
    encoding = RowEncoding.fit(frame)
    bad = frame.copy()
    bad.loc[6, "amount"] = np.inf
    with pytest.raises(DataError, match="row 1,007: inf in column 'amount' is not finite"):
        encoding.encode(bad, first_row=1001)
    bad = frame.astype({"distance": object})
    bad.loc[4, "distance"] = "12,5"
    with pytest.raises(DataError, match="row 5: '12,5' in column 'distance' is no number"):
        encoding.encode(bad)
    with pytest.raises(DataError, match=r"has no column 'amount'; did you mean amounts.*\? \(1 more are not there\)"):
        encoding.encode(frame.rename(columns={"amount": "amounts", "distance": "zzz"}))
    for values in (pd.to_datetime(["2024-05-31"] * 400), [3 + 1j] * 400, [[1]] * 400):
        with pytest.raises(DataError, match=r"in column 'amount' is no number|holds no numbers"):
            encoding.encode(frame.assign(amount=pd.Series(values)))


def test_columns_that_are_no_use_are_refused_together() -> None:
    frame = payments().assign(
        id=[f"payment {i}" for i in range(400)],
        when=pd.Timestamp("2024-05-31"),
        bytes=[b"x"] * 400,
        huge=1e200,
    )
    with pytest.raises(DataError) as error:
        RowEncoding.fit(frame)
    assert str(error.value) == (
        "columns that a network cannot be shown: 'id' holds 400 different texts in 400 rows, too many for categories; "
        "'when' holds moments: name it as the time; 'bytes' holds neither numbers nor text; and 1 more. "
        "Leave them out of the table"
    )


def test_rare_texts_are_another_value() -> None:
    texts = [f"shop {i % 80}" for i in range(800)] + ["shop 7"] * 200
    encoding = RowEncoding.fit(pd.DataFrame({"shop": texts}))
    assert encoding.width == 64 + 2
    assert "shop 7" in encoding.columns[0].categories  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3], [1.5, None, 3], [True, False, True], ["a", "b", None], [None, None, None], [7, 7, 7], [0.1] * 3,
        pd.array([1, None, 3], dtype="Int64"), pd.Categorical(["x", "y", "x"]), pd.Categorical([1, 2, 1]),
        pd.array([True, None, False], dtype="boolean"), [1, "a", 2.5], np.array([1, 2, 3], dtype=np.uint8),
        np.array([1, 2, 3], dtype=np.float16), pd.arrays.SparseArray([0.0, 0, 1]), ["1", "2", "3"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("scaling", SCALINGS)
def test_any_usual_column_is_encoded_shown_and_read_back(values: Any, scaling: Any) -> None:
    frame = pd.DataFrame({"a": values})
    encoding = RowEncoding.fit(frame, scaling)
    rows = encoding.encode(frame)
    assert np.isfinite(rows).all()
    shown = [encoding.shown(frame, place, 0) for place in range(3)]
    assert [encoding.decode_column(row, 0) for row in rows] == shown
    assert RowEncoding.model_validate_json(encoding.model_dump_json()) == encoding


@given(st.lists(st.floats(-1e12, 1e12), min_size=2, max_size=20), st.sampled_from(SCALINGS))
def test_numbers_come_back_in_their_own_units(values: list[float], scaling: Any) -> None:
    frame = pd.DataFrame({"a": values})
    encoding = RowEncoding.fit(frame, scaling)
    rows = encoding.encode(frame)
    assert np.isfinite(rows).all()
    near = np.abs(rows[:, 0]) < FARTHEST
    back = np.array([float(encoding.decode_column(row, 0)) for row in rows])
    spread = max(map(abs, values)) + np.ptp(values)
    assert np.allclose(back[near], np.array(values)[near], atol=1e-5 * spread + 1e-30, rtol=THREE_DIGITS)


def test_several_columns_are_read_back_each_from_its_place() -> None:
    frame = payments()[INPUTS]
    encoding = RowEncoding.fit(frame)
    rows = encoding.encode(frame)
    for row in range(30):
        for column in range(3):
            seen, back = encoding.shown(frame, row, column), encoding.decode_column(rows[row], column)
            assert seen == back or float(back) == pytest.approx(float(seen), abs=1e-4, rel=THREE_DIGITS)


def card(**changes: Any) -> str:
    number = {"kind": "number", "name": "a", "centre": 0, "scale": 1, "fill": 0, "has_missing": False}
    category = {"kind": "category", "name": "b", "categories": ["x"]}
    content: dict[str, Any] = {"scaling": "none", "columns": [number, category]}
    for path, value in changes.items():
        *parents, last = path.split("__")
        place: Any = content
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    "changes",
    [
        {"scaling": "x"}, {"columns": []}, {"more": 1}, {"columns__0__scale": 0}, {"columns__0__scale": -1},
        {"columns__0__scale": 1e-310}, {"columns__0__centre": float("nan")}, {"columns__0__centre": 1e308},
        {"columns__0__fill": "0"}, {"columns__0__name": ""}, {"columns__0__name": "x" * 201},
        {"columns__0__name": "b"}, {"columns__0__kind": "ignored"}, {"columns__0__has_missing": 1},
        {"columns__1__categories": []}, {"columns__1__categories": ["x", "x"]},
        {"columns__1__categories": ["x" * 201]}, {"columns__1__categories": [str(i) for i in range(65)]},
        {"columns__1__more": 1},
        {"columns": [{"kind": "number", "name": f"{i}", "centre": 0, "scale": 1, "fill": 0} for i in range(10_001)]},
        {"columns": [
            {"kind": "category", "name": f"{i}", "categories": [str(k) for k in range(60)]} for i in range(2000)
        ]},
    ],
)  # fmt: skip
def test_a_strangers_encoding_is_bounded(changes: dict[str, Any]) -> None:
    RowEncoding.model_validate_json(card())
    with pytest.raises(ValidationError):
        RowEncoding.model_validate_json(card(**changes))


def test_what_a_stranger_called_things_is_printed_without_commands_to_a_terminal() -> None:
    frame = pd.DataFrame({"a": ["\x1b[2J", "x" * 100, "\x1b[2J"]})
    encoding = RowEncoding.fit(frame)
    assert encoding.shown(frame, 0, 0) == "\\x1b[2J" == encoding.decode_column(encoding.encode(frame)[0], 0)
    assert len(encoding.shown(frame, 1, 0)) == 60
