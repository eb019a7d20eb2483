"""A network as it is trained, with its convolutions, batch norms, ReLUs and pools done by the engine's operators.

The modules put into the graph keep hold of the network's own modules, so parameters, running statistics and the
training flag stay where they are.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from convatlas.engine import taps
from convatlas.engine.choice import Chooser, Prepare
from convatlas.engine.convolutions import Epilogue, transform_weight, winograd
from convatlas.engine.graph import ADDITIONS, activation_of, geometry_of, is_plain, pool_sizes, refuse_shared_changes
from convatlas.engine.jobs import LANES, RELU
from convatlas.engine.normalization import batch_norm, can_normalise, relu_pool
from convatlas.engine.operators import conv3x3, first_convolution
from convatlas.engine.tracing import symbolic_trace


class Convolution3x3(nn.Module):
    """A 3x3 convolution by the engine's operator, where that was measured to be faster.

    Args:
        layer: the network's own layer.
        name: its name in the network.
        chooser: compares the two kernels when a shape is first seen.
    """

    def __init__(self, layer: nn.Conv2d, name: str, chooser: Chooser) -> None:
        super().__init__()
        self.layer = layer
        self._name = name
        self._chooser = chooser
        self._geometry = geometry_of(layer)
        self._kernels: dict[tuple[int, ...], str] = {}

    def forward(self, x: Tensor) -> Tensor:
        """The layer's outputs."""
        shape = tuple(x.shape)
        if shape not in self._kernels:
            self._kernels[shape] = self._choose(x)
        layer, kernel = self.layer, self._kernels[shape]
        if kernel == "torch":
            return cast(Tensor, layer(x))
        return cast(Tensor, conv3x3(x, layer.weight, layer.bias, self._geometry.padding[0], kernel == "winograd"))

    def _choose(self, x: Tensor) -> str:
        layer, geometry = self.layer, self._geometry
        fits = x.shape[1] == layer.in_channels and x.dtype == layer.weight.dtype
        if not fits or not can_normalise(x):  # to be refused, or nothing in it
            return "torch"
        weight = layer.weight.detach()
        calls: dict[str, Prepare] = {
            "winograd": lambda x, y: winograd(geometry, x, transform_weight(weight), y, Epilogue()),
            "taps": lambda x, _: lambda: taps.convolve(x, weight, None, geometry.padding[0]),
            "torch": lambda x, _: lambda: functional.conv2d(x, weight, padding=geometry.padding),
        }
        if x.shape[2] * x.shape[3] > taps.MOST_PIXELS:
            del calls["taps"]
        pictures = x.detach().contiguous(memory_format=torch.channels_last)
        return self._chooser.choose(self._name, geometry, pictures, calls, when="in training: ")


class FirstConvolution(nn.Module):
    """The convolution of the images themselves, of which no gradient is wanted.

    Args:
        layer: the network's own layer.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self._padding = [int(layer.padding[0]), int(layer.padding[1])]

    def forward(self, x: Tensor) -> Tensor:
        """The layer's outputs; by PyTorch's own operation where a gradient of the images is wanted after all."""
        layer = self.layer
        fits = x.shape[1] == layer.in_channels and x.dtype == layer.weight.dtype
        if x.requires_grad or not layer.weight.requires_grad or not fits:
            return cast(Tensor, layer(x))
        return cast(Tensor, first_convolution(x, layer.weight, layer.bias, layer.stride[0], self._padding))


class Normalization(nn.Module):
    """Batch norm, the residual added to it, ReLU and a 2x2 max-pool, in two passes over memory each way.

    Args:
        norm: the network's own layer.
        relu: whether ReLU follows.
        pool: whether a pool of 2x2 follows that.
    """

    def __init__(self, norm: nn.BatchNorm2d, *, relu: bool, pool: bool) -> None:
        super().__init__()
        self.norm = norm
        self._relu = relu
        self._pool = pool

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The outputs; by PyTorch's own operations where the statistics are not those of the batch."""
        norm = self.norm
        fits = can_normalise(x, pool=self._pool) and x.shape[1] == norm.num_features
        if residual is not None:
            fits = fits and residual.shape == x.shape and residual.dtype == x.dtype
        if not norm.training or norm.momentum is None or not fits:
            return self._by_torch(x, residual)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        return batch_norm(
            x,
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
            momentum=norm.momentum,
            eps=norm.eps,
            residual=residual,
            relu=self._relu,
            pool=self._pool,
        )

    def _by_torch(self, x: Tensor, residual: Tensor | None) -> Tensor:
        y = self.norm(x)
        y = y if residual is None else y + residual
        y = functional.relu(y) if self._relu else y
        return functional.max_pool2d(y, 2) if self._pool else y


