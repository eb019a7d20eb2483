"""``convatlas data``: look at a data set before training on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from convatlas.data.audit import Audit, Sizes
    from convatlas.data.source import Source
    from convatlas.data.tables.audit import ColumnLook, TableAudit

MOST_CLASSES_SHOWN = 40
MOST_FILES_SHOWN = 10
MOST_COLUMNS_SHOWN = 100
HOLDS = {  # what a column holds, in a word
    "number": "numbers", "text": "text", "truth": "true/false", "moment": "moments", "empty": "nothing",
    "other": "other",
}  # fmt: skip
PROGRESS_FROM = 500  # images; fewer are looked at before a bar could be read

app = typer.Typer(no_args_is_help=True, help="Look at a data set before training on it.")


@app.callback()
def data() -> None:
    """Look at a data set before training on it."""


@app.command()
def describe(
    source: Annotated[
        str,
        typer.Argument(metavar="DATA", help="A data set by name, an image folder, an archive, a .npz file or a table."),
    ],
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of a table: the column that says what a row is.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of a table: the column that says when a row was.")
    ] = None,
    include: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Take only image files that fit: --include '*.jpg'")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    grid: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Also draw a sheet of sample images.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail when a file cannot be read.")] = False,
) -> None:
    """Count classes and splits, and find damaged files, duplicates and what else looks wrong.

    Of a table of rows (.csv, .parquet, .npz): its columns, what is missing, copies, and columns that tell too much.
    """
    from convatlas.cli.console import print_json
    from convatlas.data.catalog import open_source
    from convatlas.data.tables import is_table

    if is_table(source):
        of_images = {"--grid": grid is not None, "--strict": strict, "--include": include is not None}
        _refuse_options(f"images, and {source} is a table", of_images)
        _describe_table(source, label, time, as_json=as_json)
        return
    _refuse_options(f"tables, and {source} is none", {"--label": label is not None, "--time": time is not None})
    opened = open_source(source, include)
    result = _audit_with_progress(opened)
    if as_json:
        print_json(result.to_dict())
    else:
        _print_audit(result)
    if grid is not None:
        _save_grid(opened, grid, quiet=as_json)
    if strict:
        _refuse_unreadable(result)


def _audit_with_progress(source: Source) -> Audit:
    from rich.console import Console
    from rich.progress import Progress

    from convatlas.data.audit import audit

    total = sum(len(split) for split in source.splits.values())
    console = Console(emoji=False, stderr=True)
    if total < PROGRESS_FROM or not console.is_terminal:
        return audit(source)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("looking at images", total=total)
        return audit(source, watch=lambda done, _: progress.update(task, completed=done))


def _save_grid(source: Source, path: Path, *, quiet: bool) -> None:
    from convatlas.data.grid import image_grid
    from convatlas.files import replacing

    sheet = image_grid(source)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")
    if not quiet:
        print(f"grid        {path}")


def _print_audit(audit: Audit) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(emoji=False, highlight=False, soft_wrap=True)
    splits = list(audit.counts)
    classes = list(audit.counts[splits[0]])
    console.print(f"[bold]{escape(audit.name)}[/]  {audit.total:,} images, {len(classes)} classes")
    console.print(_counts_table(audit, splits, classes))
    if len(classes) > MOST_CLASSES_SHOWN:
        console.print(f"... and {len(classes) - MOST_CLASSES_SHOWN} more classes; --json shows them all")
    console.print()
    for name, text in _properties(audit).items():
        console.print(f"{name:<11} {escape(text)}")
    console.print()
    for finding in audit.findings:
        console.print(f"[yellow]![/] {escape(finding)}")
    if not audit.findings:
        console.print("[green]nothing looks wrong[/]")
    _print_files(console, "cannot be read", [f"{name}: {reason}" for name, reason in audit.unreadable])
    _print_files(console, "same pixels", [" = ".join(duplicate.files) for duplicate in audit.duplicates])


def _counts_table(audit: Audit, splits: list[str], classes: list[str]) -> Table:
    from rich.markup import escape

    from convatlas.cli.console import plain_table

    table = plain_table("class", *splits)
    for name in classes[:MOST_CLASSES_SHOWN]:
        table.add_row(escape(name), *(f"{audit.counts[split][name]:,}" for split in splits))
    table.add_row("[bold]all[/]", *(f"[bold]{sum(audit.counts[split].values()):,}[/]" for split in splits))
    return table


def _properties(audit: Audit) -> dict[str, str]:
    """Sizes, modes, formats and colours, each as one line."""
    lines = {}
    if audit.sizes:
        lines["size"] = _sizes_text(audit.sizes)
    lines["modes"] = _counted(audit.modes)
    if audit.formats:
        lines["formats"] = _counted(audit.formats)
    lines["mean"] = " ".join(f"{value:.4f}" for value in audit.mean) + "  of pixels in 0..1"
    lines["std"] = " ".join(f"{value:.4f}" for value in audit.std)
    if not audit.mirror:
        lines["mirror"] = "mirrored images would change class: default recipes leave out flips"
    return lines


def _sizes_text(sizes: Sizes) -> str:
    if sizes.smallest == sizes.largest:
        return f"{sizes.commonest[0][0]}, all of them"
    (width, height), (most_width, most_height) = sizes.smallest, sizes.largest
    return (
        f"width {width} to {most_width}, median {sizes.median[0]}; height {height} to {most_height}, median "
        f"{sizes.median[1]}; most often {sizes.commonest[0][0]}"
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _print_files(console: Console, heading: str, lines: list[str]) -> None:
    from rich.markup import escape

    if not lines:
        return
    console.print(f"\n[bold]{heading}[/]")
    for line in lines[:MOST_FILES_SHOWN]:
        console.print(f"  {escape(line)}")
    if len(lines) > MOST_FILES_SHOWN:
        console.print(f"  ... and {len(lines) - MOST_FILES_SHOWN} more; --json shows them all")


def _refuse_unreadable(audit: Audit) -> None:
    from convatlas.errors import DataError

    if audit.unreadable:
        name, reason = audit.unreadable[0]
        raise DataError(
            f"{len(audit.unreadable)} of the files in {audit.name} cannot be read; the first is {name} ({reason}). "
            "Mend or remove them, or leave out --strict"
        )


def _refuse_options(what_for: str, given: Mapping[str, bool]) -> None:
    from convatlas.errors import DataError

    for option, is_given in given.items():
        if is_given:
            raise DataError(f"{option} is for {what_for}")


def _describe_table(source: str, label: str | None, time: str | None, *, as_json: bool) -> None:
    from convatlas.cli.console import print_json
    from convatlas.data.tables import open_table
    from convatlas.data.tables.audit import audit_table

    result = audit_table(open_table(source, label=label, time=time))
    if as_json:
        print_json(result.to_dict())
    else:
        _print_table_audit(result)


def _print_table_audit(audit: TableAudit) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(emoji=False, highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(audit.name)}[/]  {audit.rows:,} rows, {len(audit.columns):,} columns")
    console.print(_columns_table(audit.columns[:MOST_COLUMNS_SHOWN]))
    if len(audit.columns) > MOST_COLUMNS_SHOWN:
        console.print(f"... and {len(audit.columns) - MOST_COLUMNS_SHOWN:,} more columns; --json shows them all")
    console.print()
    if audit.labels is not None:
        shares = [f"{name} {count:,} ({count / audit.rows:.3%})" for name, count in audit.labels.items()]
        more = f" and {len(shares) - MOST_FILES_SHOWN:,} more" if len(shares) > MOST_FILES_SHOWN else ""
        console.print(f"labels      {escape(', '.join(shares[:MOST_FILES_SHOWN]) + more)}")
    if audit.in_order is not None:
        console.print(f"time        {'in order' if audit.in_order else 'not in order'}")
    console.print(f"copies      {audit.copies:,} rows are the same as an earlier one")
    console.print()
    for finding in audit.findings:
        console.print(f"[yellow]![/] {escape(finding)}")
    if not audit.findings:
        console.print("[green]nothing looks wrong[/]")


def _columns_table(columns: Sequence[ColumnLook]) -> Table:
    from rich.markup import escape

    from convatlas.cli.console import plain_table
    from convatlas.errors import shortened

    table = plain_table("column", "holds", "missing", "distinct", "values")
    for place in (1, 4):
        table.columns[place].justify = "left"
    for look in columns:
        name = escape(shortened(look.name, 24))
        is_named = f" [dim]({look.role})[/]" if look.role != "input" else ""
        table.add_row(
            name + is_named, HOLDS[look.holds], f"{look.missing:,}", f"{look.distinct:,}", escape(_values_text(look))
        )
    return table


def _values_text(look: ColumnLook) -> str:
    """From the smallest to the largest, or the commonest."""
    from convatlas.errors import shortened

    if look.commonest:
        return ", ".join(f"{shortened(text, 12)} {count:,}" for text, count in look.commonest)
    if look.smallest is None:
        return ""
    middle = f", median {look.median}" if look.median is not None else ""
    return f"{look.smallest} to {look.largest}{middle}"
