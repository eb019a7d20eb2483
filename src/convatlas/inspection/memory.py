"""How much memory a network takes to predict and to train, known before any of it is allocated.

A prediction and a training step run on fake tensors, which have shapes and no numbers. A ledger below autograd
enters every tensor when an operator makes it, and strikes it out when nobody holds it any more. What operators take for
themselves while they run is asked of the machine (``workspaces``).

>>> plan = plan_memory(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7200, 10)), (16, 3, 32, 32))
>>> plan.training_peak_at, plan.at_training_peak.weights, plan.at_training_peak.inputs
('3', 288936, 196608)

A plan for a large batch is made from rehearsals with two: everything is of one size or grows with the images, so that
every moment of a step lies on a line. A ``Rehearsal`` is planned for as many batches as are wanted.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from convatlas.errors import InspectionError
from convatlas.inspection.calls import Call, GrowingCall, Results, extended, grow
from convatlas.inspection.ledger import KINDS, Ledger, Moment
from convatlas.inspection.machine import this_machine
from convatlas.inspection.trial import Keeper, Taken, between, try_out
from convatlas.inspection.workspaces import Workspaces

Precision = Literal["float32", "bfloat16"]
MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
Loss = Callable[[Any, Tensor], Tensor]  # of what a network returns in training, and of what it was shown
Layout = Literal["channels_last", "contiguous"]

FORMATS: dict[Layout, torch.memory_format] = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}
PYTORCH = "PyTorch"
MOST_CORRECTIONS = 10  # one after another, of what comes to light by those before

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Breakdown:
    """What memory is taken by at one moment, in bytes."""

    weights: int
    buffers: int
    inputs: int  # the images, or the rows
    gradients: int  # of weights
    optimizer_state: int
    activations: int  # what the forward pass has made and the backward pass has not used up
    temporary: int  # gradients of activations, and what operators take while they run

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class LayerMemory:
    """What one module takes in training, its children's share apart, in bytes."""

    name: str  # path, "" of the network itself
    type: str
    weights: int
    activations: int  # what its forward pass leaves for the backward pass
    workspace: int  # the most that one of its operators takes for itself, forward or backward

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.activations + self.workspace


@dataclass(frozen=True)
class Setting:
    """What a plan is for: on another processor, in another layout or by another engine it takes another amount."""

    processor: str
    instructions: str  # that PyTorch uses of it
    threads: int
    layout: Layout
    trained_by: str
    predicted_by: str

    def __str__(self) -> str:
        ran = self.trained_by if self.trained_by == self.predicted_by else f"{self.trained_by} in training"
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{ran} on {self.processor} ({self.instructions}), {threads}, {self.layout}"


@dataclass(frozen=True)
class MemoryPlan:
    """What a network takes for a batch: its tensors, not the interpreter and its libraries.

    ``training_peak_at`` is the path of the layer in whose forward or backward pass the peak is reached ("" is the
    network itself), or ``"optimizer step"``. ``textbook_bytes`` is the estimate that is usually taught:
    three times the weights (themselves, gradients, momentum) and twice the outputs of all layers.
    """

    batch_size: int
    inference_peak_bytes: int
    training_peak_bytes: int
    at_training_peak: Breakdown
    training_peak_at: str
    layers: tuple[LayerMemory, ...]  # in the order of the network's modules
    textbook_bytes: int
    setting: Setting
    compared_peak_bytes: int  # of a prediction by PyTorch, whoever predicts
    not_counted: tuple[str, ...] = ()  # operators of which it is not known what they take for themselves

    def largest_layers(self, count: int = 5) -> list[LayerMemory]:
        """The layers that take most, largest first."""
        return sorted(self.layers, key=lambda layer: layer.total, reverse=True)[:count]


@dataclass(frozen=True)
class Runner:
    """What runs a network, where that is not the network's own forward method.

    Args:
        name: in words.
        trained: what is called in training: a module of the same parameters, which runs on fake tensors.
        predict: what is called to predict; called for real, with few images.
        keeper: who keeps memory for it from call to call.
    """

    name: str
    trained: nn.Module | None = None
    predict: Callable[[Tensor], object] | None = None
    keeper: Keeper | None = None


