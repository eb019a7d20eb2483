"""Unusual images from end to end: learn from good ones, then evaluate, predict with maps, set the threshold, go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import convatlas as convatlas_api
from convatlas.training.progress import Silent

Command = Callable[..., Any]
SIDE = 16


def tile(draws: np.random.Generator, defect: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A smooth tile, and where it is scratched."""
    across = np.linspace(0, 1, SIDE)
    pixels = 90 + 60 * np.outer(across, across) + draws.normal(0, 3, (SIDE, SIDE))
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    if defect:
        left, top = draws.integers(2, SIDE - 6, 2)
        mask[top : top + 4, left : left + 4] = 255
        pixels = np.where(mask > 0, 250.0, pixels)
    return pixels.clip(0, 255).astype(np.uint8), mask


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draws = tmp_path_factory.mktemp("sets") / "tiles", np.random.default_rng(0)
    for part, count, defect in (("train/good", 180, False), ("test/good", 30, False), ("test/scratch", 20, True)):
        (folder / part).mkdir(parents=True)
        (folder / "ground_truth" / "scratch").mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels, mask = tile(draws, defect)
            Image.fromarray(pixels).save(folder / part / f"{number:03}.png")
            if defect:
                Image.fromarray(mask).save(folder / "ground_truth" / "scratch" / f"{number:03}_mask.png")
    (folder / "train" / "good" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="session")
