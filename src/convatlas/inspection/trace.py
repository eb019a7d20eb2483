"""One forward pass, written down: every operator that ran, on which tensors, in which call of which module.

The pass runs on fake tensors, which have shapes and no numbers, so that it takes neither memory nor arithmetic; a
network whose path depends on the numbers is run on real ones.

>>> trace = trace_module(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), torch.zeros(1, 3, 32, 32))
>>> [operator.name for operator in trace.operators]
['aten.convolution', 'aten.relu']
>>> trace.calls[1].name, trace.calls[1].outputs[0].shape
('0', (1, 8, 30, 30))
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from convatlas.errors import InspectionError


@dataclass(frozen=True)
class Value:
    """A tensor at one moment of the pass: writing into it makes another value with the same ``storage``."""

    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    storage: int  # values of one number share memory
    strides: tuple[int, ...]  # empty where the memory is not laid out by strides
    bytes: int


@dataclass(frozen=True)
class Operator:
    """One operator as it ran, with values where it had tensors."""

    overload: torch._ops.OpOverload
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    call: int  # of the module in whose forward it ran, children's apart
    reads_overwritten: bool  # it read a tensor that was written to through another one

    @property
    def name(self) -> str:
        """The operator without its overload: "aten.convolution"."""
        return str(self.overload.overloadpacket)


@dataclass
class Call:
    """One call of a module; ``trace.calls[0]`` is the network's own."""

    name: str  # its path, "" of the network
    module: nn.Module
    number: int  # 1 at the module's first call
    begins: int  # how many operators ran before it
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Trace:
    """What ran, in order."""

    calls: Sequence[Call]
    operators: Sequence[Operator]
    inputs: tuple[Value, ...]
    times_called: Mapping[nn.Module, int]
    parameters: Mapping[int, str]  # index of a value -> name of the parameter it is
    frozen: frozenset[str]  # names of the parameters that are not trained


def trace_module(module: nn.Module, *inputs: Any) -> Trace:
    """Run a module once, in evaluation mode and without gradients, and write down what runs.

    Args:
        module: any module; it is left as it was.
        inputs: what it is called with; tensors are only read.

    Raises:
        InspectionError: the module cannot be called with these inputs; says in which layer it failed and how.
    """
    with torch.no_grad(), _plain_operators():
        if _has_numbers(module):
            try:
                return _record(module, inputs, fake=True)
            except InspectionError:  # perhaps because its path depends on the numbers
                return _record(module, inputs, fake=False)
        return _record(module, inputs, fake=False)  # on the meta device there is nothing to fake


