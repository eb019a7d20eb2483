"""What a verb is given: a run, or a network by name with somebody's weights."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

LONGEST_NAME = 100  # letters, that a file may have anywhere

if TYPE_CHECKING:
    from convatlas.runs import Run
    from convatlas.weights import PretrainedClassifier


def opened_subject(what: str, weights: str | None, *, trust: bool = False) -> Run | PretrainedClassifier:
    """A run by its place; else a classifier by its name, with the weights that are asked for, ImageNet's if none are.

    A folder that is named like a network is meant only if it is a run.

    Raises:
        RunError: neither; or weights are asked for a run, which has its own.
        WeightsError: there are none for the network.
    """
    from convatlas.errors import RunError
    from convatlas.models import list_models
    from convatlas.runs import Run
    from convatlas.weights.pretrained import PretrainedClassifier, is_network_name

    if is_network_name(what):
        return PretrainedClassifier(what, weights or "imagenet")
    if weights is not None:
        raise RunError(f"--weights are for a network by name; the run {what} has its own: leave it out")
    try:
        return Run.open(what, trust=trust)
    except RunError as error:
        near = difflib.get_close_matches(what, list_models(), n=3)
        if not near or Path(what[:LONGEST_NAME]).exists():
            raise
        raise RunError(f"{error}. Or is one of the networks {', '.join(near)} meant?") from error
