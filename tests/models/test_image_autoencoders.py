"""What every autoencoder of images answers, over the registry."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from convatlas.errors import ConvatlasError, ImageSizeError, UnknownNameError
from convatlas.models import (
    ReconstructionOutput,
    create_autoencoder,
    create_image_autoencoder,
    create_model,
    describe_image_autoencoders,
    image_autoencoder_entry,
    list_models,
    outline_image_autoencoder,
)
from convatlas.models.catalogue import image_autoencoder_page
from convatlas.models.contract import blank_input
from convatlas.models.counts import count, shipped_counts

NAMES = list_models(task="reconstruct_images")
every_autoencoder = pytest.mark.parametrize("name", NAMES)


def images(side: int = 16, channels: int = 1, number: int = 3) -> torch.Tensor:
    return torch.randn(number, channels, side, side, generator=torch.Generator().manual_seed(0))


@every_autoencoder
@pytest.mark.parametrize("side", [8, 11, 28])  # one place after the halvings; sides that are not halved evenly
def test_images_come_out_as_large_as_they_went_in_and_taps_say_what_is_inside(name: str, side: int) -> None:
    model = create_image_autoencoder(name, in_channels=3, image_size=side, seed=0).eval()
    seen: dict[str, tuple[int, ...]] = {}

    def watch(module: nn.Module, what: str) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: seen.update({what: tuple(output.shape[1:])}))

    for tap, place in model.taps.items():
        watch(model.get_submodule(place.module), tap)
    watch(model.get_submodule(model.output_name), "rebuilt")
    batch = images(side, channels=3)
    assert model(batch).shape == batch.shape
    assert torch.equal(model(batch), model.decode(model.encode(batch)))
    assert seen == {tap: place.shape for tap, place in model.taps.items()} | {"rebuilt": (3, side, side)}
    assert list(seen) == [*model.taps, "rebuilt"]  # in the order they run in


@every_autoencoder
@pytest.mark.parametrize("activation", ["relu", "elu", "leaky_relu"])
def test_a_gradient_reaches_every_parameter(name: str, activation: str) -> None:
    model = create_image_autoencoder(name, in_channels=1, image_size=16, activation=activation, seed=0).train()
    batch = images(number=16)
    output = model(batch)
    assert isinstance(output, ReconstructionOutput)
    assert output.penalty.item() == 0
    (output.rebuilt - batch).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@every_autoencoder
def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone(name: str) -> None:
    state = torch.get_rng_state()
    one, other = (create_image_autoencoder(name, image_size=8, seed=3).eval() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one(images(8, 3)), other(images(8, 3)))
    copy = outline_image_autoencoder(name, image_size=8)
    copy.load_state_dict(one.state_dict(), strict=True, assign=True)
    assert torch.equal(copy.eval()(images(8, 3)), one(images(8, 3)))


@every_autoencoder
def test_what_is_said_of_it_is_true(name: str) -> None:
    entry, model = image_autoencoder_entry(name), outline_image_autoencoder(name)
    assert count(model) == shipped_counts()[name]
    assert model.input_shape == (entry.in_channels, entry.image_size, entry.image_size)
    assert dict(model.settings) == dict(entry.settings)
    assert blank_input(model, "cpu").shape == (1, *model.input_shape)
    (description,) = [each for each in describe_image_autoencoders() if each["name"] == name]
    page = image_autoencoder_page(name)
    assert page["parameters"] == description["parameters"] == sum(weights.numel() for weights in model.parameters())
    assert sum(layer["parameters"] for layer in [*page["taps"], page["output"]]) == page["parameters"]
    assert page["differences"]


def test_a_code_is_as_large_as_it_is_asked_to_be() -> None:
    dense = create_image_autoencoder("autoencoder_dense_latent", in_channels=1, image_size=16, code=5, seed=0).eval()
    maps = create_image_autoencoder("autoencoder_convolutional", in_channels=1, image_size=16, code=5, seed=0).eval()
    assert dense.encode(images()).shape == (3, 5)
    assert maps.encode(images()).shape == (3, 5, 2, 2)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: create_image_autoencoder("autoencoder_dense"), "did you mean autoencoder_dense_latent"),
        (lambda: create_image_autoencoder("autoencoder_deep"), "autoencoder_deep is an autoencoder of rows"),
        (lambda: create_autoencoder("autoencoder_dense_latent"), "is an autoencoder of images"),
        (lambda: create_model("autoencoder_dense_latent"), "is an autoencoder of images"),
        (lambda: create_image_autoencoder("autoencoder_dense_latent", image_size=7), "at least 8x8"),
        (lambda: create_image_autoencoder("autoencoder_dense_latent", in_channels=0), "in_channels of at least 1"),
        (lambda: create_image_autoencoder("autoencoder_dense_latent", code=2.5), "a whole number from 1 to 4,096"),
        (lambda: create_image_autoencoder("autoencoder_dense_latent", code=0), "a whole number from 1 to 4,096"),
        (lambda: create_image_autoencoder("autoencoder_dense_latent", codes=3), "did you mean code?"),
        (lambda: create_image_autoencoder("autoencoder_dense_latent", activation="tanh"), "activation"),
    ],
)
def test_mistakes_are_told_by_name(make, complaint: str) -> None:
    with pytest.raises((UnknownNameError, ImageSizeError, ConvatlasError)) as error:
        make()
    assert complaint in str(error.value)
