"""A network's evaluation for one shape of input: every buffer in its place, every kernel told what to do.

Built by running the network once. Afterwards a call copies the images in, runs the steps and copies the logits out;
nothing is allocated. A buffer is used again as soon as its picture has had its last reader, and what will be
concatenated is written side by side in the first place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from convatlas.engine import pytorch, threads
from convatlas.engine.choice import Chooser, Prepare
from convatlas.engine.convolutions import (
    FLOAT,
    Epilogue,
    direct,
    empty_picture,
    grouped,
    is_picture,
    pack_taps,
    pack_weight,
    picture,
    transform_weight,
    winograd,
)
from convatlas.engine.graph import (
    Affine,
    Call,
    Concatenation,
    Convolution,
    Dense,
    Graph,
    Layer,
    Part,
    Pooling,
    changes_in_place,
    scale_and_shift,
)
from convatlas.engine.jobs import AFFINE, LANES, LINEAR, OUTPUTS, POOLING

SIZES = (getattr, "size", "dim", "ndimension", "numel", "stride")  # what depends on the shape of a tensor only

Step = Callable[[], object]

VALUES_READ = 4  # for one, in a pass that is bound by memory
MOST_IMAGES = 32  # of a dense layer by the engine; a matrix product of PyTorch's is better at more


class Weights:
    """The weights of a network's layers as its kernels want them; made when first asked for."""

    def __init__(self) -> None:
        self._made: dict[tuple[Layer, str], Any] = {}

    def bias(self, layer: Convolution) -> Tensor | None:
        """The bias with the batch norm in it."""
        return cast(Tensor | None, self._once(layer, "bias", lambda: _in_one_piece(layer.folded()[1])))

    def plain(self, layer: Convolution) -> Tensor:
        """The weight with the batch norm in it, as PyTorch has weights."""
        return cast(Tensor, self._once(layer, "plain", lambda: layer.folded()[0]))

    def transformed(self, layer: Convolution) -> Tensor:
        """The weight in the Winograd domain."""
        return cast(Tensor, self._once(layer, "winograd", lambda: transform_weight(layer.folded()[0])))

    def panels(self, layer: Convolution) -> Tensor:
        """The weight as panels of the direct kernel."""
        groups = layer.geometry.groups
        return cast(Tensor, self._once(layer, "direct", lambda: pack_weight(layer.folded()[0], groups)))

    def taps(self, layer: Convolution) -> Tensor:
        """The weight of a depthwise convolution, or one in small groups, channels side by side."""
        kind = "depthwise" if layer.geometry.is_depthwise else "groups"
        return cast(Tensor, self._once(layer, kind, lambda: pack_taps(layer.folded()[0])))

    def laid_out(self, layer: Convolution, x: Tensor) -> Tensor | None:
        """The weight as oneDNN wants it."""
        made = self._once(layer, "torch", lambda: pytorch.lay_out(layer.geometry, layer.folded()[0], x))
        return cast(Tensor | None, made)

    def scale_and_shift(self, layer: Layer, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        """A batch norm that is not folded into a convolution."""
        channels = norm.num_features
        made = self._once(layer, "norm", lambda: tuple(part.float() for part in scale_and_shift(norm, channels)))
        return cast(tuple[Tensor, Tensor], made)

    def keep(self, layer: Convolution, kernel: str) -> None:
        """Give back what was only made to be compared."""
        for kind in {"winograd", "direct", "depthwise", "groups", "torch", "plain"} - {
            kernel,
            "plain" if kernel == "torch" else "",
        }:
            self._made.pop((layer, kind), None)

    def _once(self, layer: Layer, kind: str, make: Callable[[], Any]) -> Any:
        if (layer, kind) not in self._made:
            self._made[layer, kind] = make()
        return self._made[layer, kind]


class Arena:
    """Memory for pictures: blocks that are handed out, given back and handed out again."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, size: int) -> Tensor:
        """A block of at least ``size`` values: the smallest that is free and large enough, or a new one."""
        fitting = [block for block in self._free if block.numel() >= size]
        if not fitting:
            return torch.empty(size)
        block = min(fitting, key=Tensor.numel)
        self._free = [other for other in self._free if other is not block]
        return block

    def give(self, block: Tensor) -> None:
        """Take a block back."""
        self._free.append(block)


@dataclass
class Home:
    """Where pictures lie that are concatenated: beside each other in one picture."""

    channels: int
    slices: dict[fx.Node, tuple[int, int]]  # first and last channel, of the parts and of what they are joined to
    readers: int = 0  # nodes among those that are still wanted
    block: Tensor | None = None
    whole: Tensor | None = None


class Program:
    """The steps of a network's evaluation of images [N, C, H, W].

    Args:
        graph: the network's layers.
        weights: their weights, shared with the programs of other shapes.
        chooser: says which kernel does a layer.
        images: the first input; the network is run on it.
    """

    def __init__(self, graph: Graph, weights: Weights, chooser: Chooser, images: Tensor) -> None:
        self._graph = graph
        self._weights = weights
        self._chooser = chooser
        self._arena = Arena()
        self._values: dict[fx.Node, Any] = {}
        self._blocks: dict[fx.Node | int, Tensor] = {}
        self._copies: dict[fx.Node, Tensor] = {}
        self._homes = _find_homes(graph)
        self.steps: list[Step] = []
        self._input = empty_picture(*images.shape).copy_(images)
        self._values[graph.input] = self._input
        self._build()
        self._output = self._values[graph.output]
        if not isinstance(self._output, Tensor):
            raise TypeError("an output that is no tensor")

    @property
    def bytes_of_an_image(self) -> int:
        """What the layer with the largest pictures reads and writes, by the image."""
        read_and_written = ((layer.node, *layer.inputs) for layer in self._graph.layers)
        sizes = (sum(map(self._values_of, nodes)) for nodes in read_and_written)
        return FLOAT * max(sizes, default=0) // len(self._input)

    def _values_of(self, node: fx.Node) -> int:
        value = self._values[node]
        return value.numel() if isinstance(value, Tensor) else 0

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of images of the shape that the program is for."""
        self._input.copy_(images)
        for step in self.steps:
            step()
        return cast(Tensor, self._output).clone()

    def _build(self) -> None:
        last_use = self._last_uses()
        for index, layer in enumerate(self._graph.layers):
            step = self._step(layer)
            if step is not None:
                step()
                self.steps.append(step)
            for node in [node for node, last in last_use.items() if last == index]:
                self._release(node)
                del last_use[node]

    def _last_uses(self) -> dict[fx.Node, int]:
        """For each node the index of the last layer that reads it; the output is never released."""
        last: dict[fx.Node, int] = {}
        whole: dict[fx.Node, fx.Node] = {}  # of a part: what it is a view of
        for index, layer in enumerate(self._graph.layers):
            if isinstance(layer, Part):
                whole[layer.node] = whole.get(layer.source, layer.source)
            for node in (layer.node, *layer.inputs):
                last[whole.get(node, node)] = index
        kept = whole.get(self._graph.output, self._graph.output)
        return {node: index for node, index in last.items() if node is not kept}

    def _release(self, node: fx.Node) -> None:
        home = self._homes.get(node)
        if home is None:
            block = self._blocks.pop(node, None)
            if block is not None:
                self._arena.give(block)
            return
        home.readers -= 1
        if home.readers == 0 and home.block is not None:
            self._arena.give(home.block)

    def _step(self, layer: Layer) -> Step | None:
        steps: dict[type[Layer], Callable[[Any], Step | None]] = {
            Convolution: self._convolution,
            Affine: self._affine,
            Pooling: self._pooling,
            Concatenation: self._concatenation,
            Part: self._part,
            Dense: self._dense,
            Call: self._call,
        }
        return steps[type(layer)](layer)

    def _part(self, layer: Part) -> None:
        self._values[layer.node] = layer.split(self._values[layer.source])[layer.index]

    def _convolution(self, layer: Convolution) -> Step:
        x = self._picture(layer.source)
        geometry = layer.geometry
        if x.shape[1] != geometry.channels:
            raise TypeError("a picture of another number of channels than the layer's")
        high, wide = geometry.output_size(x.shape[2], x.shape[3])
        if layer.pool:
            high, wide = high // 2, wide // 2
        y = self._place(layer.node, (x.shape[0], geometry.out_channels, high, wide))
        residual = None if layer.residual is None else self._picture(layer.residual)
        if residual is not None and residual.shape != y.shape:
            raise TypeError("a shortcut of another shape")
        epilogue = Epilogue(self._weights.bias(layer), residual, layer.activation, layer.pool)
        kernels = self._kernels(layer)
        kernel = self._chooser.choose(layer.name, geometry, x, kernels)
        step = self._finished(layer, kernel, x, y, epilogue)
        self._weights.keep(layer, kernel)
        return step

    def _kernels(self, layer: Convolution) -> dict[str, Prepare]:
        """Those that can do a layer, each as it would be run."""
        geometry = layer.geometry
        epilogue = Epilogue(activation=layer.activation)
        names = ["winograd"] if geometry.suits_winograd else []
        if geometry.has_small_groups and not geometry.is_depthwise and layer.residual is None:
            names.append("groups")
        names.append("depthwise" if geometry.is_depthwise else "direct")
        if layer.pre_norm is None:
            names.append("torch")
        return {name: _preparing(self._prepared, layer, name, epilogue) for name in names}

    def _prepared(self, layer: Convolution, kernel: str, x: Tensor, y: Tensor, epilogue: Epilogue) -> Step:
        geometry, weights = layer.geometry, self._weights
        if kernel == "winograd":
            return winograd(geometry, x, weights.transformed(layer), y, epilogue)
        if kernel in ("depthwise", "groups"):
            return grouped(geometry, x, weights.taps(layer), y, epilogue)
        if kernel == "torch":
            laid_out = weights.laid_out(layer, x)
            weight = weights.plain(layer) if laid_out is None else laid_out
            return pytorch.convolve(geometry, x, weight, y, epilogue, laid_out=laid_out is not None)
        pre_norm = None if layer.pre_norm is None else weights.scale_and_shift(layer, layer.pre_norm)
        if pre_norm is not None and len(pre_norm[0]) != geometry.channels:
            raise TypeError("a normalisation of another number of channels")
        return direct(geometry, x, weights.panels(layer), y, epilogue, pre_norm)

    def _finished(self, layer: Convolution, kernel: str, x: Tensor, y: Tensor, epilogue: Epilogue) -> Step:
        """A layer by a kernel, with all that belongs to it."""
        if kernel == "winograd":
            call = self._prepared(layer, kernel, x, y, epilogue)
            return lambda: None if call() else _convolve_by_torch(layer, x, y, epilogue)
        if not layer.pool or kernel == "torch":
            return self._prepared(layer, kernel, x, y, epilogue)
        geometry = layer.geometry
        full = self._scratch_picture(x.shape[0], geometry.out_channels, *geometry.output_size(x.shape[2], x.shape[3]))
        first = self._prepared(layer, kernel, x, full, Epilogue(epilogue.bias, activation=epilogue.activation))
        second = pooling(full, y, 2, 2, 0, average=False)
        return lambda: (first(), second())

    def _affine(self, layer: Affine) -> Step | None:
        values = [self._values[node] for node in layer.inputs]
        x = values[0]
        if not isinstance(x, Tensor) or not self._is_affine(layer, x):
            return self._affine_by_torch(layer)
        x = self._picture(layer.source)
        residual = None if layer.residual is None else self._picture(layer.residual)
        gate = None if layer.gate is None else self._values[layer.gate].flatten(1)
        scale, shift = gate, None
        if layer.norm is not None:
            scale, shift = self._weights.scale_and_shift(layer, layer.norm)
        y = self._place(layer.node, tuple(x.shape))
        return affine(x, y, scale, shift, residual, layer.activation)

    def _is_affine(self, layer: Affine, x: Tensor) -> bool:
        """Whether the kernel does it: pictures of one shape, and one number for each image and channel as the gate."""
        if x.dim() != 4 or x.dtype != torch.float32:
            return False
        if layer.residual is not None and self._values[layer.residual].shape != x.shape:
            return False
        if layer.norm is not None:
            return layer.norm.num_features == x.shape[1] and layer.gate is None
        if layer.gate is None:
            return True
        gate = self._values[layer.gate]
        is_one_a_channel = isinstance(gate, Tensor) and gate.shape == (*x.shape[:2], 1, 1)
        return is_one_a_channel and gate.dtype == torch.float32 and gate.flatten(1).is_contiguous()

    def _affine_by_torch(self, layer: Affine) -> Step | None:
        x, *others = (self._values[node] for node in layer.inputs)

        def compute() -> Any:
            made = x if layer.norm is None else layer.norm(x)
            rest = list(others)
            made = made * rest.pop(0) if layer.gate is not None else made
            return made + rest.pop(0) if layer.residual is not None else made

        if not isinstance(compute(), Tensor):  # sums and products of sizes
            self._values[layer.node] = compute()
            return None
        return self._kept(layer.node, lambda: pytorch.activate(compute(), layer.activation))

    def _kept(self, node: fx.Node, compute: Callable[[], Any]) -> Step:
        """A step that leaves what PyTorch computes where the value of a node is."""
        result = compute()
        if result.dim() == 4 and node in self._homes:
            kept = self._place(node, tuple(result.shape))
        else:
            kept = self._values[node] = torch.empty_like(result)
        return lambda: kept.copy_(compute())

    def _pooling(self, layer: Pooling) -> Step | None:
        x = self._picture(layer.source)
        height, width = x.shape[2:]
        is_square = layer.window is not None or height == width
        if not is_square:
            return self._call(Call(layer.node))
        y = self._place(layer.node, (x.shape[0], x.shape[1], *layer.output_size(height, width)))
        return pooling(x, y, layer.window or height, layer.stride, layer.padding, average=layer.average)

    def _concatenation(self, layer: Concatenation) -> Step | None:
        parts = [self._picture(node) for node in layer.inputs]
        channels = sum(part.shape[1] for part in parts)
        y = self._place(layer.node, (parts[0].shape[0], channels, *parts[0].shape[2:]))
        slices = torch.split(y, [part.shape[1] for part in parts], dim=1)
        if all(place.data_ptr() == part.data_ptr() for place, part in zip(slices, parts, strict=True)):
            return None  # its parts were written in their places
        return lambda: [place.copy_(part) for place, part in zip(slices, parts, strict=True)]

    def _dense(self, layer: Dense) -> Step | None:
        x, weight, bias = self._values[layer.source], layer.layer.weight.detach(), layer.bias()
        if not _is_matrix(x) or not _is_matrix(weight) or len(x) > MOST_IMAGES or x.shape[1] != weight.shape[1]:
            return self._kept(
                layer.node, lambda: pytorch.activate(functional.linear(x, weight, bias), layer.activation)
            )
        y = self._values[layer.node] = torch.empty(len(x), len(weight))
        return dense(x, weight, bias, y, activation=layer.activation)

    def _call(self, layer: Call) -> Step | None:
        node = layer.node
        function = _function_of(node, self._graph.module)
        args: Any = fx.node.map_arg(node.args, self._values.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, self._values.__getitem__)
        if changes_in_place(node, self._graph.module):
            function = _on_a_copy(function)  # others may lie in the same memory: the parts of a concatenation
        result = function(*args, **kwargs)
        if isinstance(result, Tensor):
            return self._kept(node, lambda: function(*args, **kwargs))
        if _has_tensors(result):
            raise TypeError("a call with several results")
        if _has_tensors(args) and node.target not in SIZES:
            raise TypeError("a number that depends on the images")
        self._values[node] = result  # a size, say: it is the same every time
        return None

    def _picture(self, node: fx.Node) -> Tensor:
        """The value of a node in a form the kernels read; copied there first where it lies in memory otherwise."""
        value = self._values[node]
        if not isinstance(value, Tensor) or value.dim() != 4 or value.dtype != torch.float32:
            raise TypeError("a convolution of something that is not a picture")
        if is_picture(value):
            return value
        if node not in self._copies:
            copy = self._copies[node] = empty_picture(*value.shape)
            copy.copy_(value)
            self.steps.append(lambda: copy.copy_(value))
        return self._copies[node]

    def _place(self, node: fx.Node, shape: tuple[int, ...]) -> Tensor:
        """Room for the value of a node: in its home, or in a block of its own."""
        home = self._homes.get(node)
        if home is None:
            value = self._blocks[node] = self._arena.take(math.prod(shape))
            value = _as_picture(value, shape)
        else:
            if home.whole is None:
                whole = (shape[0], home.channels, *shape[2:])
                home.block = self._arena.take(math.prod(whole))
                home.whole = _as_picture(home.block, whole)
            first, last = home.slices[node]
            value = home.whole[:, first:last]
            if value.shape != shape:
                raise TypeError("pictures of different sizes are joined")
        self._values[node] = value
        return value

    def _scratch_picture(self, *shape: int) -> Tensor:
        block = self._arena.take(math.prod(shape))
        self._arena.give(block)  # whoever takes it next writes after this step has read it
        return _as_picture(block, shape)


def pooling(x: Tensor, y: Tensor, window: int, stride: int, padding: int, *, average: bool) -> Step:
    """A call that pools ``x`` into ``y``."""
    return threads.Job(
        POOLING,
        tasks=y.shape[0] * y.shape[2],
        work=y.numel() * window * window,
        owners=(x, y),
        **picture("x", x),
        **picture("y", y),
        height=x.shape[2],
        width=x.shape[3],
        channels=x.shape[1],
        out_height=y.shape[2],
        out_width=y.shape[3],
        window=window,
        stride=stride,
        pad=padding,
        average=int(average),
    ).run


def affine(
    x: Tensor, y: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, activation: int
) -> Step:
    """A call for ``y = activation(x * scale + shift + residual)``.

    Args:
        x, y, residual: pictures of one shape.
        scale: [C], or [N, C] for each image its own.
        shift: [C].
        activation: RELU, RELU6 or 0.
    """
    fields = picture("residual", residual) if residual is not None else {}
    return threads.Job(
        AFFINE,
        tasks=x.shape[0] * x.shape[2],
        work=VALUES_READ * x.numel(),
        owners=(x, y, scale, shift, residual),
        **picture("x", x),
        **picture("y", y),
        **fields,
        height=x.shape[2],
        width=x.shape[3],
        channels=x.shape[1],
        scale=0 if scale is None else scale.data_ptr(),
        scale_image=0 if scale is None or scale.dim() == 1 else scale.stride(0),
        shift=0 if shift is None else shift.data_ptr(),
        activation=activation,
    ).run


def dense(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, *, activation: int = 0) -> Step:
    """A call for ``y = activation(x @ weight.T + bias)``; x [N, depth], weight [outputs, depth], contiguous."""
    return threads.Job(
        LINEAR,
        tasks=-(-len(weight) // OUTPUTS),
        scratch=len(x) * OUTPUTS * LANES * FLOAT,
        work=len(x) * weight.numel(),
        owners=(x, weight, bias, y),
        x=x.data_ptr(),
        w=weight.data_ptr(),
        bias=0 if bias is None else bias.data_ptr(),
        y=y.data_ptr(),
        images=len(x),
        depth=x.shape[1],
        outputs=len(weight),
        activation=activation,
    ).run


def _preparing(prepared: Callable[..., Step], layer: Convolution, kernel: str, epilogue: Epilogue) -> Prepare:
    return lambda x, y: prepared(layer, kernel, x, y, epilogue)


def _in_one_piece(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _is_matrix(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.dim() == 2 and tensor.dtype == torch.float32 and tensor.is_contiguous()


def _as_picture(block: Tensor, shape: Sequence[int]) -> Tensor:
    images, channels, height, width = shape
    flat = block[: math.prod(shape)]
    return flat.view(images, height, width, channels).permute(0, 3, 1, 2)


def _convolve_by_torch(layer: Convolution, x: Tensor, y: Tensor, epilogue: Epilogue) -> None:
    """The same convolution, where infinities and NaN must reach no further than they should."""
    made = functional.conv2d(x, layer.folded()[0], epilogue.bias, layer.layer.stride, layer.layer.padding)
    y.copy_(pytorch.finished(made, epilogue))


def _function_of(node: fx.Node, module: fx.GraphModule) -> Callable[..., Any]:
    if node.op == "call_module":
        return module.get_submodule(str(node.target))
    if node.op == "call_method":
        # channels lie side by side here, where ``view`` would refuse to flatten them
        method = "reshape" if node.target == "view" else str(node.target)
        return lambda tensor, *args, **kwargs: getattr(tensor, method)(*args, **kwargs)
    if node.op == "get_attr":
        return lambda: _attribute(module, str(node.target))
    return node.target  # type: ignore[return-value]


def _on_a_copy(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda tensor, *args, **kwargs: function(tensor.clone(), *args, **kwargs)


def _attribute(module: nn.Module, path: str) -> Any:
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _has_tensors(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_tensors(part) for part in value)
    return isinstance(value, Tensor)


def _find_homes(graph: Graph) -> dict[fx.Node, Home]:
    """A home for the parts of each concatenation, longest first; shorter ones of the same parts are slices of it.

    So are the parts of a concatenation that is itself a part.
    """
    makers = {layer.node: layer for layer in graph.layers}
    homes: dict[fx.Node, Home] = {}
    joins = [layer for layer in graph.layers if isinstance(layer, Concatenation)]
    for join in sorted(joins, key=lambda layer: -len(layer.inputs)):
        widths = [_channels(node, makers) for node in join.inputs]
        if None in widths or len(set(join.inputs)) < len(join.inputs):
            continue
        ends = [sum(widths[: index + 1]) for index in range(len(widths))]  # type: ignore[arg-type]
        slices = {node: (end - width, end) for node, end, width in zip(join.inputs, ends, widths, strict=True)}  # type: ignore[operator]
        if join.node in homes:
            if not any(node in homes for node in join.inputs):
                outer, start = homes[join.node], homes[join.node].slices[join.node][0]
                outer.slices |= {node: (start + first, start + last) for node, (first, last) in slices.items()}
                homes |= dict.fromkeys(join.inputs, outer)
            continue
        home = homes.get(join.inputs[0])
        if home is None and not any(node in homes for node in join.inputs):
            home = Home(ends[-1], slices)
            homes |= dict.fromkeys(join.inputs, home)
        elif home is None or any(home.slices.get(node) != place for node, place in slices.items()):
            continue  # some of its parts lie elsewhere: they are copied
        home.slices[join.node] = (0, ends[-1])
        homes[join.node] = home
    for home in homes.values():
        home.readers += 1
    return homes


def _channels(node: fx.Node, makers: dict[fx.Node, Layer]) -> int | None:
    """How many channels the value of a node has, if it is written by one of the engine's kernels."""
    layer = makers.get(node)
    if isinstance(layer, Convolution):
        return layer.layer.out_channels
    if isinstance(layer, Pooling | Affine):
        return _channels(layer.source, makers)
    if isinstance(layer, Concatenation):
        widths = [_channels(part, makers) for part in layer.inputs]
        return None if None in widths else sum(widths)  # type: ignore[arg-type]
    return None
