"""What a person looks into, a network, a run or a module of their own: as a module and what it is called with."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from convatlas.errors import InspectionError, RunError
from convatlas.models import (
    Autoencoder,
    AutoencoderEntry,
    Classifier,
    ImageAutoencoderEntry,
    RowAutoencoder,
    create_autoencoder,
    create_image_autoencoder,
    create_model,
    find_entry,
    list_models,
    outline_autoencoder,
    outline_image_autoencoder,
    outline_model,
)
from convatlas.models.contract import blank_input
from convatlas.models.own import usual_sizes
from convatlas.training.recipe import (
    ClassificationRecipe,
    ImageReconstructionRecipe,
    Recipe,
    ReconstructionRecipe,
    default_recipe,
    parse_recipe,
    recipe_for,
)

if TYPE_CHECKING:
    from convatlas.runs import ImageAutoencoderRun, Run

PICTURE = (3, 224, 224)  # what a module of which nothing else is known is shown


@dataclass(frozen=True)
class Subject:
    """A module, an example of what it is called with, and how it is trained where that is known."""

    name: str
    module: nn.Module  # of ours: without memory for its weights
    inputs: tuple[Any, ...]
    taps: Mapping[str, str]  # paper's name of a layer -> path of its module
    recipe: Recipe | None
    network: Callable[[], nn.Module]  # the same with numbers in its weights
    images: int | None = None  # or rows: that it is trained on, where that is known

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, C, H, W] of the first input, where it is images; [n, columns] where it is rows."""
        return tuple(self.inputs[0].shape)

    @property
    def is_of_rows(self) -> bool:
        """Whether it is shown rows [n, columns], as an autoencoder of them is."""
        return isinstance(self.module, RowAutoencoder)

    @property
    def is_autoencoder(self) -> bool:
        """Whether it learns to give back what it is shown."""
        return isinstance(self.module, Autoencoder)

    def batch(self, size: int) -> tuple[int, ...]:
        """The shape of a batch of what it is shown, images or rows.

        Raises:
            InspectionError: it is called with neither.
        """
        return (size, *self.shape[1:]) if self.is_of_rows else self.image_batch(size)

    def image_batch(self, size: int) -> tuple[int, int, int, int]:
        """The shape of a batch of its images.

        Raises:
            InspectionError: it is not called with images.
        """
        if len(self.inputs) != 1 or len(self.shape) != 4:
            raise InspectionError(
                f"{self.name} is not called with images [N, C, H, W] alone, so there are no batches of them"
            )
        return (size, *self.shape[1:])


def open_subject(
    what: str | Path | nn.Module | Run,
    example: torch.Tensor | Sequence[Any] | None = None,
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
    columns: int | None = None,
) -> Subject:
    """Find what is to be looked into.

    >>> open_subject("vgg16", image_size=64).shape
    (1, 3, 64, 64)
    >>> open_subject("autoencoder_deep", columns=12).shape
    (1, 12)

    Args:
        what: a registered network, a run, "path.py:factory", where calling ``factory`` gives a module, or a pair of a
            module and an example of its input; or a module itself. The function is told ``num_classes``,
            ``in_channels`` and ``image_size`` where it takes them, by their defaults or 10, 3 and 224.
        example: a tensor, several for a module that takes several, or the shape of one image: (3, 224, 224).
        image_size, num_classes: of a registered network for images; its own when left out.
        columns: of the rows of a registered autoencoder; its own when left out.

    Raises:
        UnknownNameError, ImageSizeError, ConvatlasError: as ``create_model`` and ``create_autoencoder``.
        RunError: a directory that is no run.
        InspectionError: a file that gives no module, an example that cannot be one, or a choice that the subject does
            not leave.
    """
    text = what if isinstance(what, str) else ""
    if text in list_models(task=None):
        _refuse(text, "a network by name", example=example)
        return _registered(text, image_size=image_size, num_classes=num_classes, columns=columns)
    chosen = {"image_size": image_size, "num_classes": num_classes, "columns": columns}
    _refuse(text or type(what).__name__, "what is no network by name", **chosen)
    if isinstance(what, nn.Module):
        return _of_module(type(what).__name__, what, example)
    path, _, factory = text.rpartition(":")
    if path.endswith(".py") and not Path(text).is_dir():  # a run may be named so, and brings a file of that name
        return _of_factory(Path(path), factory, example)
    _refuse(text or type(what).__name__, "a run, whose card says it", example=example)
    return _of_run(_opened(what))


