"""Layers and initialisers that several networks share; torch only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from convatlas.errors import RecipeError, unknown_name


def output_side(side: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Side of the feature map that a convolution or a pooling makes: floor((side - kernel + 2 padding) / stride) + 1.

    >>> output_side(32, kernel=3, stride=2, padding=1)
    16

    Zero or less means that the window does not fit.
    """
    return (side - kernel + 2 * padding) // stride + 1


class LocalResponseNorm(nn.LocalResponseNorm):
    """AlexNet's normalisation across neighbouring channels, with the paper's own symbols.

    ``b_i = a_i / (k + alpha * sum of a_j^2)^beta`` with the sum over the ``n`` channels j nearest to i.

    torch divides alpha by n and the paper does not: the paper's 1e-4 is torch's 5e-4. The difference is made up here.

    >>> LocalResponseNorm()(torch.ones(1, 96, 55, 55)).shape
    torch.Size([1, 96, 55, 55])

    Source: Krizhevsky, Sutskever & Hinton 2012, section 3.3.
    """

    def __init__(self, n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        super().__init__(size=n, alpha=alpha * n, beta=beta, k=k)


def _identity(weight: torch.Tensor) -> torch.Tensor:
    """Each output repeats the input of the same number, as far as there are both."""
    return nn.init.eye_(weight) if weight.dim() == 2 else nn.init.dirac_(weight)


#: How a weight of shape [outputs, inputs, ...] is filled, by the name people know it under. he, glorot and lecun are
#: untruncated; fan-in is inputs x window, fan-out is outputs x window.
INITIALIZERS: Mapping[str, Callable[..., torch.Tensor]] = {
    "he_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),  # N(0, 2 / fan_in)
    "he_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),  # U(+-sqrt(6 / fan_in))
    "glorot_normal": nn.init.xavier_normal_,  # N(0, 2 / (fan_in + fan_out))
    "glorot_uniform": nn.init.xavier_uniform_,  # U(+-sqrt(6 / (fan_in + fan_out)))
    "normal": partial(nn.init.normal_, std=0.05),  # N(0, std^2); 0.05 is what Keras takes when nothing is said
    "lecun_normal": partial(nn.init.kaiming_normal_, nonlinearity="linear"),  # N(0, 1 / fan_in)
    "dirac": _identity,
    "zeros": nn.init.zeros_,
}


@torch.no_grad()
def initialize(module: nn.Module, name: str, std: float | None = None) -> None:
    """Fill the weights of every convolution and dense layer inside ``module``; their biases become zero.

    The output layer is a layer like any other here: a network that wants it smaller says so in its own
    ``initialize``. Each group of a grouped convolution is filled as the convolution of its own that it is.
    Normalisation layers and layers with parameters of another kind are left alone.

    >>> layer = nn.Linear(800, 100)
    >>> initialize(layer, "he_normal")
    >>> round(layer.weight.std().item(), 2), layer.bias.abs().max().item()
    (0.05, 0.0)
    >>> initialize(layer, "normal", std=0.01)

    Raises:
        UnknownNameError: no initialiser has that name; the nearest are named.
        RecipeError: ``std`` is given to an initialiser that computes its own.
    Source: He et al. 2015, arXiv 1502.01852, equation 10; Glorot & Bengio 2010, equation 16; LeCun et al. 1998,
    "Efficient BackProp", equation 16.
    """
    if name not in INITIALIZERS:
        raise unknown_name("initializer", name, INITIALIZERS)
    if std is not None and name != "normal":
        raise RecipeError(f"initializer {name} takes no std; received std={std}. Leave std out, or use 'normal'")
    fill = INITIALIZERS[name] if std is None else partial(nn.init.normal_, std=std)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
            for weight in layer.weight.chunk(groups):
                fill(weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
