"""The three-line Python way: puts the rooms together.

>>> import convatlas
>>> run = convatlas.train("vgg11_bn_cifar", data="photos/", epochs=10)  # doctest: +SKIP
>>> convatlas.load(run.path).predict("cat.jpg")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from convatlas.acceleration import Engine, known_engine
from convatlas.assessment.anomalies import AnomalyReport
from convatlas.assessment.autoencoder import assess_autoencoder
from convatlas.assessment.classifier import assess
from convatlas.assessment.image_autoencoder import assess_image_autoencoder
from convatlas.errors import DataError, RecipeError, RunError, shortened
from convatlas.examination import inspect_subject
from convatlas.explained import Explained, explain_file
from convatlas.inspection import Inspection
from convatlas.models.own import is_code, own_entry, read_code
from convatlas.models.registry import AutoencoderEntry, Entry, ImageAutoencoderEntry, find_entry
from convatlas.runs import AutoencoderRun, ClassifierRun, ImageAutoencoderRun, Run
from convatlas.subjects import open_subject
from convatlas.tasks.classify.metrics import Evaluation
from convatlas.tasks.reconstruct.thresholds import parse_rate
from convatlas.training.processes import on_device
from convatlas.training.progress import RichWatch, Watch
from convatlas.training.recipe import Recipe
from convatlas.weights import PretrainedClassifier
from convatlas.weights.source import WEIGHT_FILES
from convatlas.workflows.classify import resume_classifier, train_classifier
from convatlas.workflows.reconstruct import resume_autoencoder, train_autoencoder
from convatlas.workflows.reconstruct_images import resume_image_autoencoder, train_image_autoencoder


def train(  # noqa: PLR0913, what a person may want to say
    model: str,
    data: Any,
    *,
    recipe: str | Path | Recipe | None = None,
    image_size: int | None = None,
    label: str | None = None,
    normal: str | None = None,
    time: str | None = None,
    false_alarms: float | str | None = None,
    out: str | Path | None = None,
    strict: bool | None = None,
    include: str | None = None,
    engine: Engine | None = None,
    device: str | None = None,
    memory: str | int | None = None,
    weights: str | Path | None = None,
    partial_weights: bool = False,
    watch: Watch | None = None,
    **settings: Any,
) -> Run:
    """Train a network and return the run it leaves: a classifier on images, an autoencoder on the rows of a table.

    >>> run = train("lenet5", data="fashion-mnist", epochs=5)  # doctest: +SKIP
    >>> run.card.test["accuracy"]  # doctest: +SKIP
    0.9021
    >>> run = train("autoencoder_plain", data="payments.csv", label="Class", false_alarms="0.1%")  # doctest: +SKIP
    >>> run.card.test["average_precision"]  # doctest: +SKIP
    0.79

    Args:
        model: a registered network, see ``list_models``; or "my_net.py:make", a function in a file of your own that
            returns a module. It is told ``num_classes``, ``in_channels`` and ``image_size`` where it takes them. The
            file is copied into the run.
        data: a data set by name, an image folder, an archive of one, or a ``.npz`` file; for an autoencoder a CSV,
            Parquet or ``.npz`` file of rows, a pandas DataFrame or a NumPy array [n, columns].
        recipe: a recipe, the name of a shipped one or a file; the network's own when left out.
        image_size: side of the images the network sees; by default theirs when small, else the network's own.
        label: of a table, the column that tells normal rows from anomalies. It is used to leave anomalies out of what
            is learnt from, and to judge; it is never shown to the network.
        normal: of a table, the label of normal rows; the most frequent one when left out.
        time: of a table, the column by which the rows are divided, the latest to be the test set; at random without.
        false_alarms: of a table, the share of normal rows that may be called anomalies, 0.01 or "1%", which sets the
            threshold; 1 % when left out.
        out: directory of the run; a new one under ``runs/`` when left out.
        strict: refuse damaged images instead of leaving them out.
        include: of an image folder or archive, a pattern that the files have to fit, such as "*.jpg"; the run keeps it.
        engine: "torch" for PyTorch alone; by default, on a CPU and in float32, the engine of convatlas.
        device: "cpu", "cuda", "cuda:1" or "mps"; by default a GPU where there is one.
        memory: bytes, or "8GB": train within this much of the process's memory, on smaller batches where need be.
        weights: what a classifier starts from: "imagenet", a file of torchvision, timm or Keras, or a run. Images
            are then prepared as the weights expect, and the recipe is ``transfer`` unless another is named.
        partial_weights: accept weights that have less than nine tenths of what is before the dense layers.
        watch: follows the training; a live display when left out.
        **settings: changes to the recipe, such as ``epochs=5``, ``time_budget=600`` (seconds) or ``seed=1``, and to the
            network, such as ``contraction=1e-4``.

    Raises:
        ConvatlasError: whatever a person can mend, in one line.
    """
    name = _network_name(model)
    entry = own_entry(read_code(name)) if is_code(name) else find_entry(name)
    _require_texts("the name of a column", label=label, time=time)
    _require_texts("a pattern such as '*.jpg'", include=include)
    if engine is not None:
        known_engine(engine)  # before the data: a mistake is an error at once
    place = _place(out)
    with on_device(device), closing(watch or RichWatch()) as watching:
        if isinstance(entry, AutoencoderEntry):
            refused = {
                "image_size": image_size,
                "strict": strict,
                "include": include,
                "memory": memory,
                "weights": weights,
            }
            _refuse_for(entry, "trained on rows", **refused)
            return train_autoencoder(
                entry,
                data,
                recipe,
                settings,
                label=label,
                normal=normal,
                time=time,
                false_alarms=false_alarms,
                out=place,
                engine=engine or "auto",
                watch=watching,
            )
        if isinstance(entry, ImageAutoencoderEntry):
            refused = {
                "label": label,
                "time": time,
                "strict": strict,
                "engine": engine,
                "memory": memory,
                "weights": weights,
            }
            _refuse_for(entry, "trained on good images", **refused)
            return train_image_autoencoder(
                entry,
                data,
                recipe,
                settings,
                image_size=image_size,
                include=include,
                normal=normal,
                false_alarms=false_alarms,
                out=place,
                watch=watching,
            )
        _refuse_for(entry, "a classifier of images", label=label, normal=normal, time=time, false_alarms=false_alarms)
        return train_classifier(
            entry,
            data,
            recipe,
            settings,
            image_size=image_size,
            out=place,
            strict=bool(strict),
            include=include,
            engine=engine or "auto",
            memory=memory,
            weights=weights,
            partial_weights=partial_weights,
            watch=watching,
        )


def resume(
    run: str | Path,
    *,
    data: Any = None,
    epochs: int | None = None,
    time_budget: float | None = None,
    engine: Engine | None = None,
    trust: bool = False,
    device: str | None = None,
    watch: Watch | None = None,
) -> Run:
    """Go on with a run that was stopped or killed, to the weights it would have had; or further than was planned.

    >>> resume("runs/2026-11-22-lenet5-digits-3f2a", epochs=20)  # doctest: +SKIP

    Args:
        run: a run's directory, or its name under ``runs/``.
        data: where the run's images or rows are now, if they have moved.
        epochs, time_budget: a new length of the whole training, passes already made and seconds already spent included.
        engine: another engine from here on; by default the one that trained so far, with the kernels it chose then.
        trust: let the code of somebody's own network, which the run may hold, be run.
        device: as of ``train``; it may be another than before.
        watch: follows the training; a live display when left out.

    Raises:
        RunError: nothing to resume, nothing left to do, or the data are no longer those of the run.
    """
    if engine is not None:
        known_engine(engine)
    opened = Run.open(run, trust=trust)
    with on_device(device), closing(watch or RichWatch()) as watching:
        if isinstance(opened, ImageAutoencoderRun):
            if engine is not None:
                raise RecipeError(f"engine has no meaning for {opened.card.model.name}, for images: leave it out")
            return resume_image_autoencoder(opened, data=data, epochs=epochs, time_budget=time_budget, watch=watching)
        if isinstance(opened, AutoencoderRun):
            return resume_autoencoder(
                opened, data=data, epochs=epochs, time_budget=time_budget, engine=engine, watch=watching
            )
        return resume_classifier(
            _classifier(opened), data=data, epochs=epochs, time_budget=time_budget, engine=engine, watch=watching
        )


def load(run: str | Path, *, trust: bool = False) -> Run:
    """Open a run: a directory, or its name under ``runs/``.

    >>> load("runs/2026-11-22-lenet5-digits-3f2a").predict("seven.png")[0].label  # doctest: +SKIP
    '7'

    Args:
        run: a directory, or its name under ``runs/``.
        trust: let the code of somebody's own network, which a run may hold, be run here from now on. Runs that were
            trained here need no such word.

    Raises:
        RunError: not a run, damaged, or written by a newer convatlas.
    """
    return Run.open(run, trust=trust)


def inspect(
    what: str | Path | nn.Module | Run,
    example: torch.Tensor | Sequence[Any] | None = None,
    *,
    image_size: int | None = None,
    num_classes: int | None = None,
    columns: int | None = None,
    batch_size: int | None = None,
) -> Inspection:
    """The truth about a network before training: shapes, parameters, cost, receptive field, memory.

    >>> inspect("vgg16").layer("conv5_3").receptive_field.size  # doctest: +SKIP
    (196, 196)
    >>> inspect(torch.nn.Conv2d(3, 8, 3), (3, 32, 32)).macs
    194400

    Args:
        what: a registered network, a run, "path.py:factory", or any module.
        example: what a module is called with: a tensor, several, or the shape of an image, (3, 224, 224) when left out.
        image_size, num_classes: of a registered network for images.
        columns: of a registered autoencoder, numbers that a row becomes; its own when left out.
        batch_size: for which memory is planned; the recipe's, or 32, when left out.

    Raises:
        ConvatlasError: there is no such network, or it cannot be called with such an input; says where it fails.
    """
    subject = open_subject(what, example, image_size=image_size, num_classes=num_classes, columns=columns)
    return inspect_subject(subject, batch_size=batch_size)


def evaluate(
    run: str | Path | Run,
    *,
    data: Any = None,
    include: str | None = None,
    ten_crop: bool = False,
    prevalence: float | str | None = None,
    engine: Engine = "auto",
    device: str | None = None,
) -> Evaluation | AnomalyReport:
    """Show a run the test data it was not trained on, or ``data``: images, or for an autoencoder rows.

    ``include``, of images, is a pattern that the files of ``data`` have to fit; left out, that of the training.
    ``device`` is that of a classifier: "cpu", "cuda", "cuda:1" or "mps".
    ``prevalence``, of rows only, is the share of anomalies where the network will be used: 0.002, or "0.2%".

    >>> evaluate("runs/2026-11-22-lenet5-digits-3f2a").accuracy  # doctest: +SKIP
    0.9861

    Raises:
        DataError: the classes of ``data`` are not those of the run, or its columns.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    if isinstance(opened, AutoencoderRun | ImageAutoencoderRun):
        if device is not None:
            raise RunError(f"a device is for a classifier; {opened.path} is judged on the CPU. Leave device out")
        if ten_crop:
            raise RunError(f"ten crops are for a classifier; {opened.path} finds anomalies. Leave ten_crop out")
        share = parse_rate(prevalence) if prevalence is not None else None
        if isinstance(opened, ImageAutoencoderRun):
            return assess_image_autoencoder(opened, data=data, include=include, prevalence=share)
        if include is not None:
            raise RunError(f"a pattern chooses among image files; {opened.path} is of rows. Leave include out")
        return assess_autoencoder(opened, data=data, prevalence=share)
    if prevalence is not None:
        raise RunError(f"a prevalence is of anomalies; {opened.path} classifies images. Leave it out")
    with on_device(device):
        return assess(_classifier(opened), data=data, include=include, ten_crop=ten_crop, engine=engine).evaluation


