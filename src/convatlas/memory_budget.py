"""Training within a given amount of memory: how much a process will take, and the largest batch that fits.

Where no amount is given, a training that will take more than is free is told of before it begins.

A process holds the interpreter and its libraries, the tensors that ``inspection.memory`` plans for what will run the
network, the CPU engine or PyTorch, and batches of pixels. Images that are mapped from the disk are the system's cache,
which it gives back when memory is short; they are not counted.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path

from torch import nn

from convatlas.acceleration import Engine, compared_images, settle
from convatlas.data.dataset import Dataset
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import InspectionError, RecipeError
from convatlas.inspection.machine import free_bytes
from convatlas.inspection.memory import MemoryPlan, Rehearsal, Runner, largest_batch
from convatlas.inspection.outputs import layer_bytes
from convatlas.training.feed import Feed
from convatlas.training.learner import needs_torch
from convatlas.training.optimizers import build_optimizer
from convatlas.training.processes import processes
from convatlas.training.recipe import ClassificationRecipe

MEGABYTE = 10**6
UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

# Loaded between the first step and the end of a training; loading it before planning measures what it takes here.
LATER_LIBRARIES = ("tensorboard.summary.writer.event_file_writer", "matplotlib.figure")

# Two allowances, for what nobody can ask for beforehand: memory that was freed between what is in use, which the C
# library cannot hand out again; and code that is read from the disk when it first runs, and the report's figures.
FRAGMENTED, UNFORESEEN = 0.20, 80 * MEGABYTE

FLOAT = 4  # bytes
SETTLING_IMAGES = 16  # that the engine compares a training step with where memory is short, here and when it trains

# A bound that costs one forward pass: weights, their gradients, two numbers each of an optimizer, a moving average; and
# what layers read and write. What operators take for themselves has the other half of the free memory.
COPIES_OF_WEIGHTS = 5


def parse_memory(text: str) -> int:
    """Bytes of an amount of memory.

    >>> parse_memory("7.5GB"), parse_memory("512 MiB")
    (7500000000, 536870912)

    Raises:
        RecipeError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)", text.strip())
    if match is None or match[2] not in UNITS or float(match[1]) == 0:
        raise RecipeError(f"memory is an amount such as 8GB, 7.5GB, 800MB or 8GiB; received {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


def fit_recipe(
    limit_bytes: int,
    network: nn.Module,
    recipe: ClassificationRecipe,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    engine: Engine = "auto",
    asked: Collection[str] = (),
) -> tuple[ClassificationRecipe, str | None]:
    """The recipe with the largest batch that trains within a limit, and what was changed in words; None for nothing.

    The learning rate is lowered as the batch is: Goyal et al. 2017, arXiv 1706.02677, section 2.1. A learning rate that
    somebody asked for stays.

    Args:
        limit_bytes: of the whole process.
        network: what will be trained.
        recipe: how.
        dataset, preprocessing: on what.
        engine: what will run it.
        asked: names of the settings that a person gave; their values are not changed.

    Raises:
        RecipeError: a batch size that was asked for does not fit, or none does, or the training is not on one CPU.
        InspectionError: the network cannot be planned.
    """
    _refuse_what_is_not_planned(recipe)
    with_engine = engine == "auto" and needs_torch(recipe) is None
    need = _Need(network, recipe, dataset, preprocessing, with_engine, SETTLING_IMAGES)
    wanted = Feed.of_images(dataset, preprocessing, recipe).train.shape[0]
    if need(wanted) <= limit_bytes:
        return recipe, None
    least = _least_batch(network, wanted)
    fitting = largest_batch(limit_bytes, need, least=least, most=wanted)
    if fitting is None:
        bare = replace(need, with_engine=False)(least)
        leaner = f"--engine torch, which takes {_gigabytes(bare)}, " if with_engine and bare <= limit_bytes else ""
        raise RecipeError(
            f"this training takes {_gigabytes(need(least))} at the smallest batch, {least}, and --memory allows "
            f"{_gigabytes(limit_bytes)}. Give it more, {leaner}smaller images or a smaller network"
        )
    if "batch_size" in asked:
        raise RecipeError(
            f"batches of {wanted} take {_gigabytes(need(wanted))}, and --memory allows {_gigabytes(limit_bytes)}. "
            f"Batches of {fitting} fit: use --set batch_size={fitting}, or leave batch_size out"
        )
    changes: dict[str, float] = {"batch_size": fitting}
    what = f"the batch is {fitting} instead of {wanted}"
    if "learning_rate" not in asked:
        changes["learning_rate"] = float(f"{recipe.learning_rate * fitting / wanted:.4g}")
        what += f" and the learning rate {changes['learning_rate']:g} instead of {recipe.learning_rate:g}"
    return recipe.updated(**changes), (
        f"to train within {_gigabytes(limit_bytes)} of memory, {what}: {_gigabytes(need(fitting))} are planned instead "
        f"of {_gigabytes(need(wanted))}"
    )


def shortage(
    network: nn.Module,
    recipe: ClassificationRecipe,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    engine: Engine = "auto",
) -> str | None:
    """In one line, that a training will take more memory than is free, and what to do; None where it will not.

    A network that is far from filling the memory is not planned: one forward pass tells. None also where the system
    does not say what is free, or the training cannot be planned.

    Arguments as for ``fit_recipe``.
    """
    free = free_bytes()
    if free is None or _obstacle(recipe) is not None:
        return None
    shape = Feed.of_images(dataset, preprocessing, recipe).train.shape
    with suppress(InspectionError):  # what cannot be planned is trained all the same
        if _rough_bytes(network, shape) > free // 2:
            with_engine = engine == "auto" and needs_torch(recipe) is None
            images = min(shape[0], compared_images(shape[1:]))
            need = _Need(network, recipe, dataset, preprocessing, with_engine, images)
            return _shortage(need, shape[0], free + _resident_bytes())
    return None


def _shortage(need: _Need, batch: int, room: int) -> str | None:
    if need(batch) <= room:
        return None
    fitting = largest_batch(room, need, least=_least_batch(need.network, batch), most=batch)
    way_out = "Use smaller images or a smaller network"
    if fitting is not None:
        way_out = f"Use --memory {room // MEGABYTE}MB to fit the batch to it, or --set batch_size={fitting}"
    return (
        f"batches of {batch} take {_gigabytes(need(batch))} of memory, and {_gigabytes(room)} are free for this "
        f"process: the system may end it without a word. {way_out}"
    )


def _rough_bytes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """What a training takes at most, but for what operators take for themselves."""
    pictures = shape[0] * layer_bytes(network, shape[1:])
    return pictures + COPIES_OF_WEIGHTS * _bytes_of(network)


def _least_batch(network: nn.Module, wanted: int) -> int:
    """Batch normalisation learns nothing from one image."""
    has_batch_norm = any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in network.modules())
    return min(wanted, 2 if has_batch_norm else 1)


