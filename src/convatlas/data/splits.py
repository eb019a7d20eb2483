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


def _some(positions: Rows, fraction: float, draw: np.random.RandomState) -> Rows:
    if len(positions) < 2:
        raise DataError("a class with a single image cannot be cut in two; add images or leave the class out")
    size = min(max(1, round(len(positions) * fraction)), len(positions) - 1)
    return draw.permutation(positions)[:size]
