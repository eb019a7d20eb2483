"""Tables: from a file, a DataFrame or an array to rows of float32, divided for learning what is normal.

``table`` opens one, ``parts`` divides it, ``encoding`` makes numbers of its columns, ``batches`` feeds them.
"""

from convatlas.data.tables.encoding import SCALINGS, RowEncoding, Scaling
from convatlas.data.tables.labels import anomalies_in, normal_label
from convatlas.data.tables.parts import RowParts, split_rows
from convatlas.data.tables.table import Table, is_table, open_table, read_chunks

__all__ = [
    "SCALINGS",
    "RowEncoding",
    "RowParts",
    "Scaling",
    "Table",
    "anomalies_in",
    "is_table",
    "normal_label",
    "open_table",
    "read_chunks",
    "split_rows",
]
