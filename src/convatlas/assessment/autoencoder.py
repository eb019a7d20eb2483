"""How good an autoencoder is at finding anomalies: on which rows, beside which rivals, and the record that is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from convatlas import files
from convatlas.data.tables import Table, anomalies_in, is_table, open_table
from convatlas.data.tables.prepared import PreparedTable, prepare_table
from convatlas.data.tables.table import IN_MEMORY
from convatlas.errors import ConvatlasError, DataError, RunError, StorageError
from convatlas.models.registry import find_entry
from convatlas.runs import AutoencoderRun, Run, TableCard
from convatlas.runs.autoencoder import Calibration
from convatlas.tasks.reconstruct.drift import drift
from convatlas.tasks.reconstruct.metrics import AnomalyEvaluation, judge_scores
from convatlas.tasks.reconstruct.rivals import rival_scores, rivals
from convatlas.tasks.reconstruct.thresholds import threshold_at
from convatlas.training.history import HistoryRow
from convatlas.training.recipe import ReconstructionRecipe, parse_recipe

EVALUATIONS = "evaluations"
SHOWN_ROWS = 10  # of the worst misses and false alarms

Told = Callable[[str], None]


@dataclass(frozen=True)
class AnomalyReport:
    """An evaluation, the rows it was made on, what to know about it, and where its record is kept.

    ``record`` holds all figures, as JSON has them; ``record_path`` is None where the run's directory cannot be written.
    """

    rows: str
    record: dict[str, Any]
    remarks: tuple[str, ...]
    record_path: Path | None

    def to_dict(self) -> dict[str, Any]:
        """The figures, the remarks and the path."""
        kept = {"rows": self.rows, "remarks": list(self.remarks)}
        return kept | self.record | {"record": str(self.record_path) if self.record_path else None}


def assess_autoencoder(
    run: AutoencoderRun, *, data: Any = None, prevalence: float | None = None, told: Told | None = None
) -> AnomalyReport:
    """Judge a run by its test rows, or by those of ``data``; keep the record in ``evaluations/``.

    A look at the run's own test rows is counted on its card. Rows of ``data`` without the label column are compared
    with the calibration rows instead: whether they still look alike.

    Args:
        run: of an autoencoder.
        data: other rows with the same columns.
        prevalence: the share of anomalies where the network will be used; that of the training table when left out.
        told: hears which rival is at work.

    Raises:
        RunError: the run's rows are gone, or it is not calibrated.
        DataError: ``data`` cannot be read, or has not the columns.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise DataError(f"prevalence is a share of rows above 0 and below 1; received {prevalence:g}")
    if data is None:
        return _assess_own(run, prevalence, told)
    return _assess_other(run, data, prevalence)


def judge_test_rows(run: AutoencoderRun, prepared: PreparedTable) -> dict[str, Any]:
    """The end of a training: show the run its test rows, and put the result on its card."""
    record, evaluation = _judged_own(run, prepared, None, None)
    keep_record(run, f"{prepared.table.name} test", record, ())
    run.count_test()
    run.update(test=evaluation.summary())
    return record


def write_anomaly_report(run: AutoencoderRun, history: Sequence[HistoryRow], test: dict[str, Any] | None) -> None:
    """Render the run as one offline page, ``report.html``."""
    from convatlas.reports.page import render_run
    from convatlas.reports.record import RunRecord

    card, entry = run.card, find_entry(run.card.model.name)
    record: dict[str, Any] = {
        "task": card.task,
        "title": f"{card.model.name} on {card.data.name}",
        "run_path": str(run.path),
        "model": {
            "name": entry.name,
            "family": entry.family,
            "year": entry.year,
            "paper": entry.paper,
            "parameters": sum(parameter.numel() for parameter in run.model().parameters()),
        },
        "data": card.data.model_dump(mode="json") | {"columns": list(card.encoding.names)},
        "preprocessing": card.encoding.model_dump(mode="json"),
        "recipe": card.recipe | card.model.settings,
        "history": [row.flat() for row in history],
        "best": card.best,
        "test": test,
        "environment": card.environment | {"engine": card.engine.name},
        "findings": list(card.findings),
    }
    files.write_text(run.path / "report.html", render_run(cast(RunRecord, record)))


