"""Weights as they are found: a file of any library, one of our runs, or ImageNet's by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from torch import nn

from convatlas.data.preprocessing import Normalization, Preprocessing, fixed_constants
from convatlas.errors import RunError, WeightsError, shortened
from convatlas.files import expanded
from convatlas.models.contract import Classifier
from convatlas.runs import ClassifierRun, Run
from convatlas.tensors import read_tensors
from convatlas.weights.imagenet import IMAGENET, find_imagenet, imagenet_classes
from convatlas.weights.keras_file import read_keras_file
from convatlas.weights.layers import Layer, layers_of
from convatlas.weights.torch_file import read_torch_file

TORCH_FILES = (".pth", ".pt", ".bin", ".safetensors", ".tar", ".ckpt")
KERAS_FILES = (".h5", ".hdf5", ".keras")
WEIGHT_FILES = TORCH_FILES + KERAS_FILES
CAFFE_STYLE = ("vgg", "resnet")  # of Keras' networks, those whose weights come from Caffe
TORCH_STYLE = ("densenet",)
KERAS_EPSILON = 1e-3  # of batch normalisation, when nothing is said
KERAS_RESNET_EPSILON = 1.001e-5
# Whose published weights take pixels in -1..1: torchvision turns GoogLeNet's and Inception's input into that itself.
SYMMETRIC = ("inception", "googlenet", "efficientnet", "preresnet")
IMAGENET_CLASSES = 1000
COLOURS = 3
UNKNOWN_PIXELS = "how its images were prepared is not known: 0 to 1 is taken (--set normalization says otherwise)"


@dataclass(frozen=True)
class Weights:
    """Layers with weights, and what is known of them: how pixels were prepared, which classes the outputs are."""

    name: str
    library: Literal["torch", "keras", "convatlas"]
    layers: tuple[Layer, ...]
    sha256: str
    normalization: Normalization
    in_channels: int  # of the images that they were trained on
    preprocessing: Preprocessing | None = None  # of a run: the very numbers
    classes: tuple[str, ...] | None = None
    epsilons: Mapping[str, float] = field(default_factory=dict)  # of the file's normalisations, where known
    default_epsilon: float | None = None
    remarks: tuple[str, ...] = ()

    def without_layers(self) -> Weights:
        """What is known of them, when the network has them: two copies of VGG's would be a gigabyte."""
        return replace(self, layers=())

    def prepared(self, *, resize: int, crop: int) -> Preprocessing:
        """How pictures are prepared for these weights, at a size."""
        if self.preprocessing is not None:
            return Preprocessing.model_validate(self.preprocessing.model_dump() | {"resize": resize, "crop": crop})
        scale, mean, std, order = fixed_constants(self.normalization, self.in_channels)
        return Preprocessing.model_validate(
            {
                "channels": self.in_channels,
                "resize": resize,
                "crop": crop,
                "scale": scale,
                "mean": mean,
                "std": std,
                "channel_order": order,
            }
        )

    def epsilon_shift(self, model: Classifier, ours: str, theirs: str) -> float:
        """What the file's network adds to a variance beyond what ours does; it can be added to the running variance."""
        layer = model.get_submodule(ours)
        epsilon = self.epsilons.get(theirs, self.default_epsilon)
        if epsilon is None or not isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            return 0.0
        return epsilon - layer.eps


def open_weights(source: str | Path, model_name: str) -> Weights:
    """Find and read weights for a registered network.

    >>> open_weights("imagenet", "efficientnet_lite0").normalization  # doctest: +SKIP
    'symmetric'

    Args:
        source: "imagenet", a file (``.pth``, ``.safetensors``, ``.h5``, ``.weights.h5``, ``.keras``), a run's directory
            or its name under ``runs/``.
        model_name: for which network: it says how pixels were prepared where the file does not.

    Raises:
        WeightsError: there is no such file, or it cannot be read; says what can be.
    """
    if str(source) == IMAGENET:
        found = find_imagenet(model_name)
        return _of_file(found.path, model_name, name=f"ImageNet ({found.origin})", classes=imagenet_classes())
    path = expanded(source)
    if path.is_file():
        return _of_file(path, model_name, name=path.name, classes=None)
    if path.suffix in WEIGHT_FILES:
        raise WeightsError(f"there is no file {path}")
    try:
        return _of_run(path)
    except RunError as error:
        raise WeightsError(
            f"weights are {IMAGENET}, a file ({', '.join(WEIGHT_FILES)}) or a run; received {shortened(source)}, and "
            f"{error}"
        ) from error


