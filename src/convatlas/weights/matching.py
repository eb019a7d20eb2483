"""Which layer of a file is which of a network: by name, by what the papers call it, or by the order of the layers.

Each way is tried, and the one that loads most is taken, the more certain one where two load as much.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from convatlas.models.contract import Classifier
from convatlas.models.registry import list_models, model_entry, outline_model
from convatlas.weights.layers import Layer, flattened_map, layers_in_order, layers_of, paper_names, shortcuts_last
from convatlas.weights.report import LayerReport, LoadReport, SkippedLayer, Status, shapes
from convatlas.weights.source import Weights

KERAS_DENSE = {"fc1": "fc6", "fc2": "fc7"}  # of VGG, whose paper does not number its dense layers; Caffe's names do
Pairs = dict[str, Layer]  # a layer of the network -> that of the file


@dataclass(frozen=True)
class Match:
    """The tensors to load by their full names, and what became of each layer."""

    tensors: Mapping[str, Tensor]
    report: LoadReport


def match(model: Classifier, weights: Weights) -> Match:
    """The best way to find a file's layers in a network. Nothing is changed."""
    ours = layers_in_order(model)
    ways: Sequence[tuple[str, Callable[[], Pairs]]] = (
        ("by name", lambda: _by_name(ours, weights.layers)),
        ("by the layers' names in the paper", lambda: _by_paper(model, weights)),
        ("in the order of the layers", lambda: _in_order(_without_auxiliary(model, ours), weights.layers)),
    )
    found = []
    for how, find in ways:
        found.append(_settled(model, ours, weights, _with_output(model, ours, weights.layers, find()), how))
        if not any(layer.status != "loaded" for layer in found[-1].report.layers):
            break
    return max(found, key=lambda each: each.report.loaded)  # the first of those that load most


def _by_name(ours: Sequence[Layer], theirs: Sequence[Layer]) -> Pairs:
    named = {layer.name: layer for layer in theirs}
    return {layer.name: named[layer.name] for layer in ours if layer.name in named}


def _by_paper(model: Classifier, weights: Weights) -> Pairs:
    """For networks that share blocks with another: VGG-19's convolutions in a VGG-16 with batch normalisation."""
    own = paper_names(model)
    theirs = {name: layer for layer in weights.layers for name in [_keras_name(layer.name)] if name in own}
    if not theirs:
        theirs = _named_by_relative(model, weights.layers)
    return {own[name]: layer for name, layer in theirs.items() if name in own}


def _keras_name(name: str) -> str:
    """What the paper calls a layer of Keras' VGG: block3_conv2 is conv3_2."""
    block, _, conv = name.partition("_conv")
    if block.startswith("block") and block[5:].isdigit() and conv.isdigit():
        return f"conv{block[5:]}_{conv}"
    return KERAS_DENSE.get(name, name)


def _named_by_relative(model: Classifier, theirs: Sequence[Layer]) -> dict[str, Layer]:
    """The paper's names of a file's layers, if the file is of another network of the same family."""
    if model.registered_as is None:
        return {}
    names = {layer.name: layer for layer in theirs}
    family = (outline_model(name) for name in list_models(model_entry(model.registered_as).family))
    relative = next(
        (each for each in family if {layer.name for layer in layers_of(each.state_dict())} == set(names)), None
    )
    if relative is None:
        return {}
    return {paper: names[path] for paper, path in paper_names(relative).items()}


def _in_order(ours: Sequence[Layer], theirs: Sequence[Layer]) -> Pairs:
    """Kind by kind: files of Keras 3 do not say how layers of different kinds follow each other.

    Only where both have as many of a kind, all of the same shapes: otherwise some are not what they seem. Dense layers
    depend on the classes and the size of the images, and may differ.
    """
    own, others = _by_kind(ours), _by_kind(theirs)
    pairs: Pairs = {}
    for kind, mine in own.items():
        found = others.get(kind, [])
        is_whole = len(mine) == len(found)
        if kind == "dense":
            pairs |= {layer.name: other for layer, other in zip(mine, found, strict=True)} if is_whole else {}
        elif not is_whole or any(map(_wrong_shape, mine, (layer.tensors for layer in found))):
            return {}
        else:
            pairs |= {layer.name: other for layer, other in zip(mine, found, strict=True)}
    return pairs


def _without_auxiliary(model: Classifier, layers: Sequence[Layer]) -> list[Layer]:
    """The layers that a prediction comes to: other libraries often leave the heads out that only help in training."""
    return [layer for layer in layers if layer.name.partition(".")[0] not in model.auxiliary_heads]


def _with_output(model: Classifier, ours: Sequence[Layer], theirs: Sequence[Layer], pairs: Pairs) -> Pairs:
    """The output layer too, which every library calls otherwise, if one layer that is left has its very shape."""
    output = next((layer for layer in ours if layer.name == model.output_names[-1]), None)
    if output is None or output.name in pairs or not pairs:
        return pairs
    used = {layer.name for layer in pairs.values()}
    fitting = [each for each in theirs if each.name not in used and _is_like(output, each)]
    return pairs | {output.name: fitting[0]} if len(fitting) == 1 else pairs


def _is_like(output: Layer, other: Layer) -> bool:
    return other.kind != "norm" and _wrong_shape(output, other.tensors) is None


