"""Where decoded images and unpacked archives are kept, and what is remembered about files that did not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from convatlas.errors import StorageError
from convatlas.files import cache_directory, write_json

T = TypeVar("T")


def digest_of(content: Any) -> str:
    """SHA-256 of something that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_stamp(path: Path) -> list[str | int]:
    """A file's path, size in bytes and time of change in nanoseconds: equal stamps are taken to mean equal content."""
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def remembered(kind: str, stamp: Any, compute: Callable[[], T]) -> T:
    """What ``compute`` returned the last time it was asked for this kind of thing about this stamp; JSON keeps it."""
    path = cache_directory() / "memo" / f"{digest_of([kind, stamp])}.json"
    known: T | None = read_json(path)
    if known is not None:
        return known
    result = compute()
    write_json(path, result)
    return result


def read_json(path: Path) -> Any:
    """What a file of the cache holds, or None when there is none or it is not JSON: a damaged cache is an empty one.

    Raises:
        StorageError: the cache is no folder, or one that may not be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise StorageError(
            f"cannot use the cache {cache_directory()}: {error.strerror or error}; "
            "set CONVATLAS_CACHE to a folder of your own"
        ) from error
