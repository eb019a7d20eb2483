"""What the runs of all autoencoders share: scores of normal examples, and a threshold that they set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import RunError
from convatlas.runs.cards import AnomalyCard, ThresholdCard
from convatlas.runs.run import Run, reason

if TYPE_CHECKING:
    from torch import Tensor

    from convatlas.tasks.reconstruct.thresholds import Threshold

CALIBRATION = "calibration.safetensors"


class AnomalyRun(Run):
    """A network that gives scores, and those of the calibration rows or images."""

    card: AnomalyCard
    examples: ClassVar[str]  # what it scores, in words

    def calibration(self) -> Any:
        """The scores of the calibration part, ``scores`` [n], and what else is kept of it.

        Raises:
            RunError: the training has not come to its end, or the file is not the run's.
        """
        raise NotImplementedError

    def threshold(self) -> Threshold | None:
        """Above which score a row or an image is an alarm; None where none is set."""
        from convatlas.tasks.reconstruct.thresholds import Threshold

        card = self.card.threshold
        return Threshold(**card.model_dump()) if card is not None else None

    def set_threshold(self, rate: float, confidence: float) -> ThresholdCard:
        """Choose by the calibration part above which score there is an alarm, and put it on the card.

        Raises:
            DataError: the calibration part is too small for such a rate; says how large it has to be.
        """
        from convatlas.tasks.reconstruct.thresholds import threshold_at

        card = ThresholdCard(**asdict(threshold_at(self.calibration().scores, rate, confidence, of=self.examples)))
        self.update(threshold=card, false_alarms=rate)
        return card

    def kept_calibration(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float64]]:
        """What the run keeps of its calibration part, if it has these shapes; nothing in it is below 0.

        Raises:
            RunError: the training has not come to its end, or the file is not the run's.
        """
        from convatlas.tensors import read_tensors

        path = self.path / CALIBRATION
        try:
            tensors = read_tensors(path)
        except FileNotFoundError as error:
            raise RunError(
                f"{self.path} is not calibrated: its training has not come to its end. "
                f"Go on with convatlas train --resume {self.path}"
            ) from error
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {reason(error)}") from error
        if not _is_sound(tensors, shapes):
            count = self.card.data.counts.get("calibration", 0)
            raise RunError(f"{path} does not hold the scores of the run's {count:,} calibration {self.examples}")
        return {name: tensors[name].double().numpy() for name in shapes}

    def keep_calibration_of(self, **arrays: NDArray[Any]) -> None:
        """Write what ``kept_calibration`` reads."""
        import torch

        from convatlas.tensors import write_tensors

        write_tensors(self.path / CALIBRATION, {name: torch.from_numpy(array) for name, array in arrays.items()})


def _is_sound(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != dict(shapes) or any(0 in shape for shape in shapes.values()):
        return False
    kept = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    return len(kept) == len(tensors) and all(bool((t.isfinite() & (t >= 0)).all()) for t in kept)
