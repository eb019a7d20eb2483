from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from image_sets import make_folder, picture
from PIL import Image
from typer.testing import CliRunner

from convatlas.cli.data import app
from convatlas.data.audit import audit
from convatlas.data.catalog import open_source
from convatlas.data.grid import image_grid


def test_a_clean_set_has_counts_sizes_and_colours_and_no_finding(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"train/cats": 3, "train/dogs": 2, "val/cats": 1, "val/dogs": 1})
    picture(50, size=(30, 4)).save(root / "train/cats/wide.png")
    result = audit(open_source(root))
    assert result.counts == {"train": {"cats": 4, "dogs": 2}, "validation": {"cats": 1, "dogs": 1}}
    assert result.total == 8
    assert result.sizes is not None
    assert (result.sizes.smallest, result.sizes.median, result.sizes.largest) == ((12, 4), (12, 10), (30, 10))
    assert result.sizes.commonest == (("12x10", 7), ("30x4", 1))
    assert (result.modes, result.formats) == ({"RGB": 8}, {"PNG": 8})
    pixels = np.concatenate([np.asarray(Image.open(path)).reshape(-1, 3) for path in root.rglob("*.png")]) / 255
    assert result.mean == pytest.approx(pixels.mean(axis=0))
    assert result.std == pytest.approx(pixels.std(axis=0))
    assert result.findings == ()


def test_grey_images_have_one_mean(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", images=np.arange(128, dtype=np.uint8).reshape(2, 8, 8), labels=[0, 1])
    result = audit(open_source(tmp_path / "s.npz"))
    assert result.mean == pytest.approx((63.5 / 255,))
    assert result.formats == {}


def test_damaged_files_are_named_with_their_reasons(pets: Path) -> None:
    (pets / "cats/003.png").write_bytes((pets / "cats/003.png").read_bytes()[:200])
    (pets / "dogs/page.jpg").write_text("<html>")
    result = audit(open_source(pets))
    assert [name for name, _ in result.unreadable] == ["cats/003.png", "dogs/page.jpg"]
    assert "truncated" in result.unreadable[0][1]
    assert result.findings[0] == "2 files of 17 cannot be read and would be skipped"


def test_duplicates_are_found_by_their_pixels_within_and_across_splits_and_classes(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"train/cats": 2, "train/dogs": 2, "test/cats": 1, "test/dogs": 1})
    same = picture(60)
    same.save(root / "train/cats/a.png")
    same.save(root / "test/cats/b.bmp")  # another format, the same pixels
    other = picture(61)
    other.save(root / "train/cats/c.png")
    other.save(root / "train/dogs/d.png")
    result = audit(open_source(root))
    found = {duplicate.files: (duplicate.splits, duplicate.classes) for duplicate in result.duplicates}
    assert found == {
        ("train/cats/a.png", "test/cats/b.bmp"): (("train", "test"), ("cats",)),
        ("train/cats/c.png", "train/dogs/d.png"): (("train",), ("cats", "dogs")),
    }
    findings = "\n".join(result.findings)
    assert "more than one split: 1" in findings
    assert "more than one class: 1" in findings
    assert "more than once within a split: 1" in findings


def test_a_placeholder_of_another_format_is_suspect(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"ants": 60, "bees": 60}, suffix=".jpg")
    picture(60).convert("P").save(root / "ants/imageNotFound.gif")
    result = audit(open_source(root))
    assert result.suspects == (("ants/imageNotFound.gif", "the only GIF among 121 files"),)
    assert "imageNotFound.gif" in result.findings[0]


def test_a_wrong_ending_and_an_empty_picture_are_suspect(pets: Path) -> None:
    (pets / "cats/003.png").rename(pets / "cats/003.jpg")
    Image.new("RGB", (12, 10), (9, 9, 9)).save(pets / "dogs/blank.png")
    assert dict(audit(open_source(pets)).suspects) == {
        "cats/003.jpg": "named .jpg, and is a PNG",
        "dogs/blank.png": "nearly one colour",
    }


def test_empty_classes_imbalance_and_stray_files_are_findings(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 20, "dogs": 2, "birds": 0})
    (root / "notes.txt").write_text("x")
    result = audit(open_source(root))
    assert (result.empty_classes, result.ignored) == (("birds",), ("notes.txt",))
    assert list(result.findings) == [
        "class 'birds' has no images",
        "the largest class has 10 times the images of the smallest",
        "1 file left alone: no image by its name, or in no class folder",
    ]


def test_an_audit_is_json(pets: Path) -> None:
    content = json.loads(json.dumps(audit(open_source(pets)).to_dict()))
    assert content["total"] == 16
    assert content["counts"]["train"] == {"cats": 8, "dogs": 8}


def test_watch_counts_to_the_end(pets: Path) -> None:
    told: list[tuple[int, int]] = []
    audit(open_source(pets), watch=lambda done, total: told.append((done, total)))
    assert told[-1] == (16, 16)


def test_the_grid_shows_every_class_in_a_column_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "set"
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    for name, colour in colours.items():
        (root / name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (8, 8), colour).save(root / name / f"{index}.png")
    (root / "red/0.png").write_bytes(b"broken")
    sheet = np.asarray(image_grid(open_source(root), rows=2, columns=3))
    shown = {name: np.argwhere((sheet == colour).all(axis=2)).min(axis=0).tolist() for name, colour in colours.items()}
    assert shown["blue"][1] < shown["green"][1] < shown["red"][1]
    assert shown["blue"][0] == shown["red"][0]
    area = {name: int((sheet == colour).all(axis=2).sum()) for name, colour in colours.items()}
    assert set(area.values()) == {2 * 112 * 112}


@pytest.mark.parametrize("classes", [1, 3, 12, 30])
def test_the_grid_takes_any_number_of_classes_and_sizes(tmp_path: Path, classes: int) -> None:
    root = make_folder(tmp_path / "set", {f"class number {index} with a long name": 2 for index in range(classes)})
    picture(70, size=(400, 3)).save(root / "class number 0 with a long name/wide.png")
    sheet = image_grid(open_source(root), rows=2, columns=4)
    assert sheet.width < 600
    assert sheet.height > 150


def test_sets_that_must_not_be_mirrored_are_told_and_others_are_not(tmp_path: Path) -> None:
    glyphs = make_folder(tmp_path / "glyphs", {"b": 2, "d": 2})
    words = make_folder(tmp_path / "words", {"bee": 2, "dog": 2})
    line = "mirrored images would change class: default recipes leave out flips"
    assert line in CliRunner().invoke(app, ["describe", str(glyphs)], catch_exceptions=False).output
    assert line not in CliRunner().invoke(app, ["describe", str(words)], catch_exceptions=False).output
    assert (audit(open_source(glyphs)).mirror, audit(open_source(words)).mirror) == (False, True)
