"""``convatlas inspect``, from the command line to the files it leaves."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convatlas.cli.inspect import duration

Command = Callable[..., Any]

OWN = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

def words():
    return nn.Embedding(10, 4), torch.zeros(1, 7, dtype=torch.long)
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_json_has_what_a_program_needs(convatlas: Command) -> None:
    answer = convatlas("inspect", "lenet5", "--batch", 4, "--json")
    assert answer.code == 0
    record = json.loads(answer.out)
    assert record["model"] == "lenet5"
    assert record["input_shape"] == [1, 1, 28, 28]
    assert record["parameters"] == sum(layer["parameters"] for layer in record["layers"]) == 61_706
    assert record["flops"] == 2 * record["macs"]
    assert record["memory"]["batch_size"] == 4
    assert 0 < record["memory"]["inference_peak_bytes"] < record["memory"]["training_peak_bytes"]
    largest = record["memory"]["largest_layers"][0]
    assert largest["weights"] + largest["activations"] + largest["workspace"] > 0
    assert record["memory"]["planned_for"].startswith("PyTorch on ")
    assert record["memory"]["textbook_bytes"] > 3 * 4 * record["parameters"]
    first = record["layers"][0]
    assert first.keys() >= {
        "name", "tap", "type", "output_shape", "parameters", "macs", "receptive_field", "jump", "activation_bytes",
    }  # fmt: skip
    assert (first["receptive_field"], first["jump"]) == ([5, 5], [1.0, 1.0])


def test_the_page_has_totals_and_a_line_a_layer(convatlas: Command) -> None:
    answer = convatlas("inspect", "vgg16", "--image-size", 64, "--classes", 10, "--batch", 2)
    assert answer.code == 0
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert lines[0] == "vgg16 (input 1x3x64x64)"
    assert "parameters 134,301,514 (134.3 M) trained" in lines
    conv5_3 = next(line for line in lines if " conv5_3 " in line)
    assert conv5_3.startswith("features.29 conv5_3 ReLU 512x4x4")
    assert "196x196" in conv5_3
    assert any("to train with batches of 2" in line for line in lines)


def test_the_largest_batch_within_so_much_memory(convatlas: Command) -> None:
    answer = convatlas("inspect", "lenet5", "--batch", 2, "--memory", "4GB")
    assert re.search(r"4\.00 GB of tensors are enough for batches of \d+", " ".join(answer.out.split()))


def test_a_deep_network_is_folded_and_says_so(convatlas: Command) -> None:
    folded = convatlas("inspect", "googlenet", "--batch", 1).out
    assert "inception3a" in folded
    assert "inception3a.branch1" not in folded
    assert "--depth 4 shows all" in folded
    assert "in aux1, which a prediction does not read" in folded
    assert re.search(r"inception3a +inception_3a +Inception 21 layers", folded)


def test_a_network_is_unfolded_as_far_as_was_asked(convatlas: Command) -> None:
    pages = [convatlas("inspect", "resnet20", "--batch", 1, "--depth", depth).out for depth in (2, 4)]
    assert ["layer1.0.conv1" in page for page in pages] == [False, True]
    assert ["folded" in page for page in pages] == [True, False]


def test_a_module_of_ones_own(convatlas: Command, own_file: Path) -> None:
    answer = convatlas("inspect", f"{own_file}:net", "--input", "3,20,20", "--json")
    assert answer.code == 0
    record = json.loads(answer.out)
    assert record["macs"] == 18 * 18 * 4 * 27 + 4 * 5
    assert record["unknown_operators"] == []
    words = json.loads(convatlas("inspect", f"{own_file}:words", "--json").out)
    assert words["memory"] is None
    assert "not called with images" in words["why_no_memory"]
    assert words["layers"][0]["receptive_field"] is None


def test_files_and_pictures(convatlas: Command, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)).save(photo)
    wanted = {name: tmp_path / name for name in ("layers.csv", "layers.svg", "bars.png", "field.png")}
    answer = convatlas(
        "inspect", "vgg11", "--image-size", 64, "--batch", 1, "--csv", wanted["layers.csv"],
        "--diagram", wanted["layers.svg"], "--bars", wanted["bars.png"],
        "--field", wanted["field.png"], "--image", photo, "--layer", "conv1_1", "--layer", "conv3_2",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    rows = list(csv.DictReader(wanted["layers.csv"].read_text().splitlines()))
    assert rows[1]["tap"] == "conv1_1"
    assert "<svg" in wanted["layers.svg"].read_text()
    for name in ("bars.png", "field.png"):
        with Image.open(wanted[name]) as picture:
            assert min(picture.size) > 300
    assert all(f"written {path}" in answer.out.replace("\n", "") for path in wanted.values())


def test_markdown(convatlas: Command) -> None:
    text = convatlas("inspect", "lenet5", "--markdown", "--batch", 1).out
    assert text.startswith("# lenet5\n")
    assert "| --- |" in text


def test_the_time_of_a_training(convatlas: Command) -> None:
    answer = convatlas("inspect", "lenet5", "--time", "--images", 1000, "--batch", 8, "--json")
    assert answer.code == 0, answer.err
    time = json.loads(answer.out)["training_time"]
    assert time["epoch_seconds"] == pytest.approx(time["step_seconds"] * 125)
    assert time["seconds"] == pytest.approx(time["epoch_seconds"] * time["epochs"])
    assert 2 <= time["steps_timed"] <= 20


def test_an_autoencoder_has_no_columns_that_are_of_images(convatlas: Command) -> None:
    answer = convatlas("inspect", "autoencoder_deep", "--columns", 12, "--batch", 4)
    assert answer.code == 0, answer.err
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert lines[0] == "autoencoder_deep (input 1x12)"
    assert any("to train with batches of 4" in line for line in lines)
    assert "layer paper type output parameters MACs activation" in lines
    assert "encoder.relu2 code ReLU 40 160 B" in lines
    markdown = convatlas("inspect", "autoencoder_deep", "--batch", 4, "--markdown").out
    assert "| Layer | Paper's name | Type | Output | Parameters | MACs | Activation |" in markdown
    assert "| --- | --- | --- | ---: | ---: | ---: | ---: |\n" in markdown
    record = json.loads(convatlas("inspect", "autoencoder_deep", "--batch", 4, "--json").out)
    assert record["parameters"] == 11_269
    assert record["memory"]["planned_for"].endswith("contiguous")
    assert {layer["receptive_field"] for layer in record["layers"]} == {None}


def test_the_time_of_an_autoencoder_s_training(convatlas: Command) -> None:
    answer = convatlas("inspect", "autoencoder_plain", "--time", "--rows", 1000, "--batch", 8, "--json")
    assert answer.code == 0, answer.err
    time = json.loads(answer.out)["training_time"]
    assert time["rows"] == 1000
    assert "images" not in time
    assert time["epoch_seconds"] == pytest.approx(time["step_seconds"] * 125)
    assert "rows/s" in convatlas("inspect", "autoencoder_plain", "--time", "--rows", 100, "--batch", 8).out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["autoencoder_deep", "--image-size", 28], "image_size cannot be chosen for an autoencoder of rows"),
        (["autoencoder_deep", "--classes", 2], "num_classes cannot be chosen for an autoencoder of rows"),
        (["vgg16", "--columns", 3], "columns cannot be chosen for a classifier of images"),
        (["autoencoder_deep", "--time", "--images", 9], "is shown rows, not images: use --rows 9"),
        (["vgg16", "--time", "--rows", 9], "is shown images, not rows: use --images 9"),
        (["autoencoder_deep", "--rows", 9], "--rows is for the time of a training; add --time"),
        (["vgg61"], "there is no model named 'vgg61'"),
        (["vgg16", "--image-size", 16], "needs images of at least 32x32"),
        (["vgg16", "--input", "3;4"], "--input takes the shape of an image"),
        (["vgg16", "--field", "field.png"], "name one with --image FILE"),
        (["vgg16", "--json", "--markdown"], "leave out --json and --time"),
        (["vgg16", "--layer", "conv1_1"], "name it with --field FILE"),
        (["vgg16", "--images", 100], "add --time"),
        (["vgg16", "--input", "3,64,64"], "example cannot be chosen for a network by name"),
        (["lenet5", "--csv", "."], "it is a directory"),
        (["lenet5", "--memory", "much"], "much"),
        (["lenet5", "--optimizer", "sdg"], "did you mean sgd"),
        (["lenet5", "--precision", "int8"], "there is no precision named 'int8'"),
        (["lenet5", "--diagram", "layers.gif"], "the suffix must be one of"),
        (["no/such/run"], "is not a run"),
        (["own.py:net"], "there is no file own.py"),
    ],
)
def test_a_mistake_is_one_line(convatlas: Command, arguments: list[object], said: str) -> None:
    answer = convatlas("inspect", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1


def test_a_file_that_prints_does_not_spoil_the_json(convatlas: Command, own_file: Path) -> None:
    own_file.write_text('print("hello")\n' + OWN)
    answer = convatlas("inspect", f"{own_file}:net", "--input", "3,20,20", "--json")
    assert json.loads(answer.out)["model"] == "net"
    assert "hello" in answer.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no image that Pillow knows"),
        (b"hello", "no image that Pillow knows"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "no image that Pillow knows"),  # a program, not pixels
        (b"P6 60000 60000 255\n", "pixels"),
        (None, "No such file"),
    ],
)
def test_a_picture_that_is_none_is_told_before_anything_runs(
    convatlas: Command, tmp_path: Path, content: bytes | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "picture.jpg"
    if content is not None:
        picture.write_bytes(content)
    monkeypatch.setattr("convatlas.subjects.open_subject", lambda *_args, **_more: pytest.fail("it ran"))
    answer = convatlas("inspect", "vgg16", "--field", tmp_path / "f.png", "--image", picture)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1


def test_a_layer_that_is_not_there_gets_its_neighbours_named(convatlas: Command, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 40)).save(photo)
    answer = convatlas(
        "inspect", "lenet5", "--batch", 1, "--field", tmp_path / "f.png", "--image", photo, "--layer", "no"
    )
    assert answer.code == 2
    assert "s2" in answer.err


def test_a_layer_that_cannot_be_called_is_named(convatlas: Command, own_file: Path) -> None:
    answer = convatlas("inspect", f"{own_file}:net", "--input", "1,20,20")
    assert answer.code == 2
    assert "0 (Conv2d) fails on this input" in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.25, "0.25 s"), (59.4, "59 s"), (61, "1 min 1 s"), (7_200, "2 h 0 min"), (90_000, "1 d 1 h")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
