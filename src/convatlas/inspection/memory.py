"""How much memory a network takes to predict and to train, known before any of it is allocated.

A prediction and a training step run on fake tensors, which have shapes and no numbers. A ledger below autograd
enters every tensor when an operator makes it, and strikes it out when nobody holds it any more; ``workspaces`` adds
what an operator takes for itself while it runs.

>>> plan = plan_memory(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7200, 10)), (16, 3, 32, 32))
>>> plan.training_peak_bytes, plan.training_peak_at
(2445568, '3')
>>> plan.at_training_peak.weights, plan.at_training_peak.inputs
(288936, 196608)
"""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convatlas.errors import InspectionError
from convatlas.inspection.workspaces import workspace_bytes

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

Precision = Literal["float32", "bfloat16"]
MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
Kind = Literal["weights", "buffers", "inputs", "gradients", "optimizer_state", "activations", "temporary"]
Stage = Literal["forward", "first optimizer step", "optimizer step"]

STEP = "optimizer step"


@dataclass(frozen=True)
class Breakdown:
    """What memory is taken by at one moment, in bytes."""

    weights: int
    buffers: int
    inputs: int  # the images
    gradients: int  # of weights
    optimizer_state: int
    activations: int  # what the forward pass has made and the backward pass has not used up
    temporary: int  # gradients of activations, and what an operator takes while it runs

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

    def largest_layers(self, count: int = 5) -> list[LayerMemory]:
        """The layers that take most, largest first."""
        return sorted(self.layers, key=lambda layer: layer.total, reverse=True)[:count]


def plan_memory(
    module: nn.Module,
    batch: Sequence[int] | Tensor,
    *,
    optimizer: MakeOptimizer | None = None,
    precision: Precision = "float32",
    memory_format: torch.memory_format = torch.channels_last,
) -> MemoryPlan:
    """What a network takes to predict and to train, on a CPU and by PyTorch.

    A training step is: forward, loss, backward, a step of the optimizer, gradients dropped. The loss is the cross
    entropy of every float [N, classes] that the network returns, and the sum of whatever other floats there are.

    >>> plan_memory(torchvision.models.vgg16_bn(), (16, 3, 224, 224)).training_peak_bytes   # doctest: +SKIP
    3662610768

    Args:
        module: any network of one input, on any device, the meta device too; it is left as it was.
        batch: the shape of a batch of float32 images [N, C, H, W], or a tensor of a batch's shape and type.
        optimizer: makes the optimizer of a module; SGD with momentum 0.9 when left out.
        precision: "bfloat16" for mixed precision by ``torch.autocast``.
        memory_format: of images, and of weights with four dimensions.

    Raises:
        InspectionError: the network cannot run without numbers, or not on such a batch; nothing is guessed then.
    """
    with _failures_in_words(module, batch):
        rehearsal = _Rehearsal(module, batch, memory_format, autocast=precision == "bfloat16")
        inference = rehearsal.predict()
        training = rehearsal.train(optimizer or _sgd)
    return MemoryPlan(
        batch_size=len(rehearsal.images),
        inference_peak_bytes=inference.peak.bytes,
        training_peak_bytes=training.peak.bytes,
        at_training_peak=training.peak.breakdown(),
        training_peak_at=training.peak.place,
        layers=tuple(_layers(module, training)),
        textbook_bytes=3 * sum(weight.nbytes for weight in module.parameters()) + 2 * rehearsal.output_bytes,
    )


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


