"""A network, its optimiser and its averaged weights, on whatever devices Accelerate was launched with."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, broadcast
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from convatlas.acceleration import EngineCard, WholeSteps, as_recorded, whole_steps
from convatlas.errors import RecipeError, RunError, TrainingError
from convatlas.tasks.contract import Batch, Task
from convatlas.tensors import matched, write_tensors
from convatlas.training import checkpoint
from convatlas.training.checkpoint import Tally, TrainingState
from convatlas.training.layer_rates import EVERY_LAYER, LayerRates
from convatlas.training.optimizers import build_optimizer
from convatlas.training.processes import has_accelerator, processes
from convatlas.training.recipe import ClassificationRecipe, Recipe

DATA_PARALLEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
DROPOUT = 3  # its stream of random numbers; order and augmentation have streams 1 and 2
AGREE_EVERY = 10  # steps between two agreements of many processes on the time and on stopping


class Learner:
    """Takes optimiser steps, and gives and takes back everything that a checkpoint holds.

    ``model`` is what is trained; ``bare_model`` is the same network without the wrappers of several processes, mixed
    precision, compilation and the CPU engine. Only the bare one is written and read, so that a run is the same files
    whatever ran it.

    Args:
        model: a network, in training mode.
        task: what its outputs mean.
        recipe: how it is trained.
        engine: what runs it.
        shape: of a process's share of a batch, [N, ...].
        rates: how fast each layer learns, where they do not all learn alike.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        recipe: Recipe,
        engine: EngineCard,
        shape: tuple[int, ...],
        rates: LayerRates = EVERY_LAYER,
    ) -> None:
        self.task = task
        self.recipe = recipe
        self.engine = engine
        self.accelerator = _accelerator(recipe.precision)
        _refuse_sharding(self.accelerator)
        _refuse_tiny_batches(model, recipe.batch_size, self.world)
        self.rates = rates
        rates.freeze(model)
        self.bare_model = model.to(self.accelerator.device).to(memory_format=torch.channels_last)
        self.average = _moving_average(self.bare_model, recipe.ema_decay)
        self._bare_optimizer = build_optimizer(self.bare_model, recipe, rates)
        fast = as_recorded(engine, self.bare_model, shape)
        self.judging_model = as_recorded(engine, self.average.module, shape) if self.average is not None else fast
        runnable = torch.compile(self.bare_model) if recipe.compile else fast
        self.model, scaling_optimizer = self.accelerator.prepare(runnable, self._bare_optimizer)
        # Only a loss that is scaled needs Accelerate's own steps, which look for packages on disk each time.
        self._is_scaled = self.accelerator.scaler is not None
        self.optimizer = scaling_optimizer if self._is_scaled else self._bare_optimizer
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def rank(self) -> int:
        """Which of the processes this is."""
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        """How many processes train together."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return bool(self.accelerator.is_main_process)

    @property
    def judged_model(self) -> nn.Module:
        """The network that is validated and kept: the averaged one where the recipe has a moving average.

        ``judging_model`` computes what it does, with the same parameters, by the engine that trains.
        """
        return self.average.module if self.average is not None else self.bare_model

    @property
    def last_rate(self) -> float:
        """The learning rate of the last step, for layers that learn at it."""
        group = self.optimizer.param_groups[0]
        return float(group["lr"] / group["factor"])

    def begin_epoch(self) -> None:
        """Bring the network into training mode, but for the layers that do not learn."""
        self.model.train()
        if self.rates.changes_training:
            self.rates.hold(self.bare_model)

    def step(self, batch: Batch, rate: float, epoch: int, step: int) -> Tensor:
        """One optimiser step; returns this process's sums over the batch, one of each of the task's columns.

        They are to be added before the next step, which may write over them.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        if self._whole_steps is not None:
            return self._whole_steps.step(batch.inputs, rate)
        _seed(self.accelerator.device, _seed_of(DROPOUT, self.recipe.seed, epoch, step, self.rank))
        made = self.task.objective(self.model(batch.inputs), batch)
        # Processes average their gradients: dividing by the global batch makes that the gradient of the global mean.
        objective = made.objective / batch.global_size * self.world
        if self._is_scaled:
            self.accelerator.backward(objective)
        else:
            objective.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self._trained, self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.bare_model)
        return torch.stack([tally.detach().to(self._sum_dtype) for tally in made.tallies])

    def sums(self, tally: Tally) -> Tensor:
        """A tally as a tensor on the device, to be added to without waiting for the device."""
        is_main = self.accelerator.is_main_process
        own = [tally.sums.get(column.name, 0.0) if is_main else 0.0 for column in self.task.columns]
        return torch.tensor(own, dtype=self._sum_dtype, device=self.accelerator.device)

    def total(self, sums: Tensor) -> dict[str, float]:
        """The sums of all processes, by the names of the task's columns."""
        totals = self.accelerator.reduce(sums.clone(), reduction="sum").tolist()
        return {column.name: total for column, total in zip(self.task.columns, totals, strict=True)}

    def share_buffers(self) -> None:
        """Give every process the first one's running statistics, so that what is validated is what is kept."""
        if self.world == 1:
            return
        for buffer in self.judged_model.buffers():
            torch.distributed.broadcast(buffer, src=0)

    def agree(self, seconds: float, stopping: bool) -> tuple[float, bool]:
        """What the first process says of the time and of stopping, so that all leave the loop together."""
        if self.world == 1:
            return seconds, stopping
        said = torch.tensor([seconds, float(stopping)], device=self.accelerator.device, dtype=torch.float64)
        seconds, stop = broadcast(said).tolist()
        return seconds, bool(stop)

    def save(self, directory: Path, state: TrainingState, *, as_best: bool) -> None:
        """Write the checkpoint, and the network as the best one so far if it is."""
        if self.accelerator.scaler is not None:
            state.loss_scale = self.accelerator.scaler.state_dict()
        if self.is_main:
            if as_best:
                write_tensors(directory / checkpoint.BEST_WEIGHTS, self.judged_model.state_dict())
            checkpoint.save(directory, state, self._weights(), self._optimizer_tensors())
        self.accelerator.wait_for_everyone()

    def restore(self, directory: Path) -> TrainingState:
        """Take everything back from the checkpoint in ``directory``.

        Raises:
            RunError: no checkpoint, a damaged one, or one of another network or optimiser.
        """
        state, weights, optimizer = checkpoint.load(directory)
        self._refuse_strange_rows(directory, state)
        if state.world != self.world:
            raise RunError(
                f"{directory} was trained by {state.world} processes together and cannot go on with {self.world}. "
                f"Launch {state.world}"
            )
        try:
            self.bare_model.load_state_dict(matched(_below("model.", weights), self.bare_model.state_dict()))
            if self.average is not None:
                self.average.load_state_dict(matched(_below("average.", weights), self.average.state_dict()))
            checkpoint.restore_optimizer(self.bare_model, self._bare_optimizer, optimizer)
        except ValueError as error:
            raise RunError(f"the checkpoint in {directory} does not fit this network and recipe: {error}") from error
        if self.accelerator.scaler is not None and state.loss_scale is not None:
            self.accelerator.scaler.load_state_dict(state.loss_scale)
        return state

    def refuse_non_finite(self, loss: float, state: TrainingState, rate: float) -> None:
        """Stop a training whose loss is not a number any more.

        Raises:
            TrainingError: says where, and what to change.
        """
        if math.isfinite(loss):
            return
        kept = f"the weights of epoch {state.best.epoch:g} are kept" if state.best else "no validated weights exist yet"
        raise TrainingError(
            f"the loss became {loss} in epoch {state.epoch + 1}, step {state.step} (learning rate {rate:.3g}); {kept}. "
            f"Try --set learning_rate={self.recipe.learning_rate / 10:g} or --set clip_norm=1"
        )

    @cached_property
    def _whole_steps(self) -> WholeSteps | None:
        """Made at the first step: what a checkpoint gives back is then in its place."""
        return whole_steps(self.engine, self.bare_model, self._bare_optimizer)

    @property
    def _sum_dtype(self) -> torch.dtype:
        return torch.float32 if self.accelerator.device.type == "mps" else torch.float64  # MPS has no float64

    def _refuse_strange_rows(self, directory: Path, state: TrainingState) -> None:
        """A history is a table: rows with other figures than this task's, which somebody edited, cannot be added to."""
        names = {column.name for column in self.task.columns}
        rows = [*state.history, *filter(None, [state.best])]
        if any(row.train.keys() != names or row.validation.keys() != names for row in rows):
            raise RunError(
                f"the checkpoint in {directory} is damaged at history: a row has not the figures of its task"
            )

    def _weights(self) -> dict[str, Tensor]:
        weights = {f"model.{name}": tensor for name, tensor in self.bare_model.state_dict().items()}
        if self.average is not None:
            weights |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        return weights

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        return checkpoint.optimizer_tensors(self.bare_model, self._bare_optimizer)


