"""A sheet of sample images with their class names, to look at before training."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from convatlas.data.decode import UnreadableImageError, load_from, pillow_silenced, to_mode, upright
from convatlas.data.source import Source, Split, SplitName

CELL = 112  # pixels, the side of a picture
GAP = 14
CAPTION = 22
MARGIN = 20
HEADING = 34
PAPER, INK, FAINT_INK, CARD = "#ffffff", "#1f2328", "#59636e", "#f0f2f5"
HEADING_SIZE, CAPTION_SIZE = 17, 13


_ADJECTIVES = {"train": "training", "validation": "validation", "test": "test"}


def image_grid(source: Source, rows: int = 4, columns: int = 10, split: SplitName = "train") -> Image.Image:
    """Images of every class in turn, spread evenly over the split, each with its class name below.

    Small images are enlarged by whole factors, so that their pixels can be seen.

    >>> image_grid(open_source("digits"), rows=2, columns=10).size   # doctest: +SKIP
    (1286, 342)
    """
    images = source.splits[split]
    chosen = _choose(images, len(source.classes), rows, columns)
    columns = _columns(len(source.classes), columns)
    used_rows = -(-len(chosen) // columns)
    width = 2 * MARGIN + columns * CELL + (columns - 1) * GAP
    height = 2 * MARGIN + HEADING + used_rows * (CELL + CAPTION) + (used_rows - 1) * GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    heading = (
        f"{source.name}: {len(chosen)} of {len(images):,} {_ADJECTIVES[split]} images, {len(source.classes)} classes"
    )
    draw.text((MARGIN, MARGIN), heading, fill=INK, font=ImageFont.load_default(HEADING_SIZE))
    for place, (index, picture) in enumerate(chosen):
        row, column = divmod(place, columns)
        left, top = MARGIN + column * (CELL + GAP), MARGIN + HEADING + row * (CELL + CAPTION + GAP)
        _draw_cell(sheet, draw, picture, source.classes[int(images.labels[index])], left, top)
    return sheet


def _columns(classes: int, most: int) -> int:
    """As many as allowed, so that with few classes each column holds a single one."""
    return most - most % classes if classes <= most else most


def _choose(split: Split, classes: int, rows: int, columns: int) -> list[tuple[int, Image.Image]]:
    columns = _columns(classes, columns)
    wanted = rows * columns
    # Of many classes only those that are shown are read.
    present = [members for label in range(classes) if len(members := np.flatnonzero(split.labels == label))]
    each = -(-wanted // max(1, len(present)))
    spread: list[list[tuple[int, Image.Image]]] = []
    for members in present:
        if sum(len(found) for found in spread) >= wanted:
            break
        spread.append(_readable(split, members, each))
    turns = [members[turn] for turn in range(each) for members in spread if turn < len(members)]
    return turns[:wanted]


def _readable(split: Split, members: np.typing.NDArray[np.int64], wanted: int) -> list[tuple[int, Image.Image]]:
    """Some of a class's images, evenly spread; in place of one that cannot be read, the first of the others."""
    spread = np.unique(np.linspace(0, len(members) - 1, min(wanted, len(members))).astype(int))
    found: list[tuple[int, Image.Image]] = []
    for index in [*members[spread], *np.delete(members, spread)]:
        if len(found) == wanted:
            break
        try:
            with pillow_silenced():
                found.append((int(index), _fit(to_mode(upright(load_from(split, int(index))), "RGB"))))
        except UnreadableImageError:
            continue
    return found


def _draw_cell(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, picture: Image.Image, caption: str, left: int, top: int
) -> None:
    x, y = left + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2
    draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), fill=CARD)
    sheet.paste(picture, (x, y))
    font = ImageFont.load_default(CAPTION_SIZE)
    text = _shorten(caption, font)
    draw.text((left + CELL / 2, top + CELL + CAPTION / 2 + 2), text, fill=FAINT_INK, font=font, anchor="mm")


def _fit(picture: Image.Image) -> Image.Image:
    longest = max(picture.size)
    if longest > CELL:
        return picture.resize(_times(picture, CELL / longest), Image.Resampling.LANCZOS)
    return picture.resize(_times(picture, CELL // longest), Image.Resampling.NEAREST)


def _times(picture: Image.Image, factor: float) -> tuple[int, int]:
    return max(1, round(picture.width * factor)), max(1, round(picture.height * factor))


def _shorten(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(caption) <= CELL:
        return caption
    while caption and font.getlength(caption + "…") > CELL:
        caption = caption[:-1]
    return caption.rstrip() + "…"
