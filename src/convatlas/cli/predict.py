"""``convatlas predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    run: Annotated[str, typer.Argument(help="A run: its directory, or its name under runs/.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.", metavar="IMAGE...")],
    top: Annotated[int, typer.Option(min=1, help="Classes to name for each image.")] = 5,
    engine: Annotated[str, typer.Option(metavar="auto|torch", help="torch: do without the CPU engine.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Classify images with a trained run."""
    from convatlas.acceleration import known_engine

    asked = known_engine(engine)

    from convatlas.cli.console import print_json, print_predictions
    from convatlas.runs import Run

    predictions = Run.open(run).predict(images, top=top, engine=asked)
    if as_json:
        print_json([{"image": p.image, "top": [{"class": c, "probability": q} for c, q in p.top]} for p in predictions])
    else:
        print_predictions(predictions)
