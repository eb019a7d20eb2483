"""Keras' weight files, read with h5py: Keras 2's ``.h5``, Keras 3's ``.weights.h5`` and ``.keras``.

Keras has kernels as [height, width, inputs, outputs]; here they are torch's [outputs, inputs, height, width], and its
batch normalisation's gamma, beta, moving mean and variance are torch's weight, bias, running mean and variance.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convatlas import files
from convatlas.errors import WeightsError, shortened
from convatlas.weights.layers import Layer, natural

MOST_NUMBERS = 2**30  # in a file: 4 GiB as float32
MOST_CONFIG_BYTES = 2**26
WEIGHTS_IN_ARCHIVE, CONFIG_IN_ARCHIVE = "model.weights.h5", "config.json"
NORM_NAMES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
LAYER_NAMES = {"kernel": "weight", "depthwise_kernel": "weight", "pointwise_kernel": "weight", "bias": "bias"}


@dataclass(frozen=True)
class KerasLayer:
    """A layer as Keras has it: its name, its class where the file tells, and its arrays by their names there."""

    name: str
    kind: str  # "Conv2D", "conv2d", or ""
    arrays: Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class KerasFile:
    """The layers in the order in which Keras lists them, and the epsilon of each batch normalisation that is known."""

    layers: tuple[Layer, ...]
    epsilons: Mapping[str, float]


def read_keras_file(path: Path) -> KerasFile:
    """The layers of a Keras file, in torch's layout.

    Raises:
        WeightsError: it is none, is damaged, leads to other files, or h5py is not installed.
        OSError: it is not there, or is no ordinary file.
    """
    files.require_regular(path)
    with _opened(path) as (file, beside):
        is_old = "layer_names" in file.attrs or "model_weights" in file
        found = _old_layers(file) if is_old else _new_layers(file)
        config = beside or _config_inside(file)
    classes = {name: each.get("class_name", "") for name, each in config.items()}
    named = [replace(layer, kind=classes.get(layer.name, layer.kind)) for layer in found]
    layers = [_converted(layer) for layer in by_number(named)]
    return KerasFile(tuple(layers), _epsilons(config))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The HDF5 file, and the configuration of each layer where it lies beside it."""
    try:
        import h5py
    except ImportError as error:
        raise WeightsError(f"{path} is Keras', which takes h5py to read: pip install 'convatlas[weights]'") from error
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                inside = io.BytesIO(_member(archive, WEIGHTS_IN_ARCHIVE, 4 * MOST_NUMBERS))
                config = _layer_configs(json.loads(_member(archive, CONFIG_IN_ARCHIVE, MOST_CONFIG_BYTES)))
            with h5py.File(inside, "r") as file:
                yield file, config
        else:
            with h5py.File(path, "r") as file:
                yield file, {}
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{path} is no whole file of Keras: {shortened(why)}") from error


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    size = archive.getinfo(name).file_size
    if size > most:
        raise ValueError(f"{name} in it has {size / 2**20:,.0f} MiB")
    with archive.open(name) as member:
        return member.read(most + 1)


def _old_layers(file: Any) -> list[KerasLayer]:
    """Keras 2's: a group a layer, whose attributes list its arrays."""
    group = file.get("model_weights", file)
    layers, budget = [], _Budget()
    for name in _texts(group.attrs["layer_names"]):
        layer = _group(group, name)
        arrays = {
            path.rpartition("/")[2].partition(":")[0]: budget.read(layer, path)
            for path in _texts(layer.attrs.get("weight_names", ()))
        }
        if arrays:
            layers.append(KerasLayer(name, "", arrays))
    return layers


def _new_layers(file: Any) -> list[KerasLayer]:
    """Keras 3's: arrays by number under ``vars`` of each layer, whose path names its class."""
    paths: list[str] = []

    def note(path: str, link: Any) -> None:
        if not _is_hard(link):
            raise ValueError(f"{path} in it leads elsewhere")
        if path.rpartition("/")[2] == "vars":
            paths.append(path)

    file.visititems_links(note)
    layers, budget = [], _Budget()
    for path in sorted(paths, key=natural):
        group = file[path]
        numbered = sorted((name for name in group if name.isdigit()), key=int)
        if not numbered:
            continue
        arrays = [budget.read(group, name) for name in numbered]
        last = path.removesuffix("/vars").rpartition("/")[2]
        name = _texts([group.attrs.get("name", last)])[0]
        layers.append(KerasLayer(name, re.sub(r"_\d+$", "", last), _named(arrays)))
    return layers


