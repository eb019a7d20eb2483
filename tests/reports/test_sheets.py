"""Pictures on a sheet, and where in a picture something is."""

from __future__ import annotations

import numpy as np
from PIL import Image

from convatlas.reports.sheets import SIDE, Tile, beside, outlined, sheet, thumbnail


def test_what_is_outside_an_outline_is_darker() -> None:
    drawn = outlined(np.full((40, 40, 3), 200, dtype=np.uint8), (10, 10, 30, 20), (12.0, 14.0))
    assert drawn.size == (SIDE, SIDE)
    assert drawn.getpixel((100, 60)) == (200, 200, 200)  # inside
    assert drawn.getpixel((5, 5)) == (90, 90, 90)
    red, green, blue = drawn.getpixel((50, 58))  # the dot
    assert red > green > blue


def test_an_outline_of_one_pixel_at_the_edge_is_drawn() -> None:
    drawn = outlined(np.zeros((224, 224, 1), dtype=np.uint8), (223, 223, 224, 224), (223.0, 223.0))
    assert drawn.getcolors(10**6) != Image.new("RGB", drawn.size).getcolors()


def test_thumbnails_keep_their_proportions() -> None:
    wide = np.full((10, 40, 3), 255, dtype=np.uint8)
    square = thumbnail(wide)
    assert square.size == (SIDE, SIDE)
    assert square.getpixel((80, 80)) == (255, 255, 255)
    assert square.getpixel((80, 10)) != (255, 255, 255)
    assert thumbnail(np.zeros((1, 300, 1), dtype=np.uint8)).size == (SIDE, SIDE)


def test_long_and_strange_names_stay_in_their_places() -> None:
    pair = beside(thumbnail(np.zeros((4, 4, 4), dtype=np.uint8)), thumbnail(Image.new("L", (9, 9))))
    drawn = sheet([Tile(pair, ("w" * 300, "\x1b[2J 犬"))] * 2, columns=3)
    assert drawn.width == 2 * (pair.width + 14) + 14
    margin = np.asarray(drawn)[:, -13:]
    assert (margin == 255).all()
