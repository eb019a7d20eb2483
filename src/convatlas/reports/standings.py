"""Whether an autoencoder is worth its trouble: where it stands beside simpler detectors that saw the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from convatlas.reports.wording import rate

Place = Literal["ahead", "close", "behind"]

AVERAGE_PRECISION = "average_precision"
AT_STATED_PREVALENCE = "natural_average_precision"


class Contender(NamedTuple):
    """A detector's figure, and what so many rows can tell of it; None where there are too few."""

    name: str
    value: float
    interval: tuple[float, float] | None = None


def place(own: Contender, rival: Contender) -> Place:
    """Whether one detector is ahead of another by more than chance; without intervals that cannot be told.

    >>> place(Contender("network", 0.80, (0.76, 0.83)), Contender("PCA", 0.65, (0.61, 0.69)))
    'ahead'
    >>> place(Contender("network", 0.66, (0.62, 0.70)), Contender("PCA", 0.65, (0.61, 0.69)))
    'close'

    The limits of the difference are put together from those of the two figures, as though these were of different rows.
    On the same rows they rise and fall together, so that nobody is put ahead too easily.

    Source: Zou & Donner 2008, "Construction of confidence limits about effect measures", Stat. Med. 27(10).
    """
    if own.interval is None or rival.interval is None:
        return "close"
    difference = own.value - rival.value
    least = difference - math.hypot(own.value - own.interval[0], rival.interval[1] - rival.value)
    most = difference + math.hypot(own.interval[1] - own.value, rival.value - rival.interval[0])
    return "ahead" if least > 0 else "behind" if most < 0 else "close"


def verdicts(test: Mapping[str, Any]) -> list[str]:
    """What a reader should hear first: who is ahead on the test rows, and whether it is so where anomalies are rarer.

    >>> figures = {"average_precision": 0.62, "average_precision_interval": [0.58, 0.66]}
    >>> rival = {"name": "Mahalanobis", "average_precision": 0.71, "average_precision_interval": [0.67, 0.74]}
    >>> verdicts(figures | {"rivals": [rival]})
    ['The network is behind Mahalanobis: 0.620 against 0.710. On such rows, use that.']

    Args:
        test: what ``AnomalyEvaluation.to_dict`` writes, with the same of ``rivals``; nothing is said where there are
            none, or no average precision.
    """
    own, rivals = contenders(test, AVERAGE_PRECISION)
    if own is None or not rivals:
        return []
    examples = test.get("examples", "rows")
    said = [_verdict(own, rivals, examples)]
    rarer, rarer_rivals = contenders(test, AT_STATED_PREVALENCE)
    if rarer is not None and rarer_rivals and _worst(rarer, rarer_rivals) != _worst(own, rivals):
        share = rate(test["stated_prevalence"])
        said.append(
            f"Where {share} of the {examples} are anomalies: {_lowered(_verdict(rarer, rarer_rivals, examples))}"
        )
    return said


def broken_promise(test: Mapping[str, Any]) -> str | None:
    """A sentence where normal test rows or images give more false alarms than the threshold promises, beyond chance.

    >>> threshold = {"rate": 0.05}
    >>> broken_promise({"threshold": threshold, "false_alarm_interval": [0.2, 0.33], "examples": "images"})
    'More than promised: the normal test images are not like those that the threshold was set by.'
    """
    threshold, interval = test.get("threshold"), test.get("false_alarm_interval")
    if threshold is None or interval is None or interval[0] <= threshold["rate"]:
        return None
    examples = test.get("examples", "rows")
    return f"More than promised: the normal test {examples} are not like those that the threshold was set by."


def contenders(test: Mapping[str, Any], figure: str) -> tuple[Contender | None, list[Contender]]:
    """The network and its rivals by a figure, the best rival first; those that have no such figure are left out."""
    rivals = [_contender(rival["name"], rival, figure) for rival in test.get("rivals") or ()]
    ranked = sorted((rival for rival in rivals if rival is not None), key=lambda rival: -rival.value)
    return _contender("network", test, figure), ranked


def _contender(name: str, figures: Mapping[str, Any], figure: str) -> Contender | None:
    value, interval = figures.get(figure), figures.get(f"{figure}_interval")
    if value is None:
        return None
    return Contender(name, value, (interval[0], interval[1]) if interval else None)


def _worst(own: Contender, rivals: Sequence[Contender]) -> Place:
    places = {place(own, rival) for rival in rivals}
    return "behind" if "behind" in places else "close" if "close" in places else "ahead"


def _verdict(own: Contender, rivals: Sequence[Contender], examples: str) -> str:
    ahead_of_it = [rival for rival in rivals if place(own, rival) == "behind"]
    beside_it = [rival for rival in rivals if place(own, rival) == "close"]
    if ahead_of_it:
        use = "that" if len(ahead_of_it) == 1 else ahead_of_it[0].name
        return f"The network is behind {_against(own, ahead_of_it)}. On such {examples}, use {use}."
    if not beside_it:
        nearest = "" if len(rivals) == 1 else "every rival; the nearest is "
        return f"The network is ahead of {nearest}{_against(own, rivals[:1])}."
    if own.interval is None or any(rival.interval is None for rival in beside_it):
        return f"There are too few anomalies to tell the network from {_against(own, beside_it)}."
    return f"The network cannot be told apart from {_against(own, beside_it)}. The simpler one will do."


def _against(own: Contender, rivals: Sequence[Contender]) -> str:
    names = listed([rival.name for rival in rivals])
    return f"{names}: {own.value:.3f} against {listed([f'{rival.value:.3f}' for rival in rivals])}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them.

    >>> listed(["PCA"]), listed(["PCA", "Mahalanobis", "isolation forest"])
    ('PCA', 'PCA, Mahalanobis and isolation forest')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
