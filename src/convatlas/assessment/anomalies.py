"""What the evaluations of all autoencoders share: the report, the record that is kept, and what is told of a rival."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas import files
from convatlas.errors import StorageError
from convatlas.models.registry import find_entry
from convatlas.runs import AnomalyRun
from convatlas.tasks.reconstruct.metrics import judge_scores
from convatlas.tasks.reconstruct.thresholds import threshold_at

EVALUATIONS = "evaluations"
TOLD_OF_A_RIVAL = (
    "average_precision", "average_precision_interval", "natural_average_precision",
    "natural_average_precision_interval", "roc_auc", "recall", "recall_at",
)  # fmt: skip

Told = Callable[[str], None]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class AnomalyReport:
    """An evaluation, what it was made on, what to know about it, and where its record is kept.

    ``record`` holds all figures, as JSON has them; ``record_path`` is None where the run's directory cannot be written.
    """

    rows: str  # or images
    record: dict[str, Any]
    remarks: tuple[str, ...]
    record_path: Path | None

    def to_dict(self) -> dict[str, Any]:
        """The figures, the remarks and the path."""
        kept = {"rows": self.rows, "remarks": list(self.remarks)}
        return kept | self.record | {"record": str(self.record_path) if self.record_path else None}


def kept(
    run: AnomalyRun, rows: str, record: dict[str, Any], remarks: tuple[str, ...] = (), *, is_own_test: bool = False
) -> AnomalyReport:
    """Keep an evaluation in the run's ``evaluations/``, and count a look at its own test set; or say why not."""
    try:
        if is_own_test:
            run.count_test()
        return keep_record(run, rows, record, remarks)
    except StorageError as error:
        return AnomalyReport(rows, record, (*remarks, f"not kept: {error}"), None)


def keep_record(run: AnomalyRun, rows: str, record: dict[str, Any], remarks: tuple[str, ...]) -> AnomalyReport:
    """Keep an evaluation in the run's ``evaluations/``, named by what it was made on.

    Raises:
        StorageError: it cannot be written.
    """
    if (run.path / EVALUATIONS).is_symlink():
        raise StorageError(f"{run.path / EVALUATIONS} is a link, and nothing is written through it")
    path = run.path / EVALUATIONS / _file_of(rows)
    report = AnomalyReport(rows, record, remarks, path)
    files.write_text(path, json.dumps(report.to_dict(), ensure_ascii=False))
    return report


def kept_test(run: AnomalyRun) -> dict[str, Any] | None:
    """What a training kept of its test set, as ``AnomalyReport.to_dict`` writes it; None where it is not there."""
    path = run.path / EVALUATIONS / _file_of(f"{run.card.data.name} test")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def rival_record(
    run: AnomalyRun,
    name: str,
    calibrating: Scores,
    testing: Scores,
    anomalies: NDArray[np.bool_],
    *,
    prevalence: float | None,
    seconds: float,
) -> dict[str, Any]:
    """What is told of a rival beside the network; its threshold is from its own scores of the calibration part."""
    card = run.card.threshold
    figures = judge_scores(
        testing,
        anomalies,
        calibration=calibrating,
        threshold=threshold_at(calibrating, card.rate, card.confidence) if card is not None else None,
        prevalence=prevalence,
    ).to_dict()
    return {"name": name} | {key: figures[key] for key in TOLD_OF_A_RIVAL} | {"seconds": round(seconds, 2)}


def _file_of(rows: str) -> str:
    return f"{rows.replace(' ', '-').replace('/', '-')}.json"


def described_network(run: AnomalyRun) -> dict[str, Any]:
    """What a report's first lines say of the network."""
    entry = find_entry(run.card.model.name)
    return {
        "name": entry.name,
        "family": entry.family,
        "year": entry.year,
        "paper": entry.paper,
        "parameters": sum(parameter.numel() for parameter in run.model().parameters()),
    }
