"""Figures from papers and from an independent recurrence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from convatlas.inspection import inspect_module, trace_module
from convatlas.inspection.receptive_field import receptive_fields, window_of
from convatlas.models import model_entry, outline_model

Windows = Sequence[tuple[int, int]]  # kernel and stride of each layer


def recurrence(layers: Windows) -> int:
    """The receptive field of layers one after another: each adds (kernel - 1) times the product of strides so far."""
    size, jump = 1, 1
    for kernel, stride in layers:
        size += (kernel - 1) * jump
        jump *= stride
    return size


@cache
def fields(name: str) -> dict[str | None, tuple[int, int]]:
    """How much of the image each tap of a network sees."""
    model, size = outline_model(name), model_entry(name).image_size
    image = torch.zeros(1, model.in_channels, size, size, device="meta")
    found = inspect_module(model, image, taps={key: place.module for key, place in model.taps.items()})
    return {layer.tap: layer.receptive_field.size for layer in found.layers if layer.tap and layer.receptive_field}


def deep(*row: Any) -> Any:
    """A row of a test for the slow suite."""
    return pytest.param(*row, marks=pytest.mark.slow)


VGG_STAGE = {2: [(3, 1)] * 2 + [(2, 2)], 3: [(3, 1)] * 3 + [(2, 2)]}
VGG16 = [layer for count in (2, 2, 3, 3, 3) for layer in VGG_STAGE[count]]


def resnet(blocks: Sequence[int], *, stride_at_3x3: bool) -> Windows:
    """The main branch of bottlenecks; the shortcut sees no more."""
    layers = [(7, 2), (3, 2)]
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            layers += [(1, 1), (3, stride), (1, 1)] if stride_at_3x3 else [(1, stride), (3, 1), (1, 1)]
    return layers


#: the branch of each module that sees most
INCEPTION_V3 = [
    (3, 2), (3, 1), (3, 1), (3, 2), (1, 1), (3, 1), (3, 2),
    *[(1, 1), (3, 1), (3, 1)] * 3,  # 5b-5d: two 3x3 (or the 5x5)
    (1, 1), (3, 1), (3, 2),  # 6a
    *[(1, 1), (7, 1), (7, 1)] * 4,  # 6b-6e: 7x1 and 1x7, twice
    (1, 1), (7, 1), (3, 2),  # 7a
    *[(1, 1), (3, 1), (3, 1)] * 2,  # 7b, 7c
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "tap", "layers", "published"),
    [
        ("vgg16", "conv5_3", VGG16[:-1], 196),
        ("vgg16", "pool5", VGG16, 212),
        ("vgg16", "fc6", [*VGG16, (7, 1)], 404),
        ("resnet50", "conv5_3", resnet((3, 4, 6, 3), stride_at_3x3=True), 427),
        ("resnet50_v1", "conv5_3", resnet((3, 4, 6, 3), stride_at_3x3=False), 483),
        deep("resnet101_v1", "conv5_3", resnet((3, 4, 23, 3), stride_at_3x3=False), 1027),
        deep("resnet152_v1", "conv5_3", resnet((3, 8, 36, 3), stride_at_3x3=False), 1507),
        deep("inception_v3", "Mixed_7c", INCEPTION_V3, 1311),
    ],
)
def test_the_recurrence_along_the_widest_branch(name: str, tap: str, layers: Windows, published: int) -> None:
    assert recurrence(layers) == published
    assert fields(name)[tap] == (published, published)


@pytest.mark.parametrize(
    ("name", "tap", "published"),
    [
        ("alexnet", "pool5", 195),
        ("vgg16", "pool5", 212),
        ("mobilenet_v1", "conv14_pw", 315),
        ("bn_inception", "inception_5b", 699),
        deep("inception_v3", "Mixed_7c", 1311),
        deep("inception_v4", "Mixed_7d", 2071),
        deep("inception_resnet_v2", "Conv2d_7b_1x1", 3039),
        ("resnet50_v1", "conv5_3", 483),
        deep("resnet101_v1", "conv5_3", 1027),
        deep("resnet152_v1", "conv5_3", 1507),
    ],
)
def test_the_table_of_araujo_norris_and_sim(name: str, tap: str, published: int) -> None:
    """Distill 2019, "Computing Receptive Fields of Convolutional Neural Networks", its table of TF-slim's networks."""
    assert fields(name)[tap] == (published, published)


@pytest.mark.parametrize(("name", "less"), [("resnet50", 483), deep("resnet101", 1027), deep("resnet152", 1507)])
def test_torchvisions_resnets_see_56_pixels_less_than_the_papers(name: str, less: int) -> None:
    """The paper's (resnet50_v1, and Araujo's) halve in a stage's first 1x1, torchvision's in the 3x3 after it, which so
    still runs on the finer map: 2 * 4 + 2 * 8 + 2 * 16 pixels. Both figures are right, each of its network."""
    assert fields(name)["conv5_3"][0] == less - (2 * 4 + 2 * 8 + 2 * 16)


