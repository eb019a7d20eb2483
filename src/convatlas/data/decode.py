"""Any picture to square uint8 pixels: the one path that the training cache and prediction share."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from convatlas.data.source import Pixels, Split, printable
from convatlas.errors import DataError, shortened
from convatlas.pictures import read_picture, require_few_pixels

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
LONGEST_TIMES_SHORTEST = 32  # what is farther out never comes into the centre square
LARGE = 2**24  # pixels, 64 MiB as RGB
STRIP = 2**20  # pixels that are converted at once where a conversion takes several times the image
_LARGE_ONES = threading.Lock()
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)  # of the orientations, those that exchange width and height


class UnreadableImageError(DataError):
    """A file that is not an image, is cut short, or holds pixels that have no agreed meaning as 8-bit colour."""


def decode(image: Image.Image | Path, channels: int, resize: int) -> Pixels:
    """The picture as uint8 [resize, resize, channels].

    The short side is resized to ``resize`` (bilinear, antialiased) and the centre square cut out, as torchvision's
    ``Resize(resize)`` and ``CenterCrop(resize)`` do; an image of that very size is not resampled. EXIF rotation is
    applied. Transparent pixels come out white unless 4 channels are asked for. The first frame of an animation counts.

    >>> decode(Image.new("L", (40, 30), 7), channels=3, resize=16)[0, 0]
    array([7, 7, 7], dtype=uint8)

    Raises:
        UnreadableImageError: with the reason, in words.
    """
    with _reasons_in_words():
        opened = read_picture(image) if isinstance(image, Path) else image
        with one_large_at_a_time(opened):
            picture = to_mode(upright(load(opened)), MODES[channels])
            picture = _centre(_resize_short_side(_without_far_ends(picture), resize), resize, resize)
    return np.array(picture, dtype=np.uint8).reshape(resize, resize, channels)


def decode_file(path: str | Path, channels: int, resize: int) -> Pixels:
    """`decode` for a file that a person named.

    Raises:
        UnreadableImageError: the reason, with the file's name before it.
    """
    try:
        with pillow_silenced():
            return decode(Path(path), channels, resize)
    except UnreadableImageError as error:
        raise UnreadableImageError(f"{shortened(path)} cannot be read: {error}") from error


def upright_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a picture as a person sees it, from its header.

    >>> upright_size("held-sideways.jpg")   # doctest: +SKIP
    (480, 640)

    Raises:
        UnreadableImageError: it is no image.
    """
    with pillow_silenced(), _reasons_in_words():
        picture = read_picture(Path(path))
        is_on_its_side = _orientation(picture) in _ON_ITS_SIDE
    return (picture.height, picture.width) if is_on_its_side else picture.size


def load_upright(path: str | Path) -> Image.Image:
    """A picture file as a person sees it, in its own size.

    Raises:
        UnreadableImageError: it is no image.
    """
    with pillow_silenced(), _reasons_in_words():
        return to_mode(upright(load(read_picture(Path(path)))), "RGB")


def centre_square(width: int, height: int) -> tuple[int, int, int]:
    """Left, top and side of the square that `decode` shows of a picture.

    >>> centre_square(40, 30)
    (5, 0, 30)
    """
    side = min(width, height)
    return round((width - side) / 2), round((height - side) / 2), side


def load(picture: Image.Image) -> Image.Image:
    """The image with its pixels decoded.

    Raises:
        UnreadableImageError: Pillow cannot read it.
    """
    with _reasons_in_words():
        require_few_pixels(picture)
        picture.load()
        return picture


@contextmanager
def one_large_at_a_time(picture: Image.Image) -> Iterator[None]:
    """While it is worked on, no other thread works on a large one: of those, the memory may not hold many.

    >>> with one_large_at_a_time(picture):   # doctest: +SKIP
    ...     pixels = np.asarray(load(picture))
    """
    is_large = picture.width * picture.height > LARGE
    with _LARGE_ONES if is_large else nullcontext():
        yield


