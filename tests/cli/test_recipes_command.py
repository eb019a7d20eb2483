from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

from convatlas.training.recipe import ClassificationRecipe, list_recipes, load_recipe, parse_recipe

Command = Callable[..., Any]


def test_every_recipe_is_listed(convatlas: Command) -> None:
    answer = convatlas("recipes")
    assert answer.code == 0
    assert {line.split(" ")[0] for line in answer.out.splitlines()} >= set(list_recipes())


def test_a_recipe_is_printed_to_be_copied(convatlas: Command) -> None:
    answer = convatlas("recipes", "vgg-cifar10")
    printed = tomllib.loads(answer.out)
    assert printed.pop("task") == "classify"
    assert parse_recipe(printed, "printed", ClassificationRecipe) == load_recipe("vgg-cifar10")
