"""A network and the one image it is shown: checked, in evaluation mode, and what every method brings back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from convatlas.errors import ExplanationError
from convatlas.models.contract import Classifier


class Attribution(NamedTuple):
    """What a method found at the input's places, before it is scaled, and what the network answered meanwhile."""

    values: Tensor  # [C, H, W], or [H, W] where all channels share one
    logits: Tensor  # [num_classes], of the whole image
    label: int


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, without dropout or auxiliary heads; afterwards each layer is as it was."""
    trained = [layer for layer in network.modules() if layer.training]
    network.eval()
    try:
        yield
    finally:
        for layer in trained:
            layer.training = True


def require_image(model: Classifier, image: Tensor) -> None:
    """Refuse what is not one image as the network takes it.

    Raises:
        ExplanationError: says the shape that is wanted.
    """
    wanted = (model.in_channels, model.image_size, model.image_size)
    if tuple(image.shape) != wanted:
        raise ExplanationError(
            f"one image is explained at a time, of the shape {wanted}; received {tuple(image.shape)}"
        )


def chosen_label(logits: Tensor, label: int | None) -> int:
    """The class that is explained: the one asked for, else the most probable one, of logits [num_classes].

    Raises:
        ExplanationError: the network has no such class.
    """
    if label is None:
        return int(logits.argmax())
    if not 0 <= label < len(logits):
        raise ExplanationError(f"classes are numbered from 0 to {len(logits) - 1}; received {label}")
    return label
