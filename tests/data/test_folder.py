from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from image_sets import make_folder, picture

from convatlas.data.catalog import open_source
from convatlas.data.decode import decode_file
from convatlas.data.source import FileSplit, Source
from convatlas.errors import DataError


def names(source: Source, split: str = "train") -> list[str]:
    files = source.splits[split]  # type: ignore[index]
    assert isinstance(files, FileSplit)
    return list(files.names)


def test_classes_come_in_natural_order_and_label_their_files(tmp_path: Path) -> None:
    source = open_source(make_folder(tmp_path / "numbers", {"10": 1, "2": 2, "1": 1}))
    assert source.classes == ("1", "2", "10")
    labels = dict(zip(names(source), source.splits["train"].labels.tolist(), strict=True))
    assert labels == {"1/000.png": 0, "10/000.png": 2, "2/000.png": 1, "2/001.png": 1}


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "val", "test"), ["train", "validation", "test"]),
        (("Train", "Validation"), ["train", "validation"]),
        (("training", "valid", "testing"), ["train", "validation", "test"]),
        (("test", "train"), ["train", "test"]),
        (("train",), ["train"]),
    ],
)
def test_split_folders_by_their_usual_names(tmp_path: Path, folders: tuple[str, ...], splits: list[str]) -> None:
    layout = {f"{folder}/{name}": 1 for folder in folders for name in ("a1", "b1")}
    source = open_source(make_folder(tmp_path / "set", layout))
    assert list(source.splits) == splits
    assert all(len(split) == 2 for split in source.splits.values())


def test_one_enclosing_folder_is_looked_through(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", {"photos/inner/train/cats": 2, "photos/inner/train/dogs": 1})
    source = open_source(tmp_path / "set")
    assert source.classes == ("cats", "dogs")
    assert names(source)[0] == "photos/inner/train/cats/000.png"


def test_an_image_in_a_folder_below_its_class_belongs_to_the_class(tmp_path: Path) -> None:
    source = open_source(make_folder(tmp_path / "set", {"cats/indoors/2020": 1, "cats": 1, "dogs": 1}))
    assert source.classes == ("cats", "dogs")
    assert source.splits["train"].labels.tolist() == [0, 0, 1]


def test_an_empty_folder_is_a_class(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 1, "dogs": 1})
    (root / "birds").mkdir()
    assert open_source(root).classes == ("birds", "cats", "dogs")


def test_what_is_hidden_is_not_there_and_what_is_no_image_is_listed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 1, "dogs": 1, ".cache": 1, "__MACOSX/cats": 1})
    for name in (".DS_Store", "cats/Thumbs.db", "cats/._000.png"):
        (root / name).write_bytes(b"x")
    (root / "README.txt").write_text("about")
    (root / "cats/notes.csv").write_text("a,b")
    picture(99).save(root / "sample.png")
    source = open_source(root)
    assert source.classes == ("cats", "dogs")
    assert names(source) == ["cats/000.png", "dogs/000.png"]
    assert source.ignored == ("README.txt", "cats/notes.csv", "sample.png")


def test_a_file_without_an_ending_is_taken_for_an_image(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 1, "dogs": 1})
    (root / "cats/000.png").rename(root / "cats/000")
    assert names(open_source(root)) == ["cats/000", "dogs/000.png"]


def test_accents_are_one_class_however_they_are_spelt(tmp_path: Path) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    root = make_folder(tmp_path / "日本", {f"train/{composed}": 1, "train/ø": 1, f"test/{decomposed}": 1})
    source = open_source(root)
    assert source.classes == (composed, "ø")
    assert source.splits["test"].labels.tolist() == [0]
    assert source.splits["test"].image(0).size == (12, 10)  # found under the name it has on disk


@pytest.mark.parametrize(
    "names_of_classes", [("bus", "car", "train"), ("bus", "test", "train"), ("Train", "val", "car")]
)
def test_a_class_may_be_called_like_a_split(tmp_path: Path, names_of_classes: tuple[str, ...]) -> None:
    source = open_source(make_folder(tmp_path / "set", dict.fromkeys(names_of_classes, 2)))
    assert (set(source.classes), list(source.splits)) == (set(names_of_classes), ["train"])
    assert len(source.splits["train"]) == 6


def test_in_a_divided_set_too_a_class_may_be_called_train(tmp_path: Path) -> None:
    layout = {f"{split}/{name}": 1 for split in ("train", "test") for name in ("car", "train")}
    source = open_source(make_folder(tmp_path / "set", layout))
    assert (source.classes, list(source.splits)) == (("car", "train"), ["train", "test"])


