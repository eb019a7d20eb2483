"""How good an autoencoder is at finding images that are not normal: which kinds, where, and beside which rivals."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
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
from convatlas.data.cache import every_image
from convatlas.data.catalog import open_source
from convatlas.data.dataset import ImageArray
from convatlas.data.decode import decode_file
from convatlas.data.good_images import PreparedImages, prepare_images
from convatlas.data.source import Source
from convatlas.errors import ConvatlasError, DataError, RunError
from convatlas.runs import ImageAutoencoderRun
from convatlas.runs.image_autoencoder import ImageCalibration
from convatlas.tasks.reconstruct.metrics import SUMMARY, judge_scores
from convatlas.tasks.reconstruct.places import Places, map_scores, smoothed
from convatlas.tasks.reconstruct.rivals import fitted_image_rival, image_rivals
from convatlas.tasks.reconstruct.thresholds import p_values
from convatlas.training.history import HistoryRow
from convatlas.training.recipe import ImageReconstructionRecipe, parse_recipe

MOST_FOR_PLACES = 1000  # good images that say what error is usual at each place
MOST_VALUES = 2**26  # of images or maps that are held at once: a quarter of a gigabyte
MASKS, MARKED_ABOVE = "ground_truth", 127  # where masks lie, and from which grey on a pixel is marked
SHOWN_IMAGES = 8  # of the worst misses, the false alarms and what is found
Images = NDArray[np.float32]


def assess_image_autoencoder(
    run: ImageAutoencoderRun,
    *,
    data: Any = None,
    include: str | None = None,
    prevalence: float | None = None,
    told: Told | None = None,
) -> AnomalyReport:
    """Judge a run by its test images, or by those of ``data``; keep the record in ``evaluations/``.

    A look at the run's own test images is counted on its card; so is one at ``data`` that are the set it was trained
    on, of which no other images are judged.

    Args:
        run: of an autoencoder of images.
        data: other images by class, the normal one among them.
        include: a pattern that the files of ``data`` have to fit; that of the training when left out.
        prevalence: the share of anomalies where the network will be used; not stated when left out.
        told: hears which rival is at work.

    Raises:
        RunError: the run's images are gone, or it is not calibrated.
        DataError: ``data`` cannot be read, or has not the normal class.
    """
    if data is not None:
        return _assess_other(run, open_source(data, include or run.card.data.include), prevalence, told)
    return _assess_own(run, prepared_images_for(run), prevalence, told)


def judge_test_images(run: ImageAutoencoderRun, prepared: PreparedImages) -> dict[str, Any]:
    """The end of a training: show the run its test images, and put the result on its card."""
    record = _judged_own(run, prepared, None, None)
    keep_record(run, f"{prepared.name} test", record, ())
    run.count_test()
    run.update(test={name: record[name] for name in SUMMARY})
    return record


def usual_places(run: ImageAutoencoderRun, validation: ImageArray) -> Places:
    """What error is usual at each place, by the validation images."""
    side = run.card.model.image_size
    some = validation.subset(np.arange(min(len(validation), MOST_FOR_PLACES, most_of(side * side))))
    return Places.of(np.concatenate(list(run.errors(_batches(run, some)))))


def maps_of(run: ImageAutoencoderRun, images: ImageArray, places: Places) -> Iterator[NDArray[np.float32]]:
    """How unusual each place of some images is, [n, s, s] at a time."""
    return (places.unusual(errors) for errors in run.errors(_batches(run, images)))


def prepared_images_for(run: ImageAutoencoderRun, data: Any = None) -> PreparedImages:
    """The images of a run, divided as they were when it was trained; from ``data`` if they have moved.

    Raises:
        RunError: they are gone, or have changed.
    """
    card = run.card
    recipe = parse_recipe(card.recipe, str(run.path / "card.json"), ImageReconstructionRecipe)
    try:
        source = open_source(card.data.location if data is None else data, card.data.include)
    except ConvatlasError as error:
        if data is not None:
            raise
        raise RunError(
            f"the images of {run.path} are gone: {error}. If they have moved, name their place with --data"
        ) from error
    prepared = prepare_images(
        source,
        normal=card.data.normal,
        channels=card.preprocessing.channels,
        side=card.preprocessing.resize,
        shares=(recipe.validation_fraction, recipe.calibration_fraction, recipe.test_fraction),
        used=recipe.fit_fraction,
        split_seed=card.data.split_seed,
    )
    if prepared.fingerprint != card.data.fingerprint:
        raise RunError(
            f"the images in {prepared.location} are not the ones {run.path} was trained on any more. Put them back, "
            "name their place with --data, or start a new run"
        )
    return prepared


def write_image_report(
    run: ImageAutoencoderRun, history: Sequence[HistoryRow], test: dict[str, Any] | None, prepared: PreparedImages
) -> None:
    """Render the run as one offline page, ``report.html``."""
    from convatlas.reports.page import render_run

    card = run.card
    record: dict[str, Any] = {
        "task": card.task,
        "title": f"{card.model.name} on {card.data.name}",
        "run_path": str(run.path),
        "model": described_network(run),
        "data": card.data.model_dump(mode="json"),
        "preprocessing": card.preprocessing.model_dump(mode="json"),
        "recipe": card.recipe | card.model.settings,
        "history": [row.flat() for row in history],
        "best": card.best,
        "test": test,
        "pictures": _pictures(run, prepared, test) if test is not None else {},
        "environment": card.environment | {"engine": card.engine.name},
        "findings": list(card.findings),
    }
    files.write_text(run.path / "report.html", render_run(cast(Any, record)))


def _assess_own(
    run: ImageAutoencoderRun,
    prepared: PreparedImages,
    prevalence: float | None,
    told: Told | None,
    remarks: tuple[str, ...] = (),
) -> AnomalyReport:
    record = _judged_own(run, prepared, prevalence, told)
    return kept(run, f"{prepared.name} test", record, remarks, is_own_test=True)


def _assess_other(
    run: ImageAutoencoderRun, source: Source, prevalence: float | None, told: Told | None
) -> AnomalyReport:
    card = run.card
    if card.data.normal not in source.classes:
        raise DataError(
            f"{source.name} has no class {card.data.normal!r}, which is normal for {run.path}. For images without "
            f"labels there is convatlas predict {run.path} IMAGE..."
        )
    preprocessing = card.preprocessing
    fingerprint, images = every_image(source, channels=preprocessing.channels, resize=preprocessing.resize)
    if fingerprint == card.data.fingerprint:
        own = "these are the images it was trained on: judged are the test images, which it has not seen"
        return _assess_own(run, prepared_images_for(run, source.location), prevalence, told, (own,))
    record = _judged(run, images, source.classes, prevalence, lambda place: f"image {place + 1:,}")
    return kept(run, f"{source.name} {fingerprint[:4]}", record)


def _judged_own(
    run: ImageAutoencoderRun, prepared: PreparedImages, prevalence: float | None, told: Told | None
) -> dict[str, Any]:
    """The test images judged, and the rivals that learnt from the same good images beside the network."""
    test = prepared.test
    record = _judged(run, test, prepared.classes, prevalence, lambda place: prepared.name_of(test, place))
    record["located"] = _located(run, prepared)
    if prepared.is_anomaly(test).any():
        record["rivals"] = _rivals(run, prepared, prevalence, told)
    return record


def _judged(
    run: ImageAutoencoderRun, images: ImageArray, classes: Sequence[str], prevalence: float | None, name_of: Any
) -> dict[str, Any]:
    calibration = run.calibration()
    scores = np.concatenate([map_scores(maps) for maps in maps_of(run, images, calibration.places)])
    anomalies = images.labels != classes.index(run.card.data.normal)
    evaluation = judge_scores(
        scores,
        anomalies,
        calibration=calibration.scores,
        threshold=run.threshold(),
        prevalence=prevalence,
    )
    kinds = _kinds(images.labels, classes, run.card.data.normal, scores, run)
    wrong = {missed: _wrong(run, scores, anomalies, missed=missed) for missed in (True, False)}

    def told(places: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [_image(run, calibration, scores, place, name_of, classes[images.labels[place]]) for place in places]

    return evaluation.to_dict() | {
        "examples": "images",
        "columns": [],
        "located": None,
        "kinds": kinds,
        "rivals": [],
        "misses": told(wrong[True]),
        "false_alarm_rows": told(wrong[False]),
        "found": told(_found(run, scores, anomalies)),
        "drift": None,
    }


def _image(
    run: ImageAutoencoderRun,
    calibration: ImageCalibration,
    scores: NDArray[np.float64],
    place: int,
    name_of: Any,
    label: str,
) -> dict[str, Any]:
    score, threshold = float(scores[place]), run.card.threshold
    return {
        "place": int(place),
        "image": str(name_of(int(place))),
        "label": label,
        "score": score,
        "p_value": float(p_values(calibration.scores, [score])[0]),
        "alarm": threshold is not None and score > threshold.value,
    }


def _wrong(
    run: ImageAutoencoderRun, scores: NDArray[np.float64], anomalies: NDArray[np.bool_], *, missed: bool
) -> NDArray[np.int64]:
    """Anomalies with the lowest scores, or normal images with the highest; only wrong ones, by the threshold."""
    if run.card.threshold is None:
        return np.zeros(0, dtype=np.int64)
    bound = run.card.threshold.value
    wrong = np.flatnonzero(anomalies & (scores <= bound) if missed else ~anomalies & (scores > bound))
    order = np.argsort(scores[wrong] if missed else -scores[wrong], kind="stable")
    return wrong[order][:SHOWN_IMAGES]


def _found(run: ImageAutoencoderRun, scores: NDArray[np.float64], anomalies: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Anomalies with the highest scores."""
    bound = run.card.threshold.value if run.card.threshold is not None else -np.inf
    found = np.flatnonzero(anomalies & (scores > bound))
    return found[np.argsort(-scores[found], kind="stable")][:SHOWN_IMAGES]


