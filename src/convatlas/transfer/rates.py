"""Which layers of a network learn, and how fast, as a recipe for transfer says it."""

from __future__ import annotations

from collections.abc import Sequence

from convatlas.errors import RecipeError, unknown_name
from convatlas.models.contract import Classifier
from convatlas.training.layer_rates import LayerRates
from convatlas.training.recipe import ClassificationRecipe
from convatlas.weights.layers import layers_in_order


def layer_rates(network: Classifier, recipe: ClassificationRecipe) -> LayerRates:
    """A recipe's ``freeze``, ``head_rate`` and ``layer_rates`` for the layers of a network.

    >>> layer_rates(network, recipe.updated(freeze="features")).factor("fc.weight")  # doctest: +SKIP
    10.0

    Raises:
        RecipeError: the network has no layer that gives the classes, and one is asked for.
        UnknownNameError: ``freeze`` names a layer that the network has not.
    """
    if not network.output_names and (recipe.freeze == "features" or recipe.head_rate != 1):
        raise RecipeError("the output layer of the network cannot be told: leave out freeze=features and head_rate")
    order = [layer.name for layer in layers_in_order(network)]
    inner = [name for name in order if name not in network.output_names]
    factors = dict.fromkeys(network.output_names, recipe.head_rate)
    factors |= dict(zip(inner, _rising(recipe.layer_rates, len(inner)), strict=True))
    of_parameters = {
        f"{name}.{parameter}": factor
        for name, factor in factors.items()
        for parameter, _ in network.get_submodule(name).named_parameters(recurse=False)
        if factor != 1.0
    }
    frozen = _frozen(network, recipe.freeze, inner)
    return LayerRates(of_parameters, frozen, recipe.freeze_batch_norm)


def _rising(first: float, layers: int) -> list[float]:
    """Factors from the first layer's to 1, each the same number of times the one before.

    >>> _rising(0.25, 3)
    [0.25, 0.5, 1.0]
    """
    return [first ** (1 - at / max(layers - 1, 1)) for at in range(layers)]


def _frozen(network: Classifier, freeze: str, inner: Sequence[str]) -> tuple[str, ...]:
    """Paths of the layers with weights that do not learn."""
    if freeze == "none":
        return ()
    if freeze == "features":
        return tuple(inner)
    return tuple(inner[: _last_of(network, freeze.removeprefix("until:").strip(), inner) + 1])


def _last_of(network: Classifier, wanted: str, inner: Sequence[str]) -> int:
    """The place of the last layer of a tap, or of all taps whose names begin so: conv4 of conv4_1 to conv4_3."""
    taps = [name for name in network.taps if name == wanted or name.startswith(f"{wanted}_")]
    if not taps:
        raise unknown_name("layer", wanted, network.taps)
    path = network.taps[taps[-1]].module
    order = [name for name, _ in network.named_modules()]
    inside = [at for at, name in enumerate(inner) if name == path or name.startswith(f"{path}.")]
    before = [at for at, name in enumerate(inner) if order.index(name) <= order.index(path)]
    return max(inside or before)
