"""Inception v3, v4 and the Inception-ResNets: large windows made of small and of one-dimensional ones.

A 7x7 window costs 49 weights and a 1x7 after a 7x1 costs 14, for the same view; three kinds of modules work on grids of
35x35, 17x17 and 8x8. Inception-ResNets add each module's output to its input.

    create_model("inception_v3")           # as torchvision has it, 299x299 images
    create_model("inception_v4")
    create_model("inception_resnet_v1")
    create_model("inception_resnet_v2")

Sources: Szegedy et al. 2015, arXiv 1512.00567, Table 1 and Figures 5 to 8; Szegedy et al. 2016, arXiv 1602.07261,
Figures 3 to 19. Names, paddings and what the figures leave open are those of the authors' TF-slim.

Differences from the paper
  - Weights start from he_normal.
  - Batch normalisation takes a tenth of each batch into its running mean and variance, as torchvision's and timm's;
    TF-slim takes 0.0003.

Differences from the paper, inception_v3
  - It is torchvision's network, which follows TF-slim: a 5x5 window in the 35x35 modules where Figure 5 has a 3x3, and
    a stem of five convolutions and two poolings where Table 1 has six and one.
  - Dropout is torchvision's 0.5; TF-slim drops 0.2.
  - The auxiliary head's loss weighs 0.4, as in TF-slim; the paper gives no number (GoogLeNet's weigh 0.3).
  - On images below 299x299 the auxiliary head's 5x5 convolution does not fit, and torchvision's network cannot train:
    there the head averages its map to 5x5 instead.
  - torchvision can change images from its own normalisation to that of the weights (``transform_input``); here that
    belongs to the data.

Differences from the paper, inception_v4, inception_resnet_v2
  - There is no auxiliary head: the paper draws none, and TF-slim adds one.

Differences from the paper, inception_resnet_v1
  - Sums are scaled by 0.17, 0.10 and 0.20 on the three grids, as in David Sandberg's facenet; the paper says between
    0.1 and 0.3.
  - facenet has a sixth 8x8 module, without ReLU, which the paper does not draw and which is not here.

Differences from the paper, inception_resnet_v2
  - It is TF-slim's network, which timm and Keras have as well. The channels printed in the paper's figures do not add
    up: 1154 on a map of 1152, 2048 on one of 2144.
  - It has v1's stem and a module like v3's before the first sum, 10, 20 and 10 modules instead of 5, 10 and 5, the last
    one neither scaled nor with ReLU, and a 1x1 convolution to 1536 channels at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
from torch import nn

from convatlas.layers import ConvNormReLU, output_side
from convatlas.models.contract import TrunkClassifier
from convatlas.models.registry import ModelEntry, Paper, Published, register


class Layer(Protocol):
    """A row of a network's table."""

    def build(self, in_channels: int) -> nn.Module:
        """The layer itself."""

    def shape(self, channels: int, side: int) -> tuple[int, int]:
        """Channels and side of its output, from those of its input."""


