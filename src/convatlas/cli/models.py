"""``convatlas models``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from convatlas.cli.text import READABLE, UNBROKEN, Row, aligned, fitting, labelled, no_room_for, print_lines, rounded
from convatlas.errors import ConvatlasError, unknown_name

if TYPE_CHECKING:
    from rich.console import Console

    from convatlas.models import AutoencoderDescription, ImageAutoencoderDescription, ModelDescription
    from convatlas.models.catalogue import AutoencoderPage, ImageAutoencoderPage, LayerDescription, ModelPage
    from convatlas.models.registry import PublishedDescription, TaskName
    from convatlas.models.settings import Setting

    Description = ModelDescription | AutoencoderDescription | ImageAutoencoderDescription
    Page = ModelPage | AutoencoderPage | ImageAutoencoderPage

DROPPED = ("recipe", "source", "published top-1", "MACs", "params")  # where there is no room, in this order
MOST_LAYERS = 30  # a longer table has its runs of equal layers folded
SHORTEST_RUN = 4
DATA = {"classify": "FOLDER", "reconstruct": "TABLE", "reconstruct_images": "FOLDER"}  # that a task is learnt from
SHOWN = {"classify": "image", "reconstruct": "row", "reconstruct_images": "image"}
MAKERS = {
    "classify": "create_model({}, num_classes=10)",
    "reconstruct": "create_autoencoder({}, columns=12)",
    "reconstruct_images": "models.create_image_autoencoder({}, image_size=64)",
}


def models(
    name: Annotated[
        str | None, typer.Argument(help="A network, for a page about it; or a family, for its networks.")
    ] = None,
    family: Annotated[str | None, typer.Option("--family", "-f", help="List only this family, such as vgg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List the networks, or tell everything about one: layers, sizes, paper, recipe."""
    from convatlas.models import (
        describe_autoencoders,
        describe_image_autoencoders,
        describe_models,
        find_entry,
        list_models,
    )

    if name is not None and family is not None:
        raise ConvatlasError(f"models takes a name or --family; received {name!r} and --family {family}")
    networks = list_models(task=None)
    if name in networks:
        show_page(name, as_json)
        return
    families = {find_entry(network).family for network in networks}
    if name is not None and name not in families:
        raise unknown_name(
            "network or family", name, [*networks, *families.difference(networks)], see="convatlas models"
        )
    listed = name or family
    found: list[Description] = [
        *describe_models(listed),
        *describe_autoencoders(listed),
        *describe_image_autoencoders(listed),
    ]
    show_catalogue(found, as_json)


def show_catalogue(descriptions: Sequence[Description], as_json: bool) -> None:
    """The networks, for a person or a program."""
    from convatlas.cli.console import print_json, wide_console

    if as_json:
        print_json(descriptions)
    else:
        print_catalogue(descriptions, wide_console())


def show_page(name: str, as_json: bool) -> None:
    """One network, for a person or a program."""
    from convatlas.cli.console import print_json, wide_console
    from convatlas.models import list_models
    from convatlas.models.catalogue import autoencoder_page, image_autoencoder_page, model_page
    from convatlas.training.recipe import load_recipe

    pages: dict[TaskName, Callable[[str], Page]] = {
        "classify": model_page,
        "reconstruct": autoencoder_page,
        "reconstruct_images": image_autoencoder_page,
    }
    page = next(make(name) for task, make in pages.items() if name in list_models(task=task))
    about = load_recipe(page["recipe"]).about
    if as_json:
        print_json({**page, "recipe_about": about})
    else:
        print_page(page, about, wide_console())


def print_catalogue(descriptions: Sequence[Description], console: Console) -> None:
    """A line a network under its family and the family's papers; no line is wider than the console."""
    tasks = {model["task"] for model in descriptions}
    published = ["published top-1", "source"] if "classify" in tasks else []
    shown = "image" if tasks == {"classify"} else "input"
    heading = ("network", shown, "params", "MACs", "recipe", *published)
    rows = [_catalogue_row(model)[: len(heading)] for model in descriptions]
    table, dropped = fitting([heading, *rows], (2, 3), DROPPED, console.width - 2)
    first, *lines = (f"  {line}" for line in table)
    print_lines(console, first, style="bold")
    families = dict.fromkeys(model["family"] for model in descriptions)
    margin = max(12, *(len(family) + 2 for family in families))
    for family in families:
        members = [each for each in zip(descriptions, lines, strict=True) if each[0]["family"] == family]
        papers = dict.fromkeys(f"{model['year'] or '':4}  {model['paper']}" for model, _ in members)
        for place, paper in enumerate(papers):
            print_lines(console, labelled("" if place else family, paper, console.width, margin), style="bold")
        print_lines(console, *(line for _, line in members), "")
    examples = " or one ".join(dict.fromkeys(SHOWN[task] for task in DATA if task in tasks))
    top_1 = " Top-1: percent." if "classify" in tasks else ""
    count = f"{len(lines)} network{'' if len(lines) == 1 else 's'}."
    trains = dict.fromkeys(f"convatlas train NETWORK --data {data}" for task, data in DATA.items() if task in tasks)
    print_lines(
        console,
        textwrap.fill(f"{count} MACs: multiply-adds of one {examples}.{top_1}", console.width),
        *no_room_for(dropped, console.width),
        "",
        "next        convatlas models NETWORK",
        *(f"            {train}" for train in trains),
    )


