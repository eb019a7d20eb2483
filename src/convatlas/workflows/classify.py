"""From images with classes to the run of a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convatlas.acceleration import Engine, EngineCard, settle
from convatlas.assessment.classifier import dataset_of, test_once, write_report
from convatlas.data.cache import prepare
from convatlas.data.catalog import open_source
from convatlas.data.dataset import Dataset
from convatlas.data.geometry import choose_geometry
from convatlas.data.preprocessing import Preprocessing
from convatlas.data.source import Source
from convatlas.errors import RecipeError, RunError
from convatlas.models import create_model
from convatlas.models.contract import Classifier
from convatlas.models.registry import ModelEntry
from convatlas.runs import (
    ClassificationCard,
    ClassifierRun,
    DataCard,
    ModelCard,
    describe_environment,
    refuse_taken,
    timestamp,
)
from convatlas.tasks.classify.task import Classification
from convatlas.training import checkpoint
from convatlas.training.checkpoint import TrainingState
from convatlas.training.feed import Feed
from convatlas.training.learner import needs_torch
from convatlas.training.processes import is_main, made_by_main, main_process_first
from convatlas.training.progress import Watch
from convatlas.training.recipe import ClassificationRecipe, Recipe, default_recipe, recipe_for
from convatlas.workflows.attempt import (
    as_the_recipe_starts,
    attempt,
    decided_engine,
    recipe_to_go_on_with,
    skipped_finding,
    update,
)


def train_classifier(  # noqa: PLR0913, what a person may want to say
    entry: ModelEntry,
    data: str | Path,
    recipe: str | Path | Recipe | None,
    settings: dict[str, Any],
    *,
    image_size: int | None,
    out: Path | None,
    strict: bool,
    engine: Engine,
    memory: str | int | None,
    watch: Watch,
) -> ClassifierRun:
    """Train a registered network on images; arguments and errors as of ``convatlas.train``."""
    limit = _memory_limit(memory)
    source = open_source(data)
    chosen = _choose_recipe(entry, source, recipe).updated(**settings)
    geometry = choose_geometry(source, native_size=entry.image_size, image_size=image_size)
    model_card = ModelCard(
        name=entry.name, num_classes=len(source.classes), in_channels=geometry.channels, image_size=geometry.crop
    )
    network = _fresh_network(model_card, chosen)  # before the images: a size it cannot take is an error at once
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
    preprocessing = Preprocessing.named(chosen.normalization, dataset.train, crop=geometry.crop)
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
    )
    path = made_by_main(lambda: ClassifierRun.create(card, out).path)
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
    network = _fresh_network(run.card.model, recipe)
    feed = Feed.of_images(dataset, run.card.preprocessing, recipe)
    if is_main():
        by: Engine = engine or ("auto" if run.card.engine.name == "convatlas" else "torch")
        _warn_of_shortage(network, recipe, dataset, run.card.preprocessing, by, watch)
    engine_card = _engine(network, feed.train.shape, recipe, watch, asked=engine, recorded=run.card.engine)
    update(run, data=_data_card(dataset), engine=engine_card)
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

    def conclude(state: TrainingState) -> None:
        _after_training()
        write_report(run, state.history, test=test_once(run, dataset))

    task = Classification(dataset.classes, recipe.loss, recipe.label_smoothing)
    attempt(run, network, task, feed, recipe, watch, resume=resume, conclude=conclude)
    return run


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


def _choose_recipe(entry: ModelEntry, source: Source, recipe: str | Path | Recipe | None) -> ClassificationRecipe:
    if recipe is not None:
        return recipe_for(recipe, ClassificationRecipe)
    return default_recipe(entry.recipe, mirror=source.mirror)


def _fresh_network(card: ModelCard, recipe: ClassificationRecipe) -> Classifier:
    network = create_model(**card.model_dump(), seed=recipe.seed)
    if recipe.memory_efficient:
        _spare_memory(network, card.name)
    return as_the_recipe_starts(network, recipe)


def _spare_memory(network: Any, name: str) -> None:
    if not hasattr(network, "memory_efficient"):
        raise RecipeError(f"{name} has no memory-efficient form; only DenseNets have. Leave memory_efficient out")
    network.memory_efficient = True


def _data_card(dataset: Dataset) -> DataCard:
    return DataCard(
        name=dataset.name,
        location=dataset.location,
        fingerprint=dataset.fingerprint,
        counts=dataset.counts,
        skipped=dataset.skipped,
        mirror=dataset.mirror,
        split_seed=dataset.split_seed,
        validation_fraction=dataset.validation_fraction,
    )
