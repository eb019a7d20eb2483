"""Whole training steps of small dense networks: forward and backward in a few calls of NumPy, then Adam in one.

A step of an autoencoder of rows multiplies matrices of 64 x 40 numbers. PyTorch takes far longer to note down such
products, and to follow them back, than to compute them; what a chain of dense layers needs is known in advance.

>>> network = nn.Sequential(nn.Linear(29, 40), nn.ReLU(), nn.Linear(40, 29))
>>> steps = DenseSteps(network, torch.optim.Adam(network.parameters()))
>>> steps.step(torch.zeros(64, 29), rate=1e-3).shape
torch.Size([1])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

Floats = NDArray[np.float32]
#: Multiplications that one core does in some tens of microseconds, on any processor: about what it costs PyTorch to
#: call a layer, to note it down and to follow it back.
LARGEST_PRODUCT = 2**20


@dataclass(frozen=True)
class Activation:
    """A non-linearity in place, and its slope from what it gave."""

    apply: Callable[[Floats], None]
    slope: Callable[[Floats], NDArray[np.float32] | NDArray[np.bool_]]


def _relu(values: Floats) -> None:
    np.maximum(values, 0, out=values)


def _elu(values: Floats) -> None:
    np.copyto(values, np.expm1(np.minimum(values, 0)), where=values < 0)


def _tanh(values: Floats) -> None:
    np.tanh(values, out=values)


def _sigmoid(values: Floats) -> None:
    np.negative(values, out=values)
    np.exp(values, out=values)
    np.add(values, 1, out=values)
    np.reciprocal(values, out=values)


ACTIVATIONS: Mapping[type[nn.Module], Activation] = {
    nn.ReLU: Activation(_relu, lambda after: after > 0),
    nn.ELU: Activation(_elu, lambda after: np.minimum(after, 0) + 1),
    nn.Tanh: Activation(_tanh, lambda after: 1 - after * after),
    nn.Sigmoid: Activation(_sigmoid, lambda after: after * (1 - after)),
}


@dataclass(frozen=True)
class DenseLayer:
    """A dense layer and what comes after it; the last has no activation."""

    linear: nn.Linear
    activation: Activation | None


def dense_layers(network: nn.Module) -> tuple[DenseLayer, ...]:
    """The layers of a network that has nothing but dense layers with activations between them; () for any other.

    >>> len(dense_layers(nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 9))))
    2
    """
    leaves = _leaves(network)
    linears, activations = leaves[::2], leaves[1::2]
    is_chain = (
        len(leaves) % 2 == 1
        and all(_is_plain(linear) for linear in linears)
        and all(_is_known(activation) for activation in activations)
        and len({*map(id, leaves)}) == len(leaves)
        and len([*network.parameters()]) == 2 * len(linears)
        and not [*network.buffers()]
        and all(before.out_features == after.in_features for before, after in pairwise(linears))
        and not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
        and not any(module._backward_hooks or module._backward_pre_hooks for module in network.modules())
    )
    if not is_chain:
        return ()
    known = [ACTIVATIONS[type(activation)] for activation in activations]
    pairs = zip(linears, [*known, None], strict=True)
    return tuple(DenseLayer(cast("nn.Linear", linear), activation) for linear, activation in pairs)


def obstacle_to_steps(network: nn.Module, shape: Sequence[int]) -> str | None:
    """Why a network is better trained by autograd, in words; None where ``DenseSteps`` are faster.

    Nothing is timed: the same network and batch have the same answer every time, and a training the same bits.

    Args:
        network: in training mode, where it is to compute what its layers do and nothing else.
        shape: of a batch of rows, [n, columns].
    """
    if not hasattr(torch, "_fused_adam_"):
        return "this PyTorch has no Adam in one call"
    layers = dense_layers(network)
    if not layers:
        return "it is not a chain of dense layers"
    largest = max(shape[0] * layer.linear.in_features * layer.linear.out_features for layer in layers)
    return f"a product of {largest:,} multiplications gains from more threads" if largest > LARGEST_PRODUCT else None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Around a training: NumPy's products by one thread, and no warning of numbers that are not finite any more.

    Shared out, small products take longer, and wait for the threads of PyTorch. What is not finite shows in the loss.
    """
    with threadpool_limits(limits=1, user_api="blas"), np.errstate(all="ignore"):
        yield


