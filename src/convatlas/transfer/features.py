"""Features: what a network makes of images at one of its layers, one row of numbers an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convatlas.data.batch import Place
from convatlas.data.batches import Batches
from convatlas.data.dataset import ImageArray
from convatlas.data.preprocessing import Preprocessing
from convatlas.data.source import Labels
from convatlas.errors import ConvatlasError, ExplanationError, unknown_name
from convatlas.models.contract import Classifier

Features = NDArray[np.float32]
Tell = Callable[[int, int], None]


class Seen(NamedTuple):
    """What a network makes of N images."""

    features: Features  # [N, D]
    answers: Labels  # [N], the number of the most probable class


def features_of(
    network: Classifier, images: ImageArray, preprocessing: Preprocessing, *, tap: str | None = None
) -> Features:
    """What a network makes of images, float32 [N, D], in evaluation mode and without augmentation.

    >>> features_of(network, dataset.train, preprocessing).shape  # doctest: +SKIP
    (219, 1280)

    Args:
        network: whose layer it is.
        images: N of them.
        preprocessing: as the network's weights expect.
        tap: the paper's name of a layer, whose maps are averaged over their places; what the output layer is given
            when left out.

    Raises:
        UnknownNameError: the network has no such layer.
    """
    return features_and_answers(network, images, preprocessing, tap=tap).features


def features_and_answers(
    network: Classifier,
    images: ImageArray,
    preprocessing: Preprocessing,
    *,
    tap: str | None = None,
    tell: Tell = lambda *_: None,
) -> Seen:
    """As `features_of`, with the network's answers, of the same pass; ``tell`` is told how many images are done.

    >>> features_and_answers(network, dataset.train, preprocessing).answers.shape  # doctest: +SKIP
    (219,)

    Raises:
        UnknownNameError: the network has no such layer.
        ExplanationError: features that are not finite.
    """
    layer, is_input = _place(network, tap)
    found: list[Tensor] = []
    answers: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        values = given[0] if is_input else made
        found.append(values.mean(dim=(2, 3)) if values.dim() == 4 else values.flatten(1))

    handle = layer.register_forward_hook(keep)
    batches = Batches(
        images, preprocessing, preprocessing.evaluation_batch, place=Place(next(network.parameters()).device)
    )
    was_training = network.training
    done = 0
    try:
        with torch.inference_mode():
            for batch in batches.epoch(0):
                tell(done, len(images))
                answers.append(network.eval()(batch.inputs).argmax(dim=1))
                done += len(batch.inputs)
    finally:
        handle.remove()
        network.train(was_training)
    features = torch.cat(found).float().cpu().numpy()
    if not np.isfinite(features).all():
        raise ExplanationError(
            f"the features of {network.registered_as or type(network).__name__} are not finite numbers: such weights "
            "know nothing of images. Train it anew, with a smaller learning rate"
        )
    return Seen(features, torch.cat(answers).cpu().numpy())


def _place(network: Classifier, tap: str | None) -> tuple[nn.Module, bool]:
    """The layer to listen at, and whether it is its input that counts."""
    if tap is None:
        if not network.output_names:
            raise ConvatlasError("the output layer of the network cannot be told, so what it is given is not known")
        return network.get_submodule(network.output_names[-1]), True
    if tap not in network.taps:
        raise unknown_name("layer", tap, network.taps)
    return network.get_submodule(network.taps[tap].module), False
