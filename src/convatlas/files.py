"""Atomic file writing: a reader sees the old file or the new one, whole, whatever happens to the writer."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from convatlas.errors import StorageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to the path yielded; when the block ends well it is flushed to disk and renamed to ``path``.

    When the block fails, the temporary file is removed and ``path`` is as it was.

    >>> with replacing(Path("card.json")) as temporary:   # doctest: +SKIP
    ...     temporary.write_text("{}")

    Raises:
        StorageError: the disk is full, read-only or otherwise refused the write.
    """
    if path.is_dir():
        raise StorageError(f"cannot write {path}: it is a directory. Name a file in it")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(_ordinary_mode())  # safetensors makes files that only their owner can read
        _flush_to_disk(temporary)
        temporary.replace(path)
        _flush_to_disk(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"cannot write {path}: {reason}; what was there before is untouched. "
            "Make room or choose another place, then run the same command again"
        ) from error
    finally:
        with suppress(OSError):  # it is gone after a rename, and there never was one where nothing can be written
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically (UTF-8)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file atomically, indented for people."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def refuse_irregular(path: Path) -> None:
    """Refuse what is no ordinary file, or link to one: a device or a pipe has no end, or waits for ever.

    Raises:
        OSError: it is not, or is not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not an ordinary file", str(path))


def read_json(path: Path, *, most_bytes: int) -> Any:
    """The content of a JSON file that somebody else may have written.

    Raises:
        OSError: it is not there, is no ordinary file, or cannot be read.
        ValueError: it is not JSON, or is more, deeper or stranger than anything written here: infinite numbers, lone
            surrogates.
    """
    refuse_irregular(path)
    with path.open("rb") as file:
        text = file.read(most_bytes + 1)
    if len(text) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes // 10**6} MB")
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds a lone surrogate, which is no character") from error
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON has")


def cache_directory() -> Path:
    """``$CONVATLAS_CACHE``, else ``$XDG_CACHE_HOME/convatlas``, else ``~/.cache/convatlas``; safe to delete."""
    if chosen := os.environ.get("CONVATLAS_CACHE"):
        return expanded(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "convatlas"
    return Path.home() / ".cache" / "convatlas"


def expanded(path: str | Path) -> Path:
    """The path with ``~`` replaced by the home folder; ``~nobody`` stays as it is, and nothing will be found there."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _ordinary_mode() -> int:
    mask = os.umask(0)  # the mask can only be read by setting it
    os.umask(mask)
    return 0o666 & ~mask


def _flush_to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a directory to flush it
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
