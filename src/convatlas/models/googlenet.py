"""GoogLeNet: modules that look through windows of several sizes at once, 22 layers deep, with 7 million weights.

Cheap 1x1 convolutions narrow the map before the large windows see it, so that depth and width cost little.

    create_model("googlenet")         # with batch normalisation, as torchvision has it
    create_model("googlenet_2014")    # as published: 5x5 windows, local response normalisation, no batch norm
    create_model("bn_inception")      # "Inception v2": two 3x3 for 5x5, modules that halve the grid
    create_model("se_inception")      # the same, with squeeze-and-excitation after each module
    create_model("googlenet_cifar")   # 32x32 images, 10 classes

Sources: Szegedy et al. 2014, arXiv 1409.4842, Table 1; Ioffe & Szegedy 2015, arXiv 1502.03167, Figure 5; Hu, Shen &
Sun 2018, arXiv 1709.01507, Figure 2.

Differences from the paper
  - Weights start from he_normal.
  - Poolings of stride 2 round the side up, so that a side need not be a multiple of 32.

Differences from the paper, googlenet
  - It is torchvision's network: 3x3 windows where the paper has 5x5, batch normalisation instead of local response
    normalisation and biases, a 2x2 fourth pooling instead of a 3x3, dropout 0.2 instead of 0.4, and auxiliary heads
    that average to 4x4 at any image size.
  - torchvision can change images from its own normalisation to that of the weights (``transform_input``); here that
    belongs to the data. In training it returns the second head's logits before the first's, and here the first's come
    first.

Differences from the paper, googlenet_2014
  - The first convolution is a plain one of 9,408 weights, as in Figure 3. The first row of Table 1 prints 2.7K and 34M
    multiply-adds, which are those of a separable convolution: 7x7 with 8 outputs a channel, then 1x1.
  - The weights are 6,990,272, and 8,280 biases; the rows of Table 1, as printed, add up to 6.8 million.
  - Local response normalisation has AlexNet's constants; the paper gives none.

Differences from the paper, bn_inception, se_inception
  - The first convolution is a plain one, as in Caffe's and PyTorch's ports; the paper's and TF-slim's is separable.
  - Figure 5 prints the output widths 576, 576 and 1024 for modules 4c, 4d and 4e, but the widths of their branches add
    up to 608, 608 and 1056, as they do here and in Caffe's and PyTorch's ports. TF-slim narrows the projections of 4c
    and 4d to 96 and so keeps the printed outputs.
  - The paper counts 13.6 million parameters; the branches of its own table come to 11.3 million.
  - There are no auxiliary heads, of which the paper says nothing.

Differences from the paper, googlenet_cifar
  - It is not the paper's, but the form for small images that is common in collections: one 3x3 convolution and no
    pooling before the first module, two 3x3 windows for each 5x5, batch normalisation, no auxiliary heads, no dropout.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from convatlas.layers import ConvNormReLU, LocalResponseNorm, SqueezeExcite, output_side, rounded_up_side
from convatlas.models.contract import TrunkClassifier
from convatlas.models.registry import ModelEntry, Paper, Published, register


@dataclass(frozen=True)
class Widths:
    """A row of the papers' tables: output channels of each convolution of a module."""

    conv1x1: int  # 0: no such branch
    reduce3x3: int  # the 1x1 before the 3x3
    conv3x3: int
    reduce5x5: int  # the 1x1 before the 5x5, or before the two 3x3
    conv5x5: int  # of the 5x5, or of each of the two 3x3
    projection: int  # the 1x1 after the pooling; 0: the pooled map passes through as it is
    average_pool: bool = False  # instead of max
    stride: int = 1

    def out_channels(self, in_channels: int) -> int:
        """Channels of the concatenated map."""
        return self.conv1x1 + self.conv3x3 + self.conv5x5 + (self.projection or in_channels)


@dataclass(frozen=True)
class GoogLeNetVariant:
    """One registered network."""

    paper: Paper
    modules: Mapping[str, Widths]  # "3a" -> its row
    pools: Mapping[str, int] = field(default_factory=dict)  # after which modules a max pooling halves: its window
    large_kernels: tuple[int, ...] = (3, 3)  # what the branch called 5x5 is made of
    batch_norm: bool = True
    local_response_norm: bool = False
    small_stem: bool = False  # one 3x3 convolution, instead of three and two poolings
    auxiliary: bool = False  # heads after 4a and 4d
    auxiliary_grid: int | None = None  # their map is averaged to grid x grid; None: by 5x5 windows, 3 apart
    squeeze_excite: bool = False
    dropout: float = 0.0
    image_size: int = 224
    num_classes: int = 1000
    minimum_size: int = 32
    minimum_reason: str = "it halves the map five times; of a smaller one only padding is left"
    recipe: str = "inception"


