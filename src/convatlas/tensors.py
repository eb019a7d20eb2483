"""Named tensors in a file, held against what a network has before any of them is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from convatlas import files

NAMED = 3  # of the tensors that are wrong
CONVERTED = (torch.float16, torch.bfloat16, torch.float64)  # to the network's own type


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        OSError: it is not there, or is no ordinary file.
        ValueError: it is no safetensors file, or is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files.require_regular(path)
    try:
        return load_file(path)
    except (SafetensorError, RuntimeError, KeyError, TypeError) as error:  # as it goes for types torch has not
        raise ValueError(f"it is not a whole safetensors file: {str(error).splitlines()[0]}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace a safetensors file atomically; tensors are moved to the CPU and made contiguous.

    Raises:
        StorageError: the disk refused; what was there before is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    on_cpu = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    with files.replacing(path) as temporary:
        try:
            save_file(on_cpu, temporary)
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error)) from error


def matched(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, if they are those that are expected, by name, shape and kind; in the types that are expected.

    >>> matched({"weight": torch.ones(2, dtype=torch.float16)}, {"weight": torch.zeros(2)})
    {'weight': tensor([1., 1.])}

    Raises:
        ValueError: some are missing, unknown, of another shape or kind, or hold values that are not finite; says which.
    """
    _refuse("has no", [name for name in expected if name not in tensors])
    _refuse("has what the network has not:", [name for name in tensors if name not in expected])
    for name, own in expected.items():
        _refuse_form(name, tensors[name], own)
    found = {name: tensors[name].to(own.dtype) for name, own in expected.items()}
    _refuse("has values that are not finite in", [name for name, tensor in found.items() if not is_finite(tensor)])
    return found


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite. Their sum tells, faster than looking at each, unless it overflows."""
    if not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(tensor.sum()) or torch.isfinite(tensor).all())


def _refuse_form(name: str, tensor: Tensor, own: Tensor) -> None:
    if tensor.shape != own.shape:
        raise ValueError(f"{name} is {list(tensor.shape)}; the network's is {list(own.shape)}")
    is_convertible = own.is_floating_point() and tensor.dtype in CONVERTED
    if tensor.dtype != own.dtype and not is_convertible:
        raise ValueError(f"{name} is of {_word(tensor.dtype)}; the network's is of {_word(own.dtype)}")


def _refuse(what: str, names: Iterable[str]) -> None:
    wrong = list(names)
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise ValueError(f"it {what} {', '.join(wrong[:NAMED])}{more}")


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
