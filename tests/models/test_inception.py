"""Inception v3, v4 and the Inception-ResNets against their papers and published counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.layers import ConvNormReLU
from convatlas.models import TrainingOutput, create_model, outline_model
from convatlas.models.counts import shipped_counts
from convatlas.models.inception import VARIANTS, Branches, MaxPool, Mixed, ResidualBranches, resnet_pair

V3_AUXILIARY = 768 * 128 + 256 + 128 * 768 * 25 + 1536 + 768 * 1000 + 1000


@pytest.mark.parametrize(
    ("name", "parameters", "auxiliary"),
    [
        ("inception_v3", 27_161_264 - V3_AUXILIARY, V3_AUXILIARY),  # torchvision
        ("inception_v4", 42_679_816, 0),  # timm
        ("inception_resnet_v1", 22_756_328, 0),
        ("inception_resnet_v2", 55_843_464, 0),  # timm
    ],
)
def test_parameters(name: str, parameters: int, auxiliary: int) -> None:
    counts = shipped_counts()[name]
    assert (counts["parameters"], counts["auxiliary_parameters"]) == (parameters, auxiliary)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("inception_v3", 5.713),  # torchvision; "5 billion" in the paper
        ("inception_v4", 12.28),  # timm, which counts normalisation and poolings too
        ("inception_resnet_v2", 13.18),  # timm
    ],
)
def test_multiply_adds(name: str, billions: float) -> None:
    assert shipped_counts()[name]["macs"] / 1e9 == pytest.approx(billions, rel=5e-3)


def test_the_first_inception_resnet_costs_about_as_much_as_v3() -> None:
    """Szegedy et al. 2016, section 3.2."""
    first, v3 = (shipped_counts()[name]["macs"] for name in ("inception_resnet_v1", "inception_v3"))
    assert first == pytest.approx(v3, rel=0.25)


def shapes(name: str, taps: str) -> list[tuple[int, ...]]:
    model = outline_model(name)
    return [model.taps[tap].shape for tap in taps.split()]


def test_grids_of_v3() -> None:
    assert shapes("inception_v3", "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 MaxPool_3a_3x3 Conv2d_4a_3x3") == [
        (32, 149, 149),
        (32, 147, 147),
        (64, 147, 147),
        (64, 73, 73),
        (192, 71, 71),
    ]
    assert shapes("inception_v3", "Mixed_5b Mixed_5c Mixed_5d") == [(256, 35, 35), (288, 35, 35), (288, 35, 35)]
    assert shapes("inception_v3", "Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e") == [(768, 17, 17)] * 5
    assert shapes("inception_v3", "Mixed_7a Mixed_7b Mixed_7c") == [(1280, 8, 8), (2048, 8, 8), (2048, 8, 8)]


def test_grids_of_v4() -> None:
    """Szegedy et al. 2016, Figures 3 and 9."""
    assert shapes("inception_v4", "Mixed_3a Mixed_4a Mixed_5a") == [(160, 73, 73), (192, 71, 71), (384, 35, 35)]
    assert shapes("inception_v4", "Mixed_5e Mixed_6a Mixed_6h") == [(384, 35, 35), (1024, 17, 17), (1024, 17, 17)]
    assert shapes("inception_v4", "Mixed_7a Mixed_7d") == [(1536, 8, 8), (1536, 8, 8)]


def test_grids_of_the_inception_resnets() -> None:
    """Szegedy et al. 2016, Figures 10 to 15 for the first, TF-slim for the second."""
    assert shapes("inception_resnet_v1", "Conv2d_4b_3x3 Block35_5 Mixed_6a Block17_10 Mixed_7a Block8_5") == [
        (256, 35, 35),
        (256, 35, 35),
        (896, 17, 17),
        (896, 17, 17),
        (1792, 8, 8),
        (1792, 8, 8),
    ]
    assert shapes("inception_resnet_v2", "Mixed_5b Block35_10 Mixed_6a Block17_20 Mixed_7a Block8_10") == [
        (320, 35, 35),
        (320, 35, 35),
        (1088, 17, 17),
        (1088, 17, 17),
        (2080, 8, 8),
        (2080, 8, 8),
    ]
    assert shapes("inception_resnet_v2", "Conv2d_7b_1x1") == [(1536, 8, 8)]


@pytest.mark.parametrize(
    ("name", "modules"),
    [("inception_v4", (4, 7, 3)), ("inception_resnet_v1", (5, 10, 5)), ("inception_resnet_v2", (10, 20, 10))],
)
def test_modules_on_each_grid(name: str, modules: tuple[int, int, int]) -> None:
    rows = [row for row in VARIANTS[name].layers.values() if not isinstance(row, MaxPool)]
    alike = [rows.count(row) for place, row in enumerate(rows) if row not in rows[:place]]
    last_differs = name == "inception_resnet_v2"  # it is neither scaled nor followed by ReLU
    assert [times for times in alike if times > 1] == [*modules[:2], modules[2] - last_differs]


def test_the_head_on_the_17x17_grid_counts_four_tenths() -> None:
    model = outline_model("inception_v3", num_classes=7)
    images = torch.zeros(2, 3, 299, 299, device="meta")
    output = model.train()(images)
    assert isinstance(output, TrainingOutput)
    assert output.weight == 0.4
    assert [logits.shape for logits in (output.logits, *output.auxiliary)] == [(2, 7)] * 2
    assert model.eval()(images).shape == (2, 7)
    assert model.heads_after == {"Mixed_6e": "AuxLogits"}
    assert (model.get_submodule("AuxLogits.pool").kernel_size, model.get_submodule("AuxLogits.pool").stride) == (5, 3)


@pytest.mark.parametrize(
    ("size", "pool"), [(75, nn.AdaptiveAvgPool2d), (298, nn.AdaptiveAvgPool2d), (299, nn.AvgPool2d)]
)
def test_the_head_fits_any_image(size: int, pool: type[nn.Module]) -> None:
    model = outline_model("inception_v3", image_size=size)
    assert type(model.get_submodule("AuxLogits.pool")) is pool
    assert model.get_submodule("AuxLogits.pool")(torch.zeros(1, 768, *model.taps["Mixed_6e"].shape[1:])).shape[2:] == (
        5,
        5,
    )
    model.train()(torch.zeros(2, 3, size, size, device="meta"))


@pytest.mark.parametrize(
    ("name", "dropout"), [("inception_v3", 0.5), ("inception_v4", 0.2), ("inception_resnet_v2", 0.2)]
)
def test_dropout(name: str, dropout: float) -> None:
    assert outline_model(name).get_submodule("dropout").p == dropout


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_convolution_is_normalised_but_those_before_a_sum(name: str) -> None:
    model = outline_model(name)
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in model.modules())
    sums = [layer for layer in model.modules() if isinstance(layer, ResidualBranches)]
    assert sum(isinstance(layer, ConvNormReLU) for layer in model.modules()) == convolutions - len(sums)
    assert all(layer.widen.bias is not None for layer in sums)
    assert {layer.eps for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)} == {1e-3}


def test_scales_of_the_second_inception_resnet() -> None:
    model = outline_model("inception_resnet_v2")
    scales = [layer.scale for layer in model.modules() if isinstance(layer, ResidualBranches)]
    assert scales == [0.17] * 10 + [0.10] * 20 + [0.20] * 9 + [1.0]
    assert isinstance(model.get_submodule("Block8_10.relu"), nn.Identity)


@torch.no_grad()
def test_a_residual_module_adds_its_scaled_output_to_its_input() -> None:
    torch.manual_seed(0)
    block = resnet_pair(3, (4, 4, 6, 8), scale=0.2).build(16).eval()
    maps = torch.randn(2, 16, 5, 5)
    difference = block.widen(block.branches(maps))
    torch.testing.assert_close(block(maps), torch.relu(maps + 0.2 * difference))
    block.widen.weight.zero_()
    block.widen.bias.zero_()
    torch.testing.assert_close(block(maps), torch.relu(maps))


def test_one_dimensional_windows_cost_two_sevenths_of_a_square_one() -> None:
    """Szegedy et al. 2015, section 3.2."""
    model = outline_model("inception_v3")
    across, down = (model.get_submodule(f"Mixed_6c.branch7x7dbl_{number}.conv") for number in (3, 2))
    assert (across.kernel_size, down.kernel_size) == ((1, 7), (7, 1))
    square = nn.Conv2d(across.in_channels, across.out_channels, 7, bias=False, device="meta")
    assert (across.weight.numel() + down.weight.numel()) * 7 == square.weight.numel() * 2


def test_a_module_s_forks_and_pools_are_concatenated_in_order() -> None:
    block = VARIANTS["inception_v4"].layers["Mixed_7b"]
    assert isinstance(block, Mixed)
    module = block.build(1536)
    assert isinstance(module, Branches)
    assert module.paths == [
        (["branch1x1"], []),
        (["branch3x3_1"], ["branch3x3_2a", "branch3x3_2b"]),
        (["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], ["branch3x3dbl_4a", "branch3x3dbl_4b"]),
        (["pool", "branch_pool"], []),
    ]


@torch.no_grad()
def test_the_sums_do_not_grow_at_the_start() -> None:
    model = create_model("inception_resnet_v1", num_classes=10, image_size=75, seed=0).train()
    images = torch.randn(4, 3, 75, 75, generator=torch.Generator().manual_seed(0))
    sizes = {}
    for tap in ("Conv2d_4b_3x3", "Block35_5", "Block17_10", "Block8_5"):
        module = model.get_submodule(model.taps[tap].module)
        module.register_forward_hook(lambda *call, tap=tap: sizes.update({tap: call[-1].square().mean().sqrt().item()}))
    model(images)
    assert all(0.1 < size < 10 for size in sizes.values()), sizes
