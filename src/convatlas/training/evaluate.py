"""Shows labelled images to a network once and counts what it got right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convatlas.data.batches import Batches
from convatlas.training.metrics import Evaluation, EvaluationCounter


@torch.inference_mode()
def count(model: nn.Module, batches: Batches, classes: Sequence[str]) -> EvaluationCounter:
    """Counts over one pass of ``batches``: over this process's share of it, where there are several."""
    was_training = model.training
    model.eval()
    counter = EvaluationCounter(classes)
    for batch in batches.epoch(0):
        counter.add(batch.labels.cpu().numpy(), logits_of(model, batch.images).float().cpu().numpy())
    model.train(was_training)
    return counter


def evaluate(model: nn.Module, batches: Batches, classes: Sequence[str]) -> Evaluation:
    """Accuracy, top-k, loss and confusions of a network on every image of ``batches``.

    >>> evaluation = evaluate(model, Batches(dataset.test, preprocessing, 256), dataset.classes)  # doctest: +SKIP
    """
    return count(model, batches, classes).result()


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Logits [N, classes] of images [N, C, H, W], or of several crops each, [N, crops, C, H, W].

    Crops are averaged as probabilities, and the logarithm of their mean is returned.
    Source: Krizhevsky, Sutskever & Hinton 2012, section 4.1.
    """
    if images.dim() == 4:
        logits: Tensor = model(images)
        return logits
    crops = images.shape[1]
    probabilities = model(images.flatten(0, 1)).softmax(dim=1).unflatten(0, (-1, crops))
    return torch.as_tensor(probabilities.mean(dim=1).clamp_min(torch.finfo(probabilities.dtype).tiny).log())
