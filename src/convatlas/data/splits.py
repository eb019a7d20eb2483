"""Cutting one split into two, class by class, the same way every time."""

from __future__ import annotations

import numpy as np

from convatlas.data.dataset import Rows
from convatlas.data.source import Labels
from convatlas.errors import DataError


def stratified_cut(labels: Labels, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Positions to keep and positions cut off, both ascending; of every class, ``fraction`` is cut, rounded.

    At least one image of each class is cut and at least one is kept.

    >>> kept, cut = stratified_cut(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, seed=0)
    >>> len(kept), len(cut)
    (6, 2)

    Raises:
        DataError: the fraction is not between 0 and 1, or a class has a single image.
    """
    if not 0 < fraction < 1:
        raise DataError(f"the fraction to cut off must lie between 0 and 1; received {fraction}")
    labels = np.asarray(labels)
    # RandomState, since numpy promises never to change its stream (NEP 19): a cut is the same in ten years.
    draw = np.random.RandomState(seed)
    cut = [_some(np.flatnonzero(labels == label), fraction, draw) for label in np.unique(labels)]
    is_cut = np.zeros(len(labels), dtype=bool)
    is_cut[np.concatenate(cut) if cut else []] = True
    return np.flatnonzero(~is_cut), np.flatnonzero(is_cut)


def grouped_cut(labels: Labels, groups: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """`stratified_cut` over the first image of every group; the others of a group go where it goes.

    A group is all the copies of one image: a cut through it would put the same pixels on both sides.

    >>> kept, cut = grouped_cut(np.array([0, 0, 0, 0]), np.array([0, 1, 0, 1]), 0.5, seed=0)
    >>> kept.tolist(), cut.tolist()
    ([0, 2], [1, 3])

    Args:
        labels: class numbers, [N].
        groups: a number for every image, [N], the same for those that belong together.
        fraction: of the groups of each class, to be cut off.
        seed: decides which.

    Raises:
        DataError: the fraction is not between 0 and 1, or a class has a single group.
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    _, cut = stratified_cut(np.asarray(labels)[first], fraction, seed)
    is_cut = np.isin(group, cut)
    return np.flatnonzero(~is_cut), np.flatnonzero(is_cut)


def _some(positions: Rows, fraction: float, draw: np.random.RandomState) -> Rows:
    if len(positions) < 2:
        raise DataError("a class with a single image cannot be cut in two; add images or leave the class out")
    size = min(max(1, round(len(positions) * fraction)), len(positions) - 1)
    return draw.permutation(positions)[:size]
