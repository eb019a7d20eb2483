"""How anomalies look in a terminal: what an autoencoder finds, its alarms, and its threshold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from convatlas.cli.text import UNBROKEN, Row, aligned, labelled, print_lines
from convatlas.errors import shortened
from convatlas.reports.standings import AT_STATED_PREVALENCE, AVERAGE_PRECISION, broken_promise, contenders, verdicts
from convatlas.reports.wording import grouped, printable, rate, times
from convatlas.tasks.reconstruct.thresholds import CONFIDENCE, rounded_up, rows_needed, smallest_rate

WIDTH = 80
COLUMNS_SHOWN = 5  # of those that matter
MISTAKES_SHOWN = 3  # of misses and of false alarms; the report has more
PARTS_SHOWN = 3  # columns of a mistake
BOXES_SHOWN = 3  # of an image
KINDS_SHOWN = 20  # of anomalies
LONGEST_NAME, LONGEST_VALUE = 18, 13  # characters of a column's name and of what it holds: a line has 80
USUAL_RATES = (0.01, 0.001, 0.0001)


def print_anomaly_evaluation(record: Mapping[str, Any], rows_a_day: float | None = None) -> None:
    """What a network finds among labelled rows, or how unlike the calibration rows others are.

    Args:
        record: what ``AnomalyReport.to_dict`` writes.
        rows_a_day: how many rows come where the network is used, to say how many alarms a day there are.
    """
    console = _console()
    _print_ranking(console, record)
    for sentence in verdicts(record):
        print_lines(console, _paragraph(sentence))
    for remark in record["remarks"]:
        print_lines(console, _paragraph(f"! {remark}"), style="yellow")
    _print_table(console, _rivals_table(record), right=range(1, 6))
    _print_alarms_found(console, record, rows_a_day)
    _print_drift(console, record.get("drift"))
    _print_table(console, _columns_table(record.get("columns") or []), right=(1, 2))
    _print_table(console, _kinds_table(record.get("kinds") or []), right=(1, 2, 3))
    if record.get("located"):
        print_lines(console, "", _paragraph(_located_sentence(record["located"])))
    normal = f"normal {record.get('examples', 'rows')}"
    _print_mistakes(console, f"the anomalies most like {normal}, which are missed", record.get("misses") or [])
    _print_mistakes(console, "the highest false alarms", record.get("false_alarm_rows") or [])
    if record.get("record"):
        print_lines(console, "", f"record  {_plain(record['record'])}")  # not wrapped: a path is there to be copied


def print_anomaly_summary(record: Mapping[str, Any], tested: int) -> None:
    """What the end of a training says of the test set.

    Args:
        record: what ``AnomalyReport.to_dict`` writes.
        tested: how often the test set has been looked at.
    """
    console = _console()
    _print_ranking(console, record, "test average precision", f"; tested {times(tested)}")
    for sentence in verdicts(record):
        print_lines(console, _paragraph(sentence))
    _print_alarms_found(console, record, None)
    print_lines(console, "")


def print_alarms(record: Mapping[str, Any]) -> None:
    """How many rows of a table are alarms, and what is unusual about the highest.

    Args:
        record: ``table``, ``rows``, ``alarms``, ``threshold`` (or None), ``highest`` and ``scores`` (a file, or None),
            as ``convatlas predict --json`` prints them.
    """
    console = _console()
    threshold, highest = record["threshold"], record["highest"]
    print_lines(console, _paragraph(_alarms_sentence(record)), style="bold")
    if threshold is not None:
        print_lines(console, _paragraph(_promise(threshold)))
    for row in highest:
        print_lines(console, "", *_row_lines(row))
    if highest:
        print_lines(console, "", _paragraph(
            "p: the share of normal rows that score as high or higher, as the calibration rows have it. A score "
            "tells how unusual a row is; it is not how likely an anomaly is. Less if usual: how far the score falls "
            "when that column, alone, holds its usual value."
        ), style="dim")  # fmt: skip
    if record["scores"] is not None:
        print_lines(console, f"scores  {_plain(record['scores'])}")


def print_image_alarms(record: Mapping[str, Any]) -> None:
    """Which images are alarms, how unusual each is, and where.

    Args:
        record: ``images``, each with ``image``, ``score``, ``p_value``, ``alarm``, ``boxes`` and ``map`` (a file, or
            None); and ``threshold`` (or None); as ``convatlas predict --json`` prints them.
    """
    console = _console()
    images, threshold = record["images"], record["threshold"]
    head = ("image", "score", "p", "alarm", "where it is unusual")
    rows = [
        (
            _plain(each["image"]),
            f"{each['score']:.4g}",
            f"{each['p_value']:.2g}",
            "alarm" if each["alarm"] else "-",
            _boxes_in_words(each["boxes"]),
        )
        for each in images
    ]
    _print_table(console, [head, *rows], right=(1, 2), before=())
    print_lines(console, "")
    if threshold is not None:
        print_lines(console, _paragraph(_promise(threshold, "images")))
    print_lines(console, _paragraph(
        "p: the share of good images that score as high or higher, as the calibration images have it. Boxes: left, "
        "top, right, bottom in pixels."
    ), style="dim")  # fmt: skip
    written = [each["map"] for each in images if each["map"] is not None]
    if written:
        print_lines(console, f"maps    {_plain(written[0])}{f' and {len(written) - 1:,} more' if written[1:] else ''}")


def _boxes_in_words(boxes: Sequence[Mapping[str, int]]) -> str:
    told = [f"{box['left']},{box['top']}-{box['right']},{box['bottom']}" for box in boxes[:BOXES_SHOWN]]
    more = f" and {len(boxes) - BOXES_SHOWN} more" if len(boxes) > BOXES_SHOWN else ""
    return f"{'  '.join(told)}{more}" if told else "nowhere"


def print_threshold(
    card: Mapping[str, Any] | None, calibrated_rows: int, rows_a_day: float | None = None, examples: str = "rows"
) -> None:
    """The threshold of a run, what it promises, and what its calibration rows could promise.

    Args:
        card: value, rate, confidence and calibration_rows; None where no threshold is set.
        calibrated_rows: how many scores of normal rows the run keeps.
        rows_a_day: how many rows come where the network is used.
        examples: what they are, if not rows.
    """
    console = _console()
    confidence = card["confidence"] if card is not None else CONFIDENCE
    if card is None:
        print_lines(console, f"no threshold is set: there are no alarms, and {examples} are only ranked", style="bold")
    else:
        print_lines(console, _paragraph(_promise(card, examples)), style="bold")
        if rows_a_day is not None:
            most = _a_day(card["rate"] * rows_a_day)
            print_lines(
                console, _paragraph(f"of {grouped(rows_a_day)} normal {examples} a day, at most {most} are alarms")
            )
    least = rate(rounded_up(smallest_rate(calibrated_rows, confidence)))
    print_lines(console, "", _paragraph(
        f"With {rate(confidence)} confidence {calibrated_rows:,} calibration {examples} can promise {least} of false "
        f"alarms, and no less. {_needs([(share, rows_needed(share, confidence)) for share in USUAL_RATES])}."
    ))  # fmt: skip


def _print_ranking(
    console: Console, record: Mapping[str, Any], named: str = "average precision", end: str = ""
) -> None:
    """Average precision, where labels tell it, and on what rows."""
    n, anomalies, examples = record["n"], record["anomalies"], record.get("examples", "rows")
    if anomalies is None:
        print_lines(console, f"{n:,} {examples} without labels{end}", style="bold")
        return
    rows = f"{n:,} {examples}, {anomalies:,} of them anomalies ({rate(record['prevalence'])})"
    if record[AVERAGE_PRECISION] is None:
        print_lines(
            console, _paragraph(f"{rows}: a ranking cannot be judged by one kind of {examples} alone"), style="bold"
        )
        return
    print_lines(console, f"{named} {_with_interval(record, AVERAGE_PRECISION, '95 % interval ')}", style="bold")
    print_lines(console, _paragraph(f"on {rows}; guessing gives {record['prevalence']:.3f}{end}"))
    if record[AT_STATED_PREVALENCE] is not None:
        where = rate(record["stated_prevalence"])
        print_lines(console, _paragraph(
            f"where {where} of the {examples} are anomalies, it is {_with_interval(record, AT_STATED_PREVALENCE)}"
        ))  # fmt: skip


def _with_interval(record: Mapping[str, Any], figure: str, name: str = "") -> str:
    interval = record[f"{figure}_interval"]
    between = f" ({name}{interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{record[figure]:.3f}{between}"


def _rivals_table(record: Mapping[str, Any]) -> list[Row]:
    """The network and its rivals, best first; empty where there are none."""
    own, rivals = contenders(record, AVERAGE_PRECISION)
    if own is None or not rivals:
        return []
    by_name = {rival["name"]: rival for rival in record["rivals"]} | {own.name: record}
    stated = record["stated_prevalence"]
    head = ("detector", "AP", f"at {rate(stated)}" if stated else "", "recall 1 %", "0.1 %", "ROC")
    ranked = sorted([own, *rivals], key=lambda contender: -contender.value)
    return [head, *(_rivals_row(contender.name, by_name[contender.name]) for contender in ranked)]


def _rivals_row(name: str, figures: Mapping[str, Any]) -> Row:
    recalls = [at["recall"] for at in figures["recall_at"] or []]
    shares = [_or_dash(recall, _share) for recall in (*recalls, None, None)[:2]]
    precisions = [_or_dash(figures[key], "{:.3f}".format) for key in (AVERAGE_PRECISION, AT_STATED_PREVALENCE)]
    return (_short(name), *precisions, *shares, _or_dash(figures["roc_auc"], "{:.3f}".format))


def _or_dash(value: float | None, write: Any) -> str:
    return "-" if value is None else str(write(value))


def _print_alarms_found(console: Console, record: Mapping[str, Any], rows_a_day: float | None) -> None:
    """What the threshold does on these rows, and would do in a day."""
    threshold = record["threshold"]
    if threshold is None:
        print_lines(console, "", _paragraph("no threshold is set: no row is an alarm, and rows are only ranked"))
        return
    print_lines(console, "", _paragraph(_promise(threshold, record.get("examples", "rows"))))
    for sentence in (*_alarm_sentences(record), *_day_sentences(record, rows_a_day)):
        print_lines(console, _paragraph(sentence, margin=2))


def _alarm_sentences(record: Mapping[str, Any]) -> Iterator[str]:
    examples = record.get("examples", "rows")
    if record["false_alarm_rate"] is not None:
        normal = record["n"] - record["anomalies"]
        false = f"{record['false_alarms']:,} of {normal:,} normal {examples}"
        yield f"false alarms  {rate(record['false_alarm_rate'])}  ({false}; {_shares(record['false_alarm_interval'])})"
    if broken := broken_promise(record):
        yield f"! {broken}"
    if record["recall"] is not None:
        found = f"{record['alarms'] - record['false_alarms']:,} of {record['anomalies']:,} anomalies"
        yield f"found         {rate(record['recall'])}  ({found}; {_shares(record['recall_interval'])})"
    if record["precision_at_stated"] is not None:
        stated = rate(record["stated_prevalence"])
        yield f"where {stated} of the {examples} are anomalies, {rate(record['precision_at_stated'])} of the alarms are"
    if record["anomalies"] is None and record["alarms"] is not None:
        yield f"alarms        {rate(record['alarms'] / record['n'])}  ({record['alarms']:,} of {record['n']:,} rows)"


def _shares(interval: Sequence[float] | None) -> str:
    return f"95 % interval {rate(interval[0])} to {rate(interval[1])}" if interval else "no interval"


def _day_sentences(record: Mapping[str, Any], rows_a_day: float | None) -> Iterator[str]:
    if rows_a_day is None:
        return
    day = f"of {grouped(rows_a_day)} rows a day"
    share, stated = record["false_alarm_rate"], record["stated_prevalence"]
    if share is None:
        if record["alarms"] is not None:
            yield f"{day}, about {_a_day(rows_a_day * record['alarms'] / record['n'])} would be alarms"
        return
    normal = rows_a_day * (1 - (stated or 0))
    low, high = (_a_day(normal * bound) for bound in record["false_alarm_interval"] or (share, share))
    yield f"{day}, about {_a_day(normal * share)} are false alarms ({low} to {high})"
    if stated and record["recall"] is not None:
        unusual = rows_a_day * stated
        yield f"and {_a_day(unusual * record['recall'])} of about {_a_day(unusual)} anomalies are found"


def _a_day(count: float) -> str:
    return grouped(count) if count >= 9.95 else f"{count:.2g}"


def _print_drift(console: Console, drift: Mapping[str, Any] | None) -> None:
    if drift is None:
        return
    style = "" if drift["alike"] else "yellow"
    print_lines(console, "", _paragraph(_capitalised(_plain(drift["verdict"])).rstrip(".") + "."), style=style)
    moved = drift["columns"][:COLUMNS_SHOWN]
    rows = [
        (_short(column["name"]), f"{column['calibration_median']:.3g}", f"{column['median']:.3g}") for column in moved
    ]
    _print_table(console, [("adds to the score", "calibration", "these rows"), *rows] if rows else [], right=(1, 2))


def _columns_table(columns: Sequence[Mapping[str, Any]]) -> list[Row]:
    rows = [
        (_short(column["name"]), _share(column["share"]), _share(column["normal_share"]))
        for column in columns[:COLUMNS_SHOWN]
    ]
    return [("adds to the score", "of anomalies", "of normal rows"), *rows] if rows else []


def _located_sentence(located: Mapping[str, Any]) -> str:
    share = rate(located["pointed"] / located["n"])
    return (
        f"where the defect is: the most unusual place lies in it in {share} of the {located['n']:,} images with a "
        f"mask; ROC of their pixels {located['roc_auc']:.3f}"
    )


def _kinds_table(kinds: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Each kind of anomalies, the one that is told worst from what is normal first."""
    rows = [
        (
            _short(kind["name"]),
            f"{kind['n']:,}",
            rate(kind["alarms"] / kind["n"]) if kind["alarms"] is not None else "-",
            _or_dash(kind["roc_auc"], "{:.3f}".format),
        )
        for kind in kinds[:KINDS_SHOWN]
    ]
    return [("kind", "images", "found", "ROC"), *rows] if rows else []


