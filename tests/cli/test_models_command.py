"""``convatlas models``, as a person and as a program reads it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from convatlas.cli.models import folded, print_catalogue, print_page
from convatlas.models import describe_autoencoders, describe_image_autoencoders, describe_models, list_models
from convatlas.models.catalogue import LayerDescription, autoencoder_page, model_page

Command = Callable[..., Any]


def printed(show: Callable[[Console], None], width: int) -> list[str]:
    """The lines on a console of that many columns."""
    console = Console(width=width, file=io.StringIO(), highlight=False)
    show(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def squeezed(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_json_is_the_list_of_descriptions(convatlas: Command) -> None:
    answer = convatlas("models", "--json")
    assert answer.code == 0
    assert json.loads(answer.out) == [*describe_models(), *describe_autoencoders(), *describe_image_autoencoders()]


def test_the_list_has_a_line_a_network_under_its_family_and_papers(convatlas: Command) -> None:
    lines = squeezed(convatlas("models", "--family", "alexnet").out)
    assert lines[:6] == [
        "network image params MACs recipe published top-1 source",
        "alexnet 2012 Krizhevsky, Sutskever & Hinton 2012, NeurIPS",
        "2014 Krizhevsky 2014, arXiv 1404.5997",
        "alexnet_2012 3x224x224 61.0 M 724.4 M alexnet 59.3 ImageNet paper",
        "alexnet 3x224x224 61.1 M 714.2 M alexnet 56.5 ImageNet torchvision",
        "alexnet_mnist 1x227x227 58.3 M 1.1 G alexnet -",
    ]
    assert "next convatlas models NETWORK" in lines


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_fits_the_terminal(width: int) -> None:
    every = [*describe_models(), *describe_autoencoders(), *describe_image_autoencoders()]
    lines = printed(lambda console: print_catalogue(every, console), width)
    assert max(map(len, lines)) <= width
    assert {line.split()[0] for line in lines if line.startswith("  ")} >= set(list_models(task=None))
    assert any(line.endswith("MACs: multiply-adds of one image or one row. Top-1: percent.") for line in lines)


def test_a_narrow_terminal_has_no_recipes_but_the_published_figures() -> None:
    lines = squeezed("\n".join(printed(lambda console: print_catalogue(describe_models("vgg"), console), 80)))
    assert "vgg16 3x224x224 138.4 M 15.5 G 71.6 ImageNet" in lines


def test_a_family_by_its_name_is_listed(convatlas: Command) -> None:
    assert convatlas("models", "vgg").out == convatlas("models", "--family", "vgg").out
    assert json.loads(convatlas("models", "vgg", "--json").out) == describe_models("vgg")


def test_autoencoders_are_listed_with_their_columns(convatlas: Command) -> None:
    lines = squeezed(convatlas("models", "autoencoder").out)
    assert lines[0] == "network input params MACs recipe"
    assert "autoencoder_plain 29 columns 2.4 k 2.3 k autoencoder" in lines
    assert "7 networks. MACs: multiply-adds of one row." in lines
    assert lines[-1] == "convatlas train NETWORK --data TABLE"
    assert json.loads(convatlas("models", "autoencoder", "--json").out) == describe_autoencoders()


def test_a_page_tells_what_is_known_of_an_autoencoder(convatlas: Command) -> None:
    answer = convatlas("models", "autoencoder_sparse")
    lines = squeezed(answer.out)
    for line in (
        "autoencoder_sparse (family autoencoder, 2011)",
        "row 29 columns; any number of them",
        "settings activation=relu, sparsity=3e-05",
        "parameters 11,269 (11.3 k)",
        "layer output parameters module",
        "row 29",
        "code 40 3,240 encoder.relu2",
        "rebuilt 29 2,349 decoder.output",
        "next convatlas train autoencoder_sparse --data TABLE",
    ):
        assert line in lines
    page = json.loads(convatlas("models", "autoencoder_sparse", "--json").out)
    assert page.pop("recipe_about").startswith("Default for autoencoders")
    assert page == autoencoder_page("autoencoder_sparse")


def test_a_network_with_the_name_of_its_family_has_its_page(convatlas: Command) -> None:
    assert convatlas("models", "alexnet").out.startswith("alexnet  (family alexnet, 2014)\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vgg61"], "there is no network or family named 'vgg61'; did you mean vgg1"),
        (["cn5"], "did you mean cnn5"),
        (["vgg16", "--json", "--family", "vgg"], "takes a name or --family; received 'vgg16' and --family vgg"),
        (["--family", "alexnets"], "did you mean alexnet"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, convatlas: Command) -> None:
    answer = convatlas("models", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_a_page_tells_what_is_known_of_a_network(convatlas: Command) -> None:
    answer = convatlas("models", "vgg16")
    assert answer.code == 0
    lines = squeezed(answer.out)
    for line in (
        "vgg16 (family vgg, 2014)",
        "paper Simonyan & Zisserman 2014, arXiv 1409.1556",
        "image 3x224x224; any from 32x32 up (five 2x2 poolings)",
        "classes 1000",
        "parameters 138,357,544 (138.4 M)",
        "MACs 15,470,264,320 (15.5 G multiply-adds of one image)",
        "published 71.592 % top-1 on ImageNet (torchvision's weights)",
        "layer output parameters module",
        "image 3x224x224",
        "conv1_1 64x224x224 1,792 features.1",
        "pool1 64x112x112 features.4",
        "fc6 4096 102,764,544 classifier.1",
        "logits 1000 4,097,000 classifier.6",
        "differences from the paper",
        "next convatlas train vgg16 --data FOLDER",
        'python convatlas.create_model("vgg16", num_classes=10)',
    ):
        assert line in lines
    text = " ".join(lines)
    assert "recipe vgg: Default for VGG without batch norm" in text
    assert "siblings vgg11 (132.9 M), vgg11_lrn (132.9 M)" in text
    assert "- The _bn forms (batch normalisation between convolution and ReLU)" in text


def test_a_page_says_what_is_not_trained_or_only_helps_training(convatlas: Command) -> None:
    assert "840 numbers in buffers, which are not trained" in convatlas("models", "lenet5_1998").out
    page = model_page("lenet5") | {"auxiliary_parameters": 1234}
    lines = printed(lambda console: print_page(page, "", console), 80)
    assert f"{'':12}1,234 more in auxiliary heads, which only training uses" in lines


@pytest.mark.parametrize("name", ["lenet5_1998", "alexnet_2012", "vgg19_bn", "cnn5_cifar"])
def test_a_page_fits_a_terminal_of_80_columns(name: str) -> None:
    lines = printed(lambda console: print_page(model_page(name), "What it is. " * 20, console), 80)
    assert max(map(len, lines)) <= 80


def test_a_page_leaves_out_what_there_is_not(convatlas: Command) -> None:
    page = convatlas("models", "cnn5_cifar").out
    assert page.startswith("cnn5_cifar  (family cnn5)\n")
    assert not any(word in page for word in ("published", "siblings", "buffers", "auxiliary"))


def test_a_page_as_json_is_the_page_and_what_its_recipe_says(convatlas: Command) -> None:
    page = json.loads(convatlas("models", "lenet5", "--json").out)
    assert page.pop("recipe_about").startswith("Default for LeNet")
    assert page == model_page("lenet5")


def layers(*shapes: list[int]) -> list[LayerDescription]:
    return [
        LayerDescription(name=f"conv{place}", module=f"features.{place}", shape=shape, parameters=10)
        for place, shape in enumerate(shapes)
    ]


def test_long_runs_of_equal_outputs_are_folded_but_for_the_first() -> None:
    runs = folded(layers([8, 4, 4], *[[16, 2, 2]] * 4, *[[32, 1, 1]] * 3))
    assert [[layer["name"] for layer in run] for run in runs] == [
        ["conv0"],
        ["conv1"],
        ["conv2", "conv3", "conv4"],
        ["conv5"],
        ["conv6"],
        ["conv7"],
    ]


def test_the_table_of_a_deep_network_is_short() -> None:
    page = model_page("lenet5") | {"taps": layers(*[[16, 32, 32]] * 200, *[[64, 8, 8]] * 200)}
    lines = squeezed("\n".join(printed(lambda console: print_page(page, "", console), 80)))
    table = lines[lines.index("layer output parameters module") + 1 :][:6]
    assert table[:5] == [
        "image 1x28x28",
        "conv0 16x32x32 10 features.0",
        "conv1 ... conv199 16x32x32 1,990 x199",
        "conv200 64x8x8 10 features.200",
        "conv201 ... conv399 64x8x8 1,990 x199",
    ]
    assert table[5].startswith("logits 10")
