"""Preparing: decode once, keep by content, divide into train, validation and test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from image_sets import make_folder, picture
from PIL import Image

from convatlas.data import cache
from convatlas.data.cache import every_image, prepare
from convatlas.data.catalog import open_source
from convatlas.data.dataset import Dataset, ImageArray
from convatlas.data.decode import decode
from convatlas.data.readers import folder
from convatlas.errors import DataError, StorageError
from convatlas.files import cache_directory, read_regular


def prepared(path: Path, **options: object) -> Dataset:
    return prepare(open_source(path), **({"channels": 3, "resize": 8} | options))  # type: ignore[arg-type]


def members(array: ImageArray) -> set[bytes]:
    return {image.tobytes() for image in array.take(np.arange(len(array)))}


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "decode", lambda *_: pytest.fail("an image was decoded again"))


def test_images_are_decoded_in_order_with_their_labels(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {f"{split}/{name}": 3 for split in ("train", "val", "test") for name in "ab"})
    dataset = prepared(root)
    for array, split in ((dataset.train, "train"), (dataset.validation, "val"), (dataset.test, "test")):
        assert array is not None
        files = sorted((root / split).rglob("*.png"))
        assert array.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert (array.take(np.arange(6)) == np.stack([decode(file, 3, 8) for file in files])).all()
    assert dataset.counts == {"train": 6, "validation": 6, "test": 6}
    assert (dataset.validation_fraction, dataset.skipped) == (0.0, ())


def test_arrays_of_bytes_are_prepared_like_files(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez(
        tmp_path / "s.npz", x_train=images[:20], y_train=np.arange(20) % 2, x_test=images[20:], y_test=np.arange(10) % 2
    )
    dataset = prepared(tmp_path / "s.npz", channels=1)
    assert dataset.test is not None
    assert (dataset.test.take(np.arange(10))[..., 0] == images[20:]).all()
    assert members(dataset.train) | members(dataset.validation) == {image.tobytes() for image in images[:20]}


@pytest.mark.parametrize(
    ("splits", "counts"),
    [
        ((), {"train": 64, "validation": 8, "test": 8}),
        (("train",), {"train": 64, "validation": 8, "test": 8}),
        (("train", "test"), {"train": 72, "validation": 8, "test": 80}),
        (("train", "val"), {"train": 80, "validation": 80, "test": 0}),
        (("train", "val", "test"), {"train": 80, "validation": 80, "test": 80}),
    ],
)
def test_what_is_not_given_is_cut(tmp_path: Path, splits: tuple[str, ...], counts: dict[str, int]) -> None:
    layout = {f"{split}/{name}": 40 for split in splits or (".",) for name in ("cats", "dogs")}
    dataset = prepared(make_folder(tmp_path / "set", layout))
    assert dataset.counts == counts
    assert (dataset.test is None) == (counts["test"] == 0)
    parts = [members(part) for part in (dataset.train, dataset.validation, dataset.test) if part is not None]
    assert sum(map(len, parts)) == len(set.union(*parts)) == sum(counts.values())  # every image once


def test_the_test_set_is_the_same_for_every_seed_and_validation_is_not(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 40, "dogs": 40})
    one, other = prepared(root, split_seed=0), prepared(root, split_seed=1, validation_fraction=0.25)
    assert one.test is not None
    assert other.test is not None
    assert members(one.test) == members(other.test)
    assert members(one.validation) != members(other.validation)
    assert (other.split_seed, other.validation_fraction, len(other.validation)) == (1, 0.25, 18)


@pytest.mark.parametrize("splits", [(".",), ("train", "test")])
def test_copies_of_an_image_never_lie_on_both_sides_of_a_cut(tmp_path: Path, splits: tuple[str, ...]) -> None:
    root = make_folder(tmp_path / "set", {f"{split}/{name}": 40 for split in splits for name in ("cats", "dogs")})
    for file in sorted(root.rglob("*.png")):
        Image.open(file).save(file.with_name(f"copy of {file.stem}.bmp"))  # other bytes, the same pixels
    for _ in range(2):  # decoded, and found in the cache
        dataset = prepared(root)
        assert dataset.test is not None
        parts = [members(part) for part in (dataset.train, dataset.validation, dataset.test)]
        assert [2 * len(part) for part in parts] == list(dataset.counts.values())
        assert sum(map(len, parts)) == len(set.union(*parts))


def test_one_picture_does_not_make_up_a_part(tmp_path: Path) -> None:
    """As black masks are, hundreds of them: all would go where the first goes."""
    root = make_folder(tmp_path / "set", {"cats": 60, "dogs": 60})
    for index in range(40):
        Image.new("L", (12, 10)).save(root / f"dogs/black {index:02}.png")
    for index in range(4):  # a few copies are nothing to speak of
        shutil.copy(root / "cats/000.png", root / f"cats/copy {index}.png")
    dataset = prepared(root)
    assert dataset.repeated == (("dogs/black 00.png", 40),)
    assert sum(dataset.counts.values()) == 60 + 4 + 60 + 1
    divided = make_folder(tmp_path / "divided", {"train/cats": 8, "train/dogs": 8, "test/cats": 2, "test/dogs": 2})
    for index in range(20):
        Image.new("L", (12, 10)).save(divided / f"train/dogs/black {index:02}.png")
    dataset = prepared(divided)  # validation is cut from train, and would be black pictures
    assert dataset.repeated == (("train/dogs/black 00.png", 20),)
    assert dataset.counts == {"train": 15, "validation": 2, "test": 4}
    shutil.copytree(divided / "test", divided / "val")
    assert prepared(divided).repeated == ()


def test_different_pictures_that_only_look_alike_when_small_are_all_kept(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 60, "dogs": 60})
    for index in range(30):
        mask = Image.new("L", (400, 400))
        mask.putpixel((10 * index, 7), 90)
        mask.save(root / f"dogs/mask {index:02}.png")
    dataset = prepared(root)
    assert dataset.repeated == ()
    assert sum(dataset.counts.values()) == 150
    assert 0 < dataset.counts["validation"] < 30


def test_copies_between_given_splits_are_left_where_they_are(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"train/cats": 8, "train/dogs": 8})
    shutil.copytree(root / "train", root / "test")
    dataset = prepared(root)
    assert dataset.test is not None
    assert dataset.counts == {"train": 14, "validation": 2, "test": 16}
    assert members(dataset.test) == members(dataset.train) | members(dataset.validation)


def test_damaged_files_are_no_copies_of_a_black_image(pets: Path) -> None:
    damage(pets / "cats/000.png")
    Image.new("RGB", (12, 10)).save(pets / "cats/001.png")
    dataset = prepared(pets)
    assert sum(dataset.counts.values()) == 15


def test_copies_do_not_count_where_a_class_is_too_small_to_be_cut(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 8, "dogs": 1})
    for index in range(5):
        shutil.copy(root / "dogs/000.png", root / f"dogs/copy {index}.png")
    with pytest.raises(DataError, match="'dogs' of set has 1 readable images in train, besides copies; 3 are needed"):
        prepared(root)


def test_every_image_comes_with_the_fingerprint_of_the_training(pets: Path) -> None:
    fingerprint, images = every_image(open_source(pets), channels=3, resize=8)
    assert (fingerprint, len(images)) == (prepared(pets).fingerprint, 16)


def test_only_the_test_split_is_evaluated_where_there_is_one(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"train/cats": 4, "train/dogs": 4, "test/cats": 2, "test/dogs": 1})
    _, images = every_image(open_source(root), channels=3, resize=8)
    assert images.labels.tolist() == [0, 0, 1]


def test_the_location_is_kept(pets: Path) -> None:
    assert prepared(pets).location == str(pets)


def test_a_second_start_reads_no_file(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(pets)
    no_decoding(monkeypatch)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    second = prepared(pets)
    assert members(second.train) == members(first.train)
    assert second.train.labels.tolist() == first.train.labels.tolist()
    assert second.fingerprint == first.fingerprint


def test_a_copy_elsewhere_is_not_decoded_again(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(pets)
    shutil.copytree(pets, tmp_path / "moved" / "animals")
    no_decoding(monkeypatch)
    assert prepared(tmp_path / "moved" / "animals").fingerprint == first.fingerprint


def test_a_changed_image_is_another_data_set(pets: Path) -> None:
    before = prepared(pets)
    picture(77).save(pets / "cats/000.png")
    after = prepared(pets)
    assert after.fingerprint != before.fingerprint
    assert members(after.train) != members(before.train)


@pytest.mark.parametrize("change", ["class renamed", "image moved to the other class", "image removed"])
def test_the_fingerprint_knows_labels_and_class_names(pets: Path, change: str) -> None:
    before = prepared(pets).fingerprint
    if change == "class renamed":
        (pets / "cats").rename(pets / "cows")
    elif change == "image removed":
        (pets / "cats/000.png").unlink()
    else:
        (pets / "cats/007.png").rename(pets / "dogs/00.png")
    assert prepared(pets).fingerprint != before


def test_the_fingerprint_does_not_know_the_size(pets: Path) -> None:
    assert prepared(pets, resize=8).fingerprint == prepared(pets, resize=16, channels=1).fingerprint


def test_the_array_is_mapped_and_not_loaded(pets: Path) -> None:
    stored = prepared(pets).train.stored
    assert isinstance(stored, np.memmap)
    assert not stored.flags.writeable


def test_damaged_files_are_skipped_with_their_names(pets: Path) -> None:
    damage(pets / "cats/003.png")
    (pets / "dogs/page.jpg").write_text("<html>not found</html>")
    dataset = prepared(pets)
    assert dict(dataset.skipped).keys() == {"cats/003.png", "dogs/page.jpg"}
    assert "truncated" in dict(dataset.skipped)["cats/003.png"]
    assert sum(dataset.counts.values()) == 15
    assert prepared(pets).skipped == dataset.skipped  # and known the second time
    zeros = np.zeros((8, 8, 3), np.uint8).tobytes()
    assert zeros not in members(dataset.train) | members(dataset.validation)


def test_strict_refuses_damaged_files_the_first_and_the_second_time(pets: Path) -> None:
    damage(pets / "cats/003.png")
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 of the files in pets cannot be read; the first is cats/003\.png"):
            prepared(pets, strict=True)
    assert len(prepared(pets).skipped) == 1


def test_a_file_that_cannot_be_opened_is_skipped(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, most: int) -> bytes:
        if path.name == "003.png":
            raise PermissionError(13, "Permission denied")
        return read_regular(path, most)

    monkeypatch.setattr(folder, "read_regular", refuse)
    assert [name for name, _ in prepared(pets).skipped] == ["cats/003.png", "dogs/003.png"]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"cats": 8, "dogs": 8, "birds": 0}, "class 'birds' of set has no readable image in train"),
        (
            {"train/cats": 8, "train/dogs": 8, "test/dogs": 2, "test/eels": 2},
            "class 'eels' of set has no readable image",
        ),
        (
            {"cats": 8, "dogs": 2},
            "class 'dogs' of set has 2 readable images in train, besides copies; 3 are needed, since validation and",
        ),
        (
            {"train/cats": 8, "train/dogs": 1, "test/cats": 1},
            "has 1 readable images in train, besides copies; 2 are needed, since validation is",
        ),
        ({"cats": 8}, "has the single class 'cats'"),
    ],
)
def test_classes_that_cannot_be_trained_are_named(tmp_path: Path, layout: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepared(make_folder(tmp_path / "set", layout))


def test_a_split_of_nothing_but_damaged_files_is_told(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"train/cats": 3, "train/dogs": 3, "test/cats": 1})
    damage(root / "test/cats/000.png")
    with pytest.raises(DataError, match="none of the test images"):
        prepared(root)


def test_watch_is_told_of_the_work_and_of_no_work(pets: Path) -> None:
    told: list[tuple[int, int]] = []
    prepared(pets, watch=lambda done, total: told.append((done, total)))
    assert told[-1] == (16, 16)
    told.clear()
    prepared(pets, watch=lambda done, total: told.append((done, total)))
    assert told == []


def test_threads_give_the_same_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "set", {"cats": 150, "dogs": 120})
    damage(root / "cats/100.png")
    serial = prepared(root)
    shutil.rmtree(cache_directory())
    monkeypatch.setattr("convatlas.data.pieces.THREADS_PAY_FROM", 0.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    threaded = prepared(root)
    assert (threaded.train.stored == serial.train.stored).all()
    assert threaded.skipped == serial.skipped


def arrays_kept(cache_folder: Path) -> list[Path]:
    return list(cache_folder.rglob("*images.npy*"))


def test_an_interrupted_decoding_leaves_nothing(pets: Path, cache_folder: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared(pets, watch=interrupt)
    assert arrays_kept(cache_folder) == []
    assert sum(prepared(pets).counts.values()) == 16


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


PREPARE = """
from convatlas.data import open_source, prepare
from convatlas.errors import StorageError
"""


def test_a_killed_decoding_is_done_again_and_its_leftover_removed(pets: Path, cache_folder: Path) -> None:
    kill = "lambda done, total: os.kill(os.getpid(), signal.SIGKILL)"
    killed = run(f"import os, signal{PREPARE}prepare(open_source({str(pets)!r}), channels=3, resize=8, watch={kill})")
    assert killed.returncode == -9
    (leftover,) = arrays_kept(cache_folder)
    assert leftover.name.endswith(".tmp")
    assert sum(prepared(pets).counts.values()) == 16
    assert leftover.exists()  # it might be another process's, at work
    os.utime(leftover, 2 * (time.time() - 2 * cache.ABANDONED_AFTER,))
    (leftover.parent / "entry.json").unlink()
    prepared(pets)
    assert [path.name for path in arrays_kept(cache_folder)] == ["images.npy"]


def test_a_full_disk_is_told_and_nothing_half_written_is_kept(tmp_path: Path, cache_folder: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 40, "dogs": 40})
    attempt = f"""
