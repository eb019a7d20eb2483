"""``convatlas compare-models``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convatlas.cli.text import Row, fitting, no_room_for, print_lines, rounded
from convatlas.errors import ConvatlasError

# Where there is no room, in this order; speeds stay as long as they can.
DROPPED = ("published top-1", "field", "depth", "inference memory", "MACs", "training memory", "parameters")
OF_IMAGES = ("field", "published top-1")  # columns that have no meaning for rows

if TYPE_CHECKING:
    from convatlas.examination import Comparison
    from convatlas.inspection.timing import Timing
    from convatlas.models import Published


def compare_models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Networks, or families of them.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images; by default each network's.")
    ] = None,
    columns: Annotated[
        int | None, typer.Option(min=1, help="Columns of the rows of autoencoders; by default each one's.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images or rows in a batch, planned and timed.")] = 32,
    batches: Annotated[int, typer.Option(min=2, help="Timed batches, after 10 to warm up.")] = 100,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Measure images or rows a second here.")] = True,
    engine: Annotated[str, typer.Option(metavar="auto|torch", help="torch: leave the CPU engine out of it.")] = "auto",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw published accuracy against MACs: .svg, .png or .pdf.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> int:
    """Set networks beside each other: size, cost, depth, receptive field, memory, speed here, published accuracy."""
    if not names:
        raise ConvatlasError("compare-models needs networks, for example: convatlas compare-models vgg16 resnet50")

    from convatlas.acceleration import known_engine
    from convatlas.cli.console import INTERRUPTED, counting, print_json
    from convatlas.examination import compare_models as compared

    wanted = _with_families(names)
    if plot is not None:
        _refuse_what_cannot_be_drawn(wanted, plot)
    found: list[Comparison] = []
    interrupted = False
    with counting() as watch:
        one_by_one = compared(
            wanted,
            image_size=image_size,
            columns=columns,
            batch_size=batch,
            batches=batches if speed else None,
            engine=known_engine(engine),
            watch=watch,
        )
        try:
            found.extend(one_by_one)
        except KeyboardInterrupt:  # list.extend keeps what came before it
            interrupted = True
    if as_json:
        print_json(_records(found))
    else:
        _print_table(found, batch)
    if plot is not None and found:
        _draw([each.name for each in found], plot)
        if not as_json:
            print(f"written {plot}")
    return INTERRUPTED if interrupted else 0


def _with_families(names: Sequence[str]) -> list[str]:
    """Networks as named, families as their networks."""
    from convatlas.models import find_entry, list_models

    networks = list_models(task=None)
    families = {find_entry(name).family for name in networks}
    return [
        network
        for name in names
        for network in (list_models(name) if name in families and name not in networks else [name])
    ]


def _refuse_what_cannot_be_drawn(names: Sequence[str], path: Path) -> None:
    """Before anything is measured."""
    from convatlas.reports.figures import SUFFIXES

    if path.suffix.lower() not in SUFFIXES:
        raise ConvatlasError(f"--plot draws {', '.join(SUFFIXES)}; received {path}")
    if not any(_on_imagenet(_published(name)) for name in names):
        raise ConvatlasError(
            "none of these networks has a published ImageNet accuracy to draw. `convatlas models` lists who has"
        )


def _published(name: str) -> Published | None:
    """An accuracy, which only classifiers have."""
    from convatlas.models import ModelEntry, find_entry

    entry = find_entry(name)
    return entry.published if isinstance(entry, ModelEntry) else None


def _on_imagenet(published: Published | None) -> bool:
    return published is not None and published.data == "ImageNet"


def _draw(names: Sequence[str], path: Path) -> None:
    """Published accuracy against the multiply-adds of the image size that it was published for."""
    from convatlas.models import describe_models
    from convatlas.reports.bubbles import BubbleRow, bubble_figure
    from convatlas.reports.figures import save_figure

    own_size = {each["name"]: each for each in describe_models()}
    rows = [
        BubbleRow(
            name=name,
            family=own_size[name]["family"],
            accuracy=published.accuracy,
            macs=own_size[name]["macs"],
            parameters=own_size[name]["parameters"],
        )
        for name in names
        if (published := _published(name)) is not None and _on_imagenet(published)
    ]
    save_figure(bubble_figure(rows), path)


def _print_table(found: Sequence[Comparison], batch: int) -> None:
    from convatlas.cli.console import wide_console

    timed, of_rows = any(each.speed for each in found), any(each.columns for each in found)
    of_images = any(each.image_size for each in found)
    rate = "/s" if of_rows and of_images else ", rows/s" if of_rows else ", images/s"
    heading = (
        "network", "input" if of_rows else "image", "parameters", "MACs", "depth", "field", "training memory",
        "inference memory", *((f"forward{rate}", f"forward and backward{rate}") if timed else ()), "published top-1",
    )  # fmt: skip
    kept = [place for place, name in enumerate(heading) if of_images or name not in OF_IMAGES]
    rows = [tuple(row[place] for place in kept) for row in (heading, *(_row(each, timed) for each in found))]
    console = wide_console()
    right = range(2, len(kept) - of_images)  # published accuracies are words
    (first, *lines), dropped = fitting(rows, right, (*DROPPED, f"forward and backward{rate}"), console.width)
    print_lines(console, first, style="bold")
    print_lines(console, *lines, "", *no_room_for(dropped, console.width))
    for line in _notes(found, batch):
        print_lines(console, textwrap.fill(line, console.width))


def _notes(found: Sequence[Comparison], batch: int) -> Iterator[str]:
    of_images, of_rows = any(each.image_size for each in found), any(each.columns for each in found)
    shown = " or one ".join((*(("image",) if of_images else ()), *(("row",) if of_rows else ())))
    heads = "; heads that only training uses count in memory and speed" if of_images else ""
    yield f"Parameters and MACs: of a prediction of one {shown}{heads}."
    yield "Depth: layers that multiply by weights on the longest path, gates included."
    if of_images:
        yield "Field: receptive field, in pixels, of the last map of several positions."
    yield f"Memory: tensors of a batch of {batch}, planned, with the optimizer of the recipe."
    if of_images:
        yield "Top-1: percent, as published for the network's own image size."
    speeds = [each.speed for each in found if each.speed]
    if speeds:
        from convatlas.runs import describe_environment

        where = describe_environment()
        yield (
            f"Speed: batches of {batch}, mean and standard deviation of {speeds[0].forward.calls} after 10 to warm up, "
            f"by {', '.join(dict.fromkeys(speed.engine for speed in speeds))} (forward; training),"
        )
        yield f"on {where['device']}, {where['threads']} threads, torch {where['torch']}."


def _row(each: Comparison, timed: bool) -> Row:
    from convatlas.reports.inspected import in_bytes

    published = each.published
    speeds = (_rate(each.speed.forward, each), _rate(each.speed.forward_backward, each)) if each.speed else ("-", "-")
    return (
        each.name,
        f"{each.columns} columns" if each.columns else f"{each.image_size}x{each.image_size}",
        rounded(each.parameters),
        rounded(each.macs) if each.macs is not None else "?",
        str(each.depth),
        "x".join(map(str, each.receptive_field)) if each.receptive_field else "-" if each.columns else "?",
        in_bytes(each.memory.training_peak_bytes) if each.memory else "?",
        in_bytes(each.memory.inference_peak_bytes) if each.memory else "?",
        *(speeds if timed else ()),
        f"{published.accuracy:.1f} {published.data} ({published.source})" if published else "-",
    )


def _rate(timing: Timing, each: Comparison) -> str:
    """Images or rows a second, and what a batch takes."""
    rate, milliseconds = each.batch_size / timing.mean, 1000 * timing.mean
    digits = 1 if milliseconds >= 1 else 3
    spread = f"{milliseconds:,.{digits}f} +/- {1000 * timing.deviation:,.{digits}f} ms"
    return f"{rate:,.{1 if rate < 100_000 else 0}f} ({spread})"


def _records(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    from dataclasses import asdict

    return [
        {
            "name": each.name,
            "family": each.family,
            "image_size": each.image_size,
            "columns": each.columns,
            "parameters": each.parameters,
            "macs": each.macs,
            "depth": each.depth,
            "receptive_field": list(each.receptive_field) if each.receptive_field else None,
            "batch_size": each.batch_size,
            "training_peak_bytes": each.memory.training_peak_bytes if each.memory else None,
            "inference_peak_bytes": each.memory.inference_peak_bytes if each.memory else None,
            "published": asdict(each.published) if each.published else None,
            "speed": asdict(each.speed) if each.speed else None,
        }
        for each in found
    ]
