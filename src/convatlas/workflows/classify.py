"""From images with classes to the run of a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convatlas.acceleration import Engine, EngineCard, settle
from convatlas.assessment.classifier import dataset_of, keep_validation, test_once, write_report
from convatlas.data.appearance import Appearance
from convatlas.data.cache import prepare
from convatlas.data.catalog import open_source
from convatlas.data.dataset import Dataset
from convatlas.data.geometry import Geometry, choose_geometry
from convatlas.data.preprocessing import Preprocessing
from convatlas.data.source import Source
from convatlas.errors import RecipeError, RunError
from convatlas.models import create_model
from convatlas.models.contract import Classifier
from convatlas.models.own import OwnEntry, create_own
from convatlas.models.registry import ModelEntry
from convatlas.runs import (
    BaselineCard,
    ClassificationCard,
    ClassifierRun,
    CodeCard,
    DataCard,
    ModelCard,
    WeightsCard,
    describe_environment,
    refuse_taken,
    timestamp,
)
from convatlas.tasks.classify.findings import gap_finding, guessing_finding, one_answer_finding
from convatlas.tasks.classify.metrics import Evaluation
from convatlas.tasks.classify.task import Classification
from convatlas.training import checkpoint
from convatlas.training.checkpoint import TrainingState
from convatlas.training.feed import Feed
from convatlas.training.learner import needs_torch
from convatlas.training.processes import is_main, made_by_main, main_process_first
from convatlas.training.progress import Watch
from convatlas.training.recipe import ClassificationRecipe, Recipe, default_recipe, recipe_for
from convatlas.transfer.baseline import Probed, probed
from convatlas.transfer.probe import put_into_head
from convatlas.transfer.rates import layer_rates
from convatlas.weights import LoadReport, Weights, load_weights, open_weights
from convatlas.workflows.attempt import (
    as_the_recipe_starts,
    attempt,
    decided_engine,
    recipe_to_go_on_with,
    skipped_finding,
    update,
    updated_recipe,
)

TRANSFER = "transfer"  # the recipe for weights that somebody has trained


def train_classifier(  # noqa: PLR0913, what a person may want to say
    entry: ModelEntry,
    data: str | Path,
    recipe: str | Path | Recipe | None,
    settings: dict[str, Any],
    *,
    image_size: int | None,
    out: Path | None,
    strict: bool,
    include: str | None,
    engine: Engine,
    memory: str | int | None,
    weights: str | Path | None,
    partial_weights: bool,
    watch: Watch,
) -> ClassifierRun:
    """Train a registered network or one of a person's own on images; arguments and errors as of ``convatlas.train``."""
    limit = _memory_limit(memory)
    if weights is not None and isinstance(entry, OwnEntry):
        raise RecipeError(
            f"weights are for a registered network; {entry.code.place} gives itself its own: leave them out"
        )
    start = open_weights(weights, entry.name) if weights is not None else None
    source = open_source(data, include)
    chosen = updated_recipe(_choose_recipe(entry, source, recipe, start), settings, watch)
    geometry = _geometry(entry, source, start, image_size, watch)
    model_card = ModelCard(
        name=entry.name,
        num_classes=len(source.classes),
        in_channels=geometry.channels,
        image_size=geometry.crop,
        code=CodeCard(factory=entry.code.factory, sha256=entry.code.sha256) if isinstance(entry, OwnEntry) else None,
    )
    network = _fresh_network(entry, model_card, chosen)  # before the images: a size it cannot take is an error at once
    loaded = load_weights(network, start, partial=partial_weights) if start is not None else None
    start = start.without_layers() if start is not None else None
    if loaded is not None and is_main():
        watch.weights(loaded.lines())
    layer_rates(network, chosen)  # a layer that it has not is an error at once
    if out is not None and is_main():
        refuse_taken(out)
    with main_process_first():
        dataset = prepare(
            source,
            channels=geometry.channels,
            resize=geometry.resize,
            validation_fraction=chosen.validation_fraction,
            strict=strict,
            watch=watch.decoding if is_main() else None,
        )
    preprocessing = _preprocessing(start, chosen, dataset, crop=geometry.crop, asked="normalization" in settings)
    found = _probed(network, chosen, dataset, preprocessing, start, watch)
    most_settling = chosen.batch_size
    if limit is not None:
        from convatlas.memory_budget import SETTLING_IMAGES, fit_recipe

        chosen, finding = fit_recipe(
            limit, network, chosen, dataset, preprocessing, engine=engine, asked=settings.keys()
        )
        if finding is not None:
            watch.finding(finding)
        most_settling = SETTLING_IMAGES  # as it was planned
    elif is_main():
        _warn_of_shortage(network, chosen, dataset, preprocessing, engine, watch)
    feed = Feed.of_images(dataset, preprocessing, chosen)
    images, *of_an_image = feed.train.shape
    card = ClassificationCard(
        created=timestamp(),
        model=model_card,
        classes=dataset.classes,
        preprocessing=preprocessing,
        recipe=chosen.model_dump(mode="json"),
        data=_data_card(dataset),
        engine=_engine(network, (min(images, most_settling), *of_an_image), chosen, watch, asked=engine),
        environment=describe_environment(),
        weights=_weights_card(start, loaded),
        baseline=BaselineCard(**found.baseline.to_dict()) if found is not None else None,
    )
    path = made_by_main(lambda: _created(card, out, entry).path)
    return _fit(ClassifierRun(path, card), network, dataset, feed, chosen, watch, resume=False)