def _record(module: nn.Module, inputs: tuple[Any, ...], *, fake: bool) -> Trace:
    from torch._subclasses.fake_tensor import FakeTensorMode

    faking = FakeTensorMode(allow_non_fake_inputs=True) if fake else None
    if faking is not None:
        inputs = tree_map(lambda leaf: faking.from_tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf, inputs)
    else:  # the module may write into what it is given
        inputs = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, inputs)
    recorder = _Recorder(inputs)
    keeping = _keeping_attributes(module), _keeping_numbers(module)
    with keeping[0], keeping[1], recorder.following(module), faking or nullcontext(), recorder:
        module.eval()
        try:
            module(*inputs)
        except Exception as error:
            where = recorder.where_failed(error)
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InspectionError(f"{where} fails on this input: {reason}") from error
    return recorder.trace(module)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator below autograd, and every call of a module."""

    def __init__(self, inputs: tuple[Any, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._values: dict[int, Value] = {}  # id of a tensor -> what it is now
        self._kept: list[Any] = []  # tensors that have been seen: while they live, no other has their id
        self._sharing: dict[int, list[int]] = {}  # storage -> ids of the tensors on it
        self._overwritten: set[int] = set()  # ids of tensors that changed under their value
        self._count = 0
        self._calls: list[Call] = []
        self._operators: list[Operator] = []
        self._stack: list[int] = []
        self._times_called: Counter[nn.Module] = Counter()
        self._failure: tuple[BaseException | None, str] = (None, "")  # the last one, and where it came from
        self._inputs = self._values_in(inputs)

    def where_failed(self, error: BaseException) -> str:
        """The module whose forward an error came from, in words."""
        return self._failure[1] if self._failure[0] is error else "the network"

    def _note_failure(self) -> None:
        error = sys.exc_info()[1]
        if error is not None and error is not self._failure[0]:
            call = self._calls[self._stack[-1]]
            kind = type(call.module).__name__
            self._failure = error, f"{call.name} ({kind})" if call.name else kind

    def trace(self, module: nn.Module) -> Trace:
        """What has been written down of a module."""
        parameters = {
            self._values[id(tensor)].index: name
            for name, tensor in module.named_parameters()
            if id(tensor) in self._values
        }
        frozen = frozenset(name for name, tensor in module.named_parameters() if not tensor.requires_grad)
        return Trace(self._calls, self._operators, self._inputs, self._times_called, parameters, frozen)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "prim":  # a question about a tensor, such as its device
            return func(*args, **(kwargs or {}))
        arguments = tree_map(self._as_value, args)
        keywords = tree_map(self._as_value, kwargs or {})
        read = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor)]
        overwritten = any(id(tensor) in self._overwritten for tensor in read)
        result = func(*args, **(kwargs or {}))
        written = list(_written(func, args, kwargs or {}))
        for tensor in written:
            self._renew(tensor)
        operator = Operator(
            overload=func,
            arguments=arguments,
            keywords=keywords,
            inputs=tuple(leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, Value)),
            outputs=self._results(result, written),
            call=self._stack[-1] if self._stack else 0,
            reads_overwritten=overwritten,
        )
        self._operators.append(operator)
        return result

    def _results(self, result: Any, written: Sequence[torch.Tensor]) -> tuple[Value, ...]:
        """What an operator returned, and what else it wrote into."""
        values = {value.index: value for value in (*self._values_in(result), *self._values_in(list(written)))}
        return tuple(values.values())

    @contextmanager
    def following(self, module: nn.Module) -> Iterator[None]:
        """Write down the calls of a module and of everything in it."""
        hooks = []
        for name, each in module.named_modules():
            # before other hooks, so that what they do belongs to the module
            hooks.append(each.register_forward_pre_hook(self._entering(name), with_kwargs=True, prepend=True))
            hooks.append(each.register_forward_hook(self._leaving, always_call=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _entering(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._times_called[module] += 1
            began = len(self._operators)
            call = Call(name, module, self._times_called[module], began, self._values_in((args, kwargs)))
            self._stack.append(len(self._calls))
            self._calls.append(call)

        return enter

    def _leaving(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._note_failure()  # this hook is called then as well: the caller may have another way
        self._calls[self._stack.pop()].outputs = self._values_in(output)

    def _values_in(self, tree: Any) -> tuple[Value, ...]:
        return tuple(self._value(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))

    def _as_value(self, leaf: Any) -> Any:
        return self._value(leaf) if isinstance(leaf, torch.Tensor) else leaf

    def _value(self, tensor: torch.Tensor) -> Value:
        if id(tensor) not in self._values:
            self._kept.append(tensor)
            self._renew(tensor)
        return self._values[id(tensor)]

    def _renew(self, tensor: torch.Tensor) -> None:
        """Give a tensor a new value; other tensors on its memory no longer hold what their values say."""
        is_strided = tensor.layout == torch.strided
        storage = tensor.untyped_storage()._cdata if is_strided else id(tensor)
        sharing = self._sharing.setdefault(storage, [])
        if id(tensor) in self._values:
            self._overwritten.update(sharing)
            self._overwritten.discard(id(tensor))
        else:
            sharing.append(id(tensor))
        size = prod(tensor.shape) * tensor.dtype.itemsize
        strides = tensor.stride() if is_strided else ()
        self._values[id(tensor)] = Value(self._count, tuple(tensor.shape), tensor.dtype, storage, strides, size)
        self._count += 1


def _written(func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """The tensors that an operator writes into, as its schema says."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = args[place] if place < len(args) else kwargs.get(argument.name)
        yield from (leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor))


def _has_numbers(module: nn.Module) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    return not any(tensor.is_meta for tensor in tensors)


@contextmanager
def _keeping_attributes(module: nn.Module) -> Iterator[None]:
    """Put back what a forward pass changes in its modules: tensors that it leaves there have no numbers."""
    kept = [(each, dict(vars(each)), _copied_containers(each)) for each in module.modules()]
    try:
        yield
    finally:
        for each, attributes, containers in kept:
            vars(each).clear()
            vars(each).update(attributes)
            for container, content in containers:
                _refill(container, content)


def _copied_containers(module: nn.Module) -> list[tuple[Any, Any]]:
    """Lists, sets and dicts among a module's attributes, its own parameters and hooks included, and what is in them."""
    return [(value, copy(value)) for value in vars(module).values() if isinstance(value, list | dict | set)]


def _refill(container: Any, content: Any) -> None:
    if isinstance(container, list):
        container[:] = content
        return
    container.clear()
    container.update(content)


@contextmanager
def _keeping_numbers(module: nn.Module) -> Iterator[None]:
    """Put back the numbers that a forward pass writes over, and the state of the random generator."""
    kept = [(buffer, buffer._version, buffer.clone()) for buffer in module.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for buffer, version, numbers in kept:
            if buffer._version != version:
                buffer.copy_(numbers)


@contextmanager
def _plain_operators() -> Iterator[None]:
    """Let attention and recurrent layers run as matrix products, not as fused operators of which less can be said."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    log = logging.getLogger("torch._subclasses.fake_tensor")  # tells on stderr what is raised anyway
    was_fast, was_disabled = torch.backends.mha.get_fastpath_enabled(), log.disabled
    switch: Callable[..., tuple[bool, ...]] = torch.backends.mkldnn.set_flags
    was_enabled = switch(_enabled=False, _allow_tf32=None)[0]
    torch.backends.mha.set_fastpath_enabled(False)
    log.disabled = True
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        switch(_enabled=was_enabled, _allow_tf32=None)
        torch.backends.mha.set_fastpath_enabled(was_fast)
        log.disabled = was_disabled
