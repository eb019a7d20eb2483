"""Which columns of a row its score comes from; a category's several features count as its one column."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
