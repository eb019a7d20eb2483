"""What a table holds, before anything is trained on it: its columns, copies, order and labels, and what looks wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convatlas.data.source import printable
from convatlas.data.tables.columns import Kind, kind_of, numbers_of, shown_name, text_codes
from convatlas.data.tables.encoding import FEW_TEXTS
from convatlas.data.tables.labels import labels_of
from convatlas.data.tables.parts import copies_of, moments_of
from convatlas.data.tables.table import Table
from convatlas.errors import first_of, shortened

if TYPE_CHECKING:
    from pandas import Series

MOSTLY = 0.5  # of the rows that miss a value
DECIDES_FROM = 0.99  # of pairs of a normal row and another that a column alone puts in order
FEWEST_TO_JUDGE = 10  # rows with a label, for a column to be judged by it
JUDGED_ROWS = 50_000  # of each, at most: more do not change the share
FEWEST_ROWS = 20  # from here on it is no chance that each row has a number of its own
COMMONEST = 3  # texts that are named
LABEL_NAMES = re.compile(r"(is_?)?(class|label|target|y|fraud|anomaly|outlier|attack|default)", re.IGNORECASE)
MOST_LABELS_NAMED = 20
_NUMBER_WITH_MARKS = re.compile(r"[-+]?[\d.,'’ \u00a0]*\d\s?[%€$£]?")  # as people and spreadsheets write them


@dataclass(frozen=True)
class ColumnLook:
    """One column. ``decides``: of all pairs of a normal row and another, the share that it alone puts in order."""

    name: str
    role: str  # "input", "label" or "time"
    holds: Kind
    missing: int
    distinct: int
    smallest: str | None = None
    median: str | None = None
    largest: str | None = None
    commonest: tuple[tuple[str, int], ...] = ()
    decides: float | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableAudit:
    """What `audit_table` found. ``torn`` counts rows that have a copy with another label."""

    name: str
    location: str
    fingerprint: str
    rows: int
    columns: tuple[ColumnLook, ...]
    labels: Mapping[str, int] | None
    copies: int  # rows that an earlier one is the same as, in every input
    torn: int | None
    in_order: bool | None  # of time
    findings: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def audit_table(table: Table) -> TableAudit:
    """Look at every column and row of a table.

    >>> found = audit_table(open_table("payments.csv", label="Class", time="Time"))   # doctest: +SKIP
    >>> found.labels, found.in_order, found.findings   # doctest: +SKIP
    ({'0': 22957, '1': 492}, True, ())

    Raises:
        DataError: rows without a label, or a label with more values than any has.
    """
    labels, texts = labels_of(table) if table.label is not None else (None, [])
    anomalies = labels != np.bincount(labels).argmax() if labels is not None else None
    judged = _judged_rows(anomalies)
    looks = tuple(_look(table, name, anomalies, judged) for name in table.frame.columns)
    copies = copies_of(table)
    found = TableAudit(
        name=table.name,
        location=table.location,
        fingerprint=table.fingerprint,
        rows=len(table),
        columns=looks,
        labels=_counted(labels, texts) if labels is not None else None,
        copies=len(copies) - len(np.unique(copies)),
        torn=_torn(copies, labels) if labels is not None else None,
        in_order=_is_in_order(table) if table.time is not None else None,
    )
    return replace(found, findings=tuple(_findings(found)))


def _look(table: Table, name: str, anomalies: NDArray[np.bool_] | None, judged: NDArray[np.int64] | None) -> ColumnLook:
    column = table.frame[name]
    kind = kind_of(column)
    role = "label" if name == table.label else "time" if name == table.time else "input"
    look = ColumnLook(name, role, kind, missing=int(column.isna().sum()), distinct=int(column.nunique()))
    if kind == "number":
        look = _look_at_numbers(look, column)
    elif kind in ("text", "truth"):
        look = _look_at_texts(look, column)
    elif kind == "moment":
        look = replace(look, smallest=str(column.min()), largest=str(column.max()))
    if role != "input":
        return look
    if anomalies is not None and judged is not None and kind in ("number", "text", "truth"):
        look = replace(look, decides=_decides(column.iloc[judged], anomalies[judged], is_number=kind == "number"))
    return replace(look, remarks=tuple(_remarks(look, column)))


def _look_at_numbers(look: ColumnLook, column: Series[Any]) -> ColumnLook:
    values = numbers_of(column)
    assert values is not None, "its kind says so"
    known = values[~np.isnan(values)]
    smallest, median, largest = (_number(float(value)) for value in (known.min(), np.median(known), known.max()))
    return replace(look, smallest=smallest, median=median, largest=largest)


def _look_at_texts(look: ColumnLook, column: Series[Any]) -> ColumnLook:
    codes, texts = text_codes(column)
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    most = np.argsort(-counts, kind="stable")[:COMMONEST]
    return replace(look, commonest=tuple((_printed(texts[place]), int(counts[place])) for place in most))


def _remarks(look: ColumnLook, column: Series[Any]) -> Iterator[str]:
    """What is odd about a column that a network would be shown."""
    rows = len(column)
    if look.distinct == 1 and not look.missing:
        yield "is the same in every row"
    if MOSTLY * rows < look.missing < rows:
        yield f"misses {look.missing / rows:.0%} of its values"
    yield from _REMARKS[look.holds](look, column)
    if look.decides is not None and look.decides >= DECIDES_FROM:
        yield (
            f"alone tells the labels apart ({look.decides:.1%} of pairs in order): will it be known when a row is "
            "judged?"
        )


def _remarks_on_numbers(look: ColumnLook, column: Series[Any]) -> Iterator[str]:
    values = numbers_of(column)
    assert values is not None, "its kind says so"
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        yield f"is infinite in {len(infinite):,} rows, the first of them row {infinite[0] + 1:,}"
        return
    rows = len(values)
    if look.missing or rows < FEWEST_ROWS:
        return
    is_own = look.distinct == rows and bool((values == np.floor(values)).all())
    if is_own and np.ptp(values) < 1.5 * rows:
        yield "numbers the rows: leave it out"
    elif is_own:
        yield "is another whole number in every row: if it names them, leave it out"
    elif look.distinct > FEW_TEXTS and (np.diff(values) >= 0).all():
        yield "only grows from row to row: if it is the time, name it with --time"


def _remarks_on_texts(look: ColumnLook, column: Series[Any]) -> Iterator[str]:
    _, texts = text_codes(column)
    if len(texts) > max(FEW_TEXTS, (len(column) - look.missing) / 2):
        dates = np.isfinite(moments_of(column)).mean()
        if dates > MOSTLY:
            yield "holds dates: name it with --time, or leave it out"
            return
        yield f"has {len(texts):,} different texts, too many for categories: leave it out"
    numbers = [text for text in texts if _is_number(text)]
    if len(texts) > 2 and len(numbers) >= 0.9 * len(texts):
        other = next((text for text in texts if not _is_number(text)), None)
        if other is not None:
            yield f"is numbers but for texts such as {_printed(other)!r}: leave those empty"
    elif len(texts) > 2 and all(_NUMBER_WITH_MARKS.fullmatch(text.strip()) for text in texts):
        yield f"looks like numbers, written as {_printed(texts[0])!r}: write them with a point and no other marks"


_REMARKS: dict[Kind, Callable[[ColumnLook, Series[Any]], Iterable[str]]] = {
    "number": _remarks_on_numbers,
    "text": _remarks_on_texts,
    "truth": lambda *_: (),
    "moment": lambda *_: ("holds moments: name it with --time, or leave it out",),
    "empty": lambda *_: ("holds nothing",),
    "other": lambda *_: ("holds neither numbers nor text: leave it out",),
}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _judged_rows(anomalies: NDArray[np.bool_] | None) -> NDArray[np.int64] | None:
    """Rows by which columns are judged; None where there are too few of either."""
    if anomalies is None or min(anomalies.sum(), (~anomalies).sum()) < FEWEST_TO_JUDGE:
        return None
    draw = np.random.default_rng(0)
    some = [draw.permutation(np.flatnonzero(anomalies == side))[:JUDGED_ROWS] for side in (False, True)]
    return draw.permutation(np.concatenate(some))  # halves are then alike


def _decides(column: Series[Any], anomalies: NDArray[np.bool_], *, is_number: bool) -> float:
    """The share of pairs that a column alone puts in order: by size, by distance from the middle, or by category."""
    missing = column.isna().to_numpy().astype(np.float64)
    scores = [missing]
    if is_number:
        values = numbers_of(column)
        assert values is not None, "its kind says so"
        middle = float(np.nanmedian(values)) if not missing.all() else 0.0
        filled = np.where(np.isnan(values), middle, values)
        with np.errstate(invalid="ignore"):  # of infinite ones
            scores += [filled, np.nan_to_num(np.abs(filled - middle))]
    else:
        scores.append(_rates_by_category(text_codes(column)[0], anomalies))
    shares = [_pairs_in_order(score, anomalies) for score in scores]
    return max(max(share, 1 - share) if is_number else share for share in shares)


def _rates_by_category(codes: NDArray[np.int64], anomalies: NDArray[np.bool_]) -> NDArray[np.float64]:
    """For each row how many of its category are anomalies in the other half of the rows."""
    half = np.arange(len(codes)) % 2
    places = codes + 1  # the missing are one too
    found = np.empty(len(codes))
    for side in (0, 1):
        other = half != side
        count = np.bincount(places[other], minlength=places.max() + 1)
        hits = np.bincount(places[other], weights=anomalies[other], minlength=places.max() + 1)
        rate = (hits + anomalies.mean()) / (count + 1)
        found[~other] = rate[places[~other]]
    return found


def _pairs_in_order(scores: NDArray[np.float64], anomalies: NDArray[np.bool_]) -> float:
    """The share of pairs of a normal row and another in which the other has the higher score; ties count half."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    others = int(anomalies.sum())
    pairs = others * (len(anomalies) - others)
    return float((ranks[anomalies].sum() - others * (others + 1) / 2) / pairs)


