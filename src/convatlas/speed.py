"""How fast a network is on this machine: measured, with what convatlas would run it with.

Between api and the rooms, as ``assessment`` is: measuring a training takes data, training and the engine together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from convatlas.acceleration import Engine, settle
from convatlas.data.batch import Batch
from convatlas.data.batches import Batches
from convatlas.data.dataset import ImageArray
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import InspectionError
from convatlas.inspection.timing import Timing, time_calls
from convatlas.tasks.classify.task import Classification
from convatlas.training.learner import Learner, needs_torch
from convatlas.training.recipe import ClassificationRecipe

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
    images: int
    epochs: int | None  # None: the recipe has another length
    engine: str

    @property
    def epoch_seconds(self) -> float:
        """A pass over the training images, without validation."""
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


def measure_speed(
    network: nn.Module,
    shape: tuple[int, int, int, int],
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
        network: one that gives logits.
        shape: of a batch, [N, C, H, W].
        engine: "torch" for PyTorch alone.
        warm_up: batches that are not timed.
        batches: batches that are.
        watch: told after each batch.
    """
    images = torch.randn(shape).to(memory_format=torch.channels_last)
    network = network.to(memory_format=torch.channels_last)
    evaluating = settle(network.eval(), shape, engine)
    with torch.inference_mode():
        forward = time_calls(
            lambda: evaluating.module(images), warm_up=warm_up, calls=batches, watch=_named(watch, "forward")
        )
    training = settle(network.train(), shape, engine)
    both = time_calls(
        lambda: _forward_backward(training.module, images),
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
    learner.model.train()
    batches = _endless(_noise(recipe, channels, side, classes))
    rate = recipe.learning_rate / 1000  # the steps lead nowhere, and need not become infinite
    step = time_calls(
        lambda: learner.step(next(batches), rate, 0, 0),
        warm_up=STEPS_TO_WARM_UP,
        calls=STEPS_TIMED,
        seconds=SECONDS_OF_STEPS,
        watch=_named(watch, "training steps"),
    )
    return TrainingTime(step, recipe.batch_size, images, epochs, acceleration.card.name)


def _forward_backward(network: nn.Module, images: torch.Tensor) -> None:
    output = network(images)
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


def _endless(batches: Batches) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1


def _named(watch: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if watch is None else lambda done, total: watch(what, done, total)
