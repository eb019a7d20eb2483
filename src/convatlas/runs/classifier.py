"""The run of a classifier: names the classes of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from convatlas import files
from convatlas.data.appearance import Appearance
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import RunError
from convatlas.runs.cards import ClassificationCard
from convatlas.runs.image_classifier import ImageClassifier
from convatlas.runs.run import Run, reason

if TYPE_CHECKING:
    from convatlas.models.contract import Classifier
    from convatlas.models.own import Code
    from convatlas.models.registry import ModelEntry

CODE = "network.py"  # of a network of one's own


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
        self._entry: ModelEntry | None = None

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

    def trust(self) -> None:
        """Let the run's code be run, if it holds any: once, for every run with the same.

        Raises:
            RunError: the code is gone, or is not what was trained: what is trusted is what can be read.
        """
        from convatlas.runs.trust import trust_code

        code = self._read_code()
        if code is not None:
            trust_code(code.identity)

    def entry(self) -> ModelEntry:
        """The registered network that it is; or one's own, whose code is run if it is trusted.

        Raises:
            RunError: the code is not trusted, is gone, or is not what was trained.
        """
        from convatlas.models import model_entry
        from convatlas.models.own import own_entry

        if self._entry is None:  # code is run once
            code = self._code()
            self._entry = model_entry(self.card.model.name) if code is None else own_entry(code)
        return self._entry

    def outline(self) -> Classifier:
        """The network without memory for its weights.

        Raises:
            RunError: as `entry`.
        """
        from convatlas.models import outline_model

        card = self.card.model
        if card.code is None:
            return outline_model(card.name, **card.sizes)
        return self.entry().build(**card.sizes).to("meta")

    @property
    def appearance(self) -> Appearance | None:
        """As the card has it."""
        return self.card.appearance

    def model(self) -> Classifier:
        """The network with its best weights, in evaluation mode; built once.

        Raises:
            RunError: there are no weights yet, or they are not those of this network; or as `entry`.
        """
        if self._model is None:
            # One's own is built whole: buffers that it does not save have the values its code gives them.
            card = self.card.model
            built = self.outline() if card.code is None else self.entry().build(**card.sizes)
            self._model = self.with_weights(built)
        return self._model

    def keep_code(self, code: Code) -> None:
        """Write the code of a network of one's own into the run, and trust it: it has just been run."""
        with files.replacing(self.path / CODE) as temporary:
            temporary.write_bytes(code.text)
        self.trust()

    def _code(self) -> Code | None:
        from convatlas.runs.trust import is_trusted

        code = self._read_code()
        if code is not None and not is_trusted(code.identity):
            raise RunError(
                f"{self.path} brings the code of its network, and code can do anything you can: read "
                f"{self.path / CODE}, and if you trust it, say --trust once to predict, evaluate, explain, inspect or "
                "train --resume (in Python, convatlas.load(run, trust=True))"
            )
        return code

    def _read_code(self) -> Code | None:
        from convatlas.models.own import MOST_CODE_BYTES, Code

        card, path = self.card.model.code, self.path / CODE
        if card is None:
            return None
        try:
            code = Code(files.read_regular(path, MOST_CODE_BYTES), card.factory, f"{path}:{card.factory}")
        except (OSError, ValueError) as error:
            raise RunError(f"{path}, the code of the run's network, cannot be read: {reason(error)}") from error
        if code.sha256 != card.sha256:
            raise RunError(f"{path} is not the code that {self.path} was trained with: it was changed since")
        return code
