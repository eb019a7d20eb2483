from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.data.splits import stratified_cut
from convatlas.errors import DataError

label_lists = st.lists(st.integers(2, 40), min_size=1, max_size=6).map(
    lambda counts: np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
)
fractions = st.floats(0.01, 0.99)


@given(labels=label_lists, fraction=fractions, seed=st.integers(0, 2**32 - 1))
def test_a_cut_is_disjoint_complete_ordered_and_the_same_again(labels: np.ndarray, fraction: float, seed: int) -> None:
    kept, cut = stratified_cut(labels, fraction, seed)
    assert sorted([*kept, *cut]) == list(range(len(labels)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(cut) > 0).all()
    again = stratified_cut(labels, fraction, seed)
    assert (again[0] == kept).all()
    assert (again[1] == cut).all()


@given(labels=label_lists, fraction=fractions, seed=st.integers(0, 1000))
def test_every_class_is_cut_in_proportion_and_never_emptied(labels: np.ndarray, fraction: float, seed: int) -> None:
    kept, cut = stratified_cut(labels, fraction, seed)
    for label in np.unique(labels):
        whole, part = np.sum(labels == label), np.sum(labels[cut] == label)
        assert 1 <= part < whole
        assert abs(part - fraction * whole) <= 1
        assert np.sum(labels[kept] == label) == whole - part


def test_another_seed_cuts_other_images() -> None:
    labels = np.repeat(np.arange(3), 100)
    assert set(stratified_cut(labels, 0.2, seed=0)[1]) != set(stratified_cut(labels, 0.2, seed=1)[1])


def test_a_cut_never_changes_between_versions() -> None:
    """The test set of a flat folder is drawn by this: numbers written down once, for good."""
    _, cut = stratified_cut(np.repeat(np.arange(2), 10), 0.3, seed=0)
    assert cut.tolist() == [2, 4, 8, 11, 13, 15]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fractions_outside_of_0_and_1_are_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        stratified_cut(np.array([0, 0, 1, 1]), fraction, seed=0)


def test_a_single_image_cannot_be_cut_in_two() -> None:
    with pytest.raises(DataError, match="single image"):
        stratified_cut(np.array([0, 0, 1]), 0.5, seed=0)
