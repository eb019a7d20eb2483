"""PyTorch's weight files: torchvision's and timm's ``.pth``, whole checkpoints, safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convatlas import files
from convatlas.errors import WeightsError, shortened
from convatlas.tensors import read_tensors
from convatlas.weights.layers import Layer, layers_of, natural

INSIDE = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "net", "network", "weights")
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")  # what wrapping a network puts before its names
FIRST = ("conv_stem", "bn1", "stem", "conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a", "mixed_5b",
         "repeat", "mixed_6a", "repeat_1", "mixed_7a", "repeat_2", "block8")  # fmt: skip
LAST = ("conv2d_7b", "conv_head", "bn2", "norm", "head", "fc", "classifier", "classif", "last_linear")
DEEPEST = 3  # checkpoint -> model -> state dict


def read_torch_file(path: Path) -> tuple[Layer, ...]:
    """The layers of a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file; nothing in it is executed.

    Raises:
        WeightsError: it is none, is damaged, or holds no state dict.
        OSError: it is not there, or is no ordinary file.
    """
    if path.suffix == ".safetensors":
        tensors = without_wrappers(_safetensors(path))
        return layers_of({name: tensors[name] for name in sorted(tensors, key=_place)})
    return layers_of(without_wrappers(_state_dict(_unpickled(path), path)))


def without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without what ``DataParallel``, ``torch.compile`` or a trainer has put before every name.

    >>> list(without_wrappers({"module._orig_mod.fc.bias": torch.zeros(2)}))
    ['fc.bias']
    """
    named = dict(tensors)
    while prefix := next((each for each in WRAPPERS if named and all(name.startswith(each) for name in named)), None):
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def _place(name: str) -> tuple[int, list[tuple[int, str]]]:
    """Where a tensor of a safetensors file belongs, which keeps none in order: by timm's names, then by numbers.

    >>> sorted(["fc.bias", "blocks.10.bn1.bias", "blocks.9.bn1.bias", "conv_stem.weight"], key=_place)
    ['conv_stem.weight', 'blocks.9.bn1.bias', 'blocks.10.bn1.bias', 'fc.bias']
    """
    part = name.partition(".")[0]
    rank = FIRST.index(part) - len(FIRST) if part in FIRST else LAST.index(part) + 1 if part in LAST else 0
    return rank, natural(name)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)
    except ValueError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def _unpickled(path: Path) -> Any:
    files.require_regular(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damaged files make the unpickler raise nearly anything
        why = shortened(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        raise WeightsError(
            f"{path} is no file of weights alone ({why}). Save model.state_dict() with torch.save, or as safetensors"
        ) from error


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in a file, which may be a whole checkpoint with one inside."""
    for _ in range(DEEPEST):
        if not isinstance(content, Mapping):
            break
        tensors = {str(name): each for name, each in content.items() if isinstance(each, Tensor)}
        if tensors:
            return tensors
        content = next((content[name] for name in INSIDE if isinstance(content.get(name), Mapping)), None)
    raise WeightsError(
        f"{path} holds no state dict, neither by itself nor under {', '.join(INSIDE[3:6])}. Save model.state_dict()"
    )
