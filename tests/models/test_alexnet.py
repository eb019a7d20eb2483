"""AlexNet against the figures of its paper (Krizhevsky et al. 2012) and the published counts of its forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from convatlas.layers import LocalResponseNorm
from convatlas.models import create_model, describe_models, outline_model


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("alexnet", 61_100_840),  # torchvision's model page
        ("alexnet_2012", 60_965_224),  # Caffe's; the abstract says 60 million
        ("alexnet_mnist", 58_299_082),
    ],
)
def test_parameters(name: str, count: int) -> None:
    (description,) = [model for model in describe_models("alexnet") if model["name"] == name]
    assert (description["parameters"], description["buffers"]) == (count, 0)


def test_neurons_of_each_layer_are_the_paper_s() -> None:
    """Figure 2 counts them; its 253,440 for conv1 is not the size of its own 55x55x96 map and is left out."""
    taps = outline_model("alexnet_2012").taps
    neurons = [math.prod(taps[name].shape) for name in ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7")]
    assert neurons == [186_624, 64_896, 64_896, 43_264, 4096, 4096]
    assert taps["conv1"].shape == (96, 55, 55)
    assert taps["pool5"].shape == (256, 6, 6)


@pytest.mark.parametrize("layer", ["conv2", "conv4", "conv5"])
def test_the_towers_do_not_see_each_other(layer: str) -> None:
    model = outline_model("alexnet_2012")
    before = int(model.taps[layer].module.rpartition(".")[2]) - 1  # the convolution stands before its ReLU
    convolution = model.get_submodule(f"features.{before}")
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.groups == 2


def test_the_towers_meet_in_conv3() -> None:
    assert [m.groups for m in outline_model("alexnet_2012").modules() if isinstance(m, nn.Conv2d)] == [1, 2, 1, 2, 2]


def test_normalisation_and_pooling_stand_where_section_3_5_says() -> None:
    layers = {nn.Conv2d: "conv", nn.ReLU: "relu", LocalResponseNorm: "norm", nn.MaxPool2d: "pool"}
    order = " ".join(layers[type(layer)] for layer in outline_model("alexnet_2012").get_submodule("features"))
    assert order == "conv relu norm pool conv relu norm pool conv relu conv relu conv relu pool"


@pytest.mark.parametrize("name", ["alexnet", "alexnet_2012", "alexnet_mnist"])
def test_pooling_overlaps(name: str) -> None:
    pools = [layer for layer in outline_model(name).modules() if isinstance(layer, nn.MaxPool2d)]
    assert [(pool.kernel_size, pool.stride) for pool in pools] == [(3, 2)] * 3


def test_dropout_follows_the_first_two_dense_layers_of_the_paper() -> None:
    classifier = outline_model("alexnet_2012").get_submodule("classifier")
    dropouts = [(place, layer.p) for place, layer in enumerate(classifier) if isinstance(layer, nn.Dropout)]
    assert dropouts == [(2, 0.5), (5, 0.5)]


def test_the_dense_width_follows_the_image_size() -> None:
    widths = {size: outline_model("alexnet_2012", image_size=size).classifier[0].in_features for size in (63, 95, 224)}
    assert widths == {63: 256, 95: 256 * 4, 224: 256 * 36}


@torch.no_grad()
def test_training_starts_from_a_live_signal_and_equal_probabilities() -> None:
    model = create_model("alexnet_2012", num_classes=10, image_size=63, seed=0).eval()
    images = torch.randn(8, 3, 63, 63, generator=torch.Generator().manual_seed(0))
    assert 0.02 < model.features(images).square().mean().sqrt().item() < 5
    loss = nn.functional.cross_entropy(model(images), torch.arange(8))
    assert loss.item() == pytest.approx(math.log(10), rel=0.15)
