"""Good images in four parts, others for the test alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convatlas.data import open_source
from convatlas.data.good_images import PreparedImages, normal_class, prepare_images
from convatlas.errors import DataError


def image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 10), dtype=np.uint8)).save(path)


def tiles(folder: Path, *, good: int = 40, test_good: int = 0, scratched: int = 6, copies: int = 0) -> Path:
    """train/good, test/good and test/scratch; ``copies`` of the test's images lie among those to learn from."""
    for number in range(good):
        image(folder / "train" / "good" / f"{number}.png", number)
    for number in range(test_good):
        image(folder / "test" / "good" / f"{number}.png", 1000 + number)
    for number in range(scratched):
        image(folder / "test" / "scratch" / f"{number}.png", 2000 + number)
    for number in range(copies):
        image(folder / "train" / "good" / f"copy{number}.png", 1000 + number)
    return folder


def prepared(folder: Path, **more) -> PreparedImages:
    return prepare_images(open_source(folder), **{"normal": None, "channels": 1, "side": 10} | more)


def pixels(images) -> set[bytes]:
    return {each.tobytes() for each in images.take(np.arange(len(images)))}


def test_a_folder_of_good_images_and_defects_is_divided(tmp_path: Path) -> None:
    found = prepared(tiles(tmp_path, test_good=5))
    assert found.normal == "good"
    assert found.counts == {"fit": 28, "validation": 4, "calibration": 8, "test": 11}
    assert found.is_anomaly(found.test).sum() == 6
    for part in (found.fit, found.validation, found.calibration):
        assert not found.is_anomaly(part).any()
    assert found.name_of(found.test, 0).startswith("test/")
    assert found.left_out == 0


def test_test_images_without_good_ones_are_given_some(tmp_path: Path) -> None:
    found = prepared(tiles(tmp_path))
    assert found.counts == {"fit": 20, "validation": 4, "calibration": 8, "test": 14}
    assert found.is_anomaly(found.test).sum() == 6


def test_good_images_alone_are_enough(tmp_path: Path) -> None:
    found = prepared(tiles(tmp_path, scratched=0))
    assert found.counts == {"fit": 20, "validation": 4, "calibration": 8, "test": 8}
    assert not found.is_anomaly(found.test).any()


def test_copies_are_never_on_two_sides(tmp_path: Path) -> None:
    folder = tiles(tmp_path, test_good=5, copies=5)
    for number in range(10):  # each a copy of another one to learn from
        image(folder / "train" / "good" / f"again{number}.png", number)
    found = prepared(folder)
    parts = [pixels(part) for part in (found.fit, found.validation, found.calibration, found.test)]
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert found.left_out == 5


def test_one_class_of_several_is_normal(tmp_path: Path) -> None:
    for number in range(30):
        image(tmp_path / "pets" / "cats" / f"{number}.png", number)
        image(tmp_path / "pets" / "dogs" / f"{number}.png", 100 + number)
    with pytest.raises(DataError, match=r"2 classes to learn from: say which one is normal, such as --normal 'cats'"):
        prepared(tmp_path / "pets")
    found = prepared(tmp_path / "pets", normal="dogs")
    assert found.counts == {"fit": 15, "validation": 3, "calibration": 6, "test": 36}
    assert found.is_anomaly(found.test).sum() == 30
    with pytest.raises(DataError, match="no class 'dog'; there are cats"):
        normal_class(open_source(tmp_path / "pets"), "dog")


def test_the_division_depends_on_nothing_but_its_seed(tmp_path: Path) -> None:
    folder = tiles(tmp_path, test_good=5)
    one, same, other = (prepared(folder, split_seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.fit.rows, same.fit.rows)
    assert not np.array_equal(one.fit.rows, other.fit.rows)
    assert np.array_equal(one.test.rows, other.test.rows)
    assert len(prepared(folder, used=0.25).fit) == 7


def test_too_few_images_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"class 'good' of .* has 3 images to learn from"):
        prepared(tiles(tmp_path, good=3))
