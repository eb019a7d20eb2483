from __future__ import annotations

import math

import torch
from torch import nn

from convatlas.layers import initialize
from convatlas.models import create_model
from convatlas.tasks import symmetry
from convatlas.tasks.classify import findings


def test_zero_filters_are_named() -> None:
    model = create_model("cnn5_cifar", seed=0)
    assert findings.symmetry_finding(model, 10) is None
    initialize(model, "zeros")
    finding = findings.symmetry_finding(model, 10)
    assert finding is not None
    assert "features." in finding
    assert "he_normal" in finding


def test_one_constant_layer_among_healthy_ones_is_found() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2))
    nn.init.constant_(model[1].weight, 0.1)
    assert symmetry.symmetric_layers(model) == ["1"]


def test_an_output_layer_of_zeros_can_learn_and_is_no_finding() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    assert symmetry.symmetric_layers(model) == ["1"]
    assert findings.symmetry_finding(model, classes=2) is None


def test_symmetry_really_stops_learning() -> None:
    """The claim the finding makes: units that start alike stay alike."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    for layer in (model[0], model[2]):
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(20):
        loss = nn.functional.cross_entropy(model(torch.rand(8, 5)), torch.randint(3, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not torch.allclose(model[0].weight, torch.full((4, 5), 0.1))  # it moved,
    torch.testing.assert_close(model[0].weight, model[0].weight[:1].expand(4, 5))  # all units together


def test_the_loss_of_guessing_is_called_by_its_name() -> None:
    finding = findings.stuck_finding(math.log(10), classes=10, learning_rate=0.5)
    assert finding is not None
    assert "ln 10 = 2.303" in finding
    assert "0.5" in finding
    assert findings.stuck_finding(2.2, classes=10, learning_rate=0.5) is None
