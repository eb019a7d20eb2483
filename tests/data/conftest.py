"""Every test of this folder has a cache of its own: some count what is read, and what is kept."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
from image_sets import make_folder

hypothesis.settings.register_profile("no deadline", deadline=None)  # a shared machine has slow moments
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache-of-this-test"
    monkeypatch.setenv("CONVATLAS_CACHE", str(cache))
    monkeypatch.delenv("CONVATLAS_DATA", raising=False)
    return cache


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes of eight images, undivided."""
    return make_folder(tmp_path / "pets", {"cats": 8, "dogs": 8})