def _opened(what: str | Path | Run) -> Run:
    from convatlas.runs import Run

    if isinstance(what, Run):
        return what
    text = str(what)
    if text.endswith(".py"):
        raise InspectionError(f"{text} may hold several modules; name the function that makes one: {text}:FUNCTION")
    if Path(text).exists() or "/" in text:
        return Run.open(text)
    try:
        return Run.open(text)  # by its name under runs/
    except RunError:
        find_entry(text)  # raises: no such network, with the nearest names
        raise


def example_input(example: torch.Tensor | Sequence[Any] | None) -> tuple[Any, ...]:
    """What a module is called with, from a tensor, several, or the shape of one image or of a batch.

    >>> [tuple(each.shape) for each in example_input((1, 28, 28))]
    [(1, 1, 28, 28)]

    Raises:
        InspectionError: none of these.
    """
    if example is None:
        example = PICTURE
    if isinstance(example, torch.Tensor):
        return (example,)
    given = tuple(example) if isinstance(example, list | tuple) else ()
    if given and all(isinstance(each, torch.Tensor) for each in given):
        return given
    if given and all(isinstance(each, int) and each > 0 for each in given):
        return (torch.zeros((1, *given) if len(given) == len(PICTURE) else given),)
    raise InspectionError(
        f"an example of the input is a tensor, several tensors or a shape such as (3, 224, 224); received "
        f"{example if isinstance(example, list | tuple) else type(example).__name__}"
    )


def _refuse(name: str, kind: str, **given: object) -> None:
    for what, value in given.items():
        if value is not None:
            raise InspectionError(f"{what} cannot be chosen for {kind}: leave it out; received {what} for {name}")


def _registered(name: str, *, image_size: int | None, num_classes: int | None, columns: int | None) -> Subject:
    entry = find_entry(name)
    if isinstance(entry, AutoencoderEntry):
        _refuse(name, "an autoencoder of rows", image_size=image_size, num_classes=num_classes)
        return _registered_autoencoder(entry, columns)
    if isinstance(entry, ImageAutoencoderEntry):
        _refuse(name, "an autoencoder of images", num_classes=num_classes, columns=columns)
        return _registered_image_autoencoder(entry, image_size)
    _refuse(name, "a classifier of images", columns=columns)
    model = outline_model(name, image_size=image_size, num_classes=num_classes)
    recipe = default_recipe(entry.recipe, mirror=True)
    build = partial(create_model, name, image_size=image_size, num_classes=num_classes, seed=recipe.seed)
    return _of_network(name, model, recipe, build)


def _registered_autoencoder(entry: AutoencoderEntry, columns: int | None) -> Subject:
    recipe = recipe_for(entry.recipe, ReconstructionRecipe)
    build = partial(create_autoencoder, entry.name, columns=columns, seed=recipe.seed)
    return _of_network(entry.name, outline_autoencoder(entry.name, columns=columns), recipe, build)


def _registered_image_autoencoder(entry: ImageAutoencoderEntry, image_size: int | None) -> Subject:
    recipe = recipe_for(entry.recipe, ImageReconstructionRecipe)
    build = partial(create_image_autoencoder, entry.name, image_size=image_size, seed=recipe.seed)
    return _of_network(entry.name, outline_image_autoencoder(entry.name, image_size=image_size), recipe, build)


