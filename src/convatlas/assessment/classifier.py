"""How good a classifier is: which images it is shown, what it makes of them, and the record that is kept."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from convatlas import files
from convatlas.acceleration import Engine, known_engine
from convatlas.data.batch import Place
from convatlas.data.batches import Batches
from convatlas.data.cache import every_image, prepare
from convatlas.data.catalog import open_source
from convatlas.data.dataset import Dataset, ImageArray
from convatlas.data.source import Source
from convatlas.errors import ConvatlasError, DataError, RunError, StorageError, first_of
from convatlas.runs import ClassifierRun, ImageClassifier
from convatlas.tasks.classify.findings import guessing_finding, one_answer_finding
from convatlas.tasks.classify.metrics import Evaluation
from convatlas.training.evaluate import judged
from convatlas.training.history import HistoryRow
from convatlas.training.processes import main_process_first, processes
from convatlas.weights import PretrainedClassifier

EVALUATIONS = "evaluations"
CHOSE_THE_WEIGHTS = "there is no test set; these validation images chose the weights, so the figure flatters"
DEFAULT_VALIDATION_FRACTION = 0.1  # for sources that bring their validation images, where it has no effect


@dataclass(frozen=True)
class EvaluationReport:
    """An evaluation, what it was made on and by, what to know about it, and where its record and figure are kept.

    The paths are None when the run's directory cannot be written.
    """

    evaluation: Evaluation
    images: str
    engine: str
    remarks: tuple[str, ...]
    record_path: Path | None
    figure_path: Path | None

    def to_dict(self) -> dict[str, Any]:
        """The evaluation's figures and the paths, as JSON can hold them."""
        return {
            "images": self.images,
            "engine": self.engine,
            "remarks": list(self.remarks),
            "record": str(self.record_path) if self.record_path else None,
            "figure": str(self.figure_path) if self.figure_path else None,
        } | self.evaluation.to_dict()


def assess(
    run: ClassifierRun,
    *,
    data: str | Path | None = None,
    include: str | None = None,
    ten_crop: bool = False,
    engine: Engine = "auto",
) -> EvaluationReport:
    """Show a run its test images, or those of ``data``; keep the record and the confusion matrix in ``evaluations/``.

    Of the files of ``data``, those are shown that fit ``include``, or else the pattern that the run was trained with.
    A look at the run's own test images is counted on its card. ``engine`` "torch" does without the CPU engine.

    Raises:
        RunError: the run's images are gone, or it has no weights.
        DataError: the classes of ``data`` are not the run's, or ten crops of images that must not be mirrored.
        UnknownNameError: no such engine.
    """
    known_engine(engine)  # before the images: a mistake is an error at once
    chosen = _images_for(run, data, include)
    evaluation, ran_by = _evaluate(run, chosen.images, ten_crop=ten_crop, engine=engine)
    remarks = [*chosen.remarks, *filter(None, [one_answer_finding(evaluation) or guessing_finding(evaluation)])]
    if ten_crop and run.card.preprocessing.resize == run.card.preprocessing.crop:
        remarks.append("images are shown whole: the ten crops are the image and its mirror image, five times each")
    name = f"{chosen.name} ten-crop" if ten_crop else chosen.name
    try:
        if chosen.is_own_test:
            run.count_test()
        return _keep(run, evaluation, name, ran_by, tuple(remarks))
    except StorageError as error:
        return EvaluationReport(evaluation, name, ran_by, (*remarks, f"not kept: {error}"), None, None)


def assess_pretrained(
    classifier: PretrainedClassifier, data: str | Path, *, include: str | None = None, engine: Engine = "auto"
) -> EvaluationReport:
    """Show a network with somebody's weights all images of ``data``, whose classes are some of those it names.

    With ``include``, only files that fit the pattern.

    Raises:
        DataError: classes that the weights do not know; the nearest that they know are named.
        UnknownNameError: no such engine.
    """
    known_engine(engine)
    source = open_source(data, include)
    own = _among(classifier.classes, source)
    preprocessing = classifier.preprocessing
    fingerprint, images = every_image(source, channels=preprocessing.channels, resize=preprocessing.resize)
    labelled = replace(images, labels=np.array(own)[images.labels])
    evaluation, ran_by = _judged(classifier, labelled, ten_crop=False, engine=engine)
    return EvaluationReport(evaluation, f"{source.name} {fingerprint[:4]}", ran_by, (), None, None)