def _kinds(
    labels: NDArray[np.int64],
    classes: Sequence[str],
    normal: str,
    scores: NDArray[np.float64],
    run: ImageAutoencoderRun,
) -> list[dict[str, Any]]:
    """How well each kind of anomaly is told from the normal images; first the one that is told worst."""
    from sklearn.metrics import roc_auc_score

    usual, threshold = scores[labels == classes.index(normal)], run.card.threshold
    found = []
    for number, name in enumerate(classes):
        own = scores[labels == number]
        if name == normal or not len(own):
            continue
        is_kind = np.r_[np.ones(len(own)), np.zeros(len(usual))]
        found.append(
            {
                "name": name,
                "n": len(own),
                "alarms": int((own > threshold.value).sum()) if threshold is not None else None,
                "roc_auc": float(roc_auc_score(is_kind, np.r_[own, usual])) if len(usual) else None,
            }
        )
    return sorted(found, key=lambda kind: kind["roc_auc"] or 0.0)


def _located(run: ImageAutoencoderRun, prepared: PreparedImages) -> dict[str, Any] | None:
    """How well the maps say where a defect is, by the masks ``ground_truth/KIND/NAME_mask.png`` of ``test/KIND/NAME``.

    ``pointed`` counts the images whose most unusual place lies in the mask; ``roc_auc`` is of all their pixels.
    """
    from sklearn.metrics import roc_auc_score

    test, side = prepared.test, run.card.preprocessing.resize
    found = ((place, mask) for place in range(len(test)) if (mask := _mask(prepared, place, side)) is not None)
    masks = dict(islice(found, most_of(side * side)))
    if not masks:
        return None
    some = test.subset(np.array(list(masks)))
    maps = smoothed(np.concatenate(list(maps_of(run, some, run.calibration().places))))
    is_wrong = np.stack(list(masks.values()))
    highest = maps.reshape(len(maps), -1).argmax(axis=1)
    pointed = int(is_wrong.reshape(len(maps), -1)[np.arange(len(maps)), highest].sum())
    return {"n": len(maps), "pointed": pointed, "roc_auc": float(roc_auc_score(is_wrong.ravel(), maps.ravel()))}


