"""Which images excite a channel most: the largest values, and their places, whatever the batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from convatlas.errors import ExplanationError, UnknownNameError
from convatlas.explanation import Channel, feature_maps, parse_channel, strongest_peaks
from convatlas.models import create_model, outline_model


def images(count: int = 7) -> Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_the_largest_values_and_their_places(batch: int) -> None:
    model, shown = create_model("lenet5", seed=0).train(), images()
    channels = [Channel("c3", 4), Channel("s2", 0), Channel("c3", 1)]
    found = strongest_peaks(model, shown.split(batch), channels, most=3)
    assert model.training
    assert list(found) == channels
    for (layer, number), peaks in found.items():
        maps = torch.stack([feature_maps(model, image, layer)[number] for image in shown])
        largest = maps.flatten(1).max(dim=1).values
        expected = [image for image in largest.argsort(descending=True)[:3].tolist() if largest[image] > 0]
        assert [peak.image for peak in peaks] == expected
        for peak in peaks:
            assert peak.value == pytest.approx(largest[peak.image].item(), rel=1e-4)
            assert maps[peak.image, peak.row, peak.column].item() == pytest.approx(peak.value, rel=1e-4)


def test_a_spot_is_found_where_it_is() -> None:
    model = create_model("lenet5", seed=0)
    with torch.no_grad():
        model.get_submodule("features.c1").weight.fill_(1.0)
    shown = torch.zeros(3, 1, 28, 28)
    shown[2, 0, 9:14, 19:24] = 1  # what the place (11, 21) of c1 sees, without padding from (9, 19) on
    (peak,) = strongest_peaks(model, [shown], [Channel("c1", 2)], most=1)[Channel("c1", 2)]
    side = outline_model("lenet5").taps["c1"].shape[1]
    offset = 2 if side == 28 else 0  # of padding
    assert (peak.image, peak.row, peak.column) == (2, 9 + offset, 19 + offset)


def test_a_channel_that_nothing_excites_has_no_images() -> None:
    model = create_model("alexnet_mnist", seed=0)
    layer = next(iter(model.taps))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    shown = torch.zeros(2, model.in_channels, model.image_size, model.image_size)
    assert strongest_peaks(model, [shown], [Channel(layer, 0)])[Channel(layer, 0)] == []


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("c3", ExplanationError, "LAYER:NUMBER, such as conv5_3:17; received 'c3'"),
        ("c3:x", ExplanationError, "LAYER:NUMBER"),
        ("c3:-1", ExplanationError, "LAYER:NUMBER"),
        (":3", ExplanationError, "LAYER:NUMBER"),
        ("c3:16", ExplanationError, "c3 has channels 0 to 15; received 'c3:16'"),
        ("c3:" + "9" * 5000, ExplanationError, "c3 has channels 0 to 15"),
        ("c4:3", UnknownNameError, "no layer named 'c4'"),
        ("f6:3", ExplanationError, "f6 gives 84 numbers without a place"),
    ],
)
def test_what_is_no_channel(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_channel(outline_model("lenet5"), text)
