"""``convatlas evaluate``."""

from __future__ import annotations

from typing import Annotated

import typer


def evaluate(
    run: Annotated[str, typer.Argument(help="A run: its directory, or its name under runs/.")],
    data: Annotated[str | None, typer.Option(help="Other images than the run's own test set; same classes.")] = None,
    ten_crop: Annotated[
        bool, typer.Option("--ten-crop", help="Average over four corners and centre, each mirrored too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Accuracy, top-5, per-class scores and the confusion matrix of a run."""
    from convatlas.assessment import assess
    from convatlas.cli.console import print_evaluation, print_json
    from convatlas.runs import Run

    report = assess(Run.open(run), data=data, ten_crop=ten_crop)
    if as_json:
        print_json(report.to_dict())
    else:
        print_evaluation(report)
