"""How far a training is, when it validates and when it is over: a pure function of the recipe and the state."""

from __future__ import annotations

from dataclasses import dataclass

from convatlas.training.checkpoint import TrainingState
from convatlas.training.recipe import Recipe

VALIDATIONS_IN_A_BUDGET = 6  # a time budget may end within the first epoch and shall still leave a curve,
TRAINING_PER_VALIDATION = 5  # but no more than one second in six may go to validating


@dataclass(frozen=True)
class Plan:
    """A recipe's duration, against the number of steps one pass over the images takes."""

    recipe: Recipe
    steps_per_epoch: int

    def progress(self, state: TrainingState) -> float:
        """Share of the training that is done, 0 to 1."""
        if self.recipe.time_budget:
            return min(state.seconds / self.recipe.time_budget, 1.0)
        return min(state.total_steps / self._total_steps(), 1.0)

    def done(self, state: TrainingState) -> bool:
        """Whether the training is over."""
        return self.progress(state) >= 1.0 or self.out_of_patience(state)

    def out_of_patience(self, state: TrainingState) -> bool:
        """Whether the validation has not improved for as long as the recipe waits."""
        return self.recipe.patience is not None and state.since_best >= self.recipe.patience

    def validation_due(self, state: TrainingState) -> bool:
        """Whether to validate before the epoch ends; only a time budget asks for that."""
        if not self.recipe.time_budget:
            return False
        interval = self.recipe.time_budget / VALIDATIONS_IN_A_BUDGET
        return state.tally.seconds >= max(interval, TRAINING_PER_VALIDATION * state.validation_seconds)

    def epochs_done(self, state: TrainingState) -> float:
        """Passes over the training images so far; fractional within a pass."""
        return state.epoch + state.step / self.steps_per_epoch

    def seconds_left(self, state: TrainingState, since: tuple[float, float]) -> float | None:
        """Time to the end at the pace kept since (progress, seconds); None while that cannot be told."""
        if self.recipe.time_budget:
            return max(self.recipe.time_budget - state.seconds, 0.0)
        done, seconds = self.progress(state) - since[0], state.seconds - since[1]
        return (1 - self.progress(state)) * seconds / done if done > 0 else None

    def _total_steps(self) -> int:
        return self.recipe.steps or (self.recipe.epochs or 0) * self.steps_per_epoch
