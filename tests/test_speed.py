"""What is measured is what would run; how fast it is belongs to benchmarks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import InspectionError
from convatlas.inspection.timing import Timing
from convatlas.models import create_model
from convatlas.speed import TrainingTime, measure_speed, measure_training
from convatlas.training.recipe import load_recipe


def test_speed_counts_only_the_timed_batches_and_tells_of_all() -> None:
    told: list[tuple[str, int, int]] = []
    network = create_model("lenet5", seed=0)
    speed = measure_speed(
        network, (4, 1, 28, 28), engine="torch", warm_up=2, batches=3, watch=lambda *each: told.append(each)
    )
    assert (speed.batch_size, speed.forward.calls, speed.forward_backward.calls) == (4, 3, 3)
    assert speed.engine == "torch; torch"
    assert [each[1] for each in told] == [1, 2, 3, 4, 5] * 2
    assert min(speed.forward.mean, speed.forward_backward.mean) > 0


class Counted(nn.Module):
    """Notes how it is called: learning or not, with gradients or not; and when a gradient comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(4, 2)
        self.seen: list[str] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.output(images.flatten(1))
        self.seen.append("training" if self.training else "evaluating")
        if logits.requires_grad:
            logits.register_hook(lambda _: self.seen.append("backward"))
        return logits


def test_forward_is_evaluation_without_gradients_and_both_is_training_with_them() -> None:
    network = Counted()
    measure_speed(network, (2, 1, 2, 2), engine="torch", warm_up=1, batches=2)
    assert network.seen == ["evaluating"] * 3 + ["training", "backward"] * 3
    assert not network.training


def test_measuring_leaves_the_weights_and_no_gradients() -> None:
    network = create_model("lenet5", seed=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure_speed(network, (4, 1, 28, 28), engine="torch", warm_up=0, batches=2)
    recipe = load_recipe("lenet").updated(batch_size=8)
    measure_training(network, (1, 1, 28, 28), recipe, classes=10, images=100, epochs=1, engine="torch")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_auxiliary_heads_learn_in_the_timed_steps_too() -> None:
    network = create_model("googlenet", num_classes=4, image_size=32, seed=0)
    speed = measure_speed(network, (2, 3, 32, 32), engine="torch", warm_up=0, batches=2)
    assert speed.forward_backward.mean > 0


def test_a_training_time_is_steps_times_their_mean() -> None:
    time = TrainingTime(Timing(mean=0.5, deviation=0.1, calls=4), batch_size=64, images=1000, epochs=3, engine="torch")
    assert time.epoch_seconds == 8.0  # 16 steps: the last batch is a small one
    assert time.seconds == 24.0
    assert time.relative_error == pytest.approx(0.2)  # as a step varies


def test_a_training_shows_squares() -> None:
    network = create_model("lenet5", seed=0)
    with pytest.raises(InspectionError, match="square images; received 28x30"):
        measure_training(network, (1, 1, 28, 30), load_recipe("lenet"), classes=10, images=100, epochs=1)
