from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn
from torch.nn import functional

from convatlas.acceleration import EngineCard
from convatlas.data.batch import Batch
from convatlas.errors import TrainingError
from convatlas.tasks.classify.task import Classification
from convatlas.training import learner
from convatlas.training.recipe import ClassificationRecipe


def test_sharded_training_is_refused_before_it_starts() -> None:
    with pytest.raises(TrainingError, match=r"launcher asks for FSDP.*torchrun"):
        learner._refuse_sharding(SimpleNamespace(distributed_type=DistributedType.FSDP))
    learner._refuse_sharding(SimpleNamespace(distributed_type=DistributedType.MULTI_GPU))


def test_step_seeds_differ_by_every_part_of_the_key() -> None:
    keys = [(seed, epoch, step, rank) for seed in (0, 1) for epoch in (0, 1) for step in (0, 1) for rank in (0, 1)]
    assert len({learner._seed_of(*key) for key in keys}) == len(keys)


class TwoHeads(nn.Module):
    """Returns an auxiliary head's logits beside its own, as the networks with such heads do in training."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.auxiliary = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], float]:
        flat = images.flatten(1)
        return self.last(flat), (self.auxiliary(flat),), 0.3


@pytest.mark.usefixtures("cpu_only")
def test_the_loss_of_an_auxiliary_head_counts_as_much_as_the_network_says() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(6, 1, 2, 2), torch.tensor([0, 1, 1, 0, 1, 1])
    model = TwoHeads()
    logits, (auxiliary,), weight = model(images)
    own, other = (functional.cross_entropy(each, labels, reduction="sum") for each in (logits, auxiliary))
    expected = torch.autograd.grad((own + weight * other) / 6, list(model.parameters()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trained = learner.Learner(
        model,
        Classification(("a", "b")),
        ClassificationRecipe(epochs=1, learning_rate=1.0, momentum=0.0),
        EngineCard(),
        (6, 1, 2, 2),
    )
    loss, right = trained.step(Batch(images, labels, 6), rate=1.0, epoch=0, step=0).tolist()
    assert loss == pytest.approx(own.item(), rel=1e-6)  # what is shown is comparable with the validation
    assert right == (logits.argmax(1) == labels).sum()
    for parameter, start, gradient in zip(model.parameters(), before, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), start - gradient)
