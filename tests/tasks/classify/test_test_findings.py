"""What the last look at the test set says of a training."""

from __future__ import annotations

import numpy as np

from convatlas.tasks.classify.findings import gap_finding, one_answer_finding
from convatlas.tasks.classify.metrics import Evaluation


def evaluation(confusion: list[list[int]]) -> Evaluation:
    counts = np.array(confusion)
    return Evaluation(tuple("abc"[: len(counts)]), counts, 1, int(counts.trace()), 0.5)


def test_one_answer_for_all_is_told_unless_nearly_all_are_of_it() -> None:
    assert "answers a for 100 %" in (one_answer_finding(evaluation([[50, 0], [50, 0]])) or "")
    assert "answers a for 100 %" in (one_answer_finding(evaluation([[90, 0], [10, 0]])) or "")
    assert one_answer_finding(evaluation([[97, 0], [3, 0]])) is None  # three others: nothing can be said
    assert one_answer_finding(evaluation([[94, 1], [2, 3]])) is None
    assert one_answer_finding(evaluation([[40, 10], [10, 40]])) is None


def test_a_gap_is_told_only_beyond_what_the_images_can_tell() -> None:
    test = evaluation([[60, 40], [40, 60]])
    assert "far below the validation's 95.0%" in (gap_finding(test, 190, 200) or "")
    assert gap_finding(test, 8, 10) is None  # ten images say little
    assert gap_finding(test, 120, 200) is None


def test_balanced_accuracy_and_guessing() -> None:
    counts = evaluation([[90, 0], [10, 0]])
    assert (counts.accuracy, counts.balanced_accuracy, counts.guessing, counts.most_frequent) == (0.9, 0.5, 0.9, "a")
