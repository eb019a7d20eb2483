"""A stranger's picture, opened by nothing but a decoder of raster images, and within bounds."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from convatlas.files import read_regular

# What Pillow may take a file for, whatever its name says: it would start Ghostscript for the content of an EPS file.
# The first are those that Pillow has loaded from the start; HEIF comes with the package pillow-heif.
FORMATS = (
    "JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF", "HEIF", "DDS", "DIB", "ICO", "PCX", "PSD",
    "SGI", "TGA",
)  # fmt: skip
MOST_BYTES = 256 * 2**20  # of a picture's file
MOST_PIXELS = 2**26  # 67 million; as RGB they take 256 MiB while they are decoded
MOST_SCANS = 256  # of a progressive JPEG, each of which goes over all its pixels; encoders make about ten


class TooLargeError(ValueError):
    """A picture beyond the bounds above."""


def open_picture(content: bytes) -> Image.Image:
    """A picture of which the header has been read, from the bytes of its file.

    >>> open_picture(Path("cat.jpg").read_bytes()).size   # doctest: +SKIP
    (500, 375)

    Raises:
        TooLargeError: it has more than ``MOST_PIXELS`` pixels, or is a JPEG of more than ``MOST_SCANS`` scans.
        Exception: it is damaged, or of none of the ``FORMATS``; Pillow's plugins raise nearly anything.
    """
    picture = Image.open(io.BytesIO(content), formats=_known_formats())
    require_few_pixels(picture)
    if picture.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > MOST_SCANS:
        raise TooLargeError(f"a JPEG of more than {MOST_SCANS} scans, made to take long. Save it again")
    return picture


def read_picture(path: Path) -> Image.Image:
    """`open_picture` for a file.

    Raises:
        OSError: the file is not there, is no regular file, or holds more than ``MOST_BYTES``.
        Exception: as `open_picture`.
    """
    return open_picture(read_regular(path, MOST_BYTES))


def require_few_pixels(picture: Image.Image) -> None:
    """Refuse what would not fit into memory.

    Raises:
        TooLargeError: more than ``MOST_PIXELS`` pixels.
    """
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise TooLargeError(f"{width}x{height} pixels; up to {MOST_PIXELS / 1e6:.0f} million are read. Make it smaller")


def _known_formats() -> tuple[str, ...]:
    return tuple(name for name in FORMATS if name != "HEIF" or name in Image.OPEN)
