"""A network's evaluation as a list of layers, with what belongs together made one.

Tracing gives one node per module or function call. Batch norm is folded into the convolution before it; the addition
of a shortcut, ReLU and a 2x2 max-pool after it become its epilogue; batch norm and ReLU before a 1x1 convolution
become the activation of its inputs. Everything else stays a call of PyTorch.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from convatlas.engine.convolutions import Geometry
from convatlas.engine.jobs import LANES, OUTPUTS

RELUS = (functional.relu, torch.relu, torch.relu_, "relu", "relu_")
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
CONCATENATIONS = (torch.cat, torch.concat)
ACTIVATIONS = (functional.relu, functional.relu6, functional.silu, functional.hardswish, functional.leaky_relu)
IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
SAME_VALUES = (nn.Flatten, nn.Dropout, nn.Dropout2d, nn.Identity, torch.flatten)  # of the very memory they are given
VIEWS = ("view", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "expand", "contiguous", "detach")


@dataclass(eq=False)
class Convolution:
    """A convolution, the batch norms folded into it, and what follows it."""

    node: fx.Node  # the last of the nodes it stands for: its value
    source: fx.Node
    layer: nn.Conv2d
    name: str
    norm: nn.BatchNorm2d | None = None
    residual: fx.Node | None = None
    relu: bool = False
    pool: bool = False
    activation: nn.BatchNorm2d | None = None  # applied to the inputs, with ReLU

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The nodes whose values it needs."""
        return (self.source,) if self.residual is None else (self.source, self.residual)

    @property
    def geometry(self) -> Geometry:
        """The sizes of the layer."""
        return geometry_of(self.layer)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the batch norm in them, computed in float64."""
        weight, bias = self.layer.weight.detach(), self.layer.bias
        if weight.dtype != torch.float32:
            raise TypeError("weights that are not float32")
        if self.norm is None:
            return weight, None if bias is None else bias.detach()
        scale, shift = scale_and_shift(self.norm)
        folded = weight.double() * scale[:, None, None, None]
        shift = shift if bias is None else shift + bias.detach().double() * scale
        return folded.float(), shift.float()


@dataclass(eq=False)
class Pooling:
    """A maximum or an average over windows."""

    node: fx.Node
    source: fx.Node
    window: int | None  # None: the whole picture
    stride: int = 1
    padding: int = 0
    average: bool = True
    rounds_up: bool = False

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The nodes whose values it needs."""
        return (self.source,)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the outputs; the last window must begin inside the picture or its upper padding."""
        return self._outputs(height), self._outputs(width)

    def _outputs(self, size: int) -> int:
        if self.window is None:
            return 1
        span = size + 2 * self.padding - self.window
        if not self.rounds_up:
            return span // self.stride + 1
        outputs = -(-span // self.stride) + 1
        return outputs - 1 if (outputs - 1) * self.stride >= size + self.padding else outputs


@dataclass(eq=False)
class Concatenation:
    """Pictures joined by their channels."""

    node: fx.Node
    inputs: tuple[fx.Node, ...]


@dataclass(eq=False)
class Dense:
    """A dense layer, and the ReLU that follows it."""

    node: fx.Node
    source: fx.Node
    layer: nn.Linear
    relu: bool = False

    def bias(self) -> Tensor | None:
        """The layer's bias, in one piece."""
        return None if self.layer.bias is None else self.layer.bias.detach().contiguous()

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The nodes whose values it needs."""
        return (self.source,)


@dataclass(eq=False)
class Call:
    """Anything else, left to PyTorch."""

    node: fx.Node

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The nodes whose values it needs."""
        return tuple(self.node.all_input_nodes)


Layer = Convolution | Pooling | Concatenation | Dense | Call


@dataclass
class Graph:
    """The layers of a network in an order in which they can be computed."""

    input: fx.Node
    output: fx.Node
    layers: list[Layer]
    module: fx.GraphModule = field(repr=False)


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A batch norm with its running statistics as ``x * scale + shift``, float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale, shift