def plan_memory(
    module: nn.Module,
    batch: Sequence[int] | Tensor,
    *,
    optimizer: MakeOptimizer | None = None,
    precision: Precision = "float32",
    layout: Layout = "channels_last",
    runner: Runner | None = None,
    loss: Loss | None = None,
) -> MemoryPlan:
    """What a network takes to predict and to train, on this CPU.

    >>> plan_memory(torchvision.models.vgg16_bn(), (16, 3, 224, 224)).training_peak_bytes   # doctest: +SKIP
    3662610768

    Args:
        module: any network of one input, on any device, the meta device too; it is left as it was.
        batch: the shape of a batch of float32 images [N, C, H, W], or a tensor of a batch's shape and type.
        optimizer: makes the optimizer of a module; SGD with momentum 0.9 when left out.
        precision: "bfloat16" for mixed precision by ``torch.autocast``.
        layout: of images, and of weights with four dimensions.
        runner: what runs it; PyTorch when left out.
        loss: what training makes smaller; as ``Rehearsal`` has it when left out.

    Raises:
        InspectionError: the network cannot run without numbers, or not on such a batch; nothing is guessed then.
    """
    rehearsal = Rehearsal(
        module, batch, optimizer=optimizer, precision=precision, layout=layout, runner=runner, loss=loss
    )
    return rehearsal.plan(len(batch) if isinstance(batch, Tensor) else batch[0])


def largest_batch(limit_bytes: int, need: Callable[[int], int], *, least: int = 1, most: int = 2**20) -> int | None:
    """The largest batch that needs no more than a limit; None if not even the least does.

    >>> largest_batch(1000, lambda batch: max(300, 100 + 7 * batch))
    128

    Args:
        limit_bytes: what there is.
        need: bytes for a batch, never less for a larger one, such as a plan's ``training_peak_bytes``. That is nearly a
            straight line, which is followed: few batches are asked for.
        least: the smallest batch that is of use.
        most: the largest.
    """
    needs = {least: need(least)}
    fits, fails = least, most + 1
    if needs[least] > limit_bytes:
        return None
    while fails - fits > 1:
        guess = _guess(limit_bytes, needs, fits, fails)
        needs[guess] = need(guess)
        if needs[guess] <= limit_bytes:
            fits = guess
        else:
            fails = guess
    return fits


def _guess(limit_bytes: int, needs: Mapping[int, int], fits: int, fails: int) -> int:
    """A batch between one that fits and one that does not, on the line through two that are known."""
    if len(needs) % 4 == 0:  # the line may mislead; halving what is left never does
        return (fits + min(fails, 8 * fits)) // 2 if fails > fits + 2 else fits + 1
    ends = sorted(needs)
    place = ends.index(fits)
    first, second = (ends[place], ends[place + 1]) if fails in needs else (ends[max(0, place - 1)], ends[place])
    rise = needs[second] - needs[first]
    beyond = (limit_bytes - needs[fits]) * (second - first) // rise if rise > 0 else fits
    return fits + min(max(1, beyond), fails - fits - 1, 7 * fits)


