from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.errors import RecipeError, UnknownNameError
from convatlas.training.recipe import ClassificationRecipe, list_recipes, load_recipe, parse_recipe, parse_settings


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_survives_toml(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.about
    path = tmp_path / "copy.toml"
    path.write_text(recipe.to_toml(), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_json_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"epochs": 3, "learning_rate": 0.5}), encoding="utf-8")
    assert load_recipe(path) == ClassificationRecipe(name="mine", epochs=3, learning_rate=0.5)


@given(
    epochs=st.integers(1, 1000),
    learning_rate=st.floats(1e-8, 10),
    weight_decay=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    label_smoothing=st.floats(0, 0.99),
)
def test_any_recipe_is_equal_after_a_json_round_trip(**values: Any) -> None:
    recipe = ClassificationRecipe(**values)
    assert parse_recipe(json.loads(recipe.model_dump_json()), "test", ClassificationRecipe) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lerning_rate": 1}, "no setting named 'lerning_rate'; did you mean learning_rate"),
        ({"learning_rate": 0}, "learning_rate: .*greater than 0; received 0"),
        ({"learning_rate": "fast"}, "learning_rate: .*received 'fast'"),
        ({"optimizer": "lion"}, "optimizer: .*received 'lion'"),
        ({"epochs": 2, "steps": 5}, "exactly one of epochs, steps, time_budget; received epochs and steps"),
        ({"milestones": [3], "factors": [0.1, 0.2], "schedule": "steps"}, "1 milestones need as many factors"),
        ({"milestones": [3, 2], "factors": [0.1, 0.2], "schedule": "steps"}, "milestones must rise"),
        ({"schedule": "steps"}, "go with schedule"),
        ({"nesterov": True, "optimizer": "adam"}, "nesterov needs"),
        ({"augmentation": [{"kind": "flipp"}]}, "augmentation"),
        ({"normalization": "imagenett"}, "normalization"),
        ({"learning_rate": float("nan")}, "learning_rate"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe("lenet").updated(**changes)
    assert "\n" not in str(caught.value)


def test_a_duration_replaces_the_others() -> None:
    recipe = load_recipe("lenet").updated(time_budget=60)
    assert (recipe.epochs, recipe.steps, recipe.time_budget) == (None, None, 60)


def test_an_unknown_recipe_names_its_neighbours() -> None:
    with pytest.raises(UnknownNameError, match="did you mean vgg-bn"):
        load_recipe("vgg_bn")


@pytest.mark.parametrize(("text", "name"), [("epochs = [", "bad.toml"), ("{", "bad.json"), ("[1]", "list.json")])
def test_a_broken_recipe_file_is_named(text: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(RecipeError, match=name):
        load_recipe(path)
    with pytest.raises(RecipeError, match="No such file"):
        load_recipe(tmp_path / "absent.toml")


def test_settings_are_read_as_toml_and_else_as_text() -> None:
    assert parse_settings(["a=1", "b = 0.5", "c=cosine", "d=true", 'e=["x"]', "f=none"]) == {
        "a": 1,
        "b": 0.5,
        "c": "cosine",
        "d": True,
        "e": ["x"],
        "f": None,
    }
    with pytest.raises(RecipeError, match="--set takes key=value; received 'epochs'"):
        parse_settings(["epochs"])


def test_the_faithful_recipes_hold_their_sources_figures() -> None:
    vgg10 = load_recipe("vgg10-cifar100")
    assert (vgg10.batch_size, vgg10.optimizer, vgg10.learning_rate, vgg10.epochs) == (64, "adam", 1e-4, 5)
    assert (vgg10.normalization, vgg10.augmentation) == ("unit", ())

    cnn5 = load_recipe("cnn5-cifar10")
    assert (cnn5.initialization, cnn5.learning_rate, cnn5.epochs, cnn5.batch_size) == ("zeros", 1e-3, 20, 128)

    vgg11 = load_recipe("vgg11-mnist")
    assert (vgg11.steps, vgg11.batch_size, vgg11.learning_rate) == (20_000, 10, 1e-3)

    vgg = load_recipe("vgg-cifar10")
    assert (vgg.optimizer, vgg.momentum, vgg.nesterov, vgg.batch_size, vgg.epochs) == ("sgd", 0.9, True, 128, 200)
    rates = [vgg.learning_rate] + [vgg.learning_rate * factor for factor in vgg.factors]
    assert rates == pytest.approx([0.01, 0.005, 0.001])
    assert vgg.milestones == (80, 140)
    assert vgg.weight_decay == 2 * 1e-4  # Keras adds 1e-4 w^2 to the loss; the gradient of that is 2e-4 w
    assert (vgg.initialization, vgg.normalization) == ("he_normal", "mean")
