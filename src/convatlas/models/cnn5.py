"""A teaching network for CIFAR-10: five convolutions whose windows shrink from 3x3 to 1x1.

    create_model("cnn5_cifar")

Differences from the paper
  - There is no paper: it is a network of tutorials, given as a list of convolutions and poolings, ending in "..." and
    dropout 0.5. Here one linear layer stands for the dots.

It is also known by a mistake: started with every filter at zero, its maps can never come to differ. Try
``convatlas.layers.initialize(model, "zeros")``.
"""

from __future__ import annotations

from torch import nn

from convatlas.layers import output_side
from convatlas.models.contract import ConvDenseClassifier, Tap
from convatlas.models.registry import ModelEntry, register

#: Output channels and window of each convolution, one tuple per stage; a 2x2 pooling follows each stage but the last.
STAGES = (((64, 3),), ((128, 2), (128, 2)), ((256, 1),), ((512, 1),))


class CNN5(ConvDenseClassifier):
    """Five convolutions in four stages, dropout, one linear layer."""

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        # [N, 3, 32, 32] -> [N, 512, 4, 4]
        self.features, self.taps = stages(in_channels, image_size)
        channels, side, _ = list(self.taps.values())[-1].shape
        self.avgpool = nn.Identity()
        self.output_width = channels * side * side
        # [N, 8192] -> [N, num_classes]
        self.classifier = nn.Sequential(nn.Dropout(0.5))
        self.put_output_layers(num_classes)

    def output_layers(self, num_classes: int) -> dict[str, nn.Module]:
        """The linear output layer."""
        return {"1": nn.Linear(self.output_width, num_classes)}


def stages(in_channels: int, image_size: int) -> tuple[nn.Sequential, dict[str, Tap]]:
    """Everything before the dense layer, with a tap for each convolution and pooling: conv2_1, pool2."""
    layers: list[nn.Module] = []
    taps: dict[str, Tap] = {}
    channels, side = in_channels, image_size

    def tap(name: str) -> None:
        taps[name] = Tap(f"features.{len(layers) - 1}", (channels, side, side))

    for stage, convolutions in enumerate(STAGES, start=1):
        for position, (width, kernel) in enumerate(convolutions, start=1):
            layers += same_convolution(channels, width, kernel)
            channels = width
            tap(f"conv{stage}_{position}")
        if stage < len(STAGES):
            layers.append(nn.MaxPool2d(2))
            side = output_side(side, kernel=2, stride=2)
            tap(f"pool{stage}")
    return nn.Sequential(*layers), taps


def same_convolution(channels: int, width: int, kernel: int) -> list[nn.Module]:
    """A convolution that keeps the size of the map, and ReLU; a 2x2 window has its padding at the end."""
    if kernel % 2:
        return [nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.ReLU(inplace=True)]
    before, after = (kernel - 1) // 2, kernel // 2
    padding = nn.ZeroPad2d((before, after, before, after))
    return [padding, nn.Conv2d(channels, width, kernel), nn.ReLU(inplace=True)]


register(
    ModelEntry(
        name="cnn5_cifar",
        family="cnn5",
        year=None,
        paper="none: a network of tutorials",
        image_size=32,
        in_channels=3,
        num_classes=10,
        minimum_size=2 ** (len(STAGES) - 1),
        minimum_reason="three 2x2 poolings",
        recipe="cnn5",
        build=CNN5,
        brought="Nothing: the plain network that tutorials teach with, kept for what its usual code gets wrong.",
    )
)