def _named(arrays: Sequence[np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays that the file only numbers, by what they can only be."""
    if arrays[0].ndim > 1:
        return dict(zip(("kernel", "bias"), arrays, strict=False))
    names = tuple(NORM_NAMES)
    return dict(zip(names if len(arrays) == len(names) else names[1:], arrays, strict=False))


def _converted(layer: KerasLayer) -> Layer:
    names = NORM_NAMES if "moving_mean" in layer.arrays else LAYER_NAMES
    tensors = {names[name]: torch.from_numpy(array) for name, array in layer.arrays.items() if name in names}
    if "weight" in tensors and tensors["weight"].dim() > 1:
        tensors["weight"] = _torch_layout(tensors["weight"], is_depthwise=_is_depthwise(layer))
    return Layer(layer.name, tensors)


def _torch_layout(kernel: Tensor, *, is_depthwise: bool) -> Tensor:
    """[h, w, inputs, outputs] -> [outputs, inputs, h, w]; [h, w, channels, 1] -> [channels, 1, h, w]; dense: turned.

    >>> _torch_layout(torch.zeros(3, 3, 16, 32), is_depthwise=False).shape
    torch.Size([32, 16, 3, 3])
    """
    if kernel.dim() == 2:
        return kernel.t().contiguous()
    if is_depthwise:
        return kernel.permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1).contiguous()
    return kernel.permute(3, 2, 0, 1).contiguous()


def _is_depthwise(layer: KerasLayer) -> bool:
    if "depthwise_kernel" in layer.arrays:
        return True
    told = layer.kind or layer.name  # a file of Keras 3 without its configuration may only have the name
    return "depthwise" in told.lower() or (not layer.kind and "_dw" in told.lower())


def by_number(layers: Sequence[KerasLayer]) -> list[KerasLayer]:
    """The layers that Keras has named by number ("conv2d_12") in the order of their numbers; others stay in place.

    Keras lists layers by their distance from the output, but numbers them as they are made.

    >>> made = [KerasLayer(name, "", {}) for name in ("conv2d_2", "top", "conv2d", "conv2d_1")]
    >>> [layer.name for layer in by_number(made)]
    ['conv2d', 'top', 'conv2d_1', 'conv2d_2']
    """
    ordered = list(layers)
    for stem in ("conv2d", "batch_normalization"):
        places = [at for at, layer in enumerate(layers) if re.fullmatch(rf"{stem}(_\d+)?", layer.name)]
        numbered = sorted((layers[at] for at in places), key=lambda layer: natural(layer.name))
        for at, layer in zip(places, numbered, strict=True):
            ordered[at] = layer
    return ordered


class _Budget:
    """How many numbers may still be read: a small file can say that it holds many."""

    def __init__(self) -> None:
        self.left = MOST_NUMBERS

    def read(self, group: Any, path: str) -> np.ndarray[Any, Any]:
        data = _dataset(group, path)
        self.left -= data.size
        if self.left < 0:
            raise ValueError(f"it says that it holds more than {MOST_NUMBERS:,} numbers")
        return np.asarray(data[()], dtype=np.float32)


def _dataset(group: Any, path: str) -> Any:
    """A dataset that lies in this very file."""
    import h5py

    parent, _, name = path.rpartition("/")
    owner = _group(group, parent) if parent else group
    if not _is_hard(owner.get(name, getlink=True)):
        raise ValueError(f"{path} in it leads elsewhere")
    data = owner[name]
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise ValueError(f"{path} in it is no array of its own")
    return data


def _group(group: Any, path: str) -> Any:
    for part in path.split("/"):
        if not _is_hard(group.get(part, getlink=True)):
            raise ValueError(f"{path} in it leads elsewhere")
        group = group[part]
    return group


def _is_hard(link: Any) -> bool:
    import h5py

    return isinstance(link, h5py.HardLink)


def _texts(names: Any) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _config_inside(file: Any) -> dict[str, Any]:
    text = file.attrs.get("model_config")
    return _layer_configs(json.loads(text)) if text is not None else {}


def _layer_configs(config: Any) -> dict[str, Any]:
    """Name of a layer -> its class and settings."""
    layers = config.get("config", {}).get("layers", ()) if isinstance(config, dict) else ()
    return {str(each["config"]["name"]): each for each in layers if "name" in each.get("config", {})}


def _epsilons(config: Mapping[str, Any]) -> dict[str, float]:
    found = {name: each["config"].get("epsilon") for name, each in config.items()}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
