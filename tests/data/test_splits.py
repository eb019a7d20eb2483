from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.data.splits import grouped_cut, stratified_cut
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


@given(labels=label_lists, copies=st.integers(1, 4), fraction=fractions, seed=st.integers(0, 1000))
def test_a_group_is_never_cut_and_follows_its_first_image(
    labels: np.ndarray, copies: int, fraction: float, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(copies * len(labels))
    all_labels, groups = np.tile(labels, copies)[order], np.tile(np.arange(len(labels)), copies)[order]
    kept, cut = grouped_cut(all_labels, groups, fraction, seed)
    assert sorted([*kept, *cut]) == list(range(len(order)))
    assert set(groups[kept]).isdisjoint(groups[cut])
    for label in np.unique(labels):
        whole, part = np.sum(labels == label), np.sum(all_labels[cut] == label) / copies
        assert 1 <= part < whole
        assert abs(part - fraction * whole) <= 1


def test_without_copies_a_grouped_cut_is_the_plain_one() -> None:
    labels = np.repeat(np.arange(3), 20)
    for ours, plain in zip(grouped_cut(labels, np.arange(60), 0.3, 1), stratified_cut(labels, 0.3, 1), strict=True):
        assert ours.tolist() == plain.tolist()


def test_a_group_of_two_classes_goes_where_its_first_image_goes() -> None:
    labels, groups = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 3, 4])
    for seed in range(10):
        kept, _ = grouped_cut(labels, groups, 0.5, seed)
        assert (0 in kept) == (2 in kept)