def _mask(prepared: PreparedImages, place: int, side: int) -> NDArray[np.bool_] | None:
    """Where the defect of a test image is, [side, side]; None where no file says, or it says nowhere."""
    test = prepared.test
    kind, name = prepared.classes[test.labels[place]], PurePosixPath(prepared.name_of(test, place))
    path = Path(prepared.location) / MASKS / kind / f"{name.stem}_mask.png"
    if kind == prepared.normal or not path.is_file():
        return None
    mask = decode_file(path, 1, side)[:, :, 0] > MARKED_ABOVE
    return mask if mask.any() and not mask.all() else None


def _rivals(
    run: ImageAutoencoderRun, prepared: PreparedImages, prevalence: float | None, told: Told | None
) -> list[dict[str, Any]]:
    """What others make of the same images, each with a threshold from the same calibration images."""
    shape = run.model().input_shape
    fit, validation = (
        _all(run, _some(part, most_of(math.prod(shape)))) for part in (prepared.fit, prepared.validation)
    )
    anomalies = prepared.is_anomaly(prepared.test)
    found = []
    for name in image_rivals():
        if told is not None:
            told(name)
        start = time.perf_counter()
        rival = fitted_image_rival(name, fit, validation)
        calibrating, testing = (
            np.concatenate([rival(images) for images in _inputs(run, part)])
            for part in (prepared.calibration, prepared.test)
        )
        seconds = time.perf_counter() - start
        found.append(rival_record(run, name, calibrating, testing, anomalies, prevalence=prevalence, seconds=seconds))
    return found


