"""Everything a killed training needs to go on, bit for bit.

Three files belong together: weights, optimiser state and ``state.json``. The first two are written under new names;
replacing ``state.json``, which names them, is the single moment at which the new checkpoint counts. A process killed
before that moment leaves the checkpoint before it whole. No random state is stored: every draw is seeded by (seed,
epoch, step).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from convatlas import files
from convatlas.errors import RunError
from convatlas.tensors import matched, read_tensors, write_tensors
from convatlas.training.history import HistoryRow

MOST = 10**12  # of steps, images or seconds
MOST_STATE_BYTES = 2**26
Count = Annotated[int, Field(ge=0, le=MOST)]
Seconds = Annotated[float, Field(ge=0, le=MOST)]
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

BEST_WEIGHTS = "model.safetensors"
STATE = "state.json"


@dataclass
class Tally:
    """Sums over the training steps since the last validation: of the task's columns by name, of images and seconds."""

    sums: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0


@dataclass
class TrainingState:
    """Where a training stands: ``step`` steps into epoch ``epoch`` (both count from 0)."""

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    seconds: float = 0.0
    world: int = 1  # processes that trained together
    validation_seconds: float = 0.0  # that the last validation took
    since_best: int = 0
    best: HistoryRow | None = None
    history: list[HistoryRow] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    findings: list[str] = field(default_factory=list)
    loss_scale: dict[str, Any] | None = None  # of float16 training


def save(directory: Path, state: TrainingState, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
    """Write a checkpoint that replaces the one before it in a single step.

    Raises:
        StorageError: the disk refused; the checkpoint before is whole.
    """
    written = {kind: f"{name}-{state.total_steps:08d}.safetensors" for kind, name in _KINDS.items()}
    write_tensors(directory / written["weights"], weights)
    write_tensors(directory / written["optimizer"], optimizer)
    files.write_json(directory / STATE, {"files": written} | _content_of(state))
    for name in _KINDS.values():
        for path in directory.glob(f"{name}-*.safetensors"):
            is_ours = re.fullmatch(rf"{name}-\d{{8,}}\.safetensors", path.name)  # and no copy that somebody made
            if is_ours and path.name not in written.values():
                path.unlink()


def exists(directory: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return os.path.lexists(directory / STATE)  # whatever it is: a strange one must not be written over


def load_state(directory: Path) -> TrainingState:
    """Where the checkpoint's training stands, without its weights.

    Raises:
        RunError: there is none, or it is damaged.
    """
    with _complaints(directory):
        return _read_state(directory).state()


def load(directory: Path) -> tuple[TrainingState, dict[str, Tensor], dict[str, Tensor]]:
    """The state, the weights and the optimiser state of a checkpoint, on the CPU.

    Raises:
        RunError: there is none, or its files are damaged.
    """
    with _complaints(directory):
        stored = _read_state(directory)
        weights, optimizer = (read_tensors(directory / Path(stored.files[kind]).name) for kind in _KINDS)
        return stored.state(), weights, optimizer


@contextmanager
def _complaints(directory: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        missing = Path(error.filename or STATE).name
        raise RunError(f"{directory} holds no checkpoint to resume ({missing} is missing)") from error
    except ValidationError as error:
        complaint = error.errors()[0]
        place = ".".join(map(str, complaint["loc"]))
        message = complaint["msg"].removeprefix("Value error, ")
        raise RunError(f"the checkpoint in {directory} is damaged at {place}: {message}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"the checkpoint in {directory} is damaged: {reason}") from error


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors named ``<parameter>/<quantity>``, such as ``fc.weight/exp_avg``."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{quantity}": value
        for parameter, quantities in optimizer.state.items()
        for quantity, value in quantities.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` took out; step counters stay on the CPU, as PyTorch keeps them.

    Raises:
        ValueError: tensors of parameters that the model has not, or of other shapes or kinds.
    """
    parameters = dict(model.named_parameters())
    expected: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name, _, quantity = key.rpartition("/")
        if name not in parameters or not quantity:
            raise ValueError(f"it has what the network has not: {key}")
        expected[key] = parameters[name] if tensor.dim() else torch.zeros(())
    for key, tensor in matched(tensors, expected).items():
        name, _, quantity = key.rpartition("/")
        optimizer.state[parameters[name]][quantity] = (
            _like(tensor, parameters[name]) if tensor.dim() else tensor.clone()
        )


_KINDS: dict[Literal["weights", "optimizer"], str] = {"weights": "last", "optimizer": "optimizer"}


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def _content_of(state: TrainingState) -> dict[str, Any]:
    return asdict(state) | {
        "best": state.best.flat() if state.best else None,
        "history": [row.flat() for row in state.history],
    }


def _read_state(directory: Path) -> _Stored:
    return _Stored.model_validate(files.read_json(directory / STATE, MOST_STATE_BYTES))


class _StoredTally(BaseModel):
    model_config = STRICT

    sums: dict[str, float]
    images: Count
    seconds: Seconds

    @model_validator(mode="before")
    @classmethod
    def _of_one_task(cls, content: Any) -> Any:
        """What was written while classification was all there was."""
        if isinstance(content, dict) and {"loss", "correct"} <= content.keys():
            others = {name: value for name, value in content.items() if name not in ("loss", "correct")}
            return others | {"sums": {"loss": content["loss"], "accuracy": content["correct"]}}
        return content


class _Stored(BaseModel):
    """What ``state.json`` may say; anybody may have edited it."""

    model_config = STRICT

    files: dict[Literal["weights", "optimizer"], str]
    epoch: Count
    step: Count
    total_steps: Count
    seconds: Seconds
    world: Annotated[int, Field(ge=1, le=MOST)]
    validation_seconds: Seconds
    since_best: Count
    best: dict[str, float] | None
    history: list[dict[str, float]]
    tally: _StoredTally
    findings: list[str]
    loss_scale: dict[str, float] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        missing = [kind for kind in _KINDS if kind not in self.files]
        if missing:
            raise ValueError(f"files names no {missing[0]}")
        self.state()  # whose rows must be whole
        return self

    def state(self) -> TrainingState:
        return TrainingState(
            best=_row_from(self.best) if self.best else None,
            history=[_row_from(row) for row in self.history],
            tally=Tally(**self.tally.model_dump()),
            **self.model_dump(exclude={"files", "best", "history", "tally"}),
        )


def _row_from(columns: dict[str, float]) -> HistoryRow:
    try:
        row = HistoryRow.from_flat(columns)
    except KeyError as error:
        raise ValueError(f"a row of the history has no {error}") from error
    if min(row.epoch, row.step, row.seconds, row.learning_rate, row.images_per_second) < 0:
        raise ValueError("a row of the history counts below zero")
    return row
