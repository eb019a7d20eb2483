"""Of every registered network: what its layers see is where their gradient is.

So that no gradient is zero by chance, poolings average, weights are positive and what saturates does not: none of this
changes which pixels an output depends on. Float64, in which the gradients of
the deepest networks do not vanish; float32 where a network has many parameters, and few layers enough.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from convatlas import layers
from convatlas.inspection import trace_module
from convatlas.inspection.reach import Field
from convatlas.inspection.receptive_field import receptive_fields
from convatlas.layers import SqueezeExcite
from convatlas.models import Classifier, create_model, list_models, model_entry, outline_model
from convatlas.models.counts import shipped_counts
from network_forms import SMALLEST_OF_EACH_FAMILY, with_the_others_slow

from .random_graphs import seen_by_gradient
from .test_receptive_field_by_gradient import extents, inside

TAPS = 4  # of each network, spread evenly, the last among them


def fields_at_taps(name: str, size: int) -> dict[str, Field]:
    """Of the network as it is."""
    model = outline_model(name, image_size=size)
    trace = trace_module(model, torch.zeros(1, model.in_channels, size, size, device="meta"))
    fields = receptive_fields(trace)
    output = {call.name: call.outputs[0].index for call in trace.calls}
    return {tap: fields[output[place.module]] for tap, place in chosen(model).items()}


def chosen(model: Classifier) -> dict[str, object]:
    names = list(model.taps)
    places = sorted({*np.linspace(0, len(names) - 1, TAPS).astype(int).tolist()})
    return {names[place]: model.taps[names[place]] for place in places}


def with_gradients_everywhere(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """The network, made so that no gradient is zero where there is a dependence."""
    for initializer in layers.INITIALIZERS:
        monkeypatch.setitem(layers.INITIALIZERS, initializer, lambda weight, **_: nn.init.zeros_(weight))
    model = create_model(name, image_size=size).eval()
    if shipped_counts()[name]["parameters"] < 3e7:
        model = model.double()
    for module in list(model.modules()):
        for child_name, child in module.named_children():
            setattr(module, child_name, smooth(child))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.fill_(1 / max(1, parameter[0].numel()) if parameter.dim() > 1 else 0.01 if "bias" in key else 1)
    return model.requires_grad_(False)


def smooth(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.MaxPool2d):
        return nn.AvgPool2d(module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode)
    if type(module).__name__ in ("Sigmoid", "ScaledTanh"):
        return nn.Softsign()
    return nn.ReLU() if isinstance(module, nn.ReLU6) else module


def check(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> int:
    fields = fields_at_taps(name, size)
    model = with_gradients_everywhere(name, size, monkeypatch)
    kind = next(model.parameters()).dtype
    image = torch.ones(1, model.in_channels, size, size, dtype=kind, requires_grad=True)
    outputs: dict[str, torch.Tensor] = {}
    for tap, place in chosen(model).items():
        model.get_submodule(place.module).register_forward_hook(
            lambda _module, _inputs, output, tap=tap: outputs.update({tap: output})
        )
    model(image)
    is_gated = any(isinstance(module, SqueezeExcite) for module in model.modules())  # which window_of adds
    compared = 0
    for tap, field in fields.items():
        assert field is not None, tap
        shape = outputs[tap].shape
        for index in {tuple(0 for _ in shape), tuple(side // 2 for side in shape), tuple(side - 1 for side in shape)}:
            seen = seen_by_gradient(outputs[tap][tuple(index)], image)
            assert extents(field.support, shape, index) == seen, (tap, index)
            assert is_gated or inside(seen, extents(field.window, shape, index)), (tap, index)
            compared += 1
    return compared


@pytest.mark.parametrize("name", with_the_others_slow(list_models(), SMALLEST_OF_EACH_FAMILY))
def test_at_the_smallest_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(name, model_entry(name).minimum_size, monkeypatch) >= TAPS


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALLEST_OF_EACH_FAMILY | {"vgg16", "resnet50", "densenet121", "inception_v4"}))
def test_at_its_own_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(name, model_entry(name).image_size, monkeypatch) >= TAPS
