"""What people type who come from elsewhere, and what is printed beside an accuracy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from convatlas.cli.train import _seconds
from convatlas.errors import ConvatlasError
from convatlas.runs import Run

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("5min", 300), ("90sec", 90), ("1h30m", 5400), ("1.5 h", 5400), ("2h 5min", 7500)],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert _seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "0s", "5 minutes", "m5", "1h30", "-5m", "1hh"])
def test_other_durations_are_told(text: str) -> None:
    with pytest.raises(ConvatlasError, match="90s, 10m, 5min or 1h30m"):
        _seconds(text)


def test_version(convatlas: Command) -> None:
    answer = convatlas("--version")
    assert (answer.code, answer.out.split()[0]) == (0, "convatlas")


def test_accuracy_is_told_beside_guessing_and_a_killed_run_is_not_training(convatlas: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = ("--image-size", "16", "--epochs", "1", "--batch", "64", "--lr", "0.02", "--engine", "torch")
    answer = convatlas("train", "lenet5", "--data", "digits", "--out", out, *asked)
    assert answer.code == 0, answer.err
    assert "balanced accuracy" in answer.out
    assert "always answering" in answer.out
    card = json.loads((out / "card.json").read_text())
    assert (card["recipe"]["batch_size"], card["recipe"]["learning_rate"]) == (64, 0.02)
    assert 0.08 < card["test"]["guessing"] < 0.12

    card["status"] = "training"  # as a kill leaves it
    (out / "card.json").write_text(json.dumps(card))
    listed = convatlas("runs", tmp_path, "--json")
    assert json.loads(listed.out)[0]["status"] == "stopped"
    run = Run.open(out)
    with run.being_written():
        assert Run.open(out).status == "training"
    before = sorted(out.iterdir())
    assert Run.open(out).status == "stopped"
    assert sorted(out.iterdir()) == before


def test_digits_are_enlarged_for_a_network_that_takes_none_so_small(convatlas: Command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = convatlas("train", "lenet5", "--data", "digits", "--out", out, "--set", "steps=2", "--engine", "torch")
    assert answer.code == 0, answer.err
    assert "images of 8x8 are enlarged to 28x28, the size that lenet5 is made for" in " ".join(answer.out.split())
    assert json.loads((out / "card.json").read_text())["preprocessing"]["crop"] == 28

    photos = tmp_path / "photos"
    (photos / "inner").mkdir(parents=True)
    for number in range(3):
        Image.new("L", (20, 20), 40 * number).save(photos / "inner" / f"{number}.png")
    (photos / "broken.png").write_bytes(b"no picture")
    table = tmp_path / "classes.csv"
    answer = convatlas("predict", out, photos, "--csv", table, "--top", "2", "--engine", "torch")
    assert answer.code == 0
    assert "left out" in answer.err
    assert "broken.png" in answer.err
    lines = table.read_text().splitlines()
    assert lines[0] == "image,rank,class,probability,unlike"
    assert len(lines) == 1 + 3 * 2
    for pattern in (photos / "inner" / "*.png", photos / "**" / "[0-9].png", photos / "in*"):
        found = convatlas("predict", out, pattern, "--json", "--engine", "torch")
        assert len(json.loads(found.out)) == 3
    nothing = convatlas("predict", out, photos / "broken.png")
    assert (nothing.code, nothing.err.count("\n")) == (2, 1)
    empty = convatlas("predict", out, tmp_path / "*.jpg")
    assert "there are no images in" in empty.err


def test_a_module_is_not_a_name() -> None:
    import torch

    import convatlas as package

    with pytest.raises(ConvatlasError, match=r"train takes the name of a network.* received a Linear"):
        package.train(torch.nn.Linear(2, 2), data="digits")


def test_without_a_test_set_validation_figures_are_kept(convatlas: Command, tmp_path: Path) -> None:
    for part, each in (("train", 6), ("val", 3)):
        for shade, name in ((30, "dark"), (220, "light")):
            for number in range(each):
                path = tmp_path / "set" / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (28, 28), shade + number).save(path)
    out = tmp_path / "run"
    asked = ("--out", out, "--epochs", "1", "--engine", "torch")
    answer = convatlas("train", "lenet5", "--data", tmp_path / "set", *asked)
    assert answer.code == 0, answer.err
    assert json.loads((out / "evaluations" / "set-validation.json").read_text())["n"] == 6
    assert "These images chose the weights" in (out / "report.html").read_text()
    assert json.loads((out / "card.json").read_text())["test"] is None
