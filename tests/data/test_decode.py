from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from image_sets import picture
from PIL import Image

from convatlas.data.audit import audit
from convatlas.data.cache import prepare
from convatlas.data.catalog import open_source
from convatlas.data.decode import UnreadableImageError, decode, decode_file
from convatlas.data.geometry import choose_geometry
from convatlas.data.grid import image_grid

RED, GREY = (200, 30, 60), 90


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def mean_colour(path: Path, channels: int = 3) -> list[float]:
    return [round(float(value)) for value in decode(path, channels, 16).mean(axis=(0, 1))]


@pytest.mark.parametrize(
    ("suffix", "mode", "tolerance"),
    [
        (".png", "RGB", 0), (".bmp", "RGB", 0), (".tif", "RGB", 0), (".webp", "RGB", 6), (".jpg", "RGB", 3),
        (".gif", "P", 0), (".png", "P", 0), (".jpg", "CMYK", 8), (".tif", "CMYK", 1), (".ppm", "RGB", 0),
        (".png", "RGBA", 0),
    ],
)  # fmt: skip
def test_one_colour_in_every_format_and_mode(tmp_path: Path, suffix: str, mode: str, tolerance: int) -> None:
    image = Image.new("RGB", (20, 16), RED)
    path = saved(image.quantize() if mode == "P" else image.convert(mode), tmp_path / f"red{suffix}")
    assert mean_colour(path) == pytest.approx(RED, abs=tolerance)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGB", "P"])
def test_white_and_black_stay_so_in_one_channel(tmp_path: Path, mode: str) -> None:
    for value in (0, 255):
        path = saved(Image.new("L", (20, 16), value).convert(mode), tmp_path / f"{value}.png")
        assert mean_colour(path, channels=1) == [value]


@pytest.mark.parametrize(("sixteen_bits", "eight_bits"), [(0, 0), (65535, 255), (257 * 90, 90), (257 * 90 + 128, 90)])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_divided_by_257(tmp_path: Path, suffix: str, sixteen_bits: int, eight_bits: int) -> None:
    deep = Image.fromarray(np.full((16, 16), sixteen_bits, dtype=np.uint16))
    path = saved(deep, tmp_path / f"deep{suffix}")
    assert mean_colour(path, channels=1) == [eight_bits]
    assert mean_colour(path, channels=3) == [eight_bits] * 3


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (*RED, 0)), ("LA", (GREY, 0))])
def test_transparent_pixels_come_out_white(tmp_path: Path, mode: str, colour: tuple[int, ...]) -> None:
    path = saved(Image.new(mode, (16, 16), colour), tmp_path / "clear.png")
    assert mean_colour(path, channels=3) == [255] * 3
    assert mean_colour(path, channels=1) == [255]
    assert mean_colour(path, channels=4)[3] == 0


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    path = saved(Image.new("RGBA", (16, 16), (0, 0, 0, 128)), tmp_path / "half.png")
    assert mean_colour(path) == [127] * 3


def test_a_transparent_palette_colour_comes_out_white(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, *RED])
    assert mean_colour(saved(image, tmp_path / "clear.gif", transparency=1)) == [255] * 3
    assert mean_colour(saved(image, tmp_path / "full.gif")) == list(RED)


def test_opaque_images_have_full_alpha_in_four_channels(tmp_path: Path) -> None:
    assert mean_colour(saved(Image.new("RGB", (16, 16), RED), tmp_path / "red.png"), channels=4) == [*RED, 255]


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, (0, 0, 255))]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert mean_colour(tmp_path / "film.gif") == list(RED)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((32, 32, 3), dtype=np.uint8)
    upright[:16, :16], upright[:16, 16:], upright[16:, :16] = 255, 128, 60
    as_held = {  # what the sensor saw, so that the orientation turns it upright
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: np.rot90(upright.transpose(1, 0, 2), 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix, options in ((".jpg", {"quality": 95}), (".png", {}), (".tif", {})):
        path = saved(Image.fromarray(np.ascontiguousarray(as_held)), tmp_path / f"held{suffix}", exif=exif, **options)
        assert np.abs(decode(path, 3, 32).astype(int) - upright).max() <= 6, suffix


def test_a_grey_jpeg_in_three_channels_and_a_colour_one_in_one(tmp_path: Path) -> None:
    grey = saved(Image.new("L", (16, 16), GREY), tmp_path / "grey.jpg")
    assert mean_colour(grey, channels=3) == pytest.approx([GREY] * 3, abs=1)
    luma = round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])
    assert mean_colour(saved(Image.new("RGB", (16, 16), RED), tmp_path / "red.png"), channels=1) == [luma]


