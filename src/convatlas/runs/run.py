"""A run on disk, whatever its task: made, opened, changed and listed.

``card.json`` says what it is, ``model.safetensors`` holds the best weights by validation; nothing is ever unpickled.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from pydantic import ValidationError

from convatlas import files
from convatlas.errors import RunError, shortened, unknown_name
from convatlas.runs.cards import Card

if TYPE_CHECKING:
    from torch import nn

READABLE_VERSIONS = (1, 2)  # the first had no task: all its runs classify
DEFAULT_ROOT = Path("runs")
CARD = "card.json"
WEIGHTS = "model.safetensors"
A_MOMENT = 0.2  # seconds
LOCK = ".lock"  # held while the run is trained
NONBLOCK = getattr(os, "O_NONBLOCK", 0)
MOST_CARD_BYTES = 2**26
SHOWN = 80  # letters of what cannot be a name
LONGEST_COMPLAINT = 300  # letters: it may quote what a stranger has written

Network = TypeVar("Network", bound="nn.Module")


class Run:
    """A run on disk; of which kind, its card says.

    >>> run = Run.open("runs/2026-11-22-lenet5-digits-3f2a")  # doctest: +SKIP
    >>> run.card.task  # doctest: +SKIP
    'classify'
    """

    card_type: ClassVar[type[Card]]
    kinds: ClassVar[dict[str, type[Run]]] = {}  # by task

    def __init_subclass__(cls, *, card_type: type[Card] | None = None, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if card_type is None:  # what several tasks share
            return
        cls.card_type = card_type
        Run.kinds[card_type.model_fields["task"].default] = cls

    def __init__(self, path: Path, card: Any) -> None:
        self.path = path
        self.card = card

    @classmethod
    def create(cls, card: Card, path: Path | None = None) -> Self:
        """Make a new run directory, ``runs/<date>-<model>-<data>-<four letters>`` unless ``path`` says where.

        Raises:
            RunError: ``path`` holds something already.
        """
        path = path or DEFAULT_ROOT / f"{card.created[:10]}-{card.model.name}-{card.data.name}-{secrets.token_hex(2)}"
        refuse_taken(path)
        run = cls(path, card)
        run.update()
        return run

    @classmethod
    def open(cls, path: str | Path, *, trust: bool = False) -> Run:
        """The run in a directory, given by its path or by its name under ``runs/``.

        Opening never runs anything. With ``trust`` the code of a network of one's own, if the run holds any, may be
        run from now on; nothing else is changed by it.

        Raises:
            RunError: not a run, damaged, or written by a newer convatlas.
        """
        directory = Path(path)
        try:
            if not directory.exists() and (DEFAULT_ROOT / directory).is_dir():
                directory = DEFAULT_ROOT / directory
        except (OSError, ValueError) as error:  # a name too long for any file, or with a zero byte
            raise RunError(f"{str(path)[:SHOWN]!r} is no directory: {reason(error)}") from error
        card = _read_card(directory)
        opened = Run.kinds[card.task](directory, card)
        if trust:
            opened.trust()
        return opened

    def trust(self) -> None:
        """Let the code that the run holds be run; most hold none."""

    def model(self) -> nn.Module:
        """The network with its best weights, in evaluation mode; built once.

        Raises:
            RunError: there are no weights yet, or they are not those of this network.
        """
        raise NotImplementedError

    @property
    def weights_path(self) -> Path:
        """The file of the best weights, which may not be there yet."""
        return self.path / WEIGHTS

    def update(self, **changes: Any) -> None:
        """Change fields of the card and write it, atomically; what another process has changed since stays changed."""
        if (self.path / CARD).exists():
            self.card = _read_card(self.path)
        self.card = self.card.model_copy(update=changes)
        files.write_json(self.path / CARD, self.card.model_dump(mode="json"))

    def count_test(self) -> None:
        """Say on the card that the test set was shown once more."""
        self.update()  # somebody else may have shown it meanwhile
        self.update(test_evaluations=self.card.test_evaluations + 1)

    @contextmanager
    def being_written(self) -> Iterator[None]:
        """Keep other processes from training the same run within the block.

        Raises:
            RunError: another process is at it.
        """
        try:
            # Never through a link: in a stranger's run it may lead to a file of this person's.
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | NONBLOCK
            lock = os.fdopen(os.open(self.path / LOCK, flags, 0o666), "r+")
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror}") from error
        with lock:
            try:
                _lock(lock)
            except OSError as error:
                raise RunError(f"{self.path} is being trained by another process; wait for it or stop it") from error
            yield

    @property
    def status(self) -> str:
        """As the card has it; "stopped" where it says "training" and nobody trains it: it was killed."""
        return "stopped" if self.card.status == "training" and not self._is_being_written() else str(self.card.status)

    def _is_being_written(self) -> bool:
        """Whether another process holds the run's lock, or nobody can tell; nothing is created to find out."""
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            return True
        try:
            lock = os.fdopen(os.open(self.path / LOCK, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | NONBLOCK), "r")
        except FileNotFoundError:
            return False
        except OSError:
            return True
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that only look do not mistake each other
            except OSError:
                return True
        return False

    def with_weights(self, outline: Network) -> Network:
        """A network without memory, given the run's best weights; in evaluation mode.

        Raises:
            RunError: there are no weights yet, or they are not those of this network.
        """
        from convatlas.tensors import matched, read_tensors

        weights = self.weights_path
        try:
            outline.load_state_dict(matched(read_tensors(weights), outline.state_dict()), assign=True)
        except FileNotFoundError as error:
            raise RunError(
                f"{self.path} has no weights yet: it was stopped before its first validation. "
                f"Go on with convatlas train --resume {self.path}"
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"{weights} does not hold the weights of {self.card.model.name}: {reason(error)}") from error
        return outline.eval()