def _pictures(run: ImageAutoencoderRun, prepared: PreparedImages, test: dict[str, Any]) -> dict[str, list[str]]:
    """For each image that the report names: it, what the network made of it, and where they differ."""
    from convatlas.reports.residuals import strip

    calibration, preprocessing = run.calibration(), run.card.preprocessing
    drawn: dict[str, list[str]] = {"misses": [], "false_alarm_rows": [], "found": []}
    for group in drawn:
        places = np.array([each["place"] for each in test[group]], dtype=np.int64)
        if len(places):
            pixels = prepared.test.take(places)
            inputs, rebuilt = run.rebuilt(pixels)
            maps = calibration.places.unusual(next(run.errors(iter([pixels]))))
            seen, made = preprocessing.pixels(inputs), preprocessing.pixels(rebuilt)
            shown = zip(seen, made, maps, strict=True)
            drawn[group] = [strip(one, other, residual, calibration.wrong_above) for one, other, residual in shown]
    return drawn


def _batches(run: ImageAutoencoderRun, images: ImageArray) -> Iterator[NDArray[np.uint8]]:
    size = run.card.preprocessing.evaluation_batch
    for start in range(0, len(images), size):
        yield images.take(np.arange(start, min(start + size, len(images))))


def _inputs(run: ImageAutoencoderRun, images: ImageArray) -> Iterator[Images]:
    import torch

    for pixels in _batches(run, images):
        yield run.card.preprocessing.normalize(torch.from_numpy(pixels)).contiguous().numpy()


def most_of(values: int) -> int:
    """How many things of so many values are held at once."""
    return max(2, MOST_VALUES // values)


def _some(images: ImageArray, most: int) -> ImageArray:
    """At most so many images, drawn always in the same way."""
    if len(images) <= most:
        return images
    return images.subset(np.sort(np.random.default_rng(0).choice(len(images), most, replace=False)))


def _all(run: ImageAutoencoderRun, images: ImageArray) -> Images:
    return np.concatenate(list(_inputs(run, images)))
