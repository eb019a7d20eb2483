"""LeNet-5 against the figures and formulas of its paper (LeCun et al. 1998)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convatlas.models import Classifier, create_model, outline_model
from convatlas.models.lenet import C3_CONNECTIONS, RadialBasisOutput, ScaledTanh, SubSampling, TableConv2d


def trainable(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def lenet_1998() -> Classifier:
    return create_model("lenet5_1998", seed=0).eval()


@pytest.mark.parametrize(
    ("layer", "count"),  # as section II.B counts them
    [
        ("features.c1", 156),
        ("features.s2", 12),
        ("features.c3", 1_516),
        ("features.s4", 32),
        ("classifier.c5", 48_120),
        ("classifier.f6", 10_164),
        ("classifier.output", 0),
        ("", 60_000),
    ],
)
def test_trainable_parameters_are_the_paper_s(layer: str, count: int) -> None:
    assert trainable(outline_model("lenet5_1998").get_submodule(layer)) == count


def test_todays_form_has_the_usual_61706() -> None:
    assert trainable(outline_model("lenet5")) == 61_706


def test_c3_is_connected_as_in_table_1() -> None:
    assert [len(inputs) for inputs in C3_CONNECTIONS] == [3] * 6 + [4] * 9 + [6]
    assert len(set(C3_CONNECTIONS)) == 16
    for first in range(6):  # six runs of three and six runs of four neighbours, around the corner too
        assert tuple(sorted((first + step) % 6 for step in range(3))) in C3_CONNECTIONS[:6]
        assert tuple(sorted((first + step) % 6 for step in range(4))) in C3_CONNECTIONS[6:12]
    for pair in C3_CONNECTIONS[12:15]:  # three of two pairs of neighbours each, apart
        assert {(place + 3) % 6 for place in pair} == set(pair)
    for source in range(6):  # each map of S2 is seen by ten maps of C3
        assert sum(source in inputs for inputs in C3_CONNECTIONS) == 10


def test_c3_sees_the_maps_of_its_table_alone() -> None:
    layer = TableConv2d(((0, 2), (1,)), in_channels=3, kernel=3)
    maps = torch.randn(2, 3, 6, 6)
    first = F.conv2d(maps[:, [0, 2]], layer.weight[None, :2], layer.bias[:1])
    second = F.conv2d(maps[:, [1]], layer.weight[None, 2:], layer.bias[1:])
    torch.testing.assert_close(layer(maps), torch.cat([first, second], dim=1))


def test_squashing_keeps_one_and_minus_one() -> None:
    torch.testing.assert_close(ScaledTanh()(torch.tensor([-1.0, 0, 1])), torch.tensor([-1.0, 0, 1]), rtol=0, atol=1e-4)
    assert ScaledTanh()(torch.tensor(100.0)).item() == pytest.approx(1.7159)


def test_sub_sampling_adds_four_scales_and_shifts() -> None:
    layer = SubSampling(2)
    maps = torch.randn(3, 2, 4, 4)
    sums = maps[:, :, ::2, ::2] + maps[:, :, 1::2, ::2] + maps[:, :, ::2, 1::2] + maps[:, :, 1::2, 1::2]
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.5, -2.0]))
    expected = sums * layer.coefficient.view(1, 2, 1, 1) + torch.tensor([0.5, -2.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(layer(maps), expected)


def test_logits_are_minus_the_squared_distances_to_the_codes() -> None:
    layer = RadialBasisOutput(84, 10)
    features = torch.randn(3, 84)
    torch.testing.assert_close(layer(features), -(torch.cdist(features, layer.codes) ** 2), rtol=1e-4, atol=1e-3)


def test_cross_entropy_is_equation_9_without_its_constant(lenet_1998: Classifier) -> None:
    logits = lenet_1998(torch.randn(4, 1, 32, 32))
    labels = torch.tensor([0, 3, 9, 3])
    penalties = -logits
    equation_9 = (penalties[range(4), labels] + torch.log(torch.exp(-penalties).sum(dim=1))).mean()
    torch.testing.assert_close(F.cross_entropy(logits, labels), equation_9)


def test_codes_are_signs_and_the_same_in_every_network() -> None:
    codes = RadialBasisOutput(84, 10).codes
    assert codes.abs().eq(1).all()
    assert len(codes.unique(dim=0)) == 10
    for seed in (0, 1):
        assert torch.equal(create_model("lenet5_1998", seed=seed).state_dict()["classifier.output.codes"], codes)


def test_c5_is_a_convolution_at_the_paper_s_size(lenet_1998: Classifier) -> None:
    s4 = torch.randn(2, 16, 5, 5)
    c5 = lenet_1998.get_submodule("classifier.c5")
    convolution = F.conv2d(s4, c5.weight.view(120, 16, 5, 5), c5.bias)
    torch.testing.assert_close(c5(s4.flatten(1)), convolution.flatten(1))


@pytest.mark.parametrize(
    ("layer", "fan_in"), [("features.c1", 25), ("features.s2.0", 4), ("classifier.c5", 400), ("classifier.f6", 120)]
)
def test_weights_start_uniform_within_2_4_over_fan_in(lenet_1998: Classifier, layer: str, fan_in: int) -> None:
    weight = next(lenet_1998.get_submodule(layer).parameters())
    assert weight.abs().max().item() <= 2.4 / fan_in
    assert weight.abs().max().item() > 0.5 * 2.4 / fan_in


def test_c3_starts_with_the_fan_in_of_its_table(lenet_1998: Classifier) -> None:
    rows = lenet_1998.get_submodule("features.c3").weight.split([len(inputs) for inputs in C3_CONNECTIONS])
    for row, inputs in zip(rows, C3_CONNECTIONS, strict=True):
        limit = 2.4 / (25 * len(inputs))
        assert 0.8 * limit < row.abs().max().item() <= limit


@pytest.mark.parametrize(("name", "size"), [("lenet5", 28), ("lenet5_1998", 32)])
def test_it_learns_ten_images_by_heart(name: str, size: int) -> None:
    torch.manual_seed(0)
    model = create_model(name, seed=0)
    images, labels = torch.randn(10, 1, size, size), torch.arange(10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