def resume_classifier(
    run: ClassifierRun,
    *,
    data: str | Path | None,
    epochs: int | None,
    time_budget: float | None,
    engine: Engine | None,
    watch: Watch,
) -> ClassifierRun:
    """Go on with a run; arguments and errors as of ``convatlas.resume``."""
    recipe = recipe_to_go_on_with(run, ClassificationRecipe, epochs=epochs, time_budget=time_budget)
    dataset = dataset_of(run, data)
    if dataset.fingerprint != run.card.data.fingerprint:
        raise RunError(
            f"the images in {dataset.location} are not the ones {run.path} was trained on any more, so it cannot go "
            "on. Put them back, name their place with --data, or start a new run"
        )
    network = _fresh_network(run.entry(), run.card.model, recipe)
    feed = Feed.of_images(dataset, run.card.preprocessing, recipe)
    if is_main():
        by: Engine = engine or ("auto" if run.card.engine.name == "convatlas" else "torch")
        _warn_of_shortage(network, recipe, dataset, run.card.preprocessing, by, watch)
    engine_card = _engine(network, feed.train.shape, recipe, watch, asked=engine, recorded=run.card.engine)
    whole = run.card.data.copies_left_out is None
    update(run, data=_data_card(dataset, leaves_out_copies=not whole), engine=engine_card)
    return _fit(run, network, dataset, feed, recipe, watch, resume=checkpoint.exists(run.path))


def _fit(
    run: ClassifierRun,
    network: Classifier,
    dataset: Dataset,
    feed: Feed,
    recipe: ClassificationRecipe,
    watch: Watch,
    *,
    resume: bool,
) -> ClassifierRun:
    if dataset.skipped and is_main():
        watch.finding(skipped_finding(dataset.skipped))
    if is_main():
        for name, count in dataset.repeated:
            watch.finding(f"{count:,} pictures are the same as {name}; 1 kept")

    def conclude(state: TrainingState) -> None:
        _after_training()
        run.update(appearance=Appearance.of(dataset.train, crop=run.card.preprocessing.crop))
        test = test_once(run, dataset)
        validation = keep_validation(run, dataset) if test is None else None
        for finding in _findings_of_test(run, test):
            watch.finding(finding)
            run.update(findings=(*run.card.findings, finding))
        write_report(run, state.history, test=test, validation=validation)

    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    balance = tuple(map(int, counts)) if recipe.class_weights == "balanced" else None
    task = Classification(dataset.classes, recipe.loss, recipe.label_smoothing, balance)
    rates = layer_rates(network, recipe)
    attempt(run, network, task, feed, recipe, watch, resume=resume, rates=rates, conclude=conclude)
    return run


