"""Who takes part in benchmarks/engine.py. Each runs in a process of its own, which imports only its own module."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads import Task, Workload


class AbsentError(Exception):
    """A contender that cannot take part here: not installed, or it has no such network. Says which."""


@dataclass(frozen=True)
class Job:
    """What a contender's process is given. ``folder`` is what `networks.prepare` has filled."""

    contender: str
    workload: Workload
    folder: Path
    threads: int

    @property
    def images(self) -> Path:
        """float32 [N, 3, side, side]."""
        return self.folder / "images.npy"

    @property
    def labels(self) -> Path:
        """int64 [N]."""
        return self.folder / "labels.npy"

    @property
    def reference(self) -> Path:
        """float64: the logits of `Workload.checked` in inference, its gradients one after the other in training."""
        return self.folder / "reference.npy"

    @property
    def onnx(self) -> Path:
        """The network with its weights, for the runtimes that read files."""
        return self.folder / "network.onnx"

    @property
    def weights(self) -> Path:
        """The weights alone, for Keras: a dictionary of arrays as NumPy saves it."""
        return self.folder / "weights.npz"


@dataclass(frozen=True)
class Session:
    """A contender that is ready. ``run`` is one forward pass or one step; it returns the logits, or the loss."""

    run: Callable[[], Any]
    module: object = None  # ours: says afterwards what it chose
    note: str = ""  # what differs from the others' network


@dataclass(frozen=True)
class Contender:
    """One engine. ``module`` holds it under its name in SESSIONS: dict[str, Callable[[Job], Session]]."""

    name: str
    module: str
    packages: tuple[str, ...]
    tasks: tuple[Task, ...] = ("inference", "training")

    def missing(self) -> str | None:
        """What is not installed, in words; None where everything is."""
        absent = [package for package in self.packages if importlib.util.find_spec(package) is None]
        return f"{' and '.join(absent)} not installed" if absent else None

    def session(self, job: Job) -> Session:
        """Build it; seconds to minutes.

        Raises:
            AbsentError: it has no such network, or lacks something it needs.
        """
        session: Session = importlib.import_module(self.module).SESSIONS[self.name](job)
        return session

    def gradients(self, job: Job) -> Any:
        """The gradients of all parameters over `Workload.checked`, one after the other; None where nobody asks."""
        by_name = getattr(importlib.import_module(self.module), "GRADIENTS", {})
        return by_name[self.name](job) if self.name in by_name else None


OURS = "ours"
ONNX_FILE = ("onnxruntime", "openvino")  # they read Job.onnx
KERAS = "keras"
PYTORCH_PEERS = ("eager", "channels_last", "compile", "compile_channels_last")

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(OURS, "contenders.pytorch", ("torch", "convatlas")),
        *(Contender(name, "contenders.pytorch", ("torch",)) for name in PYTORCH_PEERS),
        Contender("onnxruntime", "contenders.onnx_files", ("onnx", "onnxruntime"), tasks=("inference",)),
        Contender("openvino", "contenders.onnx_files", ("onnx", "openvino"), tasks=("inference",)),
        Contender(KERAS, "contenders.keras_tensorflow", ("keras", "tensorflow")),
    )
}
