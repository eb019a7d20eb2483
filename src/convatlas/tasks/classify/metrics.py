"""What a classifier got right on a set of images: accuracy with its interval, top-k, per-class scores, confusions.

Everything follows from three facts kept in :class:`Evaluation`: the confusion matrix, the number of images whose
class is among the k best answers, and the mean loss. NumPy only, so that a report or a run can be read without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convatlas.errors import DataError, TrainingError

Z_95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution: 95 % lie within +-Z_95


@dataclass(frozen=True)
class ClassScore:
    """How one class was recognised; a ratio whose denominator is zero counts as 0, as in scikit-learn."""

    name: str
    support: int  # images of this class
    precision: float  # of the images given this class, the share that has it
    recall: float  # of the images that have this class, the share that was given it
    f1: float  # harmonic mean of the two


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The outcome of showing ``n`` labelled images to a classifier once.

    >>> counter = EvaluationCounter(["cat", "dog", "owl"])
    >>> counter.add([0, 1, 1, 2], [[4.0, 1.0, 0.0], [0.0, 3.0, 1.0], [2.0, 1.0, 0.0], [0.0, 1.0, 5.0]])
    >>> evaluation = counter.result()
    >>> f"{evaluation.correct} of {evaluation.n}, top-{evaluation.k} {evaluation.top_k_accuracy:.0%}"
    '3 of 4, top-2 100%'
    >>> evaluation.confusion.tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]  # [C, C] images; a row is the true class, a column the answer
    k: int  # 5, or one less than the number of classes where there are five or fewer
    top_k_correct: int
    loss: float  # mean cross-entropy in nats, without label smoothing

    @property
    def n(self) -> int:
        """Images evaluated."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """Images whose best answer is their class."""
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        """Share of the images answered correctly, 0..1."""
        return self.correct / self.n

    @property
    def top_k_accuracy(self) -> float:
        """Share of the images whose class is among the ``k`` best answers, 0..1."""
        return self.top_k_correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy: what ``n`` images can tell, not how training runs differ."""
        return wilson_interval(self.correct, self.n)

    @property
    def per_class(self) -> list[ClassScore]:
        """One score a class, in the order of ``classes``."""
        return class_scores(self.confusion, self.classes)

    @property
    def balanced_accuracy(self) -> float:
        """The mean over the classes of the share of each that is answered correctly, 0..1: rare classes count alike."""
        return float(np.mean([score.recall for score in self.per_class if score.support]))

    @property
    def most_frequent(self) -> str:
        """The class that most of the images have."""
        return self.classes[int(self.confusion.sum(axis=1).argmax())]

    @property
    def guessing(self) -> float:
        """Share of the images that always answering the most frequent class would get right, 0..1."""
        return int(self.confusion.sum(axis=1).max()) / self.n

    @property
    def figures(self) -> dict[str, float]:
        """Loss and accuracy."""
        return {"loss": self.loss, "accuracy": self.accuracy}

    def summary(self) -> dict[str, Any]:
        """The figures that fit on a line, as plain JSON types."""
        return {
            "n": self.n,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "k": self.k,
            "top_k_correct": self.top_k_correct,
            "top_k_accuracy": self.top_k_accuracy,
            "loss": self.loss,
            "balanced_accuracy": self.balanced_accuracy,
            "most_frequent": self.most_frequent,
            "guessing": self.guessing,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, with the derived figures written out for readers that only want those."""
        return self.summary() | {
            "classes": list(self.classes),
            "per_class": [vars(score) for score in self.per_class],
            "confusion": self.confusion.tolist(),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Evaluation:
        """The evaluation that :meth:`to_dict` wrote; derived figures are computed again, not believed."""
        return cls(
            classes=tuple(record["classes"]),
            confusion=np.array(record["confusion"], dtype=np.int64),
            k=int(record["k"]),
            top_k_correct=int(record["top_k_correct"]),
            loss=float(record["loss"]),
        )


class EvaluationCounter:
    """Adds batches up to an :class:`Evaluation`, keeping counts rather than the logits of the whole test set.

    >>> counter = EvaluationCounter(["ant", "bee"])
    >>> counter.add([0, 1], [[2.0, 0.0], [0.0, 2.0]])
    >>> counter.add([1], [[1.0, 0.0]])
    >>> counter.result().correct
    2
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.k = largest_useful_k(len(self.classes))
        self._confusion = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        self._top_k_correct = 0
        self._loss_sum = 0.0

    def add(self, labels: ArrayLike, logits: ArrayLike) -> None:
        """Count one batch: labels int [N], logits float [N, C].

        Log-probabilities do as well as logits, so averaged answers (ten crops) come in as the log of their mean.

        Raises:
            TrainingError: logits that are not finite, which no ranking or loss can be read from.
            DataError: labels outside the classes.
        """
        truth = np.asarray(labels, dtype=np.int64)
        scores = np.asarray(logits, dtype=np.float64)
        if scores.shape != (len(truth), len(self.classes)):
            raise ValueError(
                f"logits must be [{len(truth)}, {len(self.classes)}] (images, classes); received {list(scores.shape)}"
            )
        refuse_non_finite(scores)
        self._confusion += confusion_matrix(truth, scores.argmax(axis=1), len(self.classes))
        self._top_k_correct += int((ranks(truth, scores) < self.k).sum())
        self._loss_sum += float(cross_entropies(truth, scores).sum())

    @classmethod
    def merged(cls, counters: Sequence[EvaluationCounter]) -> EvaluationCounter:
        """What one counter would have counted, had it been given what several processes were given."""
        total = cls(counters[0].classes)
        for counter in counters:
            total._confusion += counter._confusion
            total._top_k_correct += counter._top_k_correct
            total._loss_sum += counter._loss_sum
        return total

    def result(self) -> Evaluation:
        """The evaluation of everything added so far.

        Raises:
            DataError: nothing was added.
        """
        n = int(self._confusion.sum())
        if n == 0:
            raise DataError("there is nothing to evaluate: received 0 images. Choose data that has a labelled split")
        return Evaluation(self.classes, self._confusion.copy(), self.k, self._top_k_correct, self._loss_sum / n)


def largest_useful_k(classes: int) -> int:
    """The k of top-k: the customary 5, but always fewer than the classes, since top-5 of 5 says nothing.

    >>> largest_useful_k(1000), largest_useful_k(10), largest_useful_k(3)
    (5, 5, 2)
    """
    return max(1, min(5, classes - 1))


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Images counted by true class (row) and predicted class (column): int64 [classes, classes].

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], classes=2).tolist()
    [[1, 1], [0, 1]]

    Raises:
        DataError: a label or prediction outside 0..classes-1.
    """
    truth = np.asarray(labels, dtype=np.int64)
    answer = np.asarray(predictions, dtype=np.int64)
    _refuse_outside(truth, classes)
    _refuse_outside(answer, classes)
    cells = np.bincount(truth * classes + answer, minlength=classes * classes)
    return cells.astype(np.int64).reshape(classes, classes)


def ranks(labels: ArrayLike, logits: ArrayLike) -> NDArray[np.int64]:
    """How many classes were preferred to the true one: int64 [N], 0 where the answer is right.

    Of equal logits the class listed first is preferred, so rank 0 is exactly what ``argmax`` answers.

    >>> ranks([0, 2, 1], [[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 0.0, 0.0]]).tolist()
    [0, 1, 1]
    """
    truth = np.asarray(labels, dtype=np.int64)[:, None]
    scores = np.asarray(logits, dtype=np.float64)
    own = np.take_along_axis(scores, truth, axis=1)
    tied_but_listed_first = (scores == own) & (np.arange(scores.shape[1]) < truth)
    preferred: NDArray[np.int64] = np.count_nonzero((scores > own) | tied_but_listed_first, axis=1)
    return preferred


def cross_entropies(labels: ArrayLike, logits: ArrayLike) -> NDArray[np.float64]:
    """Minus the log-softmax of the true class, in nats: float64 [N].

    >>> cross_entropies([0], [[0.0, 0.0]]).round(4).tolist()
    [0.6931]
    """
    truth = np.asarray(labels, dtype=np.int64)[:, None]
    scores = np.asarray(logits, dtype=np.float64)
    shifted = scores - scores.max(axis=1, keepdims=True)  # the largest exponent becomes 0: no overflow
    own = np.take_along_axis(shifted, truth, axis=1)[:, 0]
    entropies: NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=1)) - own
    return entropies


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion; unlike the normal approximation it stays in 0..1 and never has width 0.

    >>> [round(bound, 3) for bound in wilson_interval(98, 100)]
    [0.93, 0.994]

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22(158).
    """
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    centre = (share + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 * math.sqrt(share * (1 - share) / n + (Z_95 / (2 * n)) ** 2) / (1 + Z_95**2 / n)
    # Rounding must not push a bound past the proportion it is about, which is 0 or 1 exactly at the ends.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def class_scores(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[ClassScore]:
    """Precision, recall and F1 of each class, from a confusion matrix with the truth in rows.

    >>> class_scores(np.array([[3, 1], [0, 4]]), ["ant", "bee"])[0]
    ClassScore(name='ant', support=4, precision=1.0, recall=0.75, f1=0.8571428571428571)
    """
    right = confusion.diagonal()
    support = confusion.sum(axis=1)
    answered = confusion.sum(axis=0)
    precision = _ratio(right, answered)
    recall = _ratio(right, support)
    f1 = _ratio(2 * right, support + answered)
    return [
        ClassScore(name, int(support[i]), float(precision[i]), float(recall[i]), float(f1[i]))
        for i, name in enumerate(classes)
    ]


def _ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = numerator / np.maximum(denominator, 1)  # the numerator is 0 where the denominator is
    return ratio


def _refuse_outside(indices: NDArray[np.int64], classes: int) -> None:
    outside = indices[(indices < 0) | (indices >= classes)]
    if outside.size:
        raise DataError(
            f"label {outside[0]} lies outside the {classes} classes (0 to {classes - 1}), and {outside.size} of "
            f"{indices.size} labels do; evaluate on data with the classes that the network was trained on"
        )


def refuse_non_finite(logits: NDArray[np.floating[Any]]) -> None:
    """Refuse logits [N, C] that no answer can be read from.

    Raises:
        TrainingError: some are not finite.
    """
    spoiled = np.count_nonzero(~np.isfinite(logits).all(axis=1))
    if spoiled:
        raise TrainingError(
            f"the network's outputs are not finite for {spoiled} of {len(logits)} images: its "
            "weights have diverged. Go back to an earlier checkpoint, or train with a lower learning rate"
        )
