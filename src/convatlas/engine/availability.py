"""Whether the engine can work here."""

from __future__ import annotations

import importlib.util
from functools import cache

LIBRARY = "llvmlite"


@cache
def unavailable() -> str | None:
    """None where the engine works; else why it does not, in words.

    >>> unavailable()   # doctest: +SKIP
    'llvmlite is not installed'
    """
    if not _is_installed(LIBRARY):
        return f"{LIBRARY} is not installed"
    try:
        _compile_one()
    except Exception as error:  # whatever the compiler makes of a processor it does not know
        return f"its kernels cannot be compiled here: {error}"
    return None


def _is_installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except (ImportError, ValueError):  # something stands in its way
        return False


def _compile_one() -> None:
    from convatlas.engine.compiler import address_of
    from convatlas.engine.jobs import POOLING

    address_of(POOLING)
