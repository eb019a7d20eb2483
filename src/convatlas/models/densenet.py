"""DenseNet: every layer of a block sees the outputs of all layers before it, joined by their channels.

Layers add a few channels each (the growth rate, k) to what all later ones share, so that 100 layers need less than a
million weights; 1x1 convolutions keep the cost of reading so many channels down.

    create_model("densenet121")                                # torchvision's
    create_model("densenet_bc100_12", num_classes=100)         # 32x32 images, 0.8 million parameters
    model = create_model("densenet_bc190_40")
    model.memory_efficient = True                              # trains in less memory, computing some things twice

Source: Huang, Liu, van der Maaten & Weinberger 2017, arXiv 1608.06993, Tables 1 and 2; Pleiss et al. 2017, arXiv
1707.06990, for ``memory_efficient``.

Differences from the paper
  - Weights start from he_normal as in the paper, but those of the output layer from N(0, 0.01).
  - The taps dense1_1, dense1_2 and so on are the channels that a layer adds, as its last convolution leaves them:
    normalisation and ReLU stand before each convolution here, not after it.

Differences from the paper, densenet40_12, densenet_bc100_12, densenet_bc190_40
  - No dropout, which the paper has only where images are not augmented.

Differences from the paper, densenet121_cifar
  - Not the paper's: densenet121 for 32x32 images, with one 3x3 convolution before the blocks. Many collections have it.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from convatlas.layers import output_side
from convatlas.models.contract import Classifier, Tap
from convatlas.models.registry import ModelEntry, Published, register

Layers = OrderedDict[str, nn.Module]

BOTTLENECK = 4  # a bottleneck is this many times as wide as the growth rate (section 3)


@dataclass(frozen=True)
class DenseNetVariant:
    """One registered network."""

    depth: int  # L in its name: layers with weights
    blocks: tuple[int, ...]  # dense layers of each block
    growth_rate: int  # k: channels that each dense layer adds
    stem_channels: int  # of the convolution before the first block
    bottleneck: bool = True  # "B": a 1x1 convolution before each 3x3
    compression: float = 0.5  # "C": share of the channels that a transition keeps
    small_images: bool = False  # begin with a 3x3 convolution alone instead of 7x7 of stride 2, normalisation, pooling
    image_size: int = 224
    num_classes: int = 1000


for_cifar = partial(DenseNetVariant, small_images=True, image_size=32, num_classes=10)

VARIANTS = {
    # Table 1, for ImageNet; densenet161 is in an earlier version of it.
    "densenet121": DenseNetVariant(121, (6, 12, 24, 16), growth_rate=32, stem_channels=64),
    "densenet161": DenseNetVariant(161, (6, 12, 36, 24), growth_rate=48, stem_channels=96),
    "densenet169": DenseNetVariant(169, (6, 12, 32, 32), growth_rate=32, stem_channels=64),
    "densenet201": DenseNetVariant(201, (6, 12, 48, 32), growth_rate=32, stem_channels=64),
    # Table 2: for CIFAR, plain and with bottlenecks and compression.
    "densenet40_12": for_cifar(40, (12,) * 3, growth_rate=12, stem_channels=16, bottleneck=False, compression=1.0),
    "densenet_bc100_12": for_cifar(100, (16,) * 3, growth_rate=12, stem_channels=24),
    "densenet_bc190_40": for_cifar(190, (31,) * 3, growth_rate=40, stem_channels=80),
    # ImageNet's blocks for CIFAR.
    "densenet121_cifar": for_cifar(121, (6, 12, 24, 16), growth_rate=32, stem_channels=64),
}


class DenseLayer(nn.Module):
    """Normalisation, ReLU and convolution, once (3x3) or, with a bottleneck, twice (1x1, then 3x3)."""

    def __init__(self, channels: int, growth_rate: int, bottleneck: bool) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.memory_efficient = False
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        if not bottleneck:
            self.conv1 = nn.Conv2d(channels, growth_rate, 3, padding=1, bias=False)
            return
        width = BOTTLENECK * growth_rate
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, growth_rate, 3, padding=1, bias=False)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """What the block begins with and what each layer before added, [N, C_i, H, W] -> [N, growth_rate, H, W]."""
        spare = self.memory_efficient and self.training and not torch.compiler.is_compiling()
        maps = self.join_without_keeping(*features) if spare else self.join(*features)
        if self.bottleneck:
            maps = self.conv2(self.relu2(self.norm2(maps)))
        return maps

    def join(self, *features: torch.Tensor) -> torch.Tensor:
        """The first convolution, of all features together."""
        maps: torch.Tensor = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return maps

    def join_without_keeping(self, *features: torch.Tensor) -> torch.Tensor:
        """The same, but what is between the features and the convolution is computed again for the gradients."""
        if any(isinstance(maps, fx.Proxy) for maps in features):
            raise TypeError("a trace would keep everything: trace with memory_efficient = False, or in evaluation mode")
        return checkpoint(
            self.join,
            *features,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing in it is random
            context_fn=lambda: (nullcontext(), OnCopiesOfStatistics(self.norm1)),
        )


class OnCopiesOfStatistics:
    """Lets a batch that a normalisation has counted pass through it again without being counted again.

    Entered once a backward pass, of which a graph that is retained may have several.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self.norm = norm

    def __enter__(self) -> None:
        self.statistics = dict(self.norm.named_buffers(recurse=False))
        for name, buffer in self.statistics.items():
            setattr(self.norm, name, buffer.clone())

    def __exit__(self, *_: object) -> None:
        for name, buffer in self.statistics.items():
            setattr(self.norm, name, buffer)


