"""The same random weights in two networks, and how far apart what they compute is.

Weights keep a signal's size on its way through the network, and the running statistics are near those of the images,
so that in either mode every layer has its say in the logits, in the deepest network too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from convatlas.models import Classifier, TrainingOutput, outline_model
from parity.cases import BIAS, BY_KEY_MAP, NO_AUXILIARY, NO_SCALE, Case
from parity.key_maps import KeyMap, Pair, execution_order, own_tensors, pair_by_name, pair_in_order
from parity.libraries import BUILDERS, Network, TorchNetwork

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Differences:
    """Largest absolute difference, relative to the largest absolute value that the other library computes."""

    evaluation: float  # logits in evaluation mode
    training: float  # logits in training mode, auxiliary heads' too
    gradients: float  # layer by layer, relative to the layer's largest gradient: of the layer where it is worst


class Contestants(NamedTuple):
    """Two networks with the same weights, and images for them."""

    ours: Classifier
    theirs: Network
    pairs: list[Pair]
    images: torch.Tensor


def measure(case: Case) -> Differences:
    """Build both networks of a case and compare them."""
    contestants = prepare(case)
    evaluation, _ = run(contestants, training=False)
    training, gradients = run(contestants, training=True)
    return Differences(evaluation, training, gradients)


def prepare(case: Case) -> Contestants:
    """Both networks with the same weights, adapted as the case says and in no other way."""
    torch.manual_seed(0)
    ours = outline_model(case.model, image_size=case.image_size)
    order = [] if case.by_name else execution_order(ours, case.image_size)
    ours = ours.to(case.dtype).to_empty(device="cpu")
    theirs = BUILDERS[case.library](case.their_name, case.image_size, case.dtype, **case.options)
    images = torch.randn(case.batch, 3, case.image_size, case.image_size, dtype=case.dtype)
    key_map = pair(case, ours, order, theirs)
    for adaptation in case.adaptations:
        if adaptation.change:
            adaptation.change(ours, theirs)
    fill(ours)
    for scale in key_map.ones.values():
        scale.data.fill_(1)
    settle(ours, images)
    if case.by_name:
        theirs.module.load_state_dict(ours.state_dict(), strict=True)
    else:
        for each in key_map.pairs:
            each.give()
    return Contestants(ours, theirs, key_map.pairs, images)


def pair(case: Case, ours: Classifier, order: list[str], theirs: Network) -> KeyMap:
    """The key map; what it adapts is what the case says, no more and no less."""
    if case.by_name:
        assert isinstance(theirs, TorchNetwork)
        key_map = pair_by_name(ours, theirs.module)
    else:
        key_map = pair_in_order(ours, order, theirs.layers())
    left_out = key_map.check(ours, theirs.tensors())
    adapted = {BIAS.name: key_map.taken_up, NO_SCALE.name: key_map.ones, NO_AUXILIARY.name: left_out}
    said = {adaptation.name for adaptation in case.adaptations if adaptation in BY_KEY_MAP}
    assert {name for name, tensors in adapted.items() if tensors} == said
    return key_map


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Random weights that keep a signal's size; running statistics are 0."""
    for layer in network.modules():
        for name, tensor in own_tensors(layer).items():
            if name.startswith("running"):
                tensor.zero_()
            elif isinstance(layer, _BatchNorm):
                tensor.uniform_(0.5, 1.5) if name == "weight" else tensor.normal_(std=0.3)
            elif tensor.dim() > 1:
                tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
            else:
                tensor.normal_(std=0.1)


@torch.no_grad()
def settle(network: nn.Module, images: torch.Tensor) -> None:
    """Set running statistics near those of these images, but not to them."""
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    usual = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 1.0
    network.train()(images)
    for layer, momentum in zip(norms, usual, strict=True):
        layer.momentum = momentum
        layer.running_mean += 0.1 * layer.running_var.sqrt() * torch.randn_like(layer.running_mean)
        layer.running_var *= torch.empty_like(layer.running_var).uniform_(0.8, 1.25)


def run(contestants: Contestants, *, training: bool) -> tuple[float, float]:
    """Largest relative difference of the logits, and in training mode of the gradients."""
    ours, theirs, pairs, images = contestants
    trained = [each for each in pairs if each.ours.requires_grad]
    torch.manual_seed(0)  # the same neurons drop out
    with torch.set_grad_enabled(training):
        expected = theirs.logits(images, training=training)
    torch.manual_seed(0)
    with torch.set_grad_enabled(training):
        received = our_logits(ours.train(training)(images))[: len(expected)]
    logits = max(relative_difference(r.detach(), e.detach()) for r, e in zip(received, expected, strict=True))
    if not training:
        return logits, 0.0
    slopes = [torch.randn_like(each) for each in expected]
    their_gradients = torch.autograd.grad(expected, [each.theirs for each in trained], slopes)
    our_gradients = torch.autograd.grad(received, [each.ours for each in trained], slopes)
    return logits, worst_layer(trained, our_gradients, their_gradients)


def our_logits(output: torch.Tensor | TrainingOutput) -> tuple[torch.Tensor, ...]:
    """The network's logits, then those of its auxiliary heads."""
    return (output.logits, *output.auxiliary) if isinstance(output, TrainingOutput) else (output,)


def relative_difference(received: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference, relative to the largest absolute value; the expected values must differ."""
    assert received.shape == expected.shape
    assert expected.std() > 0
    return largest(received - expected) / largest(expected)


def largest(tensor: torch.Tensor) -> float:
    """Largest absolute value, which is a number."""
    value = float(torch.linalg.vector_norm(tensor, torch.inf))
    assert isfinite(value)
    return value


def worst_layer(pairs: list[Pair], received: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> float:
    """Largest difference in a layer, relative to the layer's largest gradient, of the layer where it is worst.

    By layer and not by tensor: the gradient of a bias before batch normalisation is nothing but rounding.
    """
    differences: dict[str, float] = {}
    scales: dict[str, float] = {}
    for each, ours, theirs in zip(pairs, received, expected, strict=True):
        differences[each.layer] = max(differences.get(each.layer, 0.0), largest(each.convert(ours) - theirs))
        scales[each.layer] = max(scales.get(each.layer, 0.0), largest(theirs))
    assert all(scale > 0 for scale in scales.values())
    return max(differences[layer] / scales[layer] for layer in scales)
