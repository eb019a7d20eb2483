"""Reconstruction as a task: squared errors, and the score of a row or an image by how badly it is rebuilt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from convatlas.errors import DataError, TrainingError
from convatlas.tasks.contract import Batch, Column, Step
from convatlas.tasks.symmetry import symmetric_layers, symmetry_finding

STUCK_WITHIN = 0.01  # share of the baseline that a loss may lie from it and still count as not started


def errors(rebuilt: Tensor, rows: Tensor) -> Tensor:
    """What each feature adds to a row's score, float64 [n, features]: its squared error over the number of features.

    >>> errors(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])).tolist()
    [[0.0, 2.0]]

    Raises:
        DataError: a row is rebuilt as numbers that are not finite; it could not be ranked.
    """
    parts = (rebuilt.double() - rows.double()).square() / rows.shape[1]
    bad = int((~parts.isfinite()).any(dim=1).sum())
    if bad:
        raise DataError(
            f"{bad:,} of {len(rows):,} rows are rebuilt as numbers that are not finite. Values of a size never seen in "
            "training do that: look for the largest in the table"
        )
    return parts


def scores(rebuilt: Tensor, rows: Tensor) -> Tensor:
    """How unlike the rows that were learnt from each row is, float64 [n]: its mean squared error; no probability.

    >>> scores(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])).tolist()
    [2.0]

    Raises:
        DataError: as ``errors``.
    """
    return errors(rebuilt, rows).sum(dim=1)


@dataclass(frozen=True)
class ReconstructionLoss:
    """How well rows are rebuilt: mean squared error over their features and over ``n`` rows."""

    n: int
    loss: float

    @property
    def figures(self) -> dict[str, float]:
        """The loss."""
        return {"loss": self.loss}


@dataclass(frozen=True)
class Reconstruction:
    """Each row or image is to come out of the network as it went in.

    ``baseline`` is the loss of always answering with the mean: the mean variance of what is learnt from.

    >>> task = Reconstruction(baseline=1.0)
    >>> task.merit({"loss": 0.2}) > task.merit({"loss": 0.3})
    True
    """

    baseline: float
    examples: str = "rows"  # what is learnt from; images are [n, C, h, w]

    columns = (Column("loss"),)

    def objective(self, outputs: Any, batch: Batch) -> Step:
        """The summed loss of rebuilt rows [n, features], and the penalty where the network returns one beside them.

        The tally is without the penalty: only so can it be compared with the validation's.
        """
        rebuilt, penalty = (outputs, None) if isinstance(outputs, Tensor) else outputs
        loss = (rebuilt.float() - batch.targets.float()).square().flatten(1).mean(dim=1).sum()
        return Step(loss if penalty is None else loss + penalty, (loss,))

    def outputs(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Rows [n, features] as the network rebuilds them."""
        rebuilt: Tensor = network(inputs)
        return rebuilt

    def judge(self) -> ReconstructionJudge:
        """Adds up squared errors."""
        return ReconstructionJudge()

    def merit(self, figures: Mapping[str, float]) -> tuple[float, ...]:
        """The smaller loss is better."""
        return (-figures["loss"],)

    def finding_before(self, network: nn.Module) -> str | None:
        """Layers whose units all start alike; the last may start at zero and still learn."""
        layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        return symmetry_finding([name for name in symmetric_layers(network) if name != layers[-1]])

    def finding_after_start(self, means: Mapping[str, float], learning_rate: float) -> str | None:
        """A loss that is still that of answering with the mean."""
        loss = means["loss"]
        if self.baseline <= 0 or abs(loss / self.baseline - 1) > STUCK_WITHIN:
            return None
        return (
            f"the training loss {loss:.3g} is still that of giving back the mean of all {self.examples} "
            f"({self.baseline:.3g}): the network has not started to learn. Usual causes: a learning rate too high or "
            f"too low (now {learning_rate:g}), weights that start too small or all alike, a bottleneck too narrow. "
            "Try --set learning_rate a tenth of it, or ten times it"
        )


@dataclass
class ReconstructionJudge:
    """Adds up the losses of rows."""

    total: float = 0.0
    n: int = 0

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Count a batch of rebuilt rows [n, features] against the rows.

        Raises:
            TrainingError: they are not finite.
        """
        loss = float((outputs.double() - batch.targets.double()).square().flatten(1).mean(dim=1).sum())
        if not torch.isfinite(torch.tensor(loss)):
            raise TrainingError(
                f"the network rebuilds some of {len(outputs):,} examples as numbers that are not finite"
            )
        self.total += loss
        self.n += len(outputs)

    @classmethod
    def merged(cls, judges: Sequence[Self]) -> Self:
        """One judge of all their batches."""
        return cls(sum(judge.total for judge in judges), sum(judge.n for judge in judges))

    def result(self) -> ReconstructionLoss:
        """The mean loss so far.

        Raises:
            DataError: nothing was added.
        """
        if self.n == 0:
            raise DataError("there is nothing to evaluate: received 0 rows")
        return ReconstructionLoss(self.n, self.total / self.n)
