"""What weights are worth for other images as they are: the figures that every fine-tuning is held against."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from convatlas.data.dataset import Dataset, ImageArray
from convatlas.data.preprocessing import Preprocessing
from convatlas.models.contract import Classifier
from convatlas.runs import BaselineCard
from convatlas.tasks.classify.metrics import wilson_interval
from convatlas.transfer.features import features_of
from convatlas.transfer.probe import NEIGHBOURS, Probe, fit_probe, neighbours

MOST_IMAGES = 5000  # that are looked at of a part: more change the figures little, and each costs a forward pass


@dataclass(frozen=True)
class Figure:
    """Right answers of ``n`` images."""

    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        """The share that is right."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Between which the accuracy on other images like these lies, with 95 % confidence."""
        return wilson_interval(self.correct, self.n)


@dataclass(frozen=True)
class Baseline:
    """A linear probe and nearest neighbours on features, and what always answering one class gives.

    ``part`` says of which images: the test set where there is one, else those of the validation.
    """

    part: str
    learnt_from: int
    features: int
    probe: Figure
    neighbours: Figure
    most_frequent: str
    guessing: Figure

    @classmethod
    def of_card(cls, card: BaselineCard) -> Self:
        """As a run has kept it."""
        figures = {name: Figure(**vars(getattr(card, name))) for name in ("probe", "neighbours", "guessing")}
        return cls(card.part, card.learnt_from, card.features, most_frequent=card.most_frequent, **figures)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """What a person reads.

        >>> figure = Figure(90, 100)
        >>> print(*Baseline("test", 200, 1280, figure, figure, "bee", Figure(54, 100)).lines(), sep=chr(10))
        linear probe        90.0 %  (82.6 to 94.5)
        5 neighbours        90.0 %  (82.6 to 94.5)
        always "bee"        54.0 %  (44.3 to 63.4)
        """
        rows = (
            ("linear probe", self.probe),
            (f"{min(NEIGHBOURS, self.learnt_from)} neighbours", self.neighbours),
            (f'always "{self.most_frequent}"', self.guessing),
        )
        return [f"{name:<18} {100 * each.accuracy:5.1f} %  ({_percent(each)})" for name, each in rows]


@dataclass(frozen=True)
class Probed:
    """The fitted probe, its accuracy on the validation images, and how it does where the network will be judged."""

    probe: Probe
    validation: Figure
    baseline: Baseline


def probed(
    network: Classifier,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    tap: str | None = None,
    balanced: bool = False,
) -> Probed:
    """Fit a linear probe to the training images, and judge it and the nearest neighbours.

    >>> probed(network, dataset, preprocessing).baseline.probe.accuracy  # doctest: +SKIP
    0.948

    ``tap`` is a layer's name in the paper; what the output layer is given when left out.

    Raises:
        UnknownNameError: the network has no such layer.
    """
    train = some_of(dataset.train)
    judged = some_of(dataset.test if dataset.test is not None else dataset.validation)
    learnt = features_of(network, train, preprocessing, tap=tap)
    others = features_of(network, judged, preprocessing, tap=tap)
    probe = fit_probe(learnt, train.labels, len(dataset.classes), balanced=balanced)
    frequent = int(np.bincount(train.labels).argmax())
    validation = some_of(dataset.validation)
    kept = others if dataset.test is None else features_of(network, validation, preprocessing, tap=tap)
    baseline = Baseline(
        part="test" if dataset.test is not None else "validation",
        learnt_from=len(train),
        features=learnt.shape[1],
        probe=_figure(probe.predict(others), judged.labels),
        neighbours=_figure(neighbours(learnt, train.labels, others), judged.labels),
        most_frequent=dataset.classes[frequent],
        guessing=_figure(np.full(len(judged), frequent), judged.labels),
    )
    return Probed(probe, _figure(probe.predict(kept), validation.labels), baseline)


def some_of(images: ImageArray, most: int = MOST_IMAGES) -> ImageArray:
    """All of some images, or as many as are looked at, evenly drawn and always the same."""
    if len(images) <= most:
        return images
    chosen = np.random.default_rng(0).choice(len(images), most, replace=False)
    return images.subset(np.sort(chosen))


def _figure(answers: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Figure:
    return Figure(int((answers == labels).sum()), len(labels))


def _percent(figure: Figure) -> str:
    low, high = figure.interval
    return f"{100 * low:.1f} to {100 * high:.1f}"
