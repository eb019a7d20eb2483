"""Bad input is one line on standard error, exit code 2, and never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import convatlas

    out = tmp_path_factory.mktemp("runs") / "digits"
    convatlas.train("lenet5", data="digits", epochs=1, image_size=16, out=out)
    return out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "vgg61", "--data", "digits"], "no model named 'vgg61'; did you mean .*vgg16"),
        (["train", "lenet5", "--data", "digitz"], "digitz"),
        (["train", "lenet5", "--data", "no/such/folder"], "no/such/folder"),
        (["train", "lenet5"], "train needs a network and --data"),
        (["train", "lenet5", "--data", "digits", "--image-size", "8"], "at least 12x12 .*received 8x8"),
        (["train", "model.pth", "--data", "digits"], "model.pth is a file of weights: name the network"),
        (["train", "lenet5", "--data", "digits", "--recipe", "lennet"], "no recipe named 'lennet'; did you mean lenet"),
        (["train", "lenet5", "--data", "digits", "--set", "lr=1"], "'lr'; it is called learning_rate here"),
        (["train", "lenet5", "--data", "digits", "--set", "learning_rate"], "--set takes key=value"),
        (["train", "lenet5", "--data", "digits", "--image-size", "28", "--set", "initialization=hee"], "he_normal"),
        (
            ["train", "lenet5", "--data", "digits", "--image-size", "28", "--set", "memory_efficient=true"],
            "only DenseNets",
        ),
        (["train", "lenet5", "--data", "digits", "--time-budget", "soon"], "--time-budget takes a duration such as"),
        (["train", "lenet5", "--data", "digits", "--epochs", "0"], "epochs"),
        (["train", "lenet5", "--data", "digits", "--epochs", "2", "--time-budget", "1m"], "exactly one of"),
        (["train", "--resume", "nowhere"], "nowhere is not a run"),
        (["train", "lenet5", "--resume", "nowhere"], "leave out MODEL"),
        (["train", "--resume", "nowhere", "--seed", "0", "--strict"], "leave out --seed, --strict"),
        (["train", "lenet5", "--data", "digits", "--set", "initialization_std=0.1"], "goes with initialization"),
        (["train", "lenet5", "--data", "digits", "--set", "learning_rate=1e300"], "learning_rate"),
        (["train", "lenet5", "--data", "digits", "--image-size", "200000"], "image_size is a side .* 1 to 4096"),
        (["evaluate", "nowhere"], "is not a run"),
        (["evaluate", "n" * 5000], "is no directory: File name too long"),
        (["predict", "nowhere", "x.png"], "is not a run"),
        (["recipes", "nope"], "no recipe named 'nope'"),
        (["models", "--family", "vg"], "no model family named 'vg'; did you mean vgg"),
        (["frobnicate"], "frobnicate"),
        (["train", "--frob"], "--frob"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, convatlas: Command) -> None:
    import re

    answer = convatlas(*arguments)
    assert answer.code == 2
    assert answer.err.startswith("convatlas: ")
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err
    assert re.search(message, answer.err), answer.err


def test_a_run_directory_that_is_taken_is_not_overwritten(run: Path, convatlas: Command) -> None:
    before = (run / "card.json").read_bytes()
    answer = convatlas("train", "lenet5", "--data", "digits", "--image-size", 16, "--out", run)
    assert answer.code == 2
    assert "not empty" in answer.err
    assert (run / "card.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["a"]}, "1 classes for a network of 10"),
        ({"preprocessing": {"crop": 12}}, "images of 12 for a network of 16"),
        ({"model": {"in_channels": 3}}, "1 channels for a network of 3"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(
    change: dict[str, Any], message: str, run: Path, tmp_path: Path, convatlas: Command
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    card = json.loads((copy / "card.json").read_text())
    for name, value in change.items():
        card[name] = card[name] | value if isinstance(value, dict) else value
    (copy / "card.json").write_text(json.dumps(card))
    answer = convatlas("predict", copy, "x.png")
    assert answer.code == 2
    assert message in answer.err


def test_running_out_of_memory_is_one_line(convatlas: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convatlas.workflows.classify.create_model", lambda **_: torch.empty(2**60))
    answer = convatlas("train", "lenet5", "--data", "digits", "--image-size", 28)
    assert answer.code == 2
    assert "out of memory" in answer.err
    assert answer.err.count("\n") == 1


def test_a_printed_command_can_be_pasted(tmp_path: Path, convatlas: Command) -> None:
    import shlex

    out = tmp_path / "my [red] run"
    answer = convatlas("train", "lenet5", "--data", "digits", "--image-size", 16, "--epochs", 1, "--out", out)
    assert f"convatlas predict {shlex.quote(str(out))} IMAGE..." in answer.out


def test_a_picture_that_is_none_is_named(run: Path, tmp_path: Path, convatlas: Command) -> None:
    (tmp_path / "text.png").write_text("hello")
    truncated = tmp_path / "cut.jpg"
    Image.effect_noise((64, 64), 50).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:700])
    for name in ("absent.png", "text.png", "cut.jpg"):
        answer = convatlas("predict", run, tmp_path / name)
        assert answer.code == 2
        assert name in answer.err
        assert answer.err.count("\n") == 1


def test_damaged_runs_are_named(run: Path, tmp_path: Path, convatlas: Command) -> None:
    def damaged(name: str) -> Path:
        return Path(shutil.copytree(run, tmp_path / name))

    broken = damaged("broken-card")
    (broken / "card.json").write_text("{")
    assert "cannot be read" in convatlas("evaluate", broken).err

    future = damaged("future")
    card = json.loads((future / "card.json").read_text())
    (future / "card.json").write_text(json.dumps(card | {"format_version": 99}))
    assert "format version 99" in convatlas("evaluate", future).err

    wrong = damaged("wrong-weights")
    save_file({"weight": torch.zeros(1)}, wrong / "model.safetensors")
    assert "does not hold the weights of lenet5" in convatlas("evaluate", wrong).err

    cut = damaged("cut-weights")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:100])
    assert "does not hold the weights" in convatlas("evaluate", cut).err

    evil = damaged("unknown-model")
    (evil / "card.json").write_text(json.dumps(card | {"model": card["model"] | {"name": "os.system"}}))
    assert "no model named 'os.system'" in convatlas("evaluate", evil).err

    unweighted = damaged("no-weights")
    (unweighted / "model.safetensors").unlink()
    assert (
        "has no weights yet" in convatlas("predict", unweighted, "x.png").err
        or "no weights" in convatlas("evaluate", unweighted).err
    )

    listed = convatlas("runs", tmp_path)
    assert listed.code == 0
    assert "broken-card" in listed.err
