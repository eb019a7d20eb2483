from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from convatlas.cli.data import app
from convatlas.errors import DataError

RUNNER = CliRunner()


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for name, colour in (("[bold]cats", (200, 40, 40)), ("dogs", (40, 40, 200))):
        (root / name).mkdir(parents=True)
        for index in range(3):
            image = Image.radial_gradient("L").resize((16, 16)).convert("RGB")
            Image.blend(image, Image.new("RGB", (16, 16), colour), 0.2 + 0.2 * index).save(root / name / f"{index}.png")
    return root


def test_a_description_names_classes_as_they_are_called_and_says_all_is_well(pets: Path) -> None:
    result = RUNNER.invoke(app, ["describe", str(pets)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "pets  6 images, 2 classes" in result.output
    assert "[bold]cats" in result.output
    assert "nothing looks wrong" in result.output


def test_a_description_for_programs(pets: Path) -> None:
    result = RUNNER.invoke(app, ["describe", str(pets), "--json"], catch_exceptions=False)
    content = json.loads(result.output)
    assert (content["total"], content["counts"]["train"]["dogs"]) == (6, 3)


def test_damaged_files_are_listed_and_refused_with_strict(pets: Path) -> None:
    (pets / "dogs/1.png").write_bytes(b"broken")
    result = RUNNER.invoke(app, ["describe", str(pets)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "dogs/1.png: not an image that Pillow can read" in result.output
    with pytest.raises(DataError, match=r"the first is dogs/1\.png"):
        RUNNER.invoke(app, ["describe", str(pets), "--strict"], catch_exceptions=False)


def test_a_grid_is_drawn(pets: Path, tmp_path: Path) -> None:
    RUNNER.invoke(app, ["describe", str(pets), "--grid", str(tmp_path / "new/grid.png")], catch_exceptions=False)
    with Image.open(tmp_path / "new/grid.png") as grid:
        assert grid.format == "PNG"


def test_describing_does_without_torch(pets: Path) -> None:
    script = (
        "import sys; from convatlas.cli.app import app\n"
        f"app(['data', 'describe', {str(pets)!r}], standalone_mode=False)\n"
        "assert not {'torch', 'torchvision', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