@dataclass(frozen=True)
class Conv:
    """A convolution with normalisation and ReLU. Zeros around the map keep its size, but where the figures say V."""

    channels: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1  # 2: V as well
    valid: bool = False  # "V"; such windows are all 3x3

    def build(self, in_channels: int) -> nn.Module:
        """The layer itself."""
        height, width = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        padding = (0, 0) if self.valid or self.stride == 2 else (height // 2, width // 2)
        return ConvNormReLU(in_channels, self.channels, self.kernel, self.stride, padding)

    def shape(self, channels: int, side: int) -> tuple[int, int]:  # noqa: ARG002  (as every row has it)
        """Channels and side of its output."""
        shrinks = self.valid or self.stride == 2
        return self.channels, output_side(side, kernel=3, stride=self.stride) if shrinks else side


POOLS: Mapping[str, Callable[[], nn.Module]] = {
    "average": partial(nn.AvgPool2d, 3, stride=1, padding=1),
    "average inside": partial(nn.AvgPool2d, 3, stride=1, padding=1, count_include_pad=False),  # zeros do not count
    "max": partial(nn.MaxPool2d, 3, stride=2),
}


@dataclass(frozen=True)
class MaxPool:
    """3x3 windows, 2 apart, all inside the map."""

    def build(self, in_channels: int) -> nn.Module:  # noqa: ARG002  (as every row has it)
        """The layer itself."""
        return POOLS["max"]()

    def shape(self, channels: int, side: int) -> tuple[int, int]:
        """Channels and side of its output."""
        return channels, output_side(side, kernel=3, stride=2)


@dataclass(frozen=True)
class Branch:
    """A column of a module's figure: a pooling if any, convolutions, and those that stand side by side at its end."""

    name: str
    convs: tuple[Conv, ...] = ()
    pool: Literal["average", "average inside", "max", ""] = ""
    fork: tuple[Conv, ...] = ()

    def names(self) -> tuple[list[str], list[str]]:
        """Names of its convolutions, and of those of its fork, as torchvision gives them."""
        if len(self.convs) == 1 and not self.fork:
            return [self.name], []
        names = [f"{self.name}_{number}" for number in range(1, len(self.convs) + 1)]
        return names, [f"{self.name}_{len(names) + 1}{letter}" for letter in "ab"[: len(self.fork)]]

    def shape(self, channels: int, side: int) -> tuple[int, int]:
        """Channels and side of its output."""
        if self.pool == "max":
            channels, side = MaxPool().shape(channels, side)
        for conv in self.convs:
            channels, side = conv.shape(channels, side)
        return sum(conv.channels for conv in self.fork) or channels, side


@dataclass(frozen=True)
class Mixed:
    """A module: branches on the same map, concatenated."""

    branches: tuple[Branch, ...]

    def build(self, in_channels: int) -> nn.Module:
        """The layer itself."""
        return Branches(in_channels, self.branches)

    def shape(self, channels: int, side: int) -> tuple[int, int]:
        """Channels and side of its output."""
        shapes = [branch.shape(channels, side) for branch in self.branches]
        return sum(width for width, _ in shapes), shapes[0][1]


def mixed(*branches: Branch) -> Mixed:
    """A module of these branches."""
    return Mixed(branches)


@dataclass(frozen=True)
class Residual:
    """A module whose output, widened by a 1x1 convolution and scaled, is added to its input."""

    module: Mixed
    scale: float
    relu: bool = True  # after the sum

    def build(self, in_channels: int) -> nn.Module:
        """The layer itself."""
        return ResidualBranches(in_channels, self)

    def shape(self, channels: int, side: int) -> tuple[int, int]:
        """Channels and side of its output."""
        return channels, side


@dataclass(frozen=True)
class InceptionVariant:
    """One registered network."""

    layers: Mapping[str, Layer]
    paper: Paper
    published: Published
    dropout: float = 0.2
    auxiliary_after: str = ""  # the layer whose output an auxiliary head sees


def repeated(name: str, times: int, layer: Layer) -> dict[str, Layer]:
    """The same row so many times, each with weights of its own: Block35_1, Block35_2."""
    return {f"{name}_{number}": layer for number in range(1, times + 1)}


def lettered(stage: int, *layers: Layer) -> dict[str, Layer]:
    """Rows under the names Mixed_5b, Mixed_5c and on; the a of a stage is what leads to its grid."""
    return {f"Mixed_{stage}{letter}": layer for letter, layer in zip("bcdefgh", layers, strict=False)}


# [N, 3, 299, 299] -> [N, 192, 71, 71]
STEM: Mapping[str, Layer] = {
    "Conv2d_1a_3x3": Conv(32, 3, stride=2),
    "Conv2d_2a_3x3": Conv(32, 3, valid=True),
    "Conv2d_2b_3x3": Conv(64, 3),
    "MaxPool_3a_3x3": MaxPool(),
    "Conv2d_3b_1x1": Conv(80),
    "Conv2d_4a_3x3": Conv(192, 3, valid=True),
}


def v3_35(projection: int) -> Mixed:
    """A module on the 35x35 grid."""
    return mixed(
        Branch("branch1x1", (Conv(64),)),
        Branch("branch5x5", (Conv(48), Conv(64, 5))),
        Branch("branch3x3dbl", (Conv(64), Conv(96, 3), Conv(96, 3))),
        Branch("branch_pool", (Conv(projection),), pool="average"),
    )


def v3_17(width: int) -> Mixed:
    """A module on the 17x17 grid (Figure 6), its inner convolutions ``width`` channels wide."""
    across, down = Conv(width, (1, 7)), Conv(width, (7, 1))
    return mixed(
        Branch("branch1x1", (Conv(192),)),
        Branch("branch7x7", (Conv(width), across, Conv(192, (7, 1)))),
        Branch("branch7x7dbl", (Conv(width), down, across, down, Conv(192, (1, 7)))),
        Branch("branch_pool", (Conv(192),), pool="average"),
    )


V3_TO_17 = mixed(
    Branch("branch3x3", (Conv(384, 3, stride=2),)),
    Branch("branch3x3dbl", (Conv(64), Conv(96, 3), Conv(96, 3, stride=2))),
    Branch("branch_pool", pool="max"),
)
V3_TO_8 = mixed(
    Branch("branch3x3", (Conv(192), Conv(320, 3, stride=2))),
    Branch("branch7x7x3", (Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), Conv(192, 3, stride=2))),
    Branch("branch_pool", pool="max"),
)
V3_8 = mixed(  # Figure 7
    Branch("branch1x1", (Conv(320),)),
    Branch("branch3x3", (Conv(384),), fork=(Conv(384, (1, 3)), Conv(384, (3, 1)))),
    Branch("branch3x3dbl", (Conv(448), Conv(384, 3)), fork=(Conv(384, (1, 3)), Conv(384, (3, 1)))),
    Branch("branch_pool", (Conv(192),), pool="average"),
)

