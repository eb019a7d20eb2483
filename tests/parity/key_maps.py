"""Which tensor of theirs is which of ours: by name where a library has our names, else by the order of the layers.

Two networks that are the same function have the same layers with weights. Ours are taken in the order in which they
run, theirs in the order in which they run or were written, and paired one to one; the shapes must fit. That the order
was right is shown by the numbers then, and that nothing was left out by ``KeyMap.check``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from convatlas.models import Classifier
from convatlas.weights.layers import execution_order as layers_in_order

Convert = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Layer:
    """A layer with weights of their network, under torch's names: weight, bias, running_mean, running_var."""

    name: str
    tensors: dict[str, torch.Tensor]
    convert_weight: Convert  # from our layout of the weight to theirs


@dataclass(frozen=True)
class Pair:
    """One tensor in both networks."""

    name: str  # ours: "layer1.0.conv1.weight"
    ours: torch.Tensor
    theirs: torch.Tensor
    convert: Convert  # from our layout to theirs

    @property
    def layer(self) -> str:
        """The path of our layer."""
        return self.name.rpartition(".")[0]

    @torch.no_grad()
    def give(self) -> None:
        """Copy our values into their tensor."""
        values = self.convert(self.ours)
        assert values.shape == self.theirs.shape, f"{self.name}: {values.shape} is {self.theirs.shape} there"
        self.theirs.copy_(values)


@dataclass
class KeyMap:
    """The tensors of two networks, paired, and those that one of them does not have."""

    pairs: list[Pair] = field(default_factory=list)
    ones: dict[str, torch.Tensor] = field(default_factory=dict)  # our scales, which have no counterpart: they stay 1
    taken_up: list[torch.Tensor] = field(default_factory=list)  # their biases, which their running means take up

    def check(self, ours: Classifier, their_tensors: Iterable[torch.Tensor]) -> set[str]:
        """Every tensor of both networks is used once, but those of our auxiliary heads where they have none: these."""
        used = [*(pair.name for pair in self.pairs), *self.ones]
        left_out = set(tensors_by_name(ours)) - set(used)
        assert len(used) == len(set(used))
        assert {name.partition(".")[0] for name in left_out} <= set(ours.auxiliary_heads), left_out
        addresses = sorted(id(tensor) for tensor in [*(pair.theirs for pair in self.pairs), *self.taken_up])
        assert addresses == sorted(id(tensor) for tensor in their_tensors)
        return left_out


def tensors_by_name(network: nn.Module, *, recurse: bool = True) -> dict[str, torch.Tensor]:
    """Parameters and buffers, those of layers inside too or not; without the counts of batches."""
    named = [*network.named_parameters(recurse=recurse), *network.named_buffers(recurse=recurse)]
    return {name: tensor for name, tensor in named if not name.endswith("num_batches_tracked")}


def own_tensors(layer: nn.Module) -> dict[str, torch.Tensor]:
    """Those of a layer itself."""
    return tensors_by_name(layer, recurse=False)


def unchanged(tensor: torch.Tensor) -> torch.Tensor:
    """Both networks lay the tensor out alike."""
    return tensor


def execution_order(network: nn.Module, image_size: int) -> list[str]:
    """Paths of the layers with weights, as a prediction comes to them. The network is on torch's meta device."""
    return layers_in_order(network, torch.empty(1, 3, image_size, image_size, device="meta"))


def pair_by_name(ours: Classifier, theirs: nn.Module) -> KeyMap:
    """Their state dict has our keys."""
    our_tensors, their_tensors = tensors_by_name(ours), tensors_by_name(theirs)
    assert our_tensors.keys() == their_tensors.keys()
    return KeyMap([Pair(name, tensor, their_tensors[name], unchanged) for name, tensor in our_tensors.items()])


def pair_in_order(ours: Classifier, order: list[str], their_layers: list[Layer]) -> KeyMap:
    """Layer by layer; a bias that only they have is made random, and their next running mean takes it up."""
    key_map = KeyMap()
    bias: torch.Tensor | None = None
    for path, theirs in zip(order, their_layers, strict=True):
        tensors = own_tensors(ours.get_submodule(path))
        for kind in sorted(tensors.keys() & theirs.tensors.keys()):
            convert = converter(theirs, kind, bias)
            key_map.pairs.append(Pair(f"{path}.{kind}", tensors[kind], theirs.tensors[kind], convert))
        if tensors.keys() - theirs.tensors.keys():
            key_map.ones[f"{path}.weight"] = lonely(tensors, theirs.tensors, "weight", path)
        bias = lonely(theirs.tensors, tensors, "bias", path) if theirs.tensors.keys() - tensors.keys() else None
        if bias is not None:
            key_map.taken_up.append(bias)
            bias.data.normal_(std=0.5)
    return key_map


def converter(theirs: Layer, kind: str, bias_before: torch.Tensor | None) -> Convert:
    """From our tensor of one kind to theirs."""
    if kind == "weight":
        return theirs.convert_weight
    if kind == "running_mean" and bias_before is not None:
        return lambda mean: mean + bias_before
    return unchanged


def lonely(tensors: dict[str, torch.Tensor], others: dict[str, torch.Tensor], expected: str, path: str) -> torch.Tensor:
    """The one tensor of a layer that the other network does not have."""
    alone = tensors.keys() - others.keys()
    assert alone == {expected}, f"{path}: {alone} is in one network only"
    return tensors[expected]
