"""How much passes through a network for one image: it costs a forward pass, where a plan of memory would cost more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def layer_bytes(module: nn.Module, image: Sequence[int]) -> int:
    """Bytes that all layers read and write of one float32 image [C, H, W] in evaluation.

    That is about twice what they make, for what one writes the next reads; what lies between layers, such as
    additions and concatenations, is read by the next layer.

    >>> layer_bytes(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (3, 32, 32))
    98688

    The network is left as it was.
    """
    images, sizes = torch.zeros(1, *image), [0]

    def count(_layer: nn.Module, inputs: Any, outputs: Any) -> None:
        sizes.extend(leaf.nbytes for leaf in tree_leaves((inputs, outputs)) if isinstance(leaf, Tensor))

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if not any(layer.children())]
    try:
        with _evaluating(module), torch.no_grad():
            module(images)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(sizes)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    in_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in in_training:
            part.training = True
