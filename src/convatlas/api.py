"""The three-line Python way: puts the rooms together.

>>> import convatlas
>>> run = convatlas.train("vgg11_bn_cifar", data="photos/", epochs=10)  # doctest: +SKIP
>>> convatlas.load(run.path).predict("cat.jpg")  # doctest: +SKIP
"""

from __future__ import annotations

import json
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from convatlas import files
from convatlas.data.batches import Batches, Place
from convatlas.data.cache import every_image, prepare
from convatlas.data.catalog import open_source
from convatlas.data.dataset import Dataset, ImageArray
from convatlas.data.geometry import choose_geometry
from convatlas.data.preprocessing import Preprocessing
from convatlas.data.source import Source
from convatlas.errors import ConvatlasError, DataError, RunError, StorageError, TrainingError
from convatlas.layers import initialize
from convatlas.models import create_model
from convatlas.models.contract import Classifier
from convatlas.models.registry import ModelEntry, model_entry
from convatlas.runs import Card, DataCard, ModelCard, Run, describe_environment, refuse_taken, timestamp
from convatlas.training import checkpoint
from convatlas.training.checkpoint import TrainingState
from convatlas.training.evaluate import evaluate as evaluate_model
from convatlas.training.fit import fit
from convatlas.training.metrics import Evaluation
from convatlas.training.processes import is_main, made_by_main, main_process_first, processes
from convatlas.training.progress import RichWatch, Watch
from convatlas.training.recipe import Recipe, default_recipe, load_recipe, parse_recipe

DEFAULT_VALIDATION_FRACTION = 0.1  # for sources that bring their validation images, where it has no effect
SKIPPED_NAMES_SHOWN = 5


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation, what it was made on, what to know about it, and where its record and figure are kept.

    The paths are None when the run's directory cannot be written.
    """

    evaluation: Evaluation
    images: str
    remarks: tuple[str, ...]
    record_path: Path | None
    figure_path: Path | None

    def to_dict(self) -> dict[str, Any]:
        """The evaluation's figures and the paths, as JSON can hold them."""
        return {
            "images": self.images,
            "remarks": list(self.remarks),
            "record": str(self.record_path) if self.record_path else None,
            "figure": str(self.figure_path) if self.figure_path else None,
        } | self.evaluation.to_dict()


