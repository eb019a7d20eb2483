from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convatlas.data.cache import prepare
from convatlas.data.catalog import list_sources, open_source
from convatlas.data.geometry import Geometry, choose_geometry
from convatlas.errors import ConvatlasError, DataError, UnknownNameError


def test_digits_are_scikit_learns_with_a_fixed_test_set() -> None:
    from sklearn.datasets import load_digits

    source = open_source("digits")
    assert (source.classes, source.mirror) == (tuple("0123456789"), False)
    train, test = source.splits["train"], source.splits["test"]
    assert (len(train), len(test)) == (1438, 359)
    original = load_digits()
    shown = sorted(np.asarray(split.image(i)).tobytes() for split in (train, test) for i in range(len(split)))
    assert shown == sorted(np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in original.images)
    assert test.labels[:12].tolist() == open_source("digits").splits["test"].labels[:12].tolist()


def test_digits_are_ready_for_lenet_and_a_second_start_needs_no_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(open_source("digits"), channels=1, resize=28)
    assert first.train.image_shape == (28, 28, 1)
    assert first.counts == {"train": 1295, "validation": 143, "test": 359}
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: pytest.fail("the digits were loaded again"))
    assert prepare(open_source("digits"), channels=1, resize=28).fingerprint == first.fingerprint


@pytest.mark.parametrize("name", ["digts", "MNIST2", "fashion_mnist"])
def test_unknown_names_are_told_with_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no data set or path named '{name}'") as error:
        open_source(name)
    assert any(known in str(error.value) for known in list_sources())


@pytest.mark.parametrize("path", ["nowhere/photos", "photos.zip", Path("photos")])
def test_paths_to_nothing_are_told_as_paths(path: str | Path) -> None:
    with pytest.raises(DataError, match=f"there is nothing at '{path}'"):
        open_source(path)


def test_files_that_are_no_data_set_are_told_with_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"is no data set: give an image folder, a \.zip"):
        open_source(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_download_that_fails_says_where_to_put_the_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("convatlas.data.catalog.DEBIAN_FOLDER", Path("/nowhere"))
    for dataset in ("MNIST", "FashionMNIST"):
        monkeypatch.setattr(f"torchvision.datasets.{dataset}", offline)
    with pytest.raises(DataError, match="could not be downloaded: Network is unreachable") as error:
        open_source(name)
    assert f"into a folder {name} and set CONVATLAS_DATA" in str(error.value)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_offline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", offline)
    with pytest.raises(DataError, match=f"{name} is not on this machine and could not be downloaded: File not found"):
        open_source(name)


def test_the_geometry_is_looked_at_once_and_damaged_files_have_no_say(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pets / "cats/000.png").write_bytes(b"broken")
    first = choose_geometry(open_source(pets), native_size=224)
    monkeypatch.setattr("convatlas.data.geometry.open_from", lambda *_: pytest.fail("an image was looked at again"))
    assert choose_geometry(open_source(pets), native_size=224) == first == Geometry(channels=3, resize=256, crop=224)


def test_the_location_opens_the_same_source_from_anywhere(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for given in ("pets", "./pets", "~/pets", pets):
        assert open_source(given).location == str(pets)
    assert open_source("digits").location == "digits"
    monkeypatch.chdir("/")
    assert open_source(str(pets)).location == str(pets)


def test_names_that_no_file_system_takes_are_told_in_one_line() -> None:
    for name in ("n" * 5000, "/" + "n" * 5000, "~no-such-user/photos", "a\0b/c"):
        with pytest.raises(ConvatlasError) as error:
            open_source(name)
        assert repr(name)[1:-1][:20] in str(error.value)
        assert len(str(error.value)) < 500
        assert "\n" not in str(error.value)