class ReluPool(nn.Module):
    """ReLU and a 2x2 max-pool, in one pass over memory each way."""

    def forward(self, x: Tensor) -> Tensor:
        """The outputs [N, C, H // 2, W // 2]."""
        return relu_pool(x) if can_normalise(x, pool=True) else functional.max_pool2d(functional.relu(x), 2)


def trace_for_training(model: nn.Module, chooser: Chooser) -> fx.GraphModule:
    """The network as a graph of its own modules and the engine's.

    Raises:
        Exception: fx cannot follow its forward method, which may then be anything.
    """
    module = symbolic_trace(model)
    refuse_shared_changes(module)
    rewriting = _Rewriting(module, chooser)
    for node in list(module.graph.nodes):
        rewriting.visit(node)
    module.graph.lint()
    module.recompile()
    return module


class _Rewriting:
    """Replaces calls of the network's modules, one node after another, each together with what follows it."""

    def __init__(self, module: fx.GraphModule, chooser: Chooser) -> None:
        self._module = module
        self._graph = module.graph
        self._chooser = chooser

    def visit(self, node: fx.Node) -> None:
        """Replace this call, if it is one that the engine does better."""
        target = self._target(node)
        if type(target) is nn.Conv2d and is_plain(target):
            self._replace_convolution(node, target)
        elif type(target) is nn.BatchNorm2d and target.running_mean is not None:
            self._fuse_norm(node, target)
        elif self._is_relu(node) and (pool := self._next_pool(node)) is not None:
            self._replace([node, pool], ReluPool(), node.args)

    def _replace_convolution(self, node: fx.Node, layer: nn.Conv2d) -> None:
        if geometry_of(layer).suits_winograd:
            self._replace([node], Convolution3x3(layer, str(node.target), self._chooser), node.args)
        elif (
            layer.groups == layer.dilation[0] == 1
            and node.all_input_nodes[0].op == "placeholder"
            and layer.out_channels % LANES == 0
        ):
            self._replace([node], FirstConvolution(layer), node.args)

    def _fuse_norm(self, node: fx.Node, norm: nn.BatchNorm2d) -> None:
        chain, args = [node], node.args
        addition = _only_user(node)
        if addition is not None and addition.target in ADDITIONS and self._joins(node, addition):
            chain.append(addition)
            args = (*args, *(part for part in addition.args if part is not node))
        relu = _only_user(chain[-1])
        if relu is not None and self._is_relu(relu):
            chain.append(relu)
        pool = self._next_pool(chain[-1]) if len(chain) == 2 and chain[-1] is relu else None
        if pool is not None:
            chain.append(pool)
        fused = Normalization(norm, relu=chain[-1] is relu or pool is not None, pool=pool is not None)
        self._replace(chain, fused, args)

    def _joins(self, node: fx.Node, addition: fx.Node) -> bool:
        """Whether an addition adds one other picture; only the last operand's norm can take it in."""
        parts = addition.args
        if len(parts) != 2 or addition.kwargs or not all(isinstance(part, fx.Node) for part in parts):
            return False
        other = parts[0] if parts[1] is node else parts[1]
        return other is not node and _is_before(self._graph, cast(fx.Node, other), node)

    def _next_pool(self, node: fx.Node) -> fx.Node | None:
        user = _only_user(node)
        target = self._target(user) if user is not None else None
        is_halving = type(target) is nn.MaxPool2d and pool_sizes(target) == (2, 2, 0) and not target.ceil_mode
        return user if is_halving else None

    def _is_relu(self, node: fx.Node) -> bool:
        target = self._target(node)
        return activation_of(target) == RELU

    def _target(self, node: fx.Node) -> Any:
        return self._module.get_submodule(str(node.target)) if node.op == "call_module" else node.target

    def _replace(self, chain: list[fx.Node], module: nn.Module, args: tuple[Any, ...]) -> None:
        """Put a call of ``module`` in the place of the last of a chain of nodes, which is removed."""
        last = chain[-1]
        name = f"engine_{last.name}"
        self._module.add_submodule(name, module)
        with self._graph.inserting_before(last):
            made = self._graph.call_module(name, args)
        last.replace_all_uses_with(made)
        for node in reversed(chain):
            self._graph.erase_node(node)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_before(graph: fx.Graph, first: fx.Node, second: fx.Node) -> bool:
    nodes = list(graph.nodes)
    return nodes.index(first) < nodes.index(second)
