"""Tables at 80 and 60 columns: whole columns are left out and named, and no word is cut."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import convatlas as atlas
from convatlas.cli.text import fitting
from convatlas.training.progress import Silent

Command = Callable[..., Any]

COMMANDS = [
    "models",
    "models resnet",
    "compare-models lenet5 resnet20 autoencoder_plain --no-speed",
    "compare-models lenet5 --batches 2 --batch 2 --engine torch",
    "inspect resnet20 --batch 4",
    "inspect googlenet --depth 1 --batch 1",
    "inspect autoencoder_deep --batch 4",
]
SAID_OF_COLUMNS = "no room here for forward and backward images/s widen the terminal or take --json"


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_fits_and_its_words_are_whole(
    convatlas: Command, monkeypatch: pytest.MonkeyPatch, command: str, width: int
) -> None:
    wide = convatlas(*command.split())
    monkeypatch.setenv("COLUMNS", str(width))
    narrow = convatlas(*command.split())
    assert narrow.code == 0, narrow.err
    assert max(map(len, narrow.out.splitlines())) <= width
    assert "..." not in narrow.out.replace(" ... ", "")
    known = {word.strip(",:") for word in (wide.out + SAID_OF_COLUMNS).split()}
    words = {word.strip(",:") for word in narrow.out.split()}
    assert not {word for word in words - known if word.isalpha()}  # figures may differ from one time to the next


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("width", [80, 60])
def test_the_names_of_runs_are_whole(
    convatlas: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    name = "2026-11-27-lenet5-my-holiday-photos-1a2b"
    atlas.train("lenet5", "digits", image_size=28, steps=1, engine="torch", out=tmp_path / name, watch=Silent())
    shutil.copytree(tmp_path / name, tmp_path / "short")
    monkeypatch.setenv("COLUMNS", str(width))
    answer = convatlas("runs", tmp_path)
    lines = answer.out.splitlines()
    assert max(map(len, lines)) <= width
    assert {line.split()[0] for line in lines[1:3]} == {name, "short"}
    assert "accuracy" in lines[1]
    assert "no room here for data" in answer.out


def test_a_table_that_fits_is_whole_and_one_that_never_does_is_not_cut() -> None:
    rows = [("network", "paper"), ("vgg16", "Simonyan")]
    assert fitting(rows, (), ["paper"], 80) == (["network  paper", "vgg16    Simonyan"], [])
    assert fitting(rows, (), ["paper"], 3) == (["network", "vgg16"], ["paper"])


def test_a_module_that_a_folded_table_shows_has_a_field(convatlas: Command, tmp_path: Path) -> None:
    from PIL import Image

    Image.effect_noise((32, 32), 50).convert("RGB").save(tmp_path / "noise.png")
    draw = ("--field", tmp_path / "field.svg", "--image", tmp_path / "noise.png")
    answer = convatlas("inspect", "resnet20", "--batch", 4, *draw, "--layer", "layer2", "--layer", "layer2.0")
    assert answer.code == 0, answer.err
    assert "layer2" in (tmp_path / "field.svg").read_text()
    answer = convatlas("inspect", "resnet20", "--batch", 4, *draw, "--layer", "layer")
    assert answer.code == 2
    assert "there is no layer named 'layer'" in answer.err
