"""Every registered network takes its own weights back, by name, whole."""

from __future__ import annotations

import pytest
import torch

from convatlas.models import create_model, list_models, outline_model
from convatlas.weights import Weights, load_weights
from convatlas.weights.layers import layers_of
from convatlas.weights.source import COLOURS

FAST = (
    "lenet5",
    "lenet5_1998",
    "resnet20",
    "densenet40_12",
    "googlenet_cifar",
    "mobilenet_v2_cifar",
    "efficientnet_lite0",
)


def named(name: str) -> object:
    return name if name in FAST else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [named(name) for name in list_models()])
def test_a_networks_own_weights_go_back(name: str) -> None:
    if sum(each.numel() for each in outline_model(name).parameters()) > 70_000_000:
        pytest.skip("the same layers as smaller ones, and much memory")
    theirs = create_model(name, seed=1)
    weights = Weights("own", "torch", layers_of(theirs.state_dict()), "", "unit", COLOURS)
    model = create_model(name, seed=2)
    report = load_weights(model, weights)
    assert (report.share, report.skipped) == (1.0, ())
    expected = theirs.state_dict()
    for key, tensor in model.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(tensor, expected[key])
