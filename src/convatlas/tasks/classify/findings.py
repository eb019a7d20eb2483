"""Names the reason when a classifier cannot learn, instead of leaving a person with a flat curve."""

from __future__ import annotations

import math

import torch
from torch import nn

STUCK_WITHIN = 0.01  # share of ln(classes) that a loss may lie below guessing and still count as not started


def symmetric_layers(model: nn.Module) -> list[str]:
    """Names of layers whose output units all hold the same weights, so that they get the same gradient for ever.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3))
    >>> _ = nn.init.zeros_(net[1].weight)
    >>> symmetric_layers(net)
    ['1']

    Source: Goodfellow, Bengio & Courville 2016, Deep Learning, section 8.4.
    """
    return [name for name, module in model.named_modules() if _is_symmetric(module)]


def symmetry_finding(model: nn.Module, classes: int) -> str | None:
    """One line about symmetric layers, or None; a classifier's last layer may start at zero and still learn.

    The last layer is known by its number of outputs.
    """
    hidden = [name for name in symmetric_layers(model) if _outputs(model.get_submodule(name)) != classes]
    if not hidden:
        return None
    return (
        f"every unit of {', '.join(hidden)} starts with the same weights, so all of them get the same gradient and the "
        "layer acts as one unit: the network cannot learn. Use --set initialization=he_normal"
    )


def stuck_finding(train_loss: float, classes: int, learning_rate: float) -> str | None:
    """One line when the loss is still that of guessing, ln(classes), or None.

    >>> stuck_finding(2.3026, classes=10, learning_rate=0.1) is None
    False
    >>> stuck_finding(1.9, classes=10, learning_rate=0.1) is None
    True
    """
    guessing = math.log(classes)
    if train_loss < guessing * (1 - STUCK_WITHIN):
        return None
    return (
        f"the training loss {train_loss:.3f} is still that of guessing among {classes} classes (ln {classes} = "
        f"{guessing:.3f}): the network has not started to learn. Usual causes: a learning rate too high or too low "
        f"(now {learning_rate:g}), weights that start too small or all alike, labels that do not belong to the images. "
        "Try --set learning_rate a tenth of it, --set initialization=he_normal, or the network's _bn form"
    )


def _is_symmetric(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d | nn.Linear) or module.weight.shape[0] < 2:
        return False
    weight = module.weight.detach().flatten(1)
    return bool(torch.equal(weight, weight[:1].expand_as(weight)))


def _outputs(module: nn.Module) -> int:
    return int(module.weight.shape[0]) if isinstance(module.weight, torch.Tensor) else 0
