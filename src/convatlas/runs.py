"""A run: the directory a training leaves, self-contained and safe to open from a stranger.

``card.json`` says what it is, ``model.safetensors`` holds the best weights by validation; nothing is ever unpickled.
"""

from __future__ import annotations

import json
import platform
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from convatlas import files
from convatlas.acceleration import Acceleration, Engine, EngineCard, settle
from convatlas.data.decode import decode_file
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import RunError

if TYPE_CHECKING:
    import torch

    from convatlas.models.contract import Classifier
    from convatlas.tasks.classify.task import Classification, Prediction

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)  # the first had no task: all its runs classify
DEFAULT_ROOT = Path("runs")
CARD = "card.json"
WEIGHTS = "model.safetensors"


class ModelCard(BaseModel):
    """Which network, and what ``create_model`` needs to build it again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_classes: int
    in_channels: int
    image_size: int


class DataCard(BaseModel):
    """Which images: where they came from, a hash of their content, and how they were split.

    ``mirror`` says whether a mirrored image keeps its class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    location: str
    fingerprint: str
    counts: dict[str, int]
    skipped: tuple[tuple[str, str], ...] = ()
    mirror: bool
    split_seed: int
    validation_fraction: float | None


class Card(BaseModel):
    """What a run says of itself; ``best``, ``test`` and ``findings`` are filled in as they become known.

    ``engine`` is what trains the network; whoever opens the run may use another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    task: Literal["classify"] = "classify"
    created: str
    status: Literal["training", "interrupted", "failed", "finished"] = "training"
    model: ModelCard
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    recipe: dict[str, Any]
    data: DataCard
    engine: EngineCard = EngineCard()
    best: dict[str, float] | None = None
    test: dict[str, Any] | None = None
    test_evaluations: int = 0
    findings: tuple[str, ...] = ()
    environment: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.classes) != self.model.num_classes:
            raise ValueError(f"{len(self.classes)} classes for a network of {self.model.num_classes}")
        if self.preprocessing.channels != self.model.in_channels:
            raise ValueError(f"{self.preprocessing.channels} channels for a network of {self.model.in_channels}")
        if self.preprocessing.crop != self.model.image_size:
            raise ValueError(f"images of {self.preprocessing.crop} for a network of {self.model.image_size}")
        return self


class Run:
    """A run on disk.

    >>> run = Run.open("runs/2026-11-22-lenet5-digits-3f2a")  # doctest: +SKIP
    >>> run.predict(["seven.png"])[0].label  # doctest: +SKIP
    '7'
    """

    def __init__(self, path: Path, card: Card) -> None:
        self.path = path
        self.card = card
        self._model: Classifier | None = None
        self._acceleration: Acceleration | None = None

    @classmethod
    def create(cls, card: Card, path: Path | None = None) -> Run:
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
    def open(cls, path: str | Path) -> Run:
        """The run in a directory, given by its path or by its name under ``runs/``.

        Raises:
            RunError: not a run, damaged, or written by a newer convatlas.
        """
        directory = Path(path)
        if not directory.exists() and (DEFAULT_ROOT / directory).is_dir():
            directory = DEFAULT_ROOT / directory
        return cls(directory, _read_card(directory))

    def update(self, **changes: Any) -> None:
        """Change fields of the card and write it, atomically."""
        self.card = self.card.model_copy(update=changes)
        files.write_json(self.path / CARD, self.card.model_dump(mode="json"))

    @contextmanager
    def being_written(self) -> Iterator[None]:
        """Keep other processes from training the same run within the block.

        Raises:
            RunError: another process is at it.
        """
        try:
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror}") from error
        with lock:
            try:
                _lock(lock)
            except OSError as error:
                raise RunError(f"{self.path} is being trained by another process; wait for it or stop it") from error
            yield

    def model(self) -> Classifier:
        """The network with its best weights, in evaluation mode; built once.

        Raises:
            RunError: there are no weights yet, or they are not those of this network.
        """
        if self._model is None:
            self._model = self._load_model()
        return self._model

    def task(self) -> Classification:
        """What the network's outputs mean."""
        from convatlas.tasks.classify.task import Classification

        return Classification(self.card.classes)

    def accelerated(self, engine: Engine = "auto", batch: int = 1) -> Acceleration:
        """What runs the network for others than its trainer: with "auto" made ready once, for batches like the first.

        Raises:
            RunError: there are no weights yet.
            UnknownNameError: no such engine.
        """
        preprocessing = self.card.preprocessing
        shape = (batch, preprocessing.channels, preprocessing.crop, preprocessing.crop)
        if engine != "auto":
            return settle(self.model(), shape, engine)
        if self._acceleration is None:
            self._acceleration = settle(self.model(), shape)
        return self._acceleration

    def predict(
        self, images: str | Path | Sequence[str | Path], top: int = 5, engine: Engine = "auto"
    ) -> list[Prediction]:
        """Classify image files with the preprocessing the network was trained with.

        Args:
            images: one path or several; any format Pillow reads.
            top: how many classes to name for each.
            engine: "torch" to do without the CPU engine.

        Raises:
            DataError: a file that is missing or not an image, by name.
        """
        import torch

        paths = [images] if isinstance(images, str | Path) else list(images)
        preprocessing = self.card.preprocessing
        size = preprocessing.evaluation_batch
        device = next(self.model().parameters()).device
        network: torch.nn.Module | None = None
        predictions = []
        for start in range(0, len(paths), size):
            names = paths[start : start + size]
            pixels = np.stack([decode_file(name, preprocessing.channels, preprocessing.resize) for name in names])
            if network is None:  # after decoding: whoever names a file that is no image need not wait for the engine
                network = self.accelerated(engine, len(names)).module
            with torch.inference_mode():
                inputs = preprocessing.normalize(torch.from_numpy(pixels).to(device))
                logits = network(inputs)
            predictions += self.task().predictions(logits, names, top)
        return predictions

    def _load_model(self) -> Classifier:
        from safetensors.torch import load_file

        from convatlas.models import outline_model

        weights = self.path / WEIGHTS
        if not weights.is_file():
            raise RunError(
                f"{self.path} has no weights yet: it was stopped before its first validation. "
                f"Go on with convatlas train --resume {self.path}"
            )
        model = outline_model(**self.card.model.model_dump())
        try:
            model.load_state_dict(load_file(weights), assign=True)
        except Exception as error:  # safetensors and torch raise several types; the person needs one line
            reason = str(error).splitlines()[0]
            raise RunError(f"{weights} does not hold the weights of {self.card.model.name}: {reason}") from error
        return model.eval()


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
    return sorted(runs, key=lambda run: run.card.created), complaints


def describe_environment() -> dict[str, str]:
    """Versions and hardware, as kept in every run."""
    import os

    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "convatlas": metadata.version("convatlas"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": str(torch.get_num_threads()),
        "cores": str(os.cpu_count()),
    }


def timestamp() -> str:
    """The present moment, UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _lock(file: IO[str]) -> None:
    """Lock a file until it is closed, also by a kill; where the system has no such locks, do nothing."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read_card(directory: Path) -> Card:
    path = directory / CARD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{directory} is not a run: it has no {CARD}. `convatlas runs` lists the runs in {DEFAULT_ROOT}/"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise RunError(f"{path} has format version {version}; this convatlas reads {readable}. Update convatlas")
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        complaint = error.errors()[0]
        place = ".".join(str(part) for part in complaint["loc"])
        where = f" at {place}" if place else ""
        raise RunError(f"{path} is damaged{where}: {complaint['msg'].removeprefix('Value error, ')}") from error


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