TABLE_1 = {  # Szegedy et al. 2014
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}
FIGURE_5 = {  # Ioffe & Szegedy 2015
    "3a": Widths(64, 64, 64, 64, 96, 32, average_pool=True),
    "3b": Widths(64, 64, 96, 64, 96, 64, average_pool=True),
    "3c": Widths(0, 128, 160, 64, 96, 0, stride=2),
    "4a": Widths(224, 64, 96, 96, 128, 128, average_pool=True),
    "4b": Widths(192, 96, 128, 96, 128, 128, average_pool=True),
    "4c": Widths(160, 128, 160, 128, 160, 128, average_pool=True),
    "4d": Widths(96, 128, 192, 160, 192, 128, average_pool=True),
    "4e": Widths(0, 128, 192, 192, 256, 0, stride=2),
    "5a": Widths(352, 192, 320, 160, 224, 128, average_pool=True),
    "5b": Widths(352, 192, 320, 192, 224, 128),
}

SZEGEDY_2014 = Paper(
    family="googlenet",
    year=2014,
    citation="Szegedy et al. 2014, arXiv 1409.4842",
    brought="Modules of parallel 1x1, 3x3 and 5x5 windows, with 1x1 convolutions to narrow the map first: it won "
    "ILSVRC-2014 with a ninth of AlexNet's weights.",
)
IOFFE_2015 = Paper(
    family="googlenet",
    year=2015,
    citation="Ioffe & Szegedy 2015, arXiv 1502.03167",
    brought="Batch normalisation: each layer's outputs keep mean and variance while the layers below learn, so that "
    "learning rates can be higher and the same accuracy takes 14 times fewer steps.",
)
HU_2018 = Paper(
    family="googlenet",
    year=2017,
    citation="Hu, Shen & Sun 2018, arXiv 1709.01507",
    brought="Squeeze-and-excitation: the means of all channels decide how much each of them counts, for one percent "
    "more computation.",
)

VARIANTS = {
    "googlenet_2014": GoogLeNetVariant(
        SZEGEDY_2014,
        TABLE_1,
        pools={"3b": 3, "4e": 3},
        large_kernels=(5,),
        batch_norm=False,
        local_response_norm=True,
        auxiliary=True,
        dropout=0.4,
        minimum_size=79,
        minimum_reason="the auxiliary heads' 5x5 windows on a map 16 times smaller",
        recipe="googlenet-2014",
    ),
    "googlenet": GoogLeNetVariant(
        SZEGEDY_2014,
        TABLE_1,
        pools={"3b": 3, "4e": 2},
        large_kernels=(3,),
        auxiliary=True,
        auxiliary_grid=4,
        dropout=0.2,
        minimum_size=15,
        minimum_reason="a 7x7 convolution of stride 2 and three 3x3 poolings",
    ),
    "googlenet_cifar": GoogLeNetVariant(
        SZEGEDY_2014,
        TABLE_1,
        pools={"3b": 3, "4e": 3},
        small_stem=True,
        image_size=32,
        num_classes=10,
        minimum_size=4,
        minimum_reason="two 3x3 poolings of stride 2",
        recipe="resnet-cifar",
    ),
    "bn_inception": GoogLeNetVariant(IOFFE_2015, FIGURE_5),
    "se_inception": GoogLeNetVariant(HU_2018, FIGURE_5, squeeze_excite=True),
}


