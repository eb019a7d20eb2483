"""A linear probe and nearest neighbours on somebody's weights, and the features themselves in a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convatlas import files
from convatlas.data.cache import prepare
from convatlas.data.catalog import open_source
from convatlas.data.dataset import Dataset
from convatlas.data.geometry import choose_geometry
from convatlas.data.preprocessing import Preprocessing
from convatlas.data.source import Source
from convatlas.errors import DataError
from convatlas.models.contract import Classifier
from convatlas.models.registry import create_model, model_entry
from convatlas.runs import ClassifierRun, Run
from convatlas.transfer.baseline import Baseline, probed
from convatlas.transfer.features import features_of
from convatlas.weights import Weights, load_weights, open_weights
from convatlas.weights.imagenet import IMAGENET
from convatlas.weights.pretrained import is_network_name

VALIDATION_FRACTION = 0.1  # where a set has no images to judge by


@dataclass(frozen=True)
class ProbeReport:
    """What the features of a layer are worth, and how the weights were found."""

    network: str
    layer: str
    baseline: Baseline
    loaded: tuple[str, ...]
    seconds: float
    out: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "network": self.network,
            "layer": self.layer,
            "weights": list(self.loaded),
            "seconds": round(self.seconds, 2),
            "features_file": str(self.out) if self.out is not None else None,
        } | self.baseline.to_dict()


def probe_images(  # noqa: PLR0913, what a person may want to say
    network: str,
    data: str | Path,
    *,
    weights: str | None = None,
    layer: str | None = None,
    image_size: int | None = None,
    include: str | None = None,
    balanced: bool = False,
    out: Path | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> ProbeReport:
    """Fit a linear probe to a network's features of images and judge it; nothing of the network is changed.

    >>> probe_images("efficientnet_lite0", "ants-bees.tar").baseline.probe.accuracy  # doctest: +SKIP
    0.948

    Raises:
        WeightsError: there are none, or not of this network.
        DataError: ``out`` is no .npz file, or the images cannot be used.
        UnknownNameError: no such network or layer.
    """
    if out is not None and out.suffix != ".npz":
        raise DataError(f"features are written as .npz; received {out}")
    start = time.perf_counter()
    told("reading weights")
    name, model, opened = _network(network, weights, image_size)
    report = load_weights(model, opened)
    told("reading images")
    dataset, preprocessing = _images(model, opened, open_source(data, include), name, image_size)
    told("computing features")
    found = probed(model, dataset, preprocessing, tap=layer, balanced=balanced)
    if out is not None:
        _write(out, model, dataset, preprocessing, layer)
    place = layer or f"what {model.output_names[-1]} is given"
    seconds = time.perf_counter() - start
    return ProbeReport(name, place, found.baseline, tuple(report.lines()), seconds, out)


def _network(network: str, weights: str | None, image_size: int | None) -> tuple[str, Classifier, Weights]:
    """A network by name with fresh weights, and those to load."""
    if is_network_name(network):
        opened = open_weights(weights or IMAGENET, network)
        name = network
    else:
        run = Run.open(network)
        if not isinstance(run, ClassifierRun):
            raise DataError(f"{run.path} is the run of no classifier: a probe is of one")
        if run.card.model.code is not None:
            raise DataError(f"{run.path} is of a network of one's own: a probe is of a registered one")
        name, opened = run.card.model.name, open_weights(run.path, run.card.model.name)
        image_size = image_size or run.card.model.image_size
    return name, create_model(name, in_channels=opened.in_channels, image_size=image_size, seed=0), opened


def _images(
    model: Classifier, weights: Weights, source: Source, name: str, image_size: int | None
) -> tuple[Dataset, Preprocessing]:
    wanted = image_size or model.image_size
    geometry = replace(
        choose_geometry(source, native_size=model_entry(name).image_size, image_size=wanted), channels=model.in_channels
    )
    dataset = prepare(
        source, channels=geometry.channels, resize=geometry.resize, validation_fraction=VALIDATION_FRACTION
    )
    return dataset, weights.prepared(resize=geometry.resize, crop=geometry.crop)


def _write(path: Path, model: Classifier, dataset: Dataset, preprocessing: Preprocessing, layer: str | None) -> None:
    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    arrays: dict[str, Any] = {"classes": np.array(dataset.classes)}
    for part, images in parts.items():
        if images is not None:
            arrays[f"{part}_features"] = features_of(model, images, preprocessing, tap=layer)
            arrays[f"{part}_labels"] = images.labels
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
