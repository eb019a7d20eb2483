"""The three-line Python way: puts the rooms together.

>>> import convatlas
>>> run = convatlas.train("vgg11_bn_cifar", data="photos/", epochs=10)  # doctest: +SKIP
>>> convatlas.load(run.path).predict("cat.jpg")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convatlas.acceleration import Engine, EngineCard, known_engine, settle
from convatlas.assessment import assess, dataset_of, test_once, write_report
from convatlas.data.cache import prepare
from convatlas.data.catalog import open_source
from convatlas.data.dataset import Dataset
from convatlas.data.geometry import choose_geometry
from convatlas.data.preprocessing import Preprocessing
from convatlas.data.source import Source
from convatlas.errors import RecipeError, RunError, TrainingError
from convatlas.examination import inspect_subject
from convatlas.inspection import Inspection
from convatlas.layers import initialize
from convatlas.models import create_model
from convatlas.models.contract import Classifier
from convatlas.models.registry import ModelEntry, model_entry
from convatlas.runs import Card, DataCard, ModelCard, Run, describe_environment, refuse_taken, timestamp
from convatlas.subjects import open_subject
from convatlas.tasks.classify.metrics import Evaluation
from convatlas.tasks.classify.task import Classification
from convatlas.training import checkpoint
from convatlas.training.checkpoint import TrainingState
from convatlas.training.feed import Feed
from convatlas.training.fit import fit
from convatlas.training.learner import needs_torch
from convatlas.training.processes import is_main, made_by_main, main_process_first
from convatlas.training.progress import RichWatch, Watch
from convatlas.training.recipe import Recipe, default_recipe, load_recipe, parse_recipe

SKIPPED_NAMES_SHOWN = 5


def train(  # noqa: PLR0913, what a person may want to say
    model: str,
    data: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    image_size: int | None = None,
    out: str | Path | None = None,
    strict: bool = False,
    engine: Engine = "auto",
    memory: str | int | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> Run:
    """Train a network on images and return the run it leaves.

    >>> run = train("lenet5", data="fashion-mnist", epochs=5)  # doctest: +SKIP
    >>> run.card.test["accuracy"]  # doctest: +SKIP
    0.9021

    Args:
        model: a registered network, see ``list_models``.
        data: a data set by name, an image folder, an archive of one, or a ``.npz`` file.
        recipe: a recipe, the name of a shipped one or a file; the network's own when left out.
        image_size: side of the images the network sees; by default theirs when small, else the network's own.
        out: directory of the run; a new one under ``runs/`` when left out.
        strict: refuse damaged images instead of leaving them out.
        engine: "torch" for PyTorch alone; by default, on a CPU and in float32, the engine of convatlas.
        memory: bytes, or "8GB": train within this much of the process's memory, on smaller batches where need be.
        watch: follows the training; a live display when left out.
        **settings: changes to the recipe, such as ``epochs=5``, ``time_budget=600`` (seconds) or ``seed=1``.

    Raises:
        ConvatlasError: whatever a person can mend, in one line.
    """
    known_engine(engine)  # before the images: a mistake is an error at once
    limit = _memory_limit(memory)
    entry = model_entry(model)
    source = open_source(data)
    chosen = _choose_recipe(entry, source, recipe).updated(**settings)
    geometry = choose_geometry(source, native_size=entry.image_size, image_size=image_size)
    model_card = ModelCard(
        name=model, num_classes=len(source.classes), in_channels=geometry.channels, image_size=geometry.crop
    )
    network = _fresh_network(model_card, chosen)  # before the images: a size it cannot take is an error at once
    place = Path(out) if out is not None else None
    if place is not None and is_main():
        refuse_taken(place)
    with closing(watch or RichWatch()) as watching:
        with main_process_first():
            dataset = prepare(
                source,
                channels=geometry.channels,
                resize=geometry.resize,
                validation_fraction=chosen.validation_fraction,
                strict=strict,
                watch=watching.decoding if is_main() else None,
            )
        preprocessing = Preprocessing.named(chosen.normalization, dataset.train, crop=geometry.crop)
        most_settling = chosen.batch_size
        if limit is not None:
            from convatlas.memory_budget import SETTLING_IMAGES, fit_recipe

            chosen, finding = fit_recipe(
                limit, network, chosen, dataset, preprocessing, engine=engine, asked=settings.keys()
            )
            if finding is not None:
                watching.finding(finding)
            most_settling = SETTLING_IMAGES  # as it was planned
        elif is_main():
            _warn_of_shortage(network, chosen, dataset, preprocessing, engine, watching)
        feed = Feed.of_images(dataset, preprocessing, chosen)
        images, *of_an_image = feed.train.shape
        card = Card(
            created=timestamp(),
            model=model_card,
            classes=dataset.classes,
            preprocessing=preprocessing,
            recipe=chosen.model_dump(mode="json"),
            data=_data_card(dataset),
            engine=_engine(network, (min(images, most_settling), *of_an_image), chosen, watching, asked=engine),
            environment=describe_environment(),
        )
        path = made_by_main(lambda: Run.create(card, place).path)
        return _fit(Run(path, card), network, dataset, feed, chosen, watching, resume=False)


def resume(
    run: str | Path,
    *,
    data: str | Path | None = None,
    epochs: int | None = None,
    time_budget: float | None = None,
    engine: Engine | None = None,
    watch: Watch | None = None,
) -> Run:
    """Go on with a run that was stopped or killed, to the weights it would have had; or further than was planned.

    >>> resume("runs/2026-11-22-lenet5-digits-3f2a", epochs=20)  # doctest: +SKIP

    Args:
        run: a run's directory, or its name under ``runs/``.
        data: where the run's images are now, if they have moved.
        epochs, time_budget: a new length of the whole training, passes already made and seconds already spent included.
        engine: another engine from here on; by default the one that trained so far, with the kernels it chose then.
        watch: follows the training; a live display when left out.

    Raises:
        RunError: nothing to resume, nothing left to do, or the images are no longer those of the run.
    """
    if engine is not None:
        known_engine(engine)
    opened = Run.open(run)
    recipe = parse_recipe(opened.card.recipe, where=str(opened.path / "card.json"))
    longer = {name: value for name, value in (("epochs", epochs), ("time_budget", time_budget)) if value is not None}
    if longer:
        recipe = recipe.updated(**longer, patience=None)  # a length that is asked for is not cut short
    has_checkpoint = checkpoint.exists(opened.path)
    if has_checkpoint and longer:
        _refuse_what_is_done(opened, recipe, checkpoint.load_state(opened.path))
    elif opened.card.status == "finished":  # also by an early stop, before the length it was given
        raise RunError(f"{opened.path} is finished. Give --epochs or --time-budget to train it further")
    dataset = dataset_of(opened, data)
    if dataset.fingerprint != opened.card.data.fingerprint:
        raise RunError(
            f"the images in {dataset.location} are not the ones {opened.path} was trained on any more, so it cannot go "
            "on. Put them back, name their place with --data, or start a new run"
        )
    network = _fresh_network(opened.card.model, recipe)
    feed = Feed.of_images(dataset, opened.card.preprocessing, recipe)
    with closing(watch or RichWatch()) as watching:
        if is_main():
            by: Engine = engine or ("auto" if opened.card.engine.name == "convatlas" else "torch")
            _warn_of_shortage(network, recipe, dataset, opened.card.preprocessing, by, watching)
        engine_card = _engine(network, feed.train.shape, recipe, watching, asked=engine, recorded=opened.card.engine)
        _update(opened, data=_data_card(dataset), engine=engine_card)
        return _fit(opened, network, dataset, feed, recipe, watching, resume=has_checkpoint)


def load(run: str | Path) -> Run:
    """Open a run: a directory, or its name under ``runs/``.

    >>> load("runs/2026-11-22-lenet5-digits-3f2a").predict("seven.png")[0].label  # doctest: +SKIP
    '7'
    """
    return Run.open(run)


def inspect(
    what: str | Path | nn.Module | Run,
    example: torch.Tensor | Sequence[Any] | None = None,
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
    batch_size: int | None = None,
) -> Inspection:
    """The truth about a network before training: shapes, parameters, cost, receptive field, memory.

    >>> inspect("vgg16").layer("conv5_3").receptive_field.size
    (196, 196)
    >>> inspect(torch.nn.Conv2d(3, 8, 3), (3, 32, 32)).macs
    194400

    Args:
        what: a registered network, a run, "path.py:factory", or any module.
        example: what a module is called with: a tensor, several, or the shape of an image, (3, 224, 224) when left out.
        image_size, num_classes: of a registered network.
        batch_size: for which memory is planned; the recipe's, or 32, when left out.

    Raises:
        ConvatlasError: there is no such network, or it cannot be called with such an input; says where it fails.
    """
    subject = open_subject(what, example, image_size=image_size, num_classes=num_classes)
    return inspect_subject(subject, batch_size=batch_size)


def evaluate(
    run: str | Path | Run, *, data: str | Path | None = None, ten_crop: bool = False, engine: Engine = "auto"
) -> Evaluation:
    """Show a run the test images it was not trained on, or the images of ``data``.

    >>> evaluate("runs/2026-11-22-lenet5-digits-3f2a").accuracy  # doctest: +SKIP
    0.9861

    Raises:
        DataError: the classes of ``data`` are not those of the run.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    return assess(opened, data=data, ten_crop=ten_crop, engine=engine).evaluation


