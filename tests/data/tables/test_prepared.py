from __future__ import annotations

import numpy as np
from row_tables import payments

from convatlas.data.tables import open_table
from convatlas.data.tables.prepared import prepare_table


def test_the_encoding_is_learnt_from_the_rows_to_learn_from_alone() -> None:
    frame = payments()
    prepared = prepare_table(open_table(frame, label="fraud", time="seconds"))
    rows = prepared.encoded(prepared.parts.fit)
    assert prepared.normal == "0"
    assert np.allclose(rows[:, 0].mean(), 0, atol=1e-5)
    changed = frame.copy()
    changed.loc[prepared.parts.test, "amount"] *= 100
    assert prepare_table(open_table(changed, label="fraud", time="seconds")).encoding == prepared.encoding


def test_less_can_be_used_of_the_rows_to_learn_from_and_the_rest_stays_the_same() -> None:
    table = open_table(payments(), label="fraud")
    whole, some = prepare_table(table), prepare_table(table, used=0.25)
    assert len(some.parts.fit) == round(len(whole.parts.fit) / 4)
    assert set(some.parts.fit) < set(whole.parts.fit)
    assert np.array_equal(some.parts.test, whole.parts.test)
    assert prepare_table(table, encoding=whole.encoding, used=0.25).encoding is whole.encoding
