"""What new users mistype or leave over, and the line or the remark that they get for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Command = Callable[..., Any]

TRAIN = ("train", "lenet5", "--data", "digits", "--image-size", 28, "--engine", "torch", "--set", "steps=2")


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.effect_noise((8, 8), 50).save(tmp_path / "photos" / name / "0.png")
    (tmp_path / "photons.txt").write_text("no images")
    (tmp_path / "pictures.zip").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "meant"), [("phots/", "photos"), ("./phots", "photos"), ("picturs.zip", "pictures.zip")]
)
def test_a_mistyped_folder_names_the_one_beside_it(convatlas: Command, beside: Path, typed: str, meant: str) -> None:
    answer = convatlas("data", "describe", typed)
    assert answer.code == 2
    assert f"did you mean {meant}?" in answer.err
    assert "photons" not in answer.err


def test_a_mistyped_name_is_held_against_folders_and_data_sets(convatlas: Command, beside: Path) -> None:
    assert "did you mean photos?" in convatlas("data", "describe", "phots").err
    assert "did you mean digits?" in convatlas("data", "describe", "digts").err


def test_a_mistyped_path_elsewhere_is_told_whole(convatlas: Command, beside: Path) -> None:
    answer = convatlas("data", "describe", beside / "photo")
    assert f"did you mean {beside / 'photos'}?" in answer.err


@pytest.mark.usefixtures("undrawn")
def test_another_optimizer_drops_nesterov_with_a_remark(convatlas: Command, tmp_path: Path) -> None:
    answer = convatlas(*TRAIN, "--recipe", "resnet", "--set", "optimizer=adam", "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    said = " ".join((answer.out + answer.err).split())
    assert (
        "nesterov is left out: it is of SGD with momentum. The learning rate stays at 0.05, which was chosen for sgd"
        in said
    )
    recipe = json.loads((tmp_path / "run" / "card.json").read_text())["recipe"]
    assert (recipe["optimizer"], recipe["nesterov"]) == ("adam", False)


def test_nesterov_that_is_asked_for_is_an_error(convatlas: Command, tmp_path: Path) -> None:
    settings = ("--set", "optimizer=adam", "--set", "nesterov=true")
    answer = convatlas(*TRAIN, "--recipe", "resnet", *settings, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "nesterov needs optimizer = 'sgd'" in answer.err


@pytest.mark.usefixtures("undrawn")
def test_a_device_is_taken_by_name(convatlas: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert convatlas(*TRAIN, "--device", "cpu", "--out", run).code == 0
    assert convatlas("evaluate", run, "--device", "cpu", "--engine", "torch").code == 0
    Image.effect_noise((28, 28), 50).save(tmp_path / "noise.png")
    assert convatlas("predict", run, tmp_path / "noise.png", "--device", "cpu").code == 0
    assert convatlas("train", "--resume", run, "--epochs", 2, "--device", "cpu").code == 0


def test_no_such_device_is_one_line(convatlas: Command, tmp_path: Path) -> None:
    answer = convatlas(*TRAIN, "--device", "gpu", "--out", tmp_path / "run")
    assert answer.code == 2
    assert answer.err == "convatlas: a device is cpu, cuda, cuda:0 or mps; received 'gpu'\n"
    assert not (tmp_path / "run").exists()
