"""Layers with weights, of a file and of a network: what they hold, and in which order a prediction comes to them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from convatlas.models.contract import Classifier, ConvDenseClassifier, blank_input
from convatlas.models.registry import outline_model

Kind = Literal["convolution", "depthwise", "dense", "norm", "other"]

COUNTED = "num_batches_tracked"  # how often a batch norm was shown a batch, which nothing computes with


@dataclass(frozen=True)
class Layer:
    """One layer's tensors under torch's names and in torch's layout: weight, bias, running_mean, running_var."""

    name: str
    tensors: Mapping[str, Tensor]

    @property
    def kind(self) -> Kind:
        """What it must be, from the shape of its weight."""
        if "weight" not in self.tensors:
            return "norm" if "running_mean" in self.tensors else "other"  # a normalisation may have no scale
        dimensions = self.tensors["weight"].dim()
        if dimensions == 1:
            return "norm"
        if dimensions == 2:
            return "dense"
        outputs, inputs = self.tensors["weight"].shape[:2]
        return "depthwise" if inputs == 1 and outputs > 1 else "convolution"

    @property
    def parameters(self) -> int:
        """Numbers that are learnt: running statistics are not."""
        return sum(tensor.numel() for name, tensor in self.tensors.items() if not name.startswith("running_"))


def layers_of(tensors: Mapping[str, Tensor]) -> tuple[Layer, ...]:
    """Tensors by their full names, as a state dict has them, as layers in the same order.

    >>> import torch
    >>> layers_of({"conv.weight": torch.zeros(8, 3, 3, 3), "conv.bias": torch.zeros(8)})[0].kind
    'convolution'
    """
    grouped: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        if last != COUNTED:
            grouped.setdefault(path, {})[last] = tensor
    return tuple(Layer(path, own) for path, own in grouped.items())


def layers_in_order(model: Classifier) -> tuple[Layer, ...]:
    """A network's own layers, as a prediction comes to them; those of auxiliary heads, to which none comes, last."""
    layers = {layer.name: layer for layer in layers_of(model.state_dict())}
    order = [name for name in dict.fromkeys(_order(model)) if name in layers]
    return tuple(layers[name] for name in [*order, *(name for name in layers if name not in set(order))])


def _order(model: Classifier) -> list[str]:
    if model.registered_as is not None:
        outline = _outline(model)
        return execution_order(outline, blank_input(outline, "meta"))
    was_training = model.training  # one's own may hold tensors, or ask for values, that are nowhere without memory
    try:
        with torch.no_grad():
            return execution_order(model, blank_input(model))
    finally:
        model.train(was_training)


def execution_order(network: nn.Module, images: Tensor) -> list[str]:
    """Paths of the layers with weights, as a prediction comes to them; projections on shortcuts end their block.

    >>> import torch
    >>> execution_order(outline_model("resnet18"), torch.empty(1, 3, 64, 64, device="meta"))[:3]
    ['conv1', 'bn1', 'layer1.0.conv1']
    """
    order: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: order.append(name)

    layers = [(name, layer) for name, layer in network.named_modules() if _has_tensors(layer)]
    handles = [layer.register_forward_hook(note(name)) for name, layer in layers]
    network.eval()(images)
    for handle in handles:
        handle.remove()
    return [order[at] for at in shortcuts_last(order)]


def _has_tensors(layer: nn.Module) -> bool:
    own = (*layer.parameters(recurse=False), *layer.buffers(recurse=False))
    return len(own) > 0


def shortcuts_last(names: Sequence[str], among: Sequence[str] = ()) -> list[int]:
    """The places of the names, the projection on a block's shortcut at the end of its block: some run it first.

    >>> shortcuts_last(["conv1", "block1_0_conv", "block1_1_conv", "layer1.0.downsample.0", "layer1.0.conv1", "fc"])
    [0, 2, 1, 4, 3, 5]

    Which blocks have such a projection is looked up ``among`` all names, where ``names`` are only some.
    """
    found = [re.match(r"(.+?)(\.downsample\.|_0_conv)", name) for name in among or names]
    blocks = {match[1] for match in found if match}

    def place(at: int) -> tuple[int, bool]:
        name = names[at]
        block = next((block for block in blocks if name.startswith((f"{block}.", f"{block}_"))), None)
        if block is None:
            return at, False
        first = next(place for place, other in enumerate(names) if other.startswith((f"{block}.", f"{block}_")))
        return first, name.startswith((f"{block}.downsample.", f"{block}_0_"))

    return sorted(range(len(names)), key=place)


def natural(name: str) -> list[tuple[int, str]]:
    """A key to sort names by, numbers in them by their size: conv2d_10 after conv2d_9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def paper_names(model: Classifier) -> dict[str, str]:
    """What the paper calls a layer -> the path of the layer with the weights, where the taps name each of them.

    >>> from convatlas.models import outline_model
    >>> names = paper_names(outline_model("vgg16_bn"))
    >>> names["conv1_2"], names["fc6"]
    ('features.3', 'classifier.0')
    """
    order = [layer for layer in layers_in_order(model) if layer.kind != "norm"]
    taps = [name for name in model.taps if re.fullmatch(r"(conv|fc)\d+(_\d+)?", name)]
    inner = [layer.name for layer in order if layer.name not in model.output_names]
    return dict(zip(taps, inner, strict=True)) if len(taps) == len(inner) else {}


def flattened_map(model: Classifier) -> tuple[int, int, int] | None:
    """Channels, height and width of the map that the first dense layer takes as one row; None where it takes means."""
    if not isinstance(model, ConvDenseClassifier):
        return None
    outline = _outline(model)
    assert isinstance(outline, ConvDenseClassifier)
    channels, height, width = outline.avgpool(outline.features(blank_input(outline, "meta"))).shape[1:]
    return (channels, height, width) if height * width > 1 else None


def _outline(model: Classifier) -> Classifier:
    """The same network without memory."""
    if model.registered_as is None:
        return copy.deepcopy(model).to("meta")
    return outline_model(
        model.registered_as,
        num_classes=model.num_classes,
        in_channels=model.in_channels,
        image_size=model.image_size,
    )
