"""What each pixel does to a class's logit, by gradients: guided backpropagation and integrated gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from convatlas.errors import ExplanationError
from convatlas.explanation.layers import passing_through
from convatlas.explanation.shown import Attribution, chosen_label, evaluating, require_image
from convatlas.models.contract import Classifier

RECTIFIERS = (nn.ReLU, nn.ReLU6)
STEPS = 50
PIXELS_AT_ONCE = 2**18  # five images of 224 pixels: VGG-16 then keeps half a gigabyte for its backward pass


def guided_gradients(model: Classifier, image: Tensor, label: int | None = None) -> Attribution:
    """The gradient of a class's logit by each pixel, where every ReLU lets through only what speaks for the class.

    >>> from convatlas.models import create_model
    >>> guided_gradients(create_model("lenet5"), torch.zeros(1, 28, 28)).values.shape
    torch.Size([1, 28, 28])

    A network without ReLU, as LeNet-5 of 1998, has its plain gradient.

    Raises:
        ExplanationError: no such class, or an image of another shape.
    Source: Springenberg et al. 2015, "Striving for simplicity", arXiv 1412.6806, section 3.4.
    """
    require_image(model, image)
    with evaluating(model), guided(model), torch.enable_grad():
        pixels = image[None].detach().requires_grad_()
        logits = model(pixels)[0]
        chosen = chosen_label(logits, label)
        (gradient,) = torch.autograd.grad(logits[chosen], pixels)
    return Attribution(gradient[0], logits.detach(), chosen)


@contextmanager
def guided(network: nn.Module) -> Iterator[None]:
    """Within the block, no gradient below zero goes back through a ReLU.

    The hook is the output's, not the module's: torch's hooks on a module's gradients do not go with one that writes in
    place.
    """
    with ExitStack() as hooks:
        for layer in network.modules():
            if isinstance(layer, RECTIFIERS):
                hooks.enter_context(passing_through(layer, _letting_rises_through))
        yield


def _letting_rises_through(output: Tensor) -> Tensor:
    if output.requires_grad:
        output.register_hook(torch.relu)  # type: ignore[no-untyped-call]
    return output


def integrated_gradients(
    model: Classifier, image: Tensor, label: int | None = None, baseline: Tensor | None = None, steps: int = STEPS
) -> Attribution:
    """What each pixel adds to a class's logit on the straight way from a baseline to the image.

    All values together are the logit of the image less that of the baseline, up to the error of so many steps.

    >>> from convatlas.models import create_model
    >>> model, image = create_model("lenet5", seed=0).eval(), torch.linspace(0, 1, 784).view(1, 28, 28)
    >>> found = integrated_gradients(model, image, label=3)
    >>> gained = found.logits[3] - model(torch.zeros(1, 1, 28, 28))[0, 3]
    >>> abs(found.values.sum() - gained).item() < 0.01
    True

    Args:
        model: in either mode.
        image: [C, H, W], as the network takes it.
        label: of the class; the most probable one when left out.
        baseline: an image that shows nothing; zeros when left out, which are the mean colour of the training images
            where these were standardised.
        steps: at whose middles the gradient is taken.

    Raises:
        ExplanationError: no such class, an image or a baseline of another shape, or no step.
    Source: Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks", arXiv 1703.01365, equation 3.
    """
    require_image(model, image)
    if baseline is not None:
        require_image(model, baseline)
    if steps < 1:
        raise ExplanationError(f"the way from the baseline takes 1 step or more; received {steps}")
    start = torch.zeros_like(image) if baseline is None else baseline
    with evaluating(model):
        with torch.no_grad():
            logits = model(image[None])[0]
        chosen = chosen_label(logits, label)
        mean = _mean_gradient(model, start, image, chosen, steps)
    return Attribution((image - start) * mean, logits, chosen)


def _mean_gradient(model: Classifier, start: Tensor, end: Tensor, label: int, steps: int) -> Tensor:
    """The gradient of a logit, averaged over the way: some steps at a time."""
    middles = (torch.arange(steps, dtype=end.dtype, device=end.device) + 0.5) / steps
    total = torch.zeros_like(end)
    for shares in torch.split(middles, max(1, PIXELS_AT_ONCE // end[0].numel())):
        images = torch.lerp(start, end, shares.view(-1, 1, 1, 1)).requires_grad_()
        with torch.enable_grad():
            score = model(images)[:, label].sum()
        total += torch.autograd.grad(score, images)[0].sum(dim=0)
    return total / steps
