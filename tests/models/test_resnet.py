"""Residual networks against the figures of their papers and the published counts of their forms."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from convatlas.layers import SqueezeExcite, initialize
from convatlas.models import Classifier, create_model, model_entry, outline_model
from convatlas.models.counts import shipped_counts
from convatlas.models.resnet import (
    BASIC,
    BASIC_A,
    BOTTLENECK,
    BOTTLENECK_32X4,
    BOTTLENECK_V1,
    OF_50,
    PRE_BASIC,
    PRE_BASIC_A,
    PRE_BOTTLENECK,
    VARIANTS,
    Block,
    BlockForm,
    shortcut,
)


@cache
def outline(name: str) -> Classifier:
    return outline_model(name)


def parameters(name: str) -> int:
    return sum(parameter.numel() for parameter in outline(name).parameters())


def block_with_numbers(form: BlockForm, in_channels: int, width: int, stride: int = 1) -> Block:
    torch.manual_seed(0)
    block = Block(form, in_channels, width, stride)
    initialize(block, "he_normal")
    return block.eval()


def some_maps(channels: int, side: int = 6) -> torch.Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        # torchvision's model pages
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnext50_32x4d", 25_028_904),
        ("resnext101_32x8d", 88_791_336),
        ("resnext101_64x4d", 83_455_272),
        ("wide_resnet50_2", 68_883_240),
        ("wide_resnet101_2", 126_886_696),
        # the stride is elsewhere, the weights are the same
        ("resnet50_v1", 25_557_032),
        ("resnet101_v1", 44_549_160),
        ("resnet152_v1", 60_192_808),
        # 16(27 + 2) in the stem, and so on: He et al. 2015, Table 6, to the last one
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("resnet1202", 19_421_274),
        ("resnet18_cifar", 11_173_962),
    ],
)
def test_parameters(name: str, number: int) -> None:
    assert parameters(name) == number


def test_a_thousand_preactivated_layers_have_their_parameters_where_the_paper_counts_them() -> None:
    """He et al. 2016 say 10.2 M for preresnet1001: its convolutions and its dense layer."""
    model = outline_model("preresnet1001")
    normalised = sum(weights.numel() for weights in model.parameters() if weights.dim() == 1) - model.num_classes
    assert parameters("preresnet1001") - normalised == 10_178_490


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # He et al. 2015, Table 6
        ("resnet20", 0.27),
        ("resnet32", 0.46),
        ("resnet44", 0.66),
        ("resnet56", 0.85),
        ("resnet110", 1.7),
        ("resnet1202", 19.4),
        # He et al. 2016, as Zagoruyko & Komodakis 2016 count them in Table 5
        ("preresnet110", 1.7),
        ("preresnet164", 1.7),
        # Zagoruyko & Komodakis 2016, Table 5
        ("wide_resnet40_4", 8.9),
        ("wide_resnet16_8", 11.0),
        ("wide_resnet28_10", 36.5),
        # Xie et al. 2016, Table 7
        ("resnext29_8x64d", 34.4),
        ("resnext29_16x64d", 68.1),
    ],
)
def test_millions_of_parameters_as_in_the_papers(name: str, millions: float) -> None:
    assert abs(parameters(name) / 1e6 - millions) < 0.1 ** len(str(millions).partition(".")[2])  # some cut, not round


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # He et al. 2015, Table 1
        ("resnet18", 1.8),
        ("resnet34", 3.6),
        ("resnet50_v1", 3.8),
        ("resnet101_v1", 7.6),
        ("resnet152_v1", 11.3),
        ("plain34", 3.6),
        # Xie et al. 2016, Table 1: it counts ResNet-50 with the stride in the 3x3
        ("resnet50", 4.1),
        ("resnext50_32x4d", 4.2),
    ],
)
def test_multiply_adds_as_in_the_papers(name: str, billions: float) -> None:
    assert shipped_counts()[name]["macs"] / 1e9 == pytest.approx(billions, rel=0.02)


WIDE_CIFAR = ["wide_resnet16_8", "wide_resnet40_4", "wide_resnet28_10"]


def depth_in(name: str) -> int:
    return int(re.findall(r"\d+", name)[0])


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in WIDE_CIFAR])
def test_as_deep_as_the_name_says(name: str) -> None:
    """Layers with weights, but for those on shortcuts and in squeeze-and-excitation."""
    layers = [path for path, layer in outline(name).named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert sum("downsample" not in path and ".se." not in path for path in layers) == depth_in(name)


@pytest.mark.parametrize("name", WIDE_CIFAR)
def test_wide_networks_count_all_their_convolutions_and_no_linear_layer(name: str) -> None:
    """Zagoruyko & Komodakis 2016, section 3: 6n + 4, of which 3 are on shortcuts."""
    assert sum(isinstance(layer, nn.Conv2d) for layer in outline(name).modules()) == depth_in(name)


def test_the_maps_of_table_1() -> None:
    taps = outline("resnet50").taps
    shapes = {name: taps[name].shape for name in ("conv1", "pool1", "conv2_3", "conv3_4", "conv4_6", "conv5_3")}
    assert shapes == {
        "conv1": (64, 112, 112),
        "pool1": (64, 56, 56),
        "conv2_3": (256, 56, 56),
        "conv3_4": (512, 28, 28),
        "conv4_6": (1024, 14, 14),
        "conv5_3": (2048, 7, 7),
    }
    assert list(taps)[-1] == "pool5"


@pytest.mark.parametrize("name", ["resnet20", "resnet110", "plain56", "preresnet110"])
def test_cifar_maps_are_16_32_and_64_deep(name: str) -> None:
    """He et al. 2015, section 4.2."""
    taps = outline(name).taps
    first, last = taps["conv2_1"].shape, taps[list(taps)[-2]].shape
    assert (first, taps["conv3_1"].shape, last) == ((16, 32, 32), (32, 16, 16), (64, 8, 8))
    assert list(taps)[-1] == "pool4"


def test_shapes_of_the_other_small_forms() -> None:
    for name in ("resnet18_cifar", "resnet18_s2"):
        taps = outline(name).taps
        assert [taps[f"conv{stage}_2"].shape[1] for stage in (2, 3, 4, 5)] == [32, 16, 8, 4]
    assert outline("resnet18_s2").taps["pool1"].shape == (64, 32, 32)
    assert outline("wide_resnet28_10").taps["conv4_4"].shape == (640, 8, 8)
    assert outline("resnext29_16x64d").taps["conv4_3"].shape == (1024, 8, 8)
    assert outline("preresnet1001").taps["conv4_111"].shape == (256, 8, 8)


def strides(form: BlockForm) -> list[int]:
    block = Block(form, 256, 128, stride=2)
    return [layer.stride[0] for layer in (block.conv1, block.conv2, block.conv3)]


def test_v1_halves_in_the_first_convolution_and_v1_5_in_the_second() -> None:
    assert strides(BOTTLENECK_V1) == [2, 1, 1]
    assert strides(BOTTLENECK) == strides(PRE_BOTTLENECK) == [1, 2, 1]


# Shortcuts


@pytest.mark.parametrize(
    ("name", "plain"), [("resnet34_a", "plain34"), ("resnet20", "plain20"), ("resnet56", "plain56")]
)
def test_option_a_has_no_parameters(name: str, plain: str) -> None:
    assert parameters(name) == parameters(plain)


def test_option_a_is_the_map_itself_with_zeros_for_what_it_lacks() -> None:
    maps = some_maps(16, side=7)
    layers = shortcut(BASIC_A, 16, 32, stride=2)
    assert layers is not None
    padded = layers(maps)
    assert torch.equal(padded[:, :16], maps[:, :, ::2, ::2])
    assert not padded[:, 16:].any()
    assert padded.shape == (2, 32, 4, 4)


def test_option_b_projects_where_the_shape_changes_and_c_everywhere() -> None:
    def projections(name: str) -> int:
        return sum(path.endswith("downsample.0.weight") for path in outline(name).state_dict())

    assert [projections(name) for name in ("plain34", "resnet34_a", "resnet34", "resnet34_c")] == [0, 0, 3, 16]
    assert projections("resnet50") == 4


def test_a_block_that_has_learnt_nothing_passes_on_what_it_is_given() -> None:
    block = block_with_numbers(BASIC, 8, 8)
    nn.init.zeros_(block.bn2.weight)
    positive = some_maps(8).relu()
    assert torch.equal(block(positive), positive)


def test_a_plain_block_that_has_learnt_nothing_passes_on_nothing() -> None:
    block = block_with_numbers(replace(BASIC, shortcut="none"), 8, 8)
    nn.init.zeros_(block.bn2.weight)
    assert not block(some_maps(8)).any()


# Pre-activation


@pytest.mark.parametrize("form", [PRE_BASIC, PRE_BASIC_A, PRE_BOTTLENECK])
def test_pre_activation_leaves_the_shortcut_as_it_is(form: BlockForm) -> None:
    block = block_with_numbers(form, form.out_channels(8), 8)
    nn.init.zeros_((block.conv3 if form.bottleneck else block.conv2).weight)
    maps = some_maps(form.out_channels(8))
    assert torch.equal(block(maps), maps)


def test_pre_activated_projections_see_the_activated_map() -> None:
    """He et al. 2016, appendix."""
    block = block_with_numbers(PRE_BOTTLENECK, 16, 8, stride=2)
    nn.init.zeros_(block.conv3.weight)
    maps = some_maps(16)
    (projection,) = block.downsample
    assert torch.equal(block(maps), projection(block.bn1(maps).relu()))


def test_a_pre_activated_network_activates_once_after_its_stem_and_once_at_its_end() -> None:
    model = outline("preresnet164")
    keys = list(model.state_dict())
    assert "layer1.0.bn1.weight" not in keys
    assert "layer1.1.bn1.weight" in keys
    assert "layer2.0.bn1.weight" in keys
    assert "last_activation.0.weight" in keys
    activated = model.get_submodule("last_activation")
    assert [type(layer) for layer in activated] == [nn.BatchNorm2d, nn.ReLU]


# ResNeXt, Wide ResNet, squeeze-and-excitation


def test_a_grouped_convolution_is_a_sum_of_branches() -> None:
    """Xie et al. 2016, figure 3: c is a."""
    block = block_with_numbers(replace(BOTTLENECK, groups=4), 16, 8)
    maps = some_maps(16)
    total = torch.zeros(2, 32, 6, 6)
    for branch in range(4):
        part = slice(8 * branch, 8 * branch + 8)
        low = nn.functional.conv2d(maps, block.conv1.weight[part])
        middle = nn.functional.conv2d(low, block.conv2.weight[part], padding=1)
        total += nn.functional.conv2d(middle, block.conv3.weight[:, part])
    torch.testing.assert_close(block.conv3(block.conv2(block.conv1(maps))), total)


def test_the_branches_of_resnext_50() -> None:
    """Table 1: 32 branches 4 wide, about the cost of ResNet-50."""
    block = Block(BOTTLENECK_32X4, 256, 64, 1)
    assert block.conv2.weight.shape == (128, 4, 3, 3)
    assert parameters("resnext50_32x4d") == pytest.approx(parameters("resnet50"), rel=0.03)


def test_wide_bottlenecks_are_twice_as_wide_inside_and_as_wide_outside() -> None:
    wide, thin = outline("wide_resnet50_2"), outline("resnet50")
    assert wide.get_parameter("layer2.0.conv2.weight").shape == (256, 256, 3, 3)
    assert thin.get_parameter("layer2.0.conv2.weight").shape == (128, 128, 3, 3)
    assert {name: tap.shape for name, tap in wide.taps.items()} == {name: tap.shape for name, tap in thin.taps.items()}


def test_only_wide_resnet_28_10_drops_out_and_the_same_seed_drops_the_same() -> None:
    dropping = {
        name
        for name in VARIANTS
        if any(isinstance(layer, nn.Dropout) and layer.p == 0.3 for layer in outline(name).modules())
    }
    assert dropping == {"wide_resnet28_10"}
    block = block_with_numbers(replace(PRE_BASIC, dropout=0.3), 8, 8).train()
    maps = some_maps(8)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(block(maps))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_squeeze_and_excitation_scales_whole_channels() -> None:
    gate = SqueezeExcite(128)
    initialize(gate, "he_normal")
    maps = some_maps(128)
    hidden = (gate.fc1.weight[:, :, 0, 0] @ maps.mean(dim=(2, 3)).T).relu()
    scale = (gate.fc2.weight[:, :, 0, 0] @ hidden).T.sigmoid()
    torch.testing.assert_close(gate(maps), maps * scale[:, :, None, None])


def test_squeeze_and_excitation_costs_what_the_paper_says() -> None:
    """Hu et al. 2018, section 4: 2/r times the sum of N C^2, 2.5 million for ResNet-50, not counting biases."""
    channels = [256, 512, 1024, 2048]
    weights = sum(2 * blocks * width**2 // 16 for blocks, width in zip(OF_50, channels, strict=True))
    biases = sum(blocks * (width + width // 16) for blocks, width in zip(OF_50, channels, strict=True))
    assert parameters("seresnet50") - parameters("resnet50") == weights + biases
    assert weights == pytest.approx(2.5e6, rel=0.01)


@pytest.mark.parametrize(("channels", "hidden"), [(16, 8), (64, 8), (128, 8), (256, 16), (2048, 128)])
def test_the_hidden_layer_is_a_sixteenth_but_8_at_least(channels: int, hidden: int) -> None:
    assert SqueezeExcite(channels).fc1.out_channels == hidden


# The registry


def test_families_and_recipes() -> None:
    assert Counter(model_entry(name).family for name in VARIANTS) == {
        "resnet": 18,
        "plain": 4,
        "preresnet": 9,
        "wide_resnet": 5,
        "resnext": 5,
        "senet": 9,
    }
    for name, variant in VARIANTS.items():
        assert model_entry(name).recipe == ("resnet" if variant.image_size == 224 else "resnet-cifar")


@pytest.mark.parametrize(
    ("name", "stride"), [("resnet50", 32), ("resnet56", 4), ("wide_resnet16_8", 4), ("resnet18_cifar", 8)]
)
def test_the_smallest_image_makes_a_map_of_one_pixel(name: str, stride: int) -> None:
    assert model_entry(name).minimum_size == stride
    taps = outline_model(name, image_size=stride).taps
    assert taps[list(taps)[-2]].shape[1:] == (1, 1)


def test_published_accuracies_are_100_minus_the_papers_errors() -> None:
    def accuracy(name: str) -> float:
        published = model_entry(name).published
        assert published is not None
        return published.accuracy

    errors = {"resnet20": 8.75, "resnet110": 6.43, "resnet1202": 7.93, "plain34": 28.54, "seresnet50": 23.29}
    assert {name: round(100 - accuracy(name), 2) for name in errors} == errors
    assert accuracy("resnet50") == 76.130


# Fresh networks


@torch.no_grad()
@pytest.mark.parametrize("name", ["preresnet1001", "resnet1202"])
def test_a_thousand_layers_start_from_finite_numbers(name: str) -> None:
    model, images = create_model(name, image_size=4, seed=0), torch.randn(8, 3, 4, 4)
    assert model.eval()(images).isfinite().all()
    assert model.train()(images).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["preresnet1001", "resnet1202"])
def test_a_thousand_layers_start_from_finite_gradients(name: str, training: bool) -> None:
    model = create_model(name, seed=0).train(training)
    loss = nn.functional.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 9]))
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, list(model.parameters())))


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    ["resnet20", "resnet18", "resnet34_c", "resnet18_s2", "plain20", "preresnet18", "preresnet164", "seresnet20"],
)
def test_running_variances_start_near_those_of_a_fresh_network(name: str) -> None:
    """Within a factor of 16: squeeze-and-excitation halves values, max pooling and shortcut A change their size too."""
    model = create_model(name, image_size=32, seed=0)
    norms = [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    expected = [norm.running_var.mean() for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # only this batch counts
    model.train()(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    for norm, before in zip(norms, expected, strict=True):
        assert before / 16 < (norm.running_var + norm.running_mean**2).mean() < before * 16
