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
    confidence: Annotated[
        float | None, typer.Option(help="With which there are no more false alarms than that; 0.95 when left out.")
    ] = None,
) -> None:
    """Show or change the score above which a row is an alarm; nothing is trained, and no label is looked at."""
    from convatlas.cli.anomalies import print_threshold
    from convatlas.errors import RunError
    from convatlas.runs import AnomalyRun, Run
    from convatlas.tasks.reconstruct.thresholds import CONFIDENCE

    opened = Run.open(run)
    if not isinstance(opened, AnomalyRun):
        raise RunError(f"{opened.path} classifies images, and has no threshold; autoencoders have one")
    rate = _asked_rate(false_alarms, alarms_a_day, cost, budget, rows_a_day)
    if rate is None and confidence is not None and opened.card.threshold is not None:
        rate = opened.card.threshold.rate
    if rate is not None:
        opened.set_threshold(rate, confidence if confidence is not None else CONFIDENCE)
    calibrated = len(opened.calibration().scores)
    card = opened.card.threshold.model_dump() if opened.card.threshold else None
    print_threshold(card, calibrated, rows_a_day, opened.examples)


def _asked_rate(
    false_alarms: str | None,
    alarms_a_day: float | None,
    cost: float | None,
    budget: float | None,
    rows_a_day: float | None,
) -> float | None:
    """The rate of false alarms that is asked for, in one of three ways; None where none is."""
    from convatlas.errors import RunError
    from convatlas.tasks.reconstruct.thresholds import parse_rate, rate_from_alarms, rate_from_cost, require_positive

    if sum(way is not None for way in (false_alarms, alarms_a_day, cost)) > 1:
        raise RunError("give one of --false-alarms, --alarms-a-day and --cost")
    if (cost is None) != (budget is None):
        raise RunError("--cost and --budget go together")
    if rows_a_day is not None:
        require_positive("rows a day", rows_a_day)
    if false_alarms is not None:
        return parse_rate(false_alarms)
    if alarms_a_day is None and cost is None:
        return None
    if rows_a_day is None:
        raise RunError("alarms a day come from rows a day: add --rows-a-day N")
    if alarms_a_day is not None:
        return rate_from_alarms(alarms_a_day, rows_a_day)
    return rate_from_cost(cost or 0, budget or 0, rows_a_day)