def _of_file(path: Path, model_name: str, *, name: str, classes: tuple[str, ...] | None) -> Weights:
    try:
        digest = _digest(path)
        if path.suffix in KERAS_FILES:
            return _of_keras(path, model_name, name, digest)
        if path.suffix not in TORCH_FILES:
            raise WeightsError(f"{path} is no file of weights by its name; known are {', '.join(WEIGHT_FILES)}")
        layers = read_torch_file(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    normalization: Normalization = "symmetric" if model_name.startswith(SYMMETRIC) else "imagenet"
    remarks = _torch_remarks(model_name)
    channels = _in_channels(layers)
    if channels != COLOURS:
        normalization, remarks = "unit", (*remarks, UNKNOWN_PIXELS)
    return Weights(
        name, "torch", layers, digest, normalization, channels, classes=classes or _classes_of(layers), remarks=remarks
    )


def _of_keras(path: Path, model_name: str, name: str, digest: str) -> Weights:
    file = read_keras_file(path)
    return Weights(
        name,
        "keras",
        file.layers,
        digest,
        _keras_normalization(model_name),
        _in_channels(file.layers),
        classes=_classes_of(file.layers),
        epsilons=file.epsilons,
        default_epsilon=KERAS_RESNET_EPSILON if model_name.startswith(("resnet", "densenet")) else KERAS_EPSILON,
        remarks=_keras_remarks(model_name),
    )


def _keras_normalization(model_name: str) -> Normalization:
    """How ``keras.applications`` prepares images for a network; VGG's and ResNet's weights came from Caffe."""
    if model_name.startswith(CAFFE_STYLE):
        return "caffe"
    return "imagenet" if model_name.startswith(TORCH_STYLE) else "symmetric"


def _torch_remarks(model_name: str) -> tuple[str, ...]:
    if model_name in ("resnet50_v1", "resnet101_v1", "resnet152_v1"):
        other = model_name.removesuffix("_v1")
        return (f"torchvision's and timm's ResNet has its stride in the 3x3 convolution, as {other} here: choose that",)
    return ()


def _keras_remarks(model_name: str) -> tuple[str, ...]:
    if model_name.startswith("mobilenet"):
        return (
            "Keras' MobileNet pads below and to the right at stride 2 and has ReLU6; here it is the paper's: "
            "fine-tune before use",
        )
    if model_name in ("resnet50", "resnet101", "resnet152"):
        return (f"Keras' ResNet has its stride in the first 1x1 convolution, as {model_name}_v1 here: choose that",)
    if model_name == "inception_v3":
        return ("Keras' average pooling leaves the padding out, this one counts it: fine-tune before use",)
    return ()


def _classes_of(layers: tuple[Layer, ...]) -> tuple[str, ...] | None:
    """ImageNet's names, where the last dense layer has as many outputs."""
    dense = [layer.tensors["weight"].shape[0] for layer in layers if layer.kind == "dense"]
    return imagenet_classes() if dense and dense[-1] == IMAGENET_CLASSES else None


def _of_run(path: Path) -> Weights:
    run = Run.open(path)
    if not isinstance(run, ClassifierRun):
        raise WeightsError(f"{run.path} is the run of no classifier, and its weights are of another kind of network")
    file = run.weights_path
    run.model()  # refuses what is missing, damaged or another network's
    preprocessing = run.card.preprocessing
    return Weights(
        f"the run {run.path.name}",
        "convatlas",
        layers_of(read_tensors(file)),
        _digest(file),
        run.card.recipe.get("normalization", "standardize"),
        preprocessing.channels,
        preprocessing,
        run.card.classes,
    )


def _in_channels(layers: tuple[Layer, ...]) -> int:
    """Of the images that the first convolution takes; colour where there is none."""
    kernels = (layer.tensors["weight"] for layer in layers if "weight" in layer.tensors)
    return next((int(kernel.shape[1]) for kernel in kernels if kernel.dim() == 4), COLOURS)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
