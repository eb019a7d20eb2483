"""Training within an amount of memory: sizes, the batch that fits, and what a process really takes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import convatlas
from convatlas import memory_budget
from convatlas.acceleration import Acceleration, EngineCard
from convatlas.data.dataset import Dataset, ImageArray
from convatlas.data.preprocessing import Preprocessing
from convatlas.engine import accelerate
from convatlas.errors import RecipeError
from convatlas.memory_budget import fit_recipe, parse_memory, shortage
from convatlas.models import create_model
from convatlas.training.progress import Silent
from convatlas.training.recipe import ClassificationRecipe

RESIDENT = 750_000_000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9),
        ("7.5GB", 7_500_000_000),
        ("800MB", 800 * 10**6),
        (" 2 GiB ", 2 * 2**30),
        ("512MiB", 512 * 2**20),
        ("1TB", 10**12),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["8", "GB", "8gigs", "-1GB", "0GB", "8 G", "1e3MB", ""])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(RecipeError, match="8GB"):
        parse_memory(text)


@pytest.fixture(autouse=True)
def resident(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same process for every test, whatever ran before it."""
    monkeypatch.setattr(memory_budget, "_resident_bytes", lambda: RESIDENT)


def images(count: int, side: int = 32) -> ImageArray:
    return ImageArray.of(np.zeros((count, side, side, 3), np.uint8), np.arange(count) % 10)


DATASET = Dataset(
    name="blank", classes=tuple("0123456789"), train=images(2000), validation=images(50), test=images(50),
    fingerprint="", skipped=(), mirror=True, split_seed=0, validation_fraction=0.1,
)  # fmt: skip
PREPROCESSING = Preprocessing(channels=3, resize=32, crop=32, scale=1.0, mean=(0, 0, 0), std=(1, 1, 1))
RECIPE = ClassificationRecipe(epochs=1, learning_rate=0.1, batch_size=1024)


def fit(limit: int, recipe: ClassificationRecipe = RECIPE, **more: Any) -> tuple[ClassificationRecipe, str | None]:
    network = create_model("cnn5_cifar", seed=0)
    return fit_recipe(limit, network, recipe, DATASET, PREPROCESSING, **{"engine": "torch", **more})


def test_a_batch_that_fits_is_left_alone() -> None:
    assert fit(8 * 10**9) == (RECIPE, None)


def test_the_largest_batch_is_taken_and_the_learning_rate_follows() -> None:
    recipe, finding = fit(1_000_000_000)
    assert 1 < recipe.batch_size < 1024
    assert recipe.learning_rate == pytest.approx(0.1 * recipe.batch_size / 1024, rel=1e-3)
    assert finding is not None
    assert f"batch is {recipe.batch_size} instead of 1024" in finding
    assert "1 GB" in finding
    one_more = recipe.updated(batch_size=recipe.batch_size + 1)
    assert fit(1_000_000_000, recipe) == (recipe, None)
    assert fit(1_000_000_000, one_more)[0].batch_size == recipe.batch_size


def test_what_somebody_asked_for_is_not_changed() -> None:
    recipe, _ = fit(1_000_000_000, asked=("learning_rate",))
    assert recipe.batch_size < 1024
    assert recipe.learning_rate == 0.1
    with pytest.raises(RecipeError, match=rf"batches of 1024 take .*Batches of {recipe.batch_size} fit"):
        fit(1_000_000_000, asked=("batch_size",))


def test_a_moving_average_needs_more() -> None:
    plain = fit(1_000_000_000)[0].batch_size
    assert fit(1_000_000_000, RECIPE.updated(ema_decay=0.99))[0].batch_size < plain


