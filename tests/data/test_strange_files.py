"""Data files that a stranger made to harm, or that are damaged anywhere: one line, and little is read."""

from __future__ import annotations

import gzip
import io
import os
import random
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_sets import make_folder, picture
from PIL import Image

from convatlas.data.audit import audit
from convatlas.data.cache import prepare
from convatlas.data.catalog import open_source
from convatlas.errors import ConvatlasError, DataError


def npy(shape: tuple[int, ...], dtype: str = "|u1", data: bytes = b"") -> bytes:
    """A ``.npy`` file whose header claims what it likes."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def saved(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


LABELS = saved([0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (npy((2**40, 2**15, 2**10)), LABELS, "its header claims 36,893,488,147,419,103,232 bytes, and there are"),
        (npy((2, 12, 12)), npy((2**46,), "<i8"), "its header claims"),
        (npy((2, -1, 12)), LABELS, "its header claims"),
        (npy((2, 12, 12), "|O", b"cos\nsystem\n"), LABELS, "holds Python objects, which are never loaded"),
        (npy((2, 12, 12), "<M8[ns]"), LABELS, "cannot be read|must hold unsigned bytes"),
        (b"\x93NUMPY\x09\x00" + bytes(200), LABELS, "version 9.0"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, LABELS, "cannot be read"),
        (b"", LABELS, "cannot be read"),
    ],
)  # fmt: skip
def test_what_a_header_claims_is_looked_at_before_memory_is_taken(
    images: bytes, labels: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as error:
        prepared(npz(tmp_path / "set.npz", images=images, labels=labels))
    assert len(str(error.value)) < 500


def test_zeros_that_unpack_to_gigabytes_are_a_bomb(tmp_path: Path) -> None:
    shape = (2, 2**14, 2**13)
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", LABELS)
        with archive.open("images.npy", "w", force_zip64=True) as file:
            file.write(npy(shape))
            for _ in range(256):
                file.write(bytes(2**20))
    with pytest.raises(DataError, match="refused as a bomb"):
        prepared(path)


def test_more_classes_than_anything_counts_are_refused(tmp_path: Path) -> None:
    path = npz(
        tmp_path / "set.npz", images=npy((2, 1, 1), data=bytes(2)), labels=LABELS, classes=saved(np.arange(10**5 + 1))
    )
    with pytest.raises(DataError, match="100,001 classes; up to 100,000"):
        open_source(path)


def prepared(path: Path) -> None:
    prepare(open_source(path), channels=1, resize=8, validation_fraction=0.25)


def write_tar(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def test_a_tar_that_ends_with_a_zip_is_read_as_a_tar(tmp_path: Path) -> None:
    hidden = io.BytesIO()
    with zipfile.ZipFile(hidden, "w") as archive:
        archive.writestr("wolves/0.png", png(0))
    members = [(f"{name}/{number}.png", png(number)) for name in ("cats", "dogs") for number in range(4)]
    path = write_tar(tmp_path / "set.tar", *members, ("more.zip", hidden.getvalue()))
    assert open_source(path).classes == ("cats", "dogs")


def test_a_name_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 14 * 2**30
    path = tmp_path / "set.tar.gz"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)))
    with pytest.raises(DataError, match="a header of 15,032,385,536 bytes"):
        open_source(path)


def test_names_that_no_system_takes_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "set.tar", ("cats/" + "a" * 5000 + ".png", png(0)))
    with pytest.raises(DataError, match="name that no system takes") as error:
        open_source(path)
    assert len(str(error.value)) < 500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "set", {"cats": 8, "dogs": 8})
    os.mkfifo(root / "cats" / "pipe.jpg")
    (root / "dogs" / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "cats" / "s.png"))
        source = open_source(root)
        assert set(source.ignored) == {"cats/pipe.jpg", "cats/s.png", "dogs/zero.png"}
        assert audit(source).total == 16
        prepared(root)


@pytest.mark.parametrize("name", ["photos.zip", "photos.npz", "photos.tar.gz"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_data_set_that_is_no_file_is_refused(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / name)
    with pytest.raises(DataError):
        open_source(tmp_path / name)


def test_postscript_starts_no_interpreter(tmp_path: Path) -> None:
    """Pillow hands EPS to Ghostscript, whatever the file's name."""
    root = make_folder(tmp_path / "set", {"cats": 4, "dogs": 4})
    (root / "cats" / "evil.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(touched) run\n")
    assert [name for name, _ in audit(open_source(root)).unreadable] == ["cats/evil.jpg"]


@pytest.mark.parametrize("path", ["n" * 5000, "a/" * 3000 + "b.zip", "a\0b.npz"])
def test_a_path_that_cannot_be_is_one_line(path: str) -> None:
    with pytest.raises(ConvatlasError) as error:
        open_source(path)
    assert len(str(error.value)) < 600


def whole_files(folder: Path) -> list[Path]:
    """A small data set of each kind that is one file."""
    folder.mkdir()
    members = [(f"{name}/{number}.png", png(number)) for name in ("cats", "dogs") for number in range(3)]
    plain = write_tar(folder / "set.tar", *members)
    (folder / "set.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    with zipfile.ZipFile(folder / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    npz(folder / "set.npz", images=saved(images), labels=saved([0, 1, 0, 1, 0, 1]), classes=saved(["cats", "dogs"]))
    return sorted(folder.iterdir())


def damaged(content: bytes, draws: random.Random) -> bytes:
    """Some bytes changed, a piece left out, doubled or put elsewhere, or the end cut off."""
    changed = bytearray(content)
    for _ in range(draws.choice((1, 1, 2, 5, 20))):
        start, length = draws.randrange(len(content)), draws.choice((1, 2, 4, 8, 64))
        match draws.randrange(5):
            case 0:
                changed[start : start + 1] = bytes([draws.randrange(256)])
            case 1:
                changed[start : start + length] = draws.choice((b"\0", b"\xff", b"\x7f")) * length
            case 2:
                del changed[start : start + length]
            case 3:
                changed[start:start] = changed[start : start + length]
            case _:
                del changed[draws.randrange(len(changed) // 2, len(changed) + 1) :]
        if not changed:
            return b""
    return bytes(changed)


def read_damaged(folder: Path, times: int, seed: int) -> None:
    """Each of the small data sets, damaged so many times: it is read, or refused in one line."""
    draws = random.Random(seed)
    for whole in whole_files(folder / "whole"):
        content = whole.read_bytes()
        for number in range(times):
            path = folder / f"{number}-{whole.name}"
            path.write_bytes(damaged(content, draws))
            try:
                prepared(path)
            except ConvatlasError as error:
                assert 0 < len(str(error)) < 700, whole.name  # noqa: PT017, most can be read
            path.unlink()


def test_damage_anywhere_is_one_line(tmp_path: Path) -> None:
    read_damaged(tmp_path, times=200, seed=1)


@pytest.mark.slow
def test_much_damage_anywhere_is_one_line(tmp_path: Path) -> None:
    read_damaged(tmp_path, times=2500, seed=2)


def test_damaged_pictures_are_named(tmp_path: Path) -> None:
    draws = random.Random(3)
    root = make_folder(tmp_path / "set", {"cats": 4, "dogs": 4})
    for number, kind in enumerate(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"] * 12):
        file = io.BytesIO()
        Image.effect_noise((9, 7), 60).save(file, kind)
        (root / "cats" / f"damaged-{number}.{kind.lower()}").write_bytes(damaged(file.getvalue(), draws))
    source = open_source(root)
    assert audit(source).total == 8 + 84
    prepare(source, channels=3, resize=8, validation_fraction=0.25)
