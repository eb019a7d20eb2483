"""How good an autoencoder is at finding anomalies: on which rows, beside which rivals, and the record that is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from convatlas import files
from convatlas.assessment.anomalies import (
    AnomalyReport,
    Told,
    described_network,
    keep_record,
    kept,
    rival_record,
)
from convatlas.data.tables import Table, anomalies_in, is_table, open_table
from convatlas.data.tables.prepared import PreparedTable, prepare_table
from convatlas.data.tables.table import IN_MEMORY
from convatlas.errors import ConvatlasError, DataError, RunError
from convatlas.runs import AutoencoderRun, TableCard
from convatlas.runs.autoencoder import Calibration
from convatlas.tasks.reconstruct.drift import drift
from convatlas.tasks.reconstruct.metrics import SUMMARY, judge_scores
from convatlas.tasks.reconstruct.rivals import rival_scores, rivals
from convatlas.training.history import HistoryRow
from convatlas.training.recipe import ReconstructionRecipe, parse_recipe

SHOWN_ROWS = 10  # of the worst misses and false alarms


def assess_autoencoder(
    run: AutoencoderRun, *, data: Any = None, prevalence: float | None = None, told: Told | None = None
) -> AnomalyReport:
    """Judge a run by its test rows, or by those of ``data``; keep the record in ``evaluations/``.

    A look at the run's own test rows is counted on its card; so is one at ``data`` that are the table it was trained
    on, of which no other rows are judged. Rows of ``data`` without the label column are compared
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
        return _assess_own(run, prepared_for(run), prevalence, told)
    table = _other_table(run, data)
    if table.fingerprint == run.card.data.fingerprint:
        own = "these are the rows it was trained on: judged are the test rows, which it has not seen"
        return _assess_own(run, prepared_for(run, data), prevalence, told, (own,))
    return _assess_other(run, table, prevalence)


def judge_test_rows(run: AutoencoderRun, prepared: PreparedTable) -> dict[str, Any]:
    """The end of a training: show the run its test rows, and put the result on its card."""
    record = _judged_own(run, prepared, None, None, rivals())
    keep_record(run, f"{prepared.table.name} test", record, ())
    run.count_test()
    run.update(test={name: record[name] for name in SUMMARY})
    return record


def write_anomaly_report(run: AutoencoderRun, history: Sequence[HistoryRow], test: dict[str, Any] | None) -> None:
    """Render the run as one offline page, ``report.html``."""
    from convatlas.reports.page import render_run
    from convatlas.reports.record import RunRecord

    card = run.card
    record: dict[str, Any] = {
        "task": card.task,
        "title": f"{card.model.name} on {card.data.name}",
        "run_path": str(run.path),
        "model": described_network(run),
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


def _assess_own(
    run: AutoencoderRun,
    prepared: PreparedTable,
    prevalence: float | None,
    told: Told | None,
    remarks: tuple[str, ...] = (),
) -> AnomalyReport:
    names = rivals(with_pyod=find_spec("pyod") is not None)  # not at the end of a training: it takes the time of one
    record = _judged_own(run, prepared, prevalence, told, names)
    return kept(run, f"{prepared.table.name} test", record, remarks, is_own_test=True)


def _other_table(run: AutoencoderRun, data: Any) -> Table:
    if not is_table(data):
        raise DataError(f"{data} is no table: give a .csv, .parquet or .npz file of rows")
    label = run.card.data.label
    table = open_table(data, text=run.card.encoding.text_columns)
    return replace(table, label=label) if label is not None and label in table.frame.columns else table


def _assess_other(run: AutoencoderRun, table: Table, prevalence: float | None) -> AnomalyReport:
    rows = np.arange(len(table.frame))
    anomalies = anomalies_in(table, run.card.data.normal)
    record = _judged(run, table, rows, anomalies, prevalence)
    unlabelled = "no labels: how many anomalies are found cannot be told, only how unlike the rows are"
    remarks = (unlabelled,) if anomalies is None else ()
    return kept(run, f"{table.name} {table.fingerprint[:4]}", record, remarks)


def _judged_own(
    run: AutoencoderRun, prepared: PreparedTable, prevalence: float | None, told: Told | None, names: Sequence[str]
) -> dict[str, Any]:
    """The test rows judged, and the rivals of these names that learnt from the same rows beside the network."""
    rows = prepared.parts.test
    anomalies = prepared.anomalies[rows] if prepared.anomalies is not None else None
    record = _judged(run, prepared.table, rows, anomalies, prevalence)
    if anomalies is not None and anomalies.any():
        record["rivals"] = _rivals(run, prepared, anomalies, prevalence, told, names)
    return record


def _judged(
    run: AutoencoderRun,
    table: Table,
    rows: NDArray[np.int64],
    anomalies: NDArray[np.bool_] | None,
    prevalence: float | None,
) -> dict[str, Any]:
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
    return evaluation.to_dict() | {
        "columns": _columns_that_matter(names, columns, anomalies),
        "rivals": [],
        "misses": _worst(run, table, rows, scores, anomalies, calibration, missed=True),
        "false_alarm_rows": _worst(run, table, rows, scores, anomalies, calibration, missed=False),
        "drift": _drift(run, calibration, scores, columns) if anomalies is None else None,
    }


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
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """What others make of the same rows, each with a threshold from the same calibration rows."""
    fit, calibration, test = (
        prepared.encoded(part) for part in (prepared.parts.fit, prepared.parts.calibration, prepared.parts.test)
    )
    stated = prevalence or _natural_prevalence(run.card.data)
    found = []
    for name in names:
        if told is not None:
            told(name)
        start = time.perf_counter()
        scores = rival_scores(name, fit, np.concatenate([calibration, test]), seed=0)
        own, theirs = scores[: len(calibration)], scores[len(calibration) :]
        seconds = time.perf_counter() - start
        found.append(rival_record(run, name, own, theirs, anomalies, prevalence=stated, seconds=seconds))
    return found
