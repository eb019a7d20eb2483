"""How fast a network is on this machine: measured, with what convatlas would run it with.

Between api and the rooms, as ``assessment`` is: measuring a training takes data, training and the engine together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from convatlas.acceleration import Acceleration, Engine, EngineCard, running, settle, settle_steps
from convatlas.data.batches import Batches
from convatlas.data.dataset import ImageArray
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import InspectionError
from convatlas.inspection.timing import Timing, time_calls
from convatlas.models import Autoencoder, ReconstructionOutput, RowAutoencoder
from convatlas.tasks.classify.task import Classification
from convatlas.tasks.contract import Batch
from convatlas.tasks.contract import Batches as AnyBatches
from convatlas.training.learner import Learner, needs_autograd, needs_torch
from convatlas.training.recipe import ClassificationRecipe, Recipe

Progress = Callable[[str, int, int], None]  # what is timed, calls made, calls in all

WARM_UP = 10  # batches before the timed ones, as in the benchmark of source S2
TIMED = 100
STEPS_TO_WARM_UP = 2
STEPS_TIMED = 20
SECONDS_OF_STEPS = 30.0  # what an estimate may take; two steps are timed in any case


@dataclass(frozen=True)
class Speed:
    """Seconds of a batch, forward in evaluation, and forward and backward in training."""

    batch_size: int
    forward: Timing
    forward_backward: Timing
    engine: str  # what ran them, in words: forward; training


@dataclass(frozen=True)
class TrainingTime:
    """How long a training would take here, from a few steps of it."""

    step: Timing  # of a whole one: augmentation, forward, backward, optimiser
    batch_size: int
    images: int  # or rows: of an epoch
    epochs: int | None  # None: the recipe has another length
    engine: str
    shown: str = "images"  # what the network is shown: images, or rows

    @property
    def epoch_seconds(self) -> float:
        """A pass over the training images or rows, without validation."""
        return self.step.mean * math.ceil(self.images / self.batch_size)

    @property
    def seconds(self) -> float | None:
        """All epochs, where there is a number of them."""
        return self.epoch_seconds * self.epochs if self.epochs is not None else None

    @property
    def relative_error(self) -> float:
        """Standard deviation of a step, as a share of it: the whole is as wrong as that if the machine's load changes.

        It is not the standard error of the mean, which many equal steps make small and other work on the machine does
        not heed.
        """
        return self.step.deviation / self.step.mean


class Rows(NamedTuple):
    """A batch of rows that are to be rebuilt."""

    inputs: torch.Tensor
    targets: torch.Tensor
    global_size: int


def mean_objective(outputs: Any, rows: torch.Tensor) -> torch.Tensor:
    """What the training of an autoencoder makes smaller, for what it returns in training of rows [n, columns]."""
    from convatlas.tasks.reconstruct.task import Reconstruction

    task = Reconstruction(baseline=1.0)  # of which only a finding speaks
    return task.objective(outputs, Rows(rows, rows, len(rows))).objective / len(rows)


def measure_speed(
    network: nn.Module,
    shape: tuple[int, ...],
    *,
    engine: Engine = "auto",
    warm_up: int = WARM_UP,
    batches: int = TIMED,
    watch: Progress | None = None,
) -> Speed:
    """Time batches of noise through a network, which is left in evaluation mode.

    >>> measure_speed(create_model("lenet5"), (32, 1, 28, 28)).forward.mean  # doctest: +SKIP
    0.0011

    Args:
        network: one that gives logits, or an autoencoder, which PyTorch always runs.
        shape: of a batch, [N, C, H, W] or [n, columns].
        engine: "torch" for PyTorch alone.
        warm_up: batches that are not timed.
        batches: batches that are.
        watch: told after each batch.
    """
    noise = torch.randn(shape)
    inputs = noise if len(shape) == 2 else noise.to(memory_format=torch.channels_last)
    network = network.to(memory_format=torch.channels_last)
    evaluating = _settled(network.eval(), shape, engine)
    with torch.inference_mode():
        forward = time_calls(
            lambda: evaluating.module(inputs), warm_up=warm_up, calls=batches, watch=_named(watch, "forward")
        )
    training = _settled(network.train(), shape, engine)
    both = time_calls(
        lambda: _forward_backward(training.module, inputs),
        warm_up=warm_up,
        calls=batches,
        watch=_named(watch, "forward and backward"),
    )
    network.zero_grad(set_to_none=True)
    network.eval()
    return Speed(shape[0], forward, both, f"{evaluating.card.name}; {training.card.name}")


def measure_training(
    network: nn.Module,
    shape: tuple[int, int, int, int],
    recipe: ClassificationRecipe,
    *,
    classes: int,
    images: int,
    epochs: int | None,
    engine: Engine = "auto",
    watch: Progress | None = None,
) -> TrainingTime:
    """Take a few real steps of a training, on noise and with a copy of the network, and say how long all would take.

    Args:
        network: one that gives logits [N, classes].
        shape: of one image, [1, C, H, W].
        recipe: how it is trained.
        classes: how many the network tells apart.
        images: that an epoch has.
        epochs: how many there are; None where that is not known.
        engine: "torch" for PyTorch alone.
        watch: told after each step.

    Raises:
        InspectionError: images that are not square.
    """
    _, channels, side, width = shape
    if side != width:
        raise InspectionError(f"a training shows square images; received {side}x{width}")
    copy = deepcopy(network).train()
    batch_shape = (recipe.batch_size, channels, side, side)
    acceleration = settle(copy, batch_shape, engine, obstacle=needs_torch(recipe))
    task = Classification(tuple(map(str, range(classes))), recipe.loss, recipe.label_smoothing)
    learner = Learner(copy, task, recipe, acceleration.card, batch_shape)
    step = _timed_steps(learner, _noise(recipe, channels, side, classes), watch)
    return TrainingTime(step, recipe.batch_size, images, epochs, acceleration.card.name)


def measure_autoencoder_training(
    network: Autoencoder, recipe: Recipe, *, examples: int, epochs: int | None, watch: Progress | None = None
) -> TrainingTime:
    """Take a few real steps of an autoencoder's training, on noise and with a copy, and say how long all would take.

    Args:
        network: the autoencoder.
        recipe: how it is trained.
        examples: rows or images, that an epoch has.
        epochs: how many there are; None where that is not known.
        watch: told after each step.
    """
    from convatlas.tasks.reconstruct.task import Reconstruction
    from convatlas.training.feed import Feed

    copy = deepcopy(network).train()
    card = _autoencoder_engine(copy, recipe)
    shown = "rows" if isinstance(network, RowAutoencoder) else "images"
    learner = Learner(copy, Reconstruction(1.0, shown), recipe, card, (recipe.batch_size, *network.input_shape))
    noise = torch.randn(2 * recipe.batch_size, *network.input_shape, generator=torch.Generator().manual_seed(0))
    with running(card):
        step = _timed_steps(learner, Feed.of_rows(noise, noise, recipe).train, watch)
    return TrainingTime(step, recipe.batch_size, examples, epochs, card.name, shown=shown)


def _autoencoder_engine(network: Autoencoder, recipe: Recipe) -> EngineCard:
    if not isinstance(network, RowAutoencoder):
        return EngineCard()
    shape = (recipe.batch_size, network.columns)
    return settle_steps(network, shape, obstacle=needs_autograd(network, recipe)).card


def _timed_steps(learner: Learner, noise: AnyBatches, watch: Progress | None) -> Timing:
    learner.model.train()
    batches = _endless(noise)
    rate = learner.recipe.learning_rate / 1000  # the steps lead nowhere, and need not become infinite
    return time_calls(
        lambda: learner.step(next(batches), rate, 0, 0),
        warm_up=STEPS_TO_WARM_UP,
        calls=STEPS_TIMED,
        seconds=SECONDS_OF_STEPS,
        watch=_named(watch, "training steps"),
    )


def _settled(network: nn.Module, shape: tuple[int, ...], engine: Engine) -> Acceleration:
    """What runs a network; the engine has kernels for classifiers' layers alone."""
    return settle(network, shape, "torch" if isinstance(network, Autoencoder) else engine)


def _forward_backward(network: nn.Module, inputs: torch.Tensor) -> None:
    output = network(inputs)
    if isinstance(output, ReconstructionOutput):
        total = mean_objective(output, inputs)
    else:
        logits = [output] if isinstance(output, torch.Tensor) else [output.logits, *output.auxiliary]
        total = torch.stack([each.float().logsumexp(dim=-1).mean() for each in logits]).sum()
    network.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]


def _noise(recipe: ClassificationRecipe, channels: int, side: int, classes: int) -> Batches:
    """Batches as a training has them, of images without meaning."""
    draws = np.random.default_rng(0)
    count = 2 * recipe.batch_size
    pixels = draws.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    array = ImageArray.of(pixels, draws.integers(0, classes, count))
    preprocessing = Preprocessing.named(recipe.normalization, array, crop=side)
    return Batches(
        array,
        preprocessing,
        recipe.batch_size,
        augmentation=recipe.augmentation,
        shuffle=True,
        seed=recipe.seed,
    )


def _endless(batches: AnyBatches) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1


def _named(watch: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if watch is None else lambda done, total: watch(what, done, total)