class _Rehearsal:
    """A stand-in for a network, without numbers, and a batch for it."""

    def __init__(
        self, module: nn.Module, batch: Sequence[int] | Tensor, memory_format: torch.memory_format, *, autocast: bool
    ) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        self._faking = FakeTensorMode(allow_non_fake_inputs=True)
        self._autocast = autocast
        self._network = _stand_in(module, self._faking, memory_format)
        self.output_bytes = 0  # of all layers without children together
        shape, dtype = (batch.shape, batch.dtype) if isinstance(batch, Tensor) else (batch, torch.float32)
        with self._faking:
            self.images = _empty(shape, dtype, memory_format)

    def predict(self) -> _Ledger:
        """What a forward pass in evaluation mode takes."""
        self._network.eval()
        hooks = [layer.register_forward_hook(self._count_output) for layer in self._network.modules()]
        with torch.no_grad(), self._kept_by(_Ledger()) as ledger:
            self._forward()
        for hook in hooks:
            hook.remove()
        return ledger

    def train(self, make_optimizer: MakeOptimizer) -> _Ledger:
        """What training takes, from the second step on: the state that the first one leaves is there all the time.

        The optimizer steps twice by the same gradients, once without its state and once with it, so that one pass
        through the network is enough.
        """
        self._network.train()
        parameters = [parameter for parameter in self._network.parameters() if parameter.requires_grad]
        if not parameters:
            raise InspectionError("it has no parameters to train")
        with self._faking:
            optimizer = make_optimizer(self._network)
        with torch.enable_grad(), self._kept_by(_Ledger()) as ledger:
            for parameter in parameters:
                parameter.register_post_accumulate_grad_hook(ledger.enter_gradient)  # type: ignore[no-untyped-call]
            loss = _loss(self._forward())
            ledger.note_activations()
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
            ledger.stage = "first optimizer step"
            pass_peak = ledger.peak
            optimizer.step()
            ledger.stage, ledger.peak = "optimizer step", _Peak()
            optimizer.step()
            ledger.peak = max(pass_peak.beside(ledger.optimizer_state), ledger.peak, key=lambda peak: peak.bytes)
        return ledger

    def _forward(self) -> Any:
        keeps = torch.is_grad_enabled()  # without gradients autocast keeps no copy of a weight for another use
        with torch.autocast("cpu", torch.bfloat16, self._autocast, cache_enabled=keeps):
            return self._network(self.images)

    def _count_output(self, layer: nn.Module, _inputs: Any, output: Any) -> None:
        if not any(layer.children()):
            self.output_bytes += sum(leaf.nbytes for leaf in tree_leaves(output) if isinstance(leaf, Tensor))

    @contextmanager
    def _kept_by(self, ledger: _Ledger) -> Iterator[_Ledger]:
        for parameter in self._network.parameters():
            ledger.enter(parameter, "weights")
        for buffer in self._network.buffers():
            ledger.enter(buffer, "buffers")
        ledger.enter(self.images, "inputs")
        with ledger.following(self._network), self._faking, ledger:
            yield ledger


@dataclass
class _Block:
    """A piece of memory, as long as a tensor lies in it."""

    bytes: int
    kind: Kind
    layer: str
    watch: weakref.ref[torch.UntypedStorage] | None = None


