"""A recipe says how a network is trained: a frozen, validated value that is written to TOML and kept in every run.

What every task means by a training is in `Recipe`; what only one of them means is beside it, in the same flat table.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from convatlas.data.augmentation import Augmentation
from convatlas.data.preprocessing import Normalization
from convatlas.errors import RecipeError, shortened, unknown_name

Share = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, lt=0.5)]
Positive = Annotated[float, Field(gt=0)]

DURATIONS = ("epochs", "steps", "time_budget")


TaskName = Literal["classify", "reconstruct", "reconstruct_images"]


class Recipe(BaseModel):
    """What decides a training besides the network, the data and what the task adds.

    Exactly one of ``epochs``, ``steps`` and ``time_budget`` (seconds) says how long.

    >>> recipe = load_recipe("vgg-bn").updated(epochs=2, learning_rate=0.05)
    >>> (recipe.optimizer, recipe.epochs, recipe.learning_rate)
    ('sgd', 2, 0.05)

    Raises:
        RecipeError: a setting that does not exist, is out of range or contradicts another, in one line.
    """

    task: ClassVar[TaskName]  # of the recipes of one task
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "custom"
    about: str = ""

    epochs: Annotated[int, Field(ge=1)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    time_budget: Positive | None = None
    batch_size: Annotated[int, Field(ge=1)] = 128
    patience: Annotated[int, Field(ge=1)] | None = None  # validations without improvement before an early stop

    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0, le=1000)]
    momentum: Share = 0.9  # SGD and RMSprop
    nesterov: bool = False  # SGD
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    weight_decay_skips: tuple[Literal["bias", "norm"], ...] = ("bias", "norm")

    schedule: Literal["constant", "steps", "cosine", "linear", "one_cycle"] = "constant"
    warmup: Share = 0.0  # share of the training in which the learning rate rises
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()  # epochs from which the factor beside it holds
    factors: tuple[Positive, ...] = ()

    clip_norm: Positive | None = None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None

    initialization: str | None = None  # None: the network's own
    initialization_std: Positive | None = None
    validation_fraction: Fraction = 0.1  # of the training data, where none are given

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="before")
    @classmethod
    def _is_of_a_task(cls, content: Any) -> Any:
        if not hasattr(cls, "task"):
            raise ValueError(
                f"{cls.__name__} is what tasks share; make a ClassificationRecipe or a ReconstructionRecipe"
            )
        return content

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [duration for duration in DURATIONS if getattr(self, duration) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(DURATIONS)}; received {' and '.join(given) or 'none'}")
        if len(self.milestones) != len(self.factors):
            raise ValueError(f"{len(self.milestones)} milestones need as many factors; received {len(self.factors)}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise; received {list(self.milestones)}")
        if bool(self.milestones) != (self.schedule == "steps"):
            raise ValueError("milestones and factors go with schedule = 'steps'")
        if self.initialization_std is not None and self.initialization != "normal":
            raise ValueError("initialization_std goes with initialization = 'normal'")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs optimizer = 'sgd' and a momentum above 0")
        return self

    def updated(self, **changes: Any) -> Self:
        """The same recipe with some settings changed; naming one duration replaces the others.

        An optimizer that has no Nesterov momentum drops it, unless it is asked for, which is an error.
        """
        content = self.model_dump()
        if changes.get("optimizer", self.optimizer) != "sgd" or changes.get("momentum", self.momentum) == 0:
            content["nesterov"] = False
        if any(changes.get(duration) is not None for duration in DURATIONS):
            content |= dict.fromkeys(DURATIONS)
        return parse_recipe(content | changes, f"recipe {self.name!r}", type(self))

    def dropped_from(self, former: Recipe) -> str | None:
        """A line on the momentum that a changed recipe dropped with its optimizer; None where it dropped none.

        >>> former = load_recipe("vgg-bn")
        >>> former.updated(optimizer="adam", learning_rate=1e-3).dropped_from(former)
        'nesterov is left out: it is of SGD with momentum'
        """
        if not former.nesterov or self.nesterov:
            return None
        line = "nesterov is left out: it is of SGD with momentum"
        if self.optimizer == former.optimizer or self.learning_rate != former.learning_rate:
            return line
        return f"{line}. The learning rate stays at {self.learning_rate:g}, which was chosen for {former.optimizer}"

    def to_toml(self) -> str:
        """The recipe as a TOML document that ``load_recipe`` reads back to an equal recipe."""
        import tomli_w

        return tomli_w.dumps({"task": self.task} | self.model_dump(mode="json", exclude_none=True))


class ClassificationRecipe(Recipe):
    """How a classifier of images is trained."""

    task: ClassVar[TaskName] = "classify"

    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    label_smoothing: Share = 0.0
    normalization: Normalization = "standardize"
    augmentation: tuple[Augmentation, ...] = ()
    freeze: str = "none"  # layers that do not learn: "none", "features" (all but the output), "until:TAP"
    freeze_batch_norm: bool = False  # batch normalisation keeps the statistics it came with, where it learns too
    head_rate: Positive = 1.0  # times the learning rate, for the output layer
    layer_rates: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the first layer, as a share of the last before the head
    head_start: Literal["random", "probe"] = "random"  # probe: fitted to the training images before the first step
    class_weights: Literal["none", "balanced"] = "none"  # balanced: rare classes count as much as frequent ones
    memory_efficient: bool = False  # compute some of a DenseNet's maps twice instead of keeping them

    @model_validator(mode="after")
    def _loss_fits(self) -> Self:
        if self.label_smoothing and self.loss != "cross_entropy":
            raise ValueError("label_smoothing goes with loss = 'cross_entropy'")
        if self.class_weights != "none" and self.loss != "cross_entropy":
            raise ValueError("class_weights go with loss = 'cross_entropy'")
        if self.freeze not in ("none", "features") and not re.fullmatch(r"until:\s*\S+", self.freeze):
            raise ValueError(f"freeze is none, features or until:TAP; received {shortened(self.freeze)!r}")
        return self


class AutoencoderRecipe(Recipe):
    """What the trainings of all autoencoders share: how what is normal is divided.

    Of the normal rows or images, ``validation_fraction`` say when to stop, ``calibration_fraction`` set the threshold
    and ``test_fraction`` are shown once, at the end; the others are learnt from.
    """

    calibration_fraction: Fraction = 0.2
    test_fraction: Fraction = 0.2
    fit_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of those to learn from, that are used

    @model_validator(mode="after")
    def _some_are_left(self) -> Self:
        if self.validation_fraction + self.calibration_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction, calibration_fraction and test_fraction leave nothing to learn from")
        return self


class ReconstructionRecipe(AutoencoderRecipe):
    """How an autoencoder is trained on the rows of a table."""

    task: ClassVar[TaskName] = "reconstruct"

    scaling: Literal["none", "standard", "robust"] = "standard"


class ImageReconstructionRecipe(AutoencoderRecipe):
    """How an autoencoder is trained on good images."""

    task: ClassVar[TaskName] = "reconstruct_images"

    normalization: Normalization = "standardize"


TASK_RECIPES: tuple[type[Recipe], ...] = (ClassificationRecipe, ReconstructionRecipe, ImageReconstructionRecipe)
RECIPES: Mapping[str, type[Recipe]] = {kind.task: kind for kind in TASK_RECIPES}
Kind = TypeVar("Kind", bound=Recipe)


def parse_recipe(content: Mapping[str, Any], where: str, kind: type[Kind]) -> Kind:
    """A recipe of one task from plain values; ``where`` names their origin in error messages."""
    for key in content:
        if key not in kind.model_fields:
            raise RecipeError(f"{where}: {_unknown_setting(key, kind)}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_first_complaint(error)}") from error


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A shipped recipe by name, or one from a ``.toml`` or ``.json`` file; of the task that its ``task`` names.

    >>> load_recipe("vgg10-cifar100").learning_rate
    0.0001

    Raises:
        UnknownNameError: neither a shipped recipe nor a file.
        RecipeError: the file is not TOML/JSON, or not a valid recipe.
    """
    path = Path(name_or_path)
    if path.suffix in {".toml", ".json"}:
        return _read_recipe(path)
    if str(name_or_path) not in list_recipes():
        raise unknown_name("recipe", str(name_or_path), list_recipes(), see="convatlas recipes")
    text = (_shipped() / f"{name_or_path}.toml").read_text(encoding="utf-8")
    return _recipe_of({"name": str(name_or_path)} | tomllib.loads(text), where=f"recipe {str(name_or_path)!r}")


