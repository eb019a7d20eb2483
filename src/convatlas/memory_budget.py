"""Training within a given amount of memory: how much a process will take, and the largest batch that fits.

Where no amount is given, a training that will take more than is free is told of before it begins.

A process holds the interpreter and its libraries, the tensors that ``inspection.memory`` plans, what the CPU engine
keeps beside them, and batches of pixels. Images that are mapped from the disk are the system's cache, which it gives
back when memory is short; they are not counted.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from convatlas.acceleration import Engine
from convatlas.data.dataset import Dataset
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import InspectionError, RecipeError
from convatlas.inspection.machine import free_bytes
from convatlas.inspection.memory import MemoryPlan, Rehearsal, largest_batch
from convatlas.inspection.outputs import layer_bytes
from convatlas.training.learner import batch_shape, needs_torch
from convatlas.training.optimizers import build_optimizer
from convatlas.training.processes import processes
from convatlas.training.recipe import Recipe

MEGABYTE = 10**6
UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

# Measured on Linux with PyTorch 2.14: what is loaded between planning and the end of a training (kernels,
# TensorBoard, the report's figures), and what the C library cannot hand out again of memory that was freed.
LIBRARIES = 260 * MEGABYTE
ENGINE_LIBRARIES = 80 * MEGABYTE
FRAGMENTED = 0.10

# The engine, by its own constants: 36 products take the place of 9, of at least 128 tiles at once.
FLOAT, POSITIONS, LEAST_TILES = 4, 36, 128

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
    recipe: Recipe,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    engine: Engine = "auto",
    asked: Collection[str] = (),
) -> tuple[Recipe, str | None]:
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
    need = _Need(network, recipe, dataset, preprocessing, with_engine)
    wanted = batch_shape(recipe, dataset, preprocessing)[0]
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
    network: nn.Module, recipe: Recipe, dataset: Dataset, preprocessing: Preprocessing, *, engine: Engine = "auto"
) -> str | None:
    """In one line, that a training will take more memory than is free, and what to do; None where it will not.

    A network that is far from filling the memory is not planned: one forward pass tells. None also where the system
    does not say what is free, or the training cannot be planned.

    Arguments as for ``fit_recipe``.
    """
    free = free_bytes()
    if free is None or _obstacle(recipe) is not None:
        return None
    shape = batch_shape(recipe, dataset, preprocessing)
    with suppress(InspectionError):  # what cannot be planned is trained all the same
        if _rough_bytes(network, shape) > free // 2:
            need = _Need(network, recipe, dataset, preprocessing, engine == "auto" and needs_torch(recipe) is None)
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
    return pictures + COPIES_OF_WEIGHTS * _bytes_of(network) + LIBRARIES + ENGINE_LIBRARIES


def _least_batch(network: nn.Module, wanted: int) -> int:
    """Batch normalisation learns nothing from one image."""
    has_batch_norm = any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in network.modules())
    return min(wanted, 2 if has_batch_norm else 1)


@dataclass
class _Need:
    """Bytes of the process that trains on batches of a size; an upper bound."""

    network: nn.Module
    recipe: Recipe
    dataset: Dataset
    preprocessing: Preprocessing
    with_engine: bool
    _known: dict[int, int] = field(init=False, default_factory=dict)

    def __call__(self, batch: int) -> int:
        if batch not in self._known:
            self._known[batch] = self._fixed + self._of_batch(batch)
        return self._known[batch]

    def _of_batch(self, batch: int) -> int:
        plan = self._plan(batch)
        state = plan.at_training_peak.optimizer_state
        tensors = max(plan.training_peak_bytes, self._evaluation.inference_peak_bytes + state) + self._average
        height, width, channels = self.dataset.train.image_shape
        pixels = batch * height * width * channels * (3 + FLOAT)  # as bytes, before and after augmentation; as floats
        return round(tensors * (1 + FRAGMENTED)) + pixels

    @cached_property
    def _fixed(self) -> int:
        """What does not depend on the batch: the process as it is without the network, and what it will load."""
        _ = self._evaluation  # planning loads libraries too
        return _resident_bytes() - _bytes_of(self.network) + LIBRARIES + (self._engine if self.with_engine else 0)

    @cached_property
    def _average(self) -> int:
        """A moving average is another network."""
        return _bytes_of(self.network) if self.recipe.ema_decay is not None else 0

    @cached_property
    def _evaluation(self) -> MemoryPlan:
        images = max(len(split) for split in (self.dataset.validation, self.dataset.test) if split is not None)
        return self._plan(max(2, min(self.preprocessing.evaluation_batch, images)))

    @cached_property
    def _engine(self) -> int:
        """Weights and pictures of its evaluations, which it keeps while training goes on, and room to work in."""
        convolutions = [layer for layer in self.network.modules() if isinstance(layer, nn.Conv2d)]
        pictures = self._evaluation.inference_peak_bytes - _bytes_of(self.network)
        kept = sum(_transformed_bytes(layer) for layer in convolutions) + round(pictures * (1 + FRAGMENTED))
        room = max((_working_bytes(layer) for layer in convolutions), default=0)
        return ENGINE_LIBRARIES + kept + room

    @cached_property
    def _rehearsal(self) -> Rehearsal:
        side = self.preprocessing.crop
        return Rehearsal(
            self.network,
            (1, self.preprocessing.channels, side, side),
            optimizer=lambda module: build_optimizer(module, self.recipe),
            precision="bfloat16" if self.recipe.precision == "bfloat16" else "float32",
        )

    def _plan(self, batch: int) -> MemoryPlan:
        return self._rehearsal.plan(batch)


def _refuse_what_is_not_planned(recipe: Recipe) -> None:
    obstacle = _obstacle(recipe)
    if obstacle is not None:
        raise RecipeError(f"--memory plans a training in one process on a CPU, and {obstacle}. Leave it out")


def _obstacle(recipe: Recipe) -> str | None:
    """Why a training is not planned, in words."""
    if processes().device.type != "cpu":
        return f"this one is on {processes().device.type}"
    if processes().num_processes > 1:
        return f"this one has {processes().num_processes} processes"
    return "this one is compiled" if recipe.compile else None


def _transformed_bytes(layer: nn.Conv2d) -> int:
    """A weight as the engine's kernels want it: 36 numbers for 9 where it uses Winograd's filtering."""
    return layer.weight.nbytes * (POSITIONS // 9 if _suits_winograd(layer) else 1)


def _working_bytes(layer: nn.Conv2d) -> int:
    """What a weight's gradient is computed in: the weight and its gradient, transformed, and tiles of pictures."""
    if not _suits_winograd(layer):
        return layer.weight.nbytes
    tiles = POSITIONS * LEAST_TILES * (layer.in_channels + layer.out_channels) * FLOAT
    return 2 * _transformed_bytes(layer) + tiles


def _suits_winograd(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (3, 3) and layer.stride == (1, 1) and layer.groups == 1


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


def _gigabytes(size: int) -> str:
    return f"{size / 10**9:.3g} GB" if size >= 10**9 else f"{size / MEGABYTE:.0f} MB"
