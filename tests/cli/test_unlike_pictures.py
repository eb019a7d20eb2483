"""A warning where pictures look unlike those that a run was trained on: in words, in JSON, in CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import convatlas
from convatlas.data.catalog import open_source
from convatlas.training.progress import Silent

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("convatlas.reports.figures.confusion_figure", "convatlas.reports.figures.save_figure"):
            patch.setattr(name, lambda *_: None)
        patch.setattr("convatlas.workflows.classify.write_report", lambda *_, **__: None)
        convatlas.train("lenet5", "digits", out=out, image_size=28, steps=5, engine="torch", watch=Silent())
    return out


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    digit = open_source("digits").splits["test"].image(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    digit.save(folder / "digit.png")
    ImageOps.invert(digit).save(folder / "inverted.png")
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(folder / "nothing.png")
    return folder


def predict(convatlas: Command, *arguments: object) -> Any:
    answer = convatlas("predict", *arguments, "--engine", "torch")
    assert answer.code == 0, answer.err
    return answer


def test_a_digit_is_answered_without_a_warning(convatlas: Command, trained: Path, pictures: Path) -> None:
    answer = predict(convatlas, trained, pictures / "digit.png")
    assert answer.err == ""
    assert "unlike" not in answer.out


def test_an_inverted_digit_is_answered_with_one(convatlas: Command, trained: Path, pictures: Path) -> None:
    answer = predict(convatlas, trained, pictures / "inverted.png")
    assert answer.err.startswith(f"! {pictures / 'inverted.png'} is unlike the pictures it was trained on: brighter")
    assert answer.err.endswith("than 99.9 % of them; the answer may mean little\n")
    assert "inverted.png  ! unlike the training's pictures" in answer.out


def test_several_are_counted_in_one_line(convatlas: Command, trained: Path, pictures: Path) -> None:
    answer = predict(convatlas, trained, pictures)
    assert answer.err.startswith("! 2 of 3 pictures are unlike those it was trained on: 1 ")
    assert len(answer.err.splitlines()) == 1


def test_json_and_csv_say_it_of_each(convatlas: Command, trained: Path, pictures: Path, tmp_path: Path) -> None:
    answer = predict(convatlas, trained, pictures, "--json", "--csv", tmp_path / "found.csv")
    unlike = [each["unlike"] for each in json.loads(answer.out)]
    assert unlike[0] == []
    assert "brighter" in unlike[1]
    assert "darker" in unlike[2]
    with (tmp_path / "found.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["rank"] == "1"]
    assert [row["unlike"] for row in rows] == ["; ".join(words) for words in unlike]


def test_a_run_that_kept_no_looks_warns_of_nothing(convatlas: Command, trained: Path, pictures: Path) -> None:
    card = json.loads((trained / "card.json").read_text())
    kept = card.pop("appearance")
    assert kept["crop"] == 28
    (trained / "card.json").write_text(json.dumps(card))
    try:
        answer = predict(convatlas, trained, pictures, "--json")
        assert answer.err == ""
        assert {str(each["unlike"]) for each in json.loads(answer.out)} == {"None"}
    finally:
        (trained / "card.json").write_text(json.dumps(card | {"appearance": kept}))


def test_looks_that_cannot_be_are_one_line(convatlas: Command, trained: Path, pictures: Path) -> None:
    card = json.loads((trained / "card.json").read_text())
    strange = card | {"appearance": {"crop": 27, "ranges": {}}}
    (trained / "card.json").write_text(json.dumps(strange))
    try:
        answer = convatlas("predict", trained, pictures)
        assert answer.code == 2
        assert "looks of 27 pixels for a network of 28" in answer.err
    finally:
        (trained / "card.json").write_text(json.dumps(card))
