"""One process for each contender, of which only one runs at a time.

Idle threads of a runtime spin for a while before they sleep, and would take the cores from the next one: whoever is not
at turn is stopped (SIGSTOP), so Linux and macOS only.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from contenders import CONTENDERS, AbsentError, Job, Session

SPAWN = multiprocessing.get_context("spawn")
PATIENCE = 900.0  # seconds for one reply: torch.compile may need minutes for a whole network
FAREWELL = 5.0  # seconds to leave in
WARM_UP = 2.0  # seconds, or three repetitions where those are fewer
SHORT = 1.0  # seconds: a repetition shorter than this is preceded by one that does not count, for the caches


@dataclass(frozen=True)
class Ready:
    """A contender has been built and has warmed up."""

    start_seconds: float  # imports, building, and the first repetition
    repetition_seconds: float
    note: str


@dataclass(frozen=True)
class Turn:
    """A request: repeat, and tell the seconds of each."""

    repetitions: int


@dataclass(frozen=True)
class Finish:
    """A request: report, and leave."""


@dataclass(frozen=True)
class Report:
    """What is asked when everything has been timed."""

    peak_bytes: int  # resident memory of the process, before the error was computed
    error: float | None  # largest absolute error / largest absolute reference; None: not computed
    choices: dict[str, str] | None  # ours: layer shape -> kernel


@dataclass(frozen=True)
class Failure:
    """Why a contender is not in the table."""

    reason: str
    absent: bool = False


class FailedError(Exception):
    """A contender has failed, or is absent."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class Worker:
    """A contender in its process. A context manager: the process ends with it.

    with Worker(job, log=Path("eager.log")) as worker:
        ready = worker.start()
        seconds = worker.ask(Turn(repetitions=3))
    """

    def __init__(self, job: Job, log: Path) -> None:
        self.log = log
        self.connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=work, args=(theirs, job, log), daemon=True)
        self.process.start()
        theirs.close()  # else the end of the process would not be the end of the pipe

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process; a second time does nothing."""
        self.connection.close()  # it takes this for the end
        self._signal(signal.SIGCONT)
        self.process.join(FAREWELL)
        self.process.kill()
        self.process.join()

    def start(self) -> Ready:
        """Wait until it has warmed up, then stop it."""
        reply: Ready = self._reply()
        return reply

    def ask(self, request: Turn | Finish) -> Any:
        """Let it run until it has answered: seconds of each repetition to a Turn, a Report to Finish.

        Raises:
            FailedError: it raised, ended, or did not answer in time.
        """
        self._signal(signal.SIGCONT)
        self.connection.send(request)
        return self._reply()

    def _reply(self) -> Any:
        try:
            if not self.connection.poll(PATIENCE):
                raise FailedError(Failure(f"no answer within {PATIENCE:.0f} s"))
            reply = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise FailedError(Failure(f"its process {self._end()}{self._last_words()}")) from None
        if isinstance(reply, Failure):
            raise FailedError(reply)
        self._signal(signal.SIGSTOP)
        return reply

    def _signal(self, number: signal.Signals) -> None:
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def _end(self) -> str:
        code = self.process.exitcode or 0
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f": {last.strip()}" if last else ""


def in_own_process(module: str, function: str, *arguments: Any) -> Any:
    """What a function of a heavy module returns, without its imports and its memory staying here."""
    with ProcessPoolExecutor(max_workers=1, mp_context=SPAWN) as pool:
        return pool.submit(_call, module, function, arguments).result()


def _call(module: str, function: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(__import__(module), function)(*arguments)


def work(connection: Connection, job: Job, log: Path) -> None:
    """A contender's process: from building it to the report."""
    _end_with_parent()
    _write_to(log)
    try:
        session, ready = _start(job)
        connection.send(ready)
        while isinstance(request := connection.recv(), Turn):
            connection.send(_repeat(session, request.repetitions))
        peak = _peak_bytes()  # before the error: the reference is large
        connection.send(Report(peak, _error(session, job), _choices(session)))
    except EOFError:
        return
    except AbsentError as error:
        connection.send(Failure(str(error), absent=True))
    except Exception as error:  # whatever a contender raises is its result
        connection.send(Failure(f"{type(error).__name__}: {_first_line(error)}"))


def _start(job: Job) -> tuple[Session, Ready]:
    began = time.perf_counter()
    session = CONTENDERS[job.contender].session(job)
    _seconds(session)
    started = time.perf_counter() - began
    repetitions = [_seconds(session)]
    while sum(repetitions) < WARM_UP and len(repetitions) < 3:
        repetitions.append(_seconds(session))
    return session, Ready(started, min(repetitions), session.note)


def _repeat(session: Session, repetitions: int) -> list[float]:
    first = _seconds(session)
    lead_in = first < SHORT
    return ([] if lead_in else [first]) + [_seconds(session) for _ in range(repetitions - (not lead_in))]


def _seconds(session: Session) -> float:
    began = time.perf_counter()
    session.run()
    return time.perf_counter() - began


def _error(session: Session, job: Job) -> float | None:
    import numpy as np

    if job.workload.task == "training":
        computed = CONTENDERS[job.contender].gradients(job)
    else:
        computed = None if session.note else session.run()[: job.workload.checked.batch]
    if computed is None:
        return None
    reference = np.load(job.reference)
    return float(np.abs(computed - reference).max() / np.abs(reference).max())


def _choices(session: Session) -> dict[str, str] | None:
    choices = getattr(session.module, "choices", None)
    return dict(choices) if isinstance(choices, dict) else None


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _end_with_parent() -> None:
    """A stopped process would outlive a parent that was killed, with all its memory: Linux ends it instead."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _write_to(log: Path) -> None:
    """What runtimes print would stand between the lines of the table."""
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