def _torn(copies: NDArray[np.int64], labels: NDArray[np.int64]) -> int:
    lowest, highest = (np.full(copies.max() + 1, fill) for fill in (np.iinfo(np.int64).max, -1))
    np.minimum.at(lowest, copies, labels)
    np.maximum.at(highest, copies, labels)
    return int((lowest != highest)[copies].sum())


def _is_in_order(table: Table) -> bool:
    moments = moments_of(table.frame[table.time])
    wrong = np.flatnonzero(~np.isfinite(moments))
    return not len(wrong) and bool((np.diff(moments) >= 0).all())


def _counted(labels: NDArray[np.int64], texts: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(labels, minlength=len(texts))
    order = np.argsort(-counts, kind="stable")
    return {_printed(texts[place]): int(counts[place]) for place in order}


def _findings(audit: TableAudit) -> Iterator[str]:
    """What a person should know before training, most serious first."""
    by_remark: dict[str, list[str]] = {}
    for look in audit.columns:
        for remark in look.remarks:
            by_remark.setdefault(remark, []).append(look.name)
    for remark, names in by_remark.items():
        yield f"column{'s' * (len(names) > 1)} {first_of(map(shown_name, names), 5)} {remark}"
    if audit.labels is None:
        yield from _findings_without_labels(audit)
    elif len(audit.labels) == 1:
        yield "every row has the same label"
    if audit.in_order is not None:
        yield from _findings_on_time(audit)
    yield from _findings_on_copies(audit)


def _findings_on_copies(audit: TableAudit) -> Iterator[str]:
    if audit.copies:
        yield f"{audit.copies:,} rows are copies of an earlier one; copies are never on two sides of a division"
    if audit.torn:
        yield f"{audit.torn:,} rows have a copy with another label: no score tells them apart"


def _findings_without_labels(audit: TableAudit) -> Iterator[str]:
    for look in audit.columns:
        if LABEL_NAMES.fullmatch(look.name) and look.role == "input" and look.distinct <= MOST_LABELS_NAMED:
            name = shown_name(look.name)
            yield f"column {name} looks like a label: name it with --label, or a network is shown it"


def _findings_on_time(audit: TableAudit) -> Iterator[str]:
    look = next(look for look in audit.columns if look.role == "time")
    if look.missing:
        yield f"{look.missing:,} rows have no time"
    elif look.distinct == 1:
        yield "every row has the same time"
    elif not audit.in_order:
        yield "the rows are not in the order of time, or some times are none; a division by time sorts them"


def _number(number: float) -> str:
    """As short as a column of figures wants it; of a whole one all digits."""
    return str(int(number)) if abs(number) < 1e12 and number == int(number) else f"{number:.4g}"


def _printed(text: str) -> str:
    return printable(shortened(text, 40))