class DenseSteps:
    """Steps of Adam on the mean squared difference between rows and what a chain of dense layers makes of them.

    The network's parameters and the optimizer's averages become parts of flat arrays, which the steps change in place:
    both stay what anybody else may read, write and save.

    Args:
        network: one whose ``dense_layers`` are all it computes in training.
        optimizer: of its parameters, ``torch.optim.Adam`` without weight decay; its state is gone on with.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._arithmetic = _Arithmetic(dense_layers(network), optimizer)
        self._loss = torch.zeros(1, dtype=torch.float64)

    def step(self, rows: Tensor, rate: float) -> Tensor:
        """Change the parameters by a batch of rows, float32 [n, columns].

        Returns their loss before, float64 [1]: each row's mean squared difference, summed over the rows. The next step
        writes over it.
        """
        squares = self._arithmetic.differentiate(rows.numpy())
        self._arithmetic.descend(rate)
        return self._loss.fill_(squares / rows.shape[1])


class _Arithmetic:
    """The layers' numbers as flat arrays: parameters, gradient and, of an optimizer, its averages.

    Without an optimizer the network is left as it is, and copies are worked on.
    """

    def __init__(self, layers: tuple[DenseLayer, ...], optimizer: torch.optim.Optimizer | None = None) -> None:
        self._parameters = [each for layer in layers for each in (layer.linear.weight, layer.linear.bias)]
        hidden = [layer.activation for layer in layers if layer.activation is not None]
        self._applied, self._slopes = [*(each.apply for each in hidden), None], [each.slope for each in hidden]
        self._backwards = range(len(hidden), 0, -1)
        size = sum(each.numel() for each in self._parameters)
        self._values, self._gradient, self._mean, self._square = (torch.zeros(size) for _ in range(4))
        for parameter, part in zip(self._parameters, self._parts(self._values), strict=True):
            part.copy_(parameter.detach())
        self._counts = torch.zeros(len(self._parameters))  # of steps: the optimizer has one for each parameter
        self._count, self._steps_taken = self._counts[0], self._counts.numpy()
        settings = optimizer.param_groups[0] if optimizer is not None else _DEFAULTS
        (self._first, self._second), self._epsilon = settings["betas"], settings["eps"]
        if optimizer is not None:
            self._take_over(optimizer)
        self._layers = [*self._pairs(self._values)]
        self._gradients = [*self._pairs(self._gradient)]
        self._rooms: dict[int, tuple[list[Floats], Floats]] = {}

    def differentiate(self, rows: Floats) -> float:
        """The gradient of the mean squared difference, kept; returns the summed one of rows [n, columns]."""
        outputs, ones = self._room_for(len(rows))
        below = rows
        for (weight, bias), apply, output in zip(self._layers, self._applied, outputs, strict=True):
            np.dot(below, weight.T, output)
            np.add(output, bias, output)
            if apply is not None:
                apply(output)
            below = output
        change = np.subtract(below, rows, below)
        loss = float(np.vdot(change, change))
        np.multiply(change, 2 / change.size, change)
        for place in self._backwards:
            weight, bias = self._gradients[place]
            below = outputs[place - 1]
            np.dot(change.T, below, weight)
            np.dot(ones, change, bias)
            change = np.dot(change, self._layers[place][0])
            np.multiply(change, self._slopes[place - 1](below), change)
        weight, bias = self._gradients[0]
        np.dot(change.T, rows, weight)
        np.dot(ones, change, bias)
        return loss

    def descend(self, rate: float) -> None:
        """A step of Adam along the kept gradient."""
        self._steps_taken += 1
        torch._fused_adam_(
            [self._values],
            [self._gradient],
            [self._mean],
            [self._square],
            [],
            [self._count],
            lr=rate,
            beta1=self._first,
            beta2=self._second,
            weight_decay=0.0,
            eps=self._epsilon,
            amsgrad=False,
            maximize=False,
        )

    def _take_over(self, optimizer: torch.optim.Optimizer) -> None:
        averages = {"exp_avg": self._mean, "exp_avg_sq": self._square}
        for place, parameter in enumerate(self._parameters):
            state = optimizer.state[parameter]
            own = {"step": self._counts[place]} | {name: [*self._parts(flat)][place] for name, flat in averages.items()}
            for name, part in own.items():
                if name in state:
                    part.copy_(state[name])
                state[name] = part
            parameter.data = [*self._parts(self._values)][place]

    def _parts(self, flat: Tensor) -> Iterator[Tensor]:
        start = 0
        for parameter in self._parameters:
            yield flat[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()

    def _pairs(self, flat: Tensor) -> Iterator[tuple[Floats, Floats]]:
        parts = [part.numpy() for part in self._parts(flat)]
        return zip(parts[::2], parts[1::2], strict=True)

    def _room_for(self, count: int) -> tuple[list[Floats], Floats]:
        """What each layer gives for so many rows, to be written over, and as many ones, to sum with."""
        if count not in self._rooms:  # two: the last batch of an epoch may be smaller
            outputs = [np.empty((count, len(bias)), np.float32) for _, bias in self._layers]
            self._rooms[count] = (outputs, np.ones(count, np.float32))
        return self._rooms[count]


_DEFAULTS: Mapping[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8}


def _leaves(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if not [*module.children()]]


def _is_plain(module: nn.Module) -> bool:
    return (
        type(module) is nn.Linear
        and module.bias is not None
        and all(
            each.requires_grad and each.dtype == torch.float32 and each.device.type == "cpu"
            for each in module.parameters()
        )
    )


def _is_known(module: nn.Module) -> bool:
    return type(module) in ACTIVATIONS and getattr(module, "alpha", 1) == 1
