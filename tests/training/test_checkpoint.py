from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from convatlas.errors import RunError
from convatlas.training import checkpoint
from convatlas.training.checkpoint import Tally, TrainingState
from convatlas.training.history import HistoryRow
from convatlas.training.optimizers import build_optimizer, spared_parameters
from convatlas.training.recipe import ClassificationRecipe

ROW = HistoryRow(1.0, 10, 2.5, 0.1, {"loss": 1.5, "accuracy": 0.5}, {"loss": 1.25, "accuracy": 0.75}, 100.0)


def state_at(step: int) -> TrainingState:
    return TrainingState(
        epoch=1,
        step=step,
        total_steps=step,
        seconds=2.5,
        best=ROW,
        history=[ROW],
        tally=Tally({"loss": 1.0, "accuracy": 2.0}, 3, 4.0),
    )


def weights_at(step: int) -> dict[str, torch.Tensor]:
    return {"model.weight": torch.full((2, 2), float(step)), "model.count": torch.tensor(step)}


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state_at(7), weights_at(7), {"weight/momentum_buffer": torch.ones(2, 2)})
    state, weights, optimizer = checkpoint.load(tmp_path)
    assert state == state_at(7)
    assert torch.equal(weights["model.weight"], weights_at(7)["model.weight"])
    assert weights["model.count"].item() == 7
    assert torch.equal(optimizer["weight/momentum_buffer"], torch.ones(2, 2))


class Killed(BaseException):
    """Stands for the process ending there and then: nothing that follows is run."""


def die_at_operation(number: int, patch: pytest.MonkeyPatch) -> None:
    count = itertools.count()

    def dying(operation: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            if next(count) == number:
                raise Killed
            return operation(*arguments, **options)

        return wrapped

    patch.setattr(Path, "replace", dying(Path.replace))
    patch.setattr(Path, "unlink", dying(Path.unlink))


def test_a_kill_at_any_file_operation_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename and removal is a moment at which the process may die; each leaves the old or the new checkpoint."""
    seen = set()
    for number in range(20):
        directory = tmp_path / str(number)
        checkpoint.save(directory, state_at(1), weights_at(1), {"o": torch.tensor([1.0])})
        with monkeypatch.context() as patch:
            die_at_operation(number, patch)
            with suppress(Killed):
                checkpoint.save(directory, state_at(2), weights_at(2), {"o": torch.tensor([2.0])})
        state, weights, optimizer = checkpoint.load(directory)
        assert weights["model.count"].item() == state.total_steps == optimizer["o"].item()
        seen.add(state.total_steps)
    assert seen == {1, 2}


@pytest.mark.parametrize("name", ["state.json", "last-00000001.safetensors", "optimizer-00000001.safetensors"])
def test_a_damaged_or_missing_file_is_one_line(name: str, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state_at(1), weights_at(1), {"o": torch.zeros(1)})
    (tmp_path / name).write_bytes(b"\x07 not what it was")
    with pytest.raises(RunError, match="is damaged") as caught:
        checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / name).unlink()
    with pytest.raises(RunError, match="no checkpoint to resume"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    "recipe",
    [
        ClassificationRecipe(epochs=1, learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        ClassificationRecipe(epochs=1, learning_rate=0.1, optimizer="adam"),
        ClassificationRecipe(epochs=1, learning_rate=0.1, optimizer="adamw", weight_decay=0.1),
        ClassificationRecipe(epochs=1, learning_rate=0.1, optimizer="rmsprop"),
    ],
    ids=lambda recipe: recipe.optimizer,
)
def test_an_optimizer_goes_on_bit_for_bit(recipe: ClassificationRecipe) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        torch.manual_seed(number)
        model(torch.rand(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    optimizer = build_optimizer(model, recipe)
    step(model, optimizer, 1)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = {name: tensor.clone() for name, tensor in checkpoint.optimizer_tensors(model, optimizer).items()}
    step(model, optimizer, 2)

    again = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    again.load_state_dict(weights)
    resumed = build_optimizer(again, recipe)
    checkpoint.restore_optimizer(again, resumed, kept)
    step(again, resumed, 2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_weight_decay_spares_what_the_recipe_says() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    assert spared_parameters(model, ("bias", "norm")) == {"0.bias", "1.weight", "1.bias", "2.bias"}
    assert spared_parameters(model, ("norm",)) == {"1.weight", "1.bias"}
    assert spared_parameters(model, ()) == set()
    groups = build_optimizer(model, ClassificationRecipe(epochs=1, learning_rate=0.1, weight_decay=0.3)).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(2, 0.3), (4, 0.0)]
