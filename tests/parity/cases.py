"""Which network is compared with which of another library's, at what size, and what had to be adapted for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from convatlas.models import Classifier
from parity.libraries import KerasNetwork, Network, TorchNetwork, keras

Change = Callable[[Classifier, Any], None]


@dataclass(frozen=True, eq=False)
class Adaptation:
    """What was done so that two networks are the same function; without ``change`` the key map does it."""

    name: str  # in the table
    words: str  # below it
    change: Change | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # to the builder of theirs


@dataclass(frozen=True)
class Case:
    """One comparison."""

    model: str  # ours
    library: str  # a key of libraries.BUILDERS
    their_name: str
    image_size: int = 64
    batch: int = 4
    dtype: torch.dtype = torch.float32
    by_name: bool = False  # their state dict has our keys: it loads strictly. Otherwise keys are mapped in order
    adaptations: tuple[Adaptation, ...] = ()

    @property
    def id(self) -> str:
        """The comparison's name in test reports."""
        return f"{self.library}-{self.model}"

    @property
    def options(self) -> dict[str, Any]:
        """What the builder of their network is told."""
        return {key: value for adaptation in self.adaptations for key, value in adaptation.options.items()}


def drop_nothing(ours: Classifier, theirs: Network) -> None:
    for layer in ours.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    for layer in keras_layers(theirs, "Dropout"):
        layer.rate = 0.0


def take_our_epsilon(ours: Classifier, theirs: Network) -> None:
    (epsilon,) = {layer.eps for layer in ours.modules() if isinstance(layer, nn.BatchNorm2d)}
    changed = [layer for layer in keras_layers(theirs, "BatchNormalization") if layer.epsilon != epsilon]
    assert changed
    for layer in changed:
        layer.epsilon = epsilon


def let_relu_be_unbounded(ours: Classifier, theirs: Network) -> None:
    for layer in keras_layers(theirs, "ReLU"):
        layer.max_value = None


def count_no_padding(ours: Classifier, theirs: Network) -> None:
    changed = [layer for layer in ours.modules() if isinstance(layer, nn.AvgPool2d) and layer.padding]
    assert changed
    for layer in changed:
        layer.count_include_pad = False


def keras_layers(theirs: Network, kind: str) -> Iterator[Any]:
    if isinstance(theirs, KerasNetwork):
        yield from (layer for layer in theirs.model.layers if isinstance(layer, getattr(keras().layers, kind)))


def pool_after_norm(ours: Classifier, theirs: TorchNetwork) -> None:
    stem, first = theirs.module.stem, theirs.module.stages[0].blocks[0]
    first.norm1 = nn.Sequential(first.norm1, stem.pool)
    stem.pool = nn.Identity()


NO_DROPOUT = Adaptation("no dropout", "Dropout is off in both.", drop_nothing)
EPSILON = Adaptation("epsilon", "The epsilon of Keras' batch normalisation is set to ours.", take_our_epsilon)
MIRRORED = Adaptation(
    "mirrored",
    "Where 'same' padding at stride 2 is uneven, Keras puts the extra pixels right and below, this network left and "
    "above. Keras is given images and kernels turned over in both directions, which is the same function; neither "
    "network is changed.",
    options={"mirrored": True},
)
DOUBLE = Adaptation(
    "double",
    "Keras' PyTorch backend computes a variance as E[x²] − E[x]², which in float32 is rounding wherever a mean is "
    "large, and turns float64 into float32 in batch normalisation and dense layers. Both networks are in float64, and "
    "Keras is kept from turning it.",
    options={"keep_double": True},
)
BIAS = Adaptation(
    "bias",
    "Keras' convolutions have a bias before batch normalisation, which takes it away again. It is random there, and "
    "added to Keras' running means.",
)
NO_SCALE = Adaptation("no scale", "Keras' batch normalisation has no scale: ours is 1, and its gradient not compared.")
NO_AUXILIARY = Adaptation("no auxiliary head", "The other library has no auxiliary head: ours is left out.")
AVERAGE = Adaptation(
    "average",
    "Keras' average pooling leaves the padding out at the edges, ours counts its zeros: ours is set to leave it out.",
    count_no_padding,
)
UNBOUNDED = Adaptation("unbounded", "Keras' has ReLU6, the paper ReLU: it is set to ReLU.", let_relu_be_unbounded)
TIMM_RELU = Adaptation(
    "ReLU option", "timm's has ReLU6, the paper ReLU: it is told to take ReLU.", options={"act_layer": "relu"}
)
POOLING = Adaptation(
    "pooling",
    "timm pools before the first normalisation and ReLU, the paper's code after: timm's pooling is moved.",
    pool_after_norm,
)
BY_KEY_MAP = (BIAS, NO_SCALE, NO_AUXILIARY)

