"""Initialisers against their formulas, and AlexNet's normalisation against the sum in its paper."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convatlas.errors import RecipeError, UnknownNameError
from convatlas.layers import INITIALIZERS, LocalResponseNorm, initialize, output_side


def convolution_weight(name: str, std: float | None = None, groups: int = 1) -> torch.Tensor:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 128, 3, groups=groups)
    initialize(layer, name, std)
    return layer.weight.detach()


FAN_IN, FAN_OUT = 64 * 9, 128 * 9


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("he_normal", 2 / FAN_IN),
        ("he_uniform", 2 / FAN_IN),
        ("glorot_normal", 2 / (FAN_IN + FAN_OUT)),
        ("glorot_uniform", 2 / (FAN_IN + FAN_OUT)),
        ("lecun_normal", 1 / FAN_IN),
        ("normal", 0.05**2),
    ],
)
def test_variance_is_the_formula(name: str, variance: float) -> None:
    weight = convolution_weight(name)  # 73,728 draws: the variance is within 2 % of its own, the mean near 0
    assert weight.var().item() == pytest.approx(variance, rel=0.02)
    assert abs(weight.mean().item()) < 5 * math.sqrt(variance / weight.numel())


@pytest.mark.parametrize(
    ("name", "limit"), [("he_uniform", math.sqrt(6 / FAN_IN)), ("glorot_uniform", math.sqrt(6 / (FAN_IN + FAN_OUT)))]
)
def test_uniform_stays_within_its_limit_and_reaches_it(name: str, limit: float) -> None:
    largest = convolution_weight(name).abs().max().item()
    assert 0.99 * limit < largest <= limit


@pytest.mark.parametrize("name", ["he_normal", "glorot_normal", "lecun_normal", "normal"])
def test_normal_is_normal(name: str) -> None:
    weight = convolution_weight(name)
    within_one_deviation = (weight.abs() < weight.std()).double().mean().item()
    assert within_one_deviation == pytest.approx(0.6827, abs=0.01)


def test_std_is_the_standard_deviation_of_normal() -> None:
    assert convolution_weight("normal", std=0.01).std().item() == pytest.approx(0.01, rel=0.02)


def test_dense_layers_too_and_biases_become_zero() -> None:
    layer = nn.Sequential(nn.Linear(400, 300))
    initialize(layer, "he_normal")
    assert layer[0].weight.var().item() == pytest.approx(2 / 400, rel=0.02)
    assert not layer[0].bias.any()


def test_other_layers_are_left_alone() -> None:
    norm = nn.BatchNorm2d(4)
    initialize(nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), norm), "zeros")
    assert norm.weight.eq(1).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_dirac_repeats_the_input(groups: int) -> None:
    layer = nn.Conv2d(6, 6, 3, padding=1, groups=groups)
    initialize(layer, "dirac")
    image = torch.randn(1, 6, 5, 5)
    torch.testing.assert_close(layer(image), image)


def test_dirac_repeats_the_input_of_a_dense_layer() -> None:
    layer = nn.Linear(4, 4)
    initialize(layer, "dirac")
    assert torch.equal(layer(torch.arange(4.0)), torch.arange(4.0))


def test_each_group_is_a_convolution_of_its_own() -> None:
    variance = 2 / (32 * 9 + 64 * 9)  # two groups of 32 -> 64 channels
    assert convolution_weight("glorot_normal", groups=2).var().item() == pytest.approx(variance, rel=0.03)


def test_zeros() -> None:
    assert not convolution_weight("zeros").any()


def test_an_unknown_initializer_is_named_with_its_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean he_normal"):
        initialize(nn.Linear(1, 1), "he_norm")


def test_std_with_an_initializer_that_computes_its_own() -> None:
    with pytest.raises(RecipeError, match=r"he_normal takes no std; received std=0.1"):
        initialize(nn.Linear(1, 1), "he_normal", std=0.1)


def test_every_name_initialises_both_kinds_of_layers() -> None:
    for name in INITIALIZERS:
        initialize(nn.ModuleList([nn.Conv2d(3, 5, 3), nn.Linear(3, 5)]), name)


def test_local_response_norm_is_the_sum_in_the_paper() -> None:
    activations = torch.randn(1, 9, 2, 3, dtype=torch.float64) * 30
    n, alpha, beta, k = 5, 1e-4, 0.75, 2.0  # section 3.3
    expected = torch.empty_like(activations)
    for channel in range(9):
        first, last = max(0, channel - n // 2), min(8, channel + n // 2)
        squares = sum(activations[:, j] ** 2 for j in range(first, last + 1))
        expected[:, channel] = activations[:, channel] / (k + alpha * squares) ** beta
    torch.testing.assert_close(LocalResponseNorm()(activations), expected)


@settings(max_examples=60, deadline=None)
@given(side=st.integers(1, 40), kernel=st.integers(1, 11), stride=st.integers(1, 4), padding=st.integers(0, 5))
def test_output_side_is_what_a_convolution_gives(side: int, kernel: int, stride: int, padding: int) -> None:
    expected = output_side(side, kernel, stride, padding)
    if side + 2 * padding < kernel:
        assert expected <= 0
        return
    made = F.conv2d(torch.ones(1, 1, side, side), torch.ones(1, 1, kernel, kernel), None, stride, padding)
    assert made.shape[-1] == expected
