"""From the rows of a table to the run of an autoencoder that finds what is unusual."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from convatlas.acceleration import Engine, EngineCard, settle_steps
from convatlas.assessment.autoencoder import judge_test_rows, prepared_for, write_anomaly_report
from convatlas.data.tables import is_table, open_table
from convatlas.data.tables.prepared import PreparedTable, prepare_table
from convatlas.errors import DataError
from convatlas.models import create_autoencoder
from convatlas.models.contract import RowAutoencoder
from convatlas.models.registry import AutoencoderEntry
from convatlas.runs import (
    AutoencoderCard,
    AutoencoderRun,
    ReconstructionCard,
    TableCard,
    describe_environment,
    refuse_taken,
    timestamp,
)
from convatlas.tasks.reconstruct.task import Reconstruction
from convatlas.tasks.reconstruct.thresholds import parse_rate
from convatlas.training import checkpoint
from convatlas.training.checkpoint import TrainingState
from convatlas.training.feed import Feed
from convatlas.training.learner import needs_autograd
from convatlas.training.processes import is_main, made_by_main
from convatlas.training.progress import Watch
from convatlas.training.recipe import Recipe, ReconstructionRecipe, recipe_for
from convatlas.workflows.attempt import (
    as_the_recipe_starts,
    attempt,
    decided_engine,
    recipe_to_go_on_with,
    update,
    updated_recipe,
)
from convatlas.workflows.autoencoders import asked_confidence, promised_rate, split_settings


def train_autoencoder(  # noqa: PLR0913, what a person may want to say
    entry: AutoencoderEntry,
    data: Any,
    recipe: str | Path | Recipe | None,
    settings: dict[str, Any],
    *,
    label: str | None,
    normal: str | None,
    time: str | None,
    false_alarms: float | str | None,
    out: Path | None,
    engine: Engine,
    watch: Watch,
) -> AutoencoderRun:
    """Train an autoencoder on the normal rows of a table; arguments and errors as of ``convatlas.train``."""
    of_network, of_recipe = split_settings(entry, settings)
    chosen = updated_recipe(recipe_for(recipe or entry.recipe, ReconstructionRecipe), of_recipe, watch)
    rate = parse_rate(false_alarms) if false_alarms is not None else None
    if normal is not None and label is None:
        raise DataError("normal names a label of normal rows: say with label which column holds the labels")
    if not is_table(data):
        raise DataError(f"{entry.name} learns from rows: give a .csv, .parquet or .npz file of rows; received {data}")
    if out is not None and is_main():
        refuse_taken(out)
    table = open_table(data, label=label, time=time)
    prepared = prepare_table(
        table,
        normal=normal,
        shares=(chosen.validation_fraction, chosen.calibration_fraction, chosen.test_fraction),
        used=chosen.fit_fraction,
        scaling=chosen.scaling,
    )
    model_card = AutoencoderCard(
        name=entry.name, columns=prepared.encoding.width, settings=dict(entry.settings) | of_network
    )
    network = _fresh_network(model_card, chosen)
    feed, task = _feed(prepared, chosen)
    card = ReconstructionCard(
        created=timestamp(),
        model=model_card,
        encoding=prepared.encoding,
        recipe=chosen.model_dump(mode="json"),
        data=_table_card(prepared),
        false_alarms=promised_rate(rate, len(prepared.parts.calibration), "rows", prepared.table.name, watch),
        engine=_engine(network, feed, chosen, watch, asked=engine),
        environment=describe_environment(),
    )
    path = made_by_main(lambda: AutoencoderRun.create(card, out).path)
    return _fit(AutoencoderRun(path, card), network, task, feed, prepared, chosen, watch, resume=False)


def resume_autoencoder(
    run: AutoencoderRun,
    *,
    data: Any,
    epochs: int | None,
    time_budget: float | None,
    engine: Engine | None,
    watch: Watch,
) -> AutoencoderRun:
    """Go on with a run; arguments and errors as of ``convatlas.resume``."""
    recipe = recipe_to_go_on_with(run, ReconstructionRecipe, epochs=epochs, time_budget=time_budget)
    prepared = prepared_for(run, data)
    network = _fresh_network(run.card.model, recipe)
    feed, task = _feed(prepared, recipe)
    engine_card = _engine(network, feed, recipe, watch, asked=engine, recorded=run.card.engine)
    update(run, data=_table_card(prepared), engine=engine_card)
    return _fit(run, network, task, feed, prepared, recipe, watch, resume=checkpoint.exists(run.path))


def _fit(
    run: AutoencoderRun,
    network: RowAutoencoder,
    task: Reconstruction,
    feed: Feed,
    prepared: PreparedTable,
    recipe: ReconstructionRecipe,
    watch: Watch,
    *,
    resume: bool,
) -> AutoencoderRun:
    def conclude(state: TrainingState) -> None:
        run.keep_calibration(prepared.encoded(prepared.parts.calibration))
        if run.card.false_alarms is not None:
            run.set_threshold(run.card.false_alarms, asked_confidence(run.card))
        write_anomaly_report(run, state.history, judge_test_rows(run, prepared))

    attempt(run, network, task, feed, recipe, watch, resume=resume, conclude=conclude)
    return run


def _feed(prepared: PreparedTable, recipe: ReconstructionRecipe) -> tuple[Feed, Reconstruction]:
    fit = torch.from_numpy(prepared.encoded(prepared.parts.fit))
    validation = torch.from_numpy(prepared.encoded(prepared.parts.validation))
    baseline = float(fit.double().var(dim=0, correction=0).mean())
    return Feed.of_rows(fit, validation, recipe), Reconstruction(baseline)


def _engine(
    network: RowAutoencoder,
    feed: Feed,
    recipe: ReconstructionRecipe,
    watch: Watch,
    *,
    asked: Engine | None,
    recorded: EngineCard | None = None,
) -> EngineCard:
    return decided_engine(
        lambda wanted: settle_steps(network, feed.train.shape, wanted, obstacle=needs_autograd(network, recipe)),
        watch,
        asked=asked,
        recorded=recorded,
    )


def _fresh_network(card: AutoencoderCard, recipe: ReconstructionRecipe) -> RowAutoencoder:
    network = create_autoencoder(card.name, columns=card.columns, seed=recipe.seed, **card.settings)
    return as_the_recipe_starts(network, recipe)


def _table_card(prepared: PreparedTable) -> TableCard:
    table, parts, anomalies = prepared.table, prepared.parts, prepared.anomalies
    return TableCard(
        name=table.name,
        location=table.location,
        fingerprint=table.fingerprint,
        label=table.label,
        normal=prepared.normal,
        time=table.time,
        rows=len(table.frame),
        counts={
            "fit": len(parts.fit),
            "validation": len(parts.validation),
            "calibration": len(parts.calibration),
            "test": len(parts.test),
        },
        anomalies=int(anomalies.sum()) if anomalies is not None else None,
        left_out=parts.left_out,
        split_seed=prepared.split_seed,
    )
