"""What the trainings of all autoencoders begin with: whose a setting is, and which false alarms can be promised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convatlas.errors import DataError
from convatlas.models import AutoencoderEntry, ImageAutoencoderEntry
from convatlas.runs.cards import AnomalyCard
from convatlas.tasks.reconstruct.thresholds import CONFIDENCE, rows_needed
from convatlas.training.processes import is_main
from convatlas.training.progress import Watch

USUAL_RATES = (0.01, 0.05, 0.1)  # of false alarms: the first that can be promised, where none is asked for


def split_settings(
    entry: AutoencoderEntry | ImageAutoencoderEntry, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the network, and settings of the recipe."""
    of_network = {name: value for name, value in settings.items() if name in entry.settings}
    return of_network, {name: value for name, value in settings.items() if name not in entry.settings}


def asked_confidence(card: AnomalyCard) -> float:
    """The confidence that the threshold of a run has, if a person has chosen one; else the usual."""
    return card.threshold.confidence if card.threshold is not None else CONFIDENCE


def promised_rate(asked: float | None, calibrating: int, examples: str, name: str, watch: Watch) -> float | None:
    """The rate of false alarms that a threshold will be set for; None where there is too little for any.

    Args:
        asked: the rate that a person wants; the first of ``USUAL_RATES`` that is possible when left out.
        calibrating: how many rows or images set the threshold.
        examples: "rows" or "images".
        name: of the data.
        watch: is told where it is not the first of the usual rates.

    Raises:
        DataError: there are too few for what is asked.
    """
    if asked is not None:
        if calibrating < (needed := rows_needed(asked, CONFIDENCE)):
            raise DataError(
                f"false alarms of {asked:.3g} with {CONFIDENCE:.0%} confidence take {needed:,} calibration {examples}, "
                f"and {name} gives {calibrating:,}. Ask for more false alarms, give more {examples}, or raise "
                "--set calibration_fraction"
            )
        return asked
    usual = f"{USUAL_RATES[0]:.0%} takes {rows_needed(USUAL_RATES[0], CONFIDENCE):,} calibration {examples}"
    possible = [rate for rate in USUAL_RATES if calibrating >= rows_needed(rate, CONFIDENCE)]
    if not possible:
        _tell(watch, f"no threshold is set: {usual}, and there are {calibrating:,}")
        return None
    if possible[0] != USUAL_RATES[0]:
        _tell(watch, f"the threshold is for {possible[0]:.0%} of false alarms: {usual}, and there are {calibrating:,}")
    return possible[0]


def _tell(watch: Watch, finding: str) -> None:
    if is_main():
        watch.finding(finding)
