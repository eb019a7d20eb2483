from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance

from convatlas.errors import DataError, RunError, UnknownNameError
from convatlas.tasks.reconstruct import rivals as module
from convatlas.tasks.reconstruct.metrics import roc_auc
from convatlas.tasks.reconstruct.rivals import PYOD, rival_scores, rivals

EVERY = pytest.mark.parametrize("name", rivals())


def rows(n: int, seed: int) -> np.ndarray:
    """Rows near a plane in five dimensions, which the encoding has as single precision."""
    random = np.random.default_rng(seed)
    return (random.normal(size=(n, 2)) @ [[1, 1, 0, 1, 2], [0, 1, 1, -1, 0]] + random.normal(0, 0.1, (n, 5))).astype(
        "f4"
    )


@EVERY
def test_each_finds_rows_that_lie_off_the_others(name: str) -> None:
    far = rows(50, 2) + np.array([0, 3, 0, 0, -3], dtype="f4")
    scores = rival_scores(name, rows(500, 0), np.r_[rows(200, 1), far], seed=0)
    assert scores.shape == (250,)
    assert scores.dtype == np.float64
    assert roc_auc(scores, np.arange(250) >= 200) > 0.8


@EVERY
def test_each_gives_the_same_twice_and_row_by_row(name: str) -> None:
    fit, asked = rows(300, 0), rows(20, 1)
    whole = rival_scores(name, fit, asked, seed=1)
    np.testing.assert_array_equal(whole, rival_scores(name, fit, asked, seed=1))
    np.testing.assert_allclose(whole[3:4], rival_scores(name, fit, asked[3:4], seed=1))


@EVERY
@pytest.mark.parametrize(
    "fit",
    [np.ones((40, 3)), np.eye(3)[np.arange(40) % 3], np.arange(40.0)[:, None] * [1, 2, 3], np.arange(40.0)[:, None]],
    ids=["constant", "one category", "copies of a column", "one column"],
)
def test_columns_that_carry_nothing_do_not_break_any(name: str, fit: np.ndarray) -> None:
    scores = rival_scores(name, fit, np.r_[fit, fit[:1] + 5], seed=0)
    assert np.isfinite(scores).all()
    assert scores[-1] >= np.median(scores)


@EVERY
def test_two_rows_are_enough_and_none_to_score_are_fine(name: str) -> None:
    assert len(rival_scores(name, rows(2, 0), rows(3, 1), seed=0)) == 3
    assert len(rival_scores(name, rows(2, 0), rows(0, 1), seed=0)) == 0


def test_mahalanobis_is_scikit_learns_whatever_the_columns_units() -> None:
    units = [1, 1e6, 1e-6, 1, 1]
    fit, asked = rows(300, 0).astype("f8") * units, rows(20, 1).astype("f8") * units
    expected = EmpiricalCovariance().fit(fit / units).mahalanobis(asked / np.array(units))
    np.testing.assert_allclose(rival_scores("Mahalanobis", fit, asked), expected, rtol=1e-2)


def test_neighbours_are_taken_from_so_many_rows_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_FOR_NEIGHBOURS", 50)
    few = rival_scores("nearest neighbours", rows(400, 0), rows(30, 1), seed=0)
    assert (few >= rival_scores("nearest neighbours", rows(50, 0), rows(30, 1)).min() / 10).all()
    assert not np.array_equal(few, rival_scores("nearest neighbours", rows(400, 0), rows(30, 1), seed=1))


def test_pyod_is_asked_for_by_name_and_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PYOD not in rivals()
    assert rivals(with_pyod=True)[-1] == PYOD
    monkeypatch.setitem(sys.modules, "pyod.models.auto_encoder", None)
    with pytest.raises(RunError, match="PyOD is not installed"):
        rival_scores(PYOD, rows(20, 0), rows(3, 1))


@pytest.mark.slow
def test_pyods_autoencoder_scores_rows() -> None:
    pytest.importorskip("pyod")
    scores = rival_scores(PYOD, rows(300, 0), np.r_[rows(20, 1), rows(5, 2) + 9], seed=0)
    assert scores[20:].min() > np.median(scores[:20])


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean Mahalanobis"):
        rival_scores("mahalanobis", rows(5, 0), rows(5, 1))
    with pytest.raises(DataError, match="as wide as those learnt from"):
        rival_scores("PCA", rows(5, 0), np.zeros((2, 3)))
    with pytest.raises(DataError, match="two rows to learn from at least; received 1"):
        rival_scores("PCA", rows(1, 0), rows(5, 1))
