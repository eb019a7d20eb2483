"""A network that computes the same faster: fused programs for evaluating, the engine's operators for training."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from convatlas.engine.availability import unavailable
from convatlas.engine.choice import Chooser, LayerChoice
from convatlas.engine.compiler import make_ready
from convatlas.engine.graph import Graph, evaluating, trace
from convatlas.engine.jobs import EVALUATION, TRAINING
from convatlas.engine.program import Program, Weights
from convatlas.engine.threads import keep_freed_memory
from convatlas.engine.training_graph import trace_for_training

T = TypeVar("T")

log = logging.getLogger(__name__)

SHAPES_KEPT = 3  # programs of other shapes are forgotten, with their memory


def accelerate(model: nn.Module, example: Tensor, choices: Mapping[str, str] | None = None) -> Accelerated:
    """A module with the same parameters and the same outputs as ``model``, faster on an ordinary processor.

    >>> fast = accelerate(model.eval(), torch.zeros(8, 3, 224, 224))   # doctest: +SKIP
    >>> fast(images)                                                   # doctest: +SKIP

    Parameters, buffers and the training flag are the model's own, and may change at any time. Where the engine does not
    apply (another device or type, hooks on a layer, gradients of a network that is being evaluated) the model itself is
    called. Layers must not be exchanged for others: accelerate the network again.

    Args:
        model: any network of one input; what fx cannot trace is called as it is.
        example: [N, C, H, W], of the shape the network will see; kernels are compared on it.
        choices: what an earlier ``Accelerated.choices`` said, to compute exactly as then.
    """
    accelerated = Accelerated(model, choices)
    accelerated.prepare(example)
    return accelerated


class Accelerated(nn.Module):
    """What ``accelerate`` returns."""

    def __init__(self, model: nn.Module, choices: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._chooser = Chooser(choices)
        self._programs = _Programs(model, self._chooser)
        # lists hide modules from nn.Module: the parameters of these are the model's
        self._parts = list(model.modules())
        self._graphs: dict[tuple[bool, ...], nn.Module] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Accelerated, (self.model, self.choices)  # programs are addresses of this process's memory

    @property
    def choices(self) -> dict[str, str]:
        """Which kernel does each shape of layer that was met so far."""
        return dict(self._chooser.choices)

    def explain(self) -> list[LayerChoice]:
        """Which kernel does each layer that was met so far, and how long each took when they were compared."""
        return list(self._chooser.layers.values())

    def prepare(self, example: Tensor) -> None:
        """Compile, choose and allocate for inputs like ``example``, so that the first call is as quick as others."""
        if _suits(example):
            make_ready(TRAINING if self.model.training else EVALUATION)
            with torch.inference_mode(), evaluating(self.model):
                self._programs.run(example)
        if self.model.training:
            self._programs.forget()  # of what was learnt, training needs only the choices

    def forward(self, images: Tensor) -> Tensor:
        """The model's outputs for images [N, C, H, W]."""
        if not self._applies(images):
            return cast(Tensor, self.model(images))
        if self.model.training:
            return cast(Tensor, self._training_graph()(images))
        return self._programs.run(images)

    def _applies(self, images: Tensor) -> bool:
        if not _suits(images) or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
            return False
        if any(map(_has_hooks, self._parts)):
            return False  # whoever hung a hook on a layer wants that very layer to be called
        if self.model.training:
            return True
        return not torch.is_grad_enabled() and not any(part.training for part in self._parts)

    def _training_graph(self) -> nn.Module:
        flags = tuple(part.training for part in self._parts)  # the network's code may ask for them
        with self._lock:
            if flags not in self._graphs:
                keep_freed_memory()
                graph = _attempt("training", lambda: trace_for_training(self.model, self._chooser))
                self._graphs[flags] = graph or self.model
            return self._graphs[flags]


class _Programs:
    """The programs of a network, by the shape of their input; several of one shape where threads need them at once."""

    def __init__(self, model: nn.Module, chooser: Chooser) -> None:
        self._model = model
        self._parts = list(model.modules())
        self._chooser = chooser
        self._lock = threading.Lock()
        self._state: tuple[Any, ...] = ()
        self._graph: Graph | None = None
        self._weights = Weights()
        self._idle: OrderedDict[tuple[int, ...], list[Program | None]] = OrderedDict()

    def run(self, images: Tensor) -> Tensor:
        """The network's outputs."""
        shape = tuple(images.shape)
        with self._lock:
            self._refresh()
            weights = self._weights
            idle = self._idle.setdefault(shape, [])
            self._idle.move_to_end(shape)
            program = idle.pop() if idle else self._build(images)
        try:
            return cast(Tensor, self._model(images)) if program is None else program(images)
        finally:
            self._give_back(shape, program, weights)

    def forget(self) -> None:
        """Give back all memory."""
        with self._lock:
            self._weights = Weights()
            self._idle.clear()

    def _refresh(self) -> None:
        """Begin anew where a parameter or buffer is no longer what it was."""
        tensors = (each for part in self._parts for each in (*part._parameters.values(), *part._buffers.values()))
        state = tuple(_state(tensor) for tensor in tensors if tensor is not None)
        if state == self._state:
            return
        self._state = state
        self._weights = Weights()
        self._idle.clear()

    def _build(self, images: Tensor) -> Program | None:
        if self._graph is None:
            self._graph = _attempt("evaluation", lambda: trace(self._model))
        graph = self._graph
        if graph is None:
            return None
        with torch.inference_mode(False), torch.no_grad():
            return _attempt("evaluation", lambda: Program(graph, self._weights, self._chooser, images))

    def _give_back(self, shape: tuple[int, ...], program: Program | None, weights: Weights) -> None:
        with self._lock:
            if weights is not self._weights:
                return  # made for parameters that have changed since
            self._idle.setdefault(shape, []).append(program)
            while len(self._idle) > SHAPES_KEPT:
                self._idle.popitem(last=False)


def _has_hooks(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


def _state(tensor: Tensor) -> tuple[int, ...]:
    """What is different after a change. Fused optimizers and ``tensor.data`` change values, but not the version."""
    version = 0 if tensor.is_inference() else tensor._version
    address = tensor.data_ptr()
    if tensor.dtype != torch.float32 or not tensor.is_cpu or address == 0:
        return address, version
    return address, version, ctypes.c_int32.from_address(address).value  # the first value stands for all of them


def _suits(images: Any) -> bool:
    return (
        isinstance(images, Tensor)
        and images.dim() == 4
        and images.dtype == torch.float32
        and images.device.type == "cpu"
        and images.numel() > 0
        and unavailable() is None
    )


def _attempt(what: str, make: Callable[[], T]) -> T | None:
    """What ``make`` makes; None, and a line in the log, for a network that the engine cannot follow."""
    try:
        return make()
    except Exception as error:  # fx raises whatever the network's code makes of a stand-in for a tensor
        log.info("the network's own code is used for %s: %s", what, error)
        return None
