"""The books of a rehearsal: which tensors are there, what for, and what was called, operator by operator."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from convatlas.inspection.calls import Call, Results, call_of, results_of
from convatlas.inspection.workspaces import takes_nothing

Kind = Literal["weights", "buffers", "inputs", "gradients", "optimizer_state", "activations", "temporary"]
Stage = Literal["forward", "first optimizer step", "optimizer step"]

KINDS: tuple[Kind, ...] = get_args(Kind)
STEP = "optimizer step"

aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.bmm.default)


@dataclass(frozen=True)
class Moment:
    """An operator has run."""

    place: str  # the layer in whose forward or backward pass, or STEP
    stage: Stage
    call: Call | None  # None if it certainly takes nothing for itself
    before: int  # bytes that were there when it began
    held: tuple[int, ...]  # and when it had ended, by kind


@dataclass
class _Block:
    """A piece of memory, as long as a tensor lies in it."""

    bytes: int
    kind: int
    layer: str
    watch: weakref.ref[torch.UntypedStorage] | None = None


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Enters every tensor when an operator makes it, and strikes it out when nobody holds it any more.

    It is a mode below autograd: inside it operators run as usual, on tensors with or without numbers.

    Args:
        corrections: what calls give on this machine, where fake tensors have it otherwise.
    """

    def __init__(self, corrections: Mapping[Call, Results] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._corrections = corrections or {}
        self.moments: list[Moment] = []
        self.stage: Stage = "forward"
        self.activations: Counter[str] = Counter()  # bytes at the end of the forward pass, by the layer that made them
        self._blocks: dict[int, _Block] = {}  # id of a storage -> what it is; ids are of living ones only
        self._held = [0] * len(KINDS)
        self._product: _Block | None = None
        self._running = [""]  # the modules whose forward pass runs, outermost first
        self._layer_of_node: dict[int, str] = {}  # number of an autograd node -> the layer that it belongs to

    @property
    def optimizer_state(self) -> int:
        """Bytes."""
        return self._held[KINDS.index("optimizer_state")]

    def enter(self, tensor: Tensor, kind: Kind) -> None:
        """A tensor is there; that it lies in memory that is known already is no news, unless that has grown."""
        self._enter(tensor, KINDS.index(kind))

    def enter_gradient(self, parameter: Tensor) -> None:
        """What was temporary has become the gradient of a parameter."""
        if parameter.grad is None:
            return
        block = self._blocks[id(parameter.grad.untyped_storage())]
        size = block.bytes
        self._resize(block, 0)
        block.kind = KINDS.index("gradients")
        self._resize(block, size)

    def note_activations(self) -> None:
        """The end of the forward pass: remember what is left of it."""
        for block in self._blocks.values():
            if KINDS[block.kind] == "activations":
                self.activations[block.layer] += block.bytes

    @contextmanager
    def following(self, names: Mapping[nn.Module, str]) -> Iterator[None]:
        """Know which module's forward pass runs, by the names of layers."""
        hooks = []
        for module, name in names.items():
            hooks.append(module.register_forward_pre_hook(self._entering(name)))
            hooks.append(module.register_forward_hook(self._leaving))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "prim":  # a question about a tensor, such as its device
            return func(*args, **(kwargs or {}))
        before = sum(self._held)
        call = call_of(func, args, kwargs or {})  # before it runs, for it may write into what it is given
        run = SHORTCUTS.get(func, func)
        result = run(*args, **(kwargs or {}))
        if self._corrections and call in self._corrections:
            result = _corrected(result, self._corrections[call])
        backward = _in_backward()
        if self.stage == "forward" and not backward:
            self._layer_of_node.setdefault(torch._C._autograd._get_sequence_nr() - 1, self._running[-1])
        if func is aten.add.Tensor:
            self._add_in_place(args, backward)
        kind = self._kind(backward)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf, kind)
        self._note_product(func, result)
        asked = None if takes_nothing(call) else replace(call, results=results_of(result))
        self.moments.append(Moment(self._place(backward), self.stage, asked, before, tuple(self._held)))
        return result

    def _enter(self, tensor: Tensor, kind: int) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        block = self._blocks.get(key)
        if block is None:
            watch = weakref.ref(storage, lambda _: self._strike_out(key))
            block = self._blocks[key] = _Block(0, kind, self._running[-1], watch)
        self._resize(block, size)

    def _kind(self, backward: bool) -> int:
        if backward:
            return KINDS.index("temporary")
        if self.stage == "forward":
            return KINDS.index("activations")
        return KINDS.index("optimizer_state" if self.stage == "first optimizer step" else "temporary")

    def _place(self, backward: bool) -> str:
        if backward:
            node = torch._C._current_autograd_node()
            return self._layer_of_node.get(node._sequence_nr(), "") if node is not None else ""
        return self._running[-1] if self.stage == "forward" else STEP

    def _add_in_place(self, operands: Sequence[Any], backward: bool) -> None:
        """PyTorch adds in place where nobody else holds an operand: where gradients meet, and a dense layer's bias.

        It does not do so for tensors that a dispatch mode sees: the sum is a new one here. It takes the other's place.
        """
        for operand in operands[:2]:
            block = self._blocks.get(id(operand.untyped_storage())) if isinstance(operand, Tensor) else None
            if block is None or block.bytes != operand.nbytes:
                continue
            is_free = KINDS[block.kind] == "temporary" if backward else block is self._product
            if is_free and (backward or operands[1].dim() == 1):
                self._resize(block, 0)
                return

    def _note_product(self, func: torch._ops.OpOverload, result: Any) -> None:
        """Remember the result of a matrix product until something else is computed."""
        if func in PRODUCTS:
            self._product = self._blocks[id(result.untyped_storage())]
        elif not func.is_view and func is not aten._unsafe_view.default:
            self._product = None

    def _strike_out(self, key: int) -> None:
        self._resize(self._blocks.pop(key), 0)

    def _resize(self, block: _Block, size: int) -> None:
        self._held[block.kind] += size - block.bytes
        block.bytes = size

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._running.append(name)

        return enter

    def _leaving(self, *_: Any) -> None:
        self._running.pop()


def _corrected(result: Any, forms: Results) -> Any:
    """The same with tensors of other forms."""
    made = [form and torch.empty_strided(form.shape, form.strides, dtype=form.dtype) for form in forms]
    leaves, structure = tree_flatten(result)
    return tree_unflatten(made, structure) if len(made) == len(leaves) else result


def _normalized(*arguments: Any) -> Any:
    """The results of batch norm: images, and the mean and deviation of each channel in training."""
    images, weight, training = arguments[0], arguments[1], arguments[5]
    return torch.empty_like(images), *(_of_channels(images, weight, training) for _ in range(2))


def _normalized_backward(*arguments: Any) -> Any:
    """Those of its backward pass, as far as they are wanted: the gradients of images, weight and bias."""
    images, weight, wanted = arguments[1], arguments[2], arguments[9]
    of_images = torch.empty_like(images) if wanted[0] else None
    return of_images, *(_of_channels(images, weight, True) if each else None for each in wanted[1:])


def _of_channels(images: Tensor, weight: Tensor | None, is_there: bool) -> Tensor:
    dtype = torch.float32 if weight is None else weight.dtype
    return images.new_empty(images.shape[1] if is_there else 0, dtype=dtype)


# Fake tensors go through these step by step, which takes half of a rehearsal, and give gradients the wrong layout.
SHORTCUTS = {
    aten.native_batch_norm.default: _normalized,
    aten.native_batch_norm_backward.default: _normalized_backward,
}


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
