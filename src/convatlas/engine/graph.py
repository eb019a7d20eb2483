"""A network's evaluation as a list of layers, with what belongs together made one.

Tracing gives one node per module or function call. Batch norm is folded into the convolution before it; the addition
of a shortcut, ReLU and a 2x2 max-pool after it become its epilogue; batch norm and ReLU before a 1x1 convolution are
applied to its inputs as they are gathered. Normalisations, gates and additions that stand alone become one pass with
the ReLU behind them. Everything else stays a call of PyTorch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from convatlas.engine.convolutions import Geometry
from convatlas.engine.jobs import RELU, RELU6
from convatlas.engine.tracing import symbolic_trace

ACTIVATION_OF: dict[Any, int] = {
    **dict.fromkeys((nn.ReLU, functional.relu, torch.relu, torch.relu_, "relu", "relu_"), RELU),
    **dict.fromkeys((nn.ReLU6, functional.relu6), RELU6),
}
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
CONCATENATIONS = (torch.cat, torch.concat)
SPLITS = (torch.chunk, torch.split, "chunk", "split")
ACTIVATIONS = (functional.relu, functional.relu6, functional.silu, functional.hardswish, functional.leaky_relu)
IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
SAME_VALUES = (nn.Flatten, nn.Dropout, nn.Dropout2d, nn.Identity, torch.flatten)  # of the very memory they are given
# What knows nothing of an image's neighbours:
MODULES_OF_ONE_IMAGE = (
    *(nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.LeakyReLU, nn.ELU),
    *(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.LocalResponseNorm, nn.ZeroPad2d),
)
FUNCTIONS_OF_ONE_IMAGE = (
    *(functional.silu, functional.gelu, functional.hardswish, functional.hardsigmoid, functional.leaky_relu),
    *(torch.sigmoid, torch.tanh, functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d),
)
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
    activation: int = 0
    pool: bool = False
    pre_norm: nn.BatchNorm2d | None = None  # applied to the inputs, with ReLU

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The nodes whose values it needs."""
        return (self.source,) if self.residual is None else (self.source, self.residual)

    @property
    def is_open(self) -> bool:
        """Whether its value is still that of the convolution, its bias and its norm alone."""
        return not (self.activation or self.pool or self.residual)

    @property
    def takes_residual(self) -> bool:
        """Whether something may be added to its outputs before they are stored."""
        return not self.pool and not self.geometry.is_depthwise

    @property
    def geometry(self) -> Geometry:
        """The sizes of the layer."""
        return geometry_of(self.layer)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the batch norm in them, computed in float64.

        Raises:
            TypeError: they are not what the layer's sizes say; PyTorch's own refusal is better than any here.
        """
        layer, geometry = self.layer, self.geometry
        shape = (geometry.out_channels, geometry.channels // geometry.groups, *geometry.kernel)
        weight = _as_expected(layer.weight, shape)
        bias = None if layer.bias is None else _as_expected(layer.bias, shape[:1])
        if self.norm is None:
            return weight, bias
        scale, shift = scale_and_shift(self.norm, geometry.out_channels)
        folded = weight.double() * scale[:, None, None, None]
        shift = shift if bias is None else shift + bias.double() * scale
        return folded.float(), shift.float()


@dataclass(eq=False)
class Affine:
    """What is done value by value: ``activation(norm(x) * gate + residual)``, each part only if there is one."""

    node: fx.Node
    source: fx.Node
    norm: nn.BatchNorm2d | None = None
    gate: fx.Node | None = None  # a number for each image and channel, or a picture: that is known when it is run
    residual: fx.Node | None = None
    activation: int = 0

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The nodes whose values it needs."""
        return tuple(node for node in (self.source, self.gate, self.residual) if node is not None)