def _catalogue_row(model: Description) -> Row:
    return (
        model["name"],
        _input(model),
        rounded(model["parameters"]),
        rounded(model["macs"]),
        model["recipe"],
        *(_short_published(model["published"], model["paper"]) if model["task"] == "classify" else ("-", "")),
    )


def _input(model: Description) -> str:
    """One image, or the columns of a row."""
    if model["task"] == "reconstruct":
        return f"{model['columns']} columns"
    return f"{model['in_channels']}x{model['image_size']}x{model['image_size']}"


def _short_published(published: PublishedDescription | None, paper: str) -> Row:
    """The accuracy with its data, and who says so."""
    if published is None:
        return "-", ""
    source = published["source"].partition(",")[0].partition("'s ")[0]
    return f"{published['accuracy']:.1f} {published['data']}", "paper" if _same_paper(source, paper) else source


def _same_paper(source: str, paper: str) -> bool:
    """Whether two citations agree in their first author and their year."""
    words = source.split()
    return paper.startswith(words[0]) and words[-1].isdigit() and words[-1] in paper


def print_page(page: Page, recipe_about: str, console: Console) -> None:
    """One network: what it brought, its figures, its table, and what to do with it."""
    width = min(console.width, READABLE)
    origin = ", ".join(str(part) for part in (f"family {page['family']}", page["year"]) if part)
    print_lines(console, f"{page['name']}  ({origin})", style="bold")
    print_lines(console, textwrap.fill(page["about"], width), "")
    for label, text in _facts(page, recipe_about):
        print_lines(console, labelled(label, text, width))
    print_lines(console, "")
    first, *rows = aligned([("layer", "output", "parameters", "module"), *_layer_rows(page)], right=(2,))
    print_lines(console, first, style="bold")
    print_lines(console, *rows, "")
    if page["differences"]:
        print_lines(console, "differences from the paper", style="bold")
        print_lines(console, *(labelled("  -", text, width, 4) for text in page["differences"]), "")
    if page["siblings"]:
        siblings = ", ".join(
            f"{each['name']} ({rounded(each['parameters'])})".replace(" ", UNBROKEN) for each in page["siblings"]
        )
        print_lines(console, labelled("siblings", siblings, width), "")
    print_lines(
        console,
        f"next        convatlas train {page['name']} --data {DATA[page['task']]}",
        f"python      convatlas.{MAKERS[page['task']].format(json.dumps(page['name']))}",
    )


def _facts(page: Page, recipe_about: str) -> Iterator[tuple[str, str]]:
    yield "paper", page["paper"]
    yield "brought", page["brought"]
    yield from _input_facts(page)
    yield "parameters", f"{page['parameters']:,} ({rounded(page['parameters'])})"
    if page["auxiliary_parameters"]:
        yield "", f"{page['auxiliary_parameters']:,} more in auxiliary heads, which only training uses"
    if page["buffers"]:
        yield "", f"{page['buffers']:,} numbers in buffers, which are not trained"
    yield "MACs", f"{page['macs']:,} ({rounded(page['macs'])} multiply-adds of one {SHOWN[page['task']]})"
    if page["task"] == "classify" and (published := page["published"]):
        yield "published", f"{published['accuracy']:g} % top-1 on {published['data']} ({published['source']})"
    yield "recipe", f"{page['recipe']}: {recipe_about}"


def _input_facts(page: Page) -> Iterator[tuple[str, str]]:
    if page["task"] == "reconstruct":
        yield "row", f"{page['columns']} columns; any number of them"
        yield "settings", _settings(page["settings"])
        return
    side, smallest = page["image_size"], page["minimum_size"]
    yield (
        "image",
        f"{page['in_channels']}x{side}x{side}; any from {smallest}x{smallest} up ({page['minimum_reason']})",
    )
    if page["task"] == "classify":
        yield "classes", f"{page['num_classes']}"
    else:
        yield "settings", _settings(page["settings"])


def _settings(settings: Mapping[str, Setting]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _layer_rows(page: Page) -> list[Row]:
    layers = [*page["taps"], page["output"]]
    shown = ("row", f"{page['columns']}", "", "") if page["task"] == "reconstruct" else ("image", _input(page), "", "")
    if len(layers) <= MOST_LAYERS:
        return [shown, *(_layer_row([layer]) for layer in layers)]
    return [shown, *(_layer_row(run) for run in folded(layers))]


def folded(layers: Sequence[LayerDescription]) -> Iterator[Sequence[LayerDescription]]:
    """Layers apart, but those of a long run of equal outputs together, without the first."""
    for _, equal in groupby(layers, key=lambda layer: layer["shape"]):
        run = list(equal)
        if len(run) < SHORTEST_RUN:
            yield from ([layer] for layer in run)
        else:
            yield run[:1]
            yield run[1:]


def _layer_row(run: Sequence[LayerDescription]) -> Row:
    first, last = run[0], run[-1]
    parameters = sum(layer["parameters"] for layer in run)
    shape = "x".join(map(str, first["shape"]))
    count = f"{parameters:,}" if parameters else ""
    if len(run) == 1:
        return (first["name"], shape, count, first["module"])
    return (f"{first['name']} ... {last['name']}", shape, count, f"x{len(run)}")