class DenseBlock(nn.ModuleDict):
    """Dense layers; every one is given the outputs of all before it, and the block's input."""

    def __init__(self, layers: int, channels: int, variant: DenseNetVariant) -> None:
        growth_rate = variant.growth_rate
        super().__init__(
            {
                f"denselayer{number + 1}": DenseLayer(channels + number * growth_rate, growth_rate, variant.bottleneck)
                for number in range(layers)
            }
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, C + layers * growth_rate, H, W]."""
        features = [maps]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


def transition(channels: int, kept: int) -> nn.Sequential:
    """Between two blocks: fewer channels, half the height and width."""
    return nn.Sequential(
        Layers(
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(channels, kept, 1, bias=False),
            pool=nn.AvgPool2d(2, stride=2),
        )
    )


class DenseNet(Classifier):
    """A convolution, dense blocks with transitions between them, global average pooling, one linear layer.

    State-dict keys are torchvision's: ``features.denseblock1.denselayer1.norm1.weight``, ``classifier.bias``. The
    feature map is the last block's output normalised and after its ReLU, which torchvision counts to the head.
    """

    output_names = ("classifier",)

    def __init__(self, variant: DenseNetVariant, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        layers, self.taps, channels = feature_layers(variant, in_channels, image_size)
        self.features = nn.Sequential(layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def head(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Feature map [N, C, h, w] -> logits [N, num_classes]."""
        logits: torch.Tensor = self.classifier(torch.flatten(self.avgpool(feature_map), 1))
        return logits

    @property
    def memory_efficient(self) -> bool:
        """Whether training spares memory; False until it is set.

        Of all that a dense layer computes before its first convolution nothing is kept for the gradients, but computed
        again: 15 to 20 % more time, Pleiss et al. found. Logits, gradients and running statistics are the same. Set it
        before training starts; ``torch.compile``, which decides by itself what to compute again, takes no notice of it.

        >>> from convatlas.models import create_model
        >>> model = create_model("densenet_bc100_12")
        >>> model.memory_efficient = True
        """
        return all(layer.memory_efficient for layer in self._dense_layers())

    @memory_efficient.setter
    def memory_efficient(self, wanted: bool) -> None:
        for layer in self._dense_layers():
            layer.memory_efficient = wanted

    def _dense_layers(self) -> list[DenseLayer]:
        return [module for module in self.modules() if isinstance(module, DenseLayer)]


