"""What every training has around its loop, whatever the task: the card told of each turn, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import nn

from convatlas.acceleration import Acceleration, Engine, EngineCard
from convatlas.errors import RunError, TrainingError
from convatlas.layers import initialize
from convatlas.runs import Run
from convatlas.tasks.contract import Task
from convatlas.training import checkpoint
from convatlas.training.checkpoint import TrainingState
from convatlas.training.feed import Feed
from convatlas.training.fit import fit
from convatlas.training.layer_rates import EVERY_LAYER, LayerRates
from convatlas.training.processes import is_main, made_by_main
from convatlas.training.progress import Watch
from convatlas.training.recipe import Kind, Recipe, parse_recipe

Network = TypeVar("Network", bound=nn.Module)

SKIPPED_NAMES_SHOWN = 5


def attempt(  # noqa: PLR0913, what a training is made of
    run: Run,
    network: nn.Module,
    task: Task,
    feed: Feed,
    recipe: Recipe,
    watch: Watch,
    *,
    resume: bool,
    rates: LayerRates = EVERY_LAYER,
    conclude: Callable[[TrainingState], None],
) -> None:
    """Train, and say on the card how that went; ``conclude`` is what the first process does with a finished training.

    Raises:
        ConvatlasError: as ``fit``; or another process trains the run.
    """
    with run.being_written() if is_main() else nullcontext():
        update(run, status="training", recipe=recipe.model_dump(mode="json"))
        try:
            outcome = fit(
                network, task, feed, recipe, run.path, engine=run.card.engine, rates=rates, resume=resume, watch=watch
            )
        except TrainingError:
            update(run, status="failed")
            raise
        except BaseException:  # a second Ctrl-C, a closed pipe: what a checkpoint holds is not lost
            update(run, status="interrupted")
            raise
        state = outcome.state
        update(run, best=state.best.flat() if state.best else None, findings=tuple(state.findings))
        if outcome.interrupted:
            update(run, status="interrupted")
        elif is_main():
            conclude(state)
            run.update(status="finished")  # last, so that a kill before it leaves a run to resume


def decided_engine(
    decide: Callable[[Engine], Acceleration],
    watch: Watch,
    *,
    asked: Engine | None,
    recorded: EngineCard | None = None,
) -> EngineCard:
    """What runs a training: what is asked for, else what ran it so far; with the kernels of then, if there are any.

    The first process decides for all, and alone measures.
    """
    goes_on = recorded is not None and recorded.name == "convatlas"
    wanted: Engine = asked or ("auto" if goes_on else "torch")

    def decided() -> EngineCard:
        acceleration = decide(wanted)
        watch.engine(acceleration)
        if goes_on and acceleration.why_torch:
            watch.finding(
                f"the CPU engine cannot go on with what it began: {acceleration.why_torch}. PyTorch goes on, to "
                "weights that differ by rounding"
            )
        return acceleration.card

    return made_by_main(decided)


def as_the_recipe_starts(network: Network, recipe: Recipe) -> Network:
    """The network with the weights that the recipe begins with, where it says which; chance is left as it was."""
    if recipe.initialization is not None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed)
            initialize(network, recipe.initialization, recipe.initialization_std)
    return network


def updated_recipe(recipe: Kind, settings: dict[str, Any], watch: Watch) -> Kind:
    """The recipe with the settings that are asked for; what falls away with them is told."""
    changed = recipe.updated(**settings)
    if is_main() and "nesterov" not in settings and (dropped := changed.dropped_from(recipe)) is not None:
        watch.finding(dropped)
    return changed


def skipped_finding(skipped: Sequence[tuple[str, str]]) -> str:
    """What a person hears of files that are left out, each with its reason.

    >>> skipped_finding([("a.png", "cut short")])
    '1 files cannot be read and are left out: a.png (card.json has all, with reasons)'
    """
    names = ", ".join(name for name, _ in skipped[:SKIPPED_NAMES_SHOWN])
    more = ", ..." if len(skipped) > SKIPPED_NAMES_SHOWN else ""
    return f"{len(skipped)} files cannot be read and are left out: {names}{more} (card.json has all, with reasons)"


def update(run: Run, **changes: Any) -> None:
    """Change the card; the first process writes it."""
    if is_main():
        run.update(**changes)
    else:
        run.card = run.card.model_copy(update=changes)


def recipe_to_go_on_with(run: Run, kind: type[Kind], *, epochs: int | None, time_budget: float | None) -> Kind:
    """The recipe of a run that is resumed, with the new length that is asked for.

    Raises:
        RunError: there is nothing left to do.
    """
    recipe = parse_recipe(run.card.recipe, str(run.path / "card.json"), kind)
    longer = {name: value for name, value in (("epochs", epochs), ("time_budget", time_budget)) if value is not None}
    if longer:
        recipe = recipe.updated(**longer, patience=None)  # a length that is asked for is not cut short
    if longer and checkpoint.exists(run.path):
        _refuse_what_is_done(run, recipe, checkpoint.load_state(run.path))
    elif run.card.status == "finished":  # also by an early stop, before the length it was given
        raise RunError(f"{run.path} is finished. Give --epochs or --time-budget to train it further")
    return recipe


def _refuse_what_is_done(run: Run, recipe: Recipe, state: TrainingState) -> None:
    trained = {"epochs": state.epoch, "steps": state.total_steps, "time_budget": state.seconds}
    for duration, done in trained.items():
        asked = getattr(recipe, duration)
        if asked is not None and asked <= done:
            raise RunError(
                f"{run.path} has already trained {state.epoch} epochs, {state.total_steps} steps and "
                f"{state.seconds:.0f} seconds. Give --epochs or --time-budget for more in all; received "
                f"{duration} = {asked:g}"
            )