@pytest.fixture
def engine_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would be faster on this machine."""
    pytest.importorskip("llvmlite")

    def settled(network: nn.Module, shape: Sequence[int]) -> Acceleration:
        return Acceleration(accelerate(network, torch.zeros(*shape), {}), EngineCard(name="convatlas"))

    monkeypatch.setattr(memory_budget, "settle", settled)


@pytest.mark.usefixtures("engine_trains")
def test_the_engine_is_planned_where_it_trains() -> None:
    plain = fit(1_000_000_000)[0].batch_size
    with_engine = fit(1_000_000_000, engine="auto")[0].batch_size
    assert with_engine != plain
    recipe = RECIPE.updated(batch_size=with_engine)
    assert fit(1_000_000_000, recipe, engine="auto") == (recipe, None)


@pytest.mark.usefixtures("engine_trains")
def test_nothing_fits() -> None:
    with pytest.raises(
        RecipeError, match=r"takes .* MB at the smallest batch, 1, and --memory allows 600 MB"
    ) as caught:
        fit(600_000_000)
    assert "\n" not in str(caught.value)
    enough_for_torch = int(re.findall(r"takes (\d+) MB", str(caught.value))[0]) + 1
    with pytest.raises(RecipeError, match="--engine torch, which takes"):
        fit(enough_for_torch * 10**6, engine="auto")


def test_what_is_not_planned_is_refused() -> None:
    with pytest.raises(RecipeError, match="compiled"):
        fit(10**9, RECIPE.updated(compile=True))


def test_a_small_set_bounds_the_batch() -> None:
    small = replace(DATASET, train=images(20))
    network = create_model("cnn5_cifar", seed=0)
    assert fit_recipe(10**9, network, RECIPE, small, PREPROCESSING, engine="torch") == (RECIPE, None)


def shortage_with(
    free: int | None, monkeypatch: pytest.MonkeyPatch, recipe: ClassificationRecipe = RECIPE
) -> str | None:
    monkeypatch.setattr(memory_budget, "free_bytes", lambda: free)
    network = create_model("cnn5_cifar", seed=0)
    return shortage(network, recipe, DATASET, PREPROCESSING, engine="torch")


def test_a_shortage_names_the_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = shortage_with(500_000_000, monkeypatch)
    assert finding is not None
    assert "batches of 1024 take" in finding
    assert "--memory 1250MB" in finding
    fitting = int(re.findall(r"--set batch_size=(\d+)", finding)[0])
    assert fit(1_250_000_000, RECIPE.updated(batch_size=fitting)) == (RECIPE.updated(batch_size=fitting), None)
    assert shortage_with(500_000_000, monkeypatch, RECIPE.updated(batch_size=fitting)) is None


def test_there_may_be_no_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "smaller network" in str(shortage_with(1_000_000, monkeypatch))


@pytest.mark.parametrize("free", [None, 10**13])
def test_where_there_is_plenty_or_nobody_says_nothing_is_planned(
    free: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(memory_budget, "Rehearsal")
    assert shortage_with(free, monkeypatch) is None


class Listening(Silent):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def finding(self, text: str) -> None:
        self.heard.append(text)


def test_a_run_says_what_it_was_trained_with(tmp_path: Path) -> None:
    watch = Listening()

    def train(memory: int) -> convatlas.Run:
        return convatlas.train(
            "lenet5", data="digits", image_size=28, out=tmp_path / "run", memory=memory, engine="torch", watch=watch,
            recipe=ClassificationRecipe(steps=2, learning_rate=0.1, batch_size=1000),
        )  # fmt: skip

    with pytest.raises(RecipeError, match="at the smallest batch, 1,") as refusal:
        train(memory=1_000_000)
    least = parse_memory(str(refusal.value).split(" takes ")[1].split(" at ")[0])  # depends on what ran before
    run = train(memory=least + 20_000_000)
    assert run.card.recipe["batch_size"] < 1000
    assert any("to train within" in finding for finding in watch.heard)


PEAK = """
import re, sys, convatlas
from convatlas.training.progress import Silent
convatlas.train("resnet18", data="digits", image_size=64, out=sys.argv[1], memory=sys.argv[2], engine=sys.argv[3],
                watch=Silent(), steps=8)
# not ru_maxrss, which begins with what the process that started this one takes
print("peak", int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize(("size", "engine"), [("1.4GB", "torch"), ("1.9GB", "auto")])
def test_a_process_stays_within_its_memory(size: str, engine: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PEAK, str(tmp_path / "run"), size, engine]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    match = re.search(r"peak (\d+)", done.stdout)
    assert match is not None
    assert int(match[1]) <= parse_memory(size)
