"""A network that computes the same faster: fused programs for evaluating, the engine's operators for training."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from convatlas.engine.availability import unavailable
from convatlas.engine.choice import Chooser, LayerChoice, take_turns
from convatlas.engine.freshness import Form, Values
from convatlas.engine.graph import Graph, evaluating, trace
from convatlas.engine.processor import cache_bytes, shared_cache_bytes
from convatlas.engine.program import Program, Weights
from convatlas.engine.threads import keep_freed_memory, thread_count
from convatlas.engine.training_graph import trace_for_training

T = TypeVar("T")

log = logging.getLogger(__name__)

SHAPES_KEPT = 3  # programs of other shapes are forgotten, with their memory
OURS, PYTORCHS = "convatlas", "torch"  # what may run a whole network
MOST_DIGITS = 9  # of a number of images
AT_A_TIME = "convatlas, images at a time: "  # a few, so that what one layer writes is in the caches for the next
LAST_CACHE_SHARE = 0.5  # that the pictures of a layer may fill then
IN_EVALUATION, IN_TRAINING = "all of it, in evaluation", "all of it, in training"
# Of a batch, when a whole training step is compared. What a step does with the weights takes the same time for one
# image as for a hundred: with few images PyTorch may seem faster than it is.
TRIED_IMAGES, TRIED_PIXELS = 16, 128 * 32 * 32  # as many images as there are pixels for, and no fewer than 16
CLEARLY_FASTER = 3.0  # than PyTorch's first call, which is slower than the next ones: no more are waited for


def accelerate(model: nn.Module, example: Tensor, choices: Mapping[str, str] | None = None) -> Accelerated:
    """A module with the same parameters and the same outputs as ``model``, faster on an ordinary processor.

    >>> fast = accelerate(model.eval(), torch.zeros(8, 3, 224, 224))   # doctest: +SKIP
    >>> fast(images)                                                   # doctest: +SKIP

    Parameters, buffers, layers and the training flag are the model's own, and may change at any time; what cannot be
    noticed, ``refresh`` is for. Where the engine does not apply (another device or type, hooks, gradients of a network
    that is being evaluated, a network that PyTorch runs faster) the model itself is called.

    Args:
        model: any network of one input; what fx cannot trace is called as it is.
        example: [N, C, H, W], of the shape the network will see; kernels are compared on it.
        choices: what an earlier ``Accelerated.choices`` said, to compute exactly as then.
    """
    accelerated = Accelerated(model, choices)
    accelerated.prepare(example)
    return accelerated


def tried_images(height: int, width: int) -> int:
    """On how many images of a batch a training step is compared with PyTorch's, at most.

    >>> tried_images(32, 32), tried_images(224, 224)
    (128, 16)
    """
    return max(TRIED_IMAGES, TRIED_PIXELS // (height * width))


class Accelerated(nn.Module):
    """What ``accelerate`` returns."""

    def __init__(self, model: nn.Module, choices: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._chooser = Chooser(choices)
        self._form = Form(model)
        self._programs = _Programs(model, self._chooser)
        self._training = _Training(model, self._chooser)

    def __reduce__(self) -> tuple[Any, ...]:
        return Accelerated, (self.model, self.choices)  # programs are addresses of this process's memory

    @property
    def choices(self) -> dict[str, str]:
        """Which kernel does each shape of layer that was met so far, and what runs the whole network."""
        return dict(self._chooser.choices)

    @property
    def why_not(self) -> str | None:
        """Why PyTorch runs the network as it is set now, to train or to evaluate; None where the engine does."""
        return self._chooser.why_torch(IN_TRAINING if self.model.training else IN_EVALUATION)

    def explain(self) -> list[LayerChoice]:
        """Which kernel does each layer that was met so far, and how long each took when they were compared."""
        return list(self._chooser.layers.values())

    def refresh(self) -> None:
        """Read the network's weights again: after changes behind PyTorch's back that only a look at all would show."""
        self._form = Form(self.model)
        self._programs.forget()
        self._training.forget()

    def prepare(self, example: Tensor) -> None:
        """Compile, choose and allocate for inputs like ``example``, so that the first call is as quick as others."""
        if not _suits(example):
            return
        self._follow()
        with evaluating(self.model), torch.inference_mode():
            # In training the memory is for the training, not for programs beside each other.
            self._programs.prepare(example, in_parts=not self.model.training)
        if self.model.training:
            self._programs.forget()  # of what was learnt, training needs only the choices
            self._training.prepare(example, self._form.training_flags)

    @property
    def trained_as(self) -> nn.Module:
        """What computes the model's outputs in training, of the same parameters: fake tensors can go through it too."""
        return self._training.graph(self._form.training_flags)

    def predict_anew(self, images: Tensor) -> Tensor:
        """The model's outputs in evaluation, as for the first time; nothing is kept for another."""
        self._programs.forget()
        try:
            with evaluating(self.model), torch.inference_mode():
                return self._programs.run(images)
        finally:
            self._programs.forget()

    def forward(self, images: Tensor) -> Tensor:
        """The model's outputs for images [N, C, H, W]."""
        if not self._applies(images):
            return cast(Tensor, self.model(images))
        if self.model.training:
            self._programs.forget()  # what they hold would be stale after the next step of an optimizer
            return cast(Tensor, self._training.graph(self._form.training_flags)(images))
        return self._programs.run(images)

    def _applies(self, images: Tensor) -> bool:
        if not _suits(images) or _is_observed():
            return False
        form = self._follow()
        if form.is_watched or not form.is_plain:
            return False
        if self.model.training:
            return True
        return not torch.is_grad_enabled() and not form.has_part_in_training

    def _follow(self) -> Form:
        """The network's layers as they are now; what was made from other ones is given up."""
        if not self._form.holds():
            self.refresh()
        return self._form