V4_STEM: Mapping[str, Layer] = {  # Figure 3, [N, 3, 299, 299] -> [N, 384, 35, 35]
    "Conv2d_1a_3x3": Conv(32, 3, stride=2),
    "Conv2d_2a_3x3": Conv(32, 3, valid=True),
    "Conv2d_2b_3x3": Conv(64, 3),
    "Mixed_3a": mixed(Branch("branch_pool", pool="max"), Branch("branch3x3", (Conv(96, 3, stride=2),))),
    "Mixed_4a": mixed(
        Branch("branch3x3", (Conv(64), Conv(96, 3, valid=True))),
        Branch("branch7x7", (Conv(64), Conv(64, (1, 7)), Conv(64, (7, 1)), Conv(96, 3, valid=True))),
    ),
    "Mixed_5a": mixed(Branch("branch3x3", (Conv(192, 3, stride=2),)), Branch("branch_pool", pool="max")),
}
V4_A = mixed(  # Figure 4
    Branch("branch1x1", (Conv(96),)),
    Branch("branch3x3", (Conv(64), Conv(96, 3))),
    Branch("branch3x3dbl", (Conv(64), Conv(96, 3), Conv(96, 3))),
    Branch("branch_pool", (Conv(96),), pool="average inside"),
)
V4_B = mixed(  # Figure 5
    Branch("branch1x1", (Conv(384),)),
    Branch("branch7x7", (Conv(192), Conv(224, (1, 7)), Conv(256, (7, 1)))),
    Branch("branch7x7dbl", (Conv(192), Conv(192, (7, 1)), Conv(224, (1, 7)), Conv(224, (7, 1)), Conv(256, (1, 7)))),
    Branch("branch_pool", (Conv(128),), pool="average inside"),
)
V4_C = mixed(  # Figure 6
    Branch("branch1x1", (Conv(256),)),
    Branch("branch3x3", (Conv(384),), fork=(Conv(256, (1, 3)), Conv(256, (3, 1)))),
    Branch(
        "branch3x3dbl",
        (Conv(384), Conv(448, (3, 1)), Conv(512, (1, 3))),
        fork=(Conv(256, (1, 3)), Conv(256, (3, 1))),
    ),
    Branch("branch_pool", (Conv(256),), pool="average inside"),
)
V4_TO_8 = mixed(  # Figure 8
    Branch("branch3x3", (Conv(192), Conv(192, 3, stride=2))),
    Branch("branch7x7x3", (Conv(256), Conv(256, (1, 7)), Conv(320, (7, 1)), Conv(320, 3, stride=2))),
    Branch("branch_pool", pool="max"),
)


def to_17(k: int, l: int, m: int, n: int) -> Mixed:  # noqa: E741  (the letters of Figure 7 and of Table 1)
    """35x35 -> 17x17 in v4 and the Inception-ResNets."""
    return mixed(
        Branch("branch3x3", (Conv(n, 3, stride=2),)),
        Branch("branch3x3dbl", (Conv(k), Conv(l, 3), Conv(m, 3, stride=2))),
        Branch("branch_pool", pool="max"),
    )


def resnet_to_8(single: int, double: tuple[int, int]) -> Mixed:
    """17x17 -> 8x8 in the Inception-ResNets (Figure 12): widths of the 3x3 and of the two 3x3."""
    inner, outer = double
    return mixed(
        Branch("branch3x3", (Conv(256), Conv(384, 3, stride=2))),
        Branch("branch3x3b", (Conv(256), Conv(single, 3, stride=2))),
        Branch("branch3x3dbl", (Conv(256), Conv(inner, 3), Conv(outer, 3, stride=2))),
        Branch("branch_pool", pool="max"),
    )


