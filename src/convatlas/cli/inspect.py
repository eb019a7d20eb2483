"""``convatlas inspect``."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli.options import Trust
from convatlas.cli.text import READABLE, UNBROKEN, fitting, labelled, no_room_for, print_lines, rounded
from convatlas.errors import ConvatlasError, unknown_name
from convatlas.reports.inspected import in_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from convatlas.inspection.memory import Precision
    from convatlas.reports.inspected import FoldedRow, InspectedModel
    from convatlas.speed import TrainingTime
    from convatlas.subjects import Subject

MOST_ROWS = 64  # of a table whose depth was not asked for
HEADING = ("layer", "paper", "type", "output", "parameters", "MACs", "field", "jump", "activation")
OF_IMAGES = ("field", "jump")  # columns that have no meaning for another input
DROPPED = ("jump", "activation", "field", "MACs", "paper", "type")  # where there is no room, in this order


def inspect(
    what: Annotated[
        str, typer.Argument(metavar="MODEL|RUN|FILE.py:FACTORY", help="A network, a run, or a module of your own.")
    ],
    image_size: Annotated[int | None, typer.Option(min=1, help="Side of the images, for a network by name.")] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes, for a network by name.")] = None,
    columns: Annotated[int | None, typer.Option(min=1, help="Columns of a row, for an autoencoder by name.")] = None,
    shape: Annotated[
        str | None, typer.Option("--input", metavar="C,H,W", help="Shape of an image, for a module of your own.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images or rows in a training batch; the recipe's by default.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adam, adamw or rmsprop; the recipe's by default.")] = None,
    precision: Annotated[str, typer.Option(metavar="float32|bfloat16", help="Of the memory's plan.")] = "float32",
    memory: Annotated[
        str | None, typer.Option(metavar="8GB", help="Say the largest training batch that fits into this.")
    ] = None,
    time: Annotated[
        bool, typer.Option("--time", help="Take a few steps and say how long a training lasts here.")
    ] = False,
    images: Annotated[
        int | None, typer.Option(min=1, help="Training images for --time; a run's own, or else 50,000.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="The same of an autoencoder: its training rows.")] = None,
    depth: Annotated[
        int | None,
        typer.Option(min=1, help="In the table and in Markdown, fold layers deeper than this."),
    ] = None,
    trust: Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the layers as CSV.")] = None,
    diagram: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the layers: .svg, .png or .pdf.")] = None,
    bars: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw parameters, MACs and activations layer by layer.")
    ] = None,
    field: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw receptive fields over --image.")] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="The picture for --field.")] = None,
    layer: Annotated[
        list[str] | None, typer.Option("--layer", help="A layer for --field, such as conv5_3; may be repeated.")
    ] = None,
) -> None:
    """Tell the truth about a network before training: shapes, parameters, cost, receptive field, memory, time."""
    _refuse_what_does_not_go_together(
        field=field,
        image=image,
        layer=layer,
        images=images,
        rows=rows,
        time=time,
        as_json=as_json,
        as_markdown=as_markdown,
    )

    from convatlas.cli.console import print_json
    from convatlas.reports.receptive_field import read_picture

    picture = read_picture(image) if image is not None else None  # before the network: a mistake is told at once

    from convatlas.examination import inspect_subject
    from convatlas.subjects import open_subject

    if trust:
        from convatlas.runs import Run

        Run.open(what, trust=True)

    with redirect_stdout(sys.stderr):  # what a person's own file prints is not part of the answer
        subject = open_subject(what, _parse_shape(shape), image_size=image_size, num_classes=classes, columns=columns)
        _refuse_what_it_is_not_shown(subject, images=images, rows=rows)
        inspection = inspect_subject(
            subject,
            batch_size=batch,
            optimizer=optimizer,
            precision=_known_precision(precision),
            memory_limit=_bytes(memory) if memory is not None else None,
        )
    record: Any = inspection.record()
    written = _write_files(record, csv=csv, diagram=diagram, bars=bars)
    if field is not None and picture is not None:
        written.append(_write_field(record, field, picture, layer))
    lasting = _measured(subject, batch, optimizer, images or rows) if time else None
    if as_json:
        print_json(record | ({"training_time": _time_record(lasting)} if lasting else {}))
    elif as_markdown:
        from convatlas.reports.inspected import layers_markdown

        print(layers_markdown(record, depth))
    else:
        _print_page(record, depth, lasting)
        for path in written:
            print(f"written {path}")


def _refuse_what_does_not_go_together(
    *,
    field: Path | None,
    image: Path | None,
    layer: Sequence[str] | None,
    images: int | None,
    rows: int | None,
    time: bool,
    as_json: bool,
    as_markdown: bool,
) -> None:
    if field is not None and image is None:
        raise ConvatlasError("--field draws over a picture; name one with --image FILE")
    if field is None and (image is not None or layer):
        raise ConvatlasError("--image and --layer are for the picture of receptive fields; name it with --field FILE")
    if images is not None and not time:
        raise ConvatlasError("--images is for the time of a training; add --time")
    if rows is not None and not time:
        raise ConvatlasError("--rows is for the time of a training; add --time")
    if as_markdown and (as_json or time):
        raise ConvatlasError("--markdown prints the layers; leave out --json and --time")


def _refuse_what_it_is_not_shown(subject: Subject, *, images: int | None, rows: int | None) -> None:
    """Before anything runs."""
    if images is not None and subject.is_of_rows:
        raise ConvatlasError(f"{subject.name} is shown rows, not images: use --rows {images}")
    if rows is not None and not subject.is_of_rows:
        raise ConvatlasError(f"{subject.name} is shown images, not rows: use --images {rows}")


def _parse_shape(text: str | None) -> tuple[int, ...] | None:
    """(3, 224, 224) of "3,224,224" or "3x224x224"."""
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConvatlasError(
            f"--input takes the shape of an image, channels first, such as 3,224,224; received {text!r}"
        )
    return tuple(int(part) for part in parts)


def _write_files(record: InspectedModel, *, csv: Path | None, diagram: Path | None, bars: Path | None) -> list[Path]:
    from convatlas.files import write_text
    from convatlas.reports.diagram import diagram_figure
    from convatlas.reports.figures import save_figure
    from convatlas.reports.inspected import layers_csv
    from convatlas.reports.layer_bars import layer_bars_figure

    if csv is not None:
        write_text(csv, layers_csv(record))
    if diagram is not None:
        save_figure(diagram_figure(record), diagram)
    if bars is not None:
        save_figure(layer_bars_figure(record), bars)
    return [path for path in (csv, diagram, bars) if path is not None]


def _write_field(record: InspectedModel, path: Path, picture: NDArray[Any], layers: Sequence[str] | None) -> Path:
    from convatlas.reports.figures import save_figure
    from convatlas.reports.receptive_field import receptive_field_figure

    save_figure(receptive_field_figure(picture, record, layers), path)
    return path


def _bytes(text: str) -> int:
    from convatlas.memory_budget import parse_memory

    return parse_memory(text)


def _known_precision(name: str) -> Precision:
    if name not in ("float32", "bfloat16"):
        raise unknown_name("precision", name, ("float32", "bfloat16"))
    return name  # type: ignore[return-value]


def _measured(subject: Subject, batch: int | None, optimizer: str | None, images: int | None) -> TrainingTime:
    from convatlas.cli.console import counting
    from convatlas.examination import time_training

    with counting() as watch:
        return time_training(subject, batch_size=batch, optimizer=optimizer, images=images, watch=watch)


def _time_record(lasting: TrainingTime) -> dict[str, Any]:
    return {
        "batch_size": lasting.batch_size,
        lasting.shown: lasting.images,
        "epochs": lasting.epochs,
        "steps_timed": lasting.step.calls,
        "step_seconds": lasting.step.mean,
        "step_deviation": lasting.step.deviation,
        "epoch_seconds": lasting.epoch_seconds,
        "seconds": lasting.seconds,
        "relative_error": lasting.relative_error,
        "engine": lasting.engine,
    }


def _print_page(record: InspectedModel, depth: int | None, lasting: TrainingTime | None) -> None:
    from convatlas.cli.console import wide_console
    from convatlas.reports.inspected import folded_to_depth

    console = wide_console()
    width = min(console.width, READABLE)
    print_lines(console, f"{record['model']}  (input {'x'.join(map(str, record['input_shape']))})", style="bold")
    for label, text in (*_facts(record), *(_time_facts(lasting) if lasting else ())):
        together = re.sub(r"(?<=\d) (?=[kMGT]?B?\b)", UNBROKEN, text)  # no line ends between a number and its unit
        print_lines(console, labelled(label, together, width))
    deepest = max((row["depth"] for row in record["layers"]), default=1)
    shown = depth or _readable_depth(record, deepest)
    is_image = len(record["input_shape"]) == 4
    kept = [place for place, name in enumerate(HEADING) if is_image or name not in OF_IMAGES]
    rows = [HEADING, *(_row(row, is_image) for row in folded_to_depth(record, shown))]
    print_lines(console, "")
    table = [tuple(row[place] for place in kept) for row in rows]
    (first, *lines), dropped = fitting(table, range(3, len(kept)), DROPPED, console.width)
    print_lines(console, first, style="bold")
    print_lines(console, *lines, "", *no_room_for(dropped, console.width))
    if shown < deepest:
        folded = f"folded to depth {shown} of {deepest}; --depth {deepest} shows all {len(record['layers'])} layers"
        print_lines(console, textwrap.fill(folded, width))


def _readable_depth(record: InspectedModel, deepest: int) -> int:
    """The greatest depth at which the table is not long."""
    from convatlas.reports.inspected import folded_to_depth

    fitting = [depth for depth in range(1, deepest + 1) if len(folded_to_depth(record, depth)) <= MOST_ROWS]
    return max(fitting, default=1)


def _facts(record: InspectedModel) -> Iterator[tuple[str, str]]:
    frozen = f", and {record['frozen_parameters']:,} frozen" if record["frozen_parameters"] else ""
    yield "parameters", f"{_exact(record['parameters'])} trained{frozen}"
    for owner, count in record.get("unused_parameters", {}).items():
        yield "", f"of these {count:,} in {owner}, which a prediction does not read"
    if record["buffers"]:
        yield "", f"{record['buffers']:,} numbers in buffers, which are not trained"
    if record["macs"] is not None and record["flops"] is not None:
        yield "MACs", f"{_exact(record['macs'])} multiply-adds of this input; FLOPs {record['flops']:,}, two for each"
    yield from _memory_facts(record)
    if record["unknown_operators"]:
        names = ", ".join(record["unknown_operators"])
        yield "not known", f"{names}: what depends on them is left empty (?), not guessed"


def _exact(number: int) -> str:
    """A count, with its size in words where it is long."""
    return f"{number:,} ({rounded(number)})" if number >= 1000 else str(number)


def _row(row: FoldedRow, is_image: bool) -> tuple[str, ...]:
    window, jump = row["receptive_field"], row["jump"]
    folded = f"{row['layers']} layers" if row["layers"] > 1 else ""
    again = f" (call {row['call']} of {row['calls']})" if row["calls"] > 1 else ""
    return (
        (row["name"] or "(itself)") + again,
        row["tap"] or "",
        " ".join(part for part in (row["type"], row["detail"], folded) if part),
        "x".join(map(str, row["output_shape"][1:])),
        f"{row['parameters'] + row['frozen_parameters']:,}" if row["parameters"] + row["frozen_parameters"] else "",
        "?" if row["macs"] is None else f"{row['macs']:,}" if row["macs"] else "",
        "x".join(map(str, window)) if window else "?" if is_image else "",
        _jump(jump) if jump and _has_neighbours(row["output_shape"]) else "",
        in_bytes(row["activation_bytes"]) if row["activation_bytes"] else "",
    )


def _memory_facts(record: InspectedModel) -> Iterator[tuple[str, str]]:
    memory = record["memory"]
    if memory is None:
        yield "memory", f"not known: {record.get('why_no_memory')}"
        return
    batch = memory["batch_size"]
    yield (
        "memory",
        f"{in_bytes(memory['training_peak_bytes'])} to train with batches of {batch}, "
        f"{in_bytes(memory['inference_peak_bytes'])} to predict as many (tensors alone; the textbook says "
        f"{in_bytes(memory['textbook_bytes'])})",
    )
    parts = ", ".join(f"{name.replace('_', ' ')} {in_bytes(size)}" for name, size in memory["at_peak"].items() if size)
    yield "", f"at the peak, in {memory['peak_at'] or 'the network itself'}: {parts}"
    yield "", f"by {memory['planned_for']}; another engine, processor or layout takes another amount"
    limit_bytes = memory.get("limit_bytes")
    if limit_bytes is not None:
        largest = memory["largest_batch"]
        limit = in_bytes(limit_bytes)
        enough = f"enough for batches of {largest}" if largest else "not enough for any batch"
        yield "", f"{limit} of tensors are {enough}; `train --memory` counts the whole process"


def _time_facts(lasting: TrainingTime) -> Iterator[tuple[str, str]]:
    step, shown = lasting.step, lasting.shown
    yield (
        "time",
        f"{step.mean:.3g} s a step of {lasting.batch_size} {shown} (+/- {step.deviation:.2g} s, n = {step.calls}), "
        f"{lasting.batch_size / step.mean:,.0f} {shown}/s, by {lasting.engine}",
    )
    epoch = f"{duration(lasting.epoch_seconds)} an epoch of {lasting.images:,} {lasting.shown}"
    whole = f", {duration(lasting.seconds)} for {lasting.epochs} epochs" if lasting.seconds is not None else ""
    error = f"{lasting.relative_error:.0%}".replace("%", " %")
    yield (
        "",
        f"{epoch}{whole}, without validation; +/- {error} as these steps vary, more if the machine gets other work",
    )


def duration(seconds: float) -> str:
    """A time in its two largest units.

    >>> duration(9.4), duration(754), duration(7_384), duration(200_000)
    ('9.4 s', '12 min 34 s', '2 h 3 min', '2 d 7 h')
    """
    if seconds < 60:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


def _has_neighbours(shape: Sequence[int]) -> bool:
    return len(shape) == 4 and list(shape[2:]) != [1, 1]


def _jump(jump: Sequence[float]) -> str:
    """16 for (16, 16), 8x16 for (8, 16)."""
    return f"{jump[0]:.4g}" if jump[0] == jump[1] else f"{jump[0]:.4g}x{jump[1]:.4g}"
