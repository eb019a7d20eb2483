"""EfficientNet-Lite: MobileNet's inverted residuals, scaled in width, depth and image size together, without gates.

The lite networks are EfficientNets for phones and CPUs: no squeeze-and-excitation, ReLU6 instead of swish, and the
first and last convolutions as wide in all of them.

    create_model("efficientnet_lite0")                      # weights: convatlas predict efficientnet_lite0 photo.jpg

Sources: Tan & Le 2019, arXiv 1905.11946, Table 1 and section 3.3; Liu 2020, "Higher accuracy on vision models with
EfficientNet-Lite", TensorFlow's blog, and its code in tensorflow/tpu, models/official/efficientnet/lite.

Differences from the papers
  - No stochastic depth (0.2 in the authors' code) in training.
  - Weights start from he_normal; those of the output layer from N(0, 0.01). The authors' code has a normal by fan-out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil

import torch
import torch.fx
from torch import nn
from torch.nn import functional

from convatlas.models.contract import Classifier, Tap
from convatlas.models.registry import ModelEntry, Published, register

DIVISOR = 8  # numbers of channels are multiples of it
STEM, LAST = 32, 1280  # channels of the first and the last convolution, in all of them
EPSILON = 1e-3


@dataclass(frozen=True)
class Stage:
    """Blocks of the same width: a row of Table 1 of the paper."""

    kernel: int
    stride: int  # of the first block
    expansion: int  # times as many channels inside the block
    channels: int
    blocks: int


B0 = (
    Stage(kernel=3, stride=1, expansion=1, channels=16, blocks=1),
    Stage(kernel=3, stride=2, expansion=6, channels=24, blocks=2),
    Stage(kernel=5, stride=2, expansion=6, channels=40, blocks=2),
    Stage(kernel=3, stride=2, expansion=6, channels=80, blocks=3),
    Stage(kernel=5, stride=1, expansion=6, channels=112, blocks=3),
    Stage(kernel=5, stride=2, expansion=6, channels=192, blocks=4),
    Stage(kernel=3, stride=1, expansion=6, channels=320, blocks=1),
)


@dataclass(frozen=True)
class LiteVariant:
    """One registered network: how much wider and deeper than the smallest."""

    width: float
    depth: float
    image_size: int
    dropout: float  # before the output layer
    accuracy: float  # top-1 on ImageNet, in percent, as TensorFlow's blog has it


VARIANTS = {
    "efficientnet_lite0": LiteVariant(1.0, 1.0, image_size=224, dropout=0.2, accuracy=75.1),
    "efficientnet_lite1": LiteVariant(1.0, 1.1, image_size=240, dropout=0.2, accuracy=76.7),
    "efficientnet_lite2": LiteVariant(1.1, 1.2, image_size=260, dropout=0.3, accuracy=77.6),
    "efficientnet_lite3": LiteVariant(1.2, 1.4, image_size=280, dropout=0.3, accuracy=79.8),
    "efficientnet_lite4": LiteVariant(1.4, 1.8, image_size=300, dropout=0.3, accuracy=81.5),
}


def scaled_stages(variant: LiteVariant) -> tuple[Stage, ...]:
    """The stages of a variant: the first and the last keep their depth.

    >>> [(stage.channels, stage.blocks) for stage in scaled_stages(VARIANTS["efficientnet_lite2"])][:3]
    [(16, 1), (24, 3), (48, 3)]
    """
    last = len(B0) - 1
    return tuple(
        Stage(
            stage.kernel,
            stage.stride,
            stage.expansion,
            scaled_channels(stage.channels, variant.width),
            stage.blocks if row in (0, last) else ceil(stage.blocks * variant.depth),
        )
        for row, stage in enumerate(B0)
    )


def scaled_channels(channels: int, width: float) -> int:
    """So many times as many channels, to the nearest multiple of eight that is not a tenth less.

    >>> scaled_channels(16, 1.1), scaled_channels(40, 1.1)
    (16, 48)
    """
    wanted = channels * width
    nearest = max(DIVISOR, int(wanted + DIVISOR / 2) // DIVISOR * DIVISOR)
    return nearest + DIVISOR if nearest < 0.9 * wanted else nearest


def padded_as_same(maps: torch.Tensor, kernel: int) -> torch.Tensor:
    """Zeros around maps, so that a convolution of stride 2 gives ceil(side / 2) pixels, as TensorFlow's "same" has it.

    Where padding is uneven, as at even sides, the extra row and column are below and to the right.

    >>> padded_as_same(torch.zeros(1, 3, 224, 225), kernel=3).shape
    torch.Size([1, 3, 225, 227])
    """
    high, wide = (max(0, (-(-side // 2) - 1) * 2 + kernel - side) for side in maps.shape[2:])
    return functional.pad(maps, (wide // 2, wide - wide // 2, high // 2, high - high // 2))


torch.fx.wrap("padded_as_same")  # for who traces the network: how much is padded is not to be taken apart


class SamePadding(nn.Module):
    """What goes before a convolution of stride 2, which itself has no padding."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> the same with zeros around them."""
        return padded_as_same(maps, self.kernel)


def padding(kernel: int, stride: int) -> nn.Module:
    """Before a convolution: an odd window at stride 1 is padded evenly, which the convolution itself does fastest."""
    return nn.Identity() if stride == 1 else SamePadding(kernel)


