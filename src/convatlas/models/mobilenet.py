"""MobileNet: convolutions taken apart into one filter a channel (3x3, depthwise) and one across channels (1x1).

Together they cost about a ninth of the 3x3 convolution that they stand for. The second version turns the residual block
inside out: wide maps within, narrow ones between blocks, and no non-linearity where it is narrow.

    create_model("mobilenet_v1")
    create_model("mobilenet_v2")                            # torchvision's
    create_model("mobilenet_v2_cifar", num_classes=100)     # 32x32 images

Sources: Howard et al. 2017, arXiv 1704.04861, Table 1; Sandler et al. 2018, arXiv 1801.04381, Table 2.

Differences from the papers
  - Weights start from he_normal, each depthwise filter as a convolution of its own; those of the output layer from
    N(0, 0.01). The papers do not say.

Differences from the papers, mobilenet_v1
  - The last depthwise convolution has stride 1: Table 1 says 2, but gives its output the size of its input.
  - ReLU, as the paper says. The networks that its authors and Keras offer have ReLU6, a batch normalisation epsilon of
    1e-3, and pad before a stride of 2 by a row and a column at the far side only: their weights need these.

Differences from the papers, mobilenet_v2
  - Dropout of 0.2 before the output layer, as torchvision has it.

Differences from the papers, mobilenet_v1_cifar, mobilenet_v2_cifar
  - Not the papers' but kuangliu's, for 32x32 images: fewer convolutions have stride 2; ReLU, no dropout.

Differences from the papers, mobilenet_v2_cifar
  - A 1x1 convolution in the shortcut where channels change at stride 1, and one in the first block too, which does not
    expand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from convatlas.layers import output_side
from convatlas.models.contract import Classifier, Tap
from convatlas.models.registry import ModelEntry, Paper, Published, register


@dataclass(frozen=True)
class Stage:
    """Blocks of the same width, as a row of Table 2 of the second paper: t, c, n, s."""

    channels: int
    blocks: int
    stride: int = 1  # of the first block
    expansion: int = 1  # times as many channels inside the block; second version only


@dataclass(frozen=True)
class MobileNetVariant:
    """One registered network."""

    version: int
    stages: tuple[Stage, ...]
    stem_stride: int = 2
    last_channels: int | None = None  # of a 1x1 convolution after the last block
    activation: type[nn.ReLU | nn.ReLU6] = nn.ReLU
    project_shortcuts: bool = False  # by a 1x1 convolution, at stride 1; and "expand" by 1 with one, too
    dropout: float = 0.0  # before the output layer
    image_size: int = 224
    num_classes: int = 1000


HOWARD = (Stage(64, 1), Stage(128, 2, stride=2), Stage(256, 2, stride=2), Stage(512, 6, stride=2), Stage(1024, 2, 2))
SANDLER = (
    Stage(16, 1),
    Stage(24, 2, stride=2, expansion=6),
    Stage(32, 3, stride=2, expansion=6),
    Stage(64, 4, stride=2, expansion=6),
    Stage(96, 3, expansion=6),
    Stage(160, 3, stride=2, expansion=6),
    Stage(320, 1, expansion=6),
)
SANDLER_CIFAR = (SANDLER[0], Stage(24, 2, expansion=6), *SANDLER[2:])

for_cifar = partial(MobileNetVariant, stem_stride=1, image_size=32, num_classes=10)

VARIANTS = {
    "mobilenet_v1": MobileNetVariant(1, HOWARD),
    "mobilenet_v2": MobileNetVariant(2, SANDLER, last_channels=1280, activation=nn.ReLU6, dropout=0.2),
    "mobilenet_v1_cifar": for_cifar(1, HOWARD),
    "mobilenet_v2_cifar": for_cifar(2, SANDLER_CIFAR, last_channels=1280, project_shortcuts=True),
}


class InvertedResidual(nn.Module):
    """The second version's block: expand by 1x1, filter each channel by 3x3, project by 1x1; the shortcut is narrow.

    With ``project`` every block of stride 1 has a shortcut, otherwise only those that keep the number of channels.
    """

    def __init__(
        self, channels: int, width: int, stride: int, expansion: int, activation: type[nn.Module], project: bool
    ) -> None:
        super().__init__()
        hidden = channels * expansion
        expand = [convolution(channels, hidden, 1, activation)] if expansion > 1 or project else []
        self.conv = nn.Sequential(
            *expand,
            convolution(hidden, hidden, 3, activation, stride=stride, groups=hidden),
            *linear_projection(hidden, width),
        )
        has_shortcut = stride == 1 and (project or channels == width)
        projection = linear_projection(channels, width) if channels != width else []
        self.shortcut = nn.Sequential(*projection) if has_shortcut else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, width, H / stride, W / stride]."""
        residual: torch.Tensor = self.conv(maps)
        return residual if self.shortcut is None else self.shortcut(maps) + residual


