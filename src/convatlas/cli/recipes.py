"""``convatlas recipes``."""

from __future__ import annotations

from typing import Annotated

import typer


def recipes(
    name: Annotated[str | None, typer.Argument(help="A shipped recipe or a .toml file, to print in full.")] = None,
) -> None:
    """List the shipped training recipes, or print one as TOML to copy and change."""
    from convatlas.training.recipe import list_recipes, load_recipe

    if name is not None:
        print(load_recipe(name).to_toml(), end="")
        return

    from convatlas.cli.console import plain_table, wide_console

    table = plain_table("recipe", "how long", "optimiser", "about")
    for column in table.columns:
        column.justify = "left"
    for recipe in map(load_recipe, list_recipes()):
        long = f"{recipe.epochs} epochs" if recipe.epochs else f"{recipe.steps} steps"
        table.add_row(recipe.name, long, f"{recipe.optimizer} {recipe.learning_rate:g}", recipe.about)
    wide_console().print(table)
