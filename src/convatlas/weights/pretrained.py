"""A registered network with somebody's weights, used as it is: without a run, without training."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from convatlas.data.geometry import MARGIN
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import WeightsError
from convatlas.models.contract import Classifier
from convatlas.models.registry import create_model, list_models, model_entry
from convatlas.runs.image_classifier import ImageClassifier
from convatlas.weights.imagenet import IMAGENET
from convatlas.weights.load import load_weights
from convatlas.weights.report import LoadReport
from convatlas.weights.source import Weights, open_weights


class PretrainedClassifier(ImageClassifier):
    """A network whose weights know classes: ImageNet's, or those of a run.

    >>> PretrainedClassifier("efficientnet_lite0").predict("photo.jpg")[0].label  # doctest: +SKIP
    'bee'

    Args:
        name: a registered network.
        weights: where they come from, as ``open_weights`` takes it.
        image_size: side of the images that it is shown; its own when left out.

    Raises:
        WeightsError: there are none, they are not of this network, or their classes are not known.
    """

    def __init__(self, name: str, weights: str | Path = IMAGENET, *, image_size: int | None = None) -> None:
        self.name = name
        self.image_size = image_size or model_entry(name).image_size
        self.weights: Weights = open_weights(weights, name)
        if self.weights.classes is None:
            raise WeightsError(
                f"{self.weights.name} does not say which classes its outputs are, and cannot name any. Train from it: "
                f"convatlas train {name} --data PHOTOS --weights {weights}"
            )

    @property
    def network_name(self) -> str:
        """The registered network that it is."""
        return self.name

    @property
    def place(self) -> str:
        """What the weights are called."""
        return self.weights.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each output."""
        assert self.weights.classes is not None
        return self.weights.classes

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """As the weights expect."""
        return self.weights.prepared(resize=round(self.image_size * MARGIN), crop=self.image_size)

    @cached_property
    def report(self) -> LoadReport:
        """What became of each layer when the weights were loaded."""
        return self._loaded[1]

    def model(self) -> Classifier:
        """The network with its weights, in evaluation mode; built once."""
        return self._loaded[0]

    @cached_property
    def _loaded(self) -> tuple[Classifier, LoadReport]:
        network = create_model(
            self.name,
            num_classes=len(self.classes),
            in_channels=self.preprocessing.channels,
            image_size=self.image_size,
            seed=0,
        )
        report = load_weights(network, self.weights)
        head = next(layer for layer in report.layers if layer.layer == network.output_names[-1])
        if head.status != "loaded":
            raise WeightsError(f"{self.weights.name} has no output layer for {self.name}, so it cannot name classes")
        self.weights = self.weights.without_layers()
        return network.eval(), report


def is_network_name(what: str) -> bool:
    """Whether a registered classifier is meant: a folder that is named like one is meant only if it is a run.

    >>> is_network_name("efficientnet_lite0")
    True
    """
    return what in list_models() and not (Path(what) / "card.json").exists()