@dataclass
class _Need:
    """Bytes of the process that trains on batches of a size; an upper bound."""

    network: nn.Module
    recipe: ClassificationRecipe
    dataset: Dataset
    preprocessing: Preprocessing
    with_engine: bool
    settling_images: int
    _known: dict[int, int] = field(init=False, default_factory=dict)

    def __call__(self, batch: int) -> int:
        if batch not in self._known:
            self._known[batch] = self._fixed + self._of_batch(batch)
        return self._known[batch]

    def _of_batch(self, batch: int) -> int:
        plan = self._rehearsal.plan(batch)
        evaluating = self._evaluation.inference_peak_bytes + plan.at_training_peak.optimizer_state
        tensors = max(plan.training_peak_bytes + self._average, evaluating + self._average, self._settling(plan))
        height, width, channels = self.dataset.train.image_shape
        pixels = batch * height * width * channels * (3 + FLOAT)  # as bytes, before and after augmentation; as floats
        return round(tensors * (1 + FRAGMENTED)) + pixels

    def _settling(self, plan: MemoryPlan) -> int:
        """The engine's program for a whole batch stands beside PyTorch's prediction of it, to be compared."""
        if self._runner is None:
            return 0
        return plan.inference_peak_bytes + plan.compared_peak_bytes - _bytes_of(self.network)

    @cached_property
    def _fixed(self) -> int:
        """What does not depend on the batch: the process as it is without the network, and what it will load."""
        _ = self._evaluation  # planning loads libraries too
        for library in LATER_LIBRARIES:
            with suppress(ImportError):
                import_module(library)
        give_back_freed_memory()
        return _resident_bytes() - _bytes_of(self.network) + UNFORESEEN

    @cached_property
    def _average(self) -> int:
        """A moving average is another network, with which the engine keeps what it judges it by."""
        if self.recipe.ema_decay is None:
            return 0
        return _bytes_of(self.network) if self._runner is None else self._evaluation.inference_peak_bytes

    @cached_property
    def _evaluation(self) -> MemoryPlan:
        images = max(len(split) for split in (self.dataset.validation, self.dataset.test) if split is not None)
        return self._rehearsal.plan(max(2, min(self.preprocessing.evaluation_batch, images)))

    @cached_property
    def _runner(self) -> Runner | None:
        """What will train; None for PyTorch."""
        if not self.with_engine:
            return None
        images = min(self.settling_images, Feed.of_images(self.dataset, self.preprocessing, self.recipe).train.shape[0])
        return settle(self.network, (images, *self._image)).runner

    @property
    def _image(self) -> tuple[int, int, int]:
        return (self.preprocessing.channels, self.preprocessing.crop, self.preprocessing.crop)

    @cached_property
    def _rehearsal(self) -> Rehearsal:
        return Rehearsal(
            self.network,
            (1, *self._image),
            optimizer=lambda module: build_optimizer(module, self.recipe),
            precision="bfloat16" if self.recipe.precision == "bfloat16" else "float32",
            runner=self._runner,
        )


def _refuse_what_is_not_planned(recipe: ClassificationRecipe) -> None:
    obstacle = _obstacle(recipe)
    if obstacle is not None:
        raise RecipeError(f"--memory plans a training in one process on a CPU, and {obstacle}. Leave it out")


def _obstacle(recipe: ClassificationRecipe) -> str | None:
    """Why a training is not planned, in words."""
    if processes().device.type != "cpu":
        return f"this one is on {processes().device.type}"
    if processes().num_processes > 1:
        return f"this one has {processes().num_processes} processes"
    return "this one is compiled" if recipe.compile else None


def _bytes_of(network: nn.Module) -> int:
    return sum(tensor.nbytes for tensors in (network.parameters(), network.buffers()) for tensor in tensors)


def _resident_bytes() -> int:
    """What this process takes now; where the system does not say, the most that it has taken."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource  # Windows has none

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def give_back_freed_memory() -> None:
    """Have the C library hand memory that was freed back to the system: what comes next may want pieces of other sizes.

    Where the library is not glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _gigabytes(size: int) -> str:
    return f"{size / 10**9:.3g} GB" if size >= 10**9 else f"{size / MEGABYTE:.0f} MB"
