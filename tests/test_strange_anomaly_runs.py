"""The run of an autoencoder that a stranger made or edited: whatever its files say, the answer is one line."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import convatlas
from convatlas.errors import RunError
from convatlas.runs.run import list_runs
from convatlas.training.progress import Silent
from test_strange_runs import complaint, edits

KINDS = ["rows", "images"]
PREDICTED = 150  # edited cards that are asked about a table or an image
EDITED = 6  # cards, and as many checkpoints, that are used to the end


def table(rows: int = 120) -> pd.DataFrame:
    draws = np.random.default_rng(0)
    return pd.DataFrame(
        {"a": draws.normal(size=rows), "b": draws.choice(["x", "y"], rows), "odd": np.arange(rows) % 20 == 0}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """For each kind a finished run, and what it can be asked about."""
    folder = tmp_path_factory.mktemp("made")
    table().to_csv(folder / "rows.csv", index=False)
    (folder / "tiles" / "good").mkdir(parents=True)
    draws = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(draws.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "tiles/good" / f"{number}.png")
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 16, "false_alarms": "40%", "watch": Silent()}
    convatlas.train("autoencoder_plain", data=folder / "rows.csv", label="odd", out=folder / "r", **settings)
    convatlas.train("autoencoder_dense_latent", data=folder / "tiles", out=folder / "i", code=2, **settings)
    return {
        "rows": (folder / "r", folder / "rows.csv"),
        "images": (folder / "i", folder / "tiles" / "good" / "0.png"),
    }


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def asked(kind: str, made: dict[str, tuple[Path, Path]]) -> Path:
    return made[kind][1]


@pytest.fixture
def copy(kind: str, made: dict[str, tuple[Path, Path]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[kind][0], tmp_path / "copy"))


def some(every: Iterable[Any], count: int) -> list[Any]:
    """So many of them, the same each time."""
    listed = list(every)
    return random.Random(0).sample(listed, min(count, len(listed)))


def test_a_card_may_say_anything(copy: Path, asked: Path) -> None:
    card = json.loads((copy / "card.json").read_text(encoding="utf-8"))
    refused = 0
    for edited in some(edits(card), PREDICTED):
        (copy / "card.json").write_text(json.dumps(edited), encoding="utf-8")
        said = complaint(lambda: convatlas.load(copy).predict(asked))  # type: ignore[attr-defined]
        assert len(said) < 1000
        refused += bool(said)
    assert refused > PREDICTED / 2


@pytest.mark.parametrize("kind", ["rows"], indirect=True)
def test_a_run_of_rows_whose_files_say_anything_is_used_or_refused(copy: Path, tmp_path: Path) -> None:
    """Resumed, listed, given a threshold and evaluated: by a card and a checkpoint of which any value was exchanged."""
    again = tmp_path / "again"
    for name in ("card.json", "state.json"):
        for edited in some(edits(json.loads((copy / name).read_text(encoding="utf-8"))), EDITED):
            shutil.copytree(copy, again)
            (again / name).write_text(json.dumps(edited), encoding="utf-8")
            for use in (
                lambda: convatlas.load(again).set_threshold(0.4, 0.9),  # type: ignore[attr-defined]
                lambda: convatlas.evaluate(again),
                lambda: convatlas.resume(again, epochs=2, watch=Silent()),
                lambda: list_runs(tmp_path),
            ):
                assert len(complaint(use)) < 1000
            shutil.rmtree(again)


def test_a_card_may_ask_for_any_rows_or_images_to_be_evaluated_on(copy: Path) -> None:
    card = json.loads((copy / "card.json").read_text(encoding="utf-8"))
    for edited in edits(card["data"]):
        (copy / "card.json").write_text(json.dumps(card | {"data": edited}), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            for room in ("autoencoder", "image_autoencoder"):
                patch.setattr(f"convatlas.assessment.{room}._rivals", lambda *_: [])
            said = complaint(lambda: convatlas.evaluate(copy))
        assert len(said) < 1000


def changed_tensors(tensors: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    first, *others = tensors
    kept = {name: tensors[name] for name in others}
    return [
        kept,
        tensors | {"unknown": torch.zeros(1)},
        kept | {first: tensors[first][:-1].clone()},
        kept | {first: torch.full_like(tensors[first], float("nan"))},
        kept | {first: torch.full_like(tensors[first], float("inf"))},
        kept | {first: tensors[first].to(torch.complex64)},
        kept | {first: torch.zeros(tensors[first].shape, dtype=torch.int8)},
    ]


@pytest.mark.parametrize("file", ["calibration.safetensors", "model.safetensors"])
def test_tensors_that_are_not_the_run_s_are_refused(file: str, copy: Path, asked: Path) -> None:
    for tensors in changed_tensors(load_file(copy / file)):
        save_file(tensors, copy / file)
        said = complaint(lambda: convatlas.load(copy).predict(asked))  # type: ignore[attr-defined]
        assert 0 < len(said) < 1000


def test_a_calibration_below_zero_is_refused(copy: Path, asked: Path) -> None:
    tensors = load_file(copy / "calibration.safetensors")
    save_file(tensors | {"scores": -1 - tensors["scores"]}, copy / "calibration.safetensors")
    assert "does not hold the scores" in complaint(lambda: convatlas.load(copy).predict(asked))  # type: ignore[attr-defined]


@pytest.mark.parametrize("file", ["calibration.safetensors", "model.safetensors", "card.json"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_a_file_without_an_end_is_not_read(file: str, make: Callable[[Path], None], copy: Path, asked: Path) -> None:
    (copy / file).unlink()
    make(copy / file)
    with pytest.raises(RunError) as error:
        convatlas.load(copy).predict(asked)  # type: ignore[attr-defined]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x00" * 7, (2**62).to_bytes(8, "little") + b"{}"])
def test_a_calibration_that_is_no_file_of_tensors_is_refused(content: bytes, copy: Path, asked: Path) -> None:
    (copy / "calibration.safetensors").write_bytes(content)
    assert "calibration.safetensors" in complaint(lambda: convatlas.load(copy).predict(asked))  # type: ignore[attr-defined]


def test_names_cannot_give_a_terminal_orders(copy: Path, asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from convatlas.cli.console import print_run_summary, print_runs

    card = json.loads((copy / "card.json").read_text(encoding="utf-8"))
    card["data"]["name"] = "\x1b[2J[bold]:smile:[/]"
    (copy / "card.json").write_text(json.dumps(card), encoding="utf-8")
    run = convatlas.load(copy)
    print_run_summary(run)
    print_runs([run], copy.parent)
    told = capsys.readouterr().out
    assert "\x1b[2J" not in told
    assert "[bold]:smile:[/]" in told
