"""The main job on real pictures: JPEG archives, photographs of all sizes, and a set by its name."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

pytestmark = pytest.mark.slow


def archive(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        pytest.skip(f"needs {name} in CONVATLAS_TEST_DATA")
    return folder / name


def test_cifar_pictures_in_an_archive_train_resume_and_predict(
    convatlas: Command, test_data: Path, tmp_path: Path
) -> None:
    pictures = archive(test_data, "cifar10-jpeg.tar.xz")
    run = tmp_path / "run"
    answer = convatlas("train", "vgg11_bn_cifar", "--data", pictures, "--set", "steps=60", "--out", run)
    assert answer.code == 0, answer.err
    card = json.loads((run / "card.json").read_text())
    assert card["data"]["counts"] == {"train": 45_000, "validation": 5_000, "test": 10_000}
    assert card["test"]["n"] == 10_000
    assert card["test"]["interval"][0] > 0.1  # surely better than guessing among ten

    with tarfile.open(pictures) as tar:
        tar.extract("test/frog/0001.jpg", tmp_path, filter="data")
    answer = convatlas("predict", run, tmp_path / "test" / "frog" / "0001.jpg", "--json")
    assert {entry["class"] for entry in json.loads(answer.out)[0]["top"]} <= set(card["classes"])

    rows = len((run / "history.csv").read_text().splitlines())
    spent = json.loads((run / "state.json").read_text())["seconds"]
    answer = convatlas("train", "--resume", run, "--time-budget", f"{spent + 10:.0f}s")
    assert answer.code == 0, answer.err
    assert len((run / "history.csv").read_text().splitlines()) > rows


def test_photographs_are_described_and_trained_on(convatlas: Command, test_data: Path, tmp_path: Path) -> None:
    photographs = archive(test_data, "ants-bees.tar")
    answer = convatlas("data", "describe", photographs, "--json")
    assert answer.code == 0, answer.err
    assert "imageNotFound.gif" in answer.out

    run = tmp_path / "run"
    settings = ("--set", "epochs=2", "--set", "batch_size=32", "--image-size", 64)
    answer = convatlas("train", "alexnet", "--data", photographs, *settings, "--out", run)
    assert answer.code == 0, answer.err
    assert "no test set was given" in answer.out
    card = json.loads((run / "card.json").read_text())
    assert card["preprocessing"]["resize"] == 73  # 64 * 256 / 224
    assert card["test"] is None


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir() and "CONVATLAS_DATA" not in os.environ,
    reason="needs Debian's dataset-fashion-mnist, or CONVATLAS_DATA",
)
def test_fashion_mnist_by_its_name(convatlas: Command, tmp_path: Path) -> None:
    answer = convatlas("train", "lenet5", "--data", "fashion-mnist", "--epochs", 2, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["test"]["accuracy"] > 0.85
    assert card["classes"][0] == "T-shirt/top"
