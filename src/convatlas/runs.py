"""A run: the directory a training leaves, self-contained and safe to open from a stranger.

``card.json`` says what it is, ``model.safetensors`` holds the best weights by validation; nothing is ever unpickled.
"""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from convatlas import files
from convatlas.acceleration import Acceleration, Engine, EngineCard, settle
from convatlas.data.decode import decode_file
from convatlas.data.preprocessing import LARGEST_SIDE, Preprocessing
from convatlas.errors import RunError

if TYPE_CHECKING:
    import torch

    from convatlas.models.contract import Classifier
    from convatlas.tasks.classify.task import Classification, Prediction

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)  # the first had no task: all its runs classify
BEST = {"epoch", "validation_accuracy", "validation_loss"}  # figures that are printed
DEFAULT_ROOT = Path("runs")
CARD = "card.json"
WEIGHTS = "model.safetensors"
SHOWN = 80  # letters of what cannot be a name


MOST_CARD_BYTES = 2**26
MOST_CLASSES = 100_000  # that a card may ask memory for
MOST = 10**12  # of images, looks or steps

Text = Annotated[str, Field(max_length=10_000)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]
STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelCard(BaseModel):
    """Which network, and what ``create_model`` needs to build it again."""

    model_config = STRICT

    name: Name
    num_classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)]
    in_channels: Annotated[int, Field(ge=1)]
    image_size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


class DataCard(BaseModel):
    """Which images: where they came from, a hash of their content, and how they were split.

    ``mirror`` says whether a mirrored image keeps its class.
    """

    model_config = STRICT

    name: Name
    location: Name
    fingerprint: Name
    counts: dict[Literal["train", "validation", "test"], Count]
    skipped: tuple[tuple[Text, Text], ...] = ()
    mirror: bool
    split_seed: Annotated[int, Field(ge=0, lt=2**32)]
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] | None  # 0 where the set brings its own


class TestSummary(BaseModel):
    """What ``Evaluation.summary`` says of the test set."""

    model_config = STRICT

    n: Annotated[int, Field(ge=1, le=MOST)]
    correct: Count
    accuracy: Share
    interval: tuple[Share, Share]
    k: Annotated[int, Field(ge=1, le=MOST_CLASSES)]
    top_k_correct: Count
    top_k_accuracy: Share
    loss: Annotated[float, Field(ge=0)]


class Card(BaseModel):
    """What a run says of itself; ``best``, ``test`` and ``findings`` are filled in as they become known.

    ``engine`` is what trains the network; whoever opens the run may use another. The card may be a stranger's: every
    value is held against what can be, and what is printed of it is escaped.
    """

    model_config = STRICT

    format_version: int = FORMAT_VERSION
    task: Literal["classify"] = "classify"
    created: Name
    status: Literal["training", "interrupted", "failed", "finished"] = "training"
    model: ModelCard
    classes: tuple[Name, ...]
    preprocessing: Preprocessing
    recipe: dict[str, Any]
    data: DataCard
    engine: EngineCard = EngineCard()
    best: dict[str, float] | None = None
    test: dict[str, Any] | None = None
    test_evaluations: Count = 0
    findings: tuple[Text, ...] = ()
    environment: dict[str, Text]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.classes) != self.model.num_classes:
            raise ValueError(f"{len(self.classes)} classes for a network of {self.model.num_classes}")
        if self.preprocessing.channels != self.model.in_channels:
            raise ValueError(f"{self.preprocessing.channels} channels for a network of {self.model.in_channels}")
        if self.preprocessing.crop != self.model.image_size:
            raise ValueError(f"images of {self.preprocessing.crop} for a network of {self.model.image_size}")
        missing = BEST - self.best.keys() if self.best is not None else set()
        if missing:
            raise ValueError(f"best has no {min(missing)}")
        if self.test is not None:
            TestSummary.model_validate(self.test)
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
        try:
            if not directory.exists() and (DEFAULT_ROOT / directory).is_dir():
                directory = DEFAULT_ROOT / directory
        except (OSError, ValueError) as error:  # a name too long for any file, or with a zero byte
            raise RunError(f"{str(path)[:SHOWN]!r} is no directory: {_reason(error)}") from error
        return cls(directory, _read_card(directory))

    def update(self, **changes: Any) -> None:
        """Change fields of the card and write it, atomically; what another process has changed since stays changed."""
        if (self.path / CARD).exists():
            self.card = _read_card(self.path)
        self.card = self.card.model_copy(update=changes)
        files.write_json(self.path / CARD, self.card.model_dump(mode="json"))

    def count_test(self) -> None:
        """Say on the card that the test images were shown once more."""
        self.update()  # somebody else may have shown them meanwhile
        self.update(test_evaluations=self.card.test_evaluations + 1)

    @contextmanager
    def being_written(self) -> Iterator[None]:
        """Keep other processes from training the same run within the block.

        Raises:
            RunError: another process is at it.
        """
        try:
            # Never through a link: in a stranger's run it may lead to a file of this person's.
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            lock = os.fdopen(os.open(self.path / ".lock", flags, 0o666), "r+")
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
            RunError: ``top`` is no number of classes.
            TrainingError: the network's outputs are not finite.
        """
        import torch

        if not isinstance(top, int) or top < 1:
            raise RunError(f"top is how many classes to name, 1 or more; received {top!r}")
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
        from convatlas.models import outline_model
        from convatlas.tensors import matched, read_tensors

        weights = self.path / WEIGHTS
        model = outline_model(**self.card.model.model_dump())
        try:
            model.load_state_dict(matched(read_tensors(weights), model.state_dict()), assign=True)
        except FileNotFoundError as error:
            raise RunError(
                f"{self.path} has no weights yet: it was stopped before its first validation. "
                f"Go on with convatlas train --resume {self.path}"
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(
                f"{weights} does not hold the weights of {self.card.model.name}: {_reason(error)}"
            ) from error
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
        content = files.read_json(path, MOST_CARD_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(
            f"{directory} is not a run: it has no {CARD}. `convatlas runs` lists the runs in {DEFAULT_ROOT}/"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {_reason(error)}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise RunError(
            f"{path} has format version {str(version)[:SHOWN]}; this convatlas reads {readable}. Update convatlas"
        )
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        complaint = error.errors()[0]
        place = ".".join(str(part) for part in complaint["loc"])
        where = f" at {place}" if place else ""
        raise RunError(f"{path} is damaged{where}: {complaint['msg'].removeprefix('Value error, ')}") from error


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
