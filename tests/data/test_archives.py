from __future__ import annotations

import io
import lzma
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zstandard
from image_sets import make_folder, picture

from convatlas.data import allowance
from convatlas.data.cache import prepare
from convatlas.data.catalog import open_source
from convatlas.data.readers import archive
from convatlas.errors import DataError


def pack(folder: Path, path: Path) -> Path:
    """The folder as an archive of the kind its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for member in sorted(folder.rglob("*")):
                file.write(member, member.relative_to(folder.parent))
        return path
    plain = path.with_name("plain.tar")
    with tarfile.open(plain, "w") as file:
        file.add(folder, folder.name)
    if path.suffix == ".zst":
        path.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    else:
        with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as file:
            file.add(folder, folder.name)
    plain.unlink(missing_ok=path != plain)
    return path


def tar_with(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for info, content in members:
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def image_bytes(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def files_outside(cache: Path, tmp_path: Path) -> set[Path]:
    return {path for path in tmp_path.rglob("*") if cache not in path.parents and path.is_file()}


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tar.gz", "p.tar.xz", "p.tar.bz2", "p.tar.zst"])
def test_an_archive_is_the_folder_it_was_made_from(pets: Path, tmp_path: Path, name: str) -> None:
    packed = prepare(open_source(pack(pets, tmp_path / name)), channels=3, resize=8)
    folder = prepare(open_source(pets), channels=3, resize=8)
    assert packed.name == "p"
    assert packed.classes == ("cats", "dogs")
    assert packed.fingerprint == folder.fingerprint
    assert (packed.train.stored == folder.train.stored).all()
    assert (packed.train.labels == folder.train.labels).all()


@pytest.mark.parametrize("name", ["p.zip", "p.tar"])
def test_empty_folders_in_archives_are_classes(pets: Path, tmp_path: Path, name: str) -> None:
    (pets / "birds").mkdir()
    assert open_source(pack(pets, tmp_path / name)).classes == ("birds", "cats", "dogs")


def test_a_second_start_reads_no_archive(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(pets, tmp_path / "p.tar.gz")
    first = open_source(path)
    for function in ("_sha256_of", "_pack"):
        monkeypatch.setattr(archive, function, lambda *_: pytest.fail("the archive was read again"))
    second = open_source(path)
    assert second.stamp == first.stamp
    assert np.asarray(second.splits["train"].image(3)).tolist() == np.asarray(first.splits["train"].image(3)).tolist()


@pytest.mark.parametrize("damage_done", ["cut short", "gone", "index damaged"])
def test_a_damaged_pack_is_made_again(pets: Path, tmp_path: Path, cache_folder: Path, damage_done: str) -> None:
    path = pack(pets, tmp_path / "p.tar")
    before = open_source(path).splits["train"].digest(15)
    (members,) = cache_folder.rglob("members.bin")
    if damage_done == "cut short":
        members.write_bytes(members.read_bytes()[:100])
    elif damage_done == "gone":
        members.unlink()
    else:
        members.with_name("index.json").write_text("{")
    split = open_source(path).splits["train"]
    assert split.digest(15) == before
    assert split.image(15).size == (12, 10)


def test_a_missing_zstandard_is_told_with_what_to_install(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(pets, tmp_path / "p.tar.zst")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(DataError, match=r"pip install 'convatlas\[zstd\]'"):
        open_source(path)


def test_a_changed_archive_is_read_again(pets: Path, tmp_path: Path) -> None:
    path = pack(pets, tmp_path / "p.tar.gz")
    assert len(open_source(path).splits["train"]) == 16
    picture(77).save(pets / "cats/new.png")
    pack(pets, path)
    assert len(open_source(path).splits["train"]) == 17


@pytest.mark.parametrize("name", ["../evil.png", "cats/../../evil.png", "/tmp/evil.png", "..\\evil.png", "cats/.."])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_members_that_point_outside_are_refused(tmp_path: Path, cache_folder: Path, name: str, kind: str) -> None:
    path = tmp_path / f"evil.{kind}"
    if kind == "tar":
        tar_with(path, (tarfile.TarInfo("cats/a.png"), image_bytes()), (tarfile.TarInfo(name), image_bytes()))
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("cats/a.png", image_bytes())
            file.writestr(zipfile.ZipInfo(name), image_bytes())
    with pytest.raises(DataError, match="points outside") as error:
        open_source(path)
    assert name.replace("\\", "/") in str(error.value).replace("\\\\", "/")
    assert files_outside(cache_folder, tmp_path) == {path}
    assert not list(cache_folder.rglob("*.bin"))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is no regular file"),
        (tarfile.FIFOTYPE, "is no regular file"),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes, why: str) -> None:
    member = tarfile.TarInfo("cats/b.png")
    member.type, member.linkname = kind, "/etc/passwd"
    path = tar_with(tmp_path / "evil.tar", (tarfile.TarInfo("cats/a.png"), image_bytes()), (member, b""))
    with pytest.raises(DataError, match=f"'cats/b.png' {why}"):
        open_source(path)


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("cats/b.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        open_source(tmp_path / "evil.zip")


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.xz"])
def test_a_bomb_is_refused_and_leaves_nothing(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(allowance, "RATIO_COUNTS_FROM", 2**20)
    folder = make_folder(tmp_path / "bomb", {"cats": 1})
    (folder / "cats/zeros.png").write_bytes(bytes(8 * 2**20))
    path = pack(folder, tmp_path / name)
    with pytest.raises(DataError, match="refused as a bomb"):
        open_source(path)
    assert sum(file.stat().st_size for file in cache_folder.rglob("*") if file.is_file()) < 1000


def test_hidden_members_count_against_the_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "RATIO_COUNTS_FROM", 2**20)
    folder = make_folder(tmp_path / "bomb", {"cats": 1, "dogs": 1})
    (folder / ".zeros").write_bytes(bytes(8 * 2**20))
    for name in ("bomb.zip", "bomb.tar.xz"):
        with pytest.raises(DataError, match="refused as a bomb"):
            open_source(pack(folder, tmp_path / name))


def test_what_follows_the_last_member_counts_against_the_bounds(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance, "RATIO_COUNTS_FROM", 2**20)
    plain = pack(pets, tmp_path / "p.tar").read_bytes()
    path = tmp_path / "padded.tar.xz"
    path.write_bytes(lzma.compress(plain + bytes(8 * 2**20)))
    with pytest.raises(DataError, match="refused as a bomb"):
        open_source(path)


def test_total_size_and_number_of_members_are_bounded(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(pets, tmp_path / "p.tar")
    monkeypatch.setattr(allowance, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="refused as a bomb"):
        open_source(path)
    monkeypatch.undo()
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(allowance, "MAX_MEMBERS", 3)
    with pytest.raises(DataError, match="more than 3 members"):
        open_source(path)


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tar.gz", "p.tar.xz", "p.tar.zst"])
@pytest.mark.parametrize("damage", ["cut short", "overwritten", "empty"])
def test_damaged_archives_are_told_in_one_line(
    pets: Path, tmp_path: Path, cache_folder: Path, name: str, damage: str
) -> None:
    path = pack(pets, tmp_path / name)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if damage == "cut short":
        path.write_bytes(content[:middle])
    elif damage == "overwritten":
        content[: min(600, middle)] = b"\x07" * min(600, middle)
        path.write_bytes(content)
    else:
        path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be unpacked") as error:
        open_source(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(cache_folder.rglob("*.bin"))


@pytest.mark.parametrize("name", ["p.zip", "p.tar.gz", "p.tar.xz", "p.tar.bz2", "p.tar.zst"])
def test_flipped_bytes_anywhere_in_the_middle_are_found(
    pets: Path, tmp_path: Path, cache_folder: Path, name: str
) -> None:
    """Noise is stored nearly as it is, so that flipped bytes unpack well and only the checksum can tell."""
    path = pack(pets, tmp_path / name)
    if name.endswith(".zst"):
        compressor = zstandard.ZstdCompressor(write_checksum=True)  # as the program zstd does
        path.write_bytes(compressor.compress(zstandard.ZstdDecompressor().decompress(path.read_bytes())))
    whole = path.read_bytes()
    for share in (0.3, 0.4, 0.5, 0.6):
        damaged = bytearray(whole)
        middle = int(share * len(whole))
        for place in range(middle, middle + 3):
            damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be unpacked") as error:
            open_source(path)
        assert "\n" not in str(error.value)
        assert not list(cache_folder.rglob("*.bin"))


def test_a_damaged_header_is_not_the_end_of_a_tar(tmp_path: Path) -> None:
    path = tar_with(
        tmp_path / "p.tar", *((tarfile.TarInfo(f"cats/{index}.png"), image_bytes(index)) for index in range(4))
    )
    content = bytearray(path.read_bytes())
    header = content.index(b"cats/2.png")
    content[header : header + 4] = b"junk"
    path.write_bytes(content)
    with pytest.raises(DataError, match="more after a header that makes no sense"):
        open_source(path)


def test_an_encrypted_zip_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("cats/a.png", image_bytes())
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        open_source(path)


def test_a_full_disk_is_told_and_nothing_half_written_is_kept(pets: Path, tmp_path: Path, cache_folder: Path) -> None:
    path = pack(pets, tmp_path / "p.tar")
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "from convatlas.data.catalog import open_source\n"
        "from convatlas.errors import StorageError\n"
        f"try: open_source({str(path)!r})\n"
        "except StorageError as error: print('told:', error)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("told: cannot write")
    assert not list(cache_folder.rglob("*.bin*"))
    assert len(open_source(path).splits["train"]) == 16
