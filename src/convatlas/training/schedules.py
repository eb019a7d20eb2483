"""Learning-rate schedules as pure functions of how far the training is."""

from __future__ import annotations

import math

from convatlas.training.recipe import Recipe

ONE_CYCLE_START = 1 / 25  # Smith & Topin 2018, arXiv 1708.07120; the figures PyTorch's OneCycleLR uses
ONE_CYCLE_END = ONE_CYCLE_START / 1e4
ONE_CYCLE_WARMUP = 0.3


def learning_rate(recipe: Recipe, progress: float, epoch: int) -> float:
    """The learning rate of the next step.

    Args:
        recipe: names the schedule and its figures.
        progress: share of the whole training that is done, 0 to 1.
        epoch: epochs completed, for the schedule ``steps``.

    >>> from convatlas.training.recipe import ClassificationRecipe
    >>> recipe = ClassificationRecipe(epochs=10, learning_rate=0.1, schedule="cosine")
    >>> [round(learning_rate(recipe, progress, epoch=0), 3) for progress in (0, 0.5, 1)]
    [0.1, 0.05, 0.0]
    """
    return recipe.learning_rate * _factor(recipe, min(max(progress, 0.0), 1.0), epoch)


def _factor(recipe: Recipe, progress: float, epoch: int) -> float:
    if recipe.schedule == "one_cycle":
        return _one_cycle(progress, recipe.warmup or ONE_CYCLE_WARMUP)
    if progress < recipe.warmup:
        return progress / recipe.warmup
    annealed = (progress - recipe.warmup) / (1 - recipe.warmup)
    if recipe.schedule == "cosine":
        return _cosine(1.0, 0.0, annealed)
    if recipe.schedule == "linear":
        return 1 - annealed
    if recipe.schedule == "steps":
        return _step_factor(recipe, epoch)
    return 1.0


def _one_cycle(progress: float, warmup: float) -> float:
    if progress < warmup:
        return _cosine(ONE_CYCLE_START, 1.0, progress / warmup)
    return _cosine(1.0, ONE_CYCLE_END, (progress - warmup) / (1 - warmup))


def _step_factor(recipe: Recipe, epoch: int) -> float:
    reached = [
        factor for milestone, factor in zip(recipe.milestones, recipe.factors, strict=True) if epoch >= milestone
    ]
    return reached[-1] if reached else 1.0


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
