"""A network as rows: names, sources, sums, depth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.inspection import INPUT, Layer, inspect_module
from convatlas.inspection.layers import describe_module, longest_path_depth
from convatlas.models import list_models, model_entry, outline_model


def layers_of(name: str) -> tuple[Layer, ...]:
    model, size = outline_model(name), model_entry(name).image_size
    image = torch.zeros(1, model.in_channels, size, size, device="meta")
    return inspect_module(model, image, taps={tap: place.module for tap, place in model.taps.items()}).layers


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("lenet5", 5), ("alexnet", 8), ("vgg16", 16), ("vgg19", 19), ("googlenet", 22), ("resnet18", 18),
        ("mobilenet_v1", 28),
        *(
            pytest.param(*deep, marks=pytest.mark.slow)
            for deep in (("resnet50", 50), ("resnet152", 152), ("resnet110", 110), ("densenet121", 121))
        ),
    ],
)  # fmt: skip
def test_the_longest_path_has_as_many_layers_as_the_name_says(name: str, depth: int) -> None:
    assert longest_path_depth(layers_of(name)) == depth


@pytest.mark.parametrize("name", ["lenet5", "vgg16_bn", "googlenet", "seresnet20", "preresnet18"])
def test_every_tap_names_a_layer_of_its_shape(name: str) -> None:
    model = outline_model(name)
    found = {layer.tap: layer.output_shape[1:] for layer in layers_of(name) if layer.tap}
    assert found == {tap: place.shape for tap, place in model.taps.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_tap_of_every_network_names_a_layer(name: str) -> None:
    assert {layer.tap for layer in layers_of(name) if layer.tap} == set(outline_model(name).taps)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.drop = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Dropout()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.relu(self.drop(self.conv(images)) + images)


def test_a_blocks_own_addition_is_a_layer_between_its_childrens() -> None:
    layers = inspect_module(Block(), torch.zeros(2, 3, 8, 8)).layers
    assert [(layer.name, layer.type, layer.sources) for layer in layers] == [
        ("conv", "Conv2d", (INPUT,)),
        ("drop", "Dropout", (0,)),
        ("", "Block", (0, INPUT)),
        ("relu", "ReLU", (2,)),
    ]
    assert [layer.activation_bytes for layer in layers] == [1536, 0, 1536, 0]


def test_a_layer_that_reads_what_a_block_wrote_through_a_view_comes_after_both() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu, self.last = nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.first(images)
            self.relu(maps[:, :2])
            return self.last(maps)

    assert inspect_module(Writing(), torch.zeros(1, 3, 8, 8)).layers[-1].sources == (0, 1)


def test_a_reused_layer_has_its_parameters_at_its_first_call() -> None:
    shared = nn.Linear(4, 4)
    layers = inspect_module(nn.Sequential(shared, nn.ReLU(), shared, shared), torch.zeros(1, 4)).layers
    assert [(layer.call, layer.calls, layer.parameters) for layer in layers if layer.type == "Linear"] == [
        (1, 3, 20), (2, 3, 0), (3, 3, 0),
    ]  # fmt: skip
    assert sum(layer.macs for layer in layers) == 3 * 16


def test_frozen_parameters_are_counted_apart() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    module[0].requires_grad_(False)
    inspection = inspect_module(module, torch.zeros(1, 4))
    assert [(layer.parameters, layer.frozen_parameters) for layer in inspection.layers] == [(0, 15), (8, 0)]
    assert (inspection.parameters, inspection.frozen_parameters) == (8, 15)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Conv2d(3, 8, 7, 2, 3), "7x7, stride 2"),
        (nn.Conv2d(3, 8, (1, 7), padding=(0, 3)), "1x7"),
        (nn.Conv2d(3, 8, 3), "3x3, padding 0"),
        (nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8), "3x3, dilation 2, groups 8"),
        (nn.Conv2d(3, 8, 3, padding="same"), "3x3"),
        (nn.MaxPool2d(3, 2, 1), "3x3, stride 2, padding 1"),
        (nn.AdaptiveAvgPool2d((6, 6)), "to 6x6"),
        (nn.ReLU(), ""),
    ],
)
def test_what_a_window_is_in_words(module: nn.Module, said: str) -> None:
    assert describe_module(module) == said
