"""The main job from end to end: train on images, then evaluate, predict with, list and extend the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

import convatlas as convatlas_api
from convatlas.training.progress import Silent

Command = Callable[..., Any]

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small JPEG pictures of coloured discs, one class a colour."""
    folder = tmp_path_factory.mktemp("discs")
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(30):
            image = Image.new("RGB", (36, 36), (number * 5, 128, 255 - number * 5))
            ImageDraw.Draw(image).ellipse((4 + number % 7, 3 + number % 5, 25, 27), fill=colour)
            image.save(folder / name / f"{number}.jpg", quality=90)
    return folder


@pytest.fixture(scope="session")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained through the Python interface, to be copied by tests that change it."""
    import convatlas

    out = tmp_path_factory.mktemp("runs") / "discs"
    convatlas.train("lenet5", data=photos, epochs=8, out=out, batch_size=8)
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_train_evaluate_predict_and_list(convatlas: Command, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "mine"
    answer = convatlas(
        "train", "lenet5", "--data", photos, "--epochs", 6, "--out", out, "--seed", 1, "--set", "batch_size=8"
    )
    assert answer.code == 0, answer.err
    assert "test accuracy" in answer.out
    assert "95 % interval" in answer.out
    assert str(out) in answer.out
    assert {"card.json", "model.safetensors", "history.csv", "report.html", "state.json"} <= {
        entry.name for entry in out.iterdir()
    }

    card = json.loads((out / "card.json").read_text())
    assert card["status"] == "finished"
    assert card["classes"] == ["blue", "green", "red"]
    assert card["recipe"]["seed"] == 1
    assert card["test_evaluations"] == 1
    assert card["test"]["accuracy"] > 0.5

    answer = convatlas("evaluate", out, "--json")
    assert answer.code == 0, answer.err
    evaluation = json.loads(answer.out)
    assert evaluation["accuracy"] == card["test"]["accuracy"]
    assert Path(evaluation["figure"]).is_file()
    assert "precision" in convatlas("evaluate", out).out

    pictures = [photos / "red" / "3.jpg", photos / "blue" / "4.jpg"]
    answer = convatlas("predict", out, *pictures, "--json", "--top", 2)
    predictions = json.loads(answer.out)
    assert [len(prediction["top"]) for prediction in predictions] == [2, 2]
    assert sum(entry["probability"] for entry in predictions[0]["top"]) <= 1 + 1e-6
    assert "3.jpg" in convatlas("predict", out, *pictures).out

    answer = convatlas("runs", out.parent)
    assert "mine" in answer.out
    assert "finished" in answer.out
    assert json.loads(convatlas("runs", out.parent, "--json").out)[0]["model"]["name"] == "lenet5"


def test_a_run_predicts_the_class_of_its_own_pictures(run: Path, photos: Path) -> None:
    import convatlas

    predictions = convatlas.load(run).predict([photos / name / "7.jpg" for name in COLOURS])
    assert [prediction.label for prediction in predictions] == list(COLOURS)


def test_a_run_moves_and_still_predicts(run: Path, photos: Path, tmp_path: Path) -> None:
    import convatlas

    moved = run.rename(tmp_path / "elsewhere")
    assert convatlas.load(moved).predict(photos / "red" / "1.jpg")[0].label == "red"


def test_a_finished_run_is_extended(convatlas: Command, run: Path) -> None:
    answer = convatlas("train", "--resume", run)
    assert answer.code == 2
    assert "is finished. Give --epochs" in answer.err
    answer = convatlas("train", "--resume", run, "--epochs", 9)
    assert answer.code == 0, answer.err
    card = json.loads((run / "card.json").read_text())
    assert card["recipe"]["epochs"] == 9
    assert card["test_evaluations"] == 2
    assert "tested 2 times" in answer.out
    assert len((run / "history.csv").read_text().splitlines()) == 1 + 9


def test_less_than_was_trained_is_refused_and_changes_nothing(convatlas: Command, run: Path) -> None:
    before = (run / "card.json").read_bytes()
    for length in (["--epochs", 8], ["--epochs", 2], ["--time-budget", "0.01s"]):
        answer = convatlas("train", "--resume", run, *length)
        assert answer.code == 2
        assert "has already trained 8 epochs" in answer.err
    assert (run / "card.json").read_bytes() == before


def test_a_run_that_stopped_early_is_finished(convatlas: Command, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("--set", "patience=1", "--set", "learning_rate=1e-30")  # nothing changes, so nothing improves
    answer = convatlas("train", "lenet5", "--data", photos, "--epochs", 9, *settings, "--out", run)
    assert answer.code == 0, answer.err
    assert len((run / "history.csv").read_text().splitlines()) == 1 + 2
    before = (run / "card.json").read_bytes()
    assert "is finished" in convatlas("train", "--resume", run).err
    assert (run / "card.json").read_bytes() == before  # the test images were not shown again


def test_a_kill_between_training_and_testing_leaves_a_run_to_resume(
    convatlas: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("convatlas.workflows.classify.test_once", die)
        with pytest.raises(Killed):
            convatlas_api.train("lenet5", photos, epochs=1, out=tmp_path / "run", watch=Silent())
    assert json.loads((tmp_path / "run" / "card.json").read_text())["status"] == "training"
    assert convatlas("train", "--resume", tmp_path / "run").code == 0
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert (card["status"], card["test_evaluations"]) == ("finished", 1)
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 1 + 1


def test_images_that_moved_are_named_again(convatlas: Command, photos: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(photos, tmp_path / "images"))
    run = tmp_path / "run"
    assert convatlas("train", "lenet5", "--data", images, "--epochs", 1, "--out", run).code == 0
    moved = images.rename(tmp_path / "moved")
    for command in (["train", "--resume", run, "--epochs", 2], ["evaluate", run]):
        answer = convatlas(*command)
        assert answer.code == 2
        assert "name their place with --data" in answer.err
    tested = json.loads((run / "card.json").read_text())["test"]["n"]
    answer = convatlas("evaluate", run, "--data", moved, "--json")
    assert json.loads(answer.out)["n"] == tested  # its own images: the test set, not what it was trained on
    assert convatlas("train", "--resume", run, "--epochs", 2, "--data", moved).code == 0
    assert convatlas("evaluate", run).code == 0


def test_damaged_images_are_told_before_training(convatlas: Command, photos: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(photos, tmp_path / "images"))
    for name in ("1.jpg", "2.jpg"):
        (images / "red" / name).write_bytes(b"no picture")
    answer = convatlas("train", "lenet5", "--data", images, "--epochs", 1, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert "2 files cannot be read and are left out: red/1.jpg, red/2.jpg" in " ".join(answer.out.split())
    answer = convatlas("train", "lenet5", "--data", images, "--epochs", 1, "--out", tmp_path / "r2", "--strict")
    assert answer.code == 2
    assert "1.jpg" in answer.err


def test_every_look_at_the_test_set_is_counted(convatlas: Command, run: Path) -> None:
    for _ in range(2):
        assert convatlas("evaluate", run).code == 0
    assert json.loads((run / "card.json").read_text())["test_evaluations"] == 3


def test_digits_have_no_ten_crops(convatlas: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert convatlas("train", "lenet5", "--data", "digits", "--image-size", 16, "--epochs", 1, "--out", run).code == 0
    assert "flip" not in (run / "card.json").read_text()
    answer = convatlas("evaluate", run, "--ten-crop")
    assert answer.code == 2
    assert "mirrored digits change their class" in answer.err


def test_evaluating_on_other_images(convatlas: Command, run: Path, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for name in ("green", "red"):
        (other / name).mkdir(parents=True)
        shutil.copy(photos / name / "2.jpg", other / name / "a.jpg")
    answer = convatlas("evaluate", run, "--data", other, "--json")
    assert answer.code == 0, answer.err
    evaluation = json.loads(answer.out)
    assert evaluation["n"] == 2
    assert [row["support"] for row in evaluation["per_class"]] == [0, 1, 1]

    (other / "violet").mkdir()
    shutil.copy(photos / "red" / "2.jpg", other / "violet" / "a.jpg")
    answer = convatlas("evaluate", run, "--data", other)
    assert answer.code == 2
    assert "violet" in answer.err


def test_ten_crops_are_averaged(convatlas: Command, run: Path) -> None:
    answer = convatlas("evaluate", run, "--ten-crop", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["n"] == json.loads((run / "card.json").read_text())["test"]["n"]


def test_resuming_on_changed_images_is_refused(convatlas: Command, photos: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(photos, tmp_path / "images"))
    assert convatlas("train", "lenet5", "--data", images, "--epochs", 1, "--out", tmp_path / "r").code == 0
    shutil.copy(images / "red" / "3.jpg", images / "blue" / "99.jpg")
    answer = convatlas("train", "--resume", tmp_path / "r", "--epochs", 2)
    assert answer.code == 2
    assert "are not the ones" in answer.err
    answer = convatlas("evaluate", tmp_path / "r")
    assert "changed since the training" in answer.out


def test_the_report_is_offline_and_tells_the_result(trained: Path) -> None:
    page = (trained / "report.html").read_text()
    card = json.loads((trained / "card.json").read_text())
    assert "lenet5" in page
    assert f"of {card['test']['n']} test images" in page
    assert "95 % interval" in page
    assert 'src="http' not in page
