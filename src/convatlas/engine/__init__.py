"""Fast convolution on ordinary processors: Winograd's minimal filtering and fused layers, in machine code of our own.

>>> from convatlas import engine                            # doctest: +SKIP
>>> fast = engine.accelerate(model.eval(), images)          # doctest: +SKIP
>>> logits = fast(images)                                   # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convatlas.engine.accelerated import Accelerated, accelerate, tried_images
    from convatlas.engine.availability import unavailable
    from convatlas.engine.choice import LayerChoice

__all__ = ["Accelerated", "LayerChoice", "accelerate", "tried_images", "unavailable"]

_HOMES = {
    "Accelerated": "accelerated",
    "LayerChoice": "choice",
    "accelerate": "accelerated",
    "tried_images": "accelerated",
    "unavailable": "availability",
}


def __getattr__(name: str) -> Any:  # the process that only compiles needs no torch
    if name not in _HOMES:
        raise AttributeError(f"module 'convatlas.engine' has no attribute {name!r}")
    return getattr(import_module(f"convatlas.engine.{_HOMES[name]}"), name)
