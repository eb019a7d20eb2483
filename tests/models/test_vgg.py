"""VGG against the figures of its paper (Simonyan & Zisserman 2014) and the published counts of its forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convatlas.layers import LocalResponseNorm, initialize
from convatlas.models import create_model, describe_models, outline_model
from convatlas.models.vgg import VARIANTS, pooling

DESCRIPTIONS = {model["name"]: model for model in describe_models("vgg")}


@pytest.mark.parametrize(
    ("name", "count"),  # torchvision's model pages
    [
        ("vgg11", 132_863_336),
        ("vgg13", 133_047_848),
        ("vgg16", 138_357_544),
        ("vgg19", 143_667_240),
        ("vgg11_bn", 132_868_840),
        ("vgg13_bn", 133_053_736),
        ("vgg16_bn", 138_365_992),
        ("vgg19_bn", 143_678_248),
        ("vgg11_mnist", 16_230_346),
        ("vgg10_cifar", 9_582_116),
    ],
)
def test_trainable_parameters(name: str, count: int) -> None:
    assert DESCRIPTIONS[name]["parameters"] == count


@pytest.mark.parametrize(
    ("name", "total", "trainable", "running"),
    [
        ("vgg11_cifar_fc", 28_187_826, 28_165_918, 21_908),
        ("vgg13_cifar_fc", 28_373_106, 28_350_814, 22_292),
        ("vgg16c_cifar_fc", 28_969_330, 28_944_478, 24_852),
        ("vgg16_cifar_fc", 33_687_922, 33_663_070, 24_852),
        ("vgg19_cifar_fc", 39_002_738, 38_975_326, 27_412),
    ],
)
def test_dense_cifar_forms_have_these_exact_totals(name: str, total: int, trainable: int, running: int) -> None:
    description = DESCRIPTIONS[name]
    assert (description["parameters"], description["buffers"]) == (trainable, running)
    assert description["parameters"] + description["buffers"] == total


@pytest.mark.parametrize(
    ("name", "millions"),
    [("vgg11", 133), ("vgg11_lrn", 133), ("vgg13", 133), ("vgg16c", 134), ("vgg16", 138), ("vgg19", 144)],
)
def test_millions_of_parameters_as_in_table_2(name: str, millions: int) -> None:
    assert round(DESCRIPTIONS[name]["parameters"] / 1e6) == millions


@pytest.mark.parametrize(
    ("name", "layers"), [("vgg11", 11), ("vgg13", 13), ("vgg16c", 16), ("vgg16", 16), ("vgg19", 19), ("vgg19_bn", 19)]
)
def test_weight_layers_as_in_table_1(name: str, layers: int) -> None:
    model = outline_model(name)
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules()) == layers


def kernels(name: str) -> list[int]:
    return [layer.kernel_size[0] for layer in outline_model(name).modules() if isinstance(layer, nn.Conv2d)]


def test_every_convolution_is_3x3_but_three_of_c() -> None:
    assert set(kernels("vgg16")) == set(kernels("vgg19")) == {3}
    assert kernels("vgg16c") == [3, 3, 3, 3, 3, 3, 1, 3, 3, 1, 3, 3, 1]


def test_a_lrn_normalises_once_after_conv1_1() -> None:
    features = outline_model("vgg11_lrn").get_submodule("features")
    assert [place for place, layer in enumerate(features) if isinstance(layer, LocalResponseNorm)] == [2]


@torch.no_grad()
def test_three_3x3_convolutions_see_7x7_with_fewer_parameters_than_one() -> None:
    """Section 2.3: 27 C^2 weights against 49 C^2."""
    stack = nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3)])
    for layer in stack:
        nn.init.ones_(layer.weight)
    point = torch.zeros(1, 8, 15, 15)
    point[0, 0, 7, 7] = 1
    assert stack(point)[0, 0].count_nonzero().item() == 7 * 7
    assert sum(layer.weight.numel() for layer in stack) * 49 == nn.Conv2d(8, 8, 7, bias=False).weight.numel() * 27


def test_averaging_to_7x7_changes_nothing_at_the_paper_s_size() -> None:
    model = outline_model("vgg16")
    assert model.taps["pool5"].shape == (512, 7, 7)
    feature_map = torch.randn(1, 512, 7, 7)
    assert torch.equal(model.get_submodule("avgpool")(feature_map), feature_map)


def test_batch_normalisation_stands_between_convolution_and_relu() -> None:
    features = list(outline_model("vgg16_bn").get_submodule("features"))
    for place, layer in enumerate(features):
        if isinstance(layer, nn.Conv2d):
            assert isinstance(features[place + 1], nn.BatchNorm2d)
            assert isinstance(features[place + 2], nn.ReLU)


def test_dense_cifar_forms_normalise_the_logits_too() -> None:
    names = [type(layer).__name__ for layer in outline_model("vgg16_cifar_fc").get_submodule("classifier")]
    assert names == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear", "BatchNorm1d"]


def test_the_common_cifar_form_has_one_linear_layer() -> None:
    (output,) = outline_model("vgg16_bn_cifar").get_submodule("classifier")
    assert (output.in_features, output.out_features) == (512, 10)


def test_ten_layer_form_has_ten_convolutions_and_no_dropout() -> None:
    layers = list(outline_model("vgg10_cifar").modules())
    dense = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
    assert sum(parameter.numel() for layer in convolutions for parameter in layer.parameters()) == 9_404_992
    assert dense == [256, 128, 100]
    assert not any(isinstance(layer, nn.Dropout | nn.BatchNorm2d) for layer in layers)


def test_mnist_form_keeps_its_7x7_grid_through_the_last_pooling() -> None:
    taps = outline_model("vgg11_mnist").taps
    assert [taps[name].shape for name in ("pool1", "pool2", "pool3")] == [(64, 14, 14), (128, 7, 7), (256, 7, 7)]
    after_relu = torch.rand(2, 3, 7, 7)
    same = F.max_pool2d(
        F.pad(after_relu, (0, 1, 0, 1), value=-math.inf), kernel_size=2, stride=1
    )  # TensorFlow's 'SAME'
    assert torch.equal(nn.Sequential(*pooling(stride=1))(after_relu), same)


@pytest.mark.parametrize(("size", "width"), [(32, 512), (63, 512), (64, 512 * 4), (224, 512 * 49)])
def test_dense_widths_follow_the_image_size(size: int, width: int) -> None:
    assert outline_model("vgg16_cifar_fc", image_size=size).classifier[0].in_features == width


def test_the_fully_connected_taps_are_numbered_after_the_stages() -> None:
    assert list(outline_model("vgg16").taps)[-3:] == ["pool5", "fc6", "fc7"]
    assert list(outline_model("vgg11_mnist").taps)[-3:] == ["pool3", "fc4", "fc5"]
    assert outline_model("vgg16").taps["conv4_3"].module == "features.22"


def test_the_recipe_goes_by_batch_normalisation() -> None:
    for name, variant in VARIANTS.items():
        assert DESCRIPTIONS[name]["recipe"] == ("vgg-bn" if variant.batch_norm else "vgg")


@torch.no_grad()
@pytest.mark.parametrize("name", ["vgg10_cifar", "vgg11_mnist"])
def test_without_normalisation_the_signal_reaches_the_end_and_probabilities_start_equal(name: str) -> None:
    model = create_model(name, num_classes=10, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, model.in_channels, model.image_size, model.image_size, generator=generator)
    assert 0.1 < model.features(images).square().mean().sqrt().item() < 10
    assert F.cross_entropy(model(images), torch.arange(8)).item() == pytest.approx(math.log(10), rel=0.05)


@torch.no_grad()
def test_he_normal_keeps_the_signal_alive_through_the_deepest_plain_stack() -> None:
    model = outline_model("vgg19", image_size=32)
    features = model.get_submodule("features").to_empty(device="cpu")
    torch.manual_seed(0)
    initialize(features, "he_normal")
    assert 0.1 < features(torch.randn(4, 3, 32, 32)).square().mean().sqrt().item() < 10
