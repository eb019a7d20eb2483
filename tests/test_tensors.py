from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import save_file

from convatlas.tensors import is_finite, matched, read_tensors

OWN = {"weight": torch.zeros(2, 3), "count": torch.tensor(0)}


@given(arrays.arrays("float32", st.integers(0, 30), elements=st.floats(width=32)))
def test_finite_as_looking_at_each_value_says(values: object) -> None:
    tensor = torch.from_numpy(values)
    assert is_finite(tensor) == bool(torch.isfinite(tensor).all())


def test_a_sum_that_overflows_is_no_reason_to_refuse() -> None:
    assert is_finite(torch.full((4,), torch.finfo(torch.float32).max))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_what_fits_comes_in_the_types_of_the_network(dtype: torch.dtype) -> None:
    found = matched({"count": torch.tensor(7), "weight": torch.ones(2, 3, dtype=dtype)}, OWN)
    assert {name: tensor.dtype for name, tensor in found.items()} == {"weight": torch.float32, "count": torch.int64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": None}, "has no weight"),
        ({"bias": torch.ones(1)}, "has what the network has not: bias"),
        ({"weight": torch.ones(3, 2)}, r"weight is \[3, 2\]; the network's is \[2, 3\]"),
        ({"weight": torch.ones(2, 3, dtype=torch.complex64)}, "weight is of complex64; the network's is of float32"),
        ({"count": torch.tensor(0.5)}, "count is of float32; the network's is of int64"),
        ({"weight": torch.full((2, 3), torch.inf)}, "not finite in weight"),
        ({"weight": torch.full((2, 3), 1e300, dtype=torch.float64)}, "not finite in weight"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, torch.Tensor | None], message: str) -> None:
    tensors = {name: tensor for name, tensor in (OWN | changes).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        matched(tensors, OWN)


@pytest.mark.parametrize("end", [0, 5, 9, 40, 100])
def test_a_file_that_was_cut_is_named_as_such(end: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(OWN, path)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_tensors(path)
