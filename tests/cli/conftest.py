from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from convatlas.cli import main


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def convatlas(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command line in this process, as the console script does."""

    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it; where it is set, tables are as narrow

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["convatlas", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return Answer(int(exit_.value.code or 0), printed.out, printed.err)

    return run