def _memory_limit(memory: str | int | None) -> int | None:
    if memory is None or (isinstance(memory, int) and memory > 0):
        return memory
    if not isinstance(memory, str):
        raise RecipeError(f"memory is a number of bytes, or an amount such as '8GB'; received {memory!r}")
    from convatlas.memory_budget import parse_memory

    return parse_memory(memory)


def _warn_of_shortage(
    network: Classifier, recipe: Recipe, dataset: Dataset, preprocessing: Preprocessing, engine: Engine, watch: Watch
) -> None:
    """Before anything large is allocated: the engine is already compared on whole batches."""
    from convatlas.memory_budget import shortage

    finding = shortage(network, recipe, dataset, preprocessing, engine=engine)
    if finding is not None:
        watch.finding(finding)


def _engine(
    network: Classifier,
    shape: tuple[int, ...],
    recipe: Recipe,
    watch: Watch,
    *,
    asked: Engine | None,
    recorded: EngineCard | None = None,
) -> EngineCard:
    """What runs a training: what is asked for, else what ran it so far; with the kernels of then, if there are any.

    The first process decides for all, and alone measures.
    """
    goes_on = recorded is not None and recorded.name == "convatlas"
    wanted: Engine = asked or ("auto" if goes_on else "torch")

    def settled() -> EngineCard:
        choices = recorded.choices if recorded is not None and goes_on else None
        acceleration = settle(network, shape, wanted, obstacle=needs_torch(recipe), choices=choices)
        watch.engine(acceleration)
        if goes_on and acceleration.why_torch:
            watch.finding(
                f"the CPU engine cannot go on with what it began: {acceleration.why_torch}. PyTorch goes on, to "
                "weights that differ by rounding"
            )
        return acceleration.card

    return made_by_main(settled)


