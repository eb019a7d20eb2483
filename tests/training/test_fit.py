"""The loop against a raw PyTorch loop, interruption and resumption, budgets, patience, and what stops a training."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from command_process import start
from convatlas.data.batches import Batches
from convatlas.data.dataset import Dataset, ImageArray
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import RecipeError, RunError, TrainingError
from convatlas.models import create_model
from convatlas.tasks.classify.task import Classification
from convatlas.training import checkpoint
from convatlas.training.feed import Feed
from convatlas.training.fit import Outcome, fit
from convatlas.training.history import HistoryRow, read_csv
from convatlas.training.progress import Silent
from convatlas.training.recipe import ClassificationRecipe
from stopping import StopAt

RECIPE = ClassificationRecipe(
    epochs=3, batch_size=32, learning_rate=0.05, nesterov=True, weight_decay=1e-3, schedule="cosine"
)


def two_kinds(n: int, seed: int) -> ImageArray:
    """Grey 12x12 images of noise; those of class 1 have a brighter left half."""
    noise = np.random.default_rng(seed)
    labels = noise.integers(0, 2, n)
    images = noise.integers(0, 120, (n, 12, 12, 1))
    images[labels == 1, :, :6] += 100
    return ImageArray.of(images.astype(np.uint8), labels)


@pytest.fixture
def dataset() -> Dataset:
    return Dataset(
        name="halves",
        classes=("dark", "bright"),
        train=two_kinds(150, 0),
        validation=two_kinds(50, 1),
        test=None,
        fingerprint="f",
        skipped=(),
        mirror=True,
        split_seed=0,
        validation_fraction=None,
    )


@pytest.fixture
def preprocessing(dataset: Dataset) -> Preprocessing:
    return Preprocessing.named("standardize", dataset.train, crop=12)


def lenet() -> nn.Module:
    return create_model("lenet5", num_classes=2, image_size=12, seed=0)


def fitted(
    model: nn.Module,
    dataset: Dataset,
    preprocessing: Preprocessing,
    recipe: ClassificationRecipe,
    directory: Path,
    **more: Any,
) -> Outcome:
    task = Classification(dataset.classes, recipe.loss, recipe.label_smoothing)
    return fit(model, task, Feed.of_images(dataset, preprocessing, recipe), recipe, directory, **more)


def last_weights(directory: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(directory)[1]


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.usefixtures("cpu_only")
def test_the_loop_equals_twenty_lines_of_pytorch(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path
) -> None:
    model = lenet()
    raw = copy.deepcopy(model)
    fitted(model, dataset, preprocessing, RECIPE, tmp_path)

    batches = Batches(dataset.train, preprocessing, 32, shuffle=True, seed=0)
    decayed = [parameter for parameter in raw.parameters() if parameter.dim() > 1]
    spared = [parameter for parameter in raw.parameters() if parameter.dim() == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 1e-3}, {"params": spared}], lr=0.05, momentum=0.9, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3 * len(batches))
    raw.train()
    for epoch in range(3):
        for batch in batches.epoch(epoch):
            loss = functional.cross_entropy(raw(batch.inputs), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    ours = last_weights(tmp_path)
    for name, tensor in raw.state_dict().items():
        torch.testing.assert_close(ours[f"model.{name}"], tensor, rtol=1e-4, atol=1e-6)


def test_it_learns_and_leaves_the_files_of_a_run(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path
) -> None:
    outcome = fitted(lenet(), dataset, preprocessing, RECIPE, tmp_path)
    assert not outcome.interrupted
    assert outcome.state.best is not None
    assert outcome.state.best.validation["accuracy"] > 0.9
    rows = read_csv(tmp_path / "history.csv")
    assert rows == outcome.state.history
    assert [row.epoch for row in rows] == [1, 2, 3]
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert (tmp_path / "model.safetensors").is_file()


def test_tensorboard_reads_the_same_curve(dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = fitted(lenet(), dataset, preprocessing, RECIPE, tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    read = [(event.step, event.value) for event in events.Scalars("accuracy/validation")]
    assert read == [(row.step, pytest.approx(row.validation["accuracy"])) for row in outcome.state.history]


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("extra", [{}, {"ema_decay": 0.9, "optimizer": "adamw", "nesterov": False, "clip_norm": 1.0}])
def test_an_interrupted_training_ends_with_the_weights_of_one_that_was_not(
    steps: int,
    extra: dict[str, Any],
    dataset: Dataset,
    preprocessing: Preprocessing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("convatlas.training.fit.REDRAW_EVERY", 0.0)  # so that the watch hears of every step
    recipe = RECIPE.updated(
        augmentation=[{"kind": "flip"}, {"kind": "shift", "fraction": 0.1}, {"kind": "cutout", "size": 3}], **extra
    )
    fitted(lenet(), dataset, preprocessing, recipe, tmp_path / "whole")
    stopped = fitted(lenet(), dataset, preprocessing, recipe, tmp_path / "stopped", watch=StopAt(steps))
    assert stopped.interrupted
    resumed = fitted(lenet(), dataset, preprocessing, recipe, tmp_path / "stopped", resume=True)
    assert not resumed.interrupted
    assert_same_weights(last_weights(tmp_path / "whole"), last_weights(tmp_path / "stopped"))
    assert_same_weights(
        load_file(tmp_path / "whole" / "model.safetensors"), load_file(tmp_path / "stopped" / "model.safetensors")
    )
    whole = read_csv(tmp_path / "whole" / "history.csv")
    again = read_csv(tmp_path / "stopped" / "history.csv")
    assert [(row.step, row.train["loss"], row.validation["loss"]) for row in whole] == [
        (row.step, row.train["loss"], row.validation["loss"]) for row in again
    ]


def test_dropout_is_seeded_by_the_step_and_the_callers_random_state_is_kept(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path
) -> None:
    def network() -> nn.Module:
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 2))

    one, other = network(), network()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    fitted(one, dataset, preprocessing, RECIPE, tmp_path / "one")
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(2)
    fitted(other, dataset, preprocessing, RECIPE, tmp_path / "other")
    assert_same_weights(last_weights(tmp_path / "one"), last_weights(tmp_path / "other"))


def normalized() -> nn.Module:
    """A network with running statistics and dropout, both of which a resumed training must take up exactly."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(400, 2)
    )


