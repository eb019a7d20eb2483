"""The optimiser of a recipe, with weight decay kept off the parameters that the recipe spares."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from convatlas.training.layer_rates import EVERY_LAYER, LayerRates
from convatlas.training.recipe import AutoencoderRecipe, Recipe

NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(model: nn.Module, recipe: Recipe, rates: LayerRates = EVERY_LAYER) -> torch.optim.Optimizer:
    """An optimiser over groups of parameters: decayed and spared, and those that learn faster or slower than others.

    >>> build_optimizer(model, load_recipe("vgg-bn"))  # doctest: +SKIP
    SGD (...)

    Each group's ``factor`` is times the learning rate. Parameters that do not learn are in none.
    """
    groups = parameter_groups(model, recipe, rates)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov)
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, recipe.learning_rate, momentum=recipe.momentum)
    # One kernel for all parameters: the steps of an autoencoder of rows are so small that each call counts.
    fused = isinstance(recipe, AutoencoderRecipe) and all(each.device.type == "cpu" for each in model.parameters())
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, recipe.learning_rate, fused=fused or None)


def parameter_groups(model: nn.Module, recipe: Recipe, rates: LayerRates) -> list[dict[str, Any]]:
    """Parameters that learn, by weight decay and by rate; those without decay after those with."""
    spared = spared_parameters(model, recipe.weight_decay_skips) if recipe.weight_decay else set()
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name in spared, rates.factor(name)), []).append(parameter)
    return [
        {"params": groups[kind], "weight_decay": 0.0 if kind[0] else recipe.weight_decay, "factor": kind[1]}
        for kind in sorted(groups)
    ]


def spared_parameters(model: nn.Module, skips: tuple[str, ...]) -> set[str]:
    """Names of the parameters without weight decay: biases, and both parameters of normalisations."""
    names = set()
    for path, module in model.named_modules():
        for name, _ in module.named_parameters(prefix=path, recurse=False):
            is_norm = isinstance(module, NORMALIZATIONS)
            if ("norm" in skips and is_norm) or ("bias" in skips and not is_norm and name.endswith("bias")):
                names.add(name)
    return names