def prepared_for(run: AutoencoderRun, data: Any = None) -> PreparedTable:
    """The rows of a run, divided as they were when it was trained; from ``data`` if they have moved.

    Raises:
        RunError: they are gone, or have changed.
    """
    card = run.card.data
    table = _own_table(run, data)
    if table.fingerprint != card.fingerprint:
        raise RunError(
            f"the rows in {table.location} are not the ones {run.path} was trained on any more. Put them back, name "
            "their place with --data, or start a new run"
        )
    recipe = parse_recipe(run.card.recipe, str(run.path / "card.json"), ReconstructionRecipe)
    return prepare_table(
        table,
        normal=card.normal,
        shares=(recipe.validation_fraction, recipe.calibration_fraction, recipe.test_fraction),
        used=recipe.fit_fraction,
        split_seed=card.split_seed,
        encoding=run.card.encoding,
    )


def _own_table(run: AutoencoderRun, data: Any) -> Table:
    card = run.card.data
    if data is None and card.location == IN_MEMORY:
        raise RunError(f"the rows of {run.path} were in memory and in no file: give them again with data=")
    try:
        return open_table(card.location if data is None else data, label=card.label, time=card.time)
    except ConvatlasError as error:
        if data is not None:
            raise
        raise RunError(
            f"the rows of {run.path} are gone: {error}. If they have moved, name their place with --data"
        ) from error


def _assess_own(run: AutoencoderRun, prevalence: float | None, told: Told | None) -> AnomalyReport:
    prepared = prepared_for(run)
    record, _ = _judged_own(run, prepared, prevalence, told)
    name = f"{prepared.table.name} test"
    try:
        run.count_test()
        return keep_record(run, name, record, ())
    except StorageError as error:
        return AnomalyReport(name, record, (f"not kept: {error}",), None)


def _assess_other(run: AutoencoderRun, data: Any, prevalence: float | None) -> AnomalyReport:
    if not is_table(data):
        raise DataError(f"{data} is no table: give a .csv, .parquet or .npz file of rows")
    label = run.card.data.label
    table = open_table(data, text=run.card.encoding.text_columns)
    has_label = label is not None and label in table.frame.columns
    if has_label:
        table = replace(table, label=label)
    is_own = table.fingerprint == run.card.data.fingerprint
    rows = np.arange(len(table.frame))
    anomalies = anomalies_in(table, run.card.data.normal) if has_label else None
    record, _ = _judged(run, table, rows, anomalies, prevalence)
    remarks = ["these are the rows it was trained on, so the figures flatter"] if is_own else []
    if anomalies is None:
        remarks.append("no labels: how many anomalies are found cannot be told, only how unlike the rows are")
    name = f"{table.name} {table.fingerprint[:4]}"
    try:
        return keep_record(run, name, record, tuple(remarks))
    except StorageError as error:
        return AnomalyReport(name, record, (*remarks, f"not kept: {error}"), None)


def _judged_own(
    run: AutoencoderRun, prepared: PreparedTable, prevalence: float | None, told: Told | None
) -> tuple[dict[str, Any], AnomalyEvaluation]:
    """The test rows judged, and the rivals that learnt from the same rows beside the network."""
    rows = prepared.parts.test
    anomalies = prepared.anomalies[rows] if prepared.anomalies is not None else None
    record, evaluation = _judged(run, prepared.table, rows, anomalies, prevalence)
    if anomalies is not None and anomalies.any():
        record["rivals"] = _rivals(run, prepared, anomalies, prevalence, told)
    return record, evaluation


def _judged(
    run: AutoencoderRun,
    table: Table,
    rows: NDArray[np.int64],
    anomalies: NDArray[np.bool_] | None,
    prevalence: float | None,
) -> tuple[dict[str, Any], AnomalyEvaluation]:
    calibration = run.calibration()
    frame = table.frame.iloc[rows]
    scores, columns = run.scored(run.card.encoding.encode(frame, first_row=1))
    evaluation = judge_scores(
        scores,
        anomalies,
        calibration=calibration.scores,
        threshold=run.threshold(),
        prevalence=prevalence or _natural_prevalence(run.card.data),
    )
    names = list(run.card.encoding.names)
    record = evaluation.to_dict() | {
        "columns": _columns_that_matter(names, columns, anomalies),
        "rivals": [],
        "misses": _worst(run, table, rows, scores, anomalies, calibration, missed=True),
        "false_alarm_rows": _worst(run, table, rows, scores, anomalies, calibration, missed=False),
        "drift": _drift(run, calibration, scores, columns) if anomalies is None else None,
    }
    return record, evaluation


