"""The three-line Python way: composes the rooms and holds no logic of its own.

>>> import convatlas
>>> run = convatlas.train("vgg11_bn_cifar", data="photos/", epochs=10)  # doctest: +SKIP
>>> convatlas.load(run.path).predict("cat.jpg")  # doctest: +SKIP
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from convatlas import files
from convatlas.data.batches import Batches
from convatlas.data.cache import every_image, prepare
from convatlas.data.catalog import open_source
from convatlas.data.dataset import Dataset, ImageArray
from convatlas.data.geometry import choose_geometry
from convatlas.data.preprocessing import Preprocessing
from convatlas.data.source import Source
from convatlas.errors import DataError, RunError, TrainingError
from convatlas.layers import initialize
from convatlas.models import create_model
from convatlas.models.contract import Classifier
from convatlas.models.registry import ModelEntry, model_entry
from convatlas.runs import Card, DataCard, ModelCard, Run, describe_environment, timestamp
from convatlas.training import checkpoint
from convatlas.training.evaluate import evaluate as evaluate_model
from convatlas.training.fit import fit
from convatlas.training.metrics import Evaluation
from convatlas.training.processes import is_main, made_by_main, main_process_first, processes
from convatlas.training.progress import RichWatch, Watch
from convatlas.training.recipe import Recipe, load_recipe, parse_recipe


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation, what it was made on, and where its record and figure are kept."""

    evaluation: Evaluation
    images: str
    remarks: tuple[str, ...]
    record_path: Path
    figure_path: Path

    def to_dict(self) -> dict[str, Any]:
        """The evaluation's figures and the paths, as JSON can hold them."""
        return {
            "images": self.images,
            "remarks": list(self.remarks),
            "record": str(self.record_path),
            "figure": str(self.figure_path),
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
    watch = watch or RichWatch()
    entry = model_entry(model)
    source = open_source(data)
    chosen = _choose_recipe(entry, source, recipe).updated(**settings)
    geometry = choose_geometry(source, native_size=entry.image_size, image_size=image_size)
    model_card = ModelCard(
        name=model, num_classes=len(source.classes), in_channels=geometry.channels, image_size=geometry.crop
    )
    network = _fresh_network(model_card, chosen)  # before the images: a size it cannot take is an error at once
    with main_process_first():
        dataset = prepare(
            source, channels=geometry.channels, resize=geometry.resize, strict=strict, watch=watch.decoding
        )
    card = Card(
        created=timestamp(),
        model=model_card,
        classes=dataset.classes,
        preprocessing=Preprocessing.named(chosen.normalization, dataset.train, crop=geometry.crop),
        recipe=chosen.model_dump(mode="json"),
        data=_data_card(dataset, data),
        environment=describe_environment(),
    )
    path = made_by_main(lambda: Run.create(card, Path(out) if out is not None else None).path)
    return _fit(Run(path, card), network, dataset, chosen, watch, resume=False)


def resume(
    run: str | Path, *, epochs: int | None = None, time_budget: float | None = None, watch: Watch | None = None
) -> Run:
    """Go on with a run that was stopped or killed, to the weights it would have had; or further than was planned.

    >>> resume("runs/2026-11-22-lenet5-digits-3f2a", epochs=20)  # doctest: +SKIP

    Raises:
        RunError: nothing to resume, nothing left to do, or the images are no longer those of the run.
    """
    opened = Run.open(run)
    recipe = parse_recipe(opened.card.recipe, where=str(opened.path / "card.json"))
    longer = _given(epochs=epochs, time_budget=time_budget)
    if longer:
        recipe = recipe.updated(**longer, patience=None)  # a length that is asked for is not cut short
    if opened.card.status == "finished" and recipe.model_dump(mode="json") == opened.card.recipe:
        raise RunError(f"{opened.path} is finished. Give --epochs or --time-budget to train it further")
    dataset = _dataset_of(opened)
    if dataset.fingerprint != opened.card.data.fingerprint:
        raise RunError(
            f"the images in {opened.card.data.location} are not the ones {opened.path} was trained on any more, so it "
            "cannot go on. Put them back, or start a new run"
        )
    network = _fresh_network(opened.card.model, recipe)
    return _fit(opened, network, dataset, recipe, watch or RichWatch(), resume=checkpoint.exists(opened.path))


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
    images, _, _ = _images_for(opened, data)
    return _evaluate(opened, images, ten_crop=ten_crop)


def evaluate_and_keep(run: str | Path, *, data: str | None = None, ten_crop: bool = False) -> EvaluationReport:
    """``evaluate``, with the record and the confusion matrix kept in the run's ``evaluations/``."""
    opened = Run.open(run)
    images, name, remarks = _images_for(opened, data)
    evaluation = _evaluate(opened, images, ten_crop=ten_crop)
    return _keep(opened, evaluation, f"{name} ten-crop" if ten_crop else name, remarks)


def _fit(run: Run, network: Classifier, dataset: Dataset, recipe: Recipe, watch: Watch, *, resume: bool) -> Run:
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
    report = EvaluationReport(evaluation, images, remarks, Path(f"{stem}.json"), Path(f"{stem}.png"))
    files.write_text(report.record_path, json.dumps(report.to_dict(), ensure_ascii=False))
    save_figure(confusion_figure(evaluation.confusion.tolist(), evaluation.classes), report.figure_path)
    return report


def _evaluate(run: Run, images: ImageArray, *, ten_crop: bool) -> Evaluation:
    network = run.model()
    preprocessing = run.card.preprocessing
    size = max(1, preprocessing.evaluation_batch // (10 if ten_crop else 1))
    batches = Batches(images, preprocessing, size, device=processes().device, ten_crop=ten_crop)
    return evaluate_model(network.to(processes().device), batches, run.card.classes)


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
    if recipe is not None:
        return load_recipe(recipe)
    default = load_recipe(entry.recipe)
    if source.mirror:
        return default
    return default.updated(
        augmentation=[step for step in default.model_dump()["augmentation"] if step["kind"] != "flip"]
    )


def _fresh_network(card: ModelCard, recipe: Recipe) -> Classifier:
    network = create_model(**card.model_dump(), seed=recipe.seed)
    if recipe.initialization is None:
        return network
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        initialize(network, recipe.initialization, recipe.initialization_std)
    return network


def _dataset_of(run: Run, source: Source | None = None) -> Dataset:
    data, preprocessing = run.card.data, run.card.preprocessing
    with main_process_first():
        return prepare(
            source or open_source(data.location),
            channels=preprocessing.channels,
            resize=preprocessing.resize,
            split_seed=data.split_seed,
        )


def _images_for(run: Run, data: str | Path | None) -> tuple[ImageArray, str, tuple[str, ...]]:
    """The images to evaluate on, what to call them, and what a reader should know about them."""
    if data is not None:
        return _foreign_images(run, data)
    dataset = _dataset_of(run)
    remarks = []
    if dataset.fingerprint != run.card.data.fingerprint:
        remarks.append("the images have changed since the training: some of these may have been trained on")
    if dataset.test is not None:
        return dataset.test, f"{dataset.name} test", tuple(remarks)
    remarks.append("there is no test set; these validation images chose the weights, so the figure flatters")
    return dataset.validation, f"{dataset.name} validation", tuple(remarks)


def _foreign_images(run: Run, data: str | Path) -> tuple[ImageArray, str, tuple[str, ...]]:
    source = open_source(data)
    preprocessing, classes = run.card.preprocessing, run.card.classes
    strangers = [name for name in source.classes if name not in classes]
    if strangers:
        raise DataError(
            f"{data} has classes that {run.path} was not trained on: {', '.join(strangers)}. "
            f"It knows {', '.join(classes)}"
        )
    images = every_image(source, channels=preprocessing.channels, resize=preprocessing.resize)
    own_labels = np.array([classes.index(name) for name in source.classes])[images.labels]
    return replace(images, labels=own_labels), source.name, ()


def _data_card(dataset: Dataset, data: str | Path) -> DataCard:
    path = Path(data)
    return DataCard(
        name=dataset.name,
        location=str(path.resolve() if path.exists() else data),
        fingerprint=dataset.fingerprint,
        counts=dataset.counts,
        skipped=dataset.skipped,
        split_seed=dataset.split_seed,
        validation_fraction=dataset.validation_fraction,
    )


def _update(run: Run, **changes: Any) -> None:
    if is_main():
        run.update(**changes)
    else:
        run.card = run.card.model_copy(update=changes)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
