"""``convatlas`` in processes of its own, which may be killed: forked from one that has imported what takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

# A server that forks, and not this process: that has threads, which a fork would lose in the middle of what they do.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "convatlas.api",
        "convatlas.cli",
        "convatlas.engine",
        "convatlas.reports.figures",
        "torch._dynamo",
        "sklearn.datasets",
    ]
)


@dataclass
class Command:
    """A command that is running; what it prints goes to a file."""

    process: BaseProcess
    log: Path

    def finished(self) -> int:
        """Wait for the end: the exit code, or the negative number of the signal that ended it."""
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode


def start(
    log: Path, *arguments: object, prepare: Callable[..., object] | None = None, given: tuple[object, ...] = ()
) -> Command:
    """Start a command line, after ``prepare(*given)`` in the new process, a function of a module's."""
    process = _FORKS.Process(target=_run, args=(log, [*map(str, arguments)], prepare, given), daemon=True)
    process.start()
    return Command(process, log)


def wait_for(path: Path, command: Command) -> None:
    """Until the file is there; the command must not end before."""
    while not path.exists():
        assert command.process.is_alive(), command.log.read_text()
        time.sleep(0.02)


def _run(log: Path, arguments: list[str], prepare: Callable[..., object] | None, given: tuple[object, ...]) -> None:
    from convatlas.cli import main

    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    if prepare is not None:
        prepare(*given)
    sys.argv = ["convatlas", *arguments]
    main()
