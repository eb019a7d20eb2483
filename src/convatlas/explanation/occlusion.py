"""What a class loses when a part of the image is covered; asks nothing of the network but answers."""

from __future__ import annotations

import torch
from torch import Tensor

from convatlas.errors import ExplanationError
from convatlas.explanation.shown import Attribution, chosen_label, evaluating, require_image
from convatlas.models.contract import Classifier

PIXELS_AT_ONCE = 2**20  # twenty images of 224 pixels
NOTHING = 1e-3  # nats: what rounding makes of equal images in batches of different sizes is less


def occlusion(model: Classifier, image: Tensor, label: int | None = None, window: int | None = None) -> Attribution:
    """How far a class's log odds fall where the image is covered: [H, W], in nats, the mean over the covers of a pixel.

    The cover has the image's own mean colour, so that a plain picture loses nothing. Covers overlap by half. The
    paper measures the probability, which of a network that is very sure does not move.

    >>> from convatlas.models import create_model
    >>> occlusion(create_model("lenet5"), torch.ones(1, 28, 28)).values.abs().max().item()
    0.0

    Args:
        model: in either mode.
        image: [C, H, W], as the network takes it.
        label: of the class; the most probable one when left out.
        window: side of the square that is covered; a seventh of the image when left out.

    Raises:
        ExplanationError: no such class, an image of another shape, or a window that does not fit.
    Source: Zeiler & Fergus 2014, arXiv 1311.2901, section 4.2.
    """
    require_image(model, image)
    side = image.shape[-1]
    window = max(1, side // 7) if window is None else window
    if not 1 <= window <= side:
        raise ExplanationError(f"the window is 1 to {side} pixels; received {window}")
    corners = window_corners(side, window)
    with evaluating(model), torch.no_grad():
        logits = model(image[None])[0]
        chosen = chosen_label(logits, label)
        losses = log_odds(logits[None], chosen) - _covered_odds(model, image, chosen, corners, window)
    losses[losses.abs() < NOTHING] = 0
    return Attribution(_mean_of_covers(losses, corners, window, side), logits, chosen)


def window_corners(side: int, window: int) -> list[tuple[int, int]]:
    """Top and left of the windows that together cover a square, each by half a window further; the last ones flush.

    >>> window_corners(5, 4)
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """
    last = side - window
    places = sorted({*range(0, last + 1, max(1, window // 2)), last})
    return [(top, left) for top in places for left in places]


def log_odds(logits: Tensor, label: int) -> Tensor:
    """The logarithm of p / (1 - p) for the probability p of a class, [N], from logits [N, num_classes].

    >>> log_odds(torch.tensor([[100.0, 0.0]]), label=0)
    tensor([100.])

    Of a single class, of which there are no odds, it is the logit.
    """
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return logits[:, label] - others.logsumexp(dim=1) if others.shape[1] else logits[:, label]


def _covered_odds(model: Classifier, image: Tensor, label: int, corners: list[tuple[int, int]], window: int) -> Tensor:
    """The class's log odds with each window covered, [windows]; some at a time."""
    plain = image.mean(dim=(1, 2), keepdim=True)
    at_once = max(1, PIXELS_AT_ONCE // image[0].numel())
    odds = []
    for first in range(0, len(corners), at_once):
        some = corners[first : first + at_once]
        images = image.repeat(len(some), 1, 1, 1)
        for covered, (top, left) in zip(images, some, strict=True):
            covered[:, top : top + window, left : left + window] = plain
        odds.append(log_odds(model(images), label))
    return torch.cat(odds)


def _mean_of_covers(losses: Tensor, corners: list[tuple[int, int]], window: int, side: int) -> Tensor:
    total, covers = losses.new_zeros(side, side), losses.new_zeros(side, side)
    for loss, (top, left) in zip(losses, corners, strict=True):
        place = slice(top, top + window), slice(left, left + window)
        total[place] += loss
        covers[place] += 1
    return total / covers