def test_batch_norm_and_dropout_are_taken_up_exactly(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convatlas.training.fit.REDRAW_EVERY", 0.0)
    fitted(normalized(), dataset, preprocessing, RECIPE, tmp_path / "whole")
    fitted(normalized(), dataset, preprocessing, RECIPE, tmp_path / "stopped", watch=StopAt(7))
    fitted(normalized(), dataset, preprocessing, RECIPE, tmp_path / "stopped", resume=True)
    assert_same_weights(last_weights(tmp_path / "whole"), last_weights(tmp_path / "stopped"))


def test_a_long_epoch_is_kept_in_its_middle(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a checkpoint after every step, a kill anywhere costs one step; the weights are those of no checkpoints."""
    fitted(lenet(), dataset, preprocessing, RECIPE, tmp_path / "few")
    monkeypatch.setattr("convatlas.training.fit.CHECKPOINT_EVERY", 0.0)
    kept = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *given: (kept.append(given[1].total_steps), save(*given)))
    outcome = fitted(lenet(), dataset, preprocessing, RECIPE, tmp_path / "many")
    assert kept == list(range(1, 16))
    assert len(outcome.state.history) == 3
    assert_same_weights(last_weights(tmp_path / "few"), last_weights(tmp_path / "many"))


def test_stopping_in_the_very_last_step_still_validates(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convatlas.training.fit.REDRAW_EVERY", 0.0)
    outcome = fitted(lenet(), dataset, preprocessing, RECIPE.updated(steps=3), tmp_path, watch=StopAt(3))
    assert not outcome.interrupted
    assert len(outcome.state.history) == 1
    assert (tmp_path / "model.safetensors").is_file()


def test_a_history_that_missed_its_last_row_is_mended(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path
) -> None:
    fitted(lenet(), dataset, preprocessing, RECIPE, tmp_path)
    complete = (tmp_path / "history.csv").read_text()
    (tmp_path / "history.csv").write_text("".join(complete.splitlines(keepends=True)[:-1]))
    fitted(lenet(), dataset, preprocessing, RECIPE, tmp_path, resume=True)
    assert (tmp_path / "history.csv").read_text() == complete


def test_a_checkpoint_of_several_processes_is_not_taken_up_by_one(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path
) -> None:
    fitted(lenet(), dataset, preprocessing, RECIPE.updated(epochs=1), tmp_path)
    state = (tmp_path / "state.json").read_text()
    (tmp_path / "state.json").write_text(state.replace('"world": 1', '"world": 2'))
    with pytest.raises(RunError, match="2 processes together"):
        fitted(lenet(), dataset, preprocessing, RECIPE, tmp_path, resume=True)


def test_a_batch_too_small_for_batch_norm_is_refused_by_name(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"batch_size is 1.*batch_size=2 or more"):
        fitted(normalized(), dataset, preprocessing, RECIPE.updated(batch_size=1), tmp_path)
    fitted(lenet(), dataset, preprocessing, RECIPE.updated(batch_size=1, steps=3, learning_rate=1e-3), tmp_path)


def let_the_disk_fill_up() -> None:
    """The kernel refuses to let a file grow past a limit that the card fits in and the second checkpoint does not."""
    import resource

    from convatlas.training import fit as loop

    validate, seen = loop._Training._validate, []

    def filling(self: Any, state: Any) -> None:
        if seen:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        seen.append(1)
        validate(self, state)

    loop._Training._validate = filling  # type: ignore[method-assign]


def test_a_full_disk_ends_a_training_in_one_line_and_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    train = ["train", "lenet5", "--data", "digits", "--image-size", "16", "--epochs", "2"]
    command = start(tmp_path / "log", *train, "--out", tmp_path / "run", prepare=let_the_disk_fill_up)
    code, said = command.finished(), (tmp_path / "log").read_text()
    assert code == 2, said
    assert "cannot write" in said
    assert "Traceback" not in said
    state, weights, _ = checkpoint.load(tmp_path / "run")
    assert state.epoch == 1
    assert weights


def test_a_finished_training_goes_on_to_more_epochs(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path
) -> None:
    fitted(lenet(), dataset, preprocessing, RECIPE, tmp_path)
    outcome = fitted(lenet(), dataset, preprocessing, RECIPE.updated(epochs=5), tmp_path, resume=True)
    assert [row.epoch for row in outcome.state.history] == [1, 2, 3, 4, 5]


def test_steps_end_within_an_epoch(dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path) -> None:
    outcome = fitted(lenet(), dataset, preprocessing, RECIPE.updated(steps=7), tmp_path)
    assert outcome.state.total_steps == 7
    assert [row.step for row in outcome.state.history] == [5, 7]
    assert outcome.state.history[-1].epoch == pytest.approx(1.4)


def test_a_time_budget_leaves_a_curve_and_ends(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count(0, 0.05)  # seconds; another tick each time that the loop looks at the clock
    monkeypatch.setattr("convatlas.training.fit.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    outcome = fitted(lenet(), dataset, preprocessing, RECIPE.updated(time_budget=5), tmp_path)
    assert 5 <= outcome.state.seconds < 5.2  # the last validation comes on top
    assert len(outcome.state.history) >= 6
    assert outcome.state.history[-1].learning_rate < 0.05 * 0.1  # the schedule is driven by the time that is used up


def test_patience_stops_early_and_the_best_weights_stay(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path
) -> None:
    recipe = RECIPE.updated(epochs=50, learning_rate=1e-30, patience=2)  # too small to change a weight
    outcome = fitted(lenet(), dataset, preprocessing, recipe, tmp_path)
    assert len(outcome.state.history) < 10
    assert outcome.state.since_best == 2


class Explode(nn.Module):
    """A network whose output becomes infinite once it has taken some steps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.linear = nn.Linear(144, 2)
        self.left = after

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(images.flatten(1))
        self.left -= self.training
        return logits if self.left >= 0 else logits * math.inf


def test_a_loss_that_is_not_finite_stops_with_the_last_good_weights(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path
) -> None:
    with pytest.raises(
        TrainingError, match=r"loss became nan in epoch 2, step \d.*weights of epoch 1 are kept.*learning_rate=0\.005"
    ):
        fitted(Explode(after=7), dataset, preprocessing, RECIPE, tmp_path)
    assert all(tensor.isfinite().all() for tensor in last_weights(tmp_path).values())
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "model.safetensors").values())


