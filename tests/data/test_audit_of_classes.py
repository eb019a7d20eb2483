"""What `audit` says of masks beside photographs, classes of one picture, and grey classes beside colour."""

from __future__ import annotations

from pathlib import Path

from image_sets import make_folder, picture

from convatlas.data.audit import audit
from convatlas.data.catalog import open_source


def test_masks_are_known_by_the_names_they_share_and_are_gone_with_include(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 4, "dogs": 3}, suffix=".JPG")
    for place, photograph in enumerate(sorted(root.rglob("*.JPG"))):
        picture(100 + place).save(photograph.with_suffix(".png"))
    finding = "7 .png share their names with .jpg: masks? Leave them out with --include '*.jpg'"
    result = audit(open_source(root))
    assert result.findings[0] == finding
    assert result.to_dict()["masks"] == {".png": (".jpg", 7)}
    assert audit(open_source(root, "*.jpg")).findings == ()


def test_two_formats_with_names_of_their_own_are_no_masks(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 4, "dogs": 4}, suffix=".jpg")
    for number in range(8):  # two share a name, six do not
        picture(100 + number).save(root / "cats" / f"{number + 2:03d}.png")
    assert not audit(open_source(root)).masks


def test_a_class_of_one_picture_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 3, "dogs": 3})
    (root / "none").mkdir()
    for number in range(5):
        picture(60).save(root / "none" / f"{number}.png")
    result = audit(open_source(root))
    assert result.repeated_classes == {"none": 5}
    assert result.findings[0] == "1 class is one picture, repeated: 'none' (5 times)"


def test_a_grey_class_beside_colour_ones_is_named_whatever_its_mode(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 3, "dogs": 3})
    for name, mode in (("night", "L"), ("dusk", "RGB")):
        (root / name).mkdir()
        for number in range(3):
            picture(70 + number + 3 * len(mode), mode="L").convert(mode).save(root / name / f"{number}.png")
    expected = "2 classes are grey beside others in colour: 'dusk', 'night'; a network may tell them by that alone"
    assert expected in audit(open_source(root)).findings


def test_classes_that_are_all_grey_are_as_they_should_be(tmp_path: Path) -> None:
    assert audit(open_source("digits")).grey_classes == ()