def refuse_taken(path: Path) -> None:
    """Refuse a place for a new run that holds something already.

    Raises:
        RunError: it does, or cannot be looked at.
    """
    try:
        is_free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    except OSError as error:
        raise RunError(f"{path} cannot be used for a run: {error.strerror}. Choose another --out") from error
    if not is_free:
        raise RunError(f"{path} exists already and is not empty. Choose another --out, or go on with --resume {path}")


def list_runs(root: Path = DEFAULT_ROOT) -> tuple[list[Run], list[str]]:
    """The runs under a directory, oldest first, and a line for each directory that cannot be read as one."""
    runs, complaints = [], []
    for card in sorted(root.glob(f"*/{CARD}")):
        try:
            runs.append(Run.open(card.parent))
        except RunError as error:
            complaints.append(str(error))
    return sorted(runs, key=lambda run: str(run.card.created)), complaints


def reason(error: OSError | ValueError) -> str:
    """What went wrong, without the file's name where the system says it apart."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _lock(file: IO[str]) -> None:
    """Lock a file until it is closed, also by a kill; where the system has no such locks, do nothing.

    Whoever only looks whether it is locked holds it for a moment, and is waited for.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        time.sleep(A_MOMENT)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read_card(directory: Path) -> Card:
    path = directory / CARD
    try:
        content = files.read_json(path, MOST_CARD_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{directory} is not a run: it has no {CARD}. `convatlas runs` lists the runs in {DEFAULT_ROOT}/"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {reason(error)}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise RunError(
            f"{path} has format version {str(version)[:SHOWN]}; this convatlas reads {readable}. Update convatlas"
        )
    task = content.get("task", "classify")
    if not isinstance(task, str) or task not in Run.kinds:
        raise RunError(f"{path} is damaged at task: {unknown_name('task', str(task)[:SHOWN], Run.kinds)}")
    try:
        return Run.kinds[task].card_type.model_validate(content)
    except ValidationError as error:
        complaint = error.errors()[0]
        place = shortened(".".join(str(part) for part in complaint["loc"]))
        where = f" at {place}" if place else ""
        what = shortened(complaint["msg"].removeprefix("Value error, "), LONGEST_COMPLAINT)
        raise RunError(f"{path} is damaged{where}: {what}") from error
