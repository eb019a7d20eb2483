"""What a stranger's compressed file may unpack to."""

from __future__ import annotations

from pathlib import Path

from convatlas.errors import DataError

# Bounds against archives made to fill a disk. Images hardly compress, so no honest archive comes near the ratio.
MAX_MEMBERS = 5_000_000
MAX_NAMES = 2**28  # of all of them together: they are kept in memory
MAX_BYTES = 256 * 2**30
MAX_RATIO = 200
RATIO_COUNTS_FROM = 64 * 2**20


class Allowance:
    """What a compressed file may still unpack to.

    >>> Allowance(Path("photos.zip")).count_bytes(2**20)   # doctest: +SKIP
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._packed = path.stat().st_size
        self._members = 0
        self._names = 0
        self._bytes = 0

    def count_member(self, name: str) -> None:
        """One more member.

        Raises:
            DataError: there are more than anyone packs.
        """
        self._members += 1
        self._names += len(name)
        if self._members > MAX_MEMBERS or self._names > MAX_NAMES:
            raise DataError(
                f"{self._path} holds more than {MAX_MEMBERS:,} members, or more than {MAX_NAMES / 2**20:,.0f} MiB of "
                "their names; unpack it yourself and give the folder"
            )

    def count_bytes(self, number: int) -> None:
        """More bytes that have been unpacked, or are about to be.

        Raises:
            DataError: they are far more than an honest file of this size holds.
        """
        self._bytes += number
        bomb = self._bytes > RATIO_COUNTS_FROM and self._bytes > MAX_RATIO * self._packed
        if bomb or self._bytes > MAX_BYTES:
            raise DataError(
                f"{self._path} unpacks from {self._packed / 2**20:,.1f} MiB to over {self._bytes / 2**20:,.0f} MiB: "
                "refused as a bomb. If you trust it, unpack it yourself and give a folder"
            )
