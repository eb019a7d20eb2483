"""Names the reason when a classifier cannot learn, instead of leaving a person with a flat curve."""

from __future__ import annotations

import math

import torch
from torch import nn

from convatlas.tasks import symmetry
from convatlas.tasks.classify.metrics import Evaluation, wilson_interval

NEARLY_ALL = 0.95  # of the answers
SELDOM = 0.2  # as many answers as images, or fewer, for all other classes together
FEWEST = 5  # images of other classes, below which nothing can be said
STUCK_WITHIN = 0.01  # share of ln(classes) that a loss may lie below guessing and still count as not started


def symmetry_finding(model: nn.Module, classes: int) -> str | None:
    """One line about symmetric layers, or None; a classifier's last layer may start at zero and still learn.

    The last layer is known by its number of outputs.
    """
    alike = symmetry.symmetric_layers(model)
    return symmetry.symmetry_finding([name for name in alike if _outputs(model.get_submodule(name)) != classes])


def stuck_finding(train_loss: float, classes: int, learning_rate: float) -> str | None:
    """One line when the loss is still that of guessing, ln(classes), or None.

    >>> stuck_finding(2.3026, classes=10, learning_rate=0.1) is None
    False
    >>> stuck_finding(1.9, classes=10, learning_rate=0.1) is None
    True
    """
    guessing = math.log(classes)
    if train_loss < guessing * (1 - STUCK_WITHIN):
        return None
    return (
        f"the training loss {train_loss:.3f} is still that of guessing among {classes} classes (ln {classes} = "
        f"{guessing:.3f}): the network has not started to learn. Usual causes: a learning rate too high or too low "
        f"(now {learning_rate:g}), weights that start too small or all alike, labels that do not belong to the images. "
        "Try --set learning_rate a tenth of it, --set initialization=he_normal, or the network's _bn form"
    )


def _outputs(module: nn.Module) -> int:
    return int(module.weight.shape[0]) if isinstance(module.weight, torch.Tensor) else 0


def one_answer_finding(evaluation: Evaluation) -> str | None:
    """One line when nearly all images get the same answer, though they are of several classes; or None.

    >>> import numpy as np
    >>> counts = np.array([[3, 0], [40, 1]])
    >>> one_answer_finding(Evaluation(("ant", "bee"), counts, 1, 4, 0.7)).partition(":")[0]
    'the network answers ant for 98 % of the test images, of which 7 % are'
    """
    answers, images = evaluation.confusion.sum(axis=0), evaluation.confusion.sum(axis=1)
    given = int(answers.argmax())
    share, true = answers[given] / evaluation.n, images[given] / evaluation.n
    others = evaluation.n - int(images[given])
    is_named_seldom = evaluation.n - int(answers[given]) <= SELDOM * others
    if share < NEARLY_ALL or others < FEWEST or not is_named_seldom:
        return None
    return (
        f"the network answers {evaluation.classes[given]} for {share:.0%} of the test images, of which {true:.0%} are: "
        "it has collapsed to one class. Try --balance, a longer training, or a learning rate a tenth of it"
    ).replace("%", " %")


def gap_finding(test: Evaluation, validated: int, validation_images: int) -> str | None:
    """One line when the test accuracy is far below the validation's, beyond what either number of images can tell.

    ``validated`` are the right answers among the validation images.
    """
    if not validation_images:
        return None
    low, _ = wilson_interval(validated, validation_images)
    if test.interval[1] >= low:
        return None
    return (
        f"the test accuracy {test.accuracy:.1%} is far below the validation's {validated / validation_images:.1%}: the "
        "test images are of another kind, or validation images have near-duplicates in the training set. "
        "See convatlas data describe"
    )


def guessing_finding(evaluation: Evaluation) -> str | None:
    """One line when nothing shows that a network does better than always answering the most frequent class, or None.

    >>> import numpy as np
    >>> guessing_finding(Evaluation(("ant", "bee"), np.array([[1, 9], [8, 72]]), 1, 73, 0.7)).partition(":")[0]
    'the accuracy 81.1 % is no better than always answering bee, which would give 88.9 %'
    """
    if evaluation.interval[0] > evaluation.guessing or len(evaluation.classes) == 1:
        return None
    is_above = evaluation.accuracy > evaluation.guessing
    return (
        f"the accuracy {_percent(evaluation.accuracy)} is {'not surely' if is_above else 'no'} better than always "
        f"answering {evaluation.most_frequent}, which would give {_percent(evaluation.guessing)}: the balanced "
        f"accuracy is {_percent(evaluation.balanced_accuracy)}, and guessing gives "
        f"{_percent(1 / _present(evaluation))} of it"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _present(evaluation: Evaluation) -> int:
    """Classes that some of the images have."""
    return int((evaluation.confusion.sum(axis=1) > 0).sum())
