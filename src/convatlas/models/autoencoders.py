"""Autoencoders of rows: networks that learn to give back what they are shown, and fail at what is unlike it.

    create_autoencoder("autoencoder_deep")                              # 29-80-40-80-29, 11,269 parameters
    create_autoencoder("autoencoder_denoising", columns=12, corruption="gaussian", corruption_rate=0.5)

Shown normal rows alone, a network learns what normal columns have to do with each other. The mean squared difference
between a row and what it makes of it is the row's score. Each variant keeps the network from merely copying in another
way: few units, units that are mostly zero, inputs that are partly destroyed, or a code that hardly moves with the row.

    name                      hidden layers    what keeps it from copying
    autoencoder_plain         40               nothing but a short training
    autoencoder_deep          80-40-80         the same
    autoencoder_wide          190              the same; as many parameters as the deep one, in one layer
    autoencoder_bottleneck    64-8-64          eight units
    autoencoder_sparse        80-40-80         a price for each unit that answers: ``sparsity``
    autoencoder_denoising     40               a part of each row is destroyed, and to be given back: ``corruption``
    autoencoder_contractive   40               a price for a code that moves with its row: ``contraction``

The output is linear, since columns that are scaled have no bounds.

Differences from the papers
  - Encoder and decoder have weights of their own; Vincent and Rifai tie them, Hinton and Salakhutdinov begin with tied
    ones.
  - ReLU units unless ``activation`` says otherwise, and squared errors of real numbers: the papers have sigmoid units
    and, mostly, cross-entropy of pixels.

Differences from the papers, autoencoder_deep, autoencoder_bottleneck
  - All layers are trained at once from Glorot's weights, not one after another as Boltzmann machines first.

Differences from the papers, autoencoder_sparse
  - The price is on the sum of the absolute activations of every layer of the encoder, as Keras has it.

Differences from the papers, autoencoder_denoising
  - Gaussian noise falls on a share of the values, ``corruption_rate``, instead of on all of them; at 1 it is the
    paper's.

Differences from the papers, autoencoder_contractive
  - The Jacobian is that of the activation the network has; the paper's h(1 - h) is that of a sigmoid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from convatlas.models.contract import ReconstructionOutput, RowAutoencoder, Tap
from convatlas.models.registry import AutoencoderEntry, register_autoencoder
from convatlas.models.settings import Amount, Choice, Rule, Setting, checked

COLUMNS = 29  # of the card payments that these networks are known from: V1 to V28 and the amount


@dataclass(frozen=True)
class Activation:
    """A non-linearity, and its slope: from what goes in and what comes out, value by value."""

    make: Callable[[], nn.Module]
    slope: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


ACTIVATIONS: Mapping[str, Activation] = {
    "relu": Activation(nn.ReLU, lambda before, _after: (before > 0).to(before.dtype)),
    "elu": Activation(nn.ELU, lambda before, after: torch.where(before > 0, torch.ones_like(after), after + 1)),
    "tanh": Activation(nn.Tanh, lambda _before, after: 1 - after * after),
    "sigmoid": Activation(nn.Sigmoid, lambda _before, after: after * (1 - after)),
}


#: What every setting may be.
SETTINGS: Mapping[str, Rule] = {
    "activation": Choice(tuple(ACTIVATIONS)),  # of every hidden layer
    "sparsity": Amount(0, 100),  # price of the sum of the absolute activations of a row, in every layer of the encoder
    "contraction": Amount(0, 100),  # price of the sum of the squares of the code's derivatives by a row's values
    "corruption": Choice(("zeros", "gaussian")),  # what a value becomes: 0, or itself plus noise
    "corruption_rate": Amount(0, 1),  # share of the values that become so
    "corruption_scale": Amount(0, 100),  # standard deviation of the noise; scaled columns have one of 1
}


@dataclass(frozen=True)
class AutoencoderVariant:
    """What differs between the networks: layers, and what may be set."""

    hidden: tuple[int, ...]  # units of the hidden layers, an odd number of them; the middle one is the code
    year: int
    paper: str
    recipe: str
    brought: str
    settings: Mapping[str, Setting] = field(default_factory=dict)  # beside the activation


VARIANTS = {
    "autoencoder_plain": AutoencoderVariant(
        hidden=(40,),
        year=1986,
        paper="Rumelhart, Hinton & Williams 1986, PDP 1(8)",
        recipe="autoencoder",
        brought="A network taught to give back its input: the rows are their own labels, and what normal rows have in "
        "common is all it can learn.",
    ),
    "autoencoder_deep": AutoencoderVariant(
        hidden=(80, 40, 80),
        year=2006,
        paper="Hinton & Salakhutdinov 2006, Science 313",
        recipe="autoencoder",
        brought="Several layers each way: a code that is no longer a linear function of the row, cut off below zero.",
    ),
    "autoencoder_wide": AutoencoderVariant(
        hidden=(190,),
        year=1986,
        paper="Rumelhart, Hinton & Williams 1986, PDP 1(8)",
        recipe="autoencoder",
        brought="More units than columns: it could copy its rows, and shows whether depth or the number of parameters "
        "makes the difference.",
    ),
    "autoencoder_bottleneck": AutoencoderVariant(
        hidden=(64, 8, 64),
        year=1991,
        paper="Kramer 1991, AIChE Journal 37(2)",
        recipe="autoencoder",
        brought="A code of far fewer numbers than there are columns: principal components that may be bent.",
    ),
    "autoencoder_sparse": AutoencoderVariant(
        hidden=(80, 40, 80),
        year=2011,
        paper="Glorot, Bordes & Bengio 2011, AISTATS",
        recipe="autoencoder",
        brought="Units that answer cost something, so that few of them answer to any one row.",
        settings={"sparsity": 3e-5},
    ),
    "autoencoder_denoising": AutoencoderVariant(
        hidden=(40,),
        year=2008,
        paper="Vincent et al. 2008, ICML",
        recipe="autoencoder",
        brought="A part of each row is destroyed before the network sees it: what it gives back, it has to know from "
        "the other columns.",
        settings={"corruption": "zeros", "corruption_rate": 0.3, "corruption_scale": 1.0},
    ),
    "autoencoder_contractive": AutoencoderVariant(
        hidden=(40,),
        year=2011,
        paper="Rifai et al. 2011, ICML",
        recipe="autoencoder",
        brought="A code that moves with its row costs something, so that it follows only what the rows do among "
        "themselves.",
        settings={"contraction": 1e-5},
    ),
}


class DenseAutoencoder(RowAutoencoder):
    """Dense layers down to the code and up again."""

    def __init__(
        self,
        variant: AutoencoderVariant,
        *,
        columns: int,
        activation: str = "relu",
        sparsity: float = 0.0,
        contraction: float = 0.0,
        corruption: str | None = None,
        corruption_rate: float = 0.0,
        corruption_scale: float = 0.0,
    ) -> None:
        super().__init__(columns=columns)
        self.activation = activation
        self.sparsity, self.contraction = sparsity, contraction
        self.corruption, self.corruption_rate, self.corruption_scale = corruption, corruption_rate, corruption_scale
        half = len(variant.hidden) // 2 + 1
        self.encoder = dense_layers((columns, *variant.hidden[:half]), activation)
        self.decoder = dense_layers(variant.hidden[half - 1 :], activation)
        self.decoder.add_module("output", nn.Linear(variant.hidden[-1], columns))
        self.output_name = "decoder.output"
        names = [*(f"encoder{layer}" for layer in range(1, half)), "code"]
        names += [f"decoder{layer}" for layer in range(1, half)]
        places = [
            f"{part}.{activation}{layer}"
            for part, layers in (("encoder", half), ("decoder", half - 1))
            for layer in range(1, layers + 1)
        ]
        self.taps = {
            name: Tap(place, (units,)) for name, place, units in zip(names, places, variant.hidden, strict=True)
        }

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [n, columns] -> their code [n, units]."""
        code: torch.Tensor = self.encoder(rows)
        return code

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Code [n, units] -> rows [n, columns]."""
        rows: torch.Tensor = self.decoder(code)
        return rows

    @property
    def is_regularized(self) -> bool:
        """Whether there is a price, or something is destroyed."""
        return bool(self.sparsity or self.contraction or (self.corruption and self.corruption_rate))

    def rebuild_in_training(self, rows: torch.Tensor) -> ReconstructionOutput:
        """Rows [n, columns] -> the same, rebuilt from what is left of them, and the penalty of the encoder."""
        hidden = list(hidden_layers(self.encoder, self.corrupted(rows)))
        rebuilt = self.decode(hidden[-1].after)
        return ReconstructionOutput(rebuilt, self.penalty(hidden, like=rebuilt))

    def penalty(self, hidden: Sequence[Hidden], like: torch.Tensor) -> torch.Tensor:
        """What the encoder's answers cost, a scalar summed over the rows."""
        cost = like.new_zeros((), dtype=torch.promote_types(like.dtype, torch.float32))
        if self.sparsity:
            cost = cost + self.sparsity * sum(layer.after.abs().sum(dtype=cost.dtype) for layer in hidden)
        if self.contraction:
            squares = squared_jacobian(hidden, ACTIVATIONS[self.activation].slope)
            cost = cost + self.contraction * squares.sum(dtype=cost.dtype)
        return cost

    def corrupted(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [n, columns] as training shows them: some of the values are zero, or noisy.

        A destroyed row is not scaled up, as dropout would: it is shown in training only, and whole ones afterwards.
        """
        if self.corruption is None or not self.corruption_rate:
            return rows
        spared = torch.rand_like(rows) >= self.corruption_rate
        other = rows + self.corruption_scale * torch.randn_like(rows) if self.corruption == "gaussian" else 0.0
        return torch.where(spared, rows, other)


def dense_layers(widths: Sequence[int], activation: str) -> nn.Sequential:
    """Dense layers between neighbouring widths, each with its activation.

    >>> list(dict(dense_layers((29, 80, 40), "relu").named_children()))
    ['dense1', 'relu1', 'dense2', 'relu2']
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (inputs, units) in enumerate(pairwise(widths), start=1):
        layers[f"dense{number}"] = nn.Linear(inputs, units)
        layers[f"{activation}{number}"] = ACTIVATIONS[activation].make()
    return nn.Sequential(layers)


@dataclass(frozen=True)
class Hidden:
    """A dense layer with its activation, on some rows: its weights [units, inputs], and [n, units] on both sides."""

    weight: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor


def hidden_layers(layers: nn.Sequential, rows: torch.Tensor) -> Iterator[Hidden]:
    """What each of ``dense_layers`` makes of rows [n, inputs], from the first to the last."""
    modules = iter(layers)
    for dense, activation in zip(modules, modules, strict=True):
        before = dense(rows)
        rows = activation(before)
        yield Hidden(cast("nn.Linear", dense).weight, before, rows)


def squared_jacobian(
    hidden: Sequence[Hidden], slope: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The sum of the squares of the derivatives of a code by each value of its row: float [n].

    With one layer, whose Jacobian is diag(slope) W, that is slope^2 times the squared lengths of W's rows. With
    several, the Jacobians [n, units, columns] are multiplied out.

    Source: Rifai et al. 2011, equation 7, which has the slope of a sigmoid.
    """
    first, *others = hidden
    steepness = slope(first.before, first.after)
    if not others:
        return steepness.square() @ first.weight.square().sum(dim=1)
    jacobian = steepness.unsqueeze(2) * first.weight
    for layer in others:
        jacobian = slope(layer.before, layer.after).unsqueeze(2) * (layer.weight @ jacobian)
    return jacobian.square().sum(dim=(1, 2))


def build_dense(name: str, variant: AutoencoderVariant, *, columns: int, **settings: Setting) -> DenseAutoencoder:
    """A network of a variant, its weights not yet initialised.

    Raises:
        ConvatlasError: a setting that is out of its range, or none of the names that it may have.
    """
    chosen = checked(name, settings, SETTINGS)
    model = DenseAutoencoder(variant, columns=columns, **chosen)  # type: ignore[arg-type]  # checked by name
    model.settings = chosen
    return model


def _register(name: str, variant: AutoencoderVariant) -> None:
    register_autoencoder(
        AutoencoderEntry(
            name=name,
            family="autoencoder",
            year=variant.year,
            paper=variant.paper,
            columns=COLUMNS,
            settings={"activation": "relu"} | dict(variant.settings),
            recipe=variant.recipe,
            build=partial(build_dense, name, variant),
            brought=variant.brought,
        )
    )


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