torchvision = partial(Case, library="torchvision", by_name=True)
timm = partial(Case, library="timm")
timm_pre = partial(timm, dtype=torch.float64, adaptations=(POOLING,))
keras_double = partial(Case, library="keras", dtype=torch.float64)
keras_vgg = partial(keras_double, image_size=224, batch=1, adaptations=(DOUBLE, NO_DROPOUT))
keras_resnet = partial(keras_double, adaptations=(DOUBLE, EPSILON, BIAS))
keras_densenet = partial(keras_double, adaptations=(DOUBLE, EPSILON))
KERAS_MOBILENET = (DOUBLE, NO_DROPOUT, EPSILON, MIRRORED)


def same_names(make: Callable[..., Case], *names: str, **options: Any) -> list[Case]:
    """Networks that have the same name in both libraries."""
    return [make(model=name, their_name=name, **options) for name in names]


CASES: tuple[Case, ...] = (
    # Everything that torchvision has; the auxiliary heads too, for which Inception v3 needs 299 pixels
    *same_names(torchvision, "alexnet", image_size=224, batch=2),
    *same_names(torchvision, "googlenet", image_size=96, batch=2),
    *same_names(torchvision, "vgg11", "vgg13", "vgg16", "vgg19", batch=2),
    *same_names(torchvision, "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn", batch=2),
    *same_names(torchvision, "inception_v3", image_size=299, batch=2),
    *same_names(torchvision, "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *same_names(torchvision, "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *same_names(torchvision, "wide_resnet50_2", "wide_resnet101_2"),
    *same_names(torchvision, "densenet121", "densenet161", "densenet169", "densenet201"),
    *same_names(torchvision, "mobilenet_v2"),
    # What timm has beyond it
    *same_names(timm, "resnet50", "seresnet18", "seresnet34", "seresnet50", "seresnet101", "seresnet152", by_name=True),
    *same_names(timm, "seresnext50_32x4d", "seresnext101_32x4d", by_name=True),
    timm_pre(model="preresnet50", their_name="resnetv2_50"),
    timm_pre(model="preresnet101", their_name="resnetv2_101"),
    timm_pre(model="preresnet152", their_name="resnetv2_152"),
    *same_names(timm, "inception_v4", "inception_resnet_v2", image_size=107, adaptations=(NO_DROPOUT,)),
    timm(model="mobilenet_v1", their_name="mobilenetv1_100", adaptations=(TIMM_RELU,)),
    *(
        timm(
            model=f"efficientnet_lite{n}",
            their_name=f"tf_efficientnet_lite{n}",
            by_name=True,
            adaptations=(NO_DROPOUT,),
        )
        for n in range(5)
    ),
    # What Keras has
    keras_vgg(model="vgg16", their_name="VGG16"),
    keras_vgg(model="vgg19", their_name="VGG19"),
    keras_resnet(model="resnet50_v1", their_name="ResNet50"),
    keras_resnet(model="resnet101_v1", their_name="ResNet101"),
    keras_resnet(model="resnet152_v1", their_name="ResNet152"),
    keras_double(
        model="inception_v3",
        their_name="InceptionV3",
        image_size=107,
        adaptations=(DOUBLE, NO_DROPOUT, NO_SCALE, NO_AUXILIARY, AVERAGE),
    ),
    keras_double(
        model="inception_resnet_v2",
        their_name="InceptionResNetV2",
        image_size=107,
        adaptations=(DOUBLE, NO_DROPOUT, NO_SCALE),
    ),
    keras_densenet(model="densenet121", their_name="DenseNet121"),
    keras_densenet(model="densenet169", their_name="DenseNet169"),
    keras_densenet(model="densenet201", their_name="DenseNet201"),
    keras_double(
        model="mobilenet_v1", their_name="MobileNet", adaptations=(DOUBLE, NO_DROPOUT, EPSILON, MIRRORED, UNBOUNDED)
    ),
    keras_double(model="mobilenet_v2", their_name="MobileNetV2", adaptations=(DOUBLE, NO_DROPOUT, EPSILON, MIRRORED)),
)
