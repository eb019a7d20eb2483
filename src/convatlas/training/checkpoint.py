"""Everything a killed training needs to go on, bit for bit.

Three files belong together: weights, optimiser state and ``state.json``. The first two are written under new names;
replacing ``state.json``, which names them, is the single moment at which the new checkpoint counts. A process killed
before that moment leaves the checkpoint before it whole. No random state is stored: every draw is seeded by (seed,
epoch, step).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from convatlas import files
from convatlas.errors import RunError
from convatlas.training.history import HistoryRow

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


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace a safetensors file atomically; tensors are moved to the CPU and made contiguous.

    Raises:
        StorageError: the disk refused; what was there before is untouched.
    """
    on_cpu = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    with files.replacing(path) as temporary:
        try:
            save_file(on_cpu, temporary)
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error)) from error


def save(directory: Path, state: TrainingState, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
    """Write a checkpoint that replaces the one before it in a single step.

    Raises:
        StorageError: the disk refused; the checkpoint before is whole.
    """
    written = {kind: f"{name}-{state.total_steps:08d}.safetensors" for kind, name in _KINDS.items()}
    save_weights(directory / written["weights"], weights)
    save_weights(directory / written["optimizer"], optimizer)
    files.write_json(directory / STATE, {"files": written} | _content_of(state))
    for name in _KINDS.values():
        for path in directory.glob(f"{name}-*.safetensors"):
            if path.name not in written.values():
                path.unlink()


def exists(directory: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return (directory / STATE).is_file()


def load_state(directory: Path) -> TrainingState:
    """Where the checkpoint's training stands, without its weights.

    Raises:
        RunError: there is none, or it is damaged.
    """
    with _complaints(directory):
        content = json.loads((directory / STATE).read_text(encoding="utf-8"))
        content.pop("files")
        return _state_from(content)


def load(directory: Path) -> tuple[TrainingState, dict[str, Tensor], dict[str, Tensor]]:
    """The state, the weights and the optimiser state of a checkpoint, on the CPU.

    Raises:
        RunError: there is none, or its files are damaged.
    """
    with _complaints(directory):
        content = json.loads((directory / STATE).read_text(encoding="utf-8"))
        named = content.pop("files")
        weights, optimizer = (load_file(directory / Path(named[kind]).name) for kind in _KINDS)
        return _state_from(content), weights, optimizer


@contextmanager
def _complaints(directory: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        missing = Path(error.filename or STATE).name
        raise RunError(f"{directory} holds no checkpoint to resume ({missing} is missing)") from error
    except Exception as error:  # damaged JSON, damaged safetensors, fields of another version: one clear line for all
        raise RunError(f"the checkpoint in {directory} is damaged: {error}") from error


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
    """Put back what ``optimizer_tensors`` took out; step counters stay on the CPU, as PyTorch keeps them."""
    parameters = dict(model.named_parameters())
    for key, tensor in tensors.items():
        name, quantity = key.rsplit("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][quantity] = _like(tensor, parameter) if tensor.dim() else tensor.clone()


_KINDS = {"weights": "last", "optimizer": "optimizer"}


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def _content_of(state: TrainingState) -> dict[str, Any]:
    return asdict(state) | {
        "best": state.best.flat() if state.best else None,
        "history": [row.flat() for row in state.history],
    }


def _state_from(content: dict[str, Any]) -> TrainingState:
    best = content.pop("best")
    return TrainingState(
        best=HistoryRow.from_flat(best) if best else None,
        history=[HistoryRow.from_flat(row) for row in content.pop("history")],
        tally=_tally_from(content.pop("tally")),
        **content,
    )


def _tally_from(content: dict[str, Any]) -> Tally:
    if "sums" not in content:  # as written while classification was all there was
        content["sums"] = {"loss": content.pop("loss"), "accuracy": content.pop("correct")}
    return Tally(**content)
