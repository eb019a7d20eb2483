"""What guessing would give, beside accuracies; and the picture that the tutorial uses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convatlas.tasks.classify.findings import guessing_finding
from convatlas.tasks.classify.metrics import Evaluation

Command = Callable[..., Any]

TRAIN = ("train", "lenet5", "--image-size", 28, "--engine", "torch", "--set", "steps=2")


@pytest.mark.usefixtures("undrawn")
def test_guessing_stands_beside_validation_and_in_the_findings_of_evaluate(convatlas: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer = convatlas(*TRAIN, "--data", "digits", "--lr", 1e-9, "--out", run)
    assert answer.code == 0, answer.err
    assert re.search(r"best validation .*n = 143; always answering \d would give 1\d\.\d%\)", answer.out)
    data = json.loads((run / "card.json").read_text())["data"]
    assert data["most_frequent"] in "0123456789"
    assert 0.1 < data["guessing"] < 0.12
    found = json.loads(convatlas("evaluate", run, "--engine", "torch", "--json").out)["remarks"]
    assert any("always answering" in line or "collapsed" in line for line in found)


def test_a_network_that_does_better_than_guessing_has_no_finding() -> None:
    better = Evaluation(("ant", "bee"), np.array([[40, 10], [10, 40]]), 1, 80, 0.5)
    assert guessing_finding(better) is None
    hardly = Evaluation(("ant", "bee"), np.array([[27, 23], [22, 28]]), 1, 55, 0.7)
    line = guessing_finding(hardly)
    assert line is not None
    assert line.startswith("the accuracy 55.0 % is not surely better than always answering ant")


def test_the_tutorials_picture_is_a_seven(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "index.md").read_text()
    code = re.search(r'\$ python -c "(.*seven\.png.*)"', page)
    assert code is not None
    subprocess.run([sys.executable, "-c", code[1]], cwd=tmp_path, check=True)
    with Image.open(tmp_path / "seven.png") as picture:
        assert picture.size == (8, 8)
    from sklearn.datasets import load_digits

    digits = load_digits()
    same = np.abs(np.round(digits.images * (255 / 16)) - np.asarray(Image.open(tmp_path / "seven.png"))).sum(
        axis=(1, 2)
    )
    assert digits.target[same.argmin()] == 7
    assert same.min() == 0
