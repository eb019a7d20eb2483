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
    engine: Annotated[str, typer.Option(metavar="auto|torch", help="torch: do without the CPU engine.")] = "auto",
    explain: Annotated[bool, typer.Option("--explain", help="Say which kernel runs each layer, and why.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Accuracy, top-5, per-class scores and the confusion matrix of a run."""
    from convatlas.acceleration import known_engine

    asked = known_engine(engine)

    from convatlas.assessment import assess
    from convatlas.cli.console import print_acceleration, print_evaluation, print_json
    from convatlas.runs import Run

    opened = Run.open(run)
    report = assess(opened, data=data, ten_crop=ten_crop, engine=asked)
    acceleration = opened.accelerated(asked) if explain else None
    if as_json:
        layers = {"layers": [vars(layer) for layer in acceleration.layers]} if acceleration else {}
        print_json(report.to_dict() | layers)
        return
    print_evaluation(report)
    if acceleration:
        print_acceleration(acceleration)