@pytest.mark.parametrize(("count", "size"), [(1, 3), (2, 5), (3, 7)])
def test_3x3_convolutions_one_after_another_see_what_a_larger_one_sees(count: int, size: int) -> None:
    """Simonyan & Zisserman 2014, section 2.3: two see 5x5, three 7x7, with fewer parameters."""
    channels = 8
    stack = nn.Sequential(*(nn.Conv2d(channels, channels, 3, bias=False) for _ in range(count)))
    one = nn.Conv2d(channels, channels, size, bias=False)
    stacked, single = (inspect_module(each, torch.zeros(1, channels, 32, 32)) for each in (stack, one))
    assert stacked.layers[-1].receptive_field == single.layers[-1].receptive_field
    assert single.layers[-1].receptive_field.size == (size, size)
    assert (stacked.parameters < single.parameters) == (count > 1)
    assert stacked.parameters == count * 3 * 3 * channels**2


def test_where_the_first_window_is() -> None:
    """At stride 4 and no padding the first 11x11 window has its centre at pixel 5; padding 2 moves it to 3."""
    windows = []
    for padding in (0, 2):
        inspection = inspect_module(nn.Conv2d(3, 8, 11, 4, padding), torch.zeros(1, 3, 227, 227))
        windows.append(inspection.layers[0].receptive_field)
    assert [window.centre for window in windows] == [(5.0, 5.0), (3.0, 3.0)]
    assert windows[0].jump == (4.0, 4.0)


class OffsetBranches(nn.Module):
    """Channels that see different columns: a position sees what they see together."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.one(images)[..., 1:], self.other(images)[..., :-1]], 1)


def test_a_position_sees_what_all_its_channels_see() -> None:
    window = inspect_module(OffsetBranches(), torch.zeros(1, 3, 16, 16)).layers[-1].receptive_field
    assert window is not None
    assert window.size == (3, 4)


class WeightsFromTheImage(nn.Module):
    """A convolution whose kernel is computed from the image sees all of it; from one pixel, not known."""

    def __init__(self, *, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        kernel = images.mean((2, 3), keepdim=True) if self.pooled else images[:, :, :3, :3]
        return nn.functional.conv2d(images, kernel)


def test_weights_that_are_computed_from_the_image_are_seen_through() -> None:
    image = torch.zeros(1, 3, 16, 16)
    assert inspect_module(WeightsFromTheImage(pooled=True), image).layers[-1].receptive_field.size == (16, 16)
    inspection = inspect_module(WeightsFromTheImage(pooled=False), image)
    assert inspection.layers[-1].receptive_field is None
    assert "aten.convolution" in inspection.unknown_operators[0]


def test_images_of_two_sizes_cannot_be_told_together() -> None:
    class Two(nn.Module):
        def forward(self, large: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
            return large + nn.functional.interpolate(small, large.shape[2:])

    trace = trace_module(Two(), torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 4, 4))
    found = receptive_fields(trace)
    assert window_of(found[trace.inputs[0].index]).size == (1, 1)
    assert found[trace.calls[0].outputs[0].index] is None


def test_a_buffer_that_the_image_is_written_into_is_not_known() -> None:
    class Filled(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            canvas = torch.zeros(1, 3, 16, 16)
            canvas[:, :, 4:12, 4:12] = images
            return canvas * 2

    inspection = inspect_module(Filled(), torch.zeros(1, 3, 8, 8))
    assert inspection.layers[-1].receptive_field is None
    assert inspection.macs == 0


class Gated(nn.Module):
    """Ten 7x7 convolutions; one of them scaled by what the whole map contains."""

    def __init__(self, gate_after: int | None) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(1, 1, 7, padding=3) for _ in range(10))
        self.gate_after = gate_after

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for place, convolution in enumerate(self.convolutions):
            images = convolution(images)
            if place == self.gate_after:
                images = images * torch.sigmoid(images.mean((2, 3), keepdim=True))
        return images


def test_a_gate_shows_the_whole_image_and_never_narrows_a_window() -> None:
    def widths(gate_after: int | None) -> list[int]:
        layers = inspect_module(Gated(gate_after), torch.zeros(1, 1, 16, 16)).layers
        return [layer.receptive_field.size[0] for layer in layers if layer.type == "Conv2d"]

    assert widths(None) == [7, 13, 19, 25, 31, 37, 43, 49, 55, 61]
    assert widths(0) == [7, 16, 19, 25, 31, 37, 43, 49, 55, 61]