class Rehearsal:
    """A network's training and prediction, gone through without numbers; to be planned for any batch.

    A training step is: forward, loss, backward, a step of the optimizer, gradients dropped. The loss is the cross
    entropy of every float [N, classes] that the network returns, and the sum of whatever other floats there are, unless
    another one is given.

    >>> rehearsal = Rehearsal(torchvision.models.resnet50(), (32, 3, 224, 224))            # doctest: +SKIP
    >>> [rehearsal.plan(images).training_peak_bytes for images in (32, 64, 128)]           # doctest: +SKIP

    Arguments as for ``plan_memory``.
    """

    def __init__(
        self,
        module: nn.Module,
        batch: Sequence[int] | Tensor,
        *,
        optimizer: MakeOptimizer | None = None,
        precision: Precision = "float32",
        layout: Layout = "channels_last",
        runner: Runner | None = None,
        loss: Loss | None = None,
    ) -> None:
        self._module = module
        self._loss = loss or _usual_loss
        self._shape = tuple(batch.shape[1:] if isinstance(batch, Tensor) else batch[1:])
        self._dtype = batch.dtype if isinstance(batch, Tensor) else torch.float32
        self._make_optimizer = optimizer or _sgd
        self._autocast = precision == "bfloat16"
        self._layout: Layout = layout
        self._runner = runner or Runner(PYTORCH)
        self._machine = this_machine()
        self._workspaces = Workspaces(self._machine, self._runner.keeper)
        self._exact: dict[int, _Courses] = {}
        self._growing: _Courses | None = None
        self._predicted: dict[int, Taken] = {}
        self._corrections: dict[Call, Results] = {}  # what calls give here, where fakes have it otherwise

    def plan(self, batch: int) -> MemoryPlan:
        """What a batch of so many takes.

        Raises:
            InspectionError: as ``plan_memory``.
        """
        with _failures_in_words(self._module, (batch, *self._shape)), _garbage_left():
            courses = self._corrected_courses(batch)
            training = courses.training.at(batch, self._workspaces)
            predicting = courses.predicting.at(batch, self._workspaces)
            plan = MemoryPlan(
                batch_size=batch,
                inference_peak_bytes=self._prediction_by_runner(batch) or predicting.peak_bytes,
                training_peak_bytes=training.peak_bytes,
                at_training_peak=Breakdown(**dict(zip(KINDS, training.at_peak, strict=True))),
                training_peak_at=training.peak_at,
                layers=tuple(_layers(self._module, training)),
                textbook_bytes=3 * _bytes_of(self._module.parameters()) + 2 * predicting.output_bytes,
                setting=self._setting(),
                compared_peak_bytes=predicting.peak_bytes,
                not_counted=tuple(dict.fromkeys((*predicting.not_counted, *training.not_counted))),
            )
        self._workspaces.remember()
        return plan

    def _corrected_courses(self, batch: int) -> _Courses:
        """The same passes gone through again, with what the machine has given instead of what fake tensors did."""
        courses = self._courses(batch)
        for _ in range(MOST_CORRECTIONS):
            found = {
                call: forms
                for course in (courses.predicting, courses.training)
                for call, forms in course.surprises(batch, self._workspaces)
                if call not in self._corrections
            }
            if not found:
                break
            self._corrections |= found
            self._exact, self._growing = {}, None
            courses = self._courses(batch)
        return courses

    def _courses(self, batch: int) -> _Courses:
        """What is known of the passes for a batch: a small one is gone through as it is."""
        if batch <= 2 * self._workspaces.few:
            return self._exactly(batch)
        if self._growing is None:
            self._growing = self._grown(batch)
        return self._growing or self._exactly(batch)

    def _exactly(self, batch: int) -> _Courses:
        if batch not in self._exact:
            predicting, training = self._passes(batch)
            self._exact[batch] = _Courses(_Course(predicting), _Course(training))
        return self._exact[batch]

    def _grown(self, batch: int) -> _Courses | None:
        """From a batch and another one, for any; None for a network that does other things for another batch."""
        first = self._passes(batch)
        for other in (batch + 1, 2 * batch):
            with suppress(_NotAlike, RuntimeError, ValueError, AssertionError):  # what networks raise at odd batches
                return _Courses(*map(_Course, first, self._passes(other)))
        return None

    def _passes(self, batch: int) -> tuple[_Pass, _Pass]:
        stand_in = _StandIn(self._module, self._runner.trained, FORMATS[self._layout], self._corrections)
        images = stand_in.images((batch, *self._shape), self._dtype)
        predicting = stand_in.predict(images, self._autocast)
        return predicting, stand_in.train(images, self._autocast, self._make_optimizer, self._loss)

    def _prediction_by_runner(self, batch: int) -> int | None:
        """The peak of a prediction by something else than PyTorch: found by predicting a few images."""
        if self._runner.predict is None:
            return None
        few = self._workspaces.few
        if batch <= 2 * few:
            taken = self._predict(batch)
        else:
            taken = between(batch, (few, 2 * few), (self._predict(few), self._predict(2 * few)))
        held = _bytes_of(chain(self._module.parameters(), self._module.buffers()))
        image = self._example(1).nbytes
        return held + batch * image + taken.most + sum(taken.kept.values())

    def _predict(self, images: int) -> Taken:
        if images not in self._predicted:
            predict = cast(Callable[[Tensor], object], self._runner.predict)
            example = self._example(images)
            self._predicted[images] = try_out(lambda: lambda: predict(example), self._runner.keeper)
        return self._predicted[images]

    def _example(self, images: int) -> Tensor:
        return _empty((images, *self._shape), self._dtype, FORMATS[self._layout]).zero_()

    def _setting(self) -> Setting:
        machine, runner = self._machine, self._runner
        return Setting(
            processor=machine.processor,
            instructions=machine.instructions,
            threads=machine.threads,
            layout=self._layout,
            trained_by=runner.name if runner.trained is not None else PYTORCH,
            predicted_by=runner.name if runner.predict is not None else PYTORCH,
        )


