"""``convatlas compare-models``, as a person and as a program reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def test_the_table_has_a_line_a_network(convatlas: Command) -> None:
    answer = convatlas("compare-models", "vgg16", "resnet18", "vgg16", "--batch", 2, "--no-speed")
    assert answer.code == 0
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert [line.split()[0] for line in lines[:3]] == ["network", "vgg16", "resnet18"]
    assert lines[1].startswith("vgg16 224x224 138.4 M 15.5 G 16 212x212")
    assert lines[1].endswith("71.6 ImageNet (torchvision's weights)")
    assert lines[2].startswith("resnet18 224x224 11.7 M 1.8 G 18 ")
    assert "images/s" not in answer.out


def test_speed_is_measured_and_told_with_its_spread(convatlas: Command) -> None:
    answer = convatlas("compare-models", "lenet5", "--batch", 4, "--batches", 3, "--engine", "torch")
    assert answer.code == 0, answer.err
    assert "forward and backward, images/s" in answer.out
    assert "mean and standard deviation of 3 after 10 to warm up" in answer.out


def test_json_of_a_family(convatlas: Command) -> None:
    answer = convatlas("compare-models", "lenet", "--image-size", 32, "--batch", 2, "--no-speed", "--json")
    assert answer.code == 0, answer.err
    records = json.loads(answer.out)
    assert [each["name"] for each in records] == ["lenet5_1998", "lenet5"]
    assert all(each["training_peak_bytes"] > each["inference_peak_bytes"] for each in records)


def test_autoencoders_beside_each_other(convatlas: Command) -> None:
    answer = convatlas("compare-models", "autoencoder", "--columns", 12, "--batch", 4, "--no-speed")
    assert answer.code == 0, answer.err
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert lines[0] == "network input parameters MACs depth training memory inference memory"
    assert lines[2].startswith("autoencoder_deep 12 columns 8.5 k 8.3 k 4 ")
    assert "Field" not in answer.out
    assert "Top-1" not in answer.out


def test_an_autoencoder_beside_a_classifier(convatlas: Command) -> None:
    both = ("compare-models", "autoencoder_plain", "lenet5", "--batch", 4, "--batches", 2, "--engine", "torch")
    lines = [" ".join(line.split()) for line in convatlas(*both).out.splitlines()]
    assert lines[0].startswith("network input parameters MACs depth field training memory inference memory forward/s")
    assert lines[1].startswith("autoencoder_plain 29 columns 2.4 k 2.3 k 2 - ")
    records = json.loads(convatlas(*both, "--json").out)
    assert [(each["image_size"], each["columns"]) for each in records] == [(None, 29), (28, None)]


def test_a_plot(convatlas: Command, tmp_path: Path) -> None:
    plot = tmp_path / "bubbles.svg"
    answer = convatlas("compare-models", "vgg11", "resnet18", "--batch", 2, "--no-speed", "--plot", plot)
    assert answer.code == 0, answer.err
    assert "vgg11" in plot.read_text()
    assert "resnet18" in plot.read_text()


def test_the_plot_pairs_an_accuracy_with_the_image_size_it_was_published_for(
    convatlas: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("convatlas.reports.bubbles.bubble_figure", drawn.extend)
    monkeypatch.setattr("convatlas.reports.figures.save_figure", lambda _figure, _path: None)
    answer = convatlas(
        "compare-models", "vgg16", "--image-size", 64, "--batch", 2, "--no-speed", "--plot", tmp_path / "plot.png"
    )
    assert answer.code == 0, answer.err
    assert drawn[0]["macs"] == 15_470_264_320


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "compare-models needs networks"),
        (["vgg61"], "there is no model named 'vgg61'"),
        (["tests"], "there is no model named 'tests'"),  # a folder is no network
        (["vgg16", "--engine", "fast"], "there is no engine named 'fast'"),
        (["autoencoder_plain", "--image-size", 28], "image_size cannot be chosen for an autoencoder of rows"),
        (["lenet5", "--columns", 28], "columns cannot be chosen for a classifier of images"),
        (["autoencoder", "--plot", "p.svg"], "none of these networks has a published ImageNet"),
        (["lenet5", "--plot", "p.svg"], "none of these networks has a published ImageNet"),
        (["vgg16", "--plot", "p.gif"], "--plot draws .png, .svg, .pdf"),
    ],
)
def test_a_mistake_is_one_line(convatlas: Command, arguments: list[object], said: str) -> None:
    answer = convatlas("compare-models", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1
