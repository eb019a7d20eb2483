"""Network in Network: after each convolution 1x1 convolutions, and global average pooling in place of dense layers.

A window is read by a small multilayer perceptron instead of one linear filter, and the last of these makes a map for
each class, whose mean is the class's logit.

    create_model("nin")                                     # 32x32 images
    create_model("nin_bn", num_classes=100)                 # the same with batch normalisation: learns much faster
    create_model("nin_imagenet")

Source: Lin, Chen & Yan 2013, arXiv 1312.4400, section 3; the authors' Caffe files for the widths, which it leaves out.

Differences from the paper
  - pool2 of the networks for CIFAR averages, as in the authors' files; all poolings take the maximum in the paper.
  - Weights start from he_normal, those of the class maps from N(0, 0.01) with biases of 1: the maps are above zero
    then, where ReLU lets them learn. In the authors' files weights start from N(0, 0.05) or N(0, 0.01), biases from 0.

Differences from the paper, nin_imagenet
  - Not in the paper: the four mlpconv layers for ImageNet that its authors put into Caffe's model zoo.

Differences from the paper, nin_bn
  - Not the paper's: batch normalisation between convolution and ReLU, except in the class maps.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import nn

from convatlas.layers import output_side, rounded_up_side
from convatlas.models.contract import Classifier, Tap
from convatlas.models.registry import ModelEntry, Published, register

Layers = OrderedDict[str, nn.Module]


@dataclass(frozen=True)
class MLPConv:
    """A convolution and the 1x1 convolutions after it, each with ReLU; then a 3x3 pooling of stride 2, if any."""

    widths: tuple[int, ...]  # output channels of each; the last layer's class maps come on top
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: type[nn.MaxPool2d | nn.AvgPool2d] | None = None  # rounds the size up
    dropout: bool = False  # half of the pooled outputs


@dataclass(frozen=True)
class NiNVariant:
    """One registered network."""

    layers: tuple[MLPConv, ...]
    batch_norm: bool = False
    image_size: int = 32
    num_classes: int = 10


CIFAR = (
    MLPConv((192, 160, 96), kernel=5, padding=2, pool=nn.MaxPool2d, dropout=True),
    MLPConv((192, 192, 192), kernel=5, padding=2, pool=nn.AvgPool2d, dropout=True),
    MLPConv((192, 192), kernel=3, padding=1),
)
IMAGENET = (
    MLPConv((96, 96, 96), kernel=11, stride=4, pool=nn.MaxPool2d),
    MLPConv((256, 256, 256), kernel=5, padding=2, pool=nn.MaxPool2d),
    MLPConv((384, 384, 384), kernel=3, padding=1, pool=nn.MaxPool2d, dropout=True),
    MLPConv((1024, 1024), kernel=3, padding=1),
)

VARIANTS = {
    "nin": NiNVariant(CIFAR),
    "nin_bn": NiNVariant(CIFAR, batch_norm=True),
    "nin_imagenet": NiNVariant(IMAGENET, image_size=224, num_classes=1000),
}


class NiN(Classifier):
    """Mlpconv layers; the last makes a map for each class, and the mean of a map is the class's logit.

    ``features`` is everything before the class maps, ``classifier`` what makes them: [N, C, h, w] -> [N, num_classes,
    h, w]. As published, ReLU comes before the mean, so that no logit is negative.
    """

    output_names = ("classifier.0",)

    def __init__(self, variant: NiNVariant, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        self.features, self.taps = feature_layers(variant, in_channels, image_size)
        class_maps = nn.Conv2d(variant.layers[-1].widths[-1], num_classes, 1)
        self.classifier = nn.Sequential(class_maps, nn.ReLU(inplace=True))
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def head(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Feature map [N, C, h, w] -> logits [N, num_classes]."""
        return torch.flatten(self.avgpool(self.classifier(feature_map)), 1)

    def initialize_output(self) -> None:
        """Small weights, and all class maps near 1: equal probabilities, and no map where ReLU has no gradient."""
        super().initialize_output()
        nn.init.ones_(self.get_parameter("classifier.0.bias"))


def feature_layers(variant: NiNVariant, in_channels: int, side: int) -> tuple[nn.Sequential, dict[str, Tap]]:
    """Everything before the class maps, with a tap for each layer: conv1, cccp1, cccp2, pool1, as in Caffe's files."""
    layers = Layers()
    taps: dict[str, Tap] = {}
    channels, pointwise = in_channels, count(1)

    def add(name: str, layer: nn.Module) -> None:
        layers[name] = layer
        taps[name] = Tap(f"features.{name}", (channels, side, side))

    for number, row in enumerate(variant.layers, start=1):
        first = nn.Conv2d(channels, row.widths[0], row.kernel, row.stride, row.padding, bias=not variant.batch_norm)
        channels, side = row.widths[0], output_side(side, row.kernel, row.stride, row.padding)
        add(f"conv{number}", activated(first, variant.batch_norm))
        for width in row.widths[1:]:
            across = nn.Conv2d(channels, width, 1, bias=not variant.batch_norm)
            channels = width
            add(f"cccp{next(pointwise)}", activated(across, variant.batch_norm))
        if row.pool is not None:
            side = rounded_up_side(side, window=3)
            add(f"pool{number}", row.pool(3, stride=2, ceil_mode=True))
        if row.dropout:
            layers[f"drop{number}"] = nn.Dropout(0.5)
    return nn.Sequential(layers), taps


def activated(conv: nn.Conv2d, batch_norm: bool) -> nn.Sequential:
    """A convolution, its normalisation if any, and ReLU."""
    norm = [nn.BatchNorm2d(conv.out_channels)] if batch_norm else []
    return nn.Sequential(conv, *norm, nn.ReLU(inplace=True))


def final_side(variant: NiNVariant, image_size: int) -> int:
    """Side of the class maps.

    >>> final_side(VARIANTS["nin"], 32), final_side(VARIANTS["nin_imagenet"], 224)
    (8, 6)
    """
    side = image_size
    for row in variant.layers:
        side = output_side(side, row.kernel, row.stride, row.padding)
        side = rounded_up_side(side, window=3) if row.pool is not None else side
    return side


MINIMUM_REASON = {
    2: "two 3x3 poolings of stride 2",
    3: "an 11x11 convolution of stride 4 and three 3x3 poolings",
}
PUBLISHED = {
    "nin": Published(91.19, "CIFAR-10", "Lin et al. 2013, Table 1, with augmentation"),
    "nin_imagenet": Published(59.36, "ImageNet", "Caffe's model zoo"),
}


def _register(name: str, variant: NiNVariant) -> None:
    register(
        ModelEntry(
            name=name,
            family="nin",
            year=2013,
            paper="Lin, Chen & Yan 2013, arXiv 1312.4400",
            image_size=variant.image_size,
            in_channels=3,
            num_classes=variant.num_classes,
            minimum_size=next(size for size in count(1) if final_side(variant, size) >= 1),
            minimum_reason=MINIMUM_REASON[sum(row.pool is not None for row in variant.layers)],
            recipe="nin",
            build=partial(NiN, variant),
            brought="The 1x1 convolution, a layer that mixes channels at each pixel, and global average pooling, which "
            "made dense layers and most weights of a network unnecessary.",
            published=PUBLISHED.get(name),
        )
    )


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
