"""A table divided and encoded for an autoencoder: which rows are learnt from, and as which numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from convatlas.data.tables.encoding import RowEncoding, Scaling
from convatlas.data.tables.labels import anomalies_in, normal_label
from convatlas.data.tables.parts import RowParts, split_rows
from convatlas.data.tables.table import Table

USED_ROWS = 3  # a stream of random numbers: which of the rows to learn from are used


@dataclass(frozen=True, eq=False)
class PreparedTable:
    """A table, its four parts, and the encoding that the first of them shows; labels are in no part's encoding."""

    table: Table
    normal: str | None  # the label of normal rows
    anomalies: NDArray[np.bool_] | None  # of all rows
    parts: RowParts
    encoding: RowEncoding
    split_seed: int

    def encoded(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some rows as the network is shown them, float32 [n, columns]."""
        return self.encoding.encode(self.table.frame.iloc[rows])


def prepare_table(
    table: Table,
    *,
    normal: str | None = None,
    shares: tuple[float, float, float] = (0.1, 0.2, 0.2),
    used: float = 1.0,
    scaling: Scaling = "standard",
    split_seed: int = 0,
    encoding: RowEncoding | None = None,
) -> PreparedTable:
    """Divide a table and learn its encoding from the rows that are learnt from.

    >>> prepared = prepare_table(open_table("payments.csv", label="Class"))  # doctest: +SKIP
    >>> prepared.encoded(prepared.parts.fit).shape  # doctest: +SKIP
    (11478, 29)

    Args:
        table: rows.
        normal: the label of normal rows; the most frequent one when left out.
        shares: of the normal rows: for validation, for calibration, for the test.
        used: share of the rows to learn from that is used.
        scaling: of numbers.
        split_seed: of the division, and of which rows are used.
        encoding: an earlier one instead of a new one.

    Raises:
        DataError: too few normal rows, a label that there is not, columns that cannot be encoded.
    """
    validation, calibration, test = shares
    anomalies = anomalies_in(table, normal)
    parts = split_rows(table, anomalies, validation=validation, calibration=calibration, test=test, seed=split_seed)
    if used < 1:
        draw = np.random.default_rng((USED_ROWS, split_seed)).permutation(parts.fit)
        fit = np.sort(draw[: max(1, round(used * len(draw)))])
        parts = replace(parts, fit=fit, left_out=parts.left_out + len(draw) - len(fit))
    encoding = encoding or RowEncoding.fit(table.frame.iloc[parts.fit][list(table.inputs)], scaling)
    return PreparedTable(table, normal_label(table, normal), anomalies, parts, encoding, split_seed)
