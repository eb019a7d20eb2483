"""The same networks as other libraries have them: how each is built, run and read.

torchvision and timm are PyTorch; Keras runs on its torch backend, so that one autograd gives all gradients.
"""

from __future__ import annotations

import os
import re
import tempfile
from functools import cache
from types import ModuleType
from typing import Any, Protocol
from unittest.mock import patch

import torch
from torch import nn

from convatlas.weights.layers import shortcuts_last
from parity.key_maps import Convert, Layer, execution_order, own_tensors, tensors_by_name, unchanged


class Network(Protocol):
    """A network of another library."""

    def logits(self, images: torch.Tensor, *, training: bool) -> tuple[torch.Tensor, ...]:
        """Images [N, 3, H, W] -> the logits [N, classes], then in training mode those of its auxiliary heads."""
        ...

    def layers(self) -> list[Layer]:
        """Those with weights, in order."""
        ...

    def tensors(self) -> list[torch.Tensor]:
        """All weights and running statistics."""
        ...


class TorchNetwork:
    """A network of torchvision or timm, built without memory and then given some, not yet set."""

    def __init__(self, module: nn.Module, image_size: int, dtype: torch.dtype) -> None:
        self.order = execution_order(module, image_size)
        self.module = module.to(dtype).to_empty(device="cpu")

    def logits(self, images: torch.Tensor, *, training: bool) -> tuple[torch.Tensor, ...]:
        output = self.module.train(training)(images)
        if isinstance(output, torch.Tensor):
            return (output,)
        logits, *auxiliary = output
        return (logits, *(reversed(auxiliary)))  # torchvision's GoogLeNet names the deepest first

    def layers(self) -> list[Layer]:
        found = [(path, self.module.get_submodule(path)) for path in self.order]
        return [Layer(path, own_tensors(layer), self._convert_weight(layer)) for path, layer in found]

    def tensors(self) -> list[torch.Tensor]:
        return list(tensors_by_name(self.module).values())

    @staticmethod
    def _convert_weight(layer: nn.Module) -> Convert:
        """A 1x1 convolution of theirs may be a linear layer of ours, or the reverse."""
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            return lambda weight: weight.flatten(1)[:, :, None, None]
        return (lambda weight: weight.flatten(1)) if isinstance(layer, nn.Linear) else unchanged


def torchvision_module(name: str) -> nn.Module:
    """torchvision's, on torch's meta device."""
    import torchvision

    options = {"init_weights": False} if name.startswith(("vgg", "googlenet", "inception")) else {}
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **options)


def torchvision_network(name: str, image_size: int, dtype: torch.dtype) -> TorchNetwork:
    return TorchNetwork(torchvision_module(name), image_size, dtype)


def timm_network(name: str, image_size: int, dtype: torch.dtype, **options: Any) -> TorchNetwork:
    import timm

    with torch.device("meta"):
        module = timm.create_model(name, pretrained=False, **options)
    return TorchNetwork(module, image_size, dtype)


@cache
def keras() -> ModuleType:
    """Keras on torch, with a home of its own: it writes its settings there when it is imported."""
    os.environ["KERAS_BACKEND"] = "torch"
    os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="convatlas-keras-"))
    import keras as library

    assert library.backend.backend() == "torch"
    return library


def keras_network(name: str, image_size: int, dtype: torch.dtype, **options: Any) -> KerasNetwork:
    library, precision = keras(), str(dtype).removeprefix("torch.")
    before = library.config.floatx()
    library.config.set_floatx(precision)
    library.config.set_dtype_policy(precision)
    try:
        model = getattr(library.applications, name)(
            weights=None, input_shape=(image_size, image_size, 3), classifier_activation=None
        )
    finally:
        library.config.set_floatx(before)
        library.config.set_dtype_policy(before)
    return KerasNetwork(model, **options)


class KerasNetwork:
    """A network of ``keras.applications``: its images and maps are [N, H, W, C], its kernels [h, w, inputs, outputs].

    Where 'same' padding of a convolution with stride 2 comes out uneven, Keras puts the extra pixels right and below,
    PyTorch's networks left and above. The two are mirror images of each other: ``mirrored`` turns images and kernels
    over, in both directions, and neither network has to be changed.

    Where types meet, Keras turns float64 into float32, as JAX does; ``keep_double`` keeps it from that.
    """

    def __init__(self, model: Any, mirrored: bool = False, keep_double: bool = False) -> None:
        self.model = model
        self.mirrored = mirrored
        self.types = {"float64": "float64"} if keep_double else {}

    def logits(self, images: torch.Tensor, *, training: bool) -> tuple[torch.Tensor, ...]:
        turned = self._turn(images).permute(0, 2, 3, 1).contiguous()
        with patch.dict(keras().src.backend.common.dtypes.BIT64_TO_BIT32_DTYPE, self.types):
            return (self.model(turned, training=training),)

    def layers(self) -> list[Layer]:
        grid: tuple[int, ...] = ()
        found = []
        written = sorted(self.model.layers, key=when_written)
        for layer in (written[at] for at in shortcuts_last([layer.name for layer in written])):
            if layer.weights:
                found.append(self._layer(layer, grid))
            grid = layer.input.shape[1:] if isinstance(layer, keras().layers.Flatten) else ()
        return found

    def tensors(self) -> list[torch.Tensor]:
        return [variable.value for variable in self.model.weights]

    def _layer(self, layer: Any, grid: tuple[int, ...]) -> Layer:
        names = {
            "weight": ("kernel", "gamma"),
            "bias": ("bias", "beta"),
            "running_mean": ("moving_mean",),
            "running_var": ("moving_variance",),
        }
        variables = {
            ours: getattr(layer, name)
            for ours, possible in names.items()
            for name in possible
            if getattr(layer, name, None) is not None
        }
        tensors = {name: variable.value for name, variable in variables.items()}
        return Layer(layer.name, tensors, self._convert_weight(layer, grid))

    def _convert_weight(self, layer: Any, grid: tuple[int, ...]) -> Convert:
        kinds = keras().layers
        if isinstance(layer, kinds.DepthwiseConv2D):
            return lambda weight: self._turn(weight).permute(2, 3, 0, 1)
        if isinstance(layer, kinds.Conv2D):
            # a 1x1 convolution there may be a linear layer here
            return lambda weight: self._turn(weight.reshape(*weight.shape[:2], *layer.kernel_size)).permute(2, 3, 1, 0)
        if isinstance(layer, kinds.Dense) and grid:
            rows, columns, channels = grid
            return lambda weight: weight.unflatten(1, (channels, rows, columns)).permute(2, 3, 1, 0).flatten(0, 2)
        return (lambda weight: weight.flatten(1).t()) if isinstance(layer, kinds.Dense) else unchanged

    def _turn(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.flip(2, 3) if self.mirrored else tensor


def when_written(layer: Any) -> int:
    """Keras lists layers by their distance from the output; the tensors between them are numbered as they are made."""
    number = re.search(r"\d+$", layer.output.name)
    return int(number[0]) if number else -1


BUILDERS = {"torchvision": torchvision_network, "timm": timm_network, "keras": keras_network}
