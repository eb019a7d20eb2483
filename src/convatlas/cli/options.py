"""Options that several verbs have, and those that have no meaning for what they are given to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from convatlas.runs import Run
    from convatlas.weights import PretrainedClassifier

Trust = Annotated[bool, typer.Option("--trust", help="Run the code of somebody's own network, which the run may hold.")]
NetworkWeights = Annotated[
    str | None, typer.Option(metavar="SOURCE", help="Of a network by name: imagenet (the default), a file, a run.")
]


def refuse_options(run: Run | PretrainedClassifier, **given: object) -> None:
    """Refuse options that are not of the run's task; those that were left out are None.

    Raises:
        RunError: names the first of them.
    """
    from convatlas.errors import RunError

    for name, value in given.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise RunError(f"{option} has no meaning for {_named(run)}: leave it out")


def _named(run: Run | PretrainedClassifier) -> str:
    from convatlas.runs import Run

    return f"{run.path}, a run of {run.card.model.name}" if isinstance(run, Run) else run.name