class GoogLeNet(TrunkClassifier):
    """A stem of convolutions, nine or ten modules, one dense layer.

    State-dict keys of ``googlenet`` are torchvision's: ``conv1.conv.weight``, ``inception3a.branch2.1.bn.weight``. Taps
    have Caffe's names: ``conv2_reduce``, ``inception_3a``.
    """

    auxiliary_weight = 0.3  # Szegedy et al. 2014, section 5

    def __init__(self, variant: GoogLeNetVariant, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        self.variant = variant
        if variant.small_stem:
            self.add_layer("conv1", convolution(in_channels, 192, 3, batch_norm=variant.batch_norm), 192)
        else:
            self.add_stem()
        # [N, 192, 28, 28] -> [N, 1024, 7, 7]
        for number, widths in variant.modules.items():
            self.add_layer(
                f"inception_{number}",
                Inception(self.channels, widths, variant),
                widths.out_channels(self.channels),
                output_side(self.side, kernel=3, stride=widths.stride, padding=1),
                name=f"inception{number}",
            )
            if number in variant.pools:
                self.add_pool(int(number[0]), variant.pools[number])
        if variant.auxiliary:
            self.add_head("aux1", "4a")
            self.add_head("aux2", "4d")
        self.add_output(variant.dropout)

    def add_stem(self) -> None:
        """[N, in_channels, 224, 224] -> [N, 192, 28, 28]."""
        conv = partial(convolution, batch_norm=self.variant.batch_norm)
        halved = output_side(self.image_size, kernel=7, stride=2, padding=3)
        self.add_layer("conv1", conv(self.in_channels, 64, 7, stride=2), 64, halved)
        self.add_pool(1, 3)
        self.add_norm("norm1")
        self.add_layer("conv2_reduce", conv(64, 64, 1), name="conv2")
        self.add_layer("conv2", conv(64, 192, 3), 192, name="conv3")
        self.add_norm("norm2")
        self.add_pool(2, 3)

    def add_norm(self, name: str) -> None:
        """Local response normalisation, in the network that has it."""
        if self.variant.local_response_norm:
            self.add_layer(name, LocalResponseNorm())

    def add_pool(self, number: int, window: int) -> None:
        """Max pooling of stride 2; the last window may stand half outside, so that no pixel is left out."""
        pool = nn.MaxPool2d(window, stride=2, ceil_mode=True)
        self.add_layer(f"pool{number}", pool, side=rounded_up_side(self.side, window), name=f"maxpool{number}")

    def add_head(self, name: str, number: str) -> None:
        """An auxiliary head on a module's output."""
        channels, side, _ = self.taps[f"inception_{number}"].shape
        head = AuxiliaryHead(channels, side, self.num_classes, self.variant)
        self.add_auxiliary_head(name, f"inception{number}", head, output="fc2")


class Inception(nn.Module):
    """Four branches on the same map, their outputs concatenated: 1x1, 3x3, 5x5 and a pooling.

    A module of stride 2 has no 1x1 branch, and the pooled map passes through.
    """

    def __init__(self, in_channels: int, widths: Widths, variant: GoogLeNetVariant) -> None:
        super().__init__()
        conv = partial(convolution, batch_norm=variant.batch_norm)
        if widths.conv1x1:
            self.branch1 = conv(in_channels, widths.conv1x1, 1)
        self.branch2 = nn.Sequential(
            conv(in_channels, widths.reduce3x3, 1),
            conv(widths.reduce3x3, widths.conv3x3, 3, stride=widths.stride),
        )
        self.branch3 = nn.Sequential(conv(in_channels, widths.reduce5x5, 1))
        channels = widths.reduce5x5
        for place, kernel in enumerate(variant.large_kernels, start=1):
            stride = widths.stride if place == len(variant.large_kernels) else 1
            self.branch3.append(conv(channels, widths.conv5x5, kernel, stride=stride))
            channels = widths.conv5x5
        pool = nn.AvgPool2d if widths.average_pool else nn.MaxPool2d
        self.branch4 = nn.Sequential(pool(3, stride=widths.stride, padding=1))
        if widths.projection:
            self.branch4.append(conv(in_channels, widths.projection, 1))
        self.branches = [name for name, _ in self.named_children()]
        out_channels = widths.out_channels(in_channels)
        self.se = SqueezeExcite(out_channels) if variant.squeeze_excite else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, h, w] -> [N, widths.out_channels(in_channels), h, w], at stride 2 half as large."""
        joined = torch.cat([getattr(self, name)(maps) for name in self.branches], 1)
        scaled: torch.Tensor = self.se(joined)
        return scaled


class AuxiliaryHead(nn.Module):
    """A small classifier on an inner map, which brings a gradient to the layers below it; training alone uses it."""

    def __init__(self, in_channels: int, side: int, num_classes: int, variant: GoogLeNetVariant) -> None:
        super().__init__()
        grid = variant.auxiliary_grid or output_side(side, kernel=5, stride=3)
        self.pool = nn.AdaptiveAvgPool2d(grid) if variant.auxiliary_grid else nn.AvgPool2d(5, stride=3)
        self.conv = convolution(in_channels, 128, 1, batch_norm=variant.batch_norm)
        self.fc1 = nn.Linear(128 * grid * grid, 1024)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, 14, 14] -> [N, num_classes]."""
        flat = torch.flatten(self.conv(self.pool(maps)), 1)  # [N, 128 * 4 * 4]
        logits: torch.Tensor = self.fc2(self.dropout(self.relu(self.fc1(flat))))
        return logits


def convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, batch_norm: bool
) -> nn.Sequential:
    """A convolution that keeps the size of the map at stride 1, its normalisation or its bias, and ReLU."""
    if batch_norm:
        return ConvNormReLU(in_channels, out_channels, kernel, stride, kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2)
    return nn.Sequential(OrderedDict(conv=conv, relu=nn.ReLU(inplace=True)))


PUBLISHED = {
    "googlenet": Published(69.778, "ImageNet", "torchvision's weights"),
    "bn_inception": Published(74.8, "ImageNet", "Ioffe & Szegedy 2015, Figure 4, single crop"),
    "se_inception": Published(75.77, "ImageNet", "Hu et al. 2018, Table 2, single crop"),
}


def _register(name: str, variant: GoogLeNetVariant) -> None:
    register(
        ModelEntry(
            name=name,
            family=variant.paper.family,
            year=variant.paper.year,
            paper=variant.paper.citation,
            image_size=variant.image_size,
            in_channels=3,
            num_classes=variant.num_classes,
            minimum_size=variant.minimum_size,
            minimum_reason=variant.minimum_reason,
            recipe=variant.recipe,
            build=partial(GoogLeNet, variant),
            brought=variant.paper.brought,
            published=PUBLISHED.get(name),
        )
    )


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
