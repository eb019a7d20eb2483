"""Multiply-adds: counted by hand, and as PyTorch's own counter counts them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convatlas.inspection import inspect_module
from convatlas.models import list_models, model_entry, outline_model
from convatlas.models.counts import shipped_counts


@pytest.mark.parametrize(
    ("module", "shape", "macs"),
    [
        (nn.Conv2d(3, 64, 3, padding=1), (1, 3, 224, 224), 224 * 224 * 64 * 3 * 3 * 3),
        (nn.Conv2d(8, 16, 3, stride=2, groups=4), (2, 8, 9, 9), 2 * 4 * 4 * 16 * 2 * 3 * 3),
        (nn.ConvTranspose2d(8, 4, 2, stride=2), (1, 8, 5, 5), 5 * 5 * 8 * 4 * 2 * 2),
        (nn.Conv1d(2, 3, 5), (1, 2, 10), 6 * 3 * 2 * 5),
        (nn.Linear(25088, 4096), (1, 25088), 25088 * 4096),
        (nn.Linear(8, 4), (2, 3, 8), 2 * 3 * 8 * 4),
        (nn.MaxPool2d(2), (1, 3, 8, 8), 0),
        (nn.BatchNorm2d(3), (1, 3, 8, 8), 0),
        (nn.GELU(), (1, 3, 8, 8), 0),
        (nn.LSTM(8, 16, batch_first=True), (2, 5, 8), 2 * 5 * 4 * 16 * (8 + 16)),
    ],
)
def test_counted_by_hand(module: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    inspection = inspect_module(module, torch.zeros(shape))
    assert inspection.macs == macs
    assert inspection.flops == 2 * macs
    assert inspection.unknown_operators == ()


@pytest.mark.parametrize("name", ["lenet5_1998", "alexnet_2012", "googlenet", "resnet20", "densenet40_12"])
def test_as_pytorch_counts(name: str) -> None:
    model = outline_model(name).eval()
    image = torch.zeros(1, model.in_channels, model.image_size, model.image_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    assert inspect_module(model, image).flops == counter.get_total_flops()


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_the_shipped_counts(name: str) -> None:
    counts, entry = shipped_counts()[name], model_entry(name)
    image = torch.zeros(1, entry.in_channels, entry.image_size, entry.image_size, device="meta")
    inspection = inspect_module(outline_model(name), image)
    assert inspection.macs == counts["macs"]
    assert inspection.parameters == counts["parameters"] + counts["auxiliary_parameters"]
    assert sum(layer.parameters for layer in inspection.layers) == counts["parameters"]
    assert sum(inspection.unused.values()) == counts["auxiliary_parameters"]
    assert inspection.buffers == counts["buffers"]
    assert inspection.unknown_operators == ()
    assert all(layer.receptive_field is not None for layer in inspection.layers)
