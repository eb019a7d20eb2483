"""Kernels are compared once and in haste here, and whole networks not at all: small ones might be left to PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

COMPARES = "compares_networks"


@pytest.fixture(autouse=True)
def the_engine_wins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole networks are not compared, but in tests marked ``compares_networks``."""
    monkeypatch.setattr("convatlas.engine.choice.ROUNDS", 1)
    monkeypatch.setattr("convatlas.engine.choice.CACHED_BYTES", (0, 0))
    if request.node.get_closest_marker(COMPARES) is None:
        monkeypatch.setattr("convatlas.engine.accelerated._compare", ours_first)


def ours_first(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds that nobody has measured."""
    return {name: float(place) for place, name in enumerate(calls, start=1)}
