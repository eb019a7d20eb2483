"""Whether the engine can work here."""

from __future__ import annotations

import importlib.util
from functools import cache

LIBRARIES = ("llvmlite", "numba")


@cache
def unavailable() -> str | None:
    """None where the engine works; else why it does not, in words.

    >>> unavailable()   # doctest: +SKIP
    'numba is not installed'
    """
    for library in LIBRARIES:
        if not _is_installed(library):
            return f"{library} is not installed"
    try:
        _compile_one()
    except Exception as error:  # whatever the compiler makes of a processor it does not know
        return f"its kernels cannot be compiled here: {error}"
    return None


def needs_compiling(*, training: bool) -> bool:
    """Whether kernels will be compiled first, which happens once on a machine and takes some seconds."""
    from convatlas.engine.compiler import are_ready
    from convatlas.engine.jobs import EVALUATION, TRAINING

    return all(map(_is_installed, LIBRARIES)) and not are_ready(TRAINING if training else EVALUATION)


def _is_installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except (ImportError, ValueError):  # something stands in its way
        return False


def _compile_one() -> None:
    from convatlas.engine.compiler import address_of
    from convatlas.engine.jobs import POOLING

    address_of(POOLING)
