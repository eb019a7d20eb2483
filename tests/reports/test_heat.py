"""Maps over pictures: where it is hot, where the picture is left as it was, and sheets of tiles."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from convatlas.reports.heat import address, filter_tiles, heat, map_tiles, overlaid, shown_square


def test_where_the_map_is_zero_the_picture_is_left() -> None:
    picture = Image.new("RGB", (64, 64), (10, 200, 30))
    found = np.zeros((64, 64), dtype=np.float32)
    found[:, 40:] = 1
    drawn = np.asarray(overlaid(picture, found))
    assert (drawn[:, :32] == (10, 200, 30)).all()
    assert (drawn[:, 44:] != (10, 200, 30)).any(axis=2).all()
    assert (np.asarray(overlaid(picture, found, opacity=0)) == (10, 200, 30)).all()


def test_hotter_is_brighter_and_less_transparent() -> None:
    levels = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))
    hot = np.asarray(heat(levels))[0].astype(int)
    assert (np.diff(hot[:, 3]) >= 0).all()
    assert (np.diff(hot[:, :3].sum(axis=1)) >= 0).all()
    assert heat(np.zeros((1000, 1000), dtype=np.float32)).size == (256, 256)


def test_squares_are_of_a_size_to_look_at() -> None:
    assert shown_square(Image.new("L", (1000, 900)), 50, 0, 900).size == (512, 512)
    assert shown_square(Image.new("L", (300, 300)), 0, 0, 300).size == (300, 300)
    tiny = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    assert set(np.unique(np.asarray(shown_square(tiny, 0, 0, 8).convert("L")))) == set(range(64))  # nothing is blurred


def test_tiles() -> None:
    maps = np.stack([np.full((2, 2), value, dtype=np.float32) for value in (-1, 0, 3)])
    sheet = map_tiles(maps, [7, 8, 9])
    assert [sheet.getpixel((48 + 102 * place, 48)) for place in range(3)] == [(0, 0, 0), (0, 0, 0), (255, 255, 255)]
    grey = filter_tiles(np.zeros((3, 5, 5, 3), dtype=np.float32))
    assert grey.getpixel((10, 10)) == (128, 128, 128)
    assert filter_tiles(np.ones((9, 1, 1), dtype=np.float32)).size == (8 * 102 - 6, 2 * 102 - 6)


def test_an_address_is_the_picture() -> None:
    flat = Image.new("RGB", (30, 20), "red")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), dtype=np.uint8))
    for picture, kind in ((flat, "png"), (noise, "jpeg"), (heat(np.eye(8, dtype=np.float32)), "png")):
        head, _, content = address(picture).partition(",")
        assert head == f"data:image/{kind};base64"
        opened = Image.open(io.BytesIO(base64.b64decode(content)))
        assert opened.size == picture.size
