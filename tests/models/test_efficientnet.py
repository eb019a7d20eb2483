"""EfficientNet-Lite: the published sizes, and padding as TensorFlow has it. Parity with timm is in tests/parity."""

from __future__ import annotations

import pytest
import torch

from convatlas.models import create_model, describe_models
from convatlas.models.efficientnet import VARIANTS, padded_as_same, scaled_stages

MILLIONS = {"efficientnet_lite0": 4.7, "efficientnet_lite1": 5.4, "efficientnet_lite2": 6.1, "efficientnet_lite3": 8.2}
LITE4_BLOCKS = [(24, 1), (32, 4), (56, 4), (112, 6), (160, 6), (272, 8), (448, 1)]  # of the authors' checkpoint


@pytest.mark.parametrize(("name", "millions"), [*MILLIONS.items(), ("efficientnet_lite4", 13.0)])
def test_parameters_are_those_of_the_authors_table(name: str, millions: float) -> None:
    described = {each["name"]: each["parameters"] for each in describe_models("efficientnet")}
    assert described[name] / 1e6 == pytest.approx(millions, abs=0.06)


def test_the_largest_is_as_wide_and_deep_as_published() -> None:
    stages = scaled_stages(VARIANTS["efficientnet_lite4"])
    assert [(stage.channels, stage.blocks) for stage in stages] == LITE4_BLOCKS


@pytest.mark.parametrize("side", [7, 8, 224, 225])
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_puts_the_odd_pixel_below_and_to_the_right(side: int, kernel: int) -> None:
    """As TensorFlow has it: as little as gives ceil(side / 2) outputs, less than half of it before."""
    images = torch.arange(1, side * side + 1, dtype=torch.float64).view(1, 1, side, side)
    padded = padded_as_same(images, kernel)
    total = padded.shape[-1] - side
    assert (padded.shape[-1] - kernel) // 2 + 1 == -(-side // 2)
    assert total == (kernel - 1 if side % 2 else kernel - 2)
    before = total // 2
    assert torch.equal(padded[:, :, before : before + side, before : before + side], images)
    assert padded.sum() == images.sum()


def test_maps_have_the_sides_that_the_taps_say_at_an_odd_size() -> None:
    model = create_model("efficientnet_lite0", num_classes=3, image_size=97, seed=0).eval()
    with torch.no_grad():
        shape = tuple(model.features(torch.zeros(1, 3, 97, 97)).shape[1:])
    assert shape == model.taps["conv2"].shape == (1280, 4, 4)
