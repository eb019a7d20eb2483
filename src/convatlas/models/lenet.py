"""LeNet-5, the network that read cheques: as published in 1998, and as everybody writes it today.

    create_model("lenet5")          # ReLU, max pooling, 28x28 images, a linear output layer
    create_model("lenet5_1998")     # trainable sub-sampling, tanh, C3's table, radial-basis output: 60,000 parameters

Source: LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition", section II.B,
figure 2, Table I.

Differences from the paper, lenet5_1998
  - The output codes are +1 and -1 drawn at random, once and for all, by a fixed seed. The paper allows it and
    draws small pictures of the characters instead, which exist for its characters only.
  - The logits are minus the squared distances to the codes. Cross-entropy on them is the paper's criterion, equation 9,
    without its constant for images that are no character (e^-j).
  - C5 is a dense layer, of a width computed from the image size; at 32x32 it is the paper's 5x5 convolution.
  - Weights start uniform within +-2.4/fan-in, as in the paper; biases, of which it says nothing apart, start from 0.

Differences from the paper, lenet5
  - ReLU for tanh, max pooling for sub-sampling, C3 connected to every map, a linear output layer; 28x28 images, padded
    by 2 in C1 where the paper pads the images.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
import torch.nn.functional as F
from torch import nn

from convatlas.layers import initialize, output_side
from convatlas.models.contract import ConvDenseClassifier, Tap
from convatlas.models.registry import ModelEntry, Published, register

#: Table I: the maps of S2 that each of the 16 maps of C3 is connected to.
C3_CONNECTIONS = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip


@torch.no_grad()
def fill_1998(weight: torch.Tensor, fan_in: int) -> None:
    """Uniform within +-2.4/fan_in, fan_in being the number of inputs of a unit.

    Source: LeCun et al. 1998, appendix A.
    """
    weight.uniform_(-2.4 / fan_in, 2.4 / fan_in)


def initialize_1998(model: nn.Module) -> None:
    """``fill_1998`` for every full convolution and dense layer."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fill_1998(layer.weight, fan_in=layer.weight[0].numel())


class ScaledTanh(nn.Module):
    """The paper's squashing function, A tanh(S a): it maps 1 to 1 and -1 to -1.

    Source: LeCun et al. 1998, section II.B equation 6 and appendix A.
    """

    def forward(self, activation: torch.Tensor) -> torch.Tensor:
        """Any shape -> the same shape."""
        return 1.7159 * torch.tanh(2 / 3 * activation)