def explain(
    run: str | Path | Run | PretrainedClassifier,
    image: str | Path,
    *,
    method: str = "gradcam",
    class_name: str | None = None,
    layer: str | None = None,
) -> Explained:
    """Where in an image a run sees a class: a map of the square that the network saw, 0 to 1.

    >>> found = explain("runs/2026-11-22-lenet5-digits-3f2a", "seven.png")  # doctest: +SKIP
    >>> found.class_name, found.map.shape, found.layer  # doctest: +SKIP
    ('7', (28, 28), 's4')

    Args:
        run: of a classifier; or a ``PretrainedClassifier``.
        image: a file, in any format Pillow reads.
        method: "gradcam", "gradcam++", "guided-backprop", "occlusion" or "integrated-gradients".
        class_name: that is looked for; the most probable one when left out.
        layer: of the first two methods, the paper's name of a layer; the last one that has a map when left out.

    Raises:
        ConvatlasError: not the run of a classifier, or one without weights; no such method, class or layer; a file
            that is no image.
    """
    opened = run if isinstance(run, PretrainedClassifier) else classifier_run(run)
    return explain_file(opened, image, method, class_name, layer)


def classifier_run(run: str | Path | Run) -> ClassifierRun:
    """A run, opened where it is not yet, of which only a classifier's will do.

    Raises:
        RunError: there is none, or it is another kind of run.
    """
    return _classifier(run if isinstance(run, Run) else Run.open(run))


