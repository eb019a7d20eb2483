"""Weights into a network, or a refusal: what was not loaded is told, and too little is an error."""

from __future__ import annotations

from pathlib import Path

from convatlas.errors import WeightsError
from convatlas.models.contract import Classifier
from convatlas.tensors import is_finite
from convatlas.weights.matching import match
from convatlas.weights.report import LoadReport
from convatlas.weights.source import Weights, open_weights

LEAST_SHARE = 0.9  # of a network's parameters before its dense layers, that a file must have for it


def load_weights(model: Classifier, source: str | Path | Weights, *, partial: bool = False) -> LoadReport:
    r"""Load somebody's weights into a network of ours; the report says of each layer what became of it.

    >>> from convatlas.models import create_model
    >>> report = load_weights(create_model("resnet50"), "resnet50-0676ba61.pth")  # doctest: +SKIP
    >>> print(*report.lines(), sep="\n")  # doctest: +SKIP
    weights  resnet50-0676ba61.pth, by name
      loaded                25,557,032 parameters in 107 layers

    Layers are found by their names, by what the paper calls them, or by their order, whichever loads most. An output
    layer for other classes stays as it is: a new head.

    Args:
        model: a network of ``create_model``.
        source: "imagenet", a file of torchvision, timm or Keras, a run, or what ``open_weights`` gave.
        partial: accept a file that has less than nine tenths of the parameters before the dense layers.

    Raises:
        WeightsError: the file cannot be read, has values that are not finite, or too little of the network.
    """
    weights = source if isinstance(source, Weights) else open_weights(source, model.registered_as or "")
    found = match(model, weights)
    report = found.report
    if report.features_share < LEAST_SHARE and not partial:
        raise WeightsError(_too_little(report))
    broken = [name for name, tensor in found.tensors.items() if not is_finite(tensor)]
    if broken:
        raise WeightsError(f"{report.source} has values that are not finite, first in {broken[0]}")
    model.load_state_dict(dict(found.tensors), strict=False)
    return report


def _too_little(report: LoadReport) -> str:
    lacking = next((layer for layer in report.layers if layer.status == "mismatched"), None)
    why = f"; {lacking.layer} has {lacking.detail}" if lacking is not None else ""
    if not report.loaded:
        why += "; no layer of the file was recognised" if lacking is None else ""
    return (
        f"{report.source} is not for this network: {report.loaded:,} of its {report.total:,} parameters could be "
        f"loaded, {report.features_share:.0%} of those before the dense layers{why}. Name the network that the file is "
        "of, or take it as it is with --partial-weights"
    )
