"""Names the reason when a classifier cannot learn, instead of leaving a person with a flat curve."""

from __future__ import annotations

import math

import torch
from torch import nn

from convatlas.tasks import symmetry

STUCK_WITHIN = 0.01  # share of ln(classes) that a loss may lie below guessing and still count as not started


def symmetry_finding(model: nn.Module, classes: int) -> str | None:
    """One line about symmetric layers, or None; a classifier's last layer may start at zero and still learn.

    The last layer is known by its number of outputs.
    """
    alike = symmetry.symmetric_layers(model)
    return symmetry.symmetry_finding([name for name in alike if _outputs(model.get_submodule(name)) != classes])


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


def _outputs(module: nn.Module) -> int:
    return int(module.weight.shape[0]) if isinstance(module.weight, torch.Tensor) else 0