class _NotAlike(Exception):  # noqa: N818, caught where it is raised
    """Two passes through a network did different things."""


@dataclass(frozen=True)
class _Pass:
    """What a ledger has written down of one batch."""

    batch: int
    moments: Sequence[Moment]
    activations: Mapping[str, int]  # bytes at the end of the forward pass, by layer
    optimizer_state: int
    output_bytes: int  # of all layers without children


@dataclass(frozen=True)
class _Account:
    """What a pass takes for one batch, in bytes."""

    peak_bytes: int
    peak_at: str
    at_peak: tuple[int, ...]  # by kind
    activations: Mapping[str, int]  # by layer
    workspaces: Mapping[str, int]  # by layer
    not_counted: tuple[str, ...]
    output_bytes: int


class _Course:
    """A pass through a network: each of its moments for one batch, or for any where two passes have been lined up.

    Raises:
        _NotAlike: the two passes did different things.
    """

    def __init__(self, first: _Pass, second: _Pass | None = None) -> None:
        self._passes = (first, second or first)
        self._batches = (first.batch, second.batch if second is not None else first.batch + 1)
        self._places = [moment.place for moment in first.moments]
        if self._places != [moment.place for moment in self._passes[1].moments]:
            raise _NotAlike
        self._calls: dict[Call | GrowingCall, list[int]] = {}  # the moments when each distinct call was made
        for index, pair in enumerate(zip(first.moments, self._passes[1].moments, strict=True)):
            call = pair[0].call if second is None else self._joined(*pair)
            if call is not None:
                self._calls.setdefault(call, []).append(index)
        stages = np.array([moment.stage for moment in first.moments])
        self._is_in_pass, self._is_first_step = stages == "forward", stages == "first optimizer step"
        self._before = [np.array([moment.before for moment in each.moments]) for each in self._passes]
        self._held = [np.array([moment.held for moment in each.moments]) for each in self._passes]

    def at(self, batch: int, workspaces: Workspaces) -> _Account:
        """What a batch takes; for a course of one pass, the batch of that."""
        before, held = (self._extended(batch, each) for each in (self._before, self._held))
        state = int(self._extended(batch, [np.array(each.optimizer_state) for each in self._passes]))
        taken, kept, unknown = self._taken(batch, workspaces)
        after = held.sum(axis=1)
        own = np.maximum(before + taken - after, 0)
        most = after + own + state * self._is_in_pass  # the state that the first step leaves is there in all others
        most[self._is_first_step] = 0
        peak = int(most.argmax())
        at_peak = held[peak]
        at_peak[KINDS.index("temporary")] += own[peak] + kept
        at_peak[KINDS.index("optimizer_state")] = state
        return _Account(
            peak_bytes=int(most[peak]) + kept,
            peak_at=self._places[peak],
            at_peak=tuple(map(int, at_peak)),
            activations=self._by_layer(batch),
            workspaces=_largest(self._places, own),
            not_counted=unknown,
            output_bytes=int(self._extended(batch, [np.array(each.output_bytes) for each in self._passes])),
        )

    def surprises(self, batch: int, workspaces: Workspaces) -> Iterator[tuple[Call, Results]]:
        """The calls of these passes that gave something else on this machine than here, and what they gave."""
        calls = list(self._calls)
        answers = zip(calls, workspaces.taken(calls, batch), strict=True)
        surprising = [call for call, answer in answers if answer is not None and answer.results is not None]
        for index, each in enumerate(self._batches if surprising else ()):
            for call, answer in zip(surprising, workspaces.taken(surprising, each), strict=True):
                made = call if isinstance(call, Call) else (call.first, call.second)[index]
                if answer is not None and answer.results is not None:
                    yield made, answer.results

    def _joined(self, one: Moment, two: Moment) -> GrowingCall | None:
        if one.call is None or two.call is None:
            return None
        call = grow(one.call, self._batches[0], two.call, self._batches[1])
        if call is None:
            raise _NotAlike
        return call

    def _taken(self, batch: int, workspaces: Workspaces) -> tuple[Numbers, int, tuple[str, ...]]:
        """What each moment's operator allocates at most, its results included; and what is kept for all of them.

        Also the names of the operators of which that is not known.
        """
        taken = np.zeros(len(self._places), np.int64)
        kept: dict[str, int] = {}
        unknown: dict[str, None] = {}  # in order
        answers = workspaces.taken(list(self._calls), batch)
        for (call, indices), answer in zip(self._calls.items(), answers, strict=True):
            if answer is None:
                operator = call.operator if isinstance(call, Call) else call.first.operator
                unknown[str(operator.overloadpacket)] = None
                continue
            taken[indices] = answer.most
            kept |= {name: max(size, kept.get(name, 0)) for name, size in answer.kept.items()}
        return taken, sum(kept.values()), tuple(unknown)

    def _by_layer(self, batch: int) -> dict[str, int]:
        one, two = (each.activations for each in self._passes)
        return {layer: extended(batch, self._batches, (one.get(layer, 0), size)) for layer, size in two.items()}

    def _extended(self, batch: int, numbers: Sequence[Numbers]) -> Numbers:
        low, high = numbers
        return low + (high - low) * (batch - self._batches[0]) // (self._batches[1] - self._batches[0])


