"""The run of a classifier: names the classes of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from convatlas.data.appearance import Appearance
from convatlas.data.preprocessing import Preprocessing
from convatlas.runs.cards import ClassificationCard
from convatlas.runs.image_classifier import ImageClassifier
from convatlas.runs.run import Run

if TYPE_CHECKING:
    from convatlas.models.contract import Classifier


class ClassifierRun(ImageClassifier, Run, card_type=ClassificationCard):
    """A classifier, its classes, and how images are prepared for it.

    >>> run = Run.open("runs/2026-11-22-lenet5-digits-3f2a")  # doctest: +SKIP
    >>> run.predict(["seven.png"])[0].label  # doctest: +SKIP
    '7'
    """

    card: ClassificationCard

    def __init__(self, path: Path, card: ClassificationCard) -> None:
        super().__init__(path, card)
        self._model: Classifier | None = None

    @property
    def network_name(self) -> str:
        """As the card has it."""
        return self.card.model.name

    @property
    def place(self) -> str:
        """The run's directory."""
        return str(self.path)

    @property
    def classes(self) -> tuple[str, ...]:
        """As the card has them."""
        return self.card.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """As the card has it."""
        return self.card.preprocessing

    @property
    def appearance(self) -> Appearance | None:
        """As the card has it."""
        return self.card.appearance

    def model(self) -> Classifier:
        """The network with its best weights, in evaluation mode; built once.

        Raises:
            RunError: there are no weights yet, or they are not those of this network.
        """
        from convatlas.models import outline_model

        if self._model is None:
            self._model = self.with_weights(outline_model(**self.card.model.model_dump()))
        return self._model
