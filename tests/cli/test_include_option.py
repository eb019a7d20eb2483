"""``--include``: a pattern that image files have to fit, kept by the run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import convatlas as atlas
from convatlas.data.catalog import open_source
from convatlas.errors import ConvatlasError, DataError
from convatlas.training.progress import Silent

Command = Callable[..., Any]


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """Forty photographs of two classes with a mask beside each, and a folder with masks alone."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "pets" / name
        folder.mkdir(parents=True)
        for number in range(20):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{number}.JPG")
            Image.fromarray(rng.integers(0, 2, (16, 16), np.uint8) * 255).save(folder / f"{number}.png")
    (tmp_path / "pets" / "outlines").mkdir()
    Image.new("L", (16, 16)).save(tmp_path / "pets" / "outlines" / "0.png")
    return tmp_path / "pets"


def train(convatlas: Command, data: Path, out: Path, *more: object) -> Any:
    settings = ("--image-size", 16, "--set", "steps=2", "--batch", 8, "--engine", "torch")
    return convatlas("train", "lenet5", "--data", data, "--out", out, *settings, *more)


def test_only_files_that_fit_are_there_whatever_the_case(masked: Path) -> None:
    source = open_source(masked, "*.jpg")
    assert source.classes == ("cat", "dog")
    assert len(source.splits["train"]) == 40
    assert source.ignored == ()
    assert source.stamp != open_source(masked).stamp
    assert len(open_source(masked, "*").splits["train"]) == 81


def test_a_pattern_with_a_folder_is_of_the_whole_path(masked: Path) -> None:
    assert open_source(masked, "*t/1*.png").classes == ("cat",)


def test_the_same_holds_in_an_archive(masked: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for file in sorted(masked.rglob("*.*")):
            archive.write(file, file.relative_to(tmp_path))
    assert len(open_source(tmp_path / "pets.zip", "*.jpg").splits["train"]) == 40


def test_a_pattern_that_nothing_fits_says_what_there_is(masked: Path) -> None:
    with pytest.raises(DataError, match=r"fits --include '\*\.tif': it holds 41 \.png, 40 \.jpg"):
        open_source(masked, "*.tif")


def test_a_set_without_files_has_none_to_choose_among(convatlas: Command) -> None:
    answer = convatlas("data", "describe", "digits", "--include", "*.png")
    assert answer.code == 2
    assert "the images of digits are no files of their own" in answer.err
    assert len(open_source("digits", "*").splits["train"]) == 1438


@pytest.mark.usefixtures("undrawn")
def test_a_run_keeps_its_pattern_for_evaluate_and_resume(convatlas: Command, masked: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer = train(convatlas, masked, run, "--include", "*.jpg")
    assert answer.code == 0, answer.err
    card = json.loads((run / "card.json").read_text())
    assert card["data"]["include"] == "*.jpg"
    assert sum(card["data"]["counts"].values()) == 40
    assert convatlas("evaluate", run, "--engine", "torch").code == 0

    moved = masked.rename(tmp_path / "moved")
    answer = convatlas("evaluate", run, "--data", moved, "--engine", "torch", "--json")
    assert json.loads(answer.out)["images"] == "moved test"
    answer = convatlas("evaluate", run, "--data", moved, "--include", "[ab]*", "--engine", "torch")
    assert answer.code == 2
    assert "it holds" in answer.err
    answer = convatlas("train", "--resume", run, "--epochs", 2, "--data", moved)
    assert answer.code == 0, answer.err


def test_options_that_make_no_sense_are_one_line(convatlas: Command, masked: Path, tmp_path: Path) -> None:
    assert "leave out --include" in convatlas("train", "--resume", tmp_path, "--include", "*.jpg").err
    answer = convatlas("data", "describe", "rows.csv", "--include", "*.jpg")
    assert answer.code == 2
    assert "--include is for images" in answer.err
    with pytest.raises(ConvatlasError, match="include has no meaning for autoencoder_plain"):
        atlas.train("autoencoder_plain", np.zeros((4, 2)), include="*.jpg", watch=Silent())
    with pytest.raises(ConvatlasError, match="include is a pattern such as"):
        atlas.train("lenet5", masked, include=3, watch=Silent())  # type: ignore[arg-type]
