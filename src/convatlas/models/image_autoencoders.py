"""Autoencoders of images: convolutions down to a code and up again, to be shown good images alone.

    create_image_autoencoder("autoencoder_convolutional")                       # the code is a small map
    create_image_autoencoder("autoencoder_dense_latent", image_size=28, in_channels=1, code=32)

What such a network makes of an image with a defect is a guess at the image without it; where the two differ, the
defect is. A code that keeps places apart can copy a defect as well as anything else; a dense one knows of the image as
a whole only what its few units hold.

    name                        code                                              for images of 64 pixels
    autoencoder_convolutional   ``code`` maps of an eighth of the side            16 x 8 x 8
    autoencoder_dense_latent    ``code`` units, each joined to every place        64

Differences from the papers
  - Convolutions with a stride of two halve the side three times. On the way up each map is enlarged by its nearest
    values and then convolved, which leaves no checkerboard (Odena, Dumoulin & Olah 2016).

Differences from the papers, autoencoder_convolutional
  - Masci's has max pooling, tanh units and one layer trained after another.

Differences from the papers, autoencoder_dense_latent
  - Bergmann's has eight convolutions, a code of 100 units for patches of 128 pixels and leaky units, and is also
    trained by structural similarity.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from convatlas.models.contract import ImageAutoencoder, Tap
from convatlas.models.registry import ImageAutoencoderEntry, register_image_autoencoder
from convatlas.models.settings import Choice, Rule, Setting, Whole, checked

WIDTHS = (32, 64, 128)  # maps after each halving
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "elu": nn.ELU, "leaky_relu": nn.LeakyReLU}

#: What every setting may be.
SETTINGS: Mapping[str, Rule] = {
    "activation": Choice(tuple(ACTIVATIONS)),  # of every layer but the last
    "code": Whole(1, 4096),  # maps or units of the code
}


@dataclass(frozen=True)
class ImageAutoencoderVariant:
    """What differs between the networks: the code, and where they come from."""

    dense: bool  # a code of units; of maps otherwise
    code: int
    year: int
    paper: str
    brought: str


VARIANTS = {
    "autoencoder_convolutional": ImageAutoencoderVariant(
        dense=False,
        code=16,
        year=2011,
        paper="Masci et al. 2011, ICANN",
        brought="Weights shared by all places, down and up again: an autoencoder of images of any size, whose code is "
        "a small image of many channels.",
    ),
    "autoencoder_dense_latent": ImageAutoencoderVariant(
        dense=True,
        code=64,
        year=2019,
        paper="Bergmann et al. 2019, VISAPP",
        brought="A code of a few units for the whole image, so that a defect of which the good images say nothing "
        "cannot be passed on.",
    ),
}


class ConvAutoencoder(ImageAutoencoder):
    """Three halvings, a code, three enlargements."""

    def __init__(
        self, variant: ImageAutoencoderVariant, *, in_channels: int, image_size: int, activation: str, code: int
    ) -> None:
        super().__init__(in_channels=in_channels, image_size=image_size)
        sides = halved_sides(image_size)
        smallest = (WIDTHS[-1], sides[-1], sides[-1])
        make = ACTIVATIONS[activation]
        self.encoder = _down(in_channels, make)
        if variant.dense:
            places = smallest[0] * smallest[1] * smallest[2]
            self.to_code: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(places, code))
            self.from_code: nn.Module = nn.Sequential(nn.Linear(code, places), make(), nn.Unflatten(1, smallest))
            code_shape: tuple[int, ...] = (code,)
        else:
            self.to_code = nn.Conv2d(WIDTHS[-1], code, 1)
            self.from_code = nn.Sequential(nn.Conv2d(code, WIDTHS[-1], 1), make())
            code_shape = (code, *smallest[1:])
        self.decoder = _up(in_channels, sides, make)
        self.output_name = "decoder.output"
        self.taps = {
            **{
                f"encoder{step}": Tap(f"encoder.activation{step}", (width, side, side))
                for step, (width, side) in enumerate(zip(WIDTHS, sides[1:], strict=True), start=1)
            },
            "code": Tap("to_code", code_shape),
            "decoder0": Tap("from_code", smallest),
            **{
                f"decoder{step}": Tap(f"decoder.activation{step}", (width, side, side))
                for step, (width, side) in enumerate(zip(WIDTHS[1::-1], sides[2:0:-1], strict=True), start=1)
            },
        }

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images [n, in_channels, s, s] -> their code: [n, code], or [n, code, s/8, s/8]."""
        code: torch.Tensor = self.to_code(self.encoder(images))
        return code

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Code -> images [n, in_channels, s, s]."""
        images: torch.Tensor = self.decoder(self.from_code(code))
        return images


def halved_sides(side: int) -> tuple[int, ...]:
    """The side of an image and of the map after each halving.

    >>> halved_sides(28)
    (28, 14, 7, 4)
    """
    sides = [side]
    for _ in WIDTHS:
        sides.append(-(-sides[-1] // 2))
    return tuple(sides)


def _down(channels: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Convolutions that halve the side."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for step, width in enumerate(WIDTHS, start=1):
        layers[f"conv{step}"] = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        layers[f"activation{step}"] = activation()
        channels = width
    return nn.Sequential(layers)


def _up(channels: int, sides: tuple[int, ...], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Enlargements back to each side, with a convolution after each; the last gives the image, of any real values."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (*WIDTHS[::-1], channels)
    for step, side in enumerate(sides[-2::-1], start=1):
        layers[f"enlarge{step}"] = nn.Upsample(size=(side, side))
        is_last = step == len(WIDTHS)
        name = "output" if is_last else f"conv{step}"
        layers[name] = nn.Conv2d(widths[step - 1], widths[step], 3, padding=1)
        if not is_last:
            layers[f"activation{step}"] = activation()
    return nn.Sequential(layers)


def build_conv(
    name: str, variant: ImageAutoencoderVariant, *, in_channels: int, image_size: int, **settings: Setting
) -> ConvAutoencoder:
    """A network of a variant, its weights not yet initialised.

    Raises:
        ConvatlasError: a setting that is out of its range, or none of the names that it may have.
    """
    chosen = checked(name, settings, SETTINGS)
    model = ConvAutoencoder(variant, in_channels=in_channels, image_size=image_size, **chosen)  # type: ignore[arg-type]  # checked by name
    model.settings = chosen
    return model


for _name, _variant in VARIANTS.items():
    register_image_autoencoder(
        ImageAutoencoderEntry(
            name=_name,
            family="image_autoencoder",
            year=_variant.year,
            paper=_variant.paper,
            image_size=64,
            in_channels=3,
            minimum_size=8,
            minimum_reason="its three halvings leave one place",
            settings={"activation": "relu", "code": _variant.code},
            recipe="image-autoencoder",
            build=partial(build_conv, _name, _variant),
            brought=_variant.brought,
        )
    )
