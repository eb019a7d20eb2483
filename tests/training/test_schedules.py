from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convatlas.training.recipe import ClassificationRecipe
from convatlas.training.schedules import learning_rate

STEPS = 50


def rates(recipe: ClassificationRecipe, steps: int = STEPS, steps_per_epoch: int = 10) -> list[float]:
    return [learning_rate(recipe, step / steps, step // steps_per_epoch) for step in range(steps)]


def torch_rates(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int = STEPS) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


def optimizer(rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], rate)


def test_cosine_equals_torch() -> None:
    expected = torch_rates(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer(), STEPS))
    assert rates(ClassificationRecipe(epochs=5, learning_rate=0.1, schedule="cosine")) == pytest.approx(expected)


def test_one_cycle_equals_torch_up_to_its_rounding_of_the_peak() -> None:
    # PyTorch ends on the last step, convatlas after it, so its cycle over one step more is the same curve
    expected = torch_rates(torch.optim.lr_scheduler.OneCycleLR(optimizer(), 0.1, total_steps=STEPS + 1, pct_start=0.3))
    ours = rates(ClassificationRecipe(epochs=5, learning_rate=0.1, schedule="one_cycle"))
    assert ours == pytest.approx(expected, abs=0.1 * 0.06)
    assert max(ours) == pytest.approx(0.1)


def test_steps_equal_torch() -> None:
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer(), milestones=[20, 40], gamma=0.5)
    recipe = ClassificationRecipe(epochs=5, learning_rate=0.1, schedule="steps", milestones=(2, 4), factors=(0.5, 0.25))
    assert rates(recipe) == pytest.approx(torch_rates(scheduler))


def test_linear_falls_to_zero_after_a_linear_warm_up() -> None:
    recipe = ClassificationRecipe(epochs=5, learning_rate=1.0, schedule="linear", warmup=0.2)
    assert [round(learning_rate(recipe, p, 0), 6) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == [0.0, 0.5, 1.0, 0.5, 0.0]


@given(
    schedule=st.sampled_from(["constant", "cosine", "linear", "one_cycle"]),
    warmup=st.floats(0, 0.9),
    progress=st.floats(-1, 2),
)
def test_a_rate_is_never_negative_nor_above_the_recipes(schedule: str, warmup: float, progress: float) -> None:
    recipe = ClassificationRecipe(epochs=1, learning_rate=0.3, schedule=schedule, warmup=warmup)
    assert 0 <= learning_rate(recipe, progress, 0) <= 0.3 * (1 + 1e-12)
