"""Residual networks: a block adds what it has learnt to what it was given, so that more layers mean less error.

Before them, deeper networks of plain convolutions had the higher *training* error. One block with a few arguments makes
the whole lineage, from networks without shortcuts to a thousand layers, many branches, wide layers and channel weights.

    create_model("resnet50")            # as torchvision has it; resnet50_v1 as published
    create_model("resnet20")            # 32x32 images: 20, 32, 44, 56, 110 or 1202 layers
    create_model("plain34")             # the same layers without shortcuts
    create_model("preresnet164")        # normalisation and ReLU before each convolution
    create_model("resnext50_32x4d"), create_model("wide_resnet28_10"), create_model("seresnet50")

Sources: He, Zhang, Ren & Sun 2015, arXiv 1512.03385, sections 3 and 4 (plain, resnet); the same 2016, arXiv 1603.05027
(preresnet); Xie et al. 2016, arXiv 1611.05431 (resnext); Zagoruyko & Komodakis 2016, arXiv 1605.07146 (wide_resnet);
Hu, Shen & Sun 2018, arXiv 1709.01507 (senet).

Differences from the papers, resnet50, resnet101, resnet152, seresnet50, seresnet101, seresnet152
  - Bottlenecks halve the map in their 3x3 convolution ("v1.5"), as torchvision's and timm's do; the paper's do so in
    their first 1x1, as resnet50_v1, resnet101_v1 and resnet152_v1.

Differences from the papers, resnet34_a, resnet20, resnet32, resnet44, resnet56, resnet110, resnet1202
  - The channels of zeros on shortcuts come after those that are there; the paper does not say where.

Differences from the papers, resnet18_cifar
  - The paper's networks for small images are resnet20 to resnet1202. This popular form is its ResNet-18 with a 3x3
    convolution of stride 1 and no pooling for a stem.

Differences from the papers, resnet18_s2
  - A tutorial's ResNet-18 for small images: a 3x3 convolution and a 2x2 pooling of stride 1 for a stem, which keep the
    size of the map here, and no normalisation on shortcuts. Its convolutions have no biases here.

Differences from the papers, preresnet18, preresnet34, preresnet50, preresnet101
  - It is not in the paper, and follows preresnet152 and preresnet200.

Differences from the papers, preresnet50, preresnet101, preresnet152, preresnet200
  - Bottlenecks halve the map in their 3x3 convolution, those of preresnet164 and preresnet1001 in their first 1x1, as
    in the public code of each; the paper does not say where.

Differences from the papers, wide_resnet28_10
  - It drops out 0.3 of the values between its convolutions, as in Table 6 of the paper; Table 5 has it without.

Differences from the papers, resnext29_8x64d, resnext29_16x64d
  - Blocks are as in resnext50_32x4d: the paper's are pre-activated, and its authors' code recommends these.

Differences from the papers, seresnet18, seresnet34, seresnet20, seresnet110
  - The hidden layer of squeeze-and-excitation has 8 units at least, as timm's, which is more than a sixteenth of the
    first stages' channels.

Differences from the papers, seresnet110
  - It is pre-activated, as preresnet110.

Differences from the papers, seresnet18, seresnet34, seresnet20
  - It is not in the paper, and follows seresnet50 and seresnet110.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast

import torch
from torch import nn

from convatlas.layers import SqueezeExcite, output_side
from convatlas.models.contract import Classifier, Tap
from convatlas.models.registry import ModelEntry, Paper, Published, register


@dataclass(frozen=True)
class BlockForm:
    """What a network's blocks have in common.

    Shortcuts where a block changes the shape of the map, as He et al. 2015 name them in section 4.1: "A", the map
    itself, every stride-th pixel of it, and channels of zeros; "B", a 1x1 convolution. "C" has that in every block.
    """

    bottleneck: bool = False  # 1x1, 3x3 and 1x1 convolutions, the last four times as wide; otherwise 3x3 and 3x3
    shortcut: Literal["A", "B", "C", "none"] = "B"
    normalized_shortcut: bool = True  # of B and C, which a pre-activated block leaves as they are
    stride_first: bool = False  # a bottleneck halves the map in its first convolution instead of the 3x3
    groups: int = 1  # cardinality: branches of the 3x3 convolution of a bottleneck
    base_width: int = 64  # channels of a branch where the stage is 64 wide
    preactivated: bool = False  # normalisation and ReLU before each convolution instead of after it
    squeeze_excite: bool = False
    dropout: float = 0.0  # before the second convolution of a pre-activated block

    def out_channels(self, width: int) -> int:
        """Channels of the map that a block makes in a stage of a width."""
        return width * 4 if self.bottleneck else width


@dataclass(frozen=True)
class Stem:
    """What stands before the first block: a convolution, and perhaps a max pooling."""

    channels: int
    kernel: int = 3
    stride: int = 1
    pool: tuple[int, int] | None = None  # window and stride

    @property
    def total_stride(self) -> int:
        """How much smaller the map is than the image."""
        return self.stride * (self.pool[1] if self.pool else 1)


IMAGENET = Stem(64, kernel=7, stride=2, pool=(3, 2))


@dataclass(frozen=True)
class ResNetVariant:
    """One registered network."""

    family: str
    blocks: tuple[int, ...]  # of each stage; each after the first halves the map and doubles the width
    form: BlockForm
    width: int = 64  # of the first stage: channels of the 3x3 convolutions, before groups and base width
    stem: Stem = IMAGENET
    image_size: int = 224
    num_classes: int = 1000

    @property
    def total_stride(self) -> int:
        """Pixels of the image, each way, to one of the last feature map."""
        stride: int = self.stem.total_stride * 2 ** (len(self.blocks) - 1)
        return stride


BASIC = BlockForm()
BASIC_A = BlockForm(shortcut="A")
BASIC_C = BlockForm(shortcut="C")
BASIC_BARE = BlockForm(normalized_shortcut=False)
PLAIN = BlockForm(shortcut="none")
SE_BASIC = BlockForm(squeeze_excite=True)
PRE_BASIC = BlockForm(preactivated=True, normalized_shortcut=False)
PRE_BASIC_A = BlockForm(preactivated=True, shortcut="A")

BOTTLENECK = BlockForm(bottleneck=True)
BOTTLENECK_V1 = replace(BOTTLENECK, stride_first=True)
BOTTLENECK_32X4 = replace(BOTTLENECK, groups=32, base_width=4)
WIDE_BOTTLENECK = replace(BOTTLENECK, base_width=128)
SE_BOTTLENECK = replace(BOTTLENECK, squeeze_excite=True)
SE_BOTTLENECK_32X4 = replace(BOTTLENECK_32X4, squeeze_excite=True)
PRE_BOTTLENECK = replace(PRE_BASIC, bottleneck=True)
PRE_BOTTLENECK_V1 = replace(PRE_BOTTLENECK, stride_first=True)

OF_18, OF_34, OF_50, OF_101, OF_152 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)

small = partial(ResNetVariant, stem=Stem(16), width=16, image_size=32, num_classes=10)
small_resnext = partial(ResNetVariant, "resnext", (3,) * 3, stem=Stem(64), image_size=32, num_classes=10)

VARIANTS = {
    # He et al. 2015, Table 1; the stride of bottlenecks is torchvision's.
    "resnet18": ResNetVariant("resnet", OF_18, BASIC),
    "resnet34": ResNetVariant("resnet", OF_34, BASIC),
    "resnet50": ResNetVariant("resnet", OF_50, BOTTLENECK),
    "resnet101": ResNetVariant("resnet", OF_101, BOTTLENECK),
    "resnet152": ResNetVariant("resnet", OF_152, BOTTLENECK),
    # As published.
    "resnet50_v1": ResNetVariant("resnet", OF_50, BOTTLENECK_V1),
    "resnet101_v1": ResNetVariant("resnet", OF_101, BOTTLENECK_V1),
    "resnet152_v1": ResNetVariant("resnet", OF_152, BOTTLENECK_V1),
    "resnet34_a": ResNetVariant("resnet", OF_34, BASIC_A),
    "resnet34_c": ResNetVariant("resnet", OF_34, BASIC_C),
    # For CIFAR, section 4.2: 6n + 2 layers.
    "resnet20": small("resnet", (3,) * 3, BASIC_A),
    "resnet32": small("resnet", (5,) * 3, BASIC_A),
    "resnet44": small("resnet", (7,) * 3, BASIC_A),
    "resnet56": small("resnet", (9,) * 3, BASIC_A),
    "resnet110": small("resnet", (18,) * 3, BASIC_A),
    "resnet1202": small("resnet", (200,) * 3, BASIC_A),
    # ResNet-18 on small images: a 3x3 stem that keeps their size.
    "resnet18_cifar": small("resnet", OF_18, BASIC, stem=Stem(64), width=64),
    "resnet18_s2": small("resnet", OF_18, BASIC_BARE, stem=Stem(64, pool=(2, 1)), width=64, num_classes=100),
    # The same layers without shortcuts.
    "plain18": ResNetVariant("plain", OF_18, PLAIN),
    "plain34": ResNetVariant("plain", OF_34, PLAIN),
    "plain20": small("plain", (3,) * 3, PLAIN),
    "plain56": small("plain", (9,) * 3, PLAIN),
    # He et al. 2016.
    "preresnet18": ResNetVariant("preresnet", OF_18, PRE_BASIC),
    "preresnet34": ResNetVariant("preresnet", OF_34, PRE_BASIC),
    "preresnet50": ResNetVariant("preresnet", OF_50, PRE_BOTTLENECK),
    "preresnet101": ResNetVariant("preresnet", OF_101, PRE_BOTTLENECK),
    "preresnet152": ResNetVariant("preresnet", OF_152, PRE_BOTTLENECK),
    "preresnet200": ResNetVariant("preresnet", (3, 24, 36, 3), PRE_BOTTLENECK),
    "preresnet110": small("preresnet", (18,) * 3, PRE_BASIC_A),
    "preresnet164": small("preresnet", (18,) * 3, PRE_BOTTLENECK_V1),
    "preresnet1001": small("preresnet", (111,) * 3, PRE_BOTTLENECK_V1),
    # Zagoruyko & Komodakis 2016: depth, then how many times wider.
    "wide_resnet50_2": ResNetVariant("wide_resnet", OF_50, WIDE_BOTTLENECK),
    "wide_resnet101_2": ResNetVariant("wide_resnet", OF_101, WIDE_BOTTLENECK),
    "wide_resnet16_8": small("wide_resnet", (2,) * 3, PRE_BASIC, width=16 * 8),
    "wide_resnet40_4": small("wide_resnet", (6,) * 3, PRE_BASIC, width=16 * 4),
    "wide_resnet28_10": small("wide_resnet", (4,) * 3, replace(PRE_BASIC, dropout=0.3), width=16 * 10),
    # Xie et al. 2016: depth, then branches x channels of a branch.
    "resnext50_32x4d": ResNetVariant("resnext", OF_50, BOTTLENECK_32X4),
    "resnext101_32x8d": ResNetVariant("resnext", OF_101, replace(BOTTLENECK, groups=32, base_width=8)),
    "resnext101_64x4d": ResNetVariant("resnext", OF_101, replace(BOTTLENECK, groups=64, base_width=4)),
    "resnext29_8x64d": small_resnext(replace(BOTTLENECK, groups=8)),
    "resnext29_16x64d": small_resnext(replace(BOTTLENECK, groups=16)),
    # Hu et al. 2018; for CIFAR, 110 layers are the pre-activated ones, as in Table 4.
    "seresnet18": ResNetVariant("senet", OF_18, SE_BASIC),
    "seresnet34": ResNetVariant("senet", OF_34, SE_BASIC),
    "seresnet50": ResNetVariant("senet", OF_50, SE_BOTTLENECK),
    "seresnet101": ResNetVariant("senet", OF_101, SE_BOTTLENECK),
    "seresnet152": ResNetVariant("senet", OF_152, SE_BOTTLENECK),
    "seresnext50_32x4d": ResNetVariant("senet", OF_50, SE_BOTTLENECK_32X4),
    "seresnext101_32x4d": ResNetVariant("senet", OF_101, SE_BOTTLENECK_32X4),
    "seresnet20": small("senet", (3,) * 3, replace(BASIC_A, squeeze_excite=True)),
    "seresnet110": small("senet", (18,) * 3, replace(PRE_BASIC_A, squeeze_excite=True)),
}


class Block(nn.Module):
    """Two or three convolutions, and a shortcut around them.

    >>> Block(BlockForm(bottleneck=True), in_channels=256, width=128, stride=2)(torch.zeros(1, 256, 56, 56)).shape
    torch.Size([1, 512, 28, 28])

    ``follows_activation``: a pre-activated block whose input is normalised and rectified already does not do it again.

    Sources: He et al. 2015, figures 2 and 5; He et al. 2016, figure 1b and appendix; Xie et al. 2016, figure 3c; Hu et
    al. 2018, figure 3.
    """

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    conv2: nn.Conv2d
    bn2: nn.BatchNorm2d
    conv3: nn.Conv2d
    bn3: nn.BatchNorm2d

    def __init__(
        self, form: BlockForm, in_channels: int, width: int, stride: int, *, follows_activation: bool = False
    ) -> None:
        super().__init__()
        self.form = form
        self.follows_activation = follows_activation
        out_channels = form.out_channels(width)
        for number, conv in enumerate(convolutions(form, in_channels, width, stride), start=1):
            self.add_module(f"conv{number}", conv)
            if number > 1 or not follows_activation:
                norm = nn.BatchNorm2d(conv.in_channels if form.preactivated else conv.out_channels)
                self.add_module(f"bn{number}", norm)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(form.dropout) if form.dropout else None
        self.se = SqueezeExcite(out_channels) if form.squeeze_excite else None
        self.projects = projects(form, in_channels, out_channels, stride)
        self.downsample = shortcut(form, in_channels, out_channels, stride)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, in_channels, H, W] -> [N, out_channels, H/stride, W/stride]."""
        return self.preactivated(maps) if self.form.preactivated else self.postactivated(maps)

    def postactivated(self, maps: torch.Tensor) -> torch.Tensor:
        """As in 2015: the sum is rectified."""
        residual = self.relu(self.bn1(self.conv1(maps)))
        residual = self.bn2(self.conv2(residual))
        if self.form.bottleneck:
            residual = self.bn3(self.conv3(self.relu(residual)))
        output: torch.Tensor = self.relu(self.joined(residual, maps))
        return output

    def preactivated(self, maps: torch.Tensor) -> torch.Tensor:
        """As in 2016: nothing comes after the sum, so shortcut follows on shortcut. A projection is activated too."""
        activated = maps if self.follows_activation else self.relu(self.bn1(maps))
        residual = self.relu(self.bn2(self.conv1(activated)))
        residual = self.conv2(residual if self.dropout is None else self.dropout(residual))
        if self.form.bottleneck:
            residual = self.conv3(self.relu(self.bn3(residual)))
        return self.joined(residual, activated if self.projects else maps)

    def joined(self, residual: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """What the convolutions made, its channels scaled, on top of what the shortcut brings."""
        if self.se is not None:
            residual = self.se(residual)
        if self.form.shortcut == "none":
            return residual
        return residual + (maps if self.downsample is None else self.downsample(maps))

    def start_variances(self, size: float) -> float:
        """Start running variances at what fresh weights make of a map of this mean square; return that of the output.

        A convolution that he_normal has filled doubles a mean square, and ReLU halves it where values lie around zero:
        only norms that see the map as it came, however large, start at another number than 1.
        """
        convolved = 1.0 if self.form.preactivated else 2 * size
        if not self.follows_activation:
            start_variance([self.bn1], size if self.form.preactivated else convolved)
        start_variance(self.downsample or [], convolved)
        if self.form.shortcut != "none" and not self.projects:
            return size + 1
        brought = 0.0 if self.form.shortcut == "none" else 1.0 if self.form.normalized_shortcut else convolved
        return brought + 1 if self.form.preactivated else (brought + 1) / 2


class ResNet(Classifier):
    """A stem, three or four stages of blocks, the mean of the map, one linear layer.

    State-dict keys are torchvision's: ``layer1.0.conv1.weight``, ``layer2.0.downsample.0.weight``, ``fc.bias``.
    """

    def __init__(self, variant: ResNetVariant, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        form, stem = variant.form, variant.stem
        # [N, 3, 224, 224] -> [N, 64, 56, 56]
        self.conv1 = convolution(in_channels, stem.channels, stem.kernel, stem.stride)
        self.bn1 = nn.BatchNorm2d(stem.channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = pooling(*stem.pool) if stem.pool else nn.Identity()
        # -> [N, 256, 56, 56] -> [N, 512, 28, 28] -> [N, 1024, 14, 14] -> [N, 2048, 7, 7], a quarter if not bottlenecks
        self.stage_names = tuple(f"layer{number}" for number in range(1, len(variant.blocks) + 1))
        channels, width = stem.channels, variant.width
        for name, blocks in zip(self.stage_names, variant.blocks, strict=True):
            is_first = name == "layer1"
            self.add_module(name, stage(form, channels, width, blocks, is_first=is_first))
            channels, width = form.out_channels(width), width * 2
        last = [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)] if form.preactivated else []
        self.last_activation = nn.Sequential(*last)
        # -> [N, 2048] -> [N, num_classes]
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self.output_names = ("fc",)
        self.taps = taps(variant, image_size)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images [N, in_channels, H, W] -> the last feature map [N, C, H/32, W/32], or H/4, H/8 for small images."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for name in self.stage_names:
            maps = self.get_submodule(name)(maps)
        feature_map: torch.Tensor = self.last_activation(maps)
        return feature_map

    def head(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Feature map [N, C, h, w] -> logits [N, num_classes]."""
        logits: torch.Tensor = self.fc(torch.flatten(self.avgpool(feature_map), 1))
        return logits

    def initialize(self) -> None:
        """As every classifier; and each running variance starts at the variance that a fresh network has there.

        Blocks add up: behind the n-th, the map has about n times the variance it had before the first. With running
        variances of 1 each block would double it instead, and 600 blocks make infinity of an image in evaluation. The
        weights are as published; of running variances, which training finds by itself, the papers say nothing.
        """
        super().initialize()
        start_variance([self.bn1], 2.0)  # images have one of about 1
        size = 0.5  # mean square of the map, behind the stem's norm and ReLU
        for name in self.stage_names:
            for block in self.get_submodule(name).children():
                size = cast("Block", block).start_variances(size)
        start_variance(self.last_activation, size)


def start_variance(layers: Iterable[nn.Module], variance: float) -> None:
    """Before anything is learnt, the norms among these layers expect this variance."""
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None:
            nn.init.constant_(layer.running_var, variance)


def stage(form: BlockForm, in_channels: int, width: int, blocks: int, *, is_first: bool) -> nn.Sequential:
    """Blocks of one size of map; the first halves it, but in the first stage, where it follows the stem's ReLU."""
    first = Block(form, in_channels, width, 1 if is_first else 2, follows_activation=is_first and form.preactivated)
    rest = [Block(form, form.out_channels(width), width, 1) for _ in range(1, blocks)]
    return nn.Sequential(first, *rest)


def convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution padded to keep the size of the map at stride 1; without a bias, which normalisation has."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def convolutions(form: BlockForm, in_channels: int, width: int, stride: int) -> list[nn.Conv2d]:
    """Those of one block: two of 3x3, or a bottleneck's three."""
    if not form.bottleneck:
        return [convolution(in_channels, width, 3, stride), convolution(width, width, 3)]
    inner = width * form.base_width // 64 * form.groups
    first, second = (stride, 1) if form.stride_first else (1, stride)
    return [
        convolution(in_channels, inner, 1, first),
        convolution(inner, inner, 3, second, form.groups),
        convolution(inner, form.out_channels(width), 1),
    ]


def projects(form: BlockForm, in_channels: int, out_channels: int, stride: int) -> bool:
    """Whether a block has a convolution on its shortcut."""
    changes_shape = stride > 1 or in_channels != out_channels
    return form.shortcut == "C" or (form.shortcut == "B" and changes_shape)


def shortcut(form: BlockForm, in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """What brings a block's input to the shape of its output, where it does not have it."""
    if projects(form, in_channels, out_channels, stride):
        norm = [nn.BatchNorm2d(out_channels)] if form.normalized_shortcut else []
        return nn.Sequential(convolution(in_channels, out_channels, 1, stride), *norm)
    if form.shortcut == "none" or (stride == 1 and in_channels == out_channels):
        return None
    # every stride-th pixel, then zeros after the last channel: the third dimension from the end
    return nn.Sequential(nn.AvgPool2d(1, stride), nn.ZeroPad3d((0, 0, 0, 0, 0, out_channels - in_channels)))


def pooling(window: int, stride: int) -> nn.Module:
    """Max pooling that makes the map smaller by its stride alone. Zeros at the end are below no ReLU's output."""
    before, after = (window - 1) // 2, window // 2
    if before == after:
        return nn.MaxPool2d(window, stride, padding=before)
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), nn.MaxPool2d(window, stride))


def taps(variant: ResNetVariant, image_size: int) -> dict[str, Tap]:
    """The stem's layers, every block as the papers count them, conv2_1 the first, and the last pooling."""
    stem, channels = variant.stem, variant.stem.channels
    side = output_side(image_size, kernel=1, stride=stem.stride)
    found = {"conv1": Tap("relu", (channels, side, side))}
    if stem.pool:
        side = output_side(side, kernel=1, stride=stem.pool[1])
        found["pool1"] = Tap("maxpool", (channels, side, side))
    for number, blocks in enumerate(variant.blocks, start=1):
        channels = variant.form.out_channels(variant.width * 2 ** (number - 1))
        side = side if number == 1 else output_side(side, kernel=1, stride=2)
        for place in range(blocks):
            found[f"conv{number + 1}_{place + 1}"] = Tap(f"layer{number}.{place}", (channels, side, side))
    found[f"pool{len(variant.blocks) + 1}"] = Tap("avgpool", (channels, 1, 1))
    return found


HE_2015 = "He, Zhang, Ren & Sun 2015, arXiv 1512.03385"
PAPERS = (
    Paper(
        "resnet",
        2015,
        HE_2015,
        "Shortcuts: a block learns what to add to its input, so that a deeper network trains better instead of worse. "
        "152 layers won ILSVRC-2015.",
    ),
    Paper(
        "plain",
        2015,
        HE_2015,
        "The control of the experiment: the layers of a ResNet without its shortcuts. The deeper one has the higher "
        "training error, which is the problem that shortcuts solve.",
    ),
    Paper(
        "preresnet",
        2016,
        "He, Zhang, Ren & Sun 2016, arXiv 1603.05027",
        "Normalisation and ReLU before each convolution leave the shortcuts untouched from end to end: a thousand "
        "layers train.",
    ),
    Paper(
        "wide_resnet",
        2016,
        "Zagoruyko & Komodakis 2016, arXiv 1605.07146",
        "Width for depth: 16 wide layers do as well as a thousand thin ones, and train several times faster.",
    ),
    Paper(
        "resnext",
        2016,
        "Xie et al. 2016, arXiv 1611.05431",
        "Cardinality: a block is a sum of many narrow branches, which is one grouped convolution. More branches help "
        "more than more depth or width.",
    ),
    Paper(
        "senet",
        2017,
        "Hu, Shen & Sun 2018, arXiv 1709.01507",
        "Attention to channels: each is scaled by what the whole map contains, for a tenth more parameters and hardly "
        "any arithmetic. It won ILSVRC-2017.",
    ),
)
PAPER_OF = {paper.family: paper for paper in PAPERS}

_TORCHVISION = {
    "resnet18": 69.758, "resnet34": 73.314, "resnet50": 76.130, "resnet101": 77.374, "resnet152": 78.312,
    "resnext50_32x4d": 77.618, "resnext101_32x8d": 79.312, "resnext101_64x4d": 83.246,
    "wide_resnet50_2": 78.468, "wide_resnet101_2": 78.848,
}  # fmt: skip
_HE_2015_TABLE_2 = {"plain18": 27.94, "plain34": 28.54}
_HE_2015_TABLE_3 = {
    "resnet34_a": 25.03, "resnet34_c": 24.19, "resnet50_v1": 22.85, "resnet101_v1": 21.75, "resnet152_v1": 21.43,
}  # fmt: skip
_HE_2015_TABLE_6 = {
    "resnet20": 8.75, "resnet32": 7.51, "resnet44": 7.17, "resnet56": 6.97, "resnet110": 6.43, "resnet1202": 7.93,
}  # fmt: skip
_HE_2016_TABLE_3 = {"preresnet110": 6.37, "preresnet164": 5.46, "preresnet1001": 4.92}
_HE_2016_TABLE_5 = {"preresnet152": 21.1, "preresnet200": 20.7}
_ZAGORUYKO_TABLE_5 = {"wide_resnet16_8": 4.27, "wide_resnet40_4": 4.53}
_XIE_TABLE_7 = {"resnext29_8x64d": 3.65, "resnext29_16x64d": 3.58}
_HU_TABLE_2 = {
    "seresnet50": 23.29, "seresnet101": 22.38, "seresnet152": 21.57,
    "seresnext50_32x4d": 21.10, "seresnext101_32x4d": 20.70,
}  # fmt: skip


def _from_errors(errors: dict[str, float], data: str, source: str) -> dict[str, Published]:
    """Papers print errors."""
    return {name: Published(round(100 - error, 2), data, source) for name, error in errors.items()}


PUBLISHED = {
    **{name: Published(top1, "ImageNet", "torchvision's weights") for name, top1 in _TORCHVISION.items()},
    **_from_errors(_HE_2015_TABLE_2, "ImageNet", "He et al. 2015, Table 2, ten crops"),
    **_from_errors(_HE_2015_TABLE_3, "ImageNet", "He et al. 2015, Table 3, ten crops"),
    **_from_errors(_HE_2015_TABLE_6, "CIFAR-10", "He et al. 2015, Table 6"),
    **_from_errors(_HE_2016_TABLE_3, "CIFAR-10", "He et al. 2016, Table 3"),
    **_from_errors(_HE_2016_TABLE_5, "ImageNet", "He et al. 2016, Table 5, one crop of 320x320"),
    **_from_errors(_ZAGORUYKO_TABLE_5, "CIFAR-10", "Zagoruyko & Komodakis 2016, Table 5"),
    **_from_errors({"wide_resnet28_10": 3.89}, "CIFAR-10", "Zagoruyko & Komodakis 2016, Table 6, with dropout"),
    **_from_errors(_XIE_TABLE_7, "CIFAR-10", "Xie et al. 2016, Table 7"),
    **_from_errors(_HU_TABLE_2, "ImageNet", "Hu et al. 2018, Table 2"),
    **_from_errors({"seresnet110": 5.21}, "CIFAR-10", "Hu et al. 2018, Table 4"),
    "resnet18_cifar": Published(93.02, "CIFAR-10", "kuangliu's README, chosen on test"),
}


def _register(name: str, variant: ResNetVariant) -> None:
    paper = PAPER_OF[variant.family]
    register(
        ModelEntry(
            name=name,
            family=variant.family,
            year=paper.year,
            paper=paper.citation,
            image_size=variant.image_size,
            in_channels=3,
            num_classes=variant.num_classes,
            minimum_size=variant.total_stride,
            minimum_reason=f"its strides multiply to {variant.total_stride}",
            recipe="resnet" if variant.stem == IMAGENET else "resnet-cifar",
            build=partial(ResNet, variant),
            brought=paper.brought,
            published=PUBLISHED.get(name),
        )
    )


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
