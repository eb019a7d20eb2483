"""Shows examples to a network once and lets the task judge what it makes of them."""

from __future__ import annotations

import torch
from torch import nn

from convatlas.tasks.contract import Batches, Judge, Task


@torch.inference_mode()
def judged(network: nn.Module, batches: Batches, task: Task) -> Judge:
    """A judge after one pass of ``batches``: over this process's share of it, where there are several.

    >>> batches = Batches(dataset.test, preprocessing, 256)  # doctest: +SKIP
    >>> judged(network, batches, Classification(dataset.classes)).result().accuracy  # doctest: +SKIP
    0.9021
    """
    was_training = network.training
    network.eval()
    judge = task.judge()
    for batch in batches.epoch(0):
        judge.add(task.outputs(network, batch.inputs), batch)
    network.train(was_training)
    return judge
