"""Which layer is looked at in every registered network, and what it holds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import ExplanationError, UnknownNameError
from convatlas.explanation import feature_maps, first_filters, map_layers, strongest, target_layer
from convatlas.explanation.class_activation import layer_gradients
from convatlas.explanation.gradients import RECTIFIERS
from convatlas.models import create_model, list_models, model_entry, outline_model
from network_forms import LARGE, ONE_OF_EACH_FORM, SMALLEST_OF_EACH_FAMILY, with_the_others_slow

KNOWN = {
    "lenet5": "s4",
    "alexnet": "pool5",
    "vgg16": "pool5",
    "vgg16_bn_cifar": "conv5_3",  # whose pool5 has a single place
    "resnet50": "conv5_3",
    "densenet121": "dense4",
    "googlenet": "inception_5b",
}


@pytest.mark.parametrize("name", list_models())
def test_the_target_is_the_last_tap_whose_output_is_a_map(name: str) -> None:
    model = outline_model(name)
    taps = list(model.taps)
    layer = target_layer(model)
    assert len(model.taps[layer].shape) == 3
    assert min(model.taps[layer].shape[1:]) > 1
    later = [model.taps[tap].shape for tap in taps[taps.index(layer) + 1 :]]
    assert all(len(shape) == 1 or shape[1:] == (1, 1) for shape in later)
    assert first_filters(model) is not None


@pytest.mark.parametrize(("name", "layer"), KNOWN.items())
def test_targets_that_are_known(name: str, layer: str) -> None:
    assert target_layer(outline_model(name)) == layer


@pytest.mark.parametrize("name", with_the_others_slow(list_models(), ONE_OF_EACH_FORM - {"preresnet1001"}))
def test_a_gradient_reaches_the_target_of_every_network(name: str) -> None:
    """Without numbers, and so at each network's own size."""
    model, entry = outline_model(name), model_entry(name)
    image = torch.zeros(entry.in_channels, entry.image_size, entry.image_size, device="meta")
    seen = layer_gradients(model, image, label=0)
    assert seen.gradients.shape == seen.maps.shape == model.taps[seen.layer].shape


@pytest.mark.parametrize("name", with_the_others_slow(list_models(), SMALLEST_OF_EACH_FAMILY - LARGE))
def test_every_relu_is_a_module_that_can_be_guided(name: str) -> None:
    """A ReLU that is a function would let everything through."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counting(TorchDispatchMode):
        rectified = 0

        def __torch_dispatch__(self, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
            operator = str(function).removeprefix("aten.").partition(".")[0].rstrip("_")
            # ReLU6 is a hardtanh
            self.rectified += operator in {"relu", "relu6", "hardtanh", "clamp", "clamp_min", "threshold"}
            return function(*arguments, **(options or {}))

    model, entry = outline_model(name).eval(), model_entry(name)
    modules: list[nn.Module] = []
    for layer in model.modules():
        if isinstance(layer, RECTIFIERS):
            layer.register_forward_hook(lambda layer, _inputs, _output: modules.append(layer))
    with torch.no_grad(), Counting() as counting:
        model(torch.zeros(1, entry.in_channels, entry.image_size, entry.image_size, device="meta"))
    assert counting.rectified == len(modules)


def test_a_relu_in_place_does_not_change_what_was_seen() -> None:
    """Whatever follows a layer may write over its output; what was kept is what the layer gave."""
    model = create_model("densenet40_12", seed=0).eval()
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    for layer in map_layers(model)[:3]:
        kept = []
        module = model.get_submodule(model.taps[layer].module)
        handle = module.register_forward_hook(lambda _m, _i, output, kept=kept: kept.append(output.clone()))
        with torch.no_grad():
            model(image[None])
        handle.remove()
        assert torch.equal(feature_maps(model, image, layer), kept[0][0])


def test_feature_maps_are_those_of_the_pass(digits) -> None:
    image = digits.images[0]
    with torch.no_grad():
        expected = digits.model.features(image[None])[0]
    assert torch.equal(feature_maps(digits.model, image), expected)
    assert not any(module._forward_hooks for module in digits.model.modules())


def test_the_strongest_channels_come_first() -> None:
    maps = torch.stack([torch.full((2, 2), value) for value in (0.5, -3.0, 2.0)])
    chosen = strongest(maps, most=2)
    assert chosen.channels == (1, 2)
    assert torch.equal(chosen.maps, maps[[1, 2]])


def test_layers_that_cannot_be_looked_at(digits) -> None:
    image = digits.images[0]
    with pytest.raises(UnknownNameError, match="no layer named 's44'; did you mean s4"):
        feature_maps(digits.model, image, "s44")
    with pytest.raises(
        ExplanationError, match=r"f6 gives 84 numbers without a place\. Layers with one: s4, c3, s2, c1"
    ):
        feature_maps(digits.model, image, "f6")
    with pytest.raises(ExplanationError, match=r"of the shape \(1, 28, 28\); received \(1, 8, 8\)"):
        feature_maps(digits.model, torch.zeros(1, 8, 8))


def test_a_network_without_a_map_says_so() -> None:
    model = outline_model("lenet5", image_size=12)
    model.taps = {"f6": model.taps["f6"]}
    with pytest.raises(ExplanationError, match="larger than 1x1 for images of 12"):
        target_layer(model)