def needs_torch(recipe: Recipe) -> str | None:
    """Why training by a recipe on this machine is for PyTorch alone; None where the CPU engine may do it."""
    device = processes().device.type
    if device != "cpu":
        return f"training is on {device}"
    if recipe.compile:
        return "the recipe asks for torch.compile"
    if recipe.precision not in ("auto", "float32"):
        return f"the recipe asks for {recipe.precision}"
    if isinstance(recipe, ClassificationRecipe) and recipe.freeze != "none":
        return "layers are frozen"
    if isinstance(recipe, ClassificationRecipe) and recipe.freeze_batch_norm:
        return "batch normalisation keeps its statistics"
    return None


class RowNetwork(Protocol):
    """What is asked of an autoencoder of rows."""

    @property
    def is_regularized(self) -> bool:
        """Whether training is more than what its layers compute."""


def needs_autograd(network: RowNetwork, recipe: Recipe) -> str | None:
    """Why steps by a recipe on this machine are for autograd; None where the engine may take whole ones."""
    if (reason := needs_torch(recipe)) is not None:
        return reason
    if network.is_regularized:
        return "its training is more than what its layers compute"
    if processes().num_processes > 1:
        return "several processes train together"
    if recipe.optimizer != "adam" or recipe.weight_decay:
        return "whole steps are of Adam without weight decay"
    if recipe.clip_norm is not None or recipe.ema_decay is not None:
        return "the recipe clips gradients or averages weights"
    return None


