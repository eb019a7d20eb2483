"""What can be told of one network: its registry entry, its layers as built, and what its family's file says of it.

page = model_page("vgg16")
page["taps"][0]         # {'name': 'conv1_1', 'module': 'features.1', 'shape': [64, 224, 224], 'parameters': 1792}
page["differences"]     # of its file's "Differences from the paper"
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from typing import TypedDict

import torch
from torch import nn

from convatlas.models.contract import Autoencoder, Classifier, blank_input
from convatlas.models.registry import (
    AutoencoderDescription,
    ImageAutoencoderDescription,
    ModelDescription,
    autoencoder_entry,
    describe_autoencoders,
    describe_image_autoencoders,
    describe_models,
    image_autoencoder_entry,
    list_models,
    model_entry,
    outline_autoencoder,
    outline_image_autoencoder,
    outline_model,
)


class LayerDescription(TypedDict):
    """A named layer: the module whose output it is, that output's shape without the batch, and its parameters.

    ``parameters`` are those of everything that runs after the named layer before it, up to its own output.
    """

    name: str
    module: str
    shape: list[int]
    parameters: int


class Sibling(TypedDict):
    """Another network of the family."""

    name: str
    parameters: int


class ModelPage(ModelDescription):
    """What ``convatlas models NAME`` tells of a network at its own size."""

    about: str  # the family's file in a line
    brought: str
    minimum_reason: str
    taps: list[LayerDescription]
    output: LayerDescription  # the logits, which have no tap
    siblings: list[Sibling]
    differences: list[str]


class ImageAutoencoderPage(ImageAutoencoderDescription):
    """What ``convatlas models NAME`` tells of an autoencoder of images at its own size."""

    about: str  # the family's file in a line
    brought: str
    minimum_reason: str
    taps: list[LayerDescription]
    output: LayerDescription  # the rebuilt images, which have no tap
    siblings: list[Sibling]
    differences: list[str]


class AutoencoderPage(AutoencoderDescription):
    """What ``convatlas models NAME`` tells of an autoencoder with its own number of columns."""

    about: str  # the family's file in a line
    brought: str
    taps: list[LayerDescription]
    output: LayerDescription  # the rebuilt rows, which have no tap
    siblings: list[Sibling]
    differences: list[str]


def model_page(name: str) -> ModelPage:
    """Everything that is known of a network; it is built without memory for its weights.

    >>> page = model_page("lenet5")
    >>> page["taps"][0]
    {'name': 'c1', 'module': 'features.squash1', 'shape': [6, 28, 28], 'parameters': 156}
    >>> page["siblings"]
    [{'name': 'lenet5_1998', 'parameters': 60000}]

    The parameters of all taps and of the output add up to the network's.

    Raises:
        UnknownNameError: no network has that name; the nearest are named.
    """
    entry, model = model_entry(name), outline_model(name)
    family = {each["name"]: each for each in describe_models(entry.family)}
    description = family[name]
    document = _document_of(model)
    taps = describe_taps(model)
    return ModelPage(
        **description,
        about=first_paragraph(document),
        brought=entry.brought,
        minimum_reason=entry.minimum_reason,
        taps=taps,
        output=LayerDescription(
            name="logits",
            module=main_output(model),
            shape=[model.num_classes],
            parameters=description["parameters"] - sum(tap["parameters"] for tap in taps),
        ),
        siblings=_siblings(name, {other: each["parameters"] for other, each in family.items()}),
        differences=differences(document, {name, entry.family} - (set(list_models()) - {name})),
    )


def autoencoder_page(name: str) -> AutoencoderPage:
    """Everything that is known of an autoencoder; it is built without memory for its weights.

    >>> page = autoencoder_page("autoencoder_plain")
    >>> page["taps"][0]
    {'name': 'code', 'module': 'encoder.relu1', 'shape': [40], 'parameters': 1200}
    >>> page["output"]
    {'name': 'rebuilt', 'module': 'decoder.output', 'shape': [29], 'parameters': 1189}

    Raises:
        UnknownNameError: no autoencoder has that name; the nearest are named.
    """
    entry, model = autoencoder_entry(name), outline_autoencoder(name)
    family = {each["name"]: each for each in describe_autoencoders(entry.family)}
    document, taps = _document_of(model), describe_taps(model)
    return AutoencoderPage(
        **family[name],
        about=first_paragraph(document),
        brought=entry.brought,
        taps=taps,
        output=_rebuilt(model, family[name]["parameters"], taps),
        siblings=_siblings(name, {other: each["parameters"] for other, each in family.items()}),
        differences=differences(document, {name, entry.family}),
    )


def image_autoencoder_page(name: str) -> ImageAutoencoderPage:
    """Everything that is known of an autoencoder of images; it is built without memory for its weights.

    >>> image_autoencoder_page("autoencoder_dense_latent")["output"]["shape"]
    [3, 64, 64]

    Raises:
        UnknownNameError: no network has that name; the nearest are named.
    """
    entry, model = image_autoencoder_entry(name), outline_image_autoencoder(name)
    family = {each["name"]: each for each in describe_image_autoencoders(entry.family)}
    document, taps = _document_of(model), describe_taps(model)
    return ImageAutoencoderPage(
        **family[name],
        about=first_paragraph(document),
        brought=entry.brought,
        minimum_reason=entry.minimum_reason,
        taps=taps,
        output=_rebuilt(model, family[name]["parameters"], taps),
        siblings=_siblings(name, {other: each["parameters"] for other, each in family.items()}),
        differences=differences(document, {name, entry.family}),
    )


def _rebuilt(model: Autoencoder, parameters: int, taps: list[LayerDescription]) -> LayerDescription:
    rest = parameters - sum(tap["parameters"] for tap in taps)
    return LayerDescription(name="rebuilt", module=model.output_name, shape=list(model.input_shape), parameters=rest)


def _siblings(name: str, family: Mapping[str, int]) -> list[Sibling]:
    """The others of a family, by name and number of parameters."""
    return [Sibling(name=other, parameters=parameters) for other, parameters in family.items() if other != name]


def _document_of(model: nn.Module) -> str:
    return sys.modules[type(model).__module__].__doc__ or ""  # python -OO leaves none


def main_output(model: Classifier) -> str:
    """Path of the layer that makes the logits; the others of ``output_names`` are in auxiliary heads."""
    return [path for path in model.output_names if path.partition(".")[0] not in model.auxiliary_heads][-1]


def describe_taps(model: Classifier | Autoencoder) -> list[LayerDescription]:
    """The taps in the paper's order, each with the parameters of what runs between the tap before and it.

    One image or row goes through, on whatever device the network is: on the meta device it costs no arithmetic.
    """
    tap_of = {model.get_submodule(tap.module): name for name, tap in model.taps.items()}
    parameters = dict.fromkeys(model.taps, 0)
    counted: set[nn.Module] = set()
    since_last_tap = 0

    def count(module: nn.Module, _inputs: object, _output: object) -> None:
        nonlocal since_last_tap
        if module not in counted:  # a module that runs twice has its weights once
            counted.add(module)
            since_last_tap += sum(weights.numel() for weights in module.parameters(recurse=False))
        if module in tap_of:
            parameters[tap_of[module]] += since_last_tap
            since_last_tap = 0

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model.eval()(blank_input(model))
    for hook in hooks:
        hook.remove()
    return [
        LayerDescription(name=name, module=tap.module, shape=list(tap.shape), parameters=parameters[name])
        for name, tap in model.taps.items()
    ]


def first_paragraph(document: str) -> str:
    """What a docstring says first, in one line.

    >>> first_paragraph(model_page.__doc__)
    'Everything that is known of a network; it is built without memory for its weights.'
    """
    return " ".join(document.partition("\n\n")[0].split())


#: A section's heading, with the networks it is about, and its body: every line that is indented or empty.
_SECTION = re.compile(r"^Differences from the papers?(?:, (.+))?\n((?:(?: .*)?\n)+)", re.MULTILINE)
_BULLET = re.compile(r"^  - ", re.MULTILINE)


def differences(document: str, called: Collection[str]) -> list[str]:
    """What a file's docstring lists under "Differences from the paper", for the network that has these names.

    A heading may end in the networks or families it is about.

    >>> document = '''
    ... Differences from the paper
    ...   - One for all.
    ...
    ... Differences from the paper, vgg16c, vgg16_bn
    ...   - One that
    ...     only these have.
    ... '''
    >>> differences(document, {"vgg16_bn", "vgg"})
    ['One for all.', 'One that only these have.']
    >>> differences(document, {"vgg16", "vgg"})
    ['One for all.']
    """
    return [
        " ".join(item.split()).replace("``", "")
        for about, body in _SECTION.findall(f"{document}\n")
        if not about or any(name in called for name in about.split(", "))
        for item in _BULLET.split(body)[1:]
    ]
