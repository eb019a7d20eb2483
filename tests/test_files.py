from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from convatlas import files
from convatlas.errors import StorageError


def test_a_written_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "card.json"
    files.write_json(path, {"a": 1})
    files.write_json(path, {"b": "ü"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": "ü"}
    assert [entry.name for entry in path.parent.iterdir()] == ["card.json"]


def test_a_written_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    with files.replacing(tmp_path / "ours") as temporary:
        temporary.touch(mode=0o600)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_failing_writer_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with pytest.raises(StorageError, match=r"cannot write .*card\.json: .*untouched"):
        files.write_text(blocked / "card.json", "text")


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    """The kernel refuses writes past a limit: the same failing ``write`` a full disk gives."""
    script = f"""
import resource, signal
from pathlib import Path
from convatlas import files
from convatlas.errors import StorageError
path = Path({str(tmp_path)!r}) / "weights.bin"
files.write_text(path, "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_text(path, "new" * 1000)
except StorageError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot write" in result.stdout
    assert "untouched" in result.stdout
    assert (tmp_path / "weights.bin").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
