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


def rounded_up_side(side: int, window: int) -> int:
    """Side after a pooling of stride 2 whose last window may stand half outside.

    >>> rounded_up_side(112, window=3), rounded_up_side(7, window=2)
    (56, 4)
    """
    return -((window - side) // 2) + 1


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


class ConvNormReLU(nn.Sequential):
    """A convolution without bias, batch normalisation and ReLU: what every Inception network is made of.

    >>> layer = ConvNormReLU(3, 32, 3, stride=2)
    >>> layer(torch.zeros(2, 3, 299, 299)).shape, list(layer.state_dict())[:2]
    (torch.Size([2, 32, 149, 149]), ['conv.weight', 'bn.weight'])

    The variance is kept from zero by 1e-3, as in the authors' code. Without a ``padding`` the window stays inside.

    Source: Ioffe & Szegedy 2015, arXiv 1502.03167, section 3.2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=1e-3)
        self.relu = nn.ReLU(inplace=True)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: each channel is scaled by a number in (0, 1) computed from the means of all channels.

    >>> gate = SqueezeExcite(256)
    >>> gate(torch.zeros(2, 256, 14, 14)).shape, gate.fc1.out_channels
    (torch.Size([2, 256, 14, 14]), 16)

    The hidden layer is ``reduction`` times narrower than the map, but has no fewer than 8 units, which only maps of
    fewer than 128 channels notice. Both layers are dense; 1x1 convolutions spare reshaping.

    Source: Hu, Shen & Sun 2018, arXiv 1709.01507, section 3.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 8)
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> the same shape."""
        scale: torch.Tensor = self.sigmoid(self.fc2(self.relu(self.fc1(self.squeeze(maps)))))
        return maps * scale


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
