"""The optimiser of a recipe, with weight decay kept off the parameters that the recipe spares."""

from __future__ import annotations

import torch
from torch import nn

from convatlas.training.recipe import AutoencoderRecipe, Recipe

NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """An optimiser over two groups of parameters: decayed and spared, if any are decayed.

    >>> build_optimizer(model, load_recipe("vgg-bn"))  # doctest: +SKIP
    SGD (...)
    """
    spared = spared_parameters(model, recipe.weight_decay_skips) if recipe.weight_decay else set()
    decayed = [parameter for name, parameter in model.named_parameters() if name not in spared]
    kept = [parameter for name, parameter in model.named_parameters() if name in spared]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov)
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, recipe.learning_rate, momentum=recipe.momentum)
    # One kernel for all parameters: the steps of an autoencoder of rows are so small that each call counts.
    fused = isinstance(recipe, AutoencoderRecipe) and all(each.device.type == "cpu" for each in model.parameters())
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, recipe.learning_rate, fused=fused or None)


def spared_parameters(model: nn.Module, skips: tuple[str, ...]) -> set[str]:
    """Names of the parameters without weight decay: biases, and both parameters of normalisations."""
    names = set()
    for path, module in model.named_modules():
        for name, _ in module.named_parameters(prefix=path, recurse=False):
            is_norm = isinstance(module, NORMALIZATIONS)
            if ("norm" in skips and is_norm) or ("bias" in skips and not is_norm and name.endswith("bias")):
                names.add(name)
    return names
