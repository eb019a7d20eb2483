"""The methods by name: each a function of a network and an image, all with the same answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from torch import Tensor

from convatlas.errors import ExplanationError, unknown_name
from convatlas.explanation.class_activation import (
    LayerGradients,
    grad_cam_plus_plus_weights,
    grad_cam_weights,
    layer_gradients,
    weighted_map,
)
from convatlas.explanation.gradients import guided_gradients, integrated_gradients
from convatlas.explanation.maps import SHARE_BELOW_BRIGHTEST, enlarged, scaled
from convatlas.explanation.occlusion import occlusion
from convatlas.models.contract import Classifier

MethodName = Literal["gradcam", "gradcam++", "guided-backprop", "occlusion", "integrated-gradients"]


@dataclass(frozen=True)
class Explanation:
    """Where a network sees a class in one image."""

    map: Tensor  # float [H, W], 0 to 1, on the CPU
    logits: Tensor  # [num_classes], of the whole image
    label: int  # of the class
    layer: str | None = None  # that was looked at; None of methods that look at no layer
    feature_maps: Tensor | None = None  # [C, h, w], what that layer held


Ask = Callable[[Classifier, Tensor, int | None, str | None], Explanation]


@dataclass(frozen=True)
class Method:
    """One way to ask where a class is seen, and how it is told of."""

    title: str
    meaning: str
    source: str
    ask: Ask
    has_layer: bool = False


def _by_channels(
    weigh: Callable[[LayerGradients], Tensor], model: Classifier, image: Tensor, label: int | None, layer: str | None
) -> Explanation:
    seen = layer_gradients(model, image, label, layer)
    coarse = weighted_map(seen.maps, weigh(seen))
    found = scaled(enlarged(coarse, image.shape[-1])).cpu()
    return Explanation(found, seen.logits, seen.label, seen.layer, seen.maps)


def _by_guided_gradients(model: Classifier, image: Tensor, label: int | None, _layer: str | None) -> Explanation:
    values, logits, chosen = guided_gradients(model, image, label)
    return Explanation(scaled(values.abs().amax(dim=0), SHARE_BELOW_BRIGHTEST).cpu(), logits, chosen)


def _by_integrated_gradients(model: Classifier, image: Tensor, label: int | None, _layer: str | None) -> Explanation:
    values, logits, chosen = integrated_gradients(model, image, label)
    return Explanation(scaled(values.sum(dim=0), SHARE_BELOW_BRIGHTEST).cpu(), logits, chosen)


def _by_occlusion(model: Classifier, image: Tensor, label: int | None, _layer: str | None) -> Explanation:
    values, logits, chosen = occlusion(model, image, label)
    return Explanation(scaled(values).cpu(), logits, chosen)


METHODS: dict[MethodName, Method] = {
    "gradcam": Method(
        "Grad-CAM",
        "Where the layer's channels that speak for the class are strong.",
        "Selvaraju et al. 2017, arXiv 1610.02391",
        partial(_by_channels, grad_cam_weights),
        has_layer=True,
    ),
    "gradcam++": Method(
        "Grad-CAM++",
        "The same, with channels weighed by their positive gradients: several objects of the class count alike.",
        "Chattopadhyay et al. 2018, arXiv 1710.11063",
        partial(_by_channels, grad_cam_plus_plus_weights),
        has_layer=True,
    ),
    "guided-backprop": Method(
        "Guided backpropagation",
        "Pixels that the strong features hang on. It sharpens edges, and hardly differs between classes.",
        "Springenberg et al. 2015, arXiv 1412.6806",
        _by_guided_gradients,
    ),
    "occlusion": Method(
        "Occlusion",
        "Where covering the image with its mean colour lowers the odds of the class.",
        "Zeiler & Fergus 2014, arXiv 1311.2901",
        _by_occlusion,
    ),
    "integrated-gradients": Method(
        "Integrated gradients",
        "What each pixel adds to the class's logit on the way from an image that shows nothing.",
        "Sundararajan et al. 2017, arXiv 1703.01365",
        _by_integrated_gradients,
    ),
}
METHOD_NAMES: tuple[MethodName, ...] = get_args(MethodName)


def known_method(name: str) -> MethodName:
    """A method by its name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    for known in METHOD_NAMES:
        if name == known:
            return known
    raise unknown_name("method", str(name), METHOD_NAMES)


def explain_image(
    model: Classifier, image: Tensor, method: str = "gradcam", label: int | None = None, layer: str | None = None
) -> Explanation:
    """Where a network sees a class in an image.

    >>> import torch
    >>> from convatlas.models import create_model
    >>> found = explain_image(create_model("lenet5"), torch.zeros(1, 28, 28), label=3)
    >>> found.map.shape, found.layer
    (torch.Size([28, 28]), 's4')

    Args:
        model: in either mode; it is evaluated, and nothing of it changes.
        image: float [C, H, W], as the network takes it.
        method: a name of ``METHODS``.
        label: of the class; the most probable one when left out.
        layer: of methods that look at one, a tap; `target_layer` when left out.

    Raises:
        UnknownNameError: no such method or layer.
        ExplanationError: no such class, an image of another shape, a layer without places or for a method without one.
    """
    asked = METHODS[known_method(method)]
    if layer is not None and not asked.has_layer:
        raise ExplanationError(f"{method} looks at no layer: leave {layer} out, or use gradcam")
    return asked.ask(model, image, label, layer)