def convolution(channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without bias; what goes before it at stride 2 is `padding`."""
    around = kernel // 2 if stride == 1 else 0
    return nn.Conv2d(channels, width, kernel, stride, padding=around, groups=groups, bias=False)


class SeparableConvolution(nn.Module):
    """The first block, which does not expand: a filter for each channel, then one across channels, which is linear."""

    def __init__(self, channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        self.pad = padding(stage.kernel, stride)
        self.conv_dw = convolution(channels, channels, stage.kernel, stride, groups=channels)
        self.bn1 = nn.BatchNorm2d(channels, EPSILON)
        self.act1 = nn.ReLU6(inplace=True)
        self.conv_pw = convolution(channels, stage.channels, 1)
        self.bn2 = nn.BatchNorm2d(stage.channels, EPSILON)
        self.has_shortcut = stride == 1 and channels == stage.channels

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, width, H / stride, W / stride]."""
        residual: torch.Tensor = self.act1(self.bn1(self.conv_dw(self.pad(maps))))
        residual = self.bn2(self.conv_pw(residual))
        return maps + residual if self.has_shortcut else residual


class InvertedResidual(nn.Module):
    """MobileNet v2's block, with windows of 3x3 or 5x5: expand, filter each channel, project; no ReLU at the end."""

    def __init__(self, channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        hidden = channels * stage.expansion
        self.conv_pw = convolution(channels, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden, EPSILON)
        self.act1 = nn.ReLU6(inplace=True)
        self.pad = padding(stage.kernel, stride)
        self.conv_dw = convolution(hidden, hidden, stage.kernel, stride, groups=hidden)
        self.bn2 = nn.BatchNorm2d(hidden, EPSILON)
        self.act2 = nn.ReLU6(inplace=True)
        self.conv_pwl = convolution(hidden, stage.channels, 1)
        self.bn3 = nn.BatchNorm2d(stage.channels, EPSILON)
        self.has_shortcut = stride == 1 and channels == stage.channels

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, width, H / stride, W / stride]."""
        residual: torch.Tensor = self.act1(self.bn1(self.conv_pw(maps)))
        residual = self.act2(self.bn2(self.conv_dw(self.pad(residual))))
        residual = self.bn3(self.conv_pwl(residual))
        return maps + residual if self.has_shortcut else residual


def stages_of_blocks(stages: tuple[Stage, ...], side: int) -> tuple[nn.Sequential, dict[str, Tap], int, int]:
    """The blocks, their taps, and the channels and the side of their output."""
    channels, rows, taps = STEM, [], {}
    for row, stage in enumerate(stages):
        kind = SeparableConvolution if stage.expansion == 1 else InvertedResidual
        blocks: list[nn.Module] = []
        for number in range(stage.blocks):
            stride = stage.stride if number == 0 else 1
            blocks.append(kind(channels, stage, stride))
            channels, side = stage.channels, -(-side // stride)
            taps[f"mbconv{row + 1}_{number + 1}"] = Tap(f"blocks.{row}.{number}", (channels, side, side))
        rows.append(nn.Sequential(*blocks))
    return nn.Sequential(*rows), taps, channels, side


class EfficientNetLite(Classifier):
    """A convolution, seven stages of blocks, a convolution, global average pooling, one dense layer.

    State-dict keys are timm's of ``tf_efficientnet_lite0``: ``blocks.1.0.conv_pwl.weight``, ``classifier.bias``.
    """

    output_names = ("classifier",)

    def __init__(self, variant: LiteVariant, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        side = -(-image_size // 2)
        self.pad = padding(3, 2)
        self.conv_stem = convolution(in_channels, STEM, 3, stride=2)
        self.bn1 = nn.BatchNorm2d(STEM, EPSILON)
        self.act1 = nn.ReLU6(inplace=True)
        self.blocks, taps, channels, side = stages_of_blocks(scaled_stages(variant), side)
        self.conv_head = convolution(channels, LAST, 1)
        self.bn2 = nn.BatchNorm2d(LAST, EPSILON)
        self.act2 = nn.ReLU6(inplace=True)
        stem = Tap("act1", (STEM, -(-image_size // 2), -(-image_size // 2)))
        self.taps = {"conv1": stem, **taps, "conv2": Tap("act2", (LAST, side, side))}
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(variant.dropout)
        self.classifier = nn.Linear(LAST, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images [N, in_channels, H, W] -> the last feature map [N, 1280, h, w]."""
        maps: torch.Tensor = self.act1(self.bn1(self.conv_stem(self.pad(images))))
        return self.act2(self.bn2(self.conv_head(self.blocks(maps))))  # type: ignore[no-any-return]

    def head(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Feature map [N, C, h, w] -> logits [N, num_classes]."""
        logits: torch.Tensor = self.classifier(self.dropout(torch.flatten(self.avgpool(feature_map), 1)))
        return logits


def _register(name: str, variant: LiteVariant) -> None:
    register(
        ModelEntry(
            name=name,
            family="efficientnet",
            year=2019,
            paper="Tan & Le 2019, arXiv 1905.11946",
            image_size=variant.image_size,
            in_channels=3,
            num_classes=1000,
            minimum_size=28,
            minimum_reason="five convolutions of stride 2",
            recipe="mobilenet",
            build=partial(EfficientNetLite, variant),
            brought="Width, depth and image size grow together by fixed ratios; the lite form does without gates and "
            "swish, for phones and CPUs.",
            published=Published(variant.accuracy, "ImageNet", "Liu 2020, TensorFlow's blog"),
        )
    )


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
