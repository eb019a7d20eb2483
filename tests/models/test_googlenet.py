"""GoogLeNet and its successors against the tables of their papers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.layers import ConvNormReLU, LocalResponseNorm, SqueezeExcite
from convatlas.models import TrainingOutput, create_model, outline_model
from convatlas.models.counts import count, shipped_counts
from convatlas.models.googlenet import FIGURE_5, TABLE_1, VARIANTS, Inception

# Szegedy et al. 2014, Table 1: output, and thousands of parameters and millions of multiply-adds as printed.
PRINTED = {
    "inception_3a": ((256, 28, 28), 159, 128),
    "inception_3b": ((480, 28, 28), 380, 304),
    "inception_4a": ((512, 14, 14), 364, 73),
    "inception_4b": ((512, 14, 14), 437, 88),
    "inception_4c": ((512, 14, 14), 463, 100),
    "inception_4d": ((528, 14, 14), 580, 119),
    "inception_4e": ((832, 14, 14), 840, 170),
    "inception_5a": ((832, 7, 7), 1072, 54),
    "inception_5b": ((1024, 7, 7), 1388, 71),
}


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def depth(name: str) -> int:
    """Layers with weights on the longest way from the image to the logits."""
    model = outline_model(name)
    longest = 1  # the dense layer
    for layer in map(model.get_submodule, model.trunk):
        branches = [getattr(layer, branch) for branch in layer.branches] if isinstance(layer, Inception) else [layer]
        longest += max(len(convolutions(branch)) for branch in branches)
    return longest


@pytest.mark.parametrize(
    ("name", "parameters", "auxiliary"),
    [
        ("googlenet", 6_624_904, 13_004_888 - 6_624_904),  # torchvision
        ("googlenet_2014", 6_998_552, 13_378_280 - 6_998_552),
        ("bn_inception", 11_285_224, 0),
        ("se_inception", 11_931_622, 0),
        ("googlenet_cifar", 6_158_346, 0),
    ],
)
def test_parameters(name: str, parameters: int, auxiliary: int) -> None:
    counts = shipped_counts()[name]
    assert (counts["parameters"], counts["auxiliary_parameters"]) == (parameters, auxiliary)


def test_multiply_adds_are_torchvision_s_and_the_paper_s() -> None:
    assert shipped_counts()["googlenet"]["macs"] / 1e9 == pytest.approx(1.498, abs=5e-4)
    printed = 34 + 360 + sum(operations for _, _, operations in PRINTED.values()) + 1
    assert printed == pytest.approx(1500, rel=0.01)  # "1.5 billion multiply-adds"
    first, separable = 64 * 7 * 7 * 3 * 112 * 112, 34e6  # see the file's differences from the paper
    assert shipped_counts()["googlenet_2014"]["macs"] - first + separable == pytest.approx(printed * 1e6, rel=0.03)


def test_table_1_module_by_module() -> None:
    model = outline_model("googlenet_2014")
    for tap, (shape, thousands, millions) in PRINTED.items():
        place = model.taps[tap]
        weights = sum(layer.weight.numel() for layer in convolutions(model.get_submodule(place.module)))
        assert place.shape == shape
        assert weights / 1024 == pytest.approx(thousands, rel=0.08), tap
        assert weights * shape[1] * shape[2] / 1e6 == pytest.approx(millions, rel=0.08), tap


def test_weights_and_biases_of_the_published_network() -> None:
    model = outline_model("googlenet_2014")
    used = {key: weights.numel() for key, weights in model.named_parameters() if not key.startswith("aux")}
    biases = sum(size for key, size in used.items() if key.endswith("bias"))
    assert (sum(used.values()) - biases, biases) == (6_990_272, 8_280)


def test_the_stem_of_table_1() -> None:
    taps = outline_model("googlenet_2014").taps
    assert [(name, taps[name].shape) for name in list(taps)[:7]] == [
        ("conv1", (64, 112, 112)),
        ("pool1", (64, 56, 56)),
        ("norm1", (64, 56, 56)),
        ("conv2_reduce", (64, 56, 56)),
        ("conv2", (192, 56, 56)),
        ("norm2", (192, 56, 56)),
        ("pool2", (192, 28, 28)),
    ]
    assert [taps[name].shape for name in ("pool3", "pool4")] == [(480, 14, 14), (832, 7, 7)]


@pytest.mark.parametrize(("name", "layers"), [("googlenet_2014", 22), ("googlenet", 22), ("bn_inception", 34)])
def test_depth(name: str, layers: int) -> None:
    """22 layers; two 3x3 for each 5x5 make it nine deeper, and one module more makes it three deeper."""
    assert depth(name) == layers


def test_the_published_network_has_5x5_windows_and_no_batch_normalisation() -> None:
    model = outline_model("googlenet_2014")
    kernels = [layer.kernel_size[0] for layer in convolutions(model)]
    assert [kernels.count(size) for size in (7, 5, 3)] == [1, 9, 10]
    assert all(layer.bias is not None for layer in convolutions(model))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert sum(isinstance(layer, LocalResponseNorm) for layer in model.modules()) == 2


@torch.no_grad()
def test_without_normalisation_the_signal_reaches_the_end() -> None:
    model = create_model("googlenet_2014", num_classes=10, image_size=79, seed=0).eval()
    images = torch.randn(4, 3, 79, 79, generator=torch.Generator().manual_seed(0))
    assert 0.1 < model.features(images).square().mean().sqrt().item() < 10


def test_torchvision_s_network_has_3x3_windows_in_their_place() -> None:
    kernels = [layer.kernel_size[0] for layer in convolutions(outline_model("googlenet"))]
    assert [kernels.count(size) for size in (7, 5, 3)] == [1, 0, 19]


@pytest.mark.parametrize("name", ["googlenet", "googlenet_2014"])
def test_two_heads_help_in_training_and_count_three_tenths(name: str) -> None:
    model = outline_model(name, num_classes=7)
    images = torch.zeros(2, 3, 224, 224, device="meta")
    output = model.train()(images)
    assert isinstance(output, TrainingOutput)
    assert output.weight == 0.3
    assert [logits.shape for logits in (output.logits, *output.auxiliary)] == [(2, 7)] * 3
    assert model.eval()(images).shape == (2, 7)
    assert [model.get_submodule(f"{head}.conv.conv").in_channels for head in model.auxiliary_heads] == [512, 528]
    assert [model.get_submodule(f"{head}.fc1").in_features for head in model.auxiliary_heads] == [128 * 4 * 4] * 2


def test_the_first_head_comes_first() -> None:
    model = create_model("googlenet", num_classes=3, image_size=32, seed=0).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = {}
    for head in model.auxiliary_heads:
        model.get_submodule(head).register_forward_hook(lambda *call, head=head: seen.update({head: call[-1]}))
    with torch.no_grad():
        output = model.train()(images)
    assert [logits is seen[head] for logits, head in zip(output.auxiliary, ("aux1", "aux2"), strict=True)] == [True] * 2


def test_published_heads_pool_5x5_windows_and_follow_the_image_size() -> None:
    head = outline_model("googlenet_2014", image_size=320).get_submodule("aux1")
    assert (head.pool.kernel_size, head.pool.stride) == (5, 3)
    assert head.fc1.in_features == 128 * 6 * 6  # a map of 20x20


@pytest.mark.parametrize(("name", "dropout"), [("googlenet", 0.2), ("googlenet_2014", 0.4), ("bn_inception", 0.0)])
def test_dropout(name: str, dropout: float) -> None:
    model = outline_model(name)
    assert model.get_submodule("dropout").p == dropout
    assert [model.get_submodule(f"{head}.dropout").p for head in model.auxiliary_heads] == [
        0.7 for _ in model.auxiliary_heads
    ]


def test_widths_of_bn_inception_follow_from_the_rows_of_figure_5() -> None:
    taps = outline_model("bn_inception").taps
    shapes = {number: taps[f"inception_{number}"].shape for number in FIGURE_5}
    assert shapes == {
        "3a": (256, 28, 28),
        "3b": (320, 28, 28),
        "3c": (576, 14, 14),
        "4a": (576, 14, 14),
        "4b": (576, 14, 14),
        "4c": (608, 14, 14),
        "4d": (608, 14, 14),
        "4e": (1056, 7, 7),
        "5a": (1024, 7, 7),
        "5b": (1024, 7, 7),
    }


def test_bn_inception_averages_in_the_modules_but_in_those_that_halve_and_the_last() -> None:
    model = outline_model("bn_inception")
    kinds = {number: type(model.get_submodule(f"inception{number}.branch4.0")) for number in FIGURE_5}
    assert [number for number, kind in kinds.items() if kind is nn.MaxPool2d] == ["3c", "4e", "5b"]
    halving = model.get_submodule("inception3c")
    assert halving.branches == ["branch2", "branch3", "branch4"]
    assert [layer.stride[0] for layer in convolutions(halving)] == [1, 2, 1, 1, 2]


def test_bn_inception_takes_odd_sides() -> None:
    model = outline_model("bn_inception", image_size=231)
    assert model.taps["inception_3c"].shape == (576, 15, 15)
    assert model.features(torch.zeros(1, 3, 231, 231, device="meta")).shape == (1, 1024, 8, 8)


def test_squeeze_and_excitation_follows_every_module_and_costs_little() -> None:
    model, plain = outline_model("se_inception"), outline_model("bn_inception")
    gates = [module.se for module in model.modules() if isinstance(module, Inception)]
    assert [type(gate) for gate in gates] == [SqueezeExcite] * 10
    widths = [widths[0] for widths in (plain.taps[f"inception_{number}"].shape for number in FIGURE_5)]
    cost = sum(2 * width * (width // 16) + width // 16 + width for width in widths)
    assert count(model)["parameters"] - count(plain)["parameters"] == cost
    assert count(model)["macs"] == pytest.approx(count(plain)["macs"], rel=0.005)


def test_bn_inception_costs_two_billion_multiply_adds() -> None:
    assert shipped_counts()["bn_inception"]["macs"] / 1e9 == pytest.approx(2.03, abs=0.02)  # Hu et al., Table 2


def test_the_small_image_form_keeps_the_first_grids_large() -> None:
    taps = outline_model("googlenet_cifar").taps
    assert [taps[f"inception_{number}"].shape[1] for number in TABLE_1] == [32] * 2 + [16] * 5 + [8] * 2
    assert taps["conv1"].shape == (192, 32, 32)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_convolution_is_normalised_or_biased(name: str) -> None:
    model = outline_model(name)
    normalised = sum(isinstance(layer, ConvNormReLU) for layer in model.modules())
    biased = sum(layer.bias is not None for layer in convolutions(model))
    assert normalised + biased == len(convolutions(model))
