"""Pictures of what is unusual in an image: how far each place is above what is usual, over the image."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

HEAT = (220, 38, 38)  # of a place that is wrong
MOST_OPAQUE = 0.75
BOX = (250, 204, 21)
SMALLEST_SHOWN = 96  # pixels, the side of an image in a report


def overlay(picture: Image.Image, residual: NDArray[np.float32], wrong_above: float) -> Image.Image:
    """The picture in grey, redder where a place [h, w] is more unusual; what is wrong is reddest.

    >>> overlay(Image.new("L", (40, 40)), np.zeros((8, 8), dtype=np.float32), 1.0).size
    (40, 40)
    """
    heat = np.clip(residual / max(wrong_above, 1e-12), 0, 1) * MOST_OPAQUE
    opacity = Image.fromarray((heat * 255).astype(np.uint8)).resize(picture.size, Image.Resampling.BILINEAR)
    ground = picture.convert("L").convert("RGB")
    return Image.composite(Image.new("RGB", picture.size, HEAT), ground, opacity)


def with_boxes(picture: Image.Image, boxes: Sequence[Any]) -> Image.Image:
    """The picture with a frame round each box."""
    drawn = picture.convert("RGB")
    pen, width = ImageDraw.Draw(drawn), max(1, min(drawn.size) // 150)
    for box in boxes:
        pen.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=BOX, width=width)
    return drawn


def marked(
    picture: Image.Image, residual: NDArray[np.float32], boxes: Sequence[Any], wrong_above: float
) -> Image.Image:
    """A whole picture with the map over the square in its middle, and frames round what is wrong.

    Args:
        picture: upright, of any size.
        residual: of the square in its middle, [h, w].
        boxes: in the picture's pixels.
        wrong_above: from where on a place is wrong.
    """
    side = min(picture.size)
    left, top = round((picture.width - side) / 2), round((picture.height - side) / 2)
    whole = picture.convert("L").convert("RGB")
    whole.paste(overlay(whole.crop((left, top, left + side, top + side)), residual, wrong_above), (left, top))
    return with_boxes(whole, boxes)


def strip(pixels: NDArray[np.uint8], rebuilt: NDArray[np.uint8], residual: NDArray[np.float32], above: float) -> str:
    """An image, what the network made of it, and where they differ, side by side: a PNG as a ``data:`` address.

    Args:
        pixels: uint8 [s, s, C].
        rebuilt: the same.
        residual: [s, s].
        above: from where on a place is wrong.
    """
    seen, made = _picture(pixels), _picture(rebuilt)
    side = max(SMALLEST_SHOWN, seen.width)
    shown = [each.resize((side, side), Image.Resampling.NEAREST).convert("RGB") for each in (seen, made)]
    shown.append(overlay(shown[0], residual, above))
    whole = Image.new("RGB", (3 * side + 8, side), "white")
    for place, each in enumerate(shown):
        whole.paste(each, (place * (side + 4), 0))
    content = io.BytesIO()
    whole.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
