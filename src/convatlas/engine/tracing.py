"""Symbolic tracing that other threads do not notice.

``fx`` follows a network's code by replacing methods of ``nn.Module`` for the whole process while it does: any module
that another thread calls meanwhile would be traced too. Here it is called as ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import fx, nn

_one_at_a_time = threading.Lock()  # two that take their methods back in the wrong order would leave one's in place


class _Tracer(fx.Tracer):
    """Follows the code of one thread."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def symbolic_trace(model: nn.Module) -> fx.GraphModule:
    """The graph of a network's forward method, as ``torch.fx.symbolic_trace`` makes it.

    Raises:
        Exception: fx cannot follow its code, which may then be anything.
    """
    with _one_at_a_time:
        tracer = _Tracer()
        graph = tracer.trace(model)
    return fx.GraphModule(tracer.root, graph, type(model).__name__)