def test_averaged_weights_are_the_ones_kept(dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path) -> None:
    fitted(lenet(), dataset, preprocessing, RECIPE.updated(ema_decay=0.5, epochs=1), tmp_path)
    tensors = last_weights(tmp_path)
    best = load_file(tmp_path / "model.safetensors")
    for name, tensor in best.items():
        assert torch.equal(tensor, tensors[f"average.module.{name}"])
    assert any(not torch.equal(tensor, tensors[f"model.{name}"]) for name, tensor in best.items())


def test_a_checkpoint_of_another_network_is_refused(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path
) -> None:
    fitted(lenet(), dataset, preprocessing, RECIPE.updated(epochs=1), tmp_path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(RunError, match="does not fit this network"):
        fitted(other, dataset, preprocessing, RECIPE, tmp_path, resume=True)


class Listener(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.rows: list[HistoryRow] = []

    def finding(self, text: str) -> None:
        self.findings.append(text)

    def row(self, row: HistoryRow, is_best: bool) -> None:
        self.rows.append(row)


def test_a_network_of_zeros_is_diagnosed_before_and_after_the_first_epoch(
    dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path
) -> None:
    model = lenet()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    listener = Listener()
    outcome = fitted(model, dataset, preprocessing, RECIPE.updated(epochs=12), tmp_path, watch=listener)
    assert "same weights" in listener.findings[0]
    assert "ln 2 = 0.693" in listener.findings[1]
    assert outcome.state.findings == listener.findings
    assert len(listener.rows) == 12


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("loss", "rate"), [("cross_entropy", 0.02), ("mse", 0.005)])
def test_precisions_and_losses_train(
    precision: str, loss: str, rate: float, dataset: Dataset, preprocessing: Preprocessing, tmp_path: Path
) -> None:
    recipe = RECIPE.updated(precision=precision, loss=loss, epochs=12, learning_rate=rate)
    outcome = fitted(lenet(), dataset, preprocessing, recipe, tmp_path)
    assert outcome.state.best is not None
    assert outcome.state.best.validation["accuracy"] > 0.85