def test_test_images_of_no_known_class_are_left_alone(tmp_path: Path) -> None:
    source = open_source(make_folder(tmp_path / "set", {"train/cats": 1, "train/dogs": 1, "test": 1}))
    assert (list(source.splits), source.ignored) == (["train"], ("test/000.png",))


def not_utf8(name: bytes) -> str:
    return os.fsdecode(name)


def test_a_class_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 1, "dogs": 1})
    (root / "dogs").rename(root / not_utf8(b"caf\xe9"))
    with pytest.raises(DataError, match=r"the class 'caf\\udce9' in .*set has a name that is no UTF-8") as error:
        open_source(root)
    str(error.value).encode()


def test_a_file_whose_name_is_no_text_is_read_and_named_with_escapes(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 1, "dogs": 1})
    (root / "cats/000.png").rename(root / "cats" / not_utf8(b"caf\xe9.png"))
    (root / not_utf8(b"\xff.txt")).write_text("x")
    source = open_source(root)
    assert source.splits["train"].image(0).size == (12, 10)
    assert source.splits["train"].name(0) == r"cats/caf\udce9.png"
    assert source.ignored == (r"\udcff.txt",)


def test_a_folder_without_permission_is_told_in_one_line(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "dogs":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"pets/dogs cannot be opened: Permission denied$"):
        open_source(pets)


def test_links_are_followed_but_never_round_in_a_ring(tmp_path: Path) -> None:
    elsewhere = make_folder(tmp_path / "elsewhere", {"dogs": 2})
    root = make_folder(tmp_path / "set", {"cats": 1})
    (root / "dogs").symlink_to(elsewhere / "dogs", target_is_directory=True)
    (root / "cats/again").symlink_to(root, target_is_directory=True)
    (root / "cats/gone.png").symlink_to(tmp_path / "nothing.png")
    assert names(open_source(root)) == ["cats/000.png", "dogs/000.png", "dogs/001.png"]


def test_classes_of_single_characters_are_glyphs_and_not_to_be_mirrored(tmp_path: Path) -> None:
    assert not open_source(make_folder(tmp_path / "glyphs", {"a": 1, "b": 1})).mirror
    assert open_source(make_folder(tmp_path / "words", {"a": 1, "bee": 1})).mirror


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({}, "holds no class folders with images"),
        ({".": 2}, "holds no class folders with images"),
        ({"cats": 0, "dogs": 0}, "holds no class folders with images"),
        ({"val/cats": 1, "test/cats": 1}, "has folders test, val and no train folder"),
        ({"train": 1, "test": 1}, "has folders test, train and no train folder with class folders in it"),
        ({"train": 1, "val/cats": 1}, "has folders train, val and no train folder with class folders in it"),
    ],
)
def test_folders_that_are_no_data_set_say_so(tmp_path: Path, layout: dict[str, int], message: str) -> None:
    root = make_folder(tmp_path / "set", layout)
    root.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message) as error:
        open_source(root)
    assert str(root) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_touched_file_changes_the_stamp_and_a_second_look_does_not(pets: Path) -> None:
    stamp = open_source(pets).stamp
    assert open_source(pets).stamp == stamp
    picture(77).save(pets / "cats/000.png")
    assert open_source(pets).stamp != stamp


def test_pipes_and_devices_are_listed_and_never_opened(pets: Path) -> None:
    os.mkfifo(pets / "cats/pipe.png")
    (pets / "dogs/zero.png").symlink_to("/dev/zero")
    source = open_source(pets)
    assert source.ignored == ("cats/pipe.png", "dogs/zero.png")
    assert len(source.splits["train"]) == 16


def test_a_pipe_given_as_a_picture_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="it is a pipe, socket or device"):
        decode_file(tmp_path / "pipe.png", 3, 8)


def test_links_in_links_are_refused_where_they_multiply(tmp_path: Path) -> None:
    for level in range(30):
        folder = tmp_path / f"set/level{level}"
        folder.mkdir(parents=True)
        for name in ("left", "right"):
            (folder / name).symlink_to(tmp_path / f"set/level{level + 1}")
    with pytest.raises(DataError, match=r"over and over|folders more than 64 deep"):
        open_source(tmp_path / "set")


def test_folders_nested_without_end_are_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for _ in range(1200):
        folder.mkdir()
        folder /= "d"
    with pytest.raises(DataError, match="more than 64 deep") as error:
        open_source(tmp_path / "set")
    assert len(str(error.value)) < 500
    while folder != tmp_path:  # deeper than what removes temporary folders goes
        folder = folder.parent
        if folder != tmp_path:
            folder.rmdir()