class SubSampling(nn.Module):
    """Trainable pooling: the sum of each 2x2 window times one coefficient a map, plus one bias a map.

    >>> SubSampling(6)(torch.zeros(1, 6, 28, 28)).shape
    torch.Size([1, 6, 14, 14])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As the other weights of 1998; a unit has the four inputs of its window."""
        fill_1998(self.coefficient, fan_in=4)
        nn.init.zeros_(self.bias)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, C, H/2, W/2]."""
        sums = F.avg_pool2d(maps, kernel_size=2) * 4
        return sums * self.coefficient.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class TableConv2d(nn.Module):
    """A convolution in which each output map sees the input maps that a table names: C3.

    There is a parameter for each connection and none for the missing ones: 60 x 25 + 16 = 1,516.
    """

    connections: torch.Tensor

    def __init__(self, table: tuple[tuple[int, ...], ...], in_channels: int, kernel: int) -> None:
        super().__init__()
        self.table = table
        self.in_channels = in_channels
        self.weight = nn.Parameter(torch.empty(sum(map(len, table)), kernel, kernel))
        self.bias = nn.Parameter(torch.empty(len(table)))
        self.register_buffer("connections", torch.empty(len(self.weight), dtype=torch.long))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As the other weights of 1998, with the fan-in that the table gives each map; and each connection's place."""
        for row in torch.split(self.weight, [len(inputs) for inputs in self.table]):
            fill_1998(row, fan_in=row.numel())
        nn.init.zeros_(self.bias)
        places = [row * self.in_channels + column for row, inputs in enumerate(self.table) for column in inputs]
        self.connections.copy_(torch.tensor(places, device=self.connections.device))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, H, W] -> [N, len(table), H - kernel + 1, W - kernel + 1]."""
        side = self.weight.shape[-1]
        full = self.weight.new_zeros(len(self.table) * self.in_channels, side, side)
        full = full.index_copy(0, self.connections, self.weight)
        return F.conv2d(maps, full.view(len(self.table), self.in_channels, side, side), self.bias)


class RadialBasisOutput(nn.Module):
    """Minus the squared distance from the 84 values of F6 to each class's fixed code of +1 and -1.

    >>> RadialBasisOutput(84, 10)(torch.zeros(1, 84))[0, 0].item()     # 84 values, each 1 away from its code
    -84.0

    Source: LeCun et al. 1998, section II.B equation 7.
    """

    codes: torch.Tensor

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.empty(num_classes, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the codes, the same ones always: they are a part of the architecture, not of a start."""
        generator = torch.Generator().manual_seed(1998)
        bits = torch.randint(2, self.codes.shape, generator=generator, device="cpu")
        self.codes.copy_(2 * bits - 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[N, width] -> [N, num_classes], none above zero."""
        return -(features.unsqueeze(1) - self.codes).square().sum(dim=2)


def sub_sampling(channels: int) -> nn.Module:
    """S2 and S4 of 1998."""
    return nn.Sequential(SubSampling(channels), ScaledTanh())


def max_pooling(_channels: int) -> nn.Module:
    """S2 and S4 of today."""
    return nn.MaxPool2d(2)


@dataclass(frozen=True)
class LeNetVariant:
    """What differs between the network of 1998 and today's."""

    image_size: int
    padding: int  # of C1
    squash: Callable[[], nn.Module]
    subsample: Callable[[int], nn.Module]  # channels -> S2, S4
    c3: Callable[[], nn.Module]
    output: Callable[[int, int], nn.Module]  # width of F6, number of classes -> the output layer
    initialize: Callable[[nn.Module], None]  # of the convolutions and the hidden layers


VARIANTS = {
    "lenet5_1998": LeNetVariant(
        image_size=32,
        padding=0,
        squash=ScaledTanh,
        subsample=sub_sampling,
        c3=partial(TableConv2d, C3_CONNECTIONS, 6, 5),
        output=RadialBasisOutput,
        initialize=initialize_1998,
    ),
    "lenet5": LeNetVariant(
        image_size=28,
        padding=2,
        squash=partial(nn.ReLU, inplace=True),
        subsample=max_pooling,
        c3=partial(nn.Conv2d, 6, 16, 5),
        output=nn.Linear,
        initialize=partial(initialize, name="he_normal"),
    ),
}


class LeNet(ConvDenseClassifier):
    """Two convolutions, each followed by pooling, then three dense layers; the paper's names are the layers' names."""

    def __init__(self, variant: LeNetVariant, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        self.variant = variant
        c1, s2, c3, s4 = sides(variant, image_size)
        self.features = nn.Sequential(
            OrderedDict(
                c1=nn.Conv2d(in_channels, 6, 5, padding=variant.padding),
                squash1=variant.squash(),
                s2=variant.subsample(6),
                c3=variant.c3(),
                squash3=variant.squash(),
                s4=variant.subsample(16),
            )
        )
        self.avgpool = nn.Identity()
        self.classifier = nn.Sequential(
            OrderedDict(
                c5=nn.Linear(16 * s4 * s4, 120),
                squash5=variant.squash(),
                f6=nn.Linear(120, 84),
                squash6=variant.squash(),
            )
        )
        self.put_output_layers(num_classes)
        self.taps = {
            "c1": Tap("features.squash1", (6, c1, c1)),  # 28x28 at the variant's own image size
            "s2": Tap("features.s2", (6, s2, s2)),  # 14x14
            "c3": Tap("features.squash3", (16, c3, c3)),  # 10x10
            "s4": Tap("features.s4", (16, s4, s4)),  # 5x5
            "c5": Tap("classifier.squash5", (120,)),
            "f6": Tap("classifier.squash6", (84,)),
        }

    def output_layers(self, num_classes: int) -> dict[str, nn.Module]:
        """The linear or radial-basis output layer."""
        return {"output": self.variant.output(84, num_classes)}

    def initialize(self) -> None:
        """The variant's own start in C1, C3, C5 and F6."""
        super().initialize()
        self.variant.initialize(self)
        self.initialize_output()


def sides(variant: LeNetVariant, image_size: int) -> tuple[int, int, int, int]:
    """Sides of the maps of C1, S2, C3 and S4.

    >>> sides(VARIANTS["lenet5_1998"], 32)
    (28, 14, 10, 5)
    """
    c1 = output_side(image_size, kernel=5, padding=variant.padding)
    s2 = c1 // 2
    c3 = output_side(s2, kernel=5)
    return c1, s2, c3, c3 // 2


def _register(name: str, variant: LeNetVariant) -> None:
    register(
        ModelEntry(
            name=name,
            family="lenet",
            year=1998,
            paper="LeCun et al. 1998, Proc. IEEE 86(11)",
            image_size=variant.image_size,
            in_channels=1,
            num_classes=10,
            minimum_size=next(size for size in count(1) if sides(variant, size)[-1] >= 1),
            minimum_reason="two 5x5 convolutions, each with a 2x2 pooling",
            recipe="lenet",
            build=partial(LeNet, variant),
            brought="Convolution, subsampling and dense layers trained together by backpropagation: features need no "
            "longer be designed by hand.",
            published=Published(99.05, "MNIST", "LeCun et al. 1998, Fig. 9") if name == "lenet5_1998" else None,
        )
    )


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