def open_from(split: Split, index: int) -> Image.Image:
    """One image of a split, of which only the header has been read: enough for its size and mode.

    Raises:
        UnreadableImageError: it is no image.
    """
    with _reasons_in_words():
        return split.image(index)


def load_from(split: Split, index: int) -> Image.Image:
    """One image of a split with its pixels decoded.

    Raises:
        UnreadableImageError: Pillow cannot read it.
    """
    return load(open_from(split, index))


def upright(picture: Image.Image) -> Image.Image:
    """The image turned as its camera says it was held (EXIF orientation)."""
    turn = _UPRIGHT.get(_orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def _orientation(picture: Image.Image) -> Any:
    """What the camera says of how it was held; None where nothing does."""
    if "exif" not in picture.info and picture.format not in ("TIFF", "MPO"):  # asking costs more than a small JPEG
        return None
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged EXIF says nothing of the pixels; Pillow raises nearly anything
        return None
    return orientation if isinstance(orientation, int) else None


def to_mode(picture: Image.Image, mode: str) -> Image.Image:
    """The image as L, RGB or RGBA, whatever it was: palette, CMYK, 16-bit, with or without transparency.

    Raises:
        UnreadableImageError: floating-point pixels, whose range nobody knows, or a mode that Pillow cannot convert.
    """
    if picture.mode == mode:
        return picture
    if picture.mode == "F":
        raise UnreadableImageError("floating-point pixels, of unknown range; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        picture = _from_16_bit(picture)
    if mode != "RGBA" and picture.has_transparency_data:
        picture = _on_white(picture)
    try:
        return picture.convert(mode)
    except ValueError as error:
        raise UnreadableImageError(f"{picture.mode} pixels cannot be turned into {mode}") from error


def _from_16_bit(picture: Image.Image) -> Image.Image:
    return _in_strips(_strip_from_16_bit, picture, "L")


def _strip_from_16_bit(picture: Image.Image) -> Image.Image:
    # 65535 = 255 * 257, so white stays white; Pillow's own conversion clips everything above 255
    values = np.asarray(picture).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _on_white(picture: Image.Image) -> Image.Image:
    return _in_strips(_strip_on_white, picture, "RGB")


def _strip_on_white(picture: Image.Image) -> Image.Image:
    colours = picture.convert("RGBA")
    white = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(white, colours).convert("RGB")


def _in_strips(convert: Callable[[Image.Image], Image.Image], picture: Image.Image, mode: str) -> Image.Image:
    """The whole picture converted, some rows at a time."""
    width, height = picture.size
    rows = max(1, STRIP // width)
    if height <= rows:
        return convert(picture)
    whole = Image.new(mode, picture.size)
    for top in range(0, height, rows):
        whole.paste(convert(picture.crop((0, top, width, min(top + rows, height)))), (0, top))
    return whole


def _resize_short_side(picture: Image.Image, side: int) -> Image.Image:
    width, height = picture.size
    short = min(width, height)
    if short == side:
        return picture
    return picture.resize((side * width // short, side * height // short), Image.Resampling.BILINEAR)


def _without_far_ends(picture: Image.Image) -> Image.Image:
    """A line of pixels enlarged to a square's side would fill the memory with what is then cut off."""
    longest = LONGEST_TIMES_SHORTEST * min(picture.size)
    return _centre(picture, min(picture.width, longest), min(picture.height, longest))


def _centre(picture: Image.Image, width: int, height: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))


@contextmanager
def pillow_silenced() -> Iterator[None]:
    """No warnings about oddities that change no pixel, such as a large image; too large a one is still an error.

    Not for threads: it is entered before them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _reasons_in_words() -> Iterator[None]:
    try:
        yield
    except UnreadableImageError:
        raise
    except Exception as error:  # broken files make Pillow's plugins raise nearly anything
        raise UnreadableImageError(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder, not an image"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip()
    return shortened(printable(text.splitlines()[0])) if text else type(error).__name__
