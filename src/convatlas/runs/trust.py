"""Whose code may be run: that of networks trained here, and that which a person has said they trust, by its hash.

Each is an empty file named by the hash, so that two processes can add theirs at once.
"""

from __future__ import annotations

from convatlas.errors import StorageError
from convatlas.files import cache_directory

FOLDER = "trusted-code"


def trust_code(identity: str) -> None:
    """Let code of this hash, of its text and function, be run on this machine from now on.

    Raises:
        StorageError: that cannot be written down.
    """
    folder = cache_directory() / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / identity).touch()
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error


def is_trusted(identity: str) -> bool:
    """Whether code of this hash may be run."""
    return (cache_directory() / FOLDER / identity).is_file()