import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)){PREPARE}
try: prepare(open_source({str(root)!r}), channels=3, resize=16)
except StorageError as error: print("told:", error)
"""
    result = run(attempt)
    assert result.stdout.startswith("told: cannot write"), result.stderr
    assert result.stdout.count("\n") == 1
    assert arrays_kept(cache_folder) == []
    assert sum(prepared(root, resize=16).counts.values()) == 80


@pytest.mark.parametrize(
    "damage_done", ["array cut short", "array gone", "record damaged", "record gone", "memo damaged"]
)
def test_a_damaged_cache_is_made_again(pets: Path, cache_folder: Path, damage_done: str) -> None:
    before = members(prepared(pets).train)
    (array,), (record,) = arrays_kept(cache_folder), cache_folder.rglob("entry.json")
    match damage_done:
        case "array cut short":
            damage(array)
        case "array gone":
            array.unlink()
        case "record damaged":
            record.write_text("{")
        case "record gone":
            record.unlink()
        case "memo damaged":
            for memo in cache_folder.glob("memo/*.json"):
                memo.write_text("")
    assert members(prepared(pets).train) == before


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVATLAS_CACHE", "/here")
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert cache_directory() == Path("/here")
    monkeypatch.delenv("CONVATLAS_CACHE")
    assert cache_directory() == Path("/there/convatlas")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_directory() == Path("/home/me/.cache/convatlas")


def test_a_cache_that_is_a_file_is_told_with_the_variable(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"file: Not a directory; set CONVATLAS_CACHE to a folder") as error:
        prepared(pets)
    assert "\n" not in str(error.value)


def test_a_cache_that_may_not_be_read_is_told_with_the_variable(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(StorageError, match="Permission denied; set CONVATLAS_CACHE"):
        prepared(pets)


def test_a_cache_of_nobody_is_a_folder_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVATLAS_CACHE", "~no-such-user/cache")
    assert cache_directory() == Path("~no-such-user/cache")
