"""Pictures beside each other on a sheet, each with two lines below it; and where in a picture something is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from convatlas.reports.wording import printable

SIDE, GAP, BETWEEN = 160, 14, 4  # pixels: of a picture, around each, between two that belong together
LINE, LETTERS = 17, 13  # pixels, of a line and of its letters
PAPER, INK, MUTED = "#ffffff", "#1f2328", "#59636e"
BESIDE = "#8b949e"  # where there is no picture: neither light nor dark
OUTLINE, AROUND_OUTLINE = "#ffd33d", "#1f2328"  # light and dark: one of them shows on any picture
SHADE = 0.45  # of their brightness is left to the pixels outside an outline


class Tile(NamedTuple):
    """A picture and the two lines below it."""

    picture: Image.Image
    caption: tuple[str, str]


def thumbnail(pixels: NDArray[np.uint8] | Image.Image) -> Image.Image:
    """Pixels [h, w, C], or a picture, as a square to look at; of a few pixels each stays apart.

    >>> thumbnail(np.zeros((28, 28, 1), np.uint8)).size
    (160, 160)
    """
    picture = pixels if isinstance(pixels, Image.Image) else _as_picture(pixels)
    longest = max(picture.size)
    scale = SIDE / longest
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    how = Image.Resampling.NEAREST if longest <= SIDE // 4 else Image.Resampling.LANCZOS
    resized = picture.convert("RGB").resize(size, how)
    if resized.size == (SIDE, SIDE):
        return resized
    square = Image.new("RGB", (SIDE, SIDE), BESIDE)
    square.paste(resized, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square


def outlined(pixels: NDArray[np.uint8], box: tuple[int, int, int, int], centre: tuple[float, float]) -> Image.Image:
    """A square picture [s, s, C] with a part of it outlined, the rest darkened, and a dot at a place.

    >>> outlined(np.full((28, 28, 1), 200, np.uint8), (4, 4, 12, 12), (7.5, 7.5)).size
    (160, 160)

    Args:
        pixels: of the picture.
        box: left, top, right and bottom of the part, in its pixels; the last two are outside.
        centre: x and y of the dot.
    """
    scale = SIDE / pixels.shape[1]
    whole = thumbnail(pixels)
    left, top, right, bottom = (round(edge * scale) for edge in box)
    shown = whole.point([round(level * SHADE) for level in range(256)] * 3)
    shown.paste(whole.crop((left, top, right, bottom)), (left, top))
    draw = ImageDraw.Draw(shown)
    right, bottom = max(right - 1, left + 1), max(bottom - 1, top + 1)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=AROUND_OUTLINE)
    draw.rectangle((left, top, right, bottom), outline=OUTLINE, width=2)
    x, y = ((place + 0.5) * scale for place in centre)
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=OUTLINE, outline=AROUND_OUTLINE)
    return shown


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures that belong together."""
    both = Image.new("RGB", (left.width + BETWEEN + right.width, max(left.height, right.height)), BESIDE)
    both.paste(left, (0, 0))
    both.paste(right, (left.width + BETWEEN, 0))
    return both


def sheet(tiles: Sequence[Tile], columns: int) -> Image.Image:
    """Pictures in rows, each with its lines; what is too long for its picture's width is cut.

    >>> sheet([Tile(Image.new("RGB", (160, 160)), ("bee", "similarity 0.9"))] * 4, columns=3).size
    (536, 430)
    """
    width, height = max(tile.picture.width for tile in tiles), max(tile.picture.height for tile in tiles)
    columns, step = min(columns, len(tiles)), height + 2 * LINE + GAP
    rows = -(-len(tiles) // columns)
    size = columns * (width + GAP) + GAP, rows * step + GAP
    whole = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(LETTERS)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        left, top = GAP + column * (width + GAP), GAP + row * step
        whole.paste(tile.picture, (left, top))
        for line, (text, colour) in enumerate(zip(tile.caption, (INK, MUTED), strict=True)):
            fitting = _fitting(printable(text), font, tile.picture.width)
            draw.text((left, top + height + 2 + line * LINE), fitting, fill=colour, font=font)
    return whole


def _as_picture(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
