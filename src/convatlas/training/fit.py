"""The training loop: one flat pass over steps, the same on one CPU, a GPU or many processes.

Every draw (order, augmentation, dropout) is seeded by (seed, epoch, step), so a training that is killed and resumed
ends with the weights of one that was not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch import nn

from convatlas.acceleration import EngineCard, running
from convatlas.errors import RunError
from convatlas.tasks.contract import Evaluation, Task
from convatlas.training.checkpoint import Tally, TrainingState
from convatlas.training.evaluate import judged
from convatlas.training.feed import Feed
from convatlas.training.history import HistoryRow, TensorBoardLog, write_csv
from convatlas.training.interrupt import StopRequest, stop_on_signal
from convatlas.training.layer_rates import EVERY_LAYER, LayerRates
from convatlas.training.learner import AGREE_EVERY, Learner
from convatlas.training.plan import Plan
from convatlas.training.progress import REDRAW_EVERY, Silent, StepReport, Watch
from convatlas.training.recipe import Recipe
from convatlas.training.schedules import learning_rate

STEPS_TO_START = 50  # that any healthy training needs at most to become better than guessing
CHECKPOINT_EVERY = 300.0  # seconds: the most work that a kill within a long epoch can cost


@dataclass(frozen=True)
class Outcome:
    """How a training ended: its last state, and whether somebody stopped it before its end."""

    state: TrainingState
    interrupted: bool


def fit(  # noqa: PLR0913, what a training is made of
    model: nn.Module,
    task: Task,
    feed: Feed,
    recipe: Recipe,
    directory: Path,
    *,
    engine: EngineCard | None = None,
    rates: LayerRates = EVERY_LAYER,
    resume: bool = False,
    watch: Watch | None = None,
) -> Outcome:
    """Train a network, keeping in ``directory`` the best weights by validation and a checkpoint to resume from.

    >>> recipe = load_recipe("lenet")  # doctest: +SKIP
    >>> feed = Feed.of_images(dataset, preprocessing, recipe)  # doctest: +SKIP
    >>> outcome = fit(model, Classification(dataset.classes), feed, recipe, Path("runs/mine"))  # doctest: +SKIP
    >>> outcome.state.best.validation["accuracy"]  # doctest: +SKIP
    0.985

    ``engine`` is what runs the network, PyTorch when left out. A training that is resumed ends with the weights of one
    that never stopped if it is given the same one. ``rates`` says which layers do not learn, or not at the same rate.

    Writes ``model.safetensors`` (best by what the task says of the validation), the checkpoint, ``history.csv`` and
    ``tensorboard/``. The caller's random state is left as it was.

    Raises:
        TrainingError: the loss is not finite; the last good weights are kept.
        RunError: ``resume`` without a checkpoint that fits.
        RecipeError: batches too small for the network, or for the number of processes.
        StorageError: the disk refused a write; the checkpoint before it is whole.
    """
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=gpus), stop_on_signal() as stop, running(engine or EngineCard()):
        learner = Learner(model, task, recipe, engine or EngineCard(), feed.train.shape, rates)
        training = _Training(learner, feed, directory, watch or Silent())
        return training.run(stop, resume=resume)


class _Training:
    def __init__(self, learner: Learner, feed: Feed, directory: Path, watch: Watch) -> None:
        self.learner, self.feed, self.directory = learner, feed, directory
        self.task, self.recipe = learner.task, learner.recipe
        self.watch = watch if self.learner.is_main else Silent()
        self.plan = Plan(self.recipe, len(feed.train))
        self.tensorboard = TensorBoardLog(directory / "tensorboard")

    def run(self, stop: StopRequest, *, resume: bool) -> Outcome:
        state = self._restored() if resume else self._first_state()
        self.watch.task(self.task)
        for finding in state.findings:
            self.watch.finding(finding)
        began = (self.plan.progress(state), state.seconds)
        stopping = False
        while not self.plan.done(state) and not stopping:
            stopping = self._train_until_something_is_due(state, stop, began)
            is_under_way = state.step > 0 and not self.plan.done(state)
            if is_under_way and (stopping or not self.plan.validation_due(state)):
                self.learner.save(self.directory, state, as_best=False)
            else:
                self._validate(state)
        self._write_history(state)  # a process that was killed may have missed its last row
        self.tensorboard.close()
        return Outcome(state, interrupted=stopping and not self.plan.done(state))

    def _train_until_something_is_due(
        self, state: TrainingState, stop: StopRequest, began: tuple[float, float]
    ) -> bool:
        """Take steps until the epoch ends or a validation, a checkpoint or a stop is due; returns whether to stop."""
        self.learner.begin_epoch()
        sums = self.learner.sums(state.tally)
        clock, before, shown = _Clock(state.seconds), state.tally.seconds, 0.0
        stopping = False
        for batch in self.feed.train.epoch(state.epoch, start=state.step):
            rate = learning_rate(self.recipe, self.plan.progress(state), state.epoch)
            sums += self.learner.step(batch, rate, state.epoch, state.step)
            state.step += 1
            state.total_steps += 1
            state.tally.images += batch.global_size
            if self.learner.world == 1 or state.total_steps % AGREE_EVERY == 0:
                state.seconds, stopping = self.learner.agree(clock.now(), stop.requested)
                state.tally.seconds = before + state.seconds - clock.start
            if state.seconds - shown >= REDRAW_EVERY:
                shown = state.seconds
                self._show(state, sums.tolist(), began)
                if self.learner.world == 1:  # many must find out together, or some would wait for the others for ever
                    self.learner.refuse_non_finite(sums[0].item(), state, rate)
            is_checkpoint_due = state.seconds - clock.start >= CHECKPOINT_EVERY
            if stopping or is_checkpoint_due or self.plan.done(state) or self.plan.validation_due(state):
                break
        state.seconds, stopping = self.learner.agree(clock.now(), stop.requested)
        state.tally.seconds = before + state.seconds - clock.start
        state.tally.sums = self.learner.total(sums)
        self.learner.refuse_non_finite(state.tally.sums[self.task.columns[0].name], state, rate)
        if state.step == len(self.feed.train):
            state.epoch, state.step = state.epoch + 1, 0
        return stopping

    def _validate(self, state: TrainingState) -> None:
        clock = _Clock(state.seconds)
        self.learner.share_buffers()
        evaluation = self._evaluate()
        state.seconds, _ = self.learner.agree(clock.now(), False)
        state.validation_seconds = state.seconds - clock.start
        row = self._row(state, evaluation)
        is_best = state.best is None or self._merit(row) > self._merit(state.best)
        state.best = row if is_best else state.best
        state.since_best = 0 if is_best else state.since_best + 1
        state.tally = Tally()
        state.history.append(row)
        self._check_progress(state, row)
        self.learner.save(self.directory, state, as_best=is_best)
        self._write_history(state)
        if self.learner.is_main:
            self.tensorboard.add(row)
        self.watch.row(row, is_best)

    def _write_history(self, state: TrainingState) -> None:
        if self.learner.is_main and state.history:
            write_csv(self.directory / "history.csv", state.history)

    def _evaluate(self) -> Evaluation:
        judge = judged(self.learner.judging_model, self.feed.validation, self.task)
        return type(judge).merged(gather_object([judge])).result()

    def _merit(self, row: HistoryRow) -> tuple[float, ...]:
        return self.task.merit(row.validation)

    def _row(self, state: TrainingState, evaluation: Evaluation) -> HistoryRow:
        return HistoryRow(
            epoch=round(self.plan.epochs_done(state), 4),
            step=state.total_steps,
            seconds=round(state.seconds, 2),
            learning_rate=self.learner.last_rate,
            train={name: total / state.tally.images for name, total in state.tally.sums.items()},
            validation=dict(evaluation.figures),
            images_per_second=round(state.tally.images / state.tally.seconds, 1),
        )

    def _show(self, state: TrainingState, sums: list[float], began: tuple[float, float]) -> None:
        images = max(state.tally.images / self.learner.world, 1)
        self.watch.step(
            StepReport(
                progress=self.plan.progress(state),
                epoch=state.epoch,
                figures={column.name: total / images for column, total in zip(self.task.columns, sums, strict=True)},
                images_per_second=state.tally.images / max(state.tally.seconds, 1e-9),
                seconds_left=self.plan.seconds_left(state, began),
            )
        )

    def _restored(self) -> TrainingState:
        state = self.learner.restore(self.directory)
        steps = len(self.feed.train)
        if state.step >= steps:
            raise RunError(f"the checkpoint in {self.directory} is damaged: step {state.step} of an epoch of {steps}")
        return state

    def _first_state(self) -> TrainingState:
        state = TrainingState(world=self.learner.world)
        self._note(state, self.task.finding_before(self.learner.bare_model), announce=False)
        return state

    def _check_progress(self, state: TrainingState, row: HistoryRow) -> None:
        """Once, after the first steps that ought to have shown something, ask whether the network learns at all."""
        steps_before = state.history[-2].step if len(state.history) > 1 else 0
        if steps_before < STEPS_TO_START <= row.step:
            self._note(state, self.task.finding_after_start(row.train, self.recipe.learning_rate))

    def _note(self, state: TrainingState, finding: str | None, *, announce: bool = True) -> None:
        if finding is None:
            return
        state.findings.append(finding)
        if announce:
            self.watch.finding(finding)


class _Clock:
    """Training time that goes on from ``start`` seconds."""

    def __init__(self, start: float) -> None:
        self.start = start
        self._began = time.perf_counter()

    def now(self) -> float:
        return self.start + time.perf_counter() - self._began
