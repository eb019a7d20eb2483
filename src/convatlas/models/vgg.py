"""VGG: nothing but 3x3 convolutions and 2x2 poolings, from 11 to 19 layers with weights.

Two stacked 3x3 convolutions see 5x5 pixels and three see 7x7, with fewer parameters and more non-linearities than one
large one.

    create_model("vgg16")                                   # configuration D of Table 1, as torchvision has it
    create_model("vgg16_bn_cifar", num_classes=100)         # 32x32 images, one linear layer for a head

Source: Simonyan & Zisserman 2014, arXiv 1409.1556, Table 1.

Differences from the paper
  - Weights start from he_normal, so that all depths learn from scratch; the paper draws them with variance 0.01 and
    starts its deep networks from a trained configuration A.
  - Images of any size from 32x32: the feature map is averaged to 7x7 before the dense layers (at 224x224 it is 7x7
    already). The paper turns the dense layers into convolutions instead, for evaluation.
  - The ``_bn`` forms (batch normalisation between convolution and ReLU), the forms for small images and vgg10_cifar
    are not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from convatlas.layers import LocalResponseNorm, output_side
from convatlas.models.contract import ConvDenseClassifier, Tap
from convatlas.models.registry import ModelEntry, Published, register


@dataclass(frozen=True)
class Configuration:
    """A column of Table 1: what stands between the image and the dense layers."""

    stages: tuple[tuple[int, ...], ...]  # output channels of each convolution, one tuple per stage
    pointwise_last: tuple[int, ...] = ()  # stages, from 1, whose last convolution is 1x1 instead of 3x3
    local_response_norm: bool = False  # after conv1_1
    last_pool_stride: int = 2  # of the 2x2 pooling after the last stage; the others halve


@dataclass(frozen=True)
class Head:
    """What stands between the feature map and the logits."""

    grid: int | None = None  # the feature map is averaged to grid x grid; None leaves it as it is
    hidden: tuple[int, ...] = ()  # widths of the dense layers before the output layer
    dropout: float = 0.0  # after each hidden layer
    batch_norm: bool = False  # after every dense layer, the output layer too


@dataclass(frozen=True)
class VGGVariant:
    """One registered network: a configuration, a head, and what it is made for."""

    configuration: Configuration
    head: Head
    batch_norm: bool = False  # after every convolution
    image_size: int = 224
    in_channels: int = 3
    num_classes: int = 1000


A = Configuration(((64,), (128,), (256, 256), (512, 512), (512, 512)))
A_LRN = Configuration(A.stages, local_response_norm=True)
B = Configuration(((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)))
D = Configuration(((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3))
C = Configuration(D.stages, pointwise_last=(3, 4, 5))
E = Configuration(((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4))
MNIST_11 = Configuration(((64, 64), (128, 128), (256,) * 4), last_pool_stride=1)

IMAGENET = Head(grid=7, hidden=(4096, 4096), dropout=0.5)
CIFAR_DENSE = Head(hidden=(4096, 4096), dropout=0.5, batch_norm=True)
CIFAR_LINEAR = Head()

cifar_fc = partial(VGGVariant, head=CIFAR_DENSE, batch_norm=True, image_size=32, num_classes=10)
cifar_linear = partial(VGGVariant, head=CIFAR_LINEAR, batch_norm=True, image_size=32, num_classes=10)

VARIANTS = {
    # The paper's networks, for ImageNet.
    "vgg11": VGGVariant(A, IMAGENET),
    "vgg11_lrn": VGGVariant(A_LRN, IMAGENET),
    "vgg13": VGGVariant(B, IMAGENET),
    "vgg16c": VGGVariant(C, IMAGENET),
    "vgg16": VGGVariant(D, IMAGENET),
    "vgg19": VGGVariant(E, IMAGENET),
    # The same with batch normalisation.
    "vgg11_bn": VGGVariant(A, IMAGENET, batch_norm=True),
    "vgg13_bn": VGGVariant(B, IMAGENET, batch_norm=True),
    "vgg16c_bn": VGGVariant(C, IMAGENET, batch_norm=True),
    "vgg16_bn": VGGVariant(D, IMAGENET, batch_norm=True),
    "vgg19_bn": VGGVariant(E, IMAGENET, batch_norm=True),
    # For CIFAR, with the single linear layer that most collections use.
    "vgg11_bn_cifar": cifar_linear(A),
    "vgg13_bn_cifar": cifar_linear(B),
    "vgg16_bn_cifar": cifar_linear(D),
    "vgg19_bn_cifar": cifar_linear(E),
    # For CIFAR, keeping the two dense layers of 4096: normalisation after every layer with weights.
    "vgg11_cifar_fc": cifar_fc(A),
    "vgg13_cifar_fc": cifar_fc(B),
    "vgg16c_cifar_fc": cifar_fc(C),
    "vgg16_cifar_fc": cifar_fc(D),
    "vgg19_cifar_fc": cifar_fc(E),
    # Ten convolutions and three small dense layers for CIFAR-100: no normalisation, no dropout.
    "vgg10_cifar": VGGVariant(B, Head(hidden=(256, 128)), image_size=32, num_classes=100),
    # Eight convolutions and three dense layers for MNIST: the last pooling keeps the 7x7 grid.
    "vgg11_mnist": VGGVariant(
        MNIST_11, Head(hidden=(1024, 1024), dropout=0.5), image_size=28, in_channels=1, num_classes=10
    ),
}


class VGG(ConvDenseClassifier):
    """Stages of 3x3 convolutions, a pooling after each, then dense layers.

    State-dict keys are torchvision's: ``features.0.weight``, ``classifier.6.bias``.
    """

    def __init__(self, variant: VGGVariant, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        self.variant = variant
        # [N, in_channels, S, S] -> [N, C, S/32, S/32] after five poolings that halve
        self.features, feature_taps = stages(variant, in_channels, image_size)
        channels, side, _ = list(feature_taps.values())[-1].shape
        grid = variant.head.grid or side
        self.avgpool = nn.Identity() if variant.head.grid is None else nn.AdaptiveAvgPool2d(grid)
        # [N, C * grid * grid] -> [N, num_classes]
        self.classifier, dense_taps = hidden_layers(variant, channels * grid * grid)
        self.output_width = variant.head.hidden[-1] if variant.head.hidden else channels * grid * grid
        self.output_at = len(self.classifier)
        self.put_output_layers(num_classes)
        self.taps = {**feature_taps, **dense_taps}

    def output_layers(self, num_classes: int) -> dict[str, nn.Module]:
        """The linear output layer, normalised where the hidden layers are."""
        layers: list[nn.Module] = [nn.Linear(self.output_width, num_classes)]
        if self.variant.head.batch_norm:
            layers.append(nn.BatchNorm1d(num_classes))
        return {str(self.output_at + offset): layer for offset, layer in enumerate(layers)}


def stages(variant: VGGVariant, in_channels: int, image_size: int) -> tuple[nn.Sequential, dict[str, Tap]]:
    """Everything before the dense layers, with a tap for each convolution and pooling: conv3_2, pool3."""
    configuration = variant.configuration
    layers: list[nn.Module] = []
    taps: dict[str, Tap] = {}
    channels, side = in_channels, image_size

    def tap(name: str) -> None:
        taps[name] = Tap(f"features.{len(layers) - 1}", (channels, side, side))

    for stage, widths in enumerate(configuration.stages, start=1):
        for position, width in enumerate(widths, start=1):
            pointwise = stage in configuration.pointwise_last and position == len(widths)
            layers += convolution(channels, width, 1 if pointwise else 3, variant.batch_norm)
            channels = width
            tap(f"conv{stage}_{position}")
            if configuration.local_response_norm and stage == position == 1:
                layers.append(LocalResponseNorm())
                tap("norm1_1")
        stride = configuration.last_pool_stride if stage == len(configuration.stages) else 2
        layers += pooling(stride)
        side = side if stride == 1 else output_side(side, kernel=2, stride=stride)
        tap(f"pool{stage}")
    return nn.Sequential(*layers), taps


def convolution(channels: int, width: int, kernel: int, batch_norm: bool) -> list[nn.Module]:
    """A convolution that keeps the size of the map, its normalisation if any, and ReLU."""
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2)
    norm = [nn.BatchNorm2d(width)] if batch_norm else []
    return [conv, *norm, nn.ReLU(inplace=True)]


def pooling(stride: int) -> list[nn.Module]:
    """2x2 max pooling; at stride 1 it keeps the size, by a row and a column of zeros, which no ReLU output is below."""
    if stride == 1:
        return [nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, stride=1)]
    return [nn.MaxPool2d(2, stride)]


def hidden_layers(variant: VGGVariant, width: int) -> tuple[nn.Sequential, dict[str, Tap]]:
    """The dense layers before the output layer; the first after five stages is fc6, as Caffe's VGG files have it."""
    head = variant.head
    layers: list[nn.Module] = []
    taps: dict[str, Tap] = {}
    for number, hidden in enumerate(head.hidden, start=len(variant.configuration.stages) + 1):
        layers.append(nn.Linear(width, hidden))
        if head.batch_norm:
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(nn.ReLU(inplace=True))
        taps[f"fc{number}"] = Tap(f"classifier.{len(layers) - 1}", (hidden,))
        if head.dropout:
            layers.append(nn.Dropout(head.dropout))
        width = hidden
    return nn.Sequential(*layers), taps


