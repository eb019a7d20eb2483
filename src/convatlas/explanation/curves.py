"""Whether a map is right about the network: what the class's probability does when pixels go, or come, in its order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convatlas.errors import ExplanationError
from convatlas.explanation.shown import evaluating, require_image
from convatlas.models.contract import Classifier

STEPS = 28
PIXELS_AT_ONCE = 2**20


def deletion_curve(model: Classifier, image: Tensor, importance: Tensor, label: int, steps: int = STEPS) -> Tensor:
    """The class's probability while the most important pixels take the image's mean colour, [steps + 1].

    The first value is of the whole image. The faster it falls, the better the map.

    >>> from convatlas.models import create_model
    >>> image = torch.rand(1, 28, 28)
    >>> deletion_curve(create_model("lenet5"), image, importance=image[0], label=3, steps=10).shape
    torch.Size([11])

    Args:
        model: in either mode.
        image: [C, H, W], as the network takes it.
        importance: of each pixel, [H, W].
        label: of the class.
        steps: in which the pixels go, equally many in each.

    Raises:
        ExplanationError: an image or a map of another shape, or no step.
    Source: Petsiuk, Das & Saenko 2018, "RISE", arXiv 1806.07421, section 4.
    """
    return _curve(model, image, _plain(image), importance, label, steps)


def insertion_curve(model: Classifier, image: Tensor, importance: Tensor, label: int, steps: int = STEPS) -> Tensor:
    """The class's probability while a blurred image becomes sharp, the most important pixels first, [steps + 1].

    The last value is of the whole image. The faster it rises, the better the map. Arguments, errors and source are
    those of `deletion_curve`.
    """
    return _curve(model, blurred(image), image, importance, label, steps)


def area(curve: Tensor) -> float:
    """The mean height of a curve, 0 to 1: small is good for deletion, large for insertion.

    >>> area(torch.tensor([1.0, 0.5, 0.0]))
    0.5
    """
    return float(torch.trapezoid(curve)) / (len(curve) - 1)


def blurred(image: Tensor) -> Tensor:
    """The image [C, H, W] with each pixel the mean of a square of about half its side: what it shows is gone.

    >>> blurred(torch.ones(1, 8, 8)).unique().item()
    1.0
    """
    reach = max(1, image.shape[-1] // 4)
    kernel = 2 * reach + 1
    # What lies outside does not count: else the edge would be darker than the rest.
    return F.avg_pool2d(image[None], kernel, stride=1, padding=reach, count_include_pad=False)[0]


def _plain(image: Tensor) -> Tensor:
    return image.mean(dim=(1, 2), keepdim=True).expand_as(image)


def _curve(model: Classifier, start: Tensor, end: Tensor, importance: Tensor, label: int, steps: int) -> Tensor:
    """The class's probability while the pixels of ``start`` become those of ``end``, the most important first."""
    require_image(model, start)
    if importance.shape != start.shape[1:]:
        raise ExplanationError(
            f"a map of {tuple(start.shape[1:])} is needed, one value a pixel; received {tuple(importance.shape)}"
        )
    if steps < 1:
        raise ExplanationError(f"a curve has 1 step or more; received {steps}")
    ranks = importance.flatten().argsort(descending=True, stable=True).argsort().view_as(importance)
    counts = torch.linspace(0, importance.numel(), steps + 1, device=ranks.device).round()
    probabilities = []
    with evaluating(model), torch.no_grad():
        for some in torch.split(counts, max(1, PIXELS_AT_ONCE // importance.numel())):
            changed = (ranks < some.view(-1, 1, 1)).unsqueeze(1)  # [n, 1, H, W]
            probabilities.append(model(torch.where(changed, end, start)).softmax(dim=1)[:, label])
    return torch.cat(probabilities)
