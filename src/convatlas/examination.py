"""Looking into networks before training: form, cost and memory; time; several beside each other.

Between api and the rooms, as ``assessment`` is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from torch import nn

from convatlas.acceleration import Engine
from convatlas.errors import InspectionError, unknown_name
from convatlas.inspection import Inspection, inspect_module
from convatlas.inspection.layers import longest_path_depth
from convatlas.models import Autoencoder, find_entry
from convatlas.models.registry import ModelEntry, Published
from convatlas.speed import (
    Progress,
    Speed,
    TrainingTime,
    mean_objective,
    measure_autoencoder_training,
    measure_speed,
    measure_training,
)
from convatlas.subjects import Subject, open_subject
from convatlas.training.optimizers import build_optimizer
from convatlas.training.recipe import ClassificationRecipe, Recipe, ReconstructionRecipe

if TYPE_CHECKING:
    from convatlas.inspection.memory import MemoryPlan, Precision

USUAL_IMAGES = 50_000  # of a training set where none is named: CIFAR-10 has as many
OPTIMIZERS = get_args(ClassificationRecipe.model_fields["optimizer"].annotation)

# How a module is trained of which nothing is known: by SGD; and an autoencoder: by Adam.
UNNAMED = ClassificationRecipe(learning_rate=0.1, batch_size=32, epochs=1)
UNNAMED_AUTOENCODER = ReconstructionRecipe(learning_rate=1e-3, batch_size=64, optimizer="adam", epochs=1)


@dataclass(frozen=True)
class Comparison:
    """One network beside others."""

    name: str
    family: str
    image_size: int | None  # None: it is shown rows
    columns: int | None  # of them; None: it is shown images
    parameters: int  # that a prediction uses
    macs: int | None
    depth: int
    receptive_field: tuple[int, int] | None  # of the last feature map
    memory: MemoryPlan | None  # None: batches of this size cannot be planned
    batch_size: int
    published: Published | None
    speed: Speed | None  # None: not measured


def inspect_subject(
    subject: Subject,
    *,
    batch_size: int | None = None,
    optimizer: str | None = None,
    precision: Precision = "float32",
    memory_limit: int | None = None,
) -> Inspection:
    """Form and cost of a subject for one image or row, and what a batch takes.

    Args:
        subject: what is looked into.
        batch_size: images or rows in a training batch; its recipe's when left out.
        optimizer: the name of another one than its recipe's.
        precision: in which the batch is computed.
        memory_limit: find the largest batch that can be trained in so many bytes.

    Raises:
        InspectionError: it cannot run on its example.
        UnknownNameError: no such optimizer.
    """
    recipe = _recipe(subject, batch_size, optimizer)
    inspection = inspect_module(subject.module, *subject.inputs, name=subject.name, taps=subject.taps)
    plan = _plan(subject, recipe, precision)
    if plan is None:
        return replace(inspection, why_no_memory=f"{subject.name} is not called with images [N, C, H, W] alone")
    try:
        memory = plan(recipe.batch_size)
    except InspectionError as error:  # the rest is known all the same
        return replace(inspection, why_no_memory=str(error))
    largest = None
    if memory_limit is not None:
        from convatlas.inspection.memory import largest_batch

        normalized = any(isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d) for each in subject.module.modules())
        least = 2 if normalized else 1  # batch normalisation learns nothing from one image
        largest = largest_batch(memory_limit, lambda size: plan(size).training_peak_bytes, least=least)
    return replace(inspection, memory=memory, memory_limit=memory_limit, largest_batch=largest)


def time_training(
    subject: Subject,
    *,
    images: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    engine: Engine = "auto",
    watch: Progress | None = None,
) -> TrainingTime:
    """Take a few steps of a subject's training on this machine, and reckon what the whole would take.

    Args:
        subject: what would be trained, by its recipe.
        images: in the training set, or rows; those of a run, or else 50,000, when left out.
        batch_size, optimizer: others than its recipe's.
        engine: "torch" for PyTorch alone.
        watch: told after each step.

    Raises:
        InspectionError: it is not shown square images, or does not answer with classes.
    """
    recipe = _recipe(subject, batch_size, optimizer)
    epochs = subject.recipe.epochs if subject.recipe is not None else None
    examples = images or subject.images or USUAL_IMAGES
    network = subject.network()
    if isinstance(network, Autoencoder):
        return measure_autoencoder_training(network, recipe, examples=examples, epochs=epochs, watch=watch)
    if not isinstance(recipe, ClassificationRecipe):
        raise InspectionError(f"{subject.name} is no autoencoder, and its recipe is for one")
    shape = subject.image_batch(1)
    outputs = inspect_module(subject.module, *subject.inputs).output_shapes
    if len(outputs) != 1 or len(outputs[0]) != 2:
        given = " and ".join(map(str, outputs)) or "nothing"
        raise InspectionError(f"{subject.name} gives {given}, not [N, classes]: how it is trained is not known")
    return measure_training(
        network,
        shape,
        recipe,
        classes=outputs[0][1],
        images=examples,
        epochs=epochs,
        engine=engine,
        watch=watch,
    )


def compare_models(
    names: Sequence[str],
    *,
    image_size: int | None = None,
    columns: int | None = None,
    batch_size: int = 32,
    batches: int | None = 100,
    engine: Engine = "auto",
    watch: Progress | None = None,
) -> Iterator[Comparison]:
    """Networks beside each other, each at its own image size unless one is given; one after another.

    >>> [each.depth for each in compare_models(["vgg11_bn_cifar", "resnet20"], batches=None)]
    [9, 20]

    Args:
        names: registered networks.
        image_size: of all of them, which are classifiers then.
        columns: of the rows of all of them, which are autoencoders then.
        batch_size: of the memory's plan and of the timed batches.
        batches: how many are timed, forward and forward with backward; None measures no speed.
        engine: "torch" for PyTorch alone.
        watch: told after each batch.

    Raises:
        UnknownNameError, ImageSizeError: as ``create_model``, before anything is measured.
        InspectionError: an image size for an autoencoder, or columns for a classifier.
    """
    entries = [find_entry(name) for name in dict.fromkeys(names)]  # runs and files are not compared: a mistake is told
    subjects = [open_subject(entry.name, image_size=image_size, columns=columns) for entry in entries]
    yield from (_compared(subject, batch_size, batches, engine, watch) for subject in subjects)


def _compared(
    subject: Subject, batch_size: int, batches: int | None, engine: Engine, watch: Progress | None
) -> Comparison:
    inspection = inspect_subject(subject, batch_size=batch_size)
    entry = find_entry(subject.name)
    speed = None
    if batches is not None:
        told = None if watch is None else lambda what, done, total: watch(f"{subject.name} {what}", done, total)
        shape = subject.batch(batch_size)
        speed = measure_speed(subject.network(), shape, engine=engine, batches=batches, watch=told)
    return Comparison(
        name=subject.name,
        family=entry.family,
        image_size=None if subject.is_of_rows else subject.shape[-1],
        columns=subject.shape[-1] if subject.is_of_rows else None,
        parameters=inspection.parameters - sum(inspection.unused.values()),
        macs=inspection.macs,
        depth=longest_path_depth(inspection.layers),
        receptive_field=_field_of_last_map(inspection),
        memory=inspection.memory,
        batch_size=batch_size,
        published=entry.published if isinstance(entry, ModelEntry) else None,
        speed=speed,
    )


def _field_of_last_map(inspection: Inspection) -> tuple[int, int] | None:
    """The receptive field of the last map that has several positions: what is averaged, or read by dense layers."""
    maps = [layer for layer in inspection.layers if len(layer.output_shape) == 4 and min(layer.output_shape[2:]) > 1]
    window = maps[-1].receptive_field if maps else None
    return window.size if window is not None else None


def _recipe(subject: Subject, batch_size: int | None, optimizer: str | None) -> Recipe:
    if batch_size is not None and batch_size < 1:
        raise InspectionError(
            f"a batch has at least one {'row' if subject.is_of_rows else 'image'}; received {batch_size}"
        )
    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", optimizer, OPTIMIZERS)
    changes = {"batch_size": batch_size, "optimizer": optimizer}
    wanted: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    return (subject.recipe or (UNNAMED_AUTOENCODER if subject.is_autoencoder else UNNAMED)).updated(**wanted)


def _plan(subject: Subject, recipe: Recipe, precision: Precision) -> Callable[[int], MemoryPlan] | None:
    """What a batch of a size takes; None for a module that is called neither with images alone nor with rows."""
    if not subject.is_of_rows and (len(subject.inputs) != 1 or len(subject.shape) != 4):
        return None
    from convatlas.inspection.memory import plan_memory

    def plan(size: int) -> MemoryPlan:
        return plan_memory(
            subject.module,
            subject.batch(size),
            optimizer=partial(build_optimizer, recipe=recipe),
            precision=precision,
            layout="contiguous" if subject.is_of_rows else "channels_last",
            loss=mean_objective if subject.is_autoencoder else None,
        )

    return plan