@dataclass(eq=False)
class Part:
    """One of the parts that a picture is split into: a view of it."""

    node: fx.Node
    source: fx.Node
    split: Callable[[Tensor], Any]
    index: int

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The nodes whose values it needs."""
        return (self.source,)


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
    activation: int = 0

    def bias(self) -> Tensor | None:
        """The layer's bias, in one piece.

        Raises:
            TypeError: it is not of the length of the weight.
        """
        layer = self.layer
        return None if layer.bias is None else _as_expected(layer.bias, (len(layer.weight),)).contiguous()

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


Layer = Convolution | Affine | Pooling | Concatenation | Part | Dense | Call


@dataclass
class Graph:
    """The layers of a network in an order in which they can be computed."""

    input: fx.Node
    output: fx.Node
    layers: list[Layer]
    module: fx.GraphModule = field(repr=False)

    @property
    def takes_images_one_by_one(self) -> bool:
        """Whether a batch in parts gives the outputs of the whole, as far as is known of all that is called."""
        return all(not isinstance(layer, Call) or self._is_of_one_image(layer.node) for layer in self.layers)

    def _is_of_one_image(self, node: fx.Node) -> bool:
        target: Any = self.module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        if type(target) is nn.Flatten:
            return bool(target.start_dim == 1)
        if target is torch.flatten:
            return node.args[1:] == (1,) or node.kwargs == {"start_dim": 1}
        if isinstance(target, nn.Module):
            return isinstance(target, MODULES_OF_ONE_IMAGE)
        return activation_of(target) is not None or target in FUNCTIONS_OF_ONE_IMAGE


def scale_and_shift(norm: nn.BatchNorm2d, channels: int) -> tuple[Tensor, Tensor]:
    """A batch norm with its running statistics as ``x * scale + shift``, float64 [channels].

    Raises:
        TypeError: its tensors are not for so many channels.
    """
    mean, variance = (_as_expected(tensor, (channels,)).double() for tensor in (norm.running_mean, norm.running_var))
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _as_expected(norm.weight, (channels,)).double()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + _as_expected(norm.bias, (channels,)).double()
    return scale, shift


def _as_expected(tensor: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """The numbers of a parameter or buffer that is float32, on the CPU and of that shape."""
    if tensor is None or tensor.dtype != torch.float32 or not tensor.is_cpu or tuple(tensor.shape) != shape:
        raise TypeError(f"a parameter that is not float32 {shape} on the CPU")
    return tensor.detach()


def trace(model: nn.Module) -> Graph:
    """The graph of a network as it is when evaluated.

    Raises:
        Exception: fx cannot follow its forward method, which may then be anything; or it is of a form not known here.
    """
    with evaluating(model):
        module = symbolic_trace(model)
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
    if target in SAME_VALUES or target in VIEWS or target in SPLITS or target is operator.getitem:
        return True
    return changes_in_place(node, module)


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
            elif target in SPLITS and _is_taken_apart(node):
                continue  # its parts are layers
            elif not self._joins(node, target):
                self.makers[node] = self._alone(node, target)
        return [self.makers[node] for node in nodes if node in self.makers]

    def target(self, node: fx.Node) -> Any:
        """The module or function a node calls."""
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else node.target

    def _joins(self, node: fx.Node, target: Any) -> bool:
        if type(target) is nn.BatchNorm2d:
            return self._fold(node, target)
        if (activation := activation_of(target)) is not None:
            return self._join_activation(node, activation)
        if target in ADDITIONS:
            return self._join_addition(node)
        if type(target) is nn.MaxPool2d:
            return self._join_pool(node, target)
        return False

    def _fold(self, node: fx.Node, norm: nn.BatchNorm2d) -> bool:
        layer = self._alone_so_far(node.args[0])
        if not isinstance(layer, Convolution) or not layer.is_open or layer.norm is not None:
            return False
        if norm.running_mean is None:
            return False
        layer.norm = norm
        return self._extend(layer, node)

    def _join_activation(self, node: fx.Node, activation: int) -> bool:
        layer = self._alone_so_far(node.args[0])
        if not isinstance(layer, Convolution | Affine | Dense) or layer.activation:
            return False
        if isinstance(layer, Convolution) and layer.pool:
            return False
        layer.activation = activation
        return self._extend(layer, node)

    def _join_addition(self, node: fx.Node) -> bool:
        if not _has_two_operands(node):
            return False
        for part, other in (node.args, node.args[::-1]):
            layer = self._alone_so_far(part)
            if part is other or not isinstance(layer, Convolution | Affine):
                continue
            if layer.activation or layer.residual or (isinstance(layer, Convolution) and not layer.takes_residual):
                continue
            layer.residual = other  # type: ignore[assignment]
            return self._extend(layer, node)
        return False

    def _join_pool(self, node: fx.Node, pool: nn.MaxPool2d) -> bool:
        layer = self._alone_so_far(node.args[0])
        is_halving = pool_sizes(pool) == (2, 2, 0) and not pool.ceil_mode
        if not isinstance(layer, Convolution) or layer.pool or layer.residual:
            return False
        if not is_halving or not layer.geometry.suits_winograd:
            return False
        layer.pool = True
        return self._extend(layer, node)

    def _alone_so_far(self, node: Any) -> Layer | None:
        """The layer whose value a node is, if only one other node wants it."""
        return self.makers.get(node) if isinstance(node, fx.Node) and len(node.users) == 1 else None

    def _extend(self, layer: Convolution | Affine | Dense, node: fx.Node) -> bool:
        del self.makers[layer.node]
        layer.node = node
        self.makers[node] = layer
        return True

    def _alone(self, node: fx.Node, target: Any) -> Layer:
        if isinstance(target, nn.Module):
            return self._module(node, target)
        if _has_two_operands(node) and target in PRODUCTS:
            return Affine(node, node.args[0], gate=node.args[1])  # type: ignore[arg-type]
        if _has_two_operands(node) and target in ADDITIONS:
            return Affine(node, node.args[0], residual=node.args[1])  # type: ignore[arg-type]
        return self._function(node, target)

    def _function(self, node: fx.Node, target: Any) -> Layer:
        if target is functional.adaptive_avg_pool2d and node.args[1:] in ((1,), ((1, 1),)):
            return Pooling(node, node.args[0], window=None)  # type: ignore[arg-type]
        if target in CONCATENATIONS and _dimension(node) == 1:
            return Concatenation(node, tuple(node.args[0]))  # type: ignore[arg-type]
        if target is operator.getitem and self._is_part(node):
            return self._part(node)
        return Call(node)

    def _module(self, node: fx.Node, module: nn.Module) -> Layer:
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        if source is None or len(node.args) != 1 or node.kwargs:
            return Call(node)
        if type(module) is nn.Conv2d and is_plain(module):
            return self._convolution(node, module)
        if type(module) is nn.BatchNorm2d and module.running_mean is not None:
            return Affine(node, source, norm=module)
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d) and (sizes := pool_sizes(module)) is not None:
            return Pooling(node, source, *sizes, isinstance(module, nn.AvgPool2d), module.ceil_mode)
        if type(module) is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1)):
            return Pooling(node, source, window=None)
        return Dense(node, source, module) if type(module) is nn.Linear else Call(node)

    def _is_part(self, node: fx.Node) -> bool:
        whole, index = node.args
        return isinstance(whole, fx.Node) and isinstance(index, int) and self.target(whole) in SPLITS

    def _part(self, node: fx.Node) -> Part:
        whole: fx.Node = node.args[0]  # type: ignore[assignment]
        source, *how = whole.args
        function = whole.target if callable(whole.target) else getattr(Tensor, whole.target)
        keywords = dict(whole.kwargs)
        return Part(node, source, lambda picture: function(picture, *how, **keywords), node.args[1])  # type: ignore[arg-type]

    def _convolution(self, node: fx.Node, layer: nn.Conv2d) -> Convolution:
        source = node.all_input_nodes[0]
        made = Convolution(node, source, layer, str(node.target))
        if layer.kernel_size != (1, 1) or layer.padding != (0, 0) or layer.groups > 1:
            return made
        before = self._alone_so_far(source)
        if isinstance(before, Affine) and before.norm is not None and before.activation == RELU and not before.residual:
            made.pre_norm, made.source = before.norm, before.source
            del self.makers[source]
        return made


def activation_of(target: Any) -> int | None:
    """RELU or RELU6 for a module or function that is one; None for others."""
    try:
        return ACTIVATION_OF.get(type(target) if isinstance(target, nn.Module) else target)
    except TypeError:  # not hashable
        return None


def _has_two_operands(node: fx.Node) -> bool:
    return len(node.args) == 2 and not node.kwargs and all(isinstance(part, fx.Node) for part in node.args)


def _is_taken_apart(node: fx.Node) -> bool:
    """Whether a split's parts alone are used, each by its number."""
    is_known = bool(node.args) and isinstance(node.args[0], fx.Node) and node.op != "call_module"
    return is_known and all(user.target is operator.getitem and isinstance(user.args[1], int) for user in node.users)


def geometry_of(layer: nn.Conv2d) -> Geometry:
    """The sizes of a layer for which ``is_plain`` holds."""
    kernel = (layer.kernel_size[0], layer.kernel_size[1])
    padding = (int(layer.padding[0]), int(layer.padding[1]))
    channels, outputs = layer.in_channels, layer.out_channels
    return Geometry(channels, outputs, kernel, layer.stride[0], padding, layer.groups, layer.dilation[0])


def is_plain(layer: nn.Conv2d) -> bool:
    """Whether the engine's kernels know this layer: zeros around, stride and dilation the same both ways."""
    return (
        layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.stride[0] == layer.stride[1]
        and layer.dilation[0] == layer.dilation[1]
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