def recipe_for(recipe: str | Path | Recipe, kind: type[Kind]) -> Kind:
    """A recipe, or the one ``load_recipe`` finds, where the task is settled.

    Raises:
        UnknownNameError, RecipeError: as ``load_recipe``; or it is a recipe of another task.
    """
    found = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if not isinstance(found, kind):
        raise RecipeError(
            f"the recipe {found.name!r} is for the task {found.task}, and this network's task is {kind.task}"
        )
    return found


def default_recipe(name: str, *, mirror: bool) -> ClassificationRecipe:
    """A shipped recipe for a set of images; without flips where a mirrored image would be another class.

    >>> [step.kind for step in default_recipe("vgg-bn", mirror=False).augmentation]
    ['shift']
    """
    recipe = recipe_for(name, ClassificationRecipe)
    if mirror:
        return recipe
    return recipe.model_copy(
        update={"augmentation": tuple(step for step in recipe.augmentation if step.kind != "flip")}
    )


def list_recipes() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(Path(entry.name).stem for entry in _shipped().iterdir() if entry.name.endswith(".toml"))


def parse_settings(assignments: list[str]) -> dict[str, Any]:
    """Settings from ``key=value`` texts as typed after ``--set``; a value is read as TOML, else taken as text.

    >>> parse_settings(["learning_rate=0.1", "schedule=cosine", "augmentation=[]"])
    {'learning_rate': 0.1, 'schedule': 'cosine', 'augmentation': []}
    """
    settings = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise RecipeError(f"--set takes key=value; received {assignment!r}")
        settings[key.strip()] = _toml_value(text.strip())
    return settings