def _drift(
    run: AutoencoderRun, calibration: Calibration, scores: NDArray[np.float64], columns: NDArray[np.float64]
) -> dict[str, Any]:
    return drift(
        calibration.scores,
        scores,
        threshold=run.threshold(),
        names=run.card.encoding.names,
        calibration_columns=calibration.columns,
        columns=columns,
    ).to_dict()


def _natural_prevalence(card: TableCard) -> float | None:
    return card.anomalies / card.rows if card.anomalies else None


def _columns_that_matter(
    names: list[str], columns: NDArray[np.float64], anomalies: NDArray[np.bool_] | None
) -> list[dict[str, Any]]:
    """The share of each column in the scores of anomalies, and of normal rows; the first adds most."""
    if anomalies is None or not anomalies.any():
        return []
    of_anomalies, of_normal = columns[anomalies].sum(axis=0), columns[~anomalies].sum(axis=0)
    shares = of_anomalies / max(of_anomalies.sum(), np.finfo(float).tiny)
    normal = of_normal / max(of_normal.sum(), np.finfo(float).tiny)
    order = np.argsort(-shares, kind="stable")
    return [{"name": names[i], "share": float(shares[i]), "normal_share": float(normal[i])} for i in order]


def _worst(
    run: AutoencoderRun,
    table: Table,
    rows: NDArray[np.int64],
    scores: NDArray[np.float64],
    anomalies: NDArray[np.bool_] | None,
    calibration: Calibration,
    *,
    missed: bool,
) -> list[dict[str, Any]]:
    """The anomalies with the lowest scores, or the normal rows with the highest; only wrong ones, by the threshold."""
    threshold = run.card.threshold
    if anomalies is None or threshold is None:
        return []
    is_wrong = anomalies & (scores <= threshold.value) if missed else ~anomalies & (scores > threshold.value)
    wrong = np.flatnonzero(is_wrong)
    order = wrong[np.argsort(scores[wrong] if missed else -scores[wrong], kind="stable")][:SHOWN_ROWS]
    frame = table.frame.iloc[rows[order]]
    return [row.to_dict() for row in run.explained(frame, [int(number) + 1 for number in rows[order]], calibration)]


def _rivals(
    run: AutoencoderRun,
    prepared: PreparedTable,
    anomalies: NDArray[np.bool_],
    prevalence: float | None,
    told: Told | None,
) -> list[dict[str, Any]]:
    """What others make of the same rows, each with a threshold from the same calibration rows."""
    fit, calibration, test = (
        prepared.encoded(part) for part in (prepared.parts.fit, prepared.parts.calibration, prepared.parts.test)
    )
    found = []
    for name in rivals():
        if told is not None:
            told(name)
        start = time.perf_counter()
        scores = rival_scores(name, fit, np.concatenate([calibration, test]), seed=0)
        own, theirs = scores[: len(calibration)], scores[len(calibration) :]
        card = run.card.threshold
        evaluation = judge_scores(
            theirs,
            anomalies,
            calibration=own,
            threshold=threshold_at(own, card.rate, card.confidence) if card is not None else None,
            prevalence=prevalence or _natural_prevalence(run.card.data),
        )
        figures = evaluation.to_dict()
        kept = ("average_precision", "average_precision_interval", "natural_average_precision",
                "natural_average_precision_interval", "roc_auc", "recall", "recall_at")  # fmt: skip
        seconds = round(time.perf_counter() - start, 2)
        found.append({"name": name} | {key: figures[key] for key in kept} | {"seconds": seconds})
    return found


def keep_record(run: Run, rows: str, record: dict[str, Any], remarks: tuple[str, ...]) -> AnomalyReport:
    """Keep an evaluation in the run's ``evaluations/``, named by what it was made on.

    Raises:
        StorageError: it cannot be written.
    """
    if (run.path / EVALUATIONS).is_symlink():
        raise StorageError(f"{run.path / EVALUATIONS} is a link, and nothing is written through it")
    path = run.path / EVALUATIONS / f"{rows.replace(' ', '-')}.json"
    report = AnomalyReport(rows, record, remarks, path)
    files.write_text(path, json.dumps(report.to_dict(), ensure_ascii=False))
    return report
