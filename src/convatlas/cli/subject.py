"""What a verb is given: a run, or a network by name with somebody's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convatlas.runs import Run
    from convatlas.weights import PretrainedClassifier


def opened_subject(what: str, weights: str | None) -> Run | PretrainedClassifier:
    """A run by its place; else a classifier by its name, with the weights that are asked for, ImageNet's if none are.

    A folder that is named like a network is meant only if it is a run.

    Raises:
        RunError: neither; or weights are asked for a run, which has its own.
        WeightsError: there are none for the network.
    """
    from convatlas.errors import RunError
    from convatlas.runs import Run

    if not _is_classifier(what) or (Path(what) / "card.json").exists():
        if weights is not None:
            raise RunError(f"--weights are for a network by name; the run {what} has its own: leave it out")
        return Run.open(what)
    from convatlas.weights import PretrainedClassifier

    return PretrainedClassifier(what, weights or "imagenet")


def _is_classifier(name: str) -> bool:
    from convatlas.models import list_models

    return name in list_models()
