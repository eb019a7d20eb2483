"""The same weights give the same logits as torchvision's networks, which load strictly.

torchvision's network gets random weights and ours takes them over as they are, key by key, without a copy. The dense
layers, which are most of a VGG and the same in all of them, are drawn once.
"""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from convatlas.models import Classifier, outline_model

VGGS = ["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
TOLERANCE = 1e-5  # largest difference of a logit, relative to the largest logit


def fill(module: nn.Module) -> nn.Module:
    """Random weights that keep a signal's size, and normalisation unlike a fresh one; ``module`` is on meta before."""
    generator = torch.Generator().manual_seed(0)
    module.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.dim() > 1:
                tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5, generator=generator)
            elif tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.zero_()
    return module


@pytest.fixture(scope="module")
def dense_layers() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        classifier = torchvision.models.vgg11(init_weights=False).classifier
    return fill(classifier).state_dict()


def theirs_and_ours(name: str, dense_layers: dict[str, torch.Tensor] | None) -> tuple[nn.Module, Classifier]:
    options = {} if name == "alexnet" else {"init_weights": False}
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None, **options)
    fill(theirs.features)
    if dense_layers is None:
        fill(theirs.classifier)
    else:
        theirs.classifier.load_state_dict(dense_layers, assign=True)
    ours = outline_model(name)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return theirs, ours


def assert_same_logits(theirs: nn.Module, ours: nn.Module, images: torch.Tensor) -> None:
    logits = []
    for network in (theirs, ours):
        torch.manual_seed(0)  # the same neurons drop out
        with torch.no_grad():
            logits.append(network(images))
    expected, received = logits
    assert expected.std() > 0
    assert (received - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("name", VGGS)
def test_vgg(name: str, dense_layers: dict[str, torch.Tensor]) -> None:
    theirs, ours = theirs_and_ours(name, dense_layers)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert_same_logits(theirs.eval(), ours.eval(), images)
    assert_same_logits(theirs.train(), ours.train(), images)


def test_vgg_at_its_own_size(dense_layers: dict[str, torch.Tensor]) -> None:
    theirs, ours = theirs_and_ours("vgg11", dense_layers)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    assert_same_logits(theirs.eval(), ours.eval(), images)


@pytest.mark.parametrize("size", [64, 224])
def test_alexnet(size: int) -> None:
    theirs, ours = theirs_and_ours("alexnet", None)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    assert_same_logits(theirs.eval(), ours.eval(), images)
    assert_same_logits(theirs.train(), ours.train(), images)


@pytest.mark.parametrize("name", ["alexnet", *VGGS])
def test_keys_and_shapes_are_the_same_in_the_same_order(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(
            name, weights=None, **({} if name == "alexnet" else {"init_weights": False})
        )
    ours = outline_model(name).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {k: t.shape for k, t in theirs.state_dict().items()}
    assert list(ours) == list(theirs.state_dict())