class _Programs:
    """The programs of a network, by the shape of their input; several of one shape where threads need them at once."""

    def __init__(self, model: nn.Module, chooser: Chooser) -> None:
        self._model = model
        self._chooser = chooser
        self._lock = threading.Lock()
        self._values: Values | None = None
        self._graph: Graph | None = None
        self._weights = Weights()
        self._idle: OrderedDict[tuple[int, ...], list[Program | None]] = OrderedDict()

    def run(self, images: Tensor) -> Tensor:
        """The network's outputs."""
        choice = self._chooser.choices.get(IN_EVALUATION, OURS)
        if choice == PYTORCHS:
            return cast(Tensor, self._model(images))
        at_a_time = _at_a_time(choice)
        if not 0 < at_a_time < len(images):
            return self._run(images)
        return torch.cat([self._run(some) for some in torch.split(images, at_a_time)])

    def _run(self, images: Tensor) -> Tensor:
        program, weights = self._take(images)
        try:
            return cast(Tensor, self._model(images)) if program is None else program(images)
        finally:
            self._give_back(tuple(images.shape), program, weights)

    def prepare(self, images: Tensor, *, in_parts: bool) -> None:
        """Build the program, and compare it with the network itself, and ``in_parts``: with fewer images at a time."""
        program = self._built(images)
        if program is None or self._graph is None or not self._chooser.measures:
            return
        calls: dict[str, Callable[[], object]] = {OURS: lambda: program(images)}
        if in_parts and self._graph.takes_images_one_by_one:
            for few in _fewer(len(images), program.bytes_of_an_image):
                smaller = self._built(images[:few])
                if smaller is not None:
                    calls[f"{AT_A_TIME}{few}"] = partial(_in_parts, smaller, images, few)
        calls[PYTORCHS] = lambda: self._model(images)
        case = f"{_digest(self._model, self._graph.module.code)} {tuple(images.shape)}"
        self._chooser.choose_network(IN_EVALUATION, case, calls, _compare)
        self._keep_only(_at_a_time(self._chooser.choices[IN_EVALUATION]) or len(images))

    def _built(self, images: Tensor) -> Program | None:
        program, weights = self._take(images)
        self._give_back(tuple(images.shape), program, weights)
        return program

    def _keep_only(self, images: int) -> None:
        """Give back the memory of programs for other numbers of images, which were only built to be compared."""
        with self._lock:
            for shape in [shape for shape in self._idle if shape[0] != images]:
                del self._idle[shape]

    def forget(self) -> None:
        """Give back all memory."""
        with self._lock:
            self._graph = None
            self._start_again()

    def _start_again(self) -> None:
        self._values = None
        self._weights = Weights()
        self._idle.clear()

    def _take(self, images: Tensor) -> tuple[Program | None, Weights]:
        with self._lock:
            self._refresh()
            shape = tuple(images.shape)
            idle = self._idle.setdefault(shape, [])
            self._idle.move_to_end(shape)
            return (idle.pop() if idle else self._build(images)), self._weights

    def _refresh(self) -> None:
        """Begin anew where the numbers are no longer what they were."""
        if self._values is None or not self._values.hold():
            self._start_again()
            self._values = Values(self._model)

    def _build(self, images: Tensor) -> Program | None:
        if self._values is None or not self._values.are_readable:
            return None
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