def _accelerator(precision: str) -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=False)  # a second training may use another precision
    accelerator = Accelerator(cpu=not has_accelerator(), mixed_precision="no")  # whatever a launcher was told
    if precision == "auto":
        precision = "bfloat16" if _likes_bfloat16(accelerator.device) else "float32"
    if precision == "float32":
        return accelerator
    AcceleratorState._reset_state(reset_partial_state=False)
    return Accelerator(cpu=not has_accelerator(), mixed_precision={"bfloat16": "bf16", "float16": "fp16"}[precision])


def _likes_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def _refuse_sharding(accelerator: Accelerator) -> None:
    if accelerator.distributed_type in DATA_PARALLEL:
        return
    raise TrainingError(
        f"the launcher asks for {accelerator.distributed_type.value}, which divides the weights; checkpoints hold "
        "whole ones. Launch without it: every network here fits one GPU, and torchrun trains on several"
    )


def _refuse_tiny_batches(model: nn.Module, batch_size: int, world: int) -> None:
    has_batch_norm = any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules())
    least = 2 * world if has_batch_norm else world
    if batch_size >= least:
        return
    why = "batch normalisation needs two images in each process" if has_batch_norm else "each process needs an image"
    raise RecipeError(f"batch_size is {batch_size}, but {why}. Use --set batch_size={least} or more")


def _moving_average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]


def _seed(device: torch.device, seed: int) -> None:
    """As torch.manual_seed, which also seeds accelerators that are not there, formatting the stack for each of them."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _seed_of(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
