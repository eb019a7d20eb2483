"""What the label of a table says: which rows are normal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convatlas.data.tables.columns import label_text, shown_name, text_codes
from convatlas.data.tables.table import Table
from convatlas.errors import DataError, first_of, shortened

MOST_LABELS = 1000  # different ones; a column with more was not meant,
FEW_LABELS = 10  # nor, beyond these, one of which every second row has a value of its own


def anomalies_in(table: Table, normal: str | None = None) -> NDArray[np.bool_] | None:
    """Which rows are not normal, [n]; None where the table has no label.

    >>> anomalies_in(open_table("payments.csv", label="Class")).sum()   # doctest: +SKIP
    492

    Raises:
        DataError: as for `normal_label`.
    """
    if table.label is None:
        return None
    labels, texts = labels_of(table)
    return np.asarray(labels != texts.index(_normal(table, normal, labels, texts)))


def normal_label(table: Table, normal: str | None = None) -> str | None:
    """The label of normal rows, as text: the one asked for, or the most frequent; None where the table has no label.

    "0", 0 and 0.0 are the same label.

    >>> normal_label(open_table("payments.csv", label="Class"))   # doctest: +SKIP
    '0'

    Raises:
        DataError: no row has that label, a row has none, or there are too many different ones.
    """
    if table.label is None:
        return None
    return _normal(table, normal, *labels_of(table))


def labels_of(table: Table) -> tuple[NDArray[np.int64], list[str]]:
    """For each row the number of its label, [n]; and the labels as texts, sorted.

    Raises:
        DataError: a row has no label, or there are too many different ones.
    """
    codes, values = text_codes(table.frame[table.label])
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        raise DataError(
            f"column {shown_name(table.label)} of {table.name} gives no label to {len(missing):,} rows, the first of "
            f"them row {missing[0] + 1:,}. Leave them out, or label them"
        )
    if len(values) > MOST_LABELS or len(values) > max(FEW_LABELS, len(codes) / 2):
        raise DataError(
            f"column {shown_name(table.label)} of {table.name} holds {len(values):,} different values: it is no label"
        )
    texts, places = np.unique([label_text(value) for value in values], return_inverse=True)
    return places[codes], [str(text) for text in texts]


def _normal(table: Table, normal: str | None, labels: NDArray[np.int64], texts: list[str]) -> str:
    if normal is None:
        return texts[int(np.bincount(labels).argmax())]
    wanted = label_text(normal)
    if wanted not in texts:
        raise DataError(
            f"no row of {table.name} has the label {shortened(normal)!r} in column {shown_name(table.label)}; there "
            f"{'are' if len(texts) > 1 else 'is'} {first_of(texts)}"
        )
    return wanted