def _toml_value(text: str) -> Any:
    if text == "none":  # TOML has no null; this switches a setting off
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _read_recipe(path: Path) -> Recipe:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
    except ValueError as error:  # both decoders' errors are ValueErrors
        raise RecipeError(f"{path} is not valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must hold a table of settings; received a {type(content).__name__}")
    return _recipe_of({"name": path.stem} | content, where=str(path))


def _recipe_of(content: dict[str, Any], where: str) -> Recipe:
    task = content.pop("task", "classify")
    if not isinstance(task, str) or task not in RECIPES:
        raise RecipeError(f"{where}: {unknown_name('task', str(task), RECIPES)}")
    return parse_recipe(content, where, RECIPES[task])


# What other libraries call a setting.
ELSEWHERE = {
    "lr": "learning_rate",
    "batch": "batch_size",
    "bs": "batch_size",
    "wd": "weight_decay",
    "optim": "optimizer",
    "scheduler": "schedule",
    "amp": "precision",
}


def _unknown_setting(key: str, kind: type[Recipe]) -> str:
    if ELSEWHERE.get(key) in kind.model_fields:
        return f"there is no setting named {key!r}; it is called {ELSEWHERE[key]} here"
    others = [task for task, other in RECIPES.items() if key in other.model_fields]
    if others:
        return f"{key} is a setting of the task {others[0]}, and has no meaning for {kind.task}: leave it out"
    return str(unknown_name("setting", key, kind.model_fields))


def _shipped() -> resources.abc.Traversable:
    return resources.files("convatlas.training") / "recipes"


def _first_complaint(error: ValidationError) -> str:
    complaint = error.errors()[0]
    place = ".".join(str(part) for part in complaint["loc"])
    message = complaint["msg"].removeprefix("Value error, ")
    return f"{place}: {message}; received {shortened(repr(complaint['input']))}" if place else message