def train(
    model: str,
    data: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    image_size: int | None = None,
    out: str | Path | None = None,
    strict: bool = False,
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
        watch: follows the training; a live display when left out.
        **settings: changes to the recipe, such as ``epochs=5``, ``time_budget=600`` (seconds) or ``seed=1``.

    Raises:
        ConvatlasError: whatever a person can mend, in one line.
    """
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
        card = Card(
            created=timestamp(),
            model=model_card,
            classes=dataset.classes,
            preprocessing=Preprocessing.named(chosen.normalization, dataset.train, crop=geometry.crop),
            recipe=chosen.model_dump(mode="json"),
            data=_data_card(dataset),
            environment=describe_environment(),
        )
        path = made_by_main(lambda: Run.create(card, place).path)
        return _fit(Run(path, card), network, dataset, chosen, watching, resume=False)


def resume(
    run: str | Path,
    *,
    data: str | Path | None = None,
    epochs: int | None = None,
    time_budget: float | None = None,
    watch: Watch | None = None,
) -> Run:
    """Go on with a run that was stopped or killed, to the weights it would have had; or further than was planned.

    >>> resume("runs/2026-11-22-lenet5-digits-3f2a", epochs=20)  # doctest: +SKIP

    Args:
        run: a run's directory, or its name under ``runs/``.
        data: where the run's images are now, if they have moved.
        epochs, time_budget: a new length of the whole training, passes already made and seconds already spent included.
        watch: follows the training; a live display when left out.

    Raises:
        RunError: nothing to resume, nothing left to do, or the images are no longer those of the run.
    """
    opened = Run.open(run)
    recipe = parse_recipe(opened.card.recipe, where=str(opened.path / "card.json"))
    longer = {name: value for name, value in (("epochs", epochs), ("time_budget", time_budget)) if value is not None}
    if longer:
        recipe = recipe.updated(**longer, patience=None)  # a length that is asked for is not cut short
    has_checkpoint = checkpoint.exists(opened.path)
    if has_checkpoint and (longer or opened.card.status == "finished"):
        _refuse_what_is_done(opened, recipe, checkpoint.load_state(opened.path))
    dataset = _dataset_of(opened, data)
    if dataset.fingerprint != opened.card.data.fingerprint:
        raise RunError(
            f"the images in {dataset.location} are not the ones {opened.path} was trained on any more, so it cannot go "
            "on. Put them back, name their place with --data, or start a new run"
        )
    _update(opened, data=_data_card(dataset))
    network = _fresh_network(opened.card.model, recipe)
    with closing(watch or RichWatch()) as watching:
        return _fit(opened, network, dataset, recipe, watching, resume=has_checkpoint)


def load(run: str | Path) -> Run:
    """Open a run: a directory, or its name under ``runs/``.

    >>> load("runs/2026-11-22-lenet5-digits-3f2a").predict("seven.png")[0].label  # doctest: +SKIP
    '7'
    """
    return Run.open(run)


def evaluate(run: str | Path | Run, *, data: str | Path | None = None, ten_crop: bool = False) -> Evaluation:
    """Show a run the test images it was not trained on, or the images of ``data``.

    >>> evaluate("runs/2026-11-22-lenet5-digits-3f2a").accuracy  # doctest: +SKIP
    0.9861

    Raises:
        DataError: the classes of ``data`` are not those of the run.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    return _evaluate(opened, _images_for(opened, data).images, ten_crop=ten_crop)


def evaluate_and_keep(run: str | Path, *, data: str | None = None, ten_crop: bool = False) -> EvaluationReport:
    """``evaluate``, with the record and the confusion matrix kept in the run's ``evaluations/``."""
    opened = Run.open(run)
    chosen = _images_for(opened, data)
    evaluation = _evaluate(opened, chosen.images, ten_crop=ten_crop)
    remarks = list(chosen.remarks)
    if ten_crop and opened.card.preprocessing.resize == opened.card.preprocessing.crop:
        remarks.append("images are shown whole: the ten crops are the image and its mirror image, five times each")
    name = f"{chosen.name} ten-crop" if ten_crop else chosen.name
    try:
        if chosen.is_own_test:
            opened.update(test_evaluations=opened.card.test_evaluations + 1)
        return _keep(opened, evaluation, name, tuple(remarks))
    except StorageError as error:
        return EvaluationReport(evaluation, name, (*remarks, f"not kept: {error}"), None, None)


def _fit(run: Run, network: Classifier, dataset: Dataset, recipe: Recipe, watch: Watch, *, resume: bool) -> Run:
    if dataset.skipped and is_main():
        watch.finding(_skipped_finding(dataset))
    with run.being_written() if is_main() else nullcontext():
        _update(run, status="training", recipe=recipe.model_dump(mode="json"))
        try:
            outcome = fit(network, dataset, run.card.preprocessing, recipe, run.path, resume=resume, watch=watch)
        except TrainingError:
            _update(run, status="failed")
            raise
        state = outcome.state
        _update(run, best=asdict(state.best) if state.best else None, findings=tuple(state.findings))
        if outcome.interrupted:
            _update(run, status="interrupted")
        elif is_main():
            evaluation = _test_once(run, dataset)
            _write_report(run, [asdict(row) for row in state.history], evaluation)
            run.update(status="finished")  # last, so that a kill before it leaves a run to resume
    return run


def _skipped_finding(dataset: Dataset) -> str:
    names = ", ".join(name for name, _ in dataset.skipped[:SKIPPED_NAMES_SHOWN])
    more = ", ..." if len(dataset.skipped) > SKIPPED_NAMES_SHOWN else ""
    return (
        f"{len(dataset.skipped)} files cannot be read and are left out: {names}{more} (card.json has all, with reasons)"
    )


def _test_once(run: Run, dataset: Dataset) -> Evaluation | None:
    if dataset.test is None:
        return None
    evaluation = _evaluate(run, dataset.test, ten_crop=False)
    _keep(run, evaluation, f"{dataset.name} test")
    run.update(test=evaluation.summary(), test_evaluations=run.card.test_evaluations + 1)
    return evaluation


def _keep(run: Run, evaluation: Evaluation, images: str, remarks: tuple[str, ...] = ()) -> EvaluationReport:
    from convatlas.reports.figures import confusion_figure, save_figure

    stem = run.path / "evaluations" / images.replace(" ", "-")
    record, figure = Path(f"{stem}.json"), Path(f"{stem}.png")
    report = EvaluationReport(evaluation, images, remarks, record, figure)
    files.write_text(record, json.dumps(report.to_dict(), ensure_ascii=False))
    save_figure(confusion_figure(evaluation.confusion.tolist(), evaluation.classes), figure)
    return report


def _evaluate(run: Run, images: ImageArray, *, ten_crop: bool) -> Evaluation:
    if ten_crop and not run.card.data.mirror:
        raise DataError(
            f"ten crops are five and their mirror images, and mirrored {run.card.data.name} change their class"
        )
    preprocessing = run.card.preprocessing
    size = max(1, preprocessing.evaluation_batch // (10 if ten_crop else 1))
    batches = Batches(images, preprocessing, size, place=Place(processes().device), ten_crop=ten_crop)
    return evaluate_model(run.model().to(processes().device), batches, run.card.classes)


def _write_report(run: Run, history: list[dict[str, Any]], test: Evaluation | None) -> None:
    from convatlas.reports.page import render_run
    from convatlas.reports.record import RunRecord

    card, entry = run.card, model_entry(run.card.model.name)
    record = {
        "title": f"{card.model.name} on {card.data.name}",
        "run_path": str(run.path),
        "model": {
            "name": entry.name,
            "family": entry.family,
            "year": entry.year,
            "paper": entry.paper,
            "parameters": sum(parameter.numel() for parameter in run.model().parameters()),
        },
        "data": card.data.model_dump(mode="json") | {"classes": list(card.classes)},
        "preprocessing": card.preprocessing.model_dump(mode="json"),
        "recipe": card.recipe,
        "history": history,
        "best": card.best,
        "test": test.to_dict() if test is not None else None,
        "environment": card.environment,
        "findings": list(card.findings),
    }
    files.write_text(run.path / "report.html", render_run(cast(RunRecord, record)))


def _choose_recipe(entry: ModelEntry, source: Source, recipe: str | Path | Recipe | None) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    return load_recipe(recipe) if recipe is not None else default_recipe(entry.recipe, mirror=source.mirror)


def _fresh_network(card: ModelCard, recipe: Recipe) -> Classifier:
    network = create_model(**card.model_dump(), seed=recipe.seed)
    if recipe.initialization is None:
        return network
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        initialize(network, recipe.initialization, recipe.initialization_std)
    return network


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


def _dataset_of(run: Run, location: str | Path | None = None) -> Dataset:
    with main_process_first():
        return _prepared_for(run, _source_of(run, location))


def _source_of(run: Run, location: str | Path | None) -> Source:
    if location is not None:
        return open_source(location)
    try:
        return open_source(run.card.data.location)
    except ConvatlasError as error:
        raise RunError(
            f"the images of {run.path} are gone: {error}. If they have moved, name their place with --data"
        ) from error


def _prepared_for(run: Run, source: Source) -> Dataset:
    data, preprocessing = run.card.data, run.card.preprocessing
    return prepare(
        source,
        channels=preprocessing.channels,
        resize=preprocessing.resize,
        validation_fraction=data.validation_fraction or DEFAULT_VALIDATION_FRACTION,
        split_seed=data.split_seed,
    )


@dataclass(frozen=True)
class _Chosen:
    """Images to evaluate on, what to call them, and what a reader should know about them."""

    images: ImageArray
    name: str
    remarks: tuple[str, ...] = ()
    is_own_test: bool = False


def _images_for(run: Run, data: str | Path | None) -> _Chosen:
    source = _source_of(run, data)
    fingerprint = None
    if data is not None:
        _refuse_strange_classes(run, source)
        preprocessing, classes = run.card.preprocessing, run.card.classes
        fingerprint, images = every_image(source, channels=preprocessing.channels, resize=preprocessing.resize)
        if fingerprint != run.card.data.fingerprint:
            own_labels = np.array([classes.index(name) for name in source.classes])[images.labels]
            return _Chosen(replace(images, labels=own_labels), f"{source.name} {fingerprint[:4]}")
    return _own_images(run, _prepared_for(run, source))


def _own_images(run: Run, dataset: Dataset) -> _Chosen:
    remarks = []
    if dataset.fingerprint != run.card.data.fingerprint:
        remarks.append("the images have changed since the training: some of these may have been trained on")
    if dataset.test is not None:
        return _Chosen(dataset.test, f"{dataset.name} test", tuple(remarks), is_own_test=True)
    remarks.append("there is no test set; these validation images chose the weights, so the figure flatters")
    return _Chosen(dataset.validation, f"{dataset.name} validation", tuple(remarks))


def _refuse_strange_classes(run: Run, source: Source) -> None:
    strangers = [name for name in source.classes if name not in run.card.classes]
    if strangers:
        raise DataError(
            f"{source.location} has classes that {run.path} was not trained on: {', '.join(strangers)}. "
            f"It knows {', '.join(run.card.classes)}"
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