_TORCHVISION = {
    "vgg11": 69.020, "vgg13": 69.928, "vgg16": 71.592, "vgg19": 72.376,
    "vgg11_bn": 70.370, "vgg13_bn": 71.586, "vgg16_bn": 73.360, "vgg19_bn": 74.218,
}  # fmt: skip
_CHENYAOFO = {"vgg11_bn_cifar": 92.79, "vgg13_bn_cifar": 94.00, "vgg16_bn_cifar": 94.16, "vgg19_bn_cifar": 93.91}
PUBLISHED = {
    **{name: Published(top1, "ImageNet", "torchvision's weights") for name, top1 in _TORCHVISION.items()},
    **{name: Published(top1, "CIFAR-10", "chenyaofo's weights, chosen on test") for name, top1 in _CHENYAOFO.items()},
    "vgg10_cifar": Published(33.82, "CIFAR-100", "5 epochs of its source"),
}


def _register(name: str, variant: VGGVariant) -> None:
    halvings = len(variant.configuration.stages) - (variant.configuration.last_pool_stride == 1)
    register(
        ModelEntry(
            name=name,
            family="vgg",
            year=2014,
            paper="Simonyan & Zisserman 2014, arXiv 1409.1556",
            image_size=variant.image_size,
            in_channels=variant.in_channels,
            num_classes=variant.num_classes,
            minimum_size=2**halvings,
            minimum_reason=f"{({2: 'two', 5: 'five'})[halvings]} 2x2 poolings",
            recipe="vgg-bn" if variant.batch_norm else "vgg",
            build=partial(VGG, variant),
            brought="Depth by repetition: stacks of 3x3 convolutions see as far as one large window, with fewer "
            "weights and more non-linearities.",
            published=PUBLISHED.get(name),
        )
    )


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
