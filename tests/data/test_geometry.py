from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convatlas.data import open_source
from convatlas.data.geometry import Geometry, choose_geometry


def folder_of(images: list[Image.Image], folder: Path) -> Path:
    for number, image in enumerate(images):
        place = folder / "abc"[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{number}.png")
    return folder


def test_small_squares_are_shown_as_they_are(tmp_path: Path) -> None:
    source = open_source(folder_of([Image.new("RGB", (32, 32))] * 6, tmp_path))
    assert choose_geometry(source, native_size=224) == Geometry(channels=3, resize=32, crop=32, small_side=32)
    assert choose_geometry(source, native_size=224, image_size=64) == Geometry(
        channels=3, resize=64, crop=64, small_side=32
    )


@pytest.mark.parametrize("sizes", [[(500, 375), (300, 400)], [(640, 480)], [(300, 300)]])
def test_photographs_get_the_networks_size_and_a_margin_to_crop_from(
    sizes: list[tuple[int, int]], tmp_path: Path
) -> None:
    source = open_source(folder_of([Image.new("RGB", size) for size in sizes * 3], tmp_path))
    assert choose_geometry(source, native_size=224) == Geometry(channels=3, resize=256, crop=224)
    assert choose_geometry(source, native_size=224, image_size=112) == Geometry(channels=3, resize=128, crop=112)


def test_images_too_small_for_the_network_are_enlarged_to_its_own_size(tmp_path: Path) -> None:
    source = open_source(folder_of([Image.new("RGB", (8, 8))] * 6, tmp_path))
    geometry = choose_geometry(source, native_size=28, minimum_size=12)
    assert (geometry.resize, geometry.crop, geometry.enlarges) == (28, 28, True)
    asked = choose_geometry(source, native_size=28, minimum_size=12, image_size=8)
    assert (asked.crop, asked.enlarges) == (8, False)


def test_grey_images_stay_grey_only_when_all_are(tmp_path: Path) -> None:
    grey, colour = Image.new("L", (20, 20)), Image.new("RGB", (20, 20))
    assert choose_geometry(open_source(folder_of([grey] * 6, tmp_path / "grey")), native_size=28).channels == 1
    assert choose_geometry(open_source(folder_of([grey, colour] * 3, tmp_path / "both")), native_size=28).channels == 3
    deep = Image.fromarray(np.zeros((20, 20), np.uint16))
    assert choose_geometry(open_source(folder_of([deep] * 6, tmp_path / "deep")), native_size=28).channels == 1


def test_a_damaged_file_has_no_say(tmp_path: Path) -> None:
    folder = folder_of([Image.new("RGB", (32, 32))] * 9, tmp_path)
    (folder / "a" / "0.png").write_bytes(b"not a picture")
    assert choose_geometry(open_source(folder), native_size=224) == Geometry(
        channels=3, resize=32, crop=32, small_side=32
    )