def test_an_image_of_the_wanted_size_is_not_resampled() -> None:
    image = picture(1, size=(24, 24))
    assert (decode(image, 3, 24) == np.asarray(image)).all()


def test_of_a_long_image_the_centre_is_kept() -> None:
    stripes = np.zeros((8, 40, 3), dtype=np.uint8)
    stripes[:, 16:24] = 255
    assert (decode(Image.fromarray(stripes), 3, 8) == 255).all()
    assert (decode(Image.fromarray(stripes.transpose(1, 0, 2).copy()), 3, 8) == 255).all()


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (64, 64), (8, 9), (300, 17)])
@pytest.mark.parametrize("resize", [16, 33])
def test_resizing_and_cropping_are_torchvisions(size: tuple[int, int], resize: int) -> None:
    from torchvision.transforms.v2 import functional

    image = picture(3, size=size)
    theirs = functional.center_crop(functional.resize(image, [resize]), [resize])
    assert (decode(image, 3, resize) == np.asarray(theirs)).all()


def test_a_line_of_pixels_is_no_bomb() -> None:
    """Enlarged whole, this would be 256 x 15,360,000 pixels."""
    line = np.zeros((1, 60_000, 3), dtype=np.uint8)
    line[:, 29_999:30_001] = 255
    assert decode(Image.fromarray(line), 3, 256).min() == 255
    assert decode(Image.fromarray(line.transpose(1, 0, 2).copy()), 3, 256).min() == 255


def test_damaged_exif_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    picture(1, (16, 16)).save(path, quality=95, exif=b"Exif\0\0MM\0\x2a\xff\xff")
    plain = tmp_path / "plain.jpg"
    picture(1, (16, 16)).save(plain, quality=95)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (decode(path, 3, 16) == decode(plain, 3, 16)).all()


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image that Pillow can read"),
        (b"<html>404 Not Found</html>", "not an image that Pillow can read"),
        (jpeg(picture(1, (64, 64)))[:-900], "truncated"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "not an image"),
    ],
)
def test_damaged_files_are_errors_that_name_the_file_and_the_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "damaged.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason) as error:
        decode_file(path, 3, 16)
    assert str(error.value).startswith(f"{path} cannot be read: ")
    assert "\n" not in str(error.value)


def test_large_images_are_taken_without_a_warning_everywhere(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors here; the images are over Pillow's limit and below twice of it."""
    for index, file in enumerate(pets.rglob("*.png")):
        picture(index, size=(100, 100), mode="L").save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8000)
    source = open_source(pets)
    assert decode_file(pets / "cats/000.png", 3, 8).shape == (8, 8, 3)
    assert choose_geometry(source, native_size=28).channels == 1  # it would be 3 if none could be read
    assert prepare(source, channels=3, resize=8).skipped == ()
    assert audit(source).unreadable == ()
    assert image_grid(source, rows=1, columns=2).width > 0


def test_images_that_may_be_bombs_are_unreadable(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(UnreadableImageError, match="could be decompression bomb"):
        decode_file(pets / "cats/000.png", 3, 8)


def test_missing_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="there is no such file"):
        decode_file(tmp_path / "nothing.jpg", 3, 16)
    with pytest.raises(UnreadableImageError, match="it is a folder"):
        decode_file(tmp_path, 3, 16)


def test_floating_point_pixels_are_refused_since_nobody_knows_their_range(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.zeros((8, 8), np.float32)), tmp_path / "float.tif")
    with pytest.raises(UnreadableImageError, match="floating-point pixels"):
        decode(path, 1, 8)


def test_postscript_is_no_picture_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    picture(1).save(tmp_path / "photo.eps")
    path = (tmp_path / "photo.eps").rename(tmp_path / "photo.jpg")
    with pytest.raises(UnreadableImageError, match="not an image that Pillow can read"):
        decode_file(path, 3, 8)
