"""Classification as a task: cross-entropy or squared errors, right answers, and the most probable classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from convatlas.tasks.classify.findings import stuck_finding, symmetry_finding
from convatlas.tasks.classify.metrics import Evaluation, EvaluationCounter, refuse_non_finite
from convatlas.tasks.contract import Batch, Column, Step

Loss = Literal["cross_entropy", "mse"]


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first, as (class, probability)."""

    image: str
    top: tuple[tuple[str, float], ...]
    unlike: tuple[str, ...] | None = None  # how it looks unlike the training's images, if at all; None: not known

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top[0][0]


@dataclass(frozen=True)
class Classification:
    """Each image has one of ``classes``, and a network gives a logit for each.

    >>> task = Classification(("ant", "bee"))
    >>> task.predictions(torch.tensor([[0.0, 2.0]]), ["photo.jpg"])[0].label
    'bee'
    """

    classes: tuple[str, ...]
    loss: Loss = "cross_entropy"
    label_smoothing: float = 0.0
    counts: tuple[int, ...] | None = None  # images of each class: each class then counts alike in the loss

    columns = (Column("loss"), Column("accuracy", is_share=True))
    examples = "images"

    def objective(self, outputs: Any, batch: Batch) -> Step:
        """The summed loss of a network's logits, and of auxiliary heads' where the network returns them too.

        Both tallies are of the network's own logits: a loss with those of auxiliary heads in it could not be compared
        with the validation's, nor with that of guessing.
        """
        logits, auxiliary, weight = (outputs, (), 0.0) if isinstance(outputs, Tensor) else outputs
        loss = self._summed_loss(logits, batch.targets)
        objective = sum((weight * self._summed_loss(head, batch.targets) for head in auxiliary), start=loss)
        right = (logits.argmax(dim=1) == batch.targets).sum()
        return Step(objective, (loss, right))

    def outputs(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W], or of several crops each, [N, crops, C, H, W].

        Crops are averaged as probabilities, and the logarithm of their mean is returned.
        Source: Krizhevsky, Sutskever & Hinton 2012, section 4.1.
        """
        if inputs.dim() == 4:
            logits: Tensor = network(inputs)
            return logits
        crops = inputs.shape[1]
        probabilities = network(inputs.flatten(0, 1)).softmax(dim=1).unflatten(0, (-1, crops))
        return torch.as_tensor(probabilities.mean(dim=1).clamp_min(torch.finfo(probabilities.dtype).tiny).log())

    def judge(self) -> ClassificationJudge:
        """Counts right answers and confusions."""
        return ClassificationJudge(EvaluationCounter(self.classes))

    def merit(self, figures: Mapping[str, float]) -> tuple[float, ...]:
        """Accuracy; of equal ones, the smaller loss."""
        return figures["accuracy"], -figures["loss"]

    def finding_before(self, network: nn.Module) -> str | None:
        """Layers whose units all start alike."""
        return symmetry_finding(network, len(self.classes))

    def finding_after_start(self, means: Mapping[str, float], learning_rate: float) -> str | None:
        """A loss that is still that of guessing."""
        if self.loss != "cross_entropy":
            return None
        return stuck_finding(means["loss"], len(self.classes), learning_rate)

    def predictions(self, logits: Tensor, images: Iterable[object], top: int = 5) -> list[Prediction]:
        """The ``top`` most probable classes of each image, from logits [N, classes].

        Raises:
            TrainingError: logits that are not finite, which are no probabilities.
        """
        refuse_non_finite(logits.float().cpu().numpy())
        values, indices = logits.softmax(dim=1).topk(min(top, len(self.classes)))
        rows = zip(images, indices.tolist(), values.tolist(), strict=True)
        return [
            Prediction(
                str(image), tuple((self.classes[index], value) for index, value in zip(first, second, strict=True))
            )
            for image, first, second in rows
        ]

    def _summed_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.loss == "mse":
            targets = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
            return functional.mse_loss(logits, targets, reduction="none").mean(dim=1).sum()
        weight = _balancing(self.counts, logits.device) if self.counts is not None else None
        return functional.cross_entropy(
            logits.float(), labels, weight, reduction="sum", label_smoothing=self.label_smoothing
        )


@cache
def _balancing(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """A weight for each class, so that all classes weigh alike and images weigh 1 in the mean."""
    numbers = torch.tensor(counts, dtype=torch.float32, device=device)
    present = numbers > 0
    return torch.where(present, numbers.sum() / (present.sum() * numbers.clamp_min(1)), torch.zeros_like(numbers))


@dataclass
class ClassificationJudge:
    """Counts what logits get right."""

    counter: EvaluationCounter

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Count a batch's logits [N, classes] against its labels [N]."""
        self.counter.add(batch.targets.cpu().numpy(), outputs.float().cpu().numpy())

    @classmethod
    def merged(cls, judges: Sequence[Self]) -> Self:
        """One judge of all their batches."""
        return cls(EvaluationCounter.merged([judge.counter for judge in judges]))

    def result(self) -> Evaluation:
        """Accuracy, top-k, loss and confusions so far."""
        return self.counter.result()