def _classifier(run: Run) -> ClassifierRun:
    if not isinstance(run, ClassifierRun):
        raise RunError(f"{run.path} is not the run of a classifier")
    return run


def _network_name(model: object) -> str:
    """The name of a network; what people name instead is told in one line."""
    if isinstance(model, nn.Module):
        raise RecipeError(
            f"train takes the name of a network, as list_models() has them; received a {type(model).__name__}. "
            "convatlas.inspect and convatlas.engine.accelerate take a module of your own"
        )
    if not isinstance(model, str):
        raise RecipeError(f"train takes the name of a network; received {shortened(repr(model))}")
    if Path(model).suffix in WEIGHT_FILES:
        raise RecipeError(
            f"{shortened(model)} is a file of weights: name the network that they are for, and the file as weights "
            "(--weights on the command line)"
        )
    return model


def _require_texts(what: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None and not isinstance(value, str):
            raise DataError(f"{name} is {what}, a text; received {value!r}")


def _place(out: object) -> Path | None:
    if out is not None and not isinstance(out, str | PathLike):
        raise RunError(f"out is the directory of the run, a path; received {shortened(repr(out))}")
    return Path(out) if out is not None else None


def _refuse_for(entry: Entry, what: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise RecipeError(f"{name} has no meaning for {entry.name}, {what}: leave it out")
