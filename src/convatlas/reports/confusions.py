"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Confusion(NamedTuple):
    """Images of one class that were given another."""

    truth: str
    answer: str
    images: int
    share: float  # of the images of the true class, 0..1


def most_confused(confusion: Sequence[Sequence[int]], classes: Sequence[str], limit: int = 10) -> list[Confusion]:
    """The most frequent mistakes, by number of images, from a confusion matrix with the truth in rows.

    >>> most_confused([[8, 2, 0], [1, 9, 0], [0, 0, 5]], ["cat", "dog", "owl"], limit=1)
    [Confusion(truth='cat', answer='dog', images=2, share=0.2)]
    """
    mistakes = [
        Confusion(truth, answer, count, count / images)
        for truth, row, images in zip(classes, confusion, map(sum, confusion), strict=True)
        for answer, count in zip(classes, row, strict=True)
        if truth != answer and count > 0
    ]
    return sorted(mistakes, key=lambda mistake: (-mistake.images, -mistake.share))[:limit]
