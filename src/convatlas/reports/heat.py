"""Maps of where a network looked, over the picture it saw; a layer's maps and its filters as a sheet of tiles."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LARGEST_SHOWN = 512  # pixels, the side of a picture
SMALLEST_SHOWN = 224
LARGEST_HEAT = 256  # of a map on a page, which the browser enlarges
OPACITY = 0.7
RAMP = ((61, 15, 113), (154, 39, 107), (228, 89, 49), (250, 164, 20), (252, 244, 150))  # from 0 to 1, as hot iron
FULL_FROM = 0.7  # of the largest value: from here on nothing shines through

TILE, GAP, CAPTION = 96, 6, 18
PAPER, INK = "#ffffff", "#59636e"


def shown_square(picture: Image.Image, left: int, top: int, side: int) -> Image.Image:
    """The square of a picture, in a size to look at: a small one enlarged by a whole factor, its pixels kept apart.

    >>> shown_square(Image.new("L", (40, 28)), 6, 0, 28).size
    (224, 224)
    """
    square = picture.crop((left, top, left + side, top + side)).convert("RGB")
    if side > LARGEST_SHOWN:
        return square.resize((LARGEST_SHOWN, LARGEST_SHOWN), Image.Resampling.LANCZOS)
    if side < SMALLEST_SHOWN:
        enlarged = side * -(-SMALLEST_SHOWN // side)
        return square.resize((enlarged, enlarged), Image.Resampling.NEAREST)
    return square


def heat(found: NDArray[np.float32], side: int | None = None) -> Image.Image:
    """A map [H, W], 0 to 1, as a picture to lay over another: the hotter, the brighter and the less transparent.

    >>> heat(np.zeros((28, 28), dtype=np.float32)).getpixel((0, 0))[3]
    0

    Args:
        found: the map.
        side: of the picture; the map's own when left out, or what a page needs where that is less.
    """
    side = min(found.shape[0], LARGEST_HEAT) if side is None else side
    # The map is resized, not the picture: colours that are seen through would be mixed with those that are not.
    smooth = Image.fromarray(found.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    values = np.clip(np.asarray(smooth), 0, 1)
    opacity = np.clip(values / FULL_FROM, 0, 1)
    return Image.fromarray(np.dstack([_coloured(values), (opacity * 255).round().astype(np.uint8)]))


def overlaid(square: Image.Image, found: NDArray[np.float32], opacity: float = OPACITY) -> Image.Image:
    """A square picture with a map [H, W], 0 to 1, over it.

    >>> overlaid(Image.new("RGB", (64, 64)), np.ones((8, 8), dtype=np.float32)).size
    (64, 64)
    """
    hot = heat(found, square.width)
    seen_through = hot.getchannel("A").point([round(level * opacity) for level in range(256)])
    return Image.composite(hot.convert("RGB"), square.convert("RGB"), seen_through)


def map_tiles(maps: NDArray[np.float32], channels: Sequence[int]) -> Image.Image:
    """A layer's maps [n, h, w] beside each other, the number of its channel below each; white is a map's largest value.

    >>> map_tiles(np.zeros((5, 7, 7), dtype=np.float32), range(5)).size
    (402, 234)
    """
    rising = np.maximum(maps, 0)
    largest = rising.max(axis=(1, 2), keepdims=True)
    tiles = rising / np.where(largest > 0, largest, 1)
    return _tiled(_as_pixels(tiles), [str(channel) for channel in channels], columns=4)


def filter_tiles(filters: NDArray[np.float32]) -> Image.Image:
    """Filters [n, k, k] or, in colour, [n, k, k, 3]: grey is zero, and all share one scale.

    >>> filter_tiles(np.zeros((6, 5, 5), dtype=np.float32)).size
    (606, 96)
    """
    largest = max(float(np.abs(filters).max()), 1e-12)
    return _tiled(_as_pixels(filters / (2 * largest) + 0.5), [], columns=8)


def address(picture: Image.Image) -> str:
    """A picture as a ``data:`` address, which needs no file: of a photograph as JPEG, of anything else as PNG."""
    is_photograph = picture.mode == "RGB" and picture.getcolors(4096) is None
    content, kind = io.BytesIO(), "JPEG" if is_photograph else "PNG"
    picture.save(content, kind, **({"quality": 88} if is_photograph else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def _coloured(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    places = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(values, places, [colour[channel] for colour in RAMP]) for channel in range(3)]
    return np.dstack(channels).round().astype(np.uint8)


def _as_pixels(tiles: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    return np.asarray((np.clip(tiles, 0, 1) * 255).round(), dtype=np.uint8)


def _tiled(tiles: NDArray[np.uint8], captions: Sequence[str], columns: int) -> Image.Image:
    columns = min(columns, len(tiles))
    height = TILE + (CAPTION if captions else 0)
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (TILE + GAP) - GAP, rows * (height + GAP) - GAP), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        left, top = column * (TILE + GAP), row * (height + GAP)
        sheet.paste(Image.fromarray(tile).resize((TILE, TILE), Image.Resampling.NEAREST), (left, top))
        if captions:
            draw.text((left + TILE / 2, top + TILE + CAPTION / 2), captions[place], fill=INK, font=font, anchor="mm")
    return sheet