def _print_table(console: Console, rows: Sequence[Row], right: Sequence[int], before: Sequence[str] = ("",)) -> None:
    if rows:
        used = [place for place in range(len(rows[0])) if rows[0][place]]
        kept = [tuple(row[place] for place in used) for row in rows]
        head, *others = aligned(kept, right=[place for place, column in enumerate(used) if column in right])
        print_lines(console, *before, _spaced(head), style="bold")
        print_lines(console, *map(_spaced, others))


def _print_mistakes(console: Console, what: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        print_lines(console, "", what, style="bold")
    for row in rows[:MISTAKES_SHOWN]:
        print_lines(console, *_row_lines(row, parts=PARTS_SHOWN))


def _row_lines(row: Mapping[str, Any], parts: int | None = None) -> list[str]:
    """A row, and below it the columns that explain most of its score; or an image."""
    alarm = "  alarm" if row["alarm"] else ""
    if "image" in row:
        what = f"{_plain(row['label'])}  {_plain(row['image'])}"
        return [f"{what}  score {row['score']:.4g}  p {row['p_value']:.2g}{alarm}"]
    columns = [
        (
            "  " + _short(part["name"]),
            _short(part["seen"], LONGEST_VALUE),
            f"expected {_short(part['expected'], LONGEST_VALUE)}",
            f"{100 * part['explains']:.0f} %",
        )
        for part in row["columns"][:parts]
    ]
    head = f"row {row['row']:,}  score {row['score']:.4g}  p {row['p_value']:.2g}{alarm}"
    return [head, *(f"{line} less if usual" for line in aligned(columns, right=[3]))] if columns else [head]


def _alarms_sentence(record: Mapping[str, Any]) -> str:
    table = _plain(record["table"])
    if record["threshold"] is None:
        return f"{table}: {record['rows']:,} rows; no threshold is set, so none is called an alarm"
    share = f", {rate(record['alarms'] / record['rows'])}" if record["rows"] else ""
    verb = "is an alarm" if record["alarms"] == 1 else "are alarms"
    return f"{table}: {record['alarms']:,} of {record['rows']:,} rows {verb}{share}"


def _promise(threshold: Mapping[str, Any], examples: str = "rows") -> str:
    return (
        f"alarm above a score of {threshold['value']:.4g}: at most {rate(threshold['rate'])} of normal {examples}, "
        f"with {rate(threshold['confidence'])} confidence, by {threshold['calibration_rows']:,} calibration {examples}"
    )


def _needs(needed: Sequence[tuple[float, int]]) -> str:
    (first, rows), *others = needed
    return ", ".join([f"{rate(first)} takes {rows:,}", *(f"{rate(share)} {count:,}" for share, count in others)])


def _paragraph(text: str, margin: int = 0) -> str:
    """Text over as many lines as it takes; a figure stays with its unit."""
    return labelled("", _plain(text).replace(" %", f"{UNBROKEN}%"), WIDTH, margin)


def _plain(text: Any) -> str:
    """Names and values as a terminal can show them: on one line, and unable to give it orders."""
    return printable(str(text)).replace("\n", " ").replace("\t", " ").strip()


def _short(text: Any, most: int = LONGEST_NAME) -> str:
    return shortened(_plain(text), most)


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _spaced(line: str) -> str:
    return line.replace(UNBROKEN, " ")


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _console() -> Console:
    return Console(emoji=False, highlight=False, soft_wrap=True)
