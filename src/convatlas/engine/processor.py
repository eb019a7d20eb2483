"""What the processor at hand is like: the width of its vectors, the size of its caches."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

SETTING = "CONVATLAS_VECTOR_WIDTH"
WIDTHS = (8, 16)
USUAL_CACHES = {1: 32 * 1024, 2: 512 * 1024, 3: 16 * 2**20}  # bytes, where the system does not say
MOST_SHARED = 32 * 2**20  # bytes of the last cache to count on: a server's is larger, and shared by dozens of cores


def vector_width() -> int:
    """float32 values in a vector: 16 with AVX-512, else 8, AVX2's width, which LLVM splits where registers are shorter.

    The environment's ``CONVATLAS_VECTOR_WIDTH`` says another, so that one processor can compute as another would.

    >>> vector_width() in WIDTHS
    True

    Raises:
        ValueError: the setting is neither.
    """
    said = os.environ.get(SETTING)
    if said:
        if said not in map(str, WIDTHS):
            raise ValueError(f"{SETTING} is 8 or 16; received {said!r}")
        return int(said)
    return 16 if _has_long_registers() else 8


def shared_cache_bytes() -> int:
    """What a program may expect to find in the last cache, beside others' programs.

    >>> shared_cache_bytes() <= cache_bytes(3)
    True
    """
    return min(cache_bytes(3), MOST_SHARED)


@cache
def cache_bytes(level: int) -> int:
    """Size of one cache of a level, 1 to 3, as the first processor has it; the first level's is that for data.

    >>> 8 * 1024 <= cache_bytes(1) <= cache_bytes(2)
    True
    """
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if _says(index / "level") == str(level) and _says(index / "type") in ("Data", "Unified"):
            found = re.fullmatch(r"(\d+)([KM])", _says(index / "size"))
            if found:
                return int(found[1]) * (1024 if found[2] == "K" else 2**20)
    return USUAL_CACHES[level]


def _says(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _has_long_registers() -> bool:
    try:
        from llvmlite import binding
    except ImportError:
        return False
    return bool(binding.get_host_cpu_features().get("avx512f"))
