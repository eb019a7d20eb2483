"""AlexNet: the network that won ILSVRC-2012, as published, as torchvision has it, and for one-channel images.

    create_model("alexnet_2012")    # two towers as grouped convolutions, local response normalisation
    create_model("alexnet")         # one tower, narrower: torchvision's
    create_model("alexnet_mnist")   # one tower, 227x227x1 images, 10 classes

Sources: Krizhevsky, Sutskever & Hinton 2012, "ImageNet classification with deep convolutional neural networks",
section 3; Krizhevsky 2014, arXiv 1404.5997, for the one tower.

Differences from the paper, alexnet_2012
  - Images are padded by 2 pixels: the paper says 224x224, and its 55x55 map needs 227.
  - Weights start from he_normal and all biases from 0, instead of N(0, 0.01) with some biases 1: small data is
    learnt from scratch.
  - The dense layers' width is computed from the image size; the paper's is 256 x 6 x 6.

Differences from the paper, alexnet
  - It is torchvision's one tower: no local response normalisation, and dropout before each hidden dense layer.
  - Images of any size from 63x63: the feature map is averaged to 6x6 before the dense layers.
  - Weights start from he_normal, all biases from 0.

Differences from the paper, alexnet_mnist
  - It is not the paper's: one tower of the widths of 2012, without local response normalisation, for one channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import count

from torch import nn

from convatlas.layers import LocalResponseNorm, output_side
from convatlas.models.contract import ConvDenseClassifier, Tap
from convatlas.models.registry import ModelEntry, Published, register


@dataclass(frozen=True)
class Convolution:
    """A convolution with ReLU, and what follows it."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1  # 2: each half of the maps sees half of the maps below, the other "tower" apart
    local_response_norm: bool = False
    pool: bool = False  # 3x3 windows, 2 apart: they overlap (section 3.4)


@dataclass(frozen=True)
class AlexNetVariant:
    """One registered network; two dense layers of 4096 follow the convolutions of each."""

    convolutions: tuple[Convolution, ...]
    grid: int | None  # the feature map is averaged to grid x grid; None leaves it as it is
    dropout_first: bool  # dropout before each dense layer of 4096 instead of after it
    image_size: int
    in_channels: int
    num_classes: int
    year: int
    paper: str


KRIZHEVSKY_2012 = "Krizhevsky, Sutskever & Hinton 2012, NeurIPS"

VARIANTS = {
    "alexnet_2012": AlexNetVariant(
        convolutions=(
            Convolution(96, kernel=11, stride=4, padding=2, local_response_norm=True, pool=True),
            Convolution(256, kernel=5, padding=2, groups=2, local_response_norm=True, pool=True),
            Convolution(384, kernel=3, padding=1),
            Convolution(384, kernel=3, padding=1, groups=2),
            Convolution(256, kernel=3, padding=1, groups=2, pool=True),
        ),
        grid=None,
        dropout_first=False,
        image_size=224,
        in_channels=3,
        num_classes=1000,
        year=2012,
        paper=KRIZHEVSKY_2012,
    ),
    "alexnet": AlexNetVariant(
        convolutions=(
            Convolution(64, kernel=11, stride=4, padding=2, pool=True),
            Convolution(192, kernel=5, padding=2, pool=True),
            Convolution(384, kernel=3, padding=1),
            Convolution(256, kernel=3, padding=1),
            Convolution(256, kernel=3, padding=1, pool=True),
        ),
        grid=6,
        dropout_first=True,
        image_size=224,
        in_channels=3,
        num_classes=1000,
        year=2014,
        paper="Krizhevsky 2014, arXiv 1404.5997",
    ),
    "alexnet_mnist": AlexNetVariant(
        convolutions=(
            Convolution(96, kernel=11, stride=4, pool=True),
            Convolution(256, kernel=5, padding=2, pool=True),
            Convolution(384, kernel=3, padding=1),
            Convolution(384, kernel=3, padding=1),
            Convolution(256, kernel=3, padding=1, pool=True),
        ),
        grid=None,
        dropout_first=False,
        image_size=227,
        in_channels=1,
        num_classes=10,
        year=2012,
        paper=KRIZHEVSKY_2012,
    ),
}