def trace(model: nn.Module) -> Graph:
    """The graph of a network as it is when evaluated.

    Raises:
        Exception: fx cannot follow its forward method, which may then be anything; or it is of a form not known here.
    """
    with evaluating(model):
        module = fx.symbolic_trace(model)
    refuse_shared_changes(module)
    nodes = list(module.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder" and node.users]
    if len(inputs) != 1 or not isinstance(nodes[-1].args[0], fx.Node):
        raise TypeError("only networks of one input and one output are known here")
    layers = _Builder(module).layers()
    return Graph(inputs[0], nodes[-1].args[0], layers, module)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Sets the training flags of all parts aside, so that nothing is learnt from what is only tried."""
    was_training = [part for part in model.modules() if part.training]
    for part in was_training:
        part.training = False
    try:
        yield
    finally:
        for part in was_training:
            part.training = True


def refuse_shared_changes(module: fx.GraphModule) -> None:
    """Refuse networks that change a value in place which something else reads too.

    Layers that are made one are computed at the place of the last of them, and what is a view in the network may be a
    copy here, so that the other reader could see the value before the change instead of behind it.

    Raises:
        TypeError: this is such a network.
    """
    for node in module.graph.nodes:
        if not changes_in_place(node, module):
            continue
        value = node.all_input_nodes[0]
        while len(value.users) == 1 and _has_memory_of_its_input(value, module):
            value = value.all_input_nodes[0]
        if len(value.users) > 1:
            raise TypeError(f"{node.name} changes in place what others read")


def changes_in_place(node: fx.Node, module: fx.GraphModule) -> bool:
    """Whether a call overwrites its first argument."""
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.kwargs.get("inplace") or (node.target in ACTIVATIONS and node.args[-1] is True):
        return True
    return node.target in IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def _has_memory_of_its_input(node: fx.Node, module: fx.GraphModule) -> bool:
    if node.op == "call_module":
        target: Any = type(module.get_submodule(str(node.target)))
    else:
        target = node.target
    return target in SAME_VALUES or target in VIEWS or target is operator.getitem or changes_in_place(node, module)


class _Builder:
    """Goes through the nodes in order and puts each into a layer, alone or together with those before it."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.makers: dict[fx.Node, Layer] = {}  # by the node that is the layer's value so far

    def layers(self) -> list[Layer]:
        """All layers, each at the place of its last node."""
        nodes = [node for node in self.module.graph.nodes if node.op not in ("placeholder", "output")]
        for node in nodes:
            target = self.target(node)
            if type(target) in (nn.Dropout, nn.Dropout2d, nn.Identity):
                node.replace_all_uses_with(node.all_input_nodes[0])
                self.module.graph.erase_node(node)  # or its input would seem to have a reader more
            elif not self._joins(node, target):
                self.makers[node] = self._alone(node, target)
        return [self.makers[node] for node in nodes if node in self.makers]

    def target(self, node: fx.Node) -> Any:
        """The module or function a node calls."""
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else node.target

    def _joins(self, node: fx.Node, target: Any) -> bool:
        if type(target) is nn.BatchNorm2d:
            return self._fold(node, target)
        if type(target) is nn.ReLU or target in RELUS:
            return self._join_relu(node)
        if target in ADDITIONS:
            return self._join_addition(node)
        if type(target) is nn.MaxPool2d:
            return self._join_pool(node, target)
        return False

    def _fold(self, node: fx.Node, norm: nn.BatchNorm2d) -> bool:
        layer = self._open_convolution(node.args[0])
        if layer is None or layer.norm is not None or norm.running_mean is None:
            return False
        layer.norm = norm
        return self._extend(layer, node)

    def _join_relu(self, node: fx.Node) -> bool:
        source = node.args[0]
        layer = self.makers.get(source) if isinstance(source, fx.Node) else None
        if not isinstance(layer, Convolution | Dense) or layer.relu or len(layer.node.users) > 1:
            return False
        if isinstance(layer, Convolution) and layer.pool:
            return False
        layer.relu = True
        return self._extend(layer, node)

    def _join_addition(self, node: fx.Node) -> bool:
        if len(node.args) != 2 or node.kwargs or not all(isinstance(part, fx.Node) for part in node.args):
            return False
        for part, other in (node.args, node.args[::-1]):
            layer = self._open_convolution(part)
            if layer is not None and part is not other:
                layer.residual = other  # type: ignore[assignment]
                return self._extend(layer, node)
        return False

    def _join_pool(self, node: fx.Node, pool: nn.MaxPool2d) -> bool:
        layer = self.makers.get(node.args[0])  # type: ignore[arg-type]
        is_halving = pool_sizes(pool) == (2, 2, 0) and not pool.ceil_mode
        if not isinstance(layer, Convolution) or layer.pool or layer.residual or len(layer.node.users) > 1:
            return False
        if not is_halving or not layer.geometry.suits_winograd:
            return False
        layer.pool = True
        return self._extend(layer, node)

    def _open_convolution(self, node: Any) -> Convolution | None:
        """The convolution whose plain outputs a node has, if only one other node wants them."""
        layer = self.makers.get(node)
        if not isinstance(layer, Convolution) or layer.relu or layer.pool or layer.residual or len(node.users) > 1:
            return None
        return layer

    def _extend(self, layer: Convolution | Dense, node: fx.Node) -> bool:
        del self.makers[layer.node]
        layer.node = node
        self.makers[node] = layer
        return True

    def _alone(self, node: fx.Node, target: Any) -> Layer:
        if type(target) is nn.Conv2d and is_plain(target):
            return self._convolution(node, target)
        if type(target) in (nn.MaxPool2d, nn.AvgPool2d) and (sizes := pool_sizes(target)) is not None:
            return Pooling(node, node.all_input_nodes[0], *sizes, isinstance(target, nn.AvgPool2d), target.ceil_mode)
        if type(target) is nn.AdaptiveAvgPool2d and target.output_size in (1, (1, 1)):
            return Pooling(node, node.all_input_nodes[0], window=None)
        if type(target) is nn.Linear and target.out_features % OUTPUTS == 0 and target.in_features % LANES == 0:
            return Dense(node, node.all_input_nodes[0], target)
        if target in CONCATENATIONS and _dimension(node) == 1:
            return Concatenation(node, tuple(node.args[0]))  # type: ignore[arg-type]
        return Call(node)

    def _convolution(self, node: fx.Node, layer: nn.Conv2d) -> Convolution:
        source = node.all_input_nodes[0]
        made = Convolution(node, source, layer, str(node.target))
        if layer.kernel_size != (1, 1) or layer.padding != (0, 0) or layer.in_channels % LANES:
            return made
        norm_node = source.all_input_nodes[0] if self._is_lone(source, nn.ReLU) else None
        if norm_node is not None and self._is_lone(norm_node, nn.BatchNorm2d):
            made.activation = self.target(norm_node)
            made.source = norm_node.all_input_nodes[0]
            del self.makers[source], self.makers[norm_node]
        return made

    def _is_lone(self, node: fx.Node, kind: type[nn.Module]) -> bool:
        """Whether a node is a call of its own to such a module (or ReLU by function) with one user."""
        if not isinstance(self.makers.get(node), Call) or len(node.users) > 1:
            return False
        target = self.target(node)
        if type(target) is nn.BatchNorm2d and target.running_mean is None:
            return False  # it normalises by the statistics of its inputs
        return type(target) is kind or (kind is nn.ReLU and target in RELUS)


def geometry_of(layer: nn.Conv2d) -> Geometry:
    """The sizes of a layer for which ``is_plain`` holds."""
    kernel = (layer.kernel_size[0], layer.kernel_size[1])
    padding = (int(layer.padding[0]), int(layer.padding[1]))
    return Geometry(layer.in_channels, layer.out_channels, kernel, layer.stride[0], padding)


def is_plain(layer: nn.Conv2d) -> bool:
    """Whether the engine's kernels know this layer: no groups or dilation, zeros around, whole vectors of outputs."""
    return (
        layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.stride[0] == layer.stride[1]
        and layer.out_channels % LANES == 0
    )


def pool_sizes(pool: nn.MaxPool2d | nn.AvgPool2d) -> tuple[int, int, int] | None:
    """Window, stride and padding of a pool that is the same both ways; None for others."""
    window, stride, padding = (
        value if isinstance(value, int) else (value[0] if len(set(value)) == 1 else None)
        for value in (pool.kernel_size, pool.stride, pool.padding)
    )
    if window is None or stride is None or padding is None:
        return None
    is_max = isinstance(pool, nn.MaxPool2d)
    if is_max and (pool.dilation not in (1, (1, 1)) or pool.return_indices):
        return None
    if not is_max and (pool.ceil_mode or pool.divisor_override is not None):
        return None
    if not is_max and padding != 0 and not pool.count_include_pad:  # the kernel divides by the whole window
        return None
    return window, stride, padding


def _dimension(node: fx.Node) -> Any:
    return node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
