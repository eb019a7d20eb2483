"""The run of an autoencoder of images: says how unusual images are, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from convatlas.data.decode import UnreadableImageError, centre_square, decode_file, upright_size
from convatlas.errors import RunError
from convatlas.runs.anomalies import CALIBRATION, AnomalyRun
from convatlas.runs.cards import ImageReconstructionCard

if TYPE_CHECKING:
    from torch import Tensor

    from convatlas.models.contract import ImageAutoencoder
    from convatlas.tasks.reconstruct.answers import ImagePrediction
    from convatlas.tasks.reconstruct.places import Box, Maps, Places

BOXES_IN_GOOD_IMAGES = 0.05  # share of the good images in which a box may be drawn

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ImageCalibration:
    """Of good images that were not learnt from: scores, highest places; and what error is usual at each place."""

    scores: NDArray[np.float64]  # [n]
    peaks: NDArray[np.float64]  # [n]
    places: Places

    @property
    def wrong_above(self) -> float:
        """How unusual a place has to be for a box: in few of the good images one is."""
        return float(np.quantile(self.peaks, 1 - BOXES_IN_GOOD_IMAGES, method="higher"))


class ImageAutoencoderRun(AnomalyRun, card_type=ImageReconstructionCard):
    """An autoencoder of images, how they are prepared for it, and the scores of good images.

    >>> run = Run.open("runs/2026-11-27-autoencoder_dense_latent-bottle-3f2a")  # doctest: +SKIP
    >>> run.predict(["bottle.png"])[0].boxes  # doctest: +SKIP
    (Box(left=310, top=188, right=402, bottom=251),)
    """

    card: ImageReconstructionCard
    examples: ClassVar[str] = "images"

    def __init__(self, path: Path, card: ImageReconstructionCard) -> None:
        super().__init__(path, card)
        self._model: ImageAutoencoder | None = None

    def model(self) -> ImageAutoencoder:
        """The network with its best weights, in evaluation mode; built once.

        Raises:
            RunError: there are no weights yet, or they are not those of this network.
        """
        import torch

        from convatlas.models import outline_image_autoencoder

        if self._model is None:
            card = self.card.model
            outline = outline_image_autoencoder(
                card.name, in_channels=card.in_channels, image_size=card.image_size, **card.settings
            )
            self._model = self.with_weights(outline).to(memory_format=torch.channels_last)
        return self._model

    def rebuilt(self, images: Pixels) -> tuple[Tensor, Tensor]:
        """Images uint8 [n, s, s, C] as the network sees them, float32 [n, C, s, s], and what it makes of them."""
        import torch

        inputs = self.card.preprocessing.normalize(torch.from_numpy(images))
        with torch.inference_mode():
            return inputs, self.model()(inputs)

    def errors(self, batches: Iterator[Pixels]) -> Iterator[Maps]:
        """The error of each place of some images, [n, h, w] at a time.

        Raises:
            RunError: the network gives back what is not finite.
        """
        from convatlas.tasks.reconstruct.places import place_errors

        for images in batches:
            inputs, rebuilt = self.rebuilt(images)
            errors = place_errors(rebuilt, inputs)
            if not np.isfinite(errors).all():
                raise RunError(f"the weights in {self.path} give back images that are not finite: train anew")
            yield errors

    def calibration(self) -> ImageCalibration:
        """The scores of the calibration images.

        Raises:
            RunError: the training has not come to its end, or the file is not the run's.
        """
        from convatlas.tasks.reconstruct.places import Places

        n, side = self.card.data.counts.get("calibration", 0), self.card.model.image_size
        kept = self.kept_calibration({"scores": (n,), "peaks": (n,), "mean": (side, side), "scale": (side, side)})
        places = Places(kept["mean"].astype(np.float32), kept["scale"].astype(np.float32))
        if not (places.scale > 0).all():
            raise RunError(f"{self.path / CALIBRATION} holds a place whose errors have no scale: train anew")
        return ImageCalibration(kept["scores"], kept["peaks"], places)

    def keep_calibration(self, places: Places, maps: Iterator[Maps]) -> None:
        """Keep what is usual at each place, and the scores of the calibration images by their maps."""
        from convatlas.tasks.reconstruct.places import map_scores, peaks

        found = [(map_scores(each), peaks(each)) for each in maps]
        scores, highest = (np.concatenate(each) for each in zip(*found, strict=True))
        self.keep_calibration_of(scores=scores, peaks=highest, mean=places.mean, scale=places.scale)

    def predict(self, images: str | Path | Sequence[str | Path]) -> list[ImagePrediction]:
        """Score image files, and find where they are unusual.

        Of an image that is not square, the square in its middle is looked at, as in training.

        Args:
            images: one path or several; any format Pillow reads.

        Raises:
            DataError: a file that is missing or not an image, by name.
            RunError: the run is not calibrated.
        """
        paths = [images] if isinstance(images, str | Path) else list(images)

        def refuse(error: UnreadableImageError) -> None:
            raise error

        return [each for batch in self.predictions(paths, refuse) for each in batch]

    def predictions(
        self, paths: Sequence[str | Path], unreadable: Callable[[UnreadableImageError], None]
    ) -> Iterator[list[ImagePrediction]]:
        """As `predict`, a batch at a time; a file that cannot be read is told to ``unreadable`` and left out."""
        calibration, size = self.calibration(), self.card.preprocessing.evaluation_batch
        for start in range(0, len(paths), size):
            names, pixels = self._decoded(paths[start : start + size], unreadable)
            yield self._judged(names, np.stack(pixels), calibration) if names else []

    def _decoded(
        self, paths: Sequence[str | Path], unreadable: Callable[[UnreadableImageError], None]
    ) -> tuple[list[str], list[Pixels]]:
        names, pixels = [], []
        for path in paths:
            try:
                pixels.append(decode_file(path, self.card.preprocessing.channels, self.card.preprocessing.resize))
                names.append(str(path))
            except UnreadableImageError as error:
                unreadable(error)
        return names, pixels

    def _judged(self, names: Sequence[str], images: Pixels, calibration: ImageCalibration) -> list[ImagePrediction]:
        from convatlas.tasks.reconstruct.answers import ImagePrediction
        from convatlas.tasks.reconstruct.places import boxes, map_scores
        from convatlas.tasks.reconstruct.thresholds import p_values

        threshold, predictions = self.card.threshold, []
        residuals = calibration.places.unusual(next(self.errors(iter([images]))))
        for name, residual in zip(names, residuals, strict=True):
            score = float(map_scores(residual[None])[0])
            predictions.append(
                ImagePrediction(
                    image=name,
                    score=score,
                    p_value=float(p_values(calibration.scores, [score])[0]),
                    alarm=threshold is not None and score > threshold.value,
                    boxes=_in_the_picture(name, boxes(residual, calibration.wrong_above), len(residual)),
                    residual=residual,
                )
            )
        return predictions


def _in_the_picture(name: str, found: Sequence[Box], side: int) -> tuple[Box, ...]:
    """Boxes of the square that the network sees, in the pixels of the picture that it was cut from."""
    left, top, whole = centre_square(*upright_size(name))
    return tuple(box.scaled(whole / side).moved(left, top) for box in found)