@dataclass(frozen=True)
class _Courses:
    """Both of a network's passes."""

    predicting: _Course
    training: _Course


class _StandIn:
    """A copy of a network whose tensors are fake and on the CPU: it has shapes and no numbers.

    Args:
        module: the network.
        trained: what is called in training, where that is not the network.
        memory_format: of images, and of weights with four dimensions.
        corrections: what calls give, where fake tensors have it otherwise.
    """

    def __init__(
        self,
        module: nn.Module,
        trained: nn.Module | None,
        memory_format: torch.memory_format,
        corrections: Mapping[Call, Results],
    ) -> None:
        from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

        self._faking = FakeTensorMode(allow_non_fake_inputs=True)
        self._memory_format = memory_format
        self._corrections = corrections
        fakes: dict[int, Any] = {}
        with self._faking:
            for tensor in chain(module.parameters(), module.buffers()):
                fake = _empty(tensor.shape, tensor.dtype, memory_format)
                is_parameter = isinstance(tensor, nn.Parameter)
                fakes[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
        with FakeCopyMode(self._faking):
            self._network, self._trained = copy.deepcopy((module, trained or module), fakes)

    def images(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A batch."""
        with self._faking:
            return _empty(shape, dtype, self._memory_format)

    def predict(self, images: Tensor, autocast: bool) -> _Pass:
        """A forward pass in evaluation mode."""
        self._network.eval()
        sizes: list[int] = []

        def count(layer: nn.Module, _inputs: Any, output: Any) -> None:
            if not any(layer.children()):
                sizes.extend(leaf.nbytes for leaf in tree_leaves(output) if isinstance(leaf, Tensor))

        hooks = [layer.register_forward_hook(count) for layer in self._network.modules()]
        with torch.no_grad(), self._kept_by(Ledger(self._corrections), self._network, images) as ledger:
            _forward(self._network, images, autocast)
        for hook in hooks:
            hook.remove()
        return _Pass(len(images), ledger.moments, {}, 0, sum(sizes))

    def train(self, images: Tensor, autocast: bool, make_optimizer: MakeOptimizer, loss_of: Loss) -> _Pass:
        """A step of training: the optimizer steps twice by the same gradients, once without its state, once with it."""
        self._network.train()
        self._trained.train()
        parameters = [parameter for parameter in self._network.parameters() if parameter.requires_grad]
        if not parameters:
            raise InspectionError("it has no parameters to train")
        with self._faking:
            optimizer = make_optimizer(self._network)
        with torch.enable_grad(), self._kept_by(Ledger(self._corrections), self._trained, images) as ledger:
            for parameter in parameters:
                parameter.register_post_accumulate_grad_hook(ledger.enter_gradient)  # type: ignore[no-untyped-call]
            loss = loss_of(_forward(self._trained, images, autocast), images)
            ledger.note_activations()
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
            ledger.stage = "first optimizer step"
            optimizer.step()
            state = ledger.optimizer_state
            ledger.stage = "optimizer step"
            optimizer.step()
        return _Pass(len(images), ledger.moments, ledger.activations, state, 0)

    @contextmanager
    def _kept_by(self, ledger: Ledger, runs: nn.Module, images: Tensor) -> Iterator[Ledger]:
        for parameter in self._network.parameters():
            ledger.enter(parameter, "weights")
        for buffer in self._network.buffers():
            ledger.enter(buffer, "buffers")
        ledger.enter(images, "inputs")
        with ledger.following(self._names(runs)), self._faking, ledger:
            yield ledger

    def _names(self, runs: nn.Module) -> dict[nn.Module, str]:
        """The modules that are called, and the network's layers that they are or stand for."""
        own = {layer: name for name, layer in self._network.named_modules()}
        names = {}
        for module in runs.modules():
            parts = [own[part] for part in module.modules() if part in own]
            if module in own or len(parts) == 1:
                names[module] = own.get(module, parts[0])
        return names


def _forward(network: nn.Module, images: Tensor, autocast: bool) -> Any:
    keeps = torch.is_grad_enabled()  # without gradients autocast keeps no copy of a weight for another use
    with torch.autocast("cpu", torch.bfloat16, autocast, cache_enabled=keeps):
        return network(images)


def _empty(shape: Sequence[int], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    layout = memory_format if len(shape) == 4 else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=dtype, device="cpu", memory_format=layout)


def _layers(module: nn.Module, training: _Account) -> Iterator[LayerMemory]:
    counted: set[nn.Parameter] = set()
    for name, layer in module.named_modules():
        own = set(layer.parameters(recurse=False)) - counted
        counted |= own
        memory = LayerMemory(
            name=name,
            type=type(layer).__name__,
            weights=_bytes_of(own),
            activations=training.activations.get(name, 0),
            workspace=training.workspaces.get(name, 0),
        )
        if memory.total:
            yield memory


def _largest(places: Sequence[str], sizes: Numbers) -> dict[str, int]:
    largest: dict[str, int] = {}
    for place, size in zip(places, sizes.tolist(), strict=True):
        largest[place] = max(size, largest.get(place, 0))
    return largest


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@contextmanager
def _failures_in_words(module: nn.Module, shape: Sequence[int]) -> Iterator[None]:
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    what = f"the memory of {type(module).__name__} for a batch of {'x'.join(map(str, shape))} is not known"
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise InspectionError(
            f"{what}: what it computes depends on the numbers in its tensors ({error.func}), and planning has none"
        ) from error
    except Exception as error:  # whatever the network's own code makes of a batch without numbers
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InspectionError(f"{what}: {reason}") from error


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Do not look for garbage meanwhile: among so many small objects, all of them kept, it takes half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _usual_loss(output: Any, _images: Tensor) -> Tensor:
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not leaves:
        raise InspectionError("it returns no floating-point tensor to make a loss of")
    losses = [_cross_entropy(leaf) if leaf.dim() == 2 else leaf.float().sum() for leaf in leaves]
    return torch.stack(losses).sum()


def _cross_entropy(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.int64))


def _sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