def _findings_of_test(run: ClassifierRun, test: Evaluation | None) -> list[str]:
    """What the last look says of the training: one answer for all, or far below the validation."""
    best, counts = run.card.best, run.card.data.counts
    if test is None or best is None:
        return []
    validated = round(best["validation_accuracy"] * counts["validation"])
    # A network that has collapsed is no better than guessing: that is said once.
    found = (one_answer_finding(test) or guessing_finding(test), gap_finding(test, validated, counts["validation"]))
    return [finding for finding in found if finding is not None]


def _memory_limit(memory: str | int | None) -> int | None:
    if memory is None or (isinstance(memory, int) and memory > 0):
        return memory
    if not isinstance(memory, str):
        raise RecipeError(f"memory is a number of bytes, or an amount such as '8GB'; received {memory!r}")
    from convatlas.memory_budget import parse_memory

    return parse_memory(memory)


def _warn_of_shortage(
    network: Classifier,
    recipe: ClassificationRecipe,
    dataset: Dataset,
    preprocessing: Preprocessing,
    engine: Engine,
    watch: Watch,
) -> None:
    """Before anything large is allocated: the engine is already compared on whole batches."""
    from convatlas.memory_budget import shortage

    finding = shortage(network, recipe, dataset, preprocessing, engine=engine)
    if finding is not None:
        watch.finding(finding)


def _engine(
    network: Classifier,
    shape: tuple[int, ...],
    recipe: ClassificationRecipe,
    watch: Watch,
    *,
    asked: Engine | None,
    recorded: EngineCard | None = None,
) -> EngineCard:
    choices = recorded.choices if recorded is not None and recorded.name == "convatlas" else None
    return decided_engine(
        lambda wanted: settle(network, shape, wanted, obstacle=needs_torch(recipe), choices=choices),
        watch,
        asked=asked,
        recorded=recorded,
    )


def _after_training() -> None:
    """The last test and the report are not to come on top of what the steps have left."""
    from convatlas.memory_budget import give_back_freed_memory

    give_back_freed_memory()


def _choose_recipe(
    entry: ModelEntry, source: Source, recipe: str | Path | Recipe | None, start: Weights | None
) -> ClassificationRecipe:
    """What is asked for, else the network's own, or that for weights which somebody has trained; their pixels too."""
    if recipe is not None:
        chosen = recipe_for(recipe, ClassificationRecipe)
    else:
        chosen = default_recipe(TRANSFER if start is not None else entry.recipe, mirror=source.mirror)
    return chosen if start is None else chosen.updated(normalization=start.normalization)


def _geometry(
    entry: ModelEntry, source: Source, start: Weights | None, image_size: int | None, watch: Watch
) -> Geometry:
    """The size that is asked for or suits the images and the network; as many channels as weights or network take."""
    geometry = choose_geometry(
        source, native_size=entry.image_size, minimum_size=entry.minimum_size, image_size=image_size
    )
    if start is not None:
        geometry = replace(geometry, channels=start.in_channels)
    elif isinstance(entry, OwnEntry) and entry.fixed_channels is not None:
        geometry = replace(geometry, channels=entry.fixed_channels)
    if is_main() and image_size is None:
        for remark in _remarks_on_size(entry, geometry, start):
            watch.finding(remark)
    return geometry