def feature_layers(variant: DenseNetVariant, in_channels: int, side: int) -> tuple[Layers, dict[str, Tap], int]:
    """Everything before the head, its taps (conv1, pool1, dense1_1, ..., dense1, transition1) and its channels."""
    layers, taps = stem(variant, in_channels, side)
    channels, side, _ = list(taps.values())[-1].shape
    for block, depth in enumerate(variant.blocks, start=1):
        layers[f"denseblock{block}"] = DenseBlock(depth, channels, variant)
        for layer in range(1, depth + 1):
            path = f"features.denseblock{block}.denselayer{layer}"
            taps[f"dense{block}_{layer}"] = Tap(path, (variant.growth_rate, side, side))
        channels += depth * variant.growth_rate
        taps[f"dense{block}"] = Tap(f"features.denseblock{block}", (channels, side, side))
        if block < len(variant.blocks):
            kept = int(channels * variant.compression)
            layers[f"transition{block}"] = transition(channels, kept)
            channels, side = kept, output_side(side, kernel=2, stride=2)
            taps[f"transition{block}"] = Tap(f"features.transition{block}", (channels, side, side))
    layers["norm5"] = nn.BatchNorm2d(channels)
    layers["relu5"] = nn.ReLU(inplace=True)
    return layers, taps, channels


def stem(variant: DenseNetVariant, in_channels: int, side: int) -> tuple[Layers, dict[str, Tap]]:
    """What stands before the first block."""
    channels = variant.stem_channels
    if variant.small_images:
        conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        return Layers(conv0=conv), {"conv1": Tap("features.conv0", (channels, side, side))}
    layers = Layers(
        conv0=nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False),
        norm0=nn.BatchNorm2d(channels),
        relu0=nn.ReLU(inplace=True),
        pool0=nn.MaxPool2d(3, stride=2, padding=1),
    )
    side = output_side(side, kernel=7, stride=2, padding=3)
    pooled = output_side(side, kernel=3, stride=2, padding=1)
    return layers, {
        "conv1": Tap("features.relu0", (channels, side, side)),
        "pool1": Tap("features.pool0", (channels, pooled, pooled)),
    }


_TORCHVISION = {"densenet121": 74.434, "densenet161": 77.138, "densenet169": 75.600, "densenet201": 76.896}
_TABLE_2 = {"densenet40_12": 94.76, "densenet_bc100_12": 95.49, "densenet_bc190_40": 96.54}
PUBLISHED = {
    **{name: Published(top1, "ImageNet", "torchvision's weights") for name, top1 in _TORCHVISION.items()},
    **{name: Published(top1, "CIFAR-10", "Huang et al. 2017, Table 2, C10+") for name, top1 in _TABLE_2.items()},
    "densenet121_cifar": Published(95.04, "CIFAR-10", "kuangliu's README, chosen on test"),
}


def minimum_size(variant: DenseNetVariant) -> int:
    """The smallest images whose maps can still be halved by every transition.

    >>> minimum_size(VARIANTS["densenet121"]), minimum_size(VARIANTS["densenet40_12"])
    (29, 4)
    """
    first_block: int = 2 ** (len(variant.blocks) - 1)
    # The stem's convolution and pooling round up: 29 pixels become 8, as 32 do.
    return first_block if variant.small_images else 4 * first_block - 3


def _register(name: str, variant: DenseNetVariant) -> None:
    halvings = {3: "two 2x2 poolings", 4: "three 2x2 poolings"}[len(variant.blocks)]
    register(
        ModelEntry(
            name=name,
            family="densenet",
            year=2017,
            paper="Huang et al. 2017, arXiv 1608.06993",
            image_size=variant.image_size,
            in_channels=3,
            num_classes=variant.num_classes,
            minimum_size=minimum_size(variant),
            minimum_reason=halvings if variant.small_images else f"a convolution and a pooling of stride 2, {halvings}",
            recipe="densenet",
            build=partial(DenseNet, variant),
            brought="Features are used again instead of being computed again: each layer reads all before it by "
            "concatenation, adds a few channels, and every layer is a short way from the loss.",
            published=PUBLISHED.get(name),
        )
    )


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
