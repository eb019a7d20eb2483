"""MobileNet against the figures of its papers (Howard et al. 2017, Sandler et al. 2018)."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convatlas.models import outline_model
from convatlas.models.counts import shipped_counts
from convatlas.models.mobilenet import VARIANTS, InvertedResidual


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mobilenet_v1", 4_231_976),  # Keras's, without its running statistics
        ("mobilenet_v2", 3_504_872),  # torchvision's model page
        ("mobilenet_v1_cifar", 3_217_226),
        ("mobilenet_v2_cifar", 2_296_922),  # kuangliu's
    ],
)
def test_trainable_parameters(name: str, parameters: int) -> None:
    assert shipped_counts()[name]["parameters"] == parameters


def test_running_statistics_as_in_keras() -> None:
    counts = shipped_counts()["mobilenet_v1"]
    assert counts["parameters"] + counts["buffers"] == 4_253_864


@pytest.mark.parametrize(("name", "millions"), [("mobilenet_v1", 569), ("mobilenet_v2", 300)])
def test_millions_of_multiply_adds_as_in_the_papers(name: str, millions: int) -> None:
    assert shipped_counts()[name]["macs"] / 1e6 == pytest.approx(millions, abs=1)


def kind(layer: nn.Conv2d | nn.Linear) -> str:
    if isinstance(layer, nn.Linear):
        return "dense"
    if layer.kernel_size == (1, 1):
        return "1x1"
    return "3x3" if layer.groups == 1 else "depthwise"


def test_shares_of_arithmetic_and_weights_as_in_table_2() -> None:
    """Of the first paper; its 1.19 % of arithmetic for the one full 3x3 convolution must be 1.91 %."""
    model = outline_model("mobilenet_v1").eval()
    layers = {path: kind(layer) for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224, device="meta"))
    flops = {path: sum(counter.get_flop_counts()[f"MobileNet.{path}"].values()) for path in layers}
    weights = {path: model.get_parameter(f"{path}.weight").numel() for path in layers}

    def shares(amounts: dict[str, int]) -> dict[str, float]:
        total = sum(amounts.values())
        each = {name: sum(amounts[path] for path in layers if layers[path] == name) for name in set(layers.values())}
        return {name: round(100 * amount / total, 2) for name, amount in each.items()}

    assert shares(flops) == {"1x1": 94.86, "depthwise": 3.06, "3x3": 1.91, "dense": 0.18}
    assert shares(weights) == {"1x1": 74.59, "depthwise": 1.06, "3x3": 0.02, "dense": 24.33}


def test_28_layers_counting_depthwise_and_pointwise_apart() -> None:
    model = outline_model("mobilenet_v1")
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules()) == 28


def test_output_sizes_as_in_table_1_of_the_first_paper() -> None:
    taps = outline_model("mobilenet_v1").taps
    assert taps["conv1"].shape == (32, 112, 112)
    assert [taps[f"conv{number}_dw"].shape for number in (2, 3, 5, 7, 13, 14)] == [
        (32, 112, 112), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7), (1024, 7, 7)
    ]  # fmt: skip
    assert taps["conv14_pw"].shape == (1024, 7, 7)


def test_output_sizes_as_in_table_2_of_the_second_paper() -> None:
    taps = outline_model("mobilenet_v2").taps
    last_blocks = ["1_1", "2_2", "3_3", "4_4", "5_3", "6_3", "7_1"]
    assert [taps[f"bottleneck{block}"].shape for block in last_blocks] == [
        (16, 112, 112), (24, 56, 56), (32, 28, 28), (64, 14, 14), (96, 14, 14), (160, 7, 7), (320, 7, 7)
    ]  # fmt: skip
    assert taps["conv2"].shape == (1280, 7, 7)


@pytest.mark.parametrize(("name", "side"), [("mobilenet_v1_cifar", 2), ("mobilenet_v2_cifar", 4)])
def test_small_images_end_in_small_maps(name: str, side: int) -> None:
    taps = outline_model(name).taps
    assert taps["conv1"].shape[-1] == 32
    assert list(taps.values())[-1].shape[-1] == side


@pytest.mark.parametrize("name", VARIANTS)
def test_depthwise_convolutions_have_one_filter_a_channel(name: str) -> None:
    convolutions = [layer for layer in outline_model(name).modules() if isinstance(layer, nn.Conv2d)]
    assert [kind(layer) for layer in convolutions].count("3x3") == 1  # the first
    for layer in convolutions[1:]:
        assert kind(layer) == "1x1" or layer.groups == layer.in_channels == layer.out_channels


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v2_cifar"])
def test_bottlenecks_are_linear(name: str) -> None:
    for block in outline_model(name).modules():
        if isinstance(block, InvertedResidual):
            projection, norm = block.conv[-2:]
            assert projection.kernel_size == (1, 1)
            assert isinstance(norm, nn.BatchNorm2d)


def test_only_blocks_that_change_nothing_have_a_shortcut() -> None:
    blocks = [block for block in outline_model("mobilenet_v2").modules() if isinstance(block, InvertedResidual)]
    assert len(blocks) == 17
    shortcuts = [block.shortcut for block in blocks if block.shortcut is not None]
    assert [len(shortcut) for shortcut in shortcuts] == [0] * 10


def test_non_linearities() -> None:
    kinds = {
        name: {type(module) for module in outline_model(name).modules() if isinstance(module, nn.ReLU | nn.ReLU6)}
        for name in VARIANTS
    }
    assert kinds == {name: {nn.ReLU6 if name == "mobilenet_v2" else nn.ReLU} for name in VARIANTS}