def resnet_35(inner: int, outer: int) -> Residual:
    """A module on the 35x35 grid (Figures 10 and 16): widths of the two 3x3."""
    return Residual(
        mixed(
            Branch("branch1x1", (Conv(32),)),
            Branch("branch3x3", (Conv(32), Conv(32, 3))),
            Branch("branch3x3dbl", (Conv(32), Conv(inner, 3), Conv(outer, 3))),
        ),
        scale=0.17,
    )


def resnet_pair(kernel: int, widths: tuple[int, int, int, int], scale: float, *, relu: bool = True) -> Residual:
    """A module on the 17x17 grid, with 7 for a kernel, or on the 8x8 grid, with 3 (Figures 11, 13, 17 and 19).

    ``widths``: of the 1x1 alone, of the 1x1 before the pair, of 1 x kernel, of kernel x 1.
    """
    alone, first, across, down = widths
    pair = (Conv(first), Conv(across, (1, kernel)), Conv(down, (kernel, 1)))
    module = mixed(Branch("branch1x1", (Conv(alone),)), Branch(f"branch{kernel}x{kernel}", pair))
    return Residual(module, scale, relu)


V2_35_FIRST = mixed(  # of Inception-ResNet v2: TF-slim's Mixed_5b
    Branch("branch1x1", (Conv(96),)),
    Branch("branch5x5", (Conv(48), Conv(64, 5))),
    Branch("branch3x3dbl", (Conv(64), Conv(96, 3), Conv(96, 3))),
    Branch("branch_pool", (Conv(64),), pool="average inside"),
)

SZEGEDY_2016 = "Szegedy et al. 2016, arXiv 1602.07261"
RESIDUAL = Paper(
    family="inception",
    year=2016,
    citation=SZEGEDY_2016,
    brought="Shortcuts around Inception modules: the same accuracy in far fewer steps. Sums of wide maps are scaled "
    "down, or they die early in training.",
)

VARIANTS = {
    "inception_v3": InceptionVariant(
        layers={
            **STEM,
            "MaxPool_5a_3x3": MaxPool(),
            **lettered(5, v3_35(32), v3_35(64), v3_35(64)),
            "Mixed_6a": V3_TO_17,
            **lettered(6, v3_17(128), v3_17(160), v3_17(160), v3_17(192)),
            "Mixed_7a": V3_TO_8,
            **lettered(7, V3_8, V3_8),
        },
        paper=Paper(
            family="inception",
            year=2015,
            citation="Szegedy et al. 2015, arXiv 1512.00567",
            brought="Large windows factorised into 1x7 and 7x1, grids reduced by convolution and pooling side by side, "
            "and label smoothing.",
        ),
        published=Published(77.294, "ImageNet", "torchvision's weights"),
        dropout=0.5,
        auxiliary_after="Mixed_6e",
    ),
    "inception_v4": InceptionVariant(
        layers={
            **V4_STEM,
            **lettered(5, *[V4_A] * 4),
            "Mixed_6a": to_17(192, 224, 256, 384),
            **lettered(6, *[V4_B] * 7),
            "Mixed_7a": V4_TO_8,
            **lettered(7, *[V4_C] * 3),
        },
        paper=Paper(
            family="inception",
            year=2016,
            citation=SZEGEDY_2016,
            brought="One uniform choice of modules for each grid, deeper and wider than v3, without the constraints of "
            "training in parts on several machines.",
        ),
        published=Published(80.0, "ImageNet", "Szegedy et al. 2016, Table 2, single crop"),
    ),
    "inception_resnet_v1": InceptionVariant(
        layers={
            **STEM,
            "Conv2d_4b_3x3": Conv(256, 3, stride=2),
            **repeated("Block35", 5, resnet_35(32, 32)),
            "Mixed_6a": to_17(192, 192, 256, 384),
            **repeated("Block17", 10, resnet_pair(7, (128, 128, 128, 128), scale=0.10)),
            "Mixed_7a": resnet_to_8(256, (256, 256)),
            **repeated("Block8", 5, resnet_pair(3, (192, 192, 192, 192), scale=0.20)),
        },
        paper=RESIDUAL,
        published=Published(78.7, "ImageNet", "Szegedy et al. 2016, Table 2, single crop"),
    ),
    "inception_resnet_v2": InceptionVariant(
        layers={
            **STEM,
            "MaxPool_5a_3x3": MaxPool(),
            "Mixed_5b": V2_35_FIRST,
            **repeated("Block35", 10, resnet_35(48, 64)),
            "Mixed_6a": to_17(256, 256, 384, 384),
            **repeated("Block17", 20, resnet_pair(7, (192, 128, 160, 192), scale=0.10)),
            "Mixed_7a": resnet_to_8(288, (288, 320)),
            **repeated("Block8", 9, resnet_pair(3, (192, 192, 224, 256), scale=0.20)),
            "Block8_10": resnet_pair(3, (192, 192, 224, 256), scale=1.0, relu=False),
            "Conv2d_7b_1x1": Conv(1536),
        },
        paper=RESIDUAL,
        published=Published(80.3, "ImageNet", "keras.io"),
    ),
}


