"""Layers whose units all start alike, which no task's network can learn with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def symmetric_layers(model: nn.Module) -> list[str]:
    """Names of layers whose output units all hold the same weights, so that they get the same gradient for ever.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3))
    >>> _ = nn.init.zeros_(net[1].weight)
    >>> symmetric_layers(net)
    ['1']

    Source: Goodfellow, Bengio & Courville 2016, Deep Learning, section 8.4.
    """
    return [name for name, module in model.named_modules() if _is_symmetric(module)]


def symmetry_finding(hidden: Sequence[str]) -> str | None:
    """One line about symmetric layers that are not the last, or None where there are none."""
    if not hidden:
        return None
    return (
        f"every unit of {', '.join(hidden)} starts with the same weights, so all of them get the same gradient and the "
        "layer acts as one unit: the network cannot learn. Use --set initialization=he_normal"
    )


def _is_symmetric(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d | nn.Linear) or module.weight.shape[0] < 2:
        return False
    weight = module.weight.detach().flatten(1)
    return bool(torch.equal(weight, weight[:1].expand_as(weight)))
