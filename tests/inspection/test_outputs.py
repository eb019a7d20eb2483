"""What layers read and write of one image."""

from __future__ import annotations

import copy

import torch
from torch import nn

from convatlas.inspection.memory import plan_memory
from convatlas.inspection.outputs import layer_bytes
from convatlas.models import create_model


def test_layers_are_counted_with_what_they_read_and_write() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(7200, 10))
    assert layer_bytes(module, (3, 32, 32)) == 4 * (3072 + 7200 + 2 * 7200 + 2 * 7200 + 7200 + 10)


def test_a_network_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    module[2].eval()
    before = copy.deepcopy(module.state_dict())
    layer_bytes(module, (3, 8, 8))
    assert [part.training for part in module] == [True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())


def test_it_is_more_than_the_activations_of_a_plan() -> None:
    network = create_model("resnet20", seed=0)
    peak = plan_memory(network, (8, 3, 32, 32)).at_training_peak
    assert 8 * layer_bytes(network, (3, 32, 32)) > peak.activations + peak.temporary