class InceptionNetwork(TrunkClassifier):
    """The rows of a variant's table one after another, one dense layer.

    State-dict keys of ``inception_v3`` are torchvision's: ``Mixed_6b.branch7x7dbl_3.conv.weight``. Those of
    ``inception_v4`` and ``inception_resnet_v2`` come in timm's order, one for one. Taps have TF-slim's names.
    """

    auxiliary_weight = 0.4

    def __init__(self, variant: InceptionVariant, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        # [N, in_channels, 299, 299] -> [N, C, 8, 8]
        for name, row in variant.layers.items():
            channels, side = row.shape(self.channels, self.side)
            self.add_layer(name, row.build(self.channels), channels, side)
            if name == variant.auxiliary_after:
                self.add_auxiliary_head("AuxLogits", name, AuxiliaryHead(channels, side, num_classes), output="fc")
        self.add_output(variant.dropout)


class Branches(nn.Module):
    """Branches on the same map, their outputs concatenated."""

    def __init__(self, in_channels: int, branches: tuple[Branch, ...]) -> None:
        super().__init__()
        self.paths: list[tuple[list[str], list[str]]] = []  # of each branch: its layers, and those of its fork
        for branch in branches:
            names, fork_names = branch.names()
            channels = in_channels
            for name, conv in zip(names, branch.convs, strict=True):
                self.add_module(name, conv.build(channels))
                channels = conv.channels
            for name, conv in zip(fork_names, branch.fork, strict=True):
                self.add_module(name, conv.build(channels))
            if branch.pool:
                self.pool = POOLS[branch.pool]()
                names = ["pool", *names]
            self.paths.append((names, fork_names))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, h, w] -> [N, the channels of all branches, h, w], or a smaller grid."""
        outputs: list[torch.Tensor] = []
        for names, fork_names in self.paths:
            inner = maps
            for name in names:
                inner = getattr(self, name)(inner)
            outputs += [getattr(self, name)(inner) for name in fork_names] or [inner]
        return torch.cat(outputs, 1)


class ResidualBranches(nn.Module):
    """The map itself plus scale x widened branches, then ReLU."""

    def __init__(self, in_channels: int, row: Residual) -> None:
        super().__init__()
        width, _ = row.module.shape(in_channels, side=1)
        self.branches = row.module.build(in_channels)
        self.widen = nn.Conv2d(width, in_channels, 1)
        self.scale = row.scale
        self.relu = nn.ReLU(inplace=True) if row.relu else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, h, w] -> the same shape."""
        output: torch.Tensor = self.relu(self.widen(self.branches(maps)) * self.scale + maps)
        return output


class AuxiliaryHead(nn.Module):
    """A small classifier on the last 17x17 map, which regularises; training alone uses it."""

    def __init__(self, in_channels: int, side: int, num_classes: int) -> None:
        super().__init__()
        fits = output_side(side, kernel=5, stride=3) >= 5
        self.pool = nn.AvgPool2d(5, stride=3) if fits else nn.AdaptiveAvgPool2d(5)
        self.conv0 = ConvNormReLU(in_channels, 128, 1)
        self.conv1 = ConvNormReLU(128, 768, 5)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, 17, 17] -> [N, num_classes]."""
        wide = self.conv1(self.conv0(self.pool(maps)))  # [N, 768, 1, 1]
        logits: torch.Tensor = self.fc(torch.flatten(self.avgpool(wide), 1))
        return logits


def _register(name: str, variant: InceptionVariant) -> None:
    register(
        ModelEntry(
            name=name,
            family=variant.paper.family,
            year=variant.paper.year,
            paper=variant.paper.citation,
            image_size=299,
            in_channels=3,
            num_classes=1000,
            minimum_size=75,
            minimum_reason="seven 3x3 windows without padding, five of them of stride 2",
            recipe="inception",
            build=partial(InceptionNetwork, variant),
            brought=variant.paper.brought,
            published=variant.published,
        )
    )


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