@dataclass(frozen=True)
class _Peak:
    """The most that was there at once."""

    bytes: int = 0
    kinds: tuple[tuple[Kind, int], ...] = ()
    place: str = ""

    def beside(self, optimizer_state: int) -> _Peak:
        """The same with the state of an optimizer there as well."""
        kinds = Counter(dict(self.kinds))
        kinds["optimizer_state"] += optimizer_state
        return _Peak(self.bytes + optimizer_state, tuple(kinds.items()), self.place)

    def breakdown(self) -> Breakdown:
        """What it was taken by."""
        kinds = Counter(dict(self.kinds))
        return Breakdown(**{name: kinds[cast(Kind, name)] for name in Breakdown.__dataclass_fields__})


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Knows which tensors are there, what for, and the most that there have been at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = _Peak()
        self.stage: Stage = "forward"
        self.activations: Counter[str] = Counter()  # bytes at the end of the forward pass, by the layer that made them
        self.workspace: dict[str, int] = {}  # by layer
        self._blocks: dict[int, _Block] = {}  # id of a storage -> what it is; ids are of living ones only
        self._live: Counter[Kind] = Counter()
        self._total = 0
        self._running = [""]  # the modules whose forward pass runs, outermost first
        self._layer_of_node: dict[int, str] = {}  # number of an autograd node -> the layer that it belongs to

    @property
    def optimizer_state(self) -> int:
        """Bytes."""
        return self._live["optimizer_state"]

    def enter(self, tensor: Tensor, kind: Kind) -> None:
        """A tensor is there; that it lies in memory that is known already is no news, unless that has grown."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        block = self._blocks.get(key)
        if block is None:
            watch = weakref.ref(storage, lambda _: self._strike_out(key))
            block = self._blocks[key] = _Block(0, kind, self._running[-1], watch)
        self._resize(block, size)

    def enter_gradient(self, parameter: Tensor) -> None:
        """What was temporary has become the gradient of a parameter."""
        if parameter.grad is None:
            return
        block = self._blocks[id(parameter.grad.untyped_storage())]
        size = block.bytes
        self._resize(block, 0)
        block.kind = "gradients"
        self._resize(block, size)

    def note_activations(self) -> None:
        """The end of the forward pass: remember what is left of it."""
        self.activations.clear()
        for block in self._blocks.values():
            if block.kind == "activations":
                self.activations[block.layer] += block.bytes

    @contextmanager
    def following(self, network: nn.Module) -> Iterator[None]:
        """Know which module's forward pass runs."""
        hooks = []
        for name, module in network.named_modules():
            hooks.append(module.register_forward_pre_hook(self._entering(name)))
            hooks.append(module.register_forward_hook(self._leaving))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        backward = _in_backward()
        if self.stage == "forward" and not backward:
            self._layer_of_node.setdefault(torch._C._autograd._get_sequence_nr() - 1, self._running[-1])
        if backward and func is torch.ops.aten.add.Tensor:
            self._add_in_place(args)
        kind = self._kind(backward)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.enter(leaf, kind)
        self._see(workspace_bytes(func, args), backward)
        return result

    def _see(self, workspace: int, backward: bool) -> None:
        place = self._place(backward)
        self.workspace[place] = max(workspace, self.workspace.get(place, 0))
        if self._total + workspace > self.peak.bytes:
            kinds = self._live.copy()
            kinds["temporary"] += workspace
            self.peak = _Peak(self._total + workspace, tuple(kinds.items()), place)

    def _kind(self, backward: bool) -> Kind:
        if backward:
            return "temporary"
        if self.stage == "forward":
            return "activations"
        return "optimizer_state" if self.stage == "first optimizer step" else "temporary"

    def _place(self, backward: bool) -> str:
        if backward:
            node = torch._C._current_autograd_node()
            return self._layer_of_node.get(node._sequence_nr(), "") if node is not None else ""
        return self._running[-1] if self.stage == "forward" else STEP

    def _add_in_place(self, operands: Sequence[Any]) -> None:
        """Where gradients meet, autograd adds one to the other in place if nobody else holds that one.

        It does not do so for tensors that a dispatch mode sees: the sum is a new one here. It takes the other's place.
        """
        for operand in operands[:2]:
            block = self._blocks.get(id(operand.untyped_storage())) if isinstance(operand, Tensor) else None
            if block is not None and block.kind == "temporary" and block.bytes == operand.nbytes:
                self._resize(block, 0)
                return

    def _strike_out(self, key: int) -> None:
        self._resize(self._blocks.pop(key), 0)

    def _resize(self, block: _Block, size: int) -> None:
        self._total += size - block.bytes
        self._live[block.kind] += size - block.bytes
        block.bytes = size

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._running.append(name)

        return enter

    def _leaving(self, *_: Any) -> None:
        self._running.pop()


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _stand_in(module: nn.Module, faking: FakeTensorMode, memory_format: torch.memory_format) -> nn.Module:
    """A copy of a network whose tensors are fake and on the CPU."""
    from torch._subclasses.fake_tensor import FakeCopyMode

    fakes: dict[int, Any] = {}
    with faking:
        for tensor in chain(module.parameters(), module.buffers()):
            fake = _empty(tensor.shape, tensor.dtype, memory_format)
            is_parameter = isinstance(tensor, nn.Parameter)
            fakes[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
    with FakeCopyMode(faking):
        return copy.deepcopy(module, fakes)


def _empty(shape: Sequence[int], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    layout = memory_format if len(shape) == 4 else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=dtype, device="cpu", memory_format=layout)


def _layers(module: nn.Module, training: _Ledger) -> Iterator[LayerMemory]:
    counted: set[nn.Parameter] = set()
    for name, layer in module.named_modules():
        own = set(layer.parameters(recurse=False)) - counted
        counted |= own
        memory = LayerMemory(
            name=name,
            type=type(layer).__name__,
            weights=sum(weight.nbytes for weight in own),
            activations=training.activations[name],
            workspace=training.workspace.get(name, 0),
        )
        if memory.total:
            yield memory


@contextmanager
def _failures_in_words(module: nn.Module, batch: Sequence[int] | Tensor) -> Iterator[None]:
    from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

    shape = "x".join(map(str, batch.shape if isinstance(batch, Tensor) else batch))
    what = f"the memory of {type(module).__name__} for a batch of {shape} is not known"
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise InspectionError(
            f"{what}: what it computes depends on the numbers in its tensors ({error.func}), and planning has none"
        ) from error
    except Exception as error:  # whatever the network's own code makes of a batch without numbers
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InspectionError(f"{what}: {reason}") from error


def _loss(output: Any) -> Tensor:
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not leaves:
        raise InspectionError("it returns no floating-point tensor to make a loss of")
    losses = [_cross_entropy(leaf) if leaf.dim() == 2 else leaf.float().sum() for leaf in leaves]
    return torch.stack(losses).sum()


def _cross_entropy(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.int64))


def _sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
