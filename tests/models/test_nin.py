"""Network in Network against the figures of its paper (Lin et al. 2013) and of its authors' Caffe files."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convatlas.layers import rounded_up_side
from convatlas.models import create_model, outline_model
from convatlas.models.counts import shipped_counts


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("nin", 966_986),
        ("nin_bn", 966_986 + 1_408),  # a scale for each of 1,408 channels; shifts take the place of biases
        ("nin_imagenet", 7_595_176),  # 29 MB in float32, as the model zoo says
    ],
)
def test_trainable_parameters(name: str, parameters: int) -> None:
    assert shipped_counts()[name]["parameters"] == parameters


def test_the_file_in_the_model_zoo_has_29_megabytes() -> None:
    assert round(shipped_counts()["nin_imagenet"]["parameters"] * 4 / 2**20) == 29


@pytest.mark.parametrize(("name", "mlpconvs"), [("nin", 3), ("nin_bn", 3), ("nin_imagenet", 4)])
def test_three_convolutions_in_each_mlpconv_layer_and_no_dense_layer(name: str, mlpconvs: int) -> None:
    layers = [layer for layer in outline_model(name).modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert not any(isinstance(layer, nn.Linear) for layer in layers)
    windows = [layer.kernel_size[0] for layer in layers]
    assert len(windows) == 3 * mlpconvs
    assert [window > 1 for window in windows] == [True, False, False] * mlpconvs


def test_output_sizes_for_cifar() -> None:
    taps = outline_model("nin").taps
    assert list(taps) == ["conv1", "cccp1", "cccp2", "pool1", "conv2", "cccp3", "cccp4", "pool2", "conv3", "cccp5"]
    assert [taps[name].shape for name in ("cccp2", "pool1", "pool2", "cccp5")] == [
        (96, 32, 32), (96, 16, 16), (192, 8, 8), (192, 8, 8)
    ]  # fmt: skip


def test_output_sizes_for_imagenet() -> None:
    taps = outline_model("nin_imagenet").taps
    assert [taps[name].shape for name in ("conv1", "pool1", "pool2", "pool3", "cccp7")] == [
        (96, 54, 54), (96, 27, 27), (256, 13, 13), (384, 6, 6), (1024, 6, 6)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [nn.MaxPool2d, nn.AvgPool2d])
def test_pooling_rounds_up(kind: type[nn.MaxPool2d | nn.AvgPool2d]) -> None:
    pool = kind(3, stride=2, ceil_mode=True)
    for side in range(2, 40):
        assert pool(torch.zeros(1, 1, side, side)).shape[-1] == rounded_up_side(side, window=3)


def test_dropout_after_every_mlpconv_layer_of_cifar_but_the_last() -> None:
    names = [name for name, _ in outline_model("nin").get_submodule("features").named_children()]
    assert [names[place - 1] for place, name in enumerate(names) if name.startswith("drop")] == ["pool1", "pool2"]


@torch.no_grad()
def test_a_logit_is_the_mean_of_its_class_map() -> None:
    model = create_model("nin", num_classes=5, seed=0).eval()
    feature_map = torch.rand(2, 192, 8, 8, generator=torch.Generator().manual_seed(0))
    class_maps = model.get_submodule("classifier")(feature_map)
    assert class_maps.shape == (2, 5, 8, 8)
    assert class_maps.min() >= 0
    torch.testing.assert_close(model.head(feature_map), class_maps.mean(dim=(2, 3)))


@torch.no_grad()
@pytest.mark.parametrize("name", ["nin", "nin_bn"])
def test_the_signal_reaches_the_end_and_probabilities_start_equal(name: str) -> None:
    model = create_model(name, seed=0).eval()
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert 0.1 < model.features(images).square().mean().sqrt().item() < 10
    assert F.cross_entropy(model(images), torch.arange(8)).item() == pytest.approx(math.log(10), rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize("name", ["nin", "nin_bn"])
def test_no_class_map_begins_where_relu_is_flat(name: str) -> None:
    model = create_model(name, seed=0)
    model.replace_head(100)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    class_maps = model.get_submodule("classifier")(model.eval().features(images))
    assert (class_maps > 0).all()