def _among(known: Sequence[str], source: Source) -> list[int]:
    """Which of the known classes each of a source's is: by name, whatever the case, "_" for a space."""
    places = {_plain(name): place for place, name in reversed(list(enumerate(known)))}
    strangers = [name for name in source.classes if _plain(name) not in places]
    if strangers:
        near = difflib.get_close_matches(_plain(strangers[0]), places, n=3)
        meant = f"; for {strangers[0]}, rename the folder to one of {', '.join(near)}" if near else ""
        raise DataError(
            f"{source.location} has classes that these weights do not know: {first_of(strangers)}{meant}. They name "
            f"{len(known):,} classes: {first_of(known, 4)}"
        )
    return [places[_plain(name)] for name in source.classes]


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").strip()


def test_once(run: ClassifierRun, dataset: Dataset) -> Evaluation | None:
    """The end of a training: show the run its test images, where it has some, and put the result on its card.

    They are shown by PyTorch alone where it trained alone.
    """
    if dataset.test is None:
        return None
    engine: Engine = "auto" if run.card.engine.name == "convatlas" else "torch"
    evaluation, ran_by = _evaluate(run, dataset.test, ten_crop=False, engine=engine)
    _keep(run, evaluation, f"{dataset.name} test", ran_by)
    run.count_test()
    run.update(test=evaluation.summary())
    return evaluation


def keep_validation(run: ClassifierRun, dataset: Dataset) -> Evaluation:
    """The end of a training without a test set: confusions and classes of the images that chose the weights."""
    engine: Engine = "auto" if run.card.engine.name == "convatlas" else "torch"
    evaluation, ran_by = _evaluate(run, dataset.validation, ten_crop=False, engine=engine)
    _keep(run, evaluation, f"{dataset.name} validation", ran_by, (CHOSE_THE_WEIGHTS,))
    return evaluation


def write_report(
    run: ClassifierRun,
    history: Sequence[HistoryRow],
    test: Evaluation | None,
    validation: Evaluation | None = None,
) -> None:
    """Render the run as one offline page, ``report.html``; ``validation`` is of a run without test images."""
    from convatlas.reports.page import render_run
    from convatlas.reports.record import RunRecord

    card, entry = run.card, run.entry()
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
        "data": card.data.model_dump(mode="json") | {"classes": list(card.classes)},
        "preprocessing": card.preprocessing.model_dump(mode="json"),
        "recipe": card.recipe,
        "history": [row.flat() for row in history],
        "best": card.best,
        "test": test.to_dict() if test is not None else None,
        "validation": validation.to_dict() if validation is not None else None,
        "environment": card.environment | {"engine": card.engine.name},
        "findings": list(card.findings),
    }
    files.write_text(run.path / "report.html", render_run(cast(RunRecord, record)))


def dataset_of(
    run: ClassifierRun, location: str | Path | None = None, watch: Callable[[int, int], None] | None = None
) -> Dataset:
    """The images of a run, divided as they were when it was trained; at ``location`` if they have moved.

    ``watch`` is told how many are decoded, while there is something to decode.

    Raises:
        RunError: they are gone.
    """
    with main_process_first():
        return _prepared_for(run, _source_of(run, location), watch)


def _source_of(run: ClassifierRun, location: str | Path | None, include: str | None = None) -> Source:
    include = include or run.card.data.include
    if location is not None:
        return open_source(location, include)
    try:
        return open_source(run.card.data.location, include)
    except ConvatlasError as error:
        raise RunError(
            f"the images of {run.path} are gone: {error}. If they have moved, name their place with --data"
        ) from error


def _prepared_for(run: ClassifierRun, source: Source, watch: Callable[[int, int], None] | None = None) -> Dataset:
    data, preprocessing = run.card.data, run.card.preprocessing
    return prepare(
        source,
        channels=preprocessing.channels,
        resize=preprocessing.resize,
        validation_fraction=data.validation_fraction or DEFAULT_VALIDATION_FRACTION,
        split_seed=data.split_seed,
        leaves_out_copies=data.copies_left_out is not None,
        watch=watch,
    )


