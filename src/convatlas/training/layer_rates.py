"""How fast each layer learns: what a recipe for transfer says of layers, as numbers and names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class LayerRates:
    """Times the learning rate, for each parameter that does not learn at it; and what does not learn at all.

    >>> rates = LayerRates(factors={"fc.weight": 10.0}, frozen=("conv1",))
    >>> rates.factor("fc.weight"), rates.factor("conv2.weight")
    (10.0, 1.0)

    A frozen batch normalisation keeps its statistics as well.
    """

    factors: Mapping[str, float] = field(default_factory=dict)  # by the parameter's name
    frozen: tuple[str, ...] = ()  # paths of layers
    freeze_batch_norm: bool = False  # statistics alone, of all of them

    def factor(self, parameter: str) -> float:
        """Times the learning rate."""
        return self.factors.get(parameter, 1.0)

    @property
    def changes_training(self) -> bool:
        """Whether layers are run otherwise in training than PyTorch's ``train()`` has them."""
        return bool(self.frozen) or self.freeze_batch_norm

    def freeze(self, model: nn.Module) -> None:
        """Keep the frozen layers' parameters from learning."""
        for path in self.frozen:
            for parameter in model.get_submodule(path).parameters(recurse=False):
                parameter.requires_grad_(False)

    def hold(self, model: nn.Module) -> None:
        """Bring a network into training mode, but for what does not learn."""
        model.train()
        for path in self.frozen:
            model.get_submodule(path).eval()
        if self.freeze_batch_norm:
            for module in model.modules():
                if isinstance(module, NORMALIZATIONS):
                    module.eval()


EVERY_LAYER = LayerRates()
