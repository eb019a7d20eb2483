"""The fast suite's choice of networks leaves out no family and no kind of layer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import nn

from convatlas.models import list_models, model_entry, outline_model
from network_forms import ONE_OF_EACH_FORM, SMALLEST_OF_EACH_FAMILY, form

SETTINGS = ("kernel_size", "stride", "padding", "groups", "ceil_mode", "count_include_pad", "output_size", "p")


def test_one_of_each_family_is_taken() -> None:
    families = {model_entry(name).family for name in list_models()}
    assert {model_entry(name).family for name in ONE_OF_EACH_FORM} == families
    assert len(SMALLEST_OF_EACH_FAMILY) == len(families)
    assert SMALLEST_OF_EACH_FAMILY <= ONE_OF_EACH_FORM


def test_networks_that_differ_in_depth_or_width_are_of_one_form() -> None:
    forms = {name: form(model_entry(name).build) for name in list_models()}
    assert forms["vgg11"] == forms["vgg16"] != forms["vgg16c"] != forms["vgg16c_bn"]
    assert forms["resnet20"] == forms["resnet1202"] != forms["preresnet110"]
    assert forms["resnet50"] == forms["resnet101"] != forms["resnet50_v1"]
    assert forms["densenet_bc100_12"] == forms["densenet_bc190_40"] != forms["densenet40_12"]


@pytest.mark.slow
def test_every_kind_of_layer_is_taken() -> None:
    taken = {kind for name in ONE_OF_EACH_FORM for kind in kinds_of_layers(name)}
    assert {kind for name in list_models() for kind in kinds_of_layers(name)} == taken


def kinds_of_layers(name: str) -> Iterator[tuple[object, ...]]:
    """Each module's type, and what is set of it."""
    for module in outline_model(name).modules():
        if not any(module.children()):
            yield type(module), *(form(getattr(module, setting, None)) for setting in SETTINGS)
        yield (type(module),)


@pytest.mark.parametrize(
    ("value", "same", "other"),
    [(0.5, 0.3, 0.0), ((64, 64), (128,), (1,)), ({"a": 3}, {"a": 2}, {"b": 3}), (nn.ReLU, nn.ReLU, nn.ReLU6)],
)
def test_numbers_do_not_count(value: object, same: object, other: object) -> None:
    assert form(value) == form(same) != form(other)
