"""Weights from the command line: a table, a baseline, frozen layers, a run that goes on; mistakes in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convatlas.models import create_model
from convatlas.tensors import read_tensors

Command = Callable[..., Any]
CLASSES = ("dark", "bright", "striped")


def pictures(root: Path, classes: tuple[str, ...], each: int = 10) -> Path:
    """A set that even untrained features can tell apart."""
    chance = np.random.default_rng(0)
    for name in classes:
        for number in range(each):
            pixels = chance.integers(0, 60, (32, 32, 3)) + (150 if name == "bright" else 0)
            pixels[:, ::4] += 150 if name == "striped" else 0
            path = root / name / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("photos"), CLASSES)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "ten.pth"
    torch.save({"state_dict": create_model("resnet20", num_classes=10, seed=3).state_dict()}, path)
    return path


def test_a_training_from_weights(convatlas: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = ("--weights", weights, "--freeze", "until:conv1", "--head-rate", "5x", "--balance", "--set", "warmup=0")
    answer = convatlas("train", "resnet20", "--data", photos, "--out", out, "--epochs", "1", *asked)
    assert answer.code == 0, answer.err
    assert "weights  ten.pth, by name" in answer.out
    assert "new head" in answer.out
    assert "linear probe" in answer.out
    assert 'always "' in answer.out
    card = json.loads((out / "card.json").read_text())
    assert card["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert (card["recipe"]["name"], card["recipe"]["class_weights"]) == ("transfer", "balanced")
    assert card["weights"]["loaded"] == card["weights"]["total"]
    assert card["engine"]["name"] == "torch"
    before = torch.load(weights, weights_only=True)["state_dict"]
    after = read_tensors(out / "model.safetensors")
    assert torch.equal(after["conv1.weight"], before["conv1.weight"])
    assert not torch.equal(after["layer3.2.conv2.weight"], before["layer3.2.conv2.weight"])

    onwards = convatlas("train", "--resume", out, "--epochs", "2")
    assert onwards.code == 0, onwards.err
    again = read_tensors(out / "model.safetensors")
    assert torch.equal(again["conv1.weight"], before["conv1.weight"])

    named = convatlas("predict", out, photos / "bright" / "00.png", "--json")
    assert {each["class"] for each in json.loads(named.out)[0]["top"]} == set(CLASSES)


def test_a_run_gives_its_weights_and_its_preprocessing(convatlas: Command, photos: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    answer = convatlas("train", "resnet20", "--data", photos, "--out", first, "--epochs", "1", "--engine", "torch")
    assert answer.code == 0, answer.err
    answer = convatlas(
        "train",
        "resnet20",
        "--data",
        photos,
        "--out",
        second,
        "--weights",
        first,
        "--epochs",
        "1",
        *("--engine", "torch"),
    )
    assert answer.code == 0, answer.err
    cards = [json.loads((each / "card.json").read_text()) for each in (first, second)]
    assert cards[0]["preprocessing"] == cards[1]["preprocessing"]
    assert cards[1]["weights"]["loaded"] == cards[1]["weights"]["total"]
    assert cards[0]["weights"] is None


def test_probe_without_training(convatlas: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    answer = convatlas("probe", "resnet20", "--data", photos, "--weights", weights, "--out", out, "--json")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    assert record["features"] == 64
    assert record["probe"]["n"] == 3
    kept = np.load(out)
    assert kept["train_features"].shape[1] == 64
    assert list(kept["classes"]) == sorted(CLASSES)
    by_layer = convatlas("probe", "resnet20", "--data", photos, "--weights", weights, "--layer", "conv1")
    assert "16 features of conv1" in by_layer.out


def test_a_network_is_used_without_a_run(convatlas: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = pictures(tmp_path / "known", ("goldfish", "Great_White_Shark"), each=3)
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    state = create_model("resnet20", num_classes=1000, seed=0).state_dict()
    torch.save(state, tmp_path / "cache" / "weights" / "resnet20.pth")
    answer = convatlas(
        "predict", "resnet20", known / "goldfish" / "00.png", "--top", "2", "--engine", "torch", "--json"
    )
    assert answer.code == 0, answer.err
    assert len(json.loads(answer.out)[0]["top"]) == 2
    answer = convatlas("evaluate", "resnet20", "--data", known, "--engine", "torch", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["n"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "resnet20", "--data", "{photos}", "--weights", "no.pth"], "there is no file no.pth"),
        (["train", "resnet32", "--data", "{photos}", "--weights", "{weights}"], "ten.pth is not for this network"),
        (["train", "resnet20", "--data", "{photos}", "--weights", "{photos}"], "weights are imagenet, a file"),
        (["train", "resnet20", "--data", "{photos}", "--weights", "imagenett"], "received imagenett"),
        (["predict", "resnet21", "x.png"], "Or is one of the networks"),
        (["train", "resnet20", "--data", "{photos}", "--freeze", "until:conv99"], "no layer named 'conv99'"),
        (["train", "resnet20", "--data", "{photos}", "--freeze", "all"], "freeze is none, features or until:TAP"),
        (["train", "resnet20", "--data", "{photos}", "--head-rate", "fast"], "--head-rate takes a number of times"),
        (["train", "autoencoder_deep", "--data", "{photos}", "--weights", "imagenet"], "weights has no meaning for"),
        (["predict", "resnet20", "x.png", "--weights", "{weights}"], "does not say which classes its outputs are"),
        (["probe", "resnet20", "--data", "{photos}", "--weights", "{weights}", "--out", "f.csv"], "written as .npz"),
        (["train", "lenet5_1998", "--data", "{photos}", "--weights", "{rbf}"], "use --set head_start=random"),
        (["train", "--resume", "runs/x", "--weights", "imagenet"], "leave out --weights"),
    ],
)
def test_mistakes_are_one_line(
    convatlas: Command, photos: Path, weights: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    rbf = tmp_path / "rbf.pth"
    torch.save(create_model("lenet5_1998", seed=0).state_dict(), rbf)
    answer = convatlas(*(each.format(photos=photos, weights=weights, rbf=rbf) for each in arguments))
    assert answer.code == 2
    assert message in answer.err
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err


def test_grey_weights_take_grey_images(convatlas: Command, tmp_path: Path) -> None:
    torch.save(create_model("lenet5", seed=0).state_dict(), tmp_path / "lenet.pth")
    asked = ("--weights", tmp_path / "lenet.pth", "--set", "steps=2", "--engine", "torch", "--out", tmp_path / "run")
    answer = convatlas("train", "lenet5", "--data", "digits", *asked)
    assert answer.code == 0, answer.err
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert (card["preprocessing"]["channels"], card["preprocessing"]["mean"]) == (1, [0.0])
