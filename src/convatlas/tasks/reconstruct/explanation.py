"""Which columns of a row its score comes from; a category's several features count as its one column.

What columns add is where the error shows, and not always where it comes from: one wrong value is passed on to all that
the network rebuilds with its help. What a column explains is how much of the score goes when it alone is set right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

VALUES_AT_ONCE = 2**22  # of rows that are tried; bounds the memory


def column_errors(errors: ArrayLike, owner: ArrayLike, columns: int | None = None) -> NDArray[np.float64]:
    """The errors of features [n, features], added up by the column that each belongs to: float64 [n, columns].

    ``owner`` [features] is the index of each feature's column. A row adds up to its score, as before.

    >>> column_errors([[0.1, 0.2, 0.4]], owner=[0, 1, 1]).round(2).tolist()
    [[0.1, 0.6]]
    """
    parts, of = np.asarray(errors, dtype=np.float64), np.asarray(owner, dtype=np.int64)
    if parts.ndim != 2 or of.shape != parts.shape[1:]:
        raise ValueError(f"errors must be [n, {len(of)}] (rows, features); received {list(parts.shape)}")
    count = columns if columns is not None else int(of.max(initial=-1)) + 1
    total = np.zeros((count, len(parts)))
    np.add.at(total, of, parts.T)  # a feature at a time, each added to its column
    return np.ascontiguousarray(total.T)


def column_shares(parts: ArrayLike) -> NDArray[np.float64]:
    """The share of each column in a row's score, from what the columns add, [n, columns]; 0 in a row rebuilt exactly.

    >>> column_shares([[0.1, 0.3], [0.0, 0.0]]).round(2).tolist()
    [[0.25, 0.75], [0.0, 0.0]]
    """
    values = np.asarray(parts, dtype=np.float64)
    total = values.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    return shares


def explained_by(
    scores_of: Callable[[NDArray[np.float32]], NDArray[np.float64]],
    row: NDArray[np.float32],
    usual: NDArray[np.float32],
    owner: NDArray[np.int64],
    columns: int,
) -> NDArray[np.float64]:
    """The share of a row's score that goes when a column, alone, holds its usual value, [columns]; 0 where it rises.

    >>> row, usual = np.array([3.0, 1.0], dtype=np.float32), np.zeros(2, dtype=np.float32)
    >>> explained_by(lambda rows: (rows.astype(float) ** 2).sum(axis=1), row, usual, np.arange(2), 2).round(1).tolist()
    [0.9, 0.1]

    Args:
        scores_of: the scores [n] of rows [n, features].
        row: [features].
        usual: a row of usual values, [features].
        owner: the index of each feature's column, [features].
        columns: how many there are.
    """
    (score,) = scores_of(row[None])
    if not score > 0:
        return np.zeros(columns)
    at_once = max(1, VALUES_AT_ONCE // len(row))
    parts = []
    for start in range(0, columns, at_once):
        some = np.arange(start, min(start + at_once, columns))
        is_replaced = owner[None, :] == some[:, None]
        parts.append(scores_of(np.where(is_replaced, usual, row)))
    left: NDArray[np.float64] = np.concatenate(parts) / score
    return np.maximum(1 - left, 0.0)
