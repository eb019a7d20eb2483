"""Convolutions of maps of a few pixels, tap by tap, against PyTorch's in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from convatlas.engine import taps
from convatlas.engine.operators import conv3x3

few = settings(max_examples=40, deadline=None, derandomize=True)
maps = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2)).filter(
    lambda drawn: min(drawn[:2]) + 2 * drawn[2] > 2
)  # height, width, padding


def made(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@few
@given(maps, st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_outputs_and_gradients_are_those_of_a_convolution(
    drawn: tuple[int, int, int], images: int, channels: int, outputs: int, has_bias: bool
) -> None:
    height, width, padding = drawn
    x, weight = made(images, channels, height, width, seed=1), made(outputs, channels, 3, 3, seed=2)
    bias = made(outputs, seed=3) if has_bias else None
    x.requires_grad_()
    weight.requires_grad_()
    y = functional.conv2d(x, weight, bias, padding=padding)
    gradient = made(*y.shape, seed=4)
    for_x, for_weight = torch.autograd.grad(y, (x, weight), gradient)
    with torch.no_grad():
        torch.testing.assert_close(taps.convolve(x, weight, bias, padding), y)
        torch.testing.assert_close(taps.input_gradient(gradient, weight, padding), for_x)
        torch.testing.assert_close(taps.weight_gradient(x, gradient, padding), for_weight)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_operator_goes_by_taps_where_it_is_told(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = made(3, 16, 2, 2, seed=1).float().to(memory_format=layout).requires_grad_()
    weight = made(24, 16, 3, 3, seed=2).float().to(memory_format=layout).requires_grad_()
    bias, gradient = made(24, seed=3).float().requires_grad_(), made(3, 24, 2, 2, seed=4).float()
    monkeypatch.setattr("convatlas.engine.convolutions.winograd", lambda *_: pytest.fail("a tile was used"))
    monkeypatch.setattr("convatlas.engine.convolutions.weight_gradient", lambda *_: pytest.fail("a tile was used"))
    y = conv3x3(x, weight, bias, 1, winograd=False)
    got = torch.autograd.grad(y, (x, weight, bias), gradient)
    expected = functional.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    functional.relu(conv3x3(x, weight, bias, 1, winograd=False), inplace=True).sum().backward()  # it is nobody's view
    for one, other in zip(got, torch.autograd.grad(expected, (x, weight, bias), gradient), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
