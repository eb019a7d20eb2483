"""What a page about one network knows, beside the papers' own figures."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from torch import nn

from convatlas.errors import UnknownNameError
from convatlas.models import (
    Classifier,
    Tap,
    describe_autoencoders,
    describe_models,
    find_entry,
    list_models,
    model_entry,
)
from convatlas.models.catalogue import autoencoder_page, describe_taps, differences, main_output, model_page
from convatlas.models.registry import AutoencoderDescription


class Branched(Classifier):
    """One ReLU for two convolutions, two branches of which one has no tap, and an auxiliary head."""

    auxiliary_heads = ("aux",)
    output_names = ("aux", "output")

    def __init__(self) -> None:
        super().__init__(num_classes=5, in_channels=3, image_size=8)
        self.conv1 = nn.Conv2d(3, 4, 1)  # 16 parameters
        self.conv2 = nn.Conv2d(4, 4, 1)  # 20
        self.side = nn.Conv2d(4, 4, 1, bias=False)  # 16
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.aux = nn.Linear(4, 5)
        self.output = nn.Linear(4, 5)  # 25
        self.taps = {"stem": Tap("relu", (4, 8, 8)), "pool": Tap("pool", (4, 1, 1))}

    def features(self, images: torch.Tensor) -> torch.Tensor:
        stem = self.relu(self.conv2(self.relu(self.conv1(images))))
        pooled: torch.Tensor = self.pool(stem + self.side(stem))
        return pooled

    def head(self, feature_map: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.output(feature_map.flatten(1))
        return logits


def test_a_tap_has_the_parameters_of_what_ran_since_the_one_before() -> None:
    model = Branched()
    assert [(tap["name"], tap["parameters"]) for tap in describe_taps(model)] == [("stem", 16 + 20), ("pool", 16)]
    assert main_output(model) == "output"


def test_describing_the_taps_leaves_no_hook() -> None:
    model = Branched()
    describe_taps(model)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_page_of_vgg16_has_the_figures_of_its_paper() -> None:
    page = model_page("vgg16")
    layers = {layer["name"]: layer for layer in [*page["taps"], page["output"]]}
    assert list(layers)[:3] == ["conv1_1", "conv1_2", "pool1"]
    assert list(layers)[-3:] == ["fc6", "fc7", "logits"]
    parameters = {name: layer["parameters"] for name, layer in layers.items()}
    assert parameters["conv1_1"] == 3 * 64 * 9 + 64
    assert parameters["pool3"] == 0
    assert parameters["conv5_3"] == 512 * 512 * 9 + 512
    assert parameters["fc6"] == 512 * 7 * 7 * 4096 + 4096
    assert parameters["logits"] == 4096 * 1000 + 1000
    assert sum(parameters.values()) == page["parameters"] == 138_357_544
    assert layers["pool5"]["shape"] == [512, 7, 7]
    assert layers["logits"] == {
        "name": "logits",
        "module": "classifier.6",
        "shape": [1000],
        "parameters": parameters["logits"],
    }
    assert page["about"].startswith("VGG: nothing but 3x3 convolutions")
    assert page["brought"] == model_entry("vgg16").brought
    assert page["minimum_reason"] == "five 2x2 poolings"


def test_an_output_without_parameters_is_a_row_all_the_same() -> None:
    assert model_page("lenet5_1998")["output"] == {
        "name": "logits",
        "module": "classifier.output",
        "shape": [10],
        "parameters": 0,
    }


def test_the_page_holds_the_network_s_line_of_the_list() -> None:
    (description,) = [model for model in describe_models() if model["name"] == "vgg11_bn"]
    assert description.items() <= model_page("vgg11_bn").items()


@pytest.mark.parametrize("description", describe_autoencoders(), ids=lambda each: each["name"])
def test_the_page_of_an_autoencoder_adds_up(description: AutoencoderDescription) -> None:
    page = autoencoder_page(description["name"])
    assert description.items() <= page.items()
    assert sum(layer["parameters"] for layer in (*page["taps"], page["output"])) == page["parameters"]
    assert page["output"]["shape"] == [page["columns"]]
    assert page["about"].startswith("Autoencoders of rows: ")
    assert len(page["siblings"]) == len(describe_autoencoders()) - 1
    assert len(page["differences"]) >= 2


def test_a_classifier_has_no_page_as_an_autoencoder() -> None:
    with pytest.raises(UnknownNameError, match="vgg16 is a classifier of images"):
        autoencoder_page("vgg16")
    with pytest.raises(UnknownNameError, match="autoencoder_plain is an autoencoder of rows"):
        model_page("autoencoder_plain")


def test_siblings_are_the_rest_of_the_family() -> None:
    page = model_page("alexnet_2012")
    assert [sibling["name"] for sibling in page["siblings"]] == ["alexnet", "alexnet_mnist"]
    assert page["siblings"][0]["parameters"] == 61_100_840


def test_an_unknown_network_has_no_page() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean .*vgg16"):
        model_page("vgg61")


def test_differences_are_those_of_the_network() -> None:
    assert len(model_page("vgg16")["differences"]) == 3
    padded, *others = model_page("alexnet_2012")["differences"]
    assert padded == "Images are padded by 2 pixels: the paper says 224x224, and its 55x55 map needs 227."
    assert len(others) == 2
    assert len(model_page("alexnet")["differences"]) == 3
    assert len(model_page("lenet5_1998")["differences"]) == 4
    (modern,) = model_page("lenet5")["differences"]
    assert modern.endswith("28x28 images, padded by 2 in C1 where the paper pads the images.")
    assert len(model_page("cnn5_cifar")["differences"]) == 1


def test_differences_end_where_the_indentation_does() -> None:
    document = "Net.\n\nDifferences from the paper\n  - One,\n    in two lines.\n\n  - ``Two``.\nAnother\n  - No."
    assert differences(document, {"net"}) == ["One, in two lines.", "Two."]
    assert differences("Net.", {"net"}) == []


def test_every_section_of_differences_is_about_a_network_of_its_file() -> None:
    """A heading that names no network would be left out of every page."""
    names_of: dict[str, set[str]] = {}
    for entry in map(find_entry, list_models(task=None)):
        module = getattr(entry.build, "func", entry.build).__module__  # of the class, or of a partial of it
        names_of.setdefault(sys.modules[module].__doc__ or "", set()).update({entry.name, entry.family})
    for document, names in names_of.items():
        for heading in re.findall(r"^Differences from.*$", document, re.MULTILINE):
            start, _, listed = heading.partition(", ")
            assert start in {"Differences from the paper", "Differences from the papers"}
            assert not listed or set(listed.split(", ")) <= names, heading