def _by_kind(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Layers of each kind in their order; convolutions with a bias apart where some have one and some have none."""
    found: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        found[layer.kind].append(layer)
    with_bias = [layer for layer in found["convolution"] if "bias" in layer.tensors]
    if 0 < len(with_bias) < len(found["convolution"]):
        found["convolution with bias"] = with_bias
        found["convolution"] = [layer for layer in found["convolution"] if "bias" not in layer.tensors]
    names = [layer.name for layer in layers]
    ordered = {kind: shortcuts_last([layer.name for layer in group], names) for kind, group in found.items()}
    return {kind: [found[kind][at] for at in places] for kind, places in ordered.items() if places}


def _settled(model: Classifier, ours: Sequence[Layer], weights: Weights, pairs: Pairs, how: str) -> Match:
    """What of the pairs fits, as tensors and as a report."""
    fitted = _Fitting(model, ours, weights, pairs)
    tensors: dict[str, Tensor] = {}
    rows = []
    for layer in ours:
        row, values = fitted.of(layer)
        rows.append(row)
        tensors |= {f"{layer.name}.{name}": tensor for name, tensor in values.items()}
    used = {row.source for row in rows if row.status == "loaded"}
    skipped = tuple(SkippedLayer(each.name, each.parameters) for each in weights.layers if each.name not in used)
    return Match(tensors, LoadReport(weights.name, how, tuple(rows), skipped, weights.remarks))


class _Fitting:
    """Brings layers of a file into the shapes of the network's."""

    def __init__(self, model: Classifier, ours: Sequence[Layer], weights: Weights, pairs: Pairs) -> None:
        self._model, self._weights, self._pairs = model, weights, pairs
        self._grid = flattened_map(model) if weights.library == "keras" else None
        self._first_dense = next((layer.name for layer in ours if layer.kind == "dense"), None)
        self._biases = _biases_before_norms(ours, pairs)

    def of(self, layer: Layer) -> tuple[LayerReport, dict[str, Tensor]]:
        """What became of a layer, and its tensors if they fit."""
        is_output = bool(self._pairs) and layer.name in self._model.output_names
        theirs = self._pairs.get(layer.name)
        if theirs is None:
            return LayerReport(layer.name, layer.kind, "new head" if is_output else "initial", layer.parameters), {}
        values = dict(theirs.tensors)
        if self._grid is not None and layer.name == self._first_dense:
            values["weight"] = _flattened_as_here(values["weight"], self._grid)
        wrong = _wrong_shape(layer, values)
        if wrong is not None:
            status: Status = "new head" if is_output else "mismatched"
            return LayerReport(layer.name, layer.kind, status, layer.parameters, theirs.name, wrong), {}
        shift = self._weights.epsilon_shift(self._model, layer.name, theirs.name)
        values = _as_here(layer, values, self._biases.get(layer.name), shift)
        return LayerReport(layer.name, layer.kind, "loaded", layer.parameters, theirs.name), values


def _wrong_shape(layer: Layer, values: Mapping[str, Tensor]) -> str | None:
    """How a layer of the file differs in shape; None where it fits. A 1x1 convolution is a dense layer."""
    for name, tensor in layer.tensors.items():
        if name not in values:
            if _is_understood(layer, name):
                continue
            return f"no {name} in the file"
        if values[name].numel() != tensor.numel() or _core(values[name]) != _core(tensor):
            return shapes(tuple(values[name].shape), tuple(tensor.shape))
    return None


def _is_understood(layer: Layer, name: str) -> bool:
    """A batch normalisation without scale has scale 1."""
    return layer.kind == "norm" and name == "weight"


def _core(tensor: Tensor) -> tuple[int, ...]:
    """The shape without the window of a 1x1 convolution."""
    return tuple(tensor.shape[:2]) if tensor.shape[2:] == (1, 1) else tuple(tensor.shape)


def _as_here(
    layer: Layer, values: dict[str, Tensor], bias_before: Tensor | None, epsilon_shift: float
) -> dict[str, Tensor]:
    """The values in the network's shapes and types, with what the network has no place for taken up elsewhere."""
    if layer.kind == "norm":
        values.setdefault("weight", layer.tensors["weight"].new_ones(layer.tensors["weight"].shape))
        if bias_before is not None:  # norm(x + bias) is the norm of x with a mean that is smaller by the bias
            values["running_mean"] = values["running_mean"] - bias_before
        if epsilon_shift:
            values["running_var"] = values["running_var"] + epsilon_shift
    return {name: values[name].reshape(own.shape).to(own.dtype) for name, own in layer.tensors.items()}


def _biases_before_norms(ours: Sequence[Layer], pairs: Pairs) -> dict[str, Tensor]:
    """Normalisation -> the bias of the convolution before it, where the file has one and the network has none."""
    found = {}
    for layer, following in pairwise(ours):
        theirs = pairs.get(layer.name)
        has_bias = theirs is not None and "bias" in theirs.tensors and "bias" not in layer.tensors
        if theirs is not None and has_bias and following.kind == "norm":
            found[following.name] = theirs.tensors["bias"]
    return found


def _flattened_as_here(weight: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """A dense layer on a map that Keras flattens as rows, columns, channels: here channels come first."""
    channels, height, width = grid
    if weight.shape[1] != channels * height * width:
        return weight
    return weight.reshape(-1, height, width, channels).permute(0, 3, 1, 2).flatten(1)