def _of_run(run: Run) -> Subject:
    from convatlas.runs import AutoencoderRun, ClassifierRun, ImageAutoencoderRun

    where = str(run.path / "card.json")
    if isinstance(run, AutoencoderRun):
        rows, card = run.card.data.counts, run.card.model
        outline = outline_autoencoder(card.name, columns=card.columns, **card.settings)
        recipe: Recipe = parse_recipe(run.card.recipe, where, ReconstructionRecipe)
        return replace(_of_network(card.name, outline, recipe, run.model), images=rows.get("fit"))
    if isinstance(run, ImageAutoencoderRun):
        return _of_image_run(run, where)
    if not isinstance(run, ClassifierRun):
        raise InspectionError(f"{run.path} is of the task {run.card.task}, whose networks cannot be looked into")
    recipe = parse_recipe(run.card.recipe, where, ClassificationRecipe)
    subject = _of_network(run.card.model.name, run.outline(), recipe, run.model)
    return replace(subject, images=run.card.data.counts["train"])


def _of_image_run(run: ImageAutoencoderRun, where: str) -> Subject:
    card = run.card.model
    outline = outline_image_autoencoder(
        card.name, in_channels=card.in_channels, image_size=card.image_size, **card.settings
    )
    recipe = parse_recipe(run.card.recipe, where, ImageReconstructionRecipe)
    return replace(_of_network(card.name, outline, recipe, run.model), images=run.card.data.counts.get("fit"))


def _of_network(name: str, model: Classifier | Autoencoder, recipe: Recipe, build: Callable[[], nn.Module]) -> Subject:
    return Subject(name, model, (blank_input(model, "meta"),), _taps(model), recipe, build)


def _taps(module: nn.Module) -> dict[str, str]:
    if not isinstance(module, Classifier | Autoencoder):
        return {}
    return {tap: where.module for tap, where in module.taps.items()}


def _of_module(name: str, module: nn.Module, example: torch.Tensor | Sequence[Any] | None) -> Subject:
    if example is None and isinstance(module, Classifier | Autoencoder):
        example = blank_input(module)
    like = next((tensor for tensor in module.parameters() if tensor.is_floating_point()), torch.empty(0))
    inputs = tuple(_placed(each, like) for each in example_input(example))
    return Subject(name, module, inputs, _taps(module), None, lambda: module)


def _placed(example: Any, like: torch.Tensor) -> Any:
    """An example where the module's weights are; one of floating-point numbers in their precision."""
    if not isinstance(example, torch.Tensor):
        return example
    return example.to(like.device, like.dtype) if example.is_floating_point() else example.to(like.device)


def _of_factory(path: Path, factory: str, example: torch.Tensor | Sequence[Any] | None) -> Subject:
    made = _called(path, factory)
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        made, own_example = made
        example = own_example if example is None else example
    if not isinstance(made, nn.Module):
        raise InspectionError(
            f"{path}:{factory} gives a {type(made).__name__}, not an nn.Module. Name a function that returns one, "
            "told at most num_classes, in_channels and image_size, or a pair of one and an example of its input"
        )
    return _of_module(factory, made, example)


def _picture_of(sizes: Mapping[str, int]) -> tuple[int, int, int]:
    """The shape of an image for a module that was made for these sizes."""
    channels, height, width = PICTURE
    return sizes.get("in_channels", channels), sizes.get("image_size", height), sizes.get("image_size", width)


def _called(path: Path, factory: str) -> Any:
    if not path.is_file():
        raise InspectionError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InspectionError(f"{path} is not a Python file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses look there for the names in their annotations
    sys.path.insert(0, str(path.parent.resolve()))  # as if the file were run: what lies beside it can be imported
    try:
        spec.loader.exec_module(loaded)
        make = getattr(loaded, factory)
        if isinstance(make, nn.Module):
            return make
        sizes = usual_sizes(make)
        made = make(**sizes)
        return (made, _picture_of(sizes)) if sizes and isinstance(made, nn.Module) else made
    except (Exception, SystemExit) as error:  # a script that ends itself must not end this one
        reason = " ".join(str(error).split())
        raise InspectionError(f"{path}:{factory} cannot be called: {type(error).__name__}: {reason}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
