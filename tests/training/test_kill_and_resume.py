"""``kill -9`` in earnest: a process that is killed again and again ends with the weights of one that never was."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from command_process import start, wait_for
from convatlas.training import checkpoint

IMAGES = ["train", "lenet5", "--data", "digits", "--image-size", "16", "--epochs", "3", "--seed", "5"]
ROWS = ["train", "autoencoder_plain", "--epochs", "3", "--seed", "5", "--set", "batch_size=32"]
IN_THE_SECOND_EPOCH = 30  # steps; an epoch of images has 21, one of rows 25


def die_at_rename(number: int) -> None:
    """The process kills itself as it is about to rename its n-th file."""
    replace, seen = Path.replace, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = dying  # type: ignore[method-assign]


def wait_at_step(number: int, mark: Path) -> None:
    """The process leaves a mark at its n-th step, and goes no farther."""
    from convatlas.training.learner import Learner

    step, seen = Learner.step, 0

    def waiting(self: Learner, *arguments: object) -> torch.Tensor:
        nonlocal seen
        seen += 1
        if seen == number:
            mark.touch()
            time.sleep(3600)
        return step(self, *arguments)  # type: ignore[arg-type]

    Learner.step = waiting  # type: ignore[method-assign]


@pytest.fixture(scope="module", params=["images", "rows"])
def train(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command, of which only --out is missing."""
    if request.param == "images":
        return IMAGES
    table = tmp_path_factory.mktemp("tables") / "rows.csv"
    np.savetxt(table, np.random.default_rng(0).normal(size=(1600, 6)), delimiter=",", header="a,b,c,d,e,f", comments="")
    return [*ROWS, "--data", str(table)]


@pytest.fixture(scope="module")
def whole(train: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    place = tmp_path_factory.mktemp("whole")
    assert start(place / "log", *train, "--out", place / "run").finished() == 0
    return place / "run"


def assert_equal_weights(one: Path, other: Path) -> None:
    for load in (lambda path: load_file(path / "model.safetensors"), lambda path: checkpoint.load(path)[1]):
        expected, received = load(one), load(other)
        assert expected.keys() == received.keys()
        assert all(torch.equal(expected[name], received[name]) for name in expected)


def test_a_training_killed_while_it_saves_ends_with_the_same_weights(
    train: list[str], whole: Path, tmp_path: Path
) -> None:
    killed, log = tmp_path / "killed", tmp_path / "log"
    # Before the first step the card is written twice; then five files an epoch, best weights first.
    first = start(log, *train, "--out", killed, prepare=die_at_rename, given=(6,))
    assert first.finished() == -signal.SIGKILL
    second = start(log, "train", "--resume", killed, prepare=die_at_rename, given=(5,))
    assert second.finished() == -signal.SIGKILL
    assert start(log, "train", "--resume", killed).finished() == 0
    assert_equal_weights(whole, killed)


def test_a_training_killed_from_outside_ends_with_the_same_weights(
    train: list[str], whole: Path, tmp_path: Path
) -> None:
    killed, mark = tmp_path / "killed", tmp_path / "mark"
    command = start(tmp_path / "log", *train, "--out", killed, prepare=wait_at_step, given=(IN_THE_SECOND_EPOCH, mark))
    wait_for(mark, command)
    command.process.kill()
    assert command.finished() == -signal.SIGKILL
    assert checkpoint.load(killed)[0].epoch == 1
    assert start(tmp_path / "log", "train", "--resume", killed).finished() == 0
    assert_equal_weights(whole, killed)