def _fit(
    run: Run, network: Classifier, dataset: Dataset, feed: Feed, recipe: Recipe, watch: Watch, *, resume: bool
) -> Run:
    if dataset.skipped and is_main():
        watch.finding(_skipped_finding(dataset))
    with run.being_written() if is_main() else nullcontext():
        _update(run, status="training", recipe=recipe.model_dump(mode="json"))
        try:
            outcome = fit(
                network,
                Classification(dataset.classes, recipe.loss, recipe.label_smoothing),
                feed,
                recipe,
                run.path,
                engine=run.card.engine,
                resume=resume,
                watch=watch,
            )
        except TrainingError:
            _update(run, status="failed")
            raise
        except BaseException:  # a second Ctrl-C, a closed pipe: what a checkpoint holds is not lost
            _update(run, status="interrupted")
            raise
        state = outcome.state
        _update(run, best=state.best.flat() if state.best else None, findings=tuple(state.findings))
        if outcome.interrupted:
            _update(run, status="interrupted")
        elif is_main():
            _after_training()
            write_report(run, state.history, test=test_once(run, dataset))
            run.update(status="finished")  # last, so that a kill before it leaves a run to resume
    return run


def _after_training() -> None:
    """The last test and the report are not to come on top of what the steps have left."""
    from convatlas.memory_budget import give_back_freed_memory

    give_back_freed_memory()


def _skipped_finding(dataset: Dataset) -> str:
    names = ", ".join(name for name, _ in dataset.skipped[:SKIPPED_NAMES_SHOWN])
    more = ", ..." if len(dataset.skipped) > SKIPPED_NAMES_SHOWN else ""
    return (
        f"{len(dataset.skipped)} files cannot be read and are left out: {names}{more} (card.json has all, with reasons)"
    )


def _choose_recipe(entry: ModelEntry, source: Source, recipe: str | Path | Recipe | None) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    return load_recipe(recipe) if recipe is not None else default_recipe(entry.recipe, mirror=source.mirror)


def _fresh_network(card: ModelCard, recipe: Recipe) -> Classifier:
    network = create_model(**card.model_dump(), seed=recipe.seed)
    if recipe.memory_efficient:
        _spare_memory(network, card.name)
    if recipe.initialization is None:
        return network
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        initialize(network, recipe.initialization, recipe.initialization_std)
    return network


def _spare_memory(network: Any, name: str) -> None:
    if not hasattr(network, "memory_efficient"):
        raise RecipeError(f"{name} has no memory-efficient form; only DenseNets have. Leave memory_efficient out")
    network.memory_efficient = True


def _refuse_what_is_done(run: Run, recipe: Recipe, state: TrainingState) -> None:
    trained = {"epochs": state.epoch, "steps": state.total_steps, "time_budget": state.seconds}
    for duration, done in trained.items():
        asked = getattr(recipe, duration)
        if asked is not None and asked <= done:
            raise RunError(
                f"{run.path} has already trained {state.epoch} epochs, {state.total_steps} steps and "
                f"{state.seconds:.0f} seconds. Give --epochs or --time-budget for more in all; received "
                f"{duration} = {asked:g}"
            )


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


def _update(run: Run, **changes: Any) -> None:
    if is_main():
        run.update(**changes)
    else:
        run.card = run.card.model_copy(update=changes)
