"""From what a method found to a map that can be drawn: [H, W], 0 to 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHARE_BELOW_BRIGHTEST = 0.99  # of the pixels; the few far above them would leave all others dark


def scaled(values: Tensor, share: float = 1.0) -> Tensor:
    """Values as parts of the largest, 0 to 1; what is below zero is 0, and where nothing is above, all is.

    With a ``share`` below 1, the smallest value that such a share of all does not exceed counts as the largest.

    >>> scaled(torch.tensor([-1.0, 1.0, 4.0])).tolist()
    [0.0, 0.25, 1.0]
    """
    positive = values.relu()
    largest = torch.quantile(positive, share) if share < 1 else positive.max()
    if largest == 0:
        largest = positive.max()
    return (positive / largest).clamp(max=1) if largest > 0 else torch.zeros_like(positive)


def enlarged(coarse: Tensor, side: int) -> Tensor:
    """A layer's map [h, w] over the whole input, [side, side].

    >>> enlarged(torch.ones(7, 7), 224).shape
    torch.Size([224, 224])
    """
    return F.interpolate(coarse[None, None], size=(side, side), mode="bilinear", align_corners=False)[0, 0]
