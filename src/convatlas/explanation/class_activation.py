"""Where in a layer's maps a class is seen: Grad-CAM and Grad-CAM++, at the cost of one forward pass and a part of one
backward pass.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convatlas.explanation.layers import passing_through, tap_of
from convatlas.explanation.shown import chosen_label, evaluating, require_image
from convatlas.models.contract import Classifier


class LayerGradients(NamedTuple):
    """A layer's maps for one image, and how the class's logit changes with each of their values."""

    maps: Tensor  # [C, h, w]
    gradients: Tensor  # the same
    logits: Tensor  # [num_classes]
    label: int
    layer: str


def layer_gradients(
    model: Classifier, image: Tensor, label: int | None = None, layer: str | None = None
) -> LayerGradients:
    """Show a network one image [C, H, W], and differentiate the logit of a class back to a layer's maps.

    >>> from convatlas.models import create_model
    >>> seen = layer_gradients(create_model("lenet5"), torch.zeros(1, 28, 28), label=3)
    >>> seen.layer, seen.gradients.shape
    ('s4', torch.Size([16, 5, 5]))

    Args:
        model: in either mode; it is evaluated, and nothing of it changes.
        image: as the network takes it.
        label: of the class; the most probable one when left out.
        layer: one of ``map_layers``; `target_layer` when left out.

    Raises:
        UnknownNameError, ExplanationError: no such layer, or one without places; no such class; another shape.
    """
    require_image(model, image)
    name, tap = tap_of(model, layer)
    seen: list[Tensor] = []

    def start_here(maps: Tensor) -> Tensor:
        """What comes before the layer is computed without a gradient: none is wanted of it."""
        torch.set_grad_enabled(True)  # no_grad, around the pass, sets it back
        seen.append(maps.detach().requires_grad_())
        return seen[-1].clone()  # a ReLU that writes in place may come next, and must not change what was seen

    with evaluating(model), passing_through(model.get_submodule(tap.module), start_here), torch.no_grad():
        logits = model(image[None])[0]
    chosen = chosen_label(logits, label)
    with torch.enable_grad():
        score = logits[chosen]
    (gradients,) = torch.autograd.grad(score, seen[-1])
    return LayerGradients(seen[-1][0].detach(), gradients[0], logits.detach(), chosen, name)


def grad_cam_weights(seen: LayerGradients) -> Tensor:
    """How much each channel [C] speaks for the class: the mean of its gradients.

    Source: Selvaraju et al. 2017, "Grad-CAM", arXiv 1610.02391, equation 1.
    """
    return seen.gradients.mean(dim=(1, 2))


def grad_cam_plus_plus_weights(seen: LayerGradients) -> Tensor:
    """The same by a weighted sum of positive gradients, so that small and repeated objects count as large ones do.

    The score is the exponential of the logit, as in the paper; its value is common to all weights and left out. The
    paper's maps are rectified: of others the positive part is counted, which keeps the denominator above zero.

    Source: Chattopadhyay et al. 2018, "Grad-CAM++", arXiv 1710.11063, equations 10 and 19.
    """
    rising = seen.gradients.relu()
    sums = seen.maps.relu().sum(dim=(1, 2), keepdim=True)  # [C, 1, 1]
    # Of a gradient g above zero, g^2 / (2 g^2 + g^3 S) is 1 / (2 + g S): no division of tiny by tiny.
    shares = 1 / (2 + rising * sums)
    return (shares * rising).sum(dim=(1, 2))


def weighted_map(maps: Tensor, weights: Tensor) -> Tensor:
    """Channels [C, h, w] added up by weights [C]: [h, w], of which what speaks against the class is left out.

    >>> weighted_map(torch.ones(2, 3, 3), torch.tensor([1.0, 2.0]))[0, 0].item()
    3.0

    Source: Selvaraju et al. 2017, equation 2.
    """
    return torch.einsum("chw,c->hw", maps, weights).relu()
