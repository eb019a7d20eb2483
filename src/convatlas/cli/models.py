"""``convatlas models``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from convatlas.models import ModelDescription


def models(
    family: Annotated[str | None, typer.Option("--family", "-f", help="Only this family, such as vgg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, for programs.")] = False,
) -> None:
    """List the networks: what each was made for, its parameters and where it comes from."""
    from convatlas.cli.console import print_json
    from convatlas.models import describe_models

    descriptions = describe_models(family)
    if as_json:
        print_json(descriptions)
    else:
        print_models(descriptions)


def print_models(descriptions: Sequence[ModelDescription]) -> None:
    """A line a network, and the papers below."""
    from rich.console import Console

    from convatlas.cli.console import plain_table

    table = plain_table("model", "year", "image", "classes", "parameters", "recipe")
    for model in descriptions:
        table.add_row(
            model["name"],
            str(model["year"] or "-"),
            f"{model['image_size']}x{model['image_size']}x{model['in_channels']}",
            str(model["num_classes"]),
            f"{model['parameters']:,}",
            model["recipe"],
        )
    console = Console(highlight=False)
    console.print(table)
    console.print()
    for name, paper in dict.fromkeys((model["family"], model["paper"]) for model in descriptions):
        console.print(f"{name:10}{paper}", soft_wrap=True)
    console.print("\nnext      convatlas train MODEL --data FOLDER")
