"""The teaching network: its list of convolutions, and the mistake it is known by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from convatlas.layers import initialize
from convatlas.models import create_model, outline_model


def test_convolutions_are_those_of_the_list() -> None:
    convolutions = [layer for layer in outline_model("cnn5_cifar").modules() if isinstance(layer, nn.Conv2d)]
    shapes = [(layer.kernel_size[0], layer.out_channels) for layer in convolutions]
    assert shapes == [(3, 64), (2, 128), (2, 128), (1, 256), (1, 512)]


def test_maps_keep_their_size_between_poolings() -> None:
    taps = outline_model("cnn5_cifar").taps
    sides = {name: tap.shape[-1] for name, tap in taps.items()}
    assert sides == {
        "conv1_1": 32, "pool1": 16, "conv2_1": 16, "conv2_2": 16, "pool2": 8, "conv3_1": 8, "pool3": 4, "conv4_1": 4,
    }  # fmt: skip


def test_parameters() -> None:
    assert sum(parameter.numel() for parameter in outline_model("cnn5_cifar").parameters()) == 346_890


def test_started_at_zero_its_convolutions_never_move() -> None:
    model = create_model("cnn5_cifar", seed=0)
    initialize(model, "zeros")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    for _ in range(3):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert not any(layer.weight.any() for layer in convolutions)