class AlexNet(ConvDenseClassifier):
    """Five convolutions, three overlapping poolings, three dense layers.

    State-dict keys of ``alexnet`` are torchvision's: ``features.0.weight``, ``classifier.6.bias``.
    """

    def __init__(self, variant: AlexNetVariant, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        # [N, 3, 224, 224] -> [N, 256, 6, 6]
        self.features, feature_taps = convolutions(variant, in_channels, image_size)
        channels, side, _ = feature_taps["pool5"].shape
        grid = variant.grid or side
        self.avgpool = nn.Identity() if variant.grid is None else nn.AdaptiveAvgPool2d(grid)
        # [N, 9216] -> [N, num_classes]
        fc6, fc7 = nn.Linear(channels * grid * grid, 4096), nn.Linear(4096, 4096)
        drop, relu = partial(nn.Dropout, 0.5), partial(nn.ReLU, inplace=True)
        if variant.dropout_first:
            self.classifier = nn.Sequential(drop(), fc6, relu(), drop(), fc7, relu())
        else:
            self.classifier = nn.Sequential(fc6, relu(), drop(), fc7, relu(), drop())
        relu6, relu7 = (2, 5) if variant.dropout_first else (1, 4)
        self.put_output_layers(num_classes)
        self.taps = {
            **feature_taps,
            "fc6": Tap(f"classifier.{relu6}", (4096,)),
            "fc7": Tap(f"classifier.{relu7}", (4096,)),
        }

    def output_layers(self, num_classes: int) -> dict[str, nn.Module]:
        """The linear output layer, fc8."""
        return {"6": nn.Linear(4096, num_classes)}


def convolutions(variant: AlexNetVariant, in_channels: int, image_size: int) -> tuple[nn.Sequential, dict[str, Tap]]:
    """Everything before the dense layers, with a tap for each layer: conv1, norm1, pool1."""
    layers: list[nn.Module] = []
    taps: dict[str, Tap] = {}
    channels, side = in_channels, image_size

    def tap(name: str) -> None:
        taps[name] = Tap(f"features.{len(layers) - 1}", (channels, side, side))

    for number, row in enumerate(variant.convolutions, start=1):
        layers += [
            nn.Conv2d(channels, row.channels, row.kernel, row.stride, row.padding, groups=row.groups),
            nn.ReLU(inplace=True),
        ]
        channels, side = row.channels, output_side(side, row.kernel, row.stride, row.padding)
        tap(f"conv{number}")
        if row.local_response_norm:
            layers.append(LocalResponseNorm())
            tap(f"norm{number}")
        if row.pool:
            layers.append(nn.MaxPool2d(kernel_size=3, stride=2))
            side = output_side(side, kernel=3, stride=2)
            tap(f"pool{number}")
    return nn.Sequential(*layers), taps


def final_side(variant: AlexNetVariant, image_size: int) -> int:
    """Side of the last feature map.

    >>> final_side(VARIANTS["alexnet_2012"], 224), final_side(VARIANTS["alexnet_2012"], 62)
    (6, 0)
    """
    side = image_size
    for row in variant.convolutions:
        side = output_side(side, row.kernel, row.stride, row.padding)
        if row.pool:
            side = output_side(side, kernel=3, stride=2)
    return side


PUBLISHED = {
    "alexnet_2012": Published(59.3, "ImageNet", "Krizhevsky et al. 2012, Table 2, one network, ten crops"),
    "alexnet": Published(56.522, "ImageNet", "torchvision's weights"),
}


def _register(name: str, variant: AlexNetVariant) -> None:
    register(
        ModelEntry(
            name=name,
            family="alexnet",
            year=variant.year,
            paper=variant.paper,
            image_size=variant.image_size,
            in_channels=variant.in_channels,
            num_classes=variant.num_classes,
            minimum_size=next(size for size in count(1) if final_side(variant, size) >= 1),
            minimum_reason="an 11x11 convolution of stride 4 and three 3x3 poolings",
            recipe="alexnet",
            build=partial(AlexNet, variant),
            brought="Depth, ReLU, dropout and two GPUs: it won ILSVRC-2012 by ten points, and everybody changed to "
            "learned features.",
            published=PUBLISHED.get(name),
        )
    )


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
