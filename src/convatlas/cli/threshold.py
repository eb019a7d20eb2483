"""``convatlas threshold``."""

from __future__ import annotations

from typing import Annotated

import typer


def threshold(
    run: Annotated[str, typer.Argument(help="A run of an autoencoder: its directory, or its name under runs/.")],
    false_alarms: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Of the normal rows, that may be called anomalies: 1%, 0.1%.")
    ] = None,
    alarms_a_day: Annotated[
        float | None, typer.Option(metavar="N", help="How many false alarms a day are borne; with --rows-a-day.")
    ] = None,
    cost: Annotated[
        float | None,
        typer.Option(metavar="AMOUNT", help="What looking at one alarm costs; with --budget and --rows-a-day."),
    ] = None,
    budget: Annotated[float | None, typer.Option(metavar="AMOUNT", help="What false alarms may cost in a day.")] = None,
    rows_a_day: Annotated[float | None, typer.Option(metavar="N", help="How many rows come in a day.")] = None,
    confidence: Annotated[float, typer.Option(help="With which there are no more false alarms than that.")] = 0.95,
) -> None:
    """Show or change the score above which a row is an alarm; nothing is trained, and no label is looked at."""
    from convatlas.cli.anomalies import print_threshold
    from convatlas.errors import RunError
    from convatlas.runs import AnomalyRun, Run
    from convatlas.tasks.reconstruct.thresholds import parse_rate, rate_from_alarms, rate_from_cost

    opened = Run.open(run)
    if not isinstance(opened, AnomalyRun):
        raise RunError(f"{opened.path} classifies images, and has no threshold; autoencoders have one")
    given = [way for way in (false_alarms, alarms_a_day, cost) if way is not None]
    if len(given) > 1:
        raise RunError("give one of --false-alarms, --alarms-a-day and --cost")
    if (alarms_a_day is not None or cost is not None) and rows_a_day is None:
        raise RunError("alarms a day come from rows a day: add --rows-a-day N")
    if (cost is None) != (budget is None):
        raise RunError("--cost and --budget go together")
    if false_alarms is not None:
        opened.set_threshold(parse_rate(false_alarms), confidence)
    elif alarms_a_day is not None:
        opened.set_threshold(rate_from_alarms(alarms_a_day, rows_a_day or 0), confidence)
    elif cost is not None:
        opened.set_threshold(rate_from_cost(cost, budget or 0, rows_a_day or 0), confidence)
    calibrated = len(opened.calibration().scores)
    card = opened.card.threshold.model_dump() if opened.card.threshold else None
    print_threshold(card, calibrated, rows_a_day, opened.examples)
