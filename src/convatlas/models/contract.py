"""What every network answers, whatever its family: a classifier, and an autoencoder of rows or of images.

tests/models/test_contract.py holds every classifier to it, tests/models/test_autoencoders.py and
test_image_autoencoders.py every autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import nn

from convatlas.layers import initialize
from convatlas.models.settings import Setting


@dataclass(frozen=True)
class Tap:
    """Where a layer of the paper is found: the module whose output it is, and that output's shape without the batch.

    A convolution's or dense layer's tap is what the paper calls the layer's output: after its non-linearity.
    """

    module: str
    shape: tuple[int, ...]


class TrainingOutput(NamedTuple):
    """What a network with auxiliary heads returns in training mode: each head's loss is added, times ``weight``."""

    logits: torch.Tensor  # [N, num_classes]
    auxiliary: tuple[torch.Tensor, ...]  # the same, of each head
    weight: float


class ReconstructionOutput(NamedTuple):
    """What an autoencoder returns in training mode: the penalty is added to the summed loss of the same examples."""

    rebuilt: torch.Tensor  # [n, *input_shape]
    penalty: torch.Tensor  # a scalar, summed over the examples; 0 where the network has none


class Classifier(nn.Module):
    """Images in, logits out: float [N, in_channels, H, W] -> float [N, num_classes].

    >>> from convatlas.models import create_model
    >>> model = create_model("lenet5", num_classes=10)
    >>> model(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    >>> feature_map = model.features(torch.zeros(2, 1, 28, 28))
    >>> feature_map.shape, model.head(feature_map).shape
    (torch.Size([2, 16, 5, 5]), torch.Size([2, 10]))
    >>> model.taps["s4"]
    Tap(module='features.s4', shape=(16, 5, 5))
    """

    features: Callable[[torch.Tensor], torch.Tensor]
    """Images [N, in_channels, H, W] -> the last feature map [N, C, h, w]; a module or a method."""

    taps: Mapping[str, Tap]
    """The paper's name of each inner layer -> where it is. Shapes hold for images of ``image_size``. The logits, which
    are what the network returns, have no tap."""

    output_names: tuple[str, ...]
    """Paths of the layers that depend on the number of classes: the last one, and those of auxiliary heads."""

    registered_as: str | None = None
    """The name that ``create_model`` made it by; None where it was built by hand."""

    auxiliary_heads: tuple[str, ...] = ()
    """Names of the modules that only help in training: then ``forward`` returns a ``TrainingOutput``."""

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.image_size = image_size

    def head(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Feature map [N, C, h, w] -> logits [N, num_classes]."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [N, in_channels, H, W] -> logits [N, num_classes]."""
        return self.head(self.features(images))

    def replace_head(self, num_classes: int) -> None:
        """Put a fresh output layer for ``num_classes`` in place of the old one; all other weights stay.

        >>> from convatlas.models import create_model
        >>> model = create_model("lenet5")
        >>> model.replace_head(3)
        >>> model(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 3])
        """
        like = next(self.parameters())
        self.num_classes = num_classes
        self.replace_output_layers(num_classes)
        self.initialize_output()
        for name in self.output_names:
            self.get_submodule(name).to(like.device, like.dtype)

    def replace_output_layers(self, num_classes: int) -> None:
        """Exchange the layers named in ``output_names``, linear ones or 1x1 convolutions, for others as wide."""
        for name in self.output_names:
            path, _, last = name.rpartition(".")
            parent, old = self.get_submodule(path), self.get_submodule(name)
            new = (
                nn.Conv2d(old.in_channels, num_classes, 1)
                if isinstance(old, nn.Conv2d)
                else nn.Linear(cast("nn.Linear", old).in_features, num_classes)
            )
            setattr(parent, last, new.train(self.training))

    def initialize(self) -> None:
        """Set every parameter and every buffer to where training starts from, on whatever device they are.

        A network is built without memory (see ``outline_model``), so what this leaves out is never set at all. Here:
        he_normal in convolutions and hidden layers, with which a plain ReLU network of any depth here learns.
        """
        for layer in self.modules():
            reset = getattr(layer, "reset_parameters", None)  # of normalisation, and of layers that a family has alone
            if callable(reset) and not isinstance(layer, nn.Conv2d | nn.Linear):
                reset()
        initialize(self, "he_normal")
        self.initialize_output()

    def initialize_output(self) -> None:
        """Small weights in the output layer: training starts near equal probabilities, at a loss of ln(classes)."""
        for name in self.output_names:
            initialize(self.get_submodule(name), "normal", std=0.01)


class ConvDenseClassifier(Classifier):
    """Convolutions, then dense layers: the plan of every network from 1998 to VGG.

    A family sets ``features``, ``avgpool`` (what brings the feature map to the size that the dense layers take),
    ``classifier`` and ``taps``, says in ``output_layers`` which layers depend on the number of classes, and ends its
    constructor's ``classifier`` with ``put_output_layers``.
    """

    avgpool: nn.Module
    classifier: nn.Sequential

    def head(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Feature map [N, C, h, w] -> logits [N, num_classes]."""
        logits: torch.Tensor = self.classifier(torch.flatten(self.avgpool(feature_map), start_dim=1))
        return logits

    def output_layers(self, num_classes: int) -> dict[str, nn.Module]:
        """Name in ``classifier`` -> layer, for the layers at its end that depend on the number of classes."""
        raise NotImplementedError

    def put_output_layers(self, num_classes: int) -> None:
        """Add the output layers to ``classifier``; those of a name that is there already take its place."""
        layers = self.output_layers(num_classes)
        for name, layer in layers.items():
            self.classifier.add_module(name, layer.train(self.training))
        self.output_names = tuple(f"classifier.{name}" for name in layers)

    def replace_output_layers(self, num_classes: int) -> None:
        """Exchange the output layers, with what goes with them."""
        self.put_output_layers(num_classes)


class TrunkClassifier(Classifier):
    """Layers one after another, the average of each map, dropout, one dense layer.

    In training, heads on inner layers name the class as well. A network adds its children in the order that its
    state dict has them: ``add_layer``, ``add_auxiliary_head``, ``add_output``.
    """

    auxiliary_weight: float

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        self.trunk: tuple[str, ...] = ()  # names of the layers, first to last
        self.heads_after: Mapping[str, str] = {}  # layer -> the head on its output
        self.channels, self.side = in_channels, image_size  # of the map after the last layer
        self.taps = {}
        self.output_names = ()

    def add_layer(
        self, tap: str, layer: nn.Module, channels: int | None = None, side: int | None = None, name: str | None = None
    ) -> None:
        """Put a layer at the trunk's end, with ``channels`` and ``side`` of its output where it changes them."""
        name = name or tap
        self.add_module(name, layer)
        self.trunk += (name,)
        self.channels, self.side = channels or self.channels, self.side if side is None else side
        self.taps = {**self.taps, tap: Tap(name, (self.channels, self.side, self.side))}

    def add_auxiliary_head(self, name: str, layer: str, head: nn.Module, output: str) -> None:
        """Put a head on a layer of the trunk; ``output`` is the dense layer in it that names the class."""
        self.add_module(name, head)
        self.heads_after = {**self.heads_after, layer: name}
        self.auxiliary_heads += (name,)
        self.output_names += (f"{name}.{output}",)

    def add_output(self, dropout: float) -> None:
        """[N, channels, h, w] -> [N, num_classes]."""
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.channels, self.num_classes)
        self.output_names += ("fc",)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images [N, in_channels, H, W] -> the last feature map [N, C, h, w]."""
        maps = images
        for name in self.trunk:
            maps = getattr(self, name)(maps)
        return maps

    def head(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Feature map [N, C, h, w] -> logits [N, num_classes]."""
        logits: torch.Tensor = self.fc(self.dropout(torch.flatten(self.avgpool(feature_map), 1)))
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor | TrainingOutput:  # type: ignore[override]
        """Images [N, in_channels, H, W] -> logits [N, num_classes]; in training those of the heads beside them."""
        if not (self.training and self.auxiliary_heads):
            return self.head(self.features(images))
        maps = images
        auxiliary: list[torch.Tensor] = []
        for name in self.trunk:
            maps = getattr(self, name)(maps)
            if name in self.heads_after:
                auxiliary.append(getattr(self, self.heads_after[name])(maps))
        return TrainingOutput(self.head(maps), tuple(auxiliary), self.auxiliary_weight)


class Autoencoder(nn.Module):
    """Examples in, the same out, through fewer or dearer numbers: float [n, *input_shape] -> the same shape.

    In training the penalty comes with it, a ``ReconstructionOutput``. A ``RowAutoencoder`` is shown rows of a table, an
    ``ImageAutoencoder`` images.
    """

    input_shape: tuple[int, ...]
    """Of one example."""

    taps: Mapping[str, Tap]
    """The name of each inner layer -> where it is. What is rebuilt, which is what the network returns, has no tap."""

    output_name: str
    """Path of the layer whose output is what is rebuilt."""

    settings: Mapping[str, Setting]
    """What may be chosen about it beside the size of its input, as it was chosen."""

    def encode(self, examples: torch.Tensor) -> torch.Tensor:
        """Examples [n, *input_shape] -> their code [n, ...]."""
        raise NotImplementedError

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Code [n, ...] -> examples [n, *input_shape]."""
        raise NotImplementedError

    def forward(self, examples: torch.Tensor) -> torch.Tensor | ReconstructionOutput:
        """Examples [n, *input_shape] -> the same, rebuilt; in training, with what is to be added to the loss."""
        if self.training:
            return self.rebuild_in_training(examples)
        return self.decode(self.encode(examples))

    def rebuild_in_training(self, examples: torch.Tensor) -> ReconstructionOutput:
        """Examples -> the same, rebuilt, and the penalty. Chance comes from torch's own generators."""
        rebuilt = self.decode(self.encode(examples))
        return ReconstructionOutput(rebuilt, rebuilt.new_zeros(()))

    def initialize(self) -> None:
        """Set every parameter and every buffer to where training starts from, on whatever device they are.

        Here: as Keras does, Glorot's uniform weights and no biases.
        """
        initialize(self, "glorot_uniform")


class RowAutoencoder(Autoencoder):
    """Rows in, the same rows out: float [n, columns] -> float [n, columns].

    >>> from convatlas.models import create_autoencoder
    >>> model = create_autoencoder("autoencoder_deep", columns=12).eval()
    >>> code = model.encode(torch.zeros(2, 12))
    >>> code.shape, model.decode(code).shape
    (torch.Size([2, 40]), torch.Size([2, 12]))
    >>> model.taps["code"]
    Tap(module='encoder.relu2', shape=(40,))
    >>> model.train()(torch.zeros(2, 12)).penalty
    tensor(0.)
    """

    def __init__(self, *, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.input_shape = (columns,)

    @property
    def is_regularized(self) -> bool:
        """Whether training destroys a part of its rows, or adds a penalty to the loss."""
        return False


class ImageAutoencoder(Autoencoder):
    """Images in, the same images out: float [n, in_channels, s, s] -> the same.

    >>> from convatlas.models import create_image_autoencoder
    >>> model = create_image_autoencoder("autoencoder_dense_latent", in_channels=1, image_size=28).eval()
    >>> model.encode(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 64])
    """

    def __init__(self, *, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.image_size = image_size
        self.input_shape = (in_channels, image_size, image_size)


def blank_input(network: Classifier | Autoencoder, device: torch.device | str | None = None) -> torch.Tensor:
    """One image or one row of zeros, as the network takes it, where its weights are unless a device is named.

    >>> from convatlas.models import outline_model
    >>> blank_input(outline_model("lenet5")).shape
    torch.Size([1, 1, 28, 28])
    """
    place = next(network.parameters()).device if device is None else device
    if isinstance(network, Autoencoder):
        return torch.zeros(1, *network.input_shape, device=place)
    return torch.zeros(1, network.in_channels, network.image_size, network.image_size, device=place)