def trained(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiles"
    convatlas_api.train(
        "autoencoder_dense_latent", data=tiles, out=out, epochs=4, false_alarms="10%", code=8, watch=Silent()
    )
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_train_says_what_was_found_and_what_to_do_next(convatlas: Command, tiles: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    answer = convatlas("train", "autoencoder_convolutional", "--data", tiles, "--epochs", 1, "--out", out)
    assert answer.code == 0, answer.err
    assert "images/s" in answer.out
    assert "\ntest average precision " in answer.out
    assert "; tested once" in answer.out
    told = " ".join(answer.out.split())
    assert "the threshold is for 10% of false alarms: 1% takes 299 calibration images, and there are 36" in told
    assert f"next    convatlas predict {out} IMAGE..." in answer.out
    assert "1 files cannot be read and are left out: train/good/broken.png" in told
    card = json.loads((out / "card.json").read_text())
    assert card["task"] == "reconstruct_images"
    assert card["data"]["counts"] == {"fit": 126, "validation": 18, "calibration": 36, "test": 50}
    assert card["test_evaluations"] == 1
    page = (out / "report.html").read_text()
    assert "Kinds of anomalies" in page
    assert "data:image/png;base64," in page


def test_evaluate_tells_kinds_rivals_and_places(convatlas: Command, run: Path, tiles: Path, tmp_path: Path) -> None:
    answer = convatlas("evaluate", run, "--json", "--prevalence", "5%")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    assert (record["n"], record["anomalies"], record["stated_prevalence"]) == (50, 20, 0.05)
    assert record["roc_auc"] > 0.9
    assert [kind["name"] for kind in record["kinds"]] == ["scratch"]
    assert {rival["name"] for rival in record["rivals"]} == {"PCA-64", "Mahalanobis", "nearest neighbours"}
    assert record["located"]["n"] == 20
    assert record["located"]["roc_auc"] > 0.9
    assert json.loads((run / "card.json").read_text())["test_evaluations"] == 2
    told = convatlas("evaluate", run).out
    assert "50 images, 20 of them anomalies" in told
    assert "PCA-64" in told
    assert "images with a mask" in " ".join(told.split())
    assert all(len(line) <= 80 for line in told.splitlines() if not line.startswith("record"))
    other = json.loads(convatlas("evaluate", run, "--data", tiles, "--json").out)
    assert "judged are the test images" in other["remarks"][0]
    assert other["n"] == 50
    shutil.copytree(tiles, tmp_path / "others")
    next((tmp_path / "others" / "test" / "good").iterdir()).unlink()
    other = json.loads(convatlas("evaluate", run, "--data", tmp_path / "others", "--json").out)
    assert other["remarks"] == []
    assert other["n"] == 49


def test_predict_marks_where_an_image_is_unusual(convatlas: Command, run: Path, tmp_path: Path) -> None:
    draws = np.random.default_rng(9)
    pixels, mask = tile(draws, defect=True)
    good, _ = tile(draws)
    wide = np.full((2 * SIDE, 6 * SIDE), 100, dtype=np.uint8)  # larger, and not square: the middle is looked at
    wide[:, 2 * SIDE : 4 * SIDE] = pixels.repeat(2, axis=0).repeat(2, axis=1)
    for name, content in (("scratched", pixels), ("good", good), ("wide", wide)):
        Image.fromarray(content).save(tmp_path / f"{name}.png")
    files = [tmp_path / f"{name}.png" for name in ("scratched", "good", "wide")]
    answer = convatlas("predict", run, *files, "--maps", tmp_path / "maps", "--json")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    scratched, clean, large = record["images"]
    assert scratched["alarm"]
    assert scratched["score"] > clean["score"]
    assert scratched["p_value"] == pytest.approx(1 / 37)
    box = scratched["boxes"][0]
    assert mask[box["top"] : box["bottom"], box["left"] : box["right"]].any()
    first = large["boxes"][0]
    assert 2 * SIDE <= first["left"] < first["right"] <= 4 * SIDE
    assert abs((first["left"] - 2 * SIDE) / 2 - box["left"]) <= 2
    assert [size_of(each["map"]) for each in record["images"]] == [(SIDE, SIDE), (SIDE, SIDE), (6 * SIDE, 2 * SIDE)]
    told = convatlas("predict", run, *files).out
    assert "alarm" in told
    assert "left, top," in told


def test_the_threshold_changes_without_training(convatlas: Command, run: Path) -> None:
    weights = (run / "model.safetensors").read_bytes()
    refused = convatlas("threshold", run, "--false-alarms", "1%")
    assert (refused.code, refused.out) == (2, "")
    assert "take 299 calibration images; received 36" in refused.err
    assert convatlas("threshold", run, "--false-alarms", "20%").code == 0
    assert json.loads((run / "card.json").read_text())["threshold"]["rate"] == 0.2
    assert (run / "model.safetensors").read_bytes() == weights


def test_a_training_that_goes_on_ends_as_an_unbroken_one(tiles: Path, run: Path, tmp_path: Path) -> None:
    settings = {"false_alarms": "10%", "code": 8, "watch": Silent()}
    whole = convatlas_api.train("autoencoder_dense_latent", data=tiles, out=tmp_path / "whole", epochs=6, **settings)
    longer = convatlas_api.resume(run, epochs=6, watch=Silent())
    for file in ("model.safetensors", "calibration.safetensors"):
        assert (longer.path / file).read_bytes() == (whole.path / file).read_bytes()
    assert longer.card.test == whole.card.test
    assert convatlas_api.inspect(longer).parameters == convatlas_api.inspect(whole).parameters


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("train", "autoencoder_dense_latent", "--data", "TILES", "--label", "x"), "label has no meaning for"),
        (("train", "autoencoder_dense_latent", "--data", "TILES", "--engine", "torch"), "engine has no meaning for"),
        (("train", "autoencoder_dense_latent", "--data", "TILES", "--normal", "god"), "has no class 'god'"),
        (("train", "autoencoder_dense_latent", "--data", "TILES", "--false-alarms", "1%"), "take 299 calibration"),
        (("train", "autoencoder_dense_latent", "--data", "TILES", "--image-size", "4"), "images of at least 8x8"),
        (("train", "autoencoder_dense_latent", "--data", "TILES", "--set", "scaling=none"), "scaling"),
        (("train", "autoencoder_plain", "--data", "TILES"), "learns from rows"),
        (("predict", "RUN", "missing.png"), "missing.png"),
        (("predict", "RUN", "TILES/test/good/000.png", "--top", "3"), "--top has no meaning"),
        (("predict", "RUN", "TILES/test/good/000.png", "--out", "x.csv"), "--out has no meaning"),
        (("evaluate", "RUN", "--ten-crop"), "--ten-crop has no meaning"),
        (("evaluate", "RUN", "--data", "digits"), "has no class 'good'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    convatlas: Command, arguments: tuple[str, ...], complaint: str, tiles: Path, trained: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    answer = convatlas(*(each.replace("TILES", str(tiles)).replace("RUN", str(trained)) for each in arguments))
    assert answer.code == 2, answer.out
    assert complaint in answer.err
    assert answer.err.count("\n") == 1


def test_a_calibration_that_is_not_the_run_s_is_refused(convatlas: Command, run: Path, tiles: Path) -> None:
    (run / "calibration.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    answer = convatlas("predict", run, tiles / "test" / "good" / "000.png")
    assert answer.code == 2
    assert "does not hold the scores of the run's 36 calibration images" in answer.err
    (run / "calibration.safetensors").unlink()
    assert "is not calibrated" in convatlas("predict", run, tiles / "test" / "good" / "000.png").err


def test_predict_takes_folders_and_patterns_and_leaves_out_what_is_no_image(
    convatlas: Command, run: Path, tiles: Path, tmp_path: Path
) -> None:
    scratched = tiles / "test" / "scratch"
    shutil.copytree(scratched, tmp_path / "new")
    (tmp_path / "new" / "broken.png").write_bytes(b"no image")
    answer = convatlas("predict", run, tmp_path / "new", scratched / "00*.png", "--maps", tmp_path / "maps", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["images"]
    assert len(found) == 20 + 10
    assert len({each["map"] for each in found}) == 30
    assert found[0]["map"].endswith("01-000.png")
    assert "left out:" in answer.err
    assert "broken.png" in answer.err
    answer = convatlas("predict", run, tmp_path / "new" / "broken.png")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 1
