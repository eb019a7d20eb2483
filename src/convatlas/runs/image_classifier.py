"""What names the classes of images, wherever its weights come from: a run, or somebody's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convatlas.acceleration import Acceleration, Engine, settle
from convatlas.data.decode import decode_file
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import RunError

if TYPE_CHECKING:
    import torch

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
        import torch

        if not isinstance(top, int) or top < 1:
            raise RunError(f"top is how many classes to name, 1 or more; received {top!r}")
        paths = [images] if isinstance(images, str | Path) else list(images)
        preprocessing = self.preprocessing
        size = preprocessing.evaluation_batch
        device = next(self.model().parameters()).device
        network: torch.nn.Module | None = None
        predictions = []
        for start in range(0, len(paths), size):
            names = paths[start : start + size]
            pixels = np.stack([decode_file(name, preprocessing.channels, preprocessing.resize) for name in names])
            if network is None:  # after decoding: whoever names a file that is no image need not wait for the engine
                network = self.accelerated(engine, len(names)).module
            with torch.inference_mode():
                inputs = preprocessing.normalize(torch.from_numpy(pixels).to(device))
                logits = network(inputs)
            predictions += self.task().predictions(logits, names, top)
        return predictions