@dataclass(frozen=True)
class _Chosen:
    """Images to evaluate on, what to call them, and what a reader should know about them."""

    images: ImageArray
    name: str
    remarks: tuple[str, ...] = ()
    is_own_test: bool = False


def _images_for(run: ClassifierRun, data: str | Path | None, include: str | None) -> _Chosen:
    source = _source_of(run, data, include)
    fingerprint = None
    _refuse_strange_classes(run, source)
    if data is not None:
        preprocessing, classes = run.card.preprocessing, run.card.classes
        fingerprint, images = every_image(source, channels=preprocessing.channels, resize=preprocessing.resize)
        if fingerprint != run.card.data.fingerprint:
            own_labels = np.array([classes.index(name) for name in source.classes])[images.labels]
            return _Chosen(replace(images, labels=own_labels), f"{source.name} {fingerprint[:4]}")
    return _own_images(run, _prepared_for(run, source))


def _own_images(run: ClassifierRun, dataset: Dataset) -> _Chosen:
    remarks = []
    if dataset.classes != run.card.classes:
        missing = [name for name in run.card.classes if name not in dataset.classes]
        how = f"without {', '.join(missing[:3])}" if missing else "in another order"
        raise DataError(
            f"the images in {dataset.location} no longer have the classes of {run.path}: they come {how}. Put them "
            "back, or name other images with --data"
        )
    if dataset.fingerprint != run.card.data.fingerprint:
        remarks.append("the images have changed since the training: some of these may have been trained on")
    if dataset.test is not None:
        return _Chosen(dataset.test, f"{dataset.name} test", tuple(remarks), is_own_test=True)
    remarks.append(CHOSE_THE_WEIGHTS)
    return _Chosen(dataset.validation, f"{dataset.name} validation", tuple(remarks))


def _refuse_strange_classes(run: ClassifierRun, source: Source) -> None:
    strangers = [name for name in source.classes if name not in run.card.classes]
    if strangers:
        raise DataError(
            f"{source.location} has classes that {run.path} was not trained on: {', '.join(strangers)}. "
            f"It knows {', '.join(run.card.classes)}"
        )


def _keep(
    run: ClassifierRun, evaluation: Evaluation, images: str, ran_by: str, remarks: tuple[str, ...] = ()
) -> EvaluationReport:
    from convatlas.reports.figures import confusion_figure, save_figure

    if (run.path / EVALUATIONS).is_symlink():
        raise StorageError(f"{run.path / EVALUATIONS} is a link, and nothing is written through it")
    stem = run.path / EVALUATIONS / images.replace(" ", "-")
    record, figure = Path(f"{stem}.json"), Path(f"{stem}.png")
    report = EvaluationReport(evaluation, images, ran_by, remarks, record, figure)
    files.write_text(record, json.dumps(report.to_dict(), ensure_ascii=False))
    save_figure(confusion_figure(evaluation.confusion.tolist(), evaluation.classes), figure)
    return report


def _evaluate(run: ClassifierRun, images: ImageArray, *, ten_crop: bool, engine: Engine) -> tuple[Evaluation, str]:
    """An evaluation, and the name of the engine that ran the network."""
    if ten_crop and not run.card.data.mirror:
        raise DataError(
            f"ten crops are five and their mirror images, and mirrored {run.card.data.name} change their class"
        )
    return _judged(run, images, ten_crop=ten_crop, engine=engine)


def _judged(
    classifier: ImageClassifier, images: ImageArray, *, ten_crop: bool, engine: Engine
) -> tuple[Evaluation, str]:
    preprocessing = classifier.preprocessing
    size = max(1, preprocessing.evaluation_batch // (10 if ten_crop else 1))
    batches = Batches(images, preprocessing, size, place=Place(processes().device), ten_crop=ten_crop)
    classifier.model().to(processes().device)
    acceleration = classifier.accelerated(engine, min(size, len(images)) * (10 if ten_crop else 1))
    judge = judged(acceleration.module, batches, classifier.task())
    return cast(Evaluation, judge.result()), acceleration.card.name
