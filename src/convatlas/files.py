"""Files: written atomically, so that a reader sees the old one or the new one, whole, whatever happens to the writer;
and a stranger's files read without waiting for a pipe or filling the memory.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from convatlas.errors import StorageError

# A pipe that took the file's place is then not waited for. Windows has no such pipes, and text files instead.
_WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path) -> BufferedReader:
    """A file opened for reading, if it is a regular one: a pipe would be waited for, and /dev/zero never ends.

    >>> with open_regular(Path("labels.bin")) as file:   # doctest: +SKIP
    ...     file.read(4)

    Raises:
        OSError: it is not there, may not be read, or is a folder, pipe, socket or device.
    """
    require_regular(path)  # before it is opened, which to some devices is a command already
    file = os.fdopen(os.open(path, os.O_RDONLY | _WITHOUT_WAITING), "rb")
    try:
        _require_regular(path, os.fstat(file.fileno()))  # another file may have taken its place
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path, most: int) -> bytes:
    r"""The bytes of a regular file that holds no more than ``most`` of them.

    >>> read_regular(Path("cat.jpg"), most=2**20)[:3]   # doctest: +SKIP
    b'\xff\xd8\xff'

    Raises:
        OSError: as for `open_regular`, or it holds more.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it holds more than {most / 2**20:,.0f} MiB", str(path))
        return file.read(size)


def require_regular(path: Path) -> None:
    """Refuse what is no regular file, for whoever opens files by themselves.

    Raises:
        OSError: as for `open_regular`.
    """
    _require_regular(path, path.stat())


def _require_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe, socket or device, not a file", str(path))


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


def read_json(path: Path, most_bytes: int) -> Any:
    """The content of a JSON file that somebody else may have written.

    Raises:
        OSError: as for `read_regular`.
        ValueError: it is not JSON, or is deeper or stranger than anything written here: infinite numbers, lone
            surrogates.
    """
    text = read_regular(path, most_bytes)
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
