"""Which rows of features are like another: by the angle between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convatlas.transfer.features import Features


def most_similar(features: Features, others: Features, most: int) -> tuple[NDArray[np.int64], Features]:
    """For each of others [M, D] the rows of features [N, D] of the largest cosine similarity, the largest first.

    >>> rows = np.array([[1, 0], [0, 1], [2, 2]], np.float32)
    >>> places, similarities = most_similar(rows, np.array([[0, 3]], np.float32), most=2)
    >>> places, similarities.round(2)
    (array([[1, 2]]), array([[1.  , 0.71]], dtype=float32))

    Returns:
        Numbers of rows, and their similarities, both [M, min(most, N)]; a row of zeros is like no other.
    """
    similarities = _of_length_one(others) @ _of_length_one(features).T
    places = np.argsort(-similarities, axis=1, kind="stable")[:, :most]
    return places, np.take_along_axis(similarities, places, axis=1).clip(-1, 1)


def _of_length_one(rows: Features) -> Features:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), dtype=np.float32)
