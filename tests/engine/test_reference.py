from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from convatlas.engine import reference

pytest.importorskip("llvmlite")

import rounding
from pictures import numbers, picture

from convatlas.engine.convolutions import transform_weight
from convatlas.engine.kernels import winograd as kernels

POSITIONS = 36


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_minimal_filtering_is_correlation(seed: int) -> None:
    """A'[(Gg) * (B'd)] has the four outputs of three taps on six values, with six multiplications."""
    output, kernel, inputs = reference.matrices()
    d, g = numbers(6, seed=seed).double(), numbers(3, seed=seed + 1).double()
    expected = torch.stack([d[index : index + 3] @ g for index in range(4)])
    torch.testing.assert_close(output @ ((kernel @ g) * (inputs @ d)), expected, rtol=1e-12, atol=1e-12)


def test_the_matrices_have_the_shapes_and_zeros_of_the_method() -> None:
    output, kernel, inputs = reference.matrices()
    assert (output.shape, kernel.shape, inputs.shape) == ((4, 6), (6, 3), (6, 6))
    assert output[0].tolist() == [1, 1, 1, 1, 1, 0]
    assert inputs[0, 5] == inputs[5, 0] == 0  # the first value and the last share no product


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (4, 9), (8, 7)])
def test_it_is_pytorchs_convolution(padding: int, size: tuple[int, int]) -> None:
    padding = max(padding, (3 - min(size) + 1) // 2)  # there is an output
    x = numbers(2, 3, *size).double().requires_grad_()
    weight = numbers(5, 3, 3, 3, seed=1).double().requires_grad_()
    y = functional.conv2d(x, weight, padding=padding)
    gradient = numbers(*y.shape, seed=2).double()
    for_weight = torch.autograd.grad(y, weight, gradient)[0]
    torch.testing.assert_close(reference.convolve(x, weight, padding), y, rtol=1e-12, atol=1e-12)
    made = reference.weight_gradient(x.detach(), gradient, padding)
    torch.testing.assert_close(made, for_weight, rtol=1e-12, atol=1e-12)


def test_the_kernels_evaluate_at_the_same_points() -> None:
    assert (kernels.NEAR, kernels.FAR) == (reference.NEAR, reference.FAR)
    for number in (kernels.NEAR, kernels.FAR, kernels.INNER, kernels.OUTER):
        assert torch.tensor(number, dtype=torch.float32).item() == number  # exact in binary


@pytest.mark.parametrize("turned", [False, True])
def test_the_kernels_transform_weights_as_the_reference_does(turned: bool) -> None:
    _, kernel, _ = reference.matrices()
    weight = numbers(16, 8, 3, 3)
    seen = weight.flip(2, 3).transpose(0, 1) if turned else weight
    expected, largest = (
        torch.einsum("ai,ocij,bj->abco", matrix, values, matrix).flatten(0, 1)
        for matrix, values in ((kernel, seen.double()), (kernel.abs(), seen.double().abs()))
    )
    outputs, inputs = seen.shape[:2]
    made = transform_weight(weight, turned=turned).view(POSITIONS, inputs, -1)[:, :, :outputs]  # one panel
    assert ((made - expected).abs() <= rounding.roundings(kernel) * rounding.UNIT * largest).all()


def test_float32_loses_what_the_analysis_allows_by_the_reference_and_by_the_kernels() -> None:
    from convatlas.engine.operators import conv3x3

    x, weight = picture(2, 16, 12, 12), numbers(16, 16, 3, 3, seed=1)
    expected = functional.conv2d(x.double(), weight.double(), padding=1)
    for made in (reference.convolve(x, weight, 1), conv3x3(x, weight, None, 1)):
        assert 0 < (made - expected).square().mean().sqrt() <= rounding.of_winograd(16)


def test_the_points_lose_less_than_half_of_what_1_and_2_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of Lavin & Gray 2015, section 4.1."""
    ours = rounding.of_winograd(64), rounding.of_winograd_gradient(64)
    monkeypatch.setattr(reference, "NEAR", 1)
    monkeypatch.setattr(reference, "FAR", 2)
    assert 2 * ours[0] < rounding.of_winograd(64)
    assert 2 * ours[1] < rounding.of_winograd_gradient(64)
