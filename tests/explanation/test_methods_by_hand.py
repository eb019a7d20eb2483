"""The methods against what can be worked out on paper."""

from __future__ import annotations

import torch
from torch import nn

from convatlas.explanation import feature_maps
from convatlas.explanation.class_activation import (
    LayerGradients,
    grad_cam_plus_plus_weights,
    grad_cam_weights,
    layer_gradients,
    weighted_map,
)
from convatlas.explanation.gradients import guided_gradients, integrated_gradients
from convatlas.explanation.maps import enlarged, scaled
from convatlas.explanation.occlusion import occlusion, window_corners
from convatlas.models import Classifier, Tap

IMAGE = torch.tensor([[[1.0, -2.0], [3.0, 0.5]]])
#: Of class 0: channel 0 has 1, 2, -1, 4 at the four pixels, channel 1 has -3, 5, 6, -7.
DENSE = [[1.0, 2.0, -1.0, 4.0, -3.0, 5.0, 6.0, -7.0], [0.0] * 8]


class TwoLayers(Classifier):
    """A 1x1 convolution, a ReLU that writes in place, and a dense layer on all pixels: 2x2 images of one channel."""

    output_names = ("dense",)

    def __init__(self, weights: list[float], dense: list[list[float]]) -> None:
        super().__init__(num_classes=len(dense), in_channels=1, image_size=2)
        self.conv = nn.Conv2d(1, len(weights), 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.dense = nn.Linear(4 * len(weights), len(dense), bias=False)
        self.conv.weight.data = torch.tensor(weights).view(-1, 1, 1, 1)
        self.dense.weight.data = torch.tensor(dense)
        self.taps = {"conv": Tap("relu", (len(weights), 2, 2)), "before": Tap("conv", (len(weights), 2, 2))}

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 1, 2, 2] -> [N, C, 2, 2]."""
        maps: torch.Tensor = self.relu(self.conv(images))
        return maps

    def head(self, feature_map: torch.Tensor) -> torch.Tensor:
        """[N, C, 2, 2] -> [N, num_classes]."""
        logits: torch.Tensor = self.dense(feature_map.flatten(1))
        return logits


def network() -> TwoLayers:
    return TwoLayers([2.0, -1.0], DENSE)


def test_guided_backpropagation_of_two_layers() -> None:
    """Channel 0, 2x: on at pixels 0, 2, 3; channel 1, -x: on at pixel 1. Gradients below zero end at the ReLU."""
    found = guided_gradients(network(), IMAGE, label=0)
    # pixel 0: 2 * 1; pixel 1: -1 * 5; pixel 2: the gradient -1 is stopped; pixel 3: 2 * 4
    assert found.values.tolist() == [[[2.0, -5.0], [0.0, 8.0]]]
    assert found.logits.tolist() == [2 - 6 + 4 + 10, 0]


def test_the_plain_gradient_is_back_after_guiding() -> None:
    model, pixels = network(), IMAGE[None].clone().requires_grad_()
    guided_gradients(model, IMAGE, label=0)
    (gradient,) = torch.autograd.grad(model(pixels)[0, 0], pixels)
    assert gradient[0].tolist() == [[[2.0, -5.0], [-2.0, 8.0]]]


def test_grad_cam_of_two_layers() -> None:
    seen = layer_gradients(network(), IMAGE, label=0)
    assert seen.layer == "before"  # the last tap that is named, here on purpose the one that is overwritten in place
    seen = layer_gradients(network(), IMAGE, label=0, layer="conv")
    assert seen.maps.tolist() == [[[2.0, 0.0], [6.0, 1.0]], [[0.0, 2.0], [0.0, 0.0]]]
    assert seen.gradients.flatten().tolist() == DENSE[0]
    weights = grad_cam_weights(seen)
    assert weights.tolist() == [1.5, 0.25]
    assert weighted_map(seen.maps, weights).tolist() == [[3.0, 0.5], [9.0, 1.5]]


def test_a_layer_that_is_overwritten_in_place_keeps_what_it_held() -> None:
    held = [[[2.0, -4.0], [6.0, 1.0]], [[-1.0, 2.0], [-3.0, -0.5]]]
    seen = layer_gradients(network(), IMAGE, label=0, layer="before")
    assert seen.maps.tolist() == feature_maps(network(), IMAGE, "before").tolist() == held
    assert seen.gradients[0].tolist() == [[1.0, 0.0], [-1.0, 4.0]]  # where the ReLU is on


def test_grad_cam_plus_plus_is_the_papers_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, gradients = torch.rand(5, 4, 4, generator=generator), torch.randn(5, 4, 4, generator=generator)
    # Equation 19, term by term in float64, with second and third derivatives g^2 and g^3 of an exponential.
    a, g = maps.double(), gradients.double()
    alpha = g**2 / (2 * g**2 + a.sum(dim=(1, 2), keepdim=True) * g**3)
    expected = (alpha * g.relu()).sum(dim=(1, 2))
    found = grad_cam_plus_plus_weights(LayerGradients(maps, gradients, torch.zeros(2), 0, "conv"))
    torch.testing.assert_close(found, expected.float())


def test_integrated_gradients_of_a_network_without_bias() -> None:
    """On the way from zero no ReLU turns on or off: the gradient is everywhere that of the image."""
    found = integrated_gradients(network(), IMAGE, label=0, steps=3)
    torch.testing.assert_close(found.values, torch.tensor([[[2.0, 10.0], [-6.0, 4.0]]]))
    assert found.values.sum().item() == found.logits[0].item()


def test_occlusion_of_single_pixels() -> None:
    model, image = network(), IMAGE
    found = occlusion(model, image, label=0, window=1)
    for row, column in window_corners(2, 1):
        covered = image.clone()
        covered[0, row, column] = image.mean()
        with torch.no_grad():
            loss = model(image[None])[0, 0] - model(covered[None])[0, 0]  # the other class's logit is always 0
        torch.testing.assert_close(found.values[row, column], loss)


def test_windows_cover_every_pixel() -> None:
    for side in (1, 2, 7, 28, 33):
        window = max(1, side // 7)
        covered = torch.zeros(side, side)
        for top, left in window_corners(side, window):
            covered[top : top + window, left : left + window] += 1
        assert covered.min() >= 1
        assert len(set(window_corners(side, window))) == len(window_corners(side, window))


def test_scaling() -> None:
    values = torch.tensor([0.0] * 50 + list(range(1, 50)) + [1000.0])
    assert scaled(values).max() == 1
    assert scaled(values)[-2] < 0.05
    assert scaled(values, share=0.99)[-2] > 0.5  # the one far above does not darken the others
    assert scaled(-values).tolist() == [0.0] * 100
    sparse = torch.tensor([0.0] * 999 + [5.0])
    assert scaled(sparse, share=0.99).tolist() == [0.0] * 999 + [1.0]
    assert enlarged(torch.eye(4), 16).shape == (16, 16)
