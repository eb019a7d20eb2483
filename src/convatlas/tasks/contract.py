"""What a task answers, whatever its networks compute; training, evaluating and reporting ask for nothing else.

A task knows what the outputs of its networks mean. The loop that trains them does not: it takes steps, validates and
keeps the best weights by what is answered here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

from torch import Tensor, nn


class Batch(Protocol):
    """One process's share of a batch."""

    @property
    def inputs(self) -> Tensor:
        """What the network is shown, [n, ...]."""

    @property
    def targets(self) -> Tensor:
        """What its outputs are compared with, [n, ...]."""

    @property
    def global_size(self) -> int:
        """Examples that all processes together have in it."""


class Batches(Protocol):
    """Examples, a batch at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the inputs of the largest batch, of which this process has a share."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step ``start`` on, the same each time; of each, this process's share."""


@dataclass(frozen=True)
class Column:
    """A figure that training and validation both have, a mean over examples, and how it is written.

    >>> Column("accuracy", is_share=True).text(0.9123)
    '91.23%'
    >>> Column("loss").text(0.0006123)
    '0.000612'
    """

    name: str
    is_share: bool = False

    def text(self, value: float) -> str:
        """The figure as a table has it."""
        return f"{value:.2%}" if self.is_share else _figure(value, 4)

    def short(self, value: float) -> str:
        """The same with a digit less, where it changes many times a second."""
        return f"{value:.1%}" if self.is_share else _figure(value, 3)


def _figure(value: float, decimals: int) -> str:
    """With so many decimals, or where these would say next to nothing, as many digits that count."""
    return f"{value:.{decimals}f}" if abs(value) >= 10 ** (1 - decimals) else f"{value:.{decimals - 1}g}"


class Step(NamedTuple):
    """What a batch of training comes to: what is minimised, and a tally for each column; all are sums over examples."""

    objective: Tensor
    tallies: tuple[Tensor, ...]


class Evaluation(Protocol):
    """The outcome of showing examples to a network once."""

    @property
    def figures(self) -> Mapping[str, float]:
        """The figures that a row of the history keeps, those of the task's columns among them."""


class Judge(Protocol):
    """Adds batches up to an evaluation."""

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Count one batch."""

    @classmethod
    def merged(cls, judges: Sequence[Self]) -> Self:
        """What one judge would have counted, had it been given what several processes were given."""

    def result(self) -> Evaluation:
        """The evaluation of everything added so far."""


class Task(Protocol):
    """What the outputs of a network mean."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The figures of a training step; the first is the loss."""

    @property
    def examples(self) -> str:
        """What is learnt from, in words: images, or rows."""

    def objective(self, outputs: Any, batch: Batch) -> Step:
        """What a training step minimises and counts, from what the network gives in training mode."""

    def outputs(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """What a network in evaluation mode says of a batch of inputs."""

    def judge(self) -> Judge:
        """A new judge."""

    def merit(self, figures: Mapping[str, float]) -> tuple[float, ...]:
        """By what the best weights are chosen, from the figures of a validation; greater is better."""

    def finding_before(self, network: nn.Module) -> str | None:
        """One line if a network cannot be trained, seen before the first step; None if nothing is wrong."""

    def finding_after_start(self, means: Mapping[str, float], learning_rate: float) -> str | None:
        """One line if the training has not begun to learn by the time it should have, from the means of its columns."""