def depthwise_separable(channels: int, width: int, stride: int, activation: type[nn.Module]) -> nn.Sequential:
    """The first version's block: a filter for each channel, then one across channels."""
    return nn.Sequential(
        convolution(channels, channels, 3, activation, stride=stride, groups=channels),
        convolution(channels, width, 1, activation),
    )


def convolution(
    channels: int, width: int, kernel: int, activation: type[nn.Module], *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution, its normalisation and its non-linearity."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        activation(inplace=True),
    )


def linear_projection(channels: int, width: int) -> list[nn.Module]:
    """To another number of channels, without a non-linearity."""
    return [nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)]


class MobileNet(Classifier):
    """A convolution, blocks, global average pooling, one linear layer.

    State-dict keys of ``mobilenet_v2`` are torchvision's: ``features.1.conv.0.0.weight``, ``classifier.1.bias``.
    """

    output_names = ("classifier.1",)

    def __init__(self, variant: MobileNetVariant, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        self.features, self.taps, channels = feature_layers(variant, in_channels, image_size)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(variant.dropout), nn.Linear(channels, num_classes))

    def head(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Feature map [N, C, h, w] -> logits [N, num_classes]."""
        logits: torch.Tensor = self.classifier(torch.flatten(self.avgpool(feature_map), 1))
        return logits


def feature_layers(variant: MobileNetVariant, in_channels: int, side: int) -> tuple[nn.Sequential, dict[str, Tap], int]:
    """Everything before the head, its taps (conv1, conv2_dw, conv2_pw or bottleneck1_1) and its channels."""
    activation, channels = variant.activation, 32
    layers: list[nn.Module] = [convolution(in_channels, channels, 3, activation, stride=variant.stem_stride)]
    side = output_side(side, kernel=3, stride=variant.stem_stride, padding=1)
    taps = {"conv1": Tap("features.0", (channels, side, side))}
    for row, stage in enumerate(variant.stages, start=1):
        for number in range(1, stage.blocks + 1):
            stride = stage.stride if number == 1 else 1
            side = output_side(side, kernel=3, stride=stride, padding=1)
            path = f"features.{len(layers)}"
            if variant.version == 1:
                layers.append(depthwise_separable(channels, stage.channels, stride, activation))
                taps[f"conv{len(layers)}_dw"] = Tap(f"{path}.0", (channels, side, side))
                taps[f"conv{len(layers)}_pw"] = Tap(f"{path}.1", (stage.channels, side, side))
            else:
                block = (channels, stage.channels, stride, stage.expansion, activation, variant.project_shortcuts)
                layers.append(InvertedResidual(*block))
                taps[f"bottleneck{row}_{number}"] = Tap(path, (stage.channels, side, side))
            channels = stage.channels
    if variant.last_channels is not None:
        taps["conv2"] = Tap(f"features.{len(layers)}", (variant.last_channels, side, side))
        layers.append(convolution(channels, variant.last_channels, 1, activation))
        channels = variant.last_channels
    return nn.Sequential(*layers), taps, channels


PAPERS = {
    1: Paper(
        "mobilenet",
        2017,
        "Howard et al. 2017, arXiv 1704.04861",
        "Depthwise separable convolutions throughout: a ninth of the arithmetic for one point of accuracy, small "
        "enough for a phone.",
    ),
    2: Paper(
        "mobilenet",
        2018,
        "Sandler et al. 2018, arXiv 1801.04381",
        "Inverted residuals with linear bottlenecks: shortcuts join narrow maps, wide ones exist only inside a block.",
    ),
}
PUBLISHED = {
    "mobilenet_v1": Published(70.6, "ImageNet", "Howard et al. 2017, Table 4"),
    "mobilenet_v2": Published(71.878, "ImageNet", "torchvision's weights"),
    "mobilenet_v2_cifar": Published(94.43, "CIFAR-10", "kuangliu's README, chosen on test"),
}


def _register(name: str, variant: MobileNetVariant) -> None:
    halvings = [variant.stem_stride, *(stage.stride for stage in variant.stages)].count(2)
    paper = PAPERS[variant.version]
    register(
        ModelEntry(
            name=name,
            family=paper.family,
            year=paper.year,
            paper=paper.citation,
            image_size=variant.image_size,
            in_channels=3,
            num_classes=variant.num_classes,
            minimum_size=2**halvings,
            minimum_reason=f"{({3: 'three', 4: 'four', 5: 'five'})[halvings]} convolutions of stride 2",
            recipe="mobilenet",
            build=partial(MobileNet, variant),
            brought=paper.brought,
            published=PUBLISHED.get(name),
        )
    )


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