class _Training:
    """The graphs that a network is trained with, by which of its parts are in training."""

    def __init__(self, model: nn.Module, chooser: Chooser) -> None:
        self._model = model
        self._chooser = chooser
        self._lock = threading.Lock()
        self._graphs: dict[tuple[bool, ...], nn.Module] = {}

    def graph(self, flags: tuple[bool, ...]) -> nn.Module:
        """What trains the network with these parts in training: a graph of the engine's layers, or the network itself.

        The network's code may ask for the flags.
        """
        if self._chooser.choices.get(IN_TRAINING) == PYTORCHS:
            return self._model
        with self._lock:
            if flags not in self._graphs:
                keep_freed_memory()
                graph = _attempt("training", lambda: trace_for_training(self._model, self._chooser))
                self._graphs[flags] = graph or self._model
            return self._graphs[flags]

    def forget(self) -> None:
        """Trace again when it is next asked."""
        with self._lock:
            self._graphs.clear()

    def prepare(self, images: Tensor, flags: tuple[bool, ...]) -> None:
        """Choose the kernels, and compare a step with the network's own."""
        graph = self.graph(flags)
        if graph is self._model:
            return
        few = images[: tried_images(*images.shape[2:])]
        with _left_as_it_is(self._model):
            with evaluating(self._model), torch.no_grad():
                graph(images)
            calls = {
                OURS: lambda: _step(graph, self._model, few),
                PYTORCHS: lambda: _step(self._model, self._model, few),
            }
            case = f"{_digest(self._model, str(graph.code))} in training {tuple(few.shape)}"
            self._chooser.choose_network(IN_TRAINING, case, calls, _compare)


def _fewer(images: int, bytes_of_an_image: int) -> list[int]:
    """Numbers of images at a time that are worth a comparison with all at once, the largest first.

    None where the pictures of a layer fit into the cores' own caches. Else those that fit into half of the last cache;
    and a half and a quarter of all, for how much of that cache others leave is not known.
    """
    if images == 1 or bytes_of_an_image * images <= cache_bytes(2) * thread_count():
        return []
    fitting = int(LAST_CACHE_SHARE * shared_cache_bytes()) // max(1, bytes_of_an_image)
    limits = {max(1, fitting), images // 2, images // 4}
    divisors = [few for few in range(1, images // 2 + 1) if images % few == 0]  # so that no part is smaller
    return sorted({max(few for few in divisors if few <= limit) for limit in limits if limit}, reverse=True)


def _at_a_time(choice: str) -> int:
    """How many images a choice lets in at once; 0 for all. What a run's card says may be anything."""
    number = choice.removeprefix(AT_A_TIME)
    return int(number) if number.isdecimal() and len(number) < MOST_DIGITS else 0


def _in_parts(program: Program, images: Tensor, few: int) -> list[Tensor]:
    return [program(some) for some in torch.split(images, few)]


def _step(module: nn.Module, model: nn.Module, images: Tensor) -> None:
    """Forward and backward, whose results nobody wants."""
    outputs = [leaf for leaf in tree_leaves(module(images)) if isinstance(leaf, Tensor) and leaf.requires_grad]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.autograd.grad([output.sum() for output in outputs], parameters, allow_unused=True)


def _compare(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of each."""
    ours = take_turns({name: call for name, call in calls.items() if name != PYTORCHS})
    first = take_turns({PYTORCHS: calls[PYTORCHS]}, rounds=1)
    if first[PYTORCHS] > CLEARLY_FASTER * ours[OURS]:
        return ours | first
    return take_turns(calls)


@contextmanager
def _left_as_it_is(model: nn.Module) -> Any:
    """Put back the buffers that training changes, and the random numbers that it draws."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


def _digest(model: nn.Module, code: str) -> str:
    """Names a network by its code and the shapes in it, not by its numbers."""
    shapes = [tuple(tensor.shape) for tensor in model.state_dict().values()]
    layers = [repr(part) for part in model.modules() if not any(part.children())]
    return hashlib.sha256(repr((code, shapes, layers)).encode()).hexdigest()[:16]


def _is_observed() -> bool:
    """Whether what runs now is being compiled, traced, counted or transformed: then it is the model that is meant."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch.is_autocast_enabled("cpu")
        or _get_current_dispatch_mode() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def _suits(images: Any) -> bool:
    return (
        type(images) in (Tensor, nn.Parameter)
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
