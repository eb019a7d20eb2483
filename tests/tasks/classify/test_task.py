from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from convatlas.data.batch import Batch
from convatlas.errors import TrainingError
from convatlas.tasks.classify.task import Classification

TASK = Classification(("ant", "bee", "cat"))
LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.5, 3.0], [1.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
LABELS = torch.tensor([0, 1, 2, 2])
BATCH = Batch(torch.zeros(4, 1, 2, 2), LABELS, 4)


def test_a_step_minimises_the_summed_loss_and_counts_right_answers() -> None:
    step = TASK.objective(LOGITS, BATCH)
    loss, right = step.tallies
    assert step.objective == loss == functional.cross_entropy(LOGITS, LABELS, reduction="sum")
    assert right == 2
    assert [column.name for column in TASK.columns] == ["loss", "accuracy"]


def test_auxiliary_heads_count_in_what_is_minimised_and_not_in_what_is_shown() -> None:
    step = TASK.objective((LOGITS, (-LOGITS, LOGITS), 0.3), BATCH)
    own = functional.cross_entropy(LOGITS, LABELS, reduction="sum")
    other = functional.cross_entropy(-LOGITS, LABELS, reduction="sum")
    torch.testing.assert_close(step.objective, own + 0.3 * (own + other))
    assert step.tallies[0] == own


def test_squared_errors_are_means_over_classes() -> None:
    targets = functional.one_hot(LABELS, 3)
    step = Classification(TASK.classes, loss="mse").objective(LOGITS, BATCH)
    torch.testing.assert_close(step.objective, ((LOGITS - targets) ** 2).mean(dim=1).sum())


def test_crops_are_averaged_as_probabilities() -> None:
    crops = torch.stack([LOGITS, -LOGITS], dim=1).reshape(4, 2, 3, 1, 1)  # [N, crops, C, H, W]
    expected = (LOGITS.softmax(1) + (-LOGITS).softmax(1)) / 2
    torch.testing.assert_close(TASK.outputs(nn.Flatten(), crops).exp(), expected)


def test_judges_of_several_processes_are_one() -> None:
    whole, first, second = TASK.judge(), TASK.judge(), TASK.judge()
    whole.add(LOGITS, BATCH)
    first.add(LOGITS[:1], Batch(BATCH.inputs[:1], LABELS[:1], 4))
    second.add(LOGITS[1:], Batch(BATCH.inputs[1:], LABELS[1:], 4))
    merged, expected = type(first).merged([first, second]).result(), whole.result()
    assert (merged.confusion == expected.confusion).all()
    assert merged.top_k_correct == expected.top_k_correct
    assert merged.figures == pytest.approx(expected.figures)


def test_the_more_accurate_network_is_better_and_of_equals_the_one_with_the_smaller_loss() -> None:
    order = [(0.9, 5.0), (0.8, 0.1), (0.8, 0.2)]
    merits = [TASK.merit({"accuracy": accuracy, "loss": loss}) for accuracy, loss in order]
    assert merits == sorted(merits, reverse=True)


def test_the_most_probable_classes_come_first() -> None:
    first, *_ = TASK.predictions(LOGITS, ["a.png", "b.png", "c.png", "d.png"], top=2)
    assert (first.image, first.label, [name for name, _ in first.top]) == ("a.png", "ant", ["ant", "cat"])
    assert sum(share for _, share in TASK.predictions(LOGITS[:1], ["a.png"], top=9)[0].top) == pytest.approx(1)


def test_numbers_that_are_none_are_no_answer() -> None:
    with pytest.raises(TrainingError, match="not finite for 1 of 4 images"):
        TASK.predictions(LOGITS.clone().index_fill(0, torch.tensor([2]), float("nan")), "abcd")
