from __future__ import annotations

import pytest

from convatlas.training.checkpoint import Tally, TrainingState
from convatlas.training.plan import Plan
from convatlas.training.recipe import ClassificationRecipe


def recipe(**duration: float) -> ClassificationRecipe:
    return ClassificationRecipe(learning_rate=0.1, **duration)


def test_epochs_and_steps_count_steps() -> None:
    assert Plan(recipe(epochs=4), 10).progress(TrainingState(total_steps=10)) == 0.25
    assert Plan(recipe(steps=40), 10).progress(TrainingState(total_steps=10)) == 0.25
    assert not Plan(recipe(steps=40), 10).done(TrainingState(total_steps=39))
    assert Plan(recipe(steps=40), 10).done(TrainingState(total_steps=40))


def test_a_budget_counts_seconds() -> None:
    plan = Plan(recipe(time_budget=60), 10)
    assert plan.progress(TrainingState(seconds=15)) == 0.25
    assert plan.done(TrainingState(seconds=61))
    assert plan.seconds_left(TrainingState(seconds=45), since=(0, 0)) == 15


def test_a_budget_validates_now_and_then_but_never_spends_more_than_a_sixth_on_it() -> None:
    plan = Plan(recipe(time_budget=60), 10)
    assert not plan.validation_due(TrainingState(tally=Tally(seconds=9)))
    assert plan.validation_due(TrainingState(tally=Tally(seconds=10)))
    assert not plan.validation_due(TrainingState(tally=Tally(seconds=10), validation_seconds=4))
    assert plan.validation_due(TrainingState(tally=Tally(seconds=20), validation_seconds=4))


def test_epochs_validate_at_their_ends_only() -> None:
    assert not Plan(recipe(epochs=1), 10).validation_due(TrainingState(tally=Tally(seconds=1e6)))


def test_the_time_left_is_told_from_the_pace_of_this_session() -> None:
    plan = Plan(recipe(epochs=10), 10)
    resumed_at = (0.5, 1000.0)  # half was done, slowly, by an earlier session
    state = TrainingState(total_steps=60, seconds=1010.0)
    assert plan.seconds_left(state, resumed_at) == pytest.approx(40.0)
    assert plan.seconds_left(TrainingState(total_steps=50, seconds=1000.0), resumed_at) is None


def test_fractional_epochs() -> None:
    assert Plan(recipe(epochs=2), 8).epochs_done(TrainingState(epoch=1, step=2)) == 1.25
