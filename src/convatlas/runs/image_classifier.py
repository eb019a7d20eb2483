"""What names the classes of images, wherever its weights come from: a run, or somebody's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convatlas.acceleration import Acceleration, Engine, settle
from convatlas.data.appearance import Appearance
from convatlas.data.decode import UnreadableImageError, decode_file
from convatlas.data.preprocessing import Preprocessing
from convatlas.data.source import Pixels
from convatlas.errors import RunError

if TYPE_CHECKING:
    from convatlas.models.contract import Classifier
    from convatlas.tasks.classify.task import Classification, Prediction


class ImageClassifier:
    """A network with weights, its classes, and how images are prepared for it."""

    _acceleration: Acceleration | None = None

    @property
    def network_name(self) -> str:
        """The registered network that it is."""
        raise NotImplementedError

    @property
    def place(self) -> str:
        """Where the weights are, in words."""
        raise NotImplementedError

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each output."""
        raise NotImplementedError

    @property
    def preprocessing(self) -> Preprocessing:
        """From a picture to the network's input."""
        raise NotImplementedError

    @property
    def appearance(self) -> Appearance | None:
        """How the images that it was trained on look; None where nobody knows."""
        return None

    def model(self) -> Classifier:
        """The network with its weights, in evaluation mode; built once."""
        raise NotImplementedError

    def task(self) -> Classification:
        """What the network's outputs mean."""
        from convatlas.tasks.classify.task import Classification

        return Classification(self.classes)

    def accelerated(self, engine: Engine = "auto", batch: int = 1) -> Acceleration:
        """What runs the network for others than its trainer: with "auto" made ready once, for batches like the first.

        Raises:
            RunError: there are no weights yet.
            UnknownNameError: no such engine.
        """
        preprocessing = self.preprocessing
        shape = (batch, preprocessing.channels, preprocessing.crop, preprocessing.crop)
        if engine != "auto":
            return settle(self.model(), shape, engine)
        if self._acceleration is None:
            self._acceleration = settle(self.model(), shape)
        return self._acceleration

    def predict(
        self, images: str | Path | Sequence[str | Path], top: int = 5, engine: Engine = "auto"
    ) -> list[Prediction]:
        """Classify image files with the preprocessing the network was trained with.

        Args:
            images: one path or several; any format Pillow reads.
            top: how many classes to name for each.
            engine: "torch" to do without the CPU engine.

        Raises:
            DataError: a file that is missing or not an image, by name.
            RunError: ``top`` is no number of classes.
            TrainingError: the network's outputs are not finite.
        """
        paths = [images] if isinstance(images, str | Path) else list(images)

        def refuse(error: UnreadableImageError) -> None:
            raise error

        return [each for batch in self.predictions(paths, top, engine, refuse) for each in batch]

    def predictions(
        self,
        paths: Sequence[str | Path],
        top: int,
        engine: Engine,
        unreadable: Callable[[UnreadableImageError], None],
    ) -> Iterator[list[Prediction]]:
        """As `predict`, a batch at a time; a file that cannot be read is told to ``unreadable`` and left out."""
        if not isinstance(top, int) or top < 1:
            raise RunError(f"top is how many classes to name, 1 or more; received {top!r}")
        size = self.preprocessing.evaluation_batch
        for start in range(0, len(paths), size):
            names, pixels = self._decoded(paths[start : start + size], unreadable)
            # After decoding: whoever names a file that is no image need not wait for the engine.
            yield self._answers(names, pixels, top, engine) if names else []

    def _decoded(
        self, paths: Sequence[str | Path], unreadable: Callable[[UnreadableImageError], None]
    ) -> tuple[list[str | Path], list[Pixels]]:
        names, pixels = [], []
        for path in paths:
            try:
                pixels.append(decode_file(path, self.preprocessing.channels, self.preprocessing.resize))
                names.append(path)
            except UnreadableImageError as error:
                unreadable(error)
        return names, pixels

    def _answers(
        self, names: Sequence[str | Path], pixels: Sequence[Pixels], top: int, engine: Engine
    ) -> list[Prediction]:
        import torch

        network = self.accelerated(engine, len(names)).module
        device = next(self.model().parameters()).device
        images = np.stack(pixels)
        with torch.inference_mode():
            logits = network(self.preprocessing.normalize(torch.from_numpy(images).to(device)))
        found = self.task().predictions(logits, names, top)
        if self.appearance is None:
            return found
        unlike = self.appearance.unlike(images)
        return [replace(each, unlike=words) for each, words in zip(found, unlike, strict=True)]
