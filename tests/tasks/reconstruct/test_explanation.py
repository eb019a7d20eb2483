"""Which column did it."""

from __future__ import annotations

import numpy as np
import pytest

from convatlas.tasks.reconstruct import explanation
from convatlas.tasks.reconstruct.explanation import explained_by


def scores_by_the_first(rows: np.ndarray) -> np.ndarray:
    """A network that rebuilds both columns from the first: an error in it shows in both."""
    first, second = rows[:, 0].astype(float), rows[:, 1].astype(float)
    return first**2 * 0.2 + (second - first) ** 2


def test_the_column_is_named_that_sets_the_score_right_not_the_one_where_the_error_shows() -> None:
    row, usual = np.array([5.0, 0.0], dtype=np.float32), np.zeros(2, dtype=np.float32)
    explains = explained_by(scores_by_the_first, row, usual, np.arange(2), 2)
    assert explains.tolist() == [1.0, 0.0]


def test_the_features_of_a_category_are_set_right_together() -> None:
    def scores(rows: np.ndarray) -> np.ndarray:
        return (rows[:, :2].astype(float) @ [0.0, 1.0]) * 3 + np.abs(rows[:, 2].astype(float))

    row, usual = np.array([0, 1, 1], dtype=np.float32), np.array([1, 0, 0], dtype=np.float32)
    explains = explained_by(scores, row, usual, np.array([0, 0, 1]), 2)
    assert explains.tolist() == [0.75, 0.25]


def test_nothing_explains_a_score_of_nothing_and_nothing_explains_less() -> None:
    row = np.zeros(3, dtype=np.float32)
    assert explained_by(lambda rows: rows.sum(axis=1).astype(float), row, row + 1, np.arange(3), 3).tolist() == [0] * 3
    worse = explained_by(lambda rows: 1 + rows.sum(axis=1).astype(float), row, row + 1, np.arange(3), 3)
    assert worse.tolist() == [0, 0, 0]


def test_many_columns_are_tried_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    row, usual = draws.normal(size=(2, 50)).astype(np.float32)
    owner = np.repeat(np.arange(25), 2)
    largest = 0

    def scores(rows: np.ndarray) -> np.ndarray:
        nonlocal largest
        largest = max(largest, rows.size)
        return (rows.astype(float) ** 2).sum(axis=1)

    whole = explained_by(scores, row, usual, owner, 25)
    monkeypatch.setattr(explanation, "VALUES_AT_ONCE", 150)
    largest = 0
    assert np.allclose(explained_by(scores, row, usual, owner, 25), whole)
    assert largest <= 150