def _remarks_on_size(entry: ModelEntry, geometry: Geometry, start: Weights | None) -> Iterator[str]:
    """What a person ought to know of the size that was chosen for them."""
    side, crop = geometry.small_side, geometry.crop
    if geometry.enlarges:
        yield (
            f"images of {side}x{side} are enlarged to {crop}x{crop}, the size that {entry.name} is made for: it takes "
            f"no smaller ones than {entry.minimum_size}x{entry.minimum_size}"
        )
    if start is not None and side is not None and 2 * crop < entry.image_size:
        yield (
            f"images of {side}x{side} are shown as they are to weights that were probably trained at "
            f"{entry.image_size}x{entry.image_size}: try --image-size {entry.image_size // 2}, which enlarges them"
        )


def _preprocessing(
    start: Weights | None, recipe: ClassificationRecipe, dataset: Dataset, *, crop: int, asked: bool
) -> Preprocessing:
    """As the recipe says; with the very numbers of the run whose weights are started from, unless others are asked."""
    if start is not None and not asked:
        return start.prepared(resize=dataset.train.image_shape[0], crop=crop)
    return Preprocessing.named(recipe.normalization, dataset.train, crop=crop)


def _probed(
    network: Classifier,
    recipe: ClassificationRecipe,
    dataset: Dataset,
    preprocessing: Preprocessing,
    start: Weights | None,
    watch: Watch,
) -> Probed | None:
    """What the weights are worth as they are; the head may start from that.

    A head that is fitted to the features before the first step does not tear at them while it learns.
    Source: Kumar et al. 2022, "Fine-tuning can distort pretrained features", arXiv 2202.10054.
    """
    if start is None and recipe.head_start != "probe":
        return None
    if not network.output_names:
        raise RecipeError("the output layer of the network cannot be told, so no probe can start it: head_start=random")
    found = probed(network, dataset, preprocessing, balanced=recipe.class_weights == "balanced")
    if recipe.head_start == "probe":
        put_into_head(network, found.probe)
    if is_main():
        begins = ", where training starts" if recipe.head_start == "probe" else ""
        watch.weights([f"probe    a linear head on its features: validation {found.validation.accuracy:.1%}{begins}"])
    return found


def _weights_card(start: Weights | None, loaded: LoadReport | None) -> WeightsCard | None:
    if start is None or loaded is None:
        return None
    return WeightsCard(source=start.name, sha256=start.sha256, how=loaded.how, loaded=loaded.loaded, total=loaded.total)


def _created(card: ClassificationCard, out: Path | None, entry: ModelEntry) -> ClassifierRun:
    run = ClassifierRun.create(card, out)
    if isinstance(entry, OwnEntry):
        run.keep_code(entry.code)
    return run


def _fresh_network(entry: ModelEntry, card: ModelCard, recipe: ClassificationRecipe) -> Classifier:
    if isinstance(entry, OwnEntry):
        network = create_own(entry, **card.sizes, seed=recipe.seed)
    else:
        network = create_model(name=card.name, **card.sizes, seed=recipe.seed)
    if recipe.memory_efficient:
        _spare_memory(network, card.name)
    return as_the_recipe_starts(network, recipe)


def _spare_memory(network: Any, name: str) -> None:
    if not hasattr(network, "memory_efficient"):
        raise RecipeError(f"{name} has no memory-efficient form; only DenseNets have. Leave memory_efficient out")
    network.memory_efficient = True


def _data_card(dataset: Dataset, *, leaves_out_copies: bool = True) -> DataCard:
    most_frequent, guessing = dataset.guessing
    return DataCard(
        name=dataset.name,
        location=dataset.location,
        include=dataset.include,
        fingerprint=dataset.fingerprint,
        counts=dataset.counts,
        most_frequent=most_frequent,
        guessing=guessing,
        skipped=dataset.skipped,
        copies_left_out=sum(count - 1 for _, count in dataset.repeated) if leaves_out_copies else None,
        mirror=dataset.mirror,
        split_seed=dataset.split_seed,
        validation_fraction=dataset.validation_fraction,
    )
