"""Where a run sees a class in a picture, which is prepared as in training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from convatlas.data.decode import centre_square, decode_file
from convatlas.errors import unknown_name
from convatlas.explanation import explain_image, known_method

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from convatlas.explanation import Explanation
    from convatlas.runs import ImageClassifier


@dataclass(frozen=True, eq=False)  # arrays have no equality that is one truth
class Explained:
    """Where a run sees a class in one image."""

    map: NDArray[np.float32]  # [H, W], 0 to 1, of the square that the network saw
    class_name: str
    probability: float
    layer: str | None  # that was looked at; None of methods that look at no layer


def explain_file(
    run: ImageClassifier,
    image: str | Path,
    method: str = "gradcam",
    class_name: str | None = None,
    layer: str | None = None,
) -> Explained:
    """Where a run sees a class in an image file; `convatlas.explain` says more.

    Raises:
        ConvatlasError: no such method, class or layer; a file that is no image; a run without weights.
    """
    known_method(method)
    label = label_of(run, class_name)
    found = explain_image(run.model(), inputs_of(run, image), method, label, layer)
    answers_of(run, found, image)  # refuses what is not finite
    return Explained(found.map.numpy(), run.classes[found.label], probability_of(found), found.layer)


def seen_square(width: int, height: int, resize: int, crop: int) -> tuple[int, int, int]:
    """Left, top and side of what the network sees of a picture whose short side becomes ``resize``, cut to ``crop``.

    >>> seen_square(640, 480, resize=256, crop=224)
    (110, 30, 420)
    """
    left, top, whole = centre_square(width, height)
    side = max(1, round(whole * crop / resize))
    return left + round((whole - side) / 2), top + round((whole - side) / 2), side


def label_of(run: ImageClassifier, class_name: str | None) -> int | None:
    """The number of a class by its name; None of none.

    Raises:
        UnknownNameError: the run does not know it.
    """
    if class_name is None:
        return None
    if class_name not in run.classes:
        raise unknown_name("class", class_name, run.classes)
    return run.classes.index(class_name)


def inputs_of(run: ImageClassifier, image: str | Path) -> torch.Tensor:
    """The image [C, H, W] as the network takes it, where the network is."""
    preprocessing = run.preprocessing
    pixels = torch.from_numpy(decode_file(image, preprocessing.channels, preprocessing.resize))
    return preprocessing.normalize(pixels[None].to(next(run.model().parameters()).device))[0]


def answers_of(run: ImageClassifier, found: Explanation, image: str | Path) -> tuple[tuple[str, float], ...]:
    """The most probable classes, best first."""
    return run.task().predictions(found.logits[None], [image])[0].top


def probability_of(found: Explanation) -> float:
    """Of the class that was looked for."""
    return float(found.logits.softmax(dim=0)[found.label])
