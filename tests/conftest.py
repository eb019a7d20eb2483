"""What every test shares: a cache and a home of its own, so that no test sees what another, or the user, left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

collect_ignore_glob = ["conftest.py", "*/conftest.py"]  # doctests are not looked for here: they would be imported twice


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """One cache for the session's tests: decoding `digits` once is enough.

    The engine's machine code outlives the session. It is named by a hash of what it was compiled from.
    """
    cache = tmp_path_factory.mktemp("cache")
    assert pytestconfig.cache is not None
    (cache / "engine").symlink_to(pytestconfig.cache.mkdir("engine"))
    os.environ["CONVATLAS_CACHE"] = str(cache)
    return cache


@pytest.fixture
def cpu_only() -> None:
    """For what holds to the bit, or on the device where the test has its own tensors."""
    from convatlas.training.processes import has_accelerator

    if has_accelerator():
        pytest.skip("is of training on a CPU; this machine trains on its GPU")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures and no report: they take longer than the trainings here."""
    for name in ("convatlas.reports.figures.confusion_figure", "convatlas.reports.figures.save_figure"):
        monkeypatch.setattr(name, lambda *_: None)
    monkeypatch.setattr("convatlas.workflows.classify.write_report", lambda *_, **__: None)


@pytest.fixture
def test_data() -> Path:
    """The folder with the larger data sets; tests that need one skip where it is absent."""
    folder = Path(os.environ.get("CONVATLAS_TEST_DATA", "no-such-folder"))
    if not folder.is_dir():
        pytest.skip("needs larger data sets: set CONVATLAS_TEST_DATA to their folder")
    return folder
