"""What runs a network: the CPU engine of convatlas where it can, PyTorch everywhere else.

Only this file knows the engine, and it loads it when a network is about to be run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, cast

from pydantic import BaseModel, ConfigDict, Field

from convatlas.errors import unknown_name

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from convatlas.engine import Accelerated, LayerChoice
    from convatlas.inspection.memory import Runner

Engine = Literal["auto", "torch"]  # what a person may ask for
ENGINES = ("auto", "torch")


class EngineCard(BaseModel):
    """What ran a network; the default is what the cards of runs older than the engine mean.

    ``choices`` is the engine's kernel for each shape of layer. Given back to it, the same kernels run again, so that
    a training that is resumed has the bits of one that never stopped. A network of dense layers has one for its whole
    training step instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["convatlas", "torch"] = "torch"
    choices: dict[Annotated[str, Field(max_length=300)], Annotated[str, Field(max_length=100)]] = {}

    @property
    def takes_whole_steps(self) -> bool:
        """Whether training takes no gradient of PyTorch's, and anything else is run by PyTorch."""
        return self == WHOLE_STEPS


WHOLE_STEPS = EngineCard(name="convatlas", choices={"training step": "dense"})


class WholeSteps(Protocol):
    """What takes training steps without autograd."""

    def step(self, rows: Tensor, rate: float) -> Tensor:
        """Change the parameters by a batch of rows [n, columns]; returns their summed loss before, [1]."""


@dataclass(frozen=True)
class Acceleration:
    """A network as it is run: ``module`` computes what the network does, with the same parameters.

    ``why_torch`` says what kept the engine from it, where it was wanted.
    """

    module: nn.Module
    card: EngineCard
    why_torch: str | None = None

    @property
    def layers(self) -> Sequence[LayerChoice]:
        """The kernel of each layer, and the milliseconds of those it was chosen among; none where PyTorch runs all."""
        return cast("Accelerated", self.module).explain() if self._is_accelerated else ()

    @property
    def runner(self) -> Runner | None:
        """What a plan of memory is for; None where PyTorch runs the network."""
        if not self._is_accelerated:
            return None
        from convatlas.engine.threads import WorkingMemory
        from convatlas.inspection.memory import Runner

        accelerated = cast("Accelerated", self.module)
        return Runner(
            name=self.card.name,
            trained=accelerated.trained_as,
            predict=accelerated.predict_anew,
            keeper=WorkingMemory(),
        )

    @property
    def _is_accelerated(self) -> bool:
        return self.card.name == "convatlas" and not self.card.takes_whole_steps

    def __str__(self) -> str:
        if self.card.takes_whole_steps:
            return "convatlas (dense layers, a whole step at a time)"
        kernels = Counter(
            layer.kernel for layer in self.layers if not layer.kernel.startswith("convatlas")
        )  # that is all of them
        counts = ", ".join(f"{number} {kernel}" for kernel, number in kernels.most_common())
        details = (counts and f"layers: {counts}") or self.why_torch
        return f"{self.card.name} ({details})" if details else self.card.name

    def explained(self) -> str:
        """What runs the network, then a line for each layer, in columns of text."""
        rows = [(layer.layer, str(layer.shape), layer.kernel, _times(layer.milliseconds)) for layer in self.layers]
        if not rows:
            return f"engine  {self}"
        table = [("layer", "shape", "kernel", "milliseconds"), *rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)
        return "\n".join((f"engine  {self}", *lines))


def known_engine(name: str) -> Engine:
    """The name of an engine that may be asked for.

    Raises:
        UnknownNameError: it is none.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    return cast("Engine", name)


def settle(
    network: nn.Module,
    shape: Sequence[int],
    engine: Engine = "auto",
    *,
    obstacle: str | None = None,
    choices: Mapping[str, str] | None = None,
) -> Acceleration:
    """Decide what runs a network, and make that ready.

    >>> print(settle(create_model("vgg16"), (1, 3, 224, 224)))  # doctest: +SKIP
    convatlas (layers: 13 winograd, 3 dense)

    Args:
        network: in training mode if it is to be trained.
        shape: of a batch as it will be shown, [N, C, H, W].
        engine: "torch" for PyTorch alone; "auto" for the CPU engine where nothing stands against it.
        obstacle: what stands against it that the network does not show, in words.
        choices: the kernels of an earlier time; by default those that are fastest on this machine.

    Raises:
        UnknownNameError: no such engine.
    """
    if known_engine(engine) == "torch":
        return Acceleration(network, EngineCard())
    obstacle = obstacle or _obstacle_in(network) or _unavailable()
    if obstacle is not None:
        return Acceleration(network, EngineCard(), obstacle)
    module = _accelerated(network, shape, choices)
    if module.why_not is not None:
        return Acceleration(network, EngineCard(), module.why_not)
    return Acceleration(module, EngineCard(name="convatlas", choices=dict(module.choices)))


def settle_steps(
    network: nn.Module,
    shape: Sequence[int],
    engine: Engine = "auto",
    *,
    obstacle: str | None = None,
) -> Acceleration:
    """Decide what takes the training steps of an autoencoder of rows.

    >>> print(settle_steps(create_autoencoder("autoencoder_plain"), (64, 29)))  # doctest: +SKIP
    convatlas (dense layers, a whole step at a time)

    Args:
        network: in training mode, where it is to compute what its layers do and nothing else.
        shape: of a batch of rows, [n, columns].
        engine: "torch" for PyTorch alone.
        obstacle: what stands against whole steps that the network does not show, in words.

    Raises:
        UnknownNameError: no such engine.
    """
    if known_engine(engine) == "torch":
        return Acceleration(network, EngineCard())
    from convatlas.engine.dense import obstacle_to_steps

    obstacle = obstacle or obstacle_to_steps(network, shape)
    return Acceleration(network, EngineCard() if obstacle else WHOLE_STEPS, obstacle)


def whole_steps(card: EngineCard, network: nn.Module, optimizer: Optimizer) -> WholeSteps | None:
    """What takes the steps of a network as the card says; None where autograd does."""
    if not card.takes_whole_steps:
        return None
    from convatlas.engine.dense import DenseSteps

    return DenseSteps(network, optimizer)


def running(card: EngineCard) -> AbstractContextManager[None]:
    """Around a training that is run as the card says."""
    if not card.takes_whole_steps:
        return nullcontext()
    from convatlas.engine.dense import undisturbed

    return undisturbed()


def compared_images(shape: Sequence[int]) -> int:
    """On how many images [C, H, W] the engine is compared with PyTorch before a training, at most."""
    from convatlas.engine import tried_images

    return tried_images(shape[1], shape[2])


def as_recorded(card: EngineCard, network: nn.Module, shape: Sequence[int]) -> nn.Module:
    """A network as the card says it is run: with the card's kernels, nothing measured; itself where PyTorch runs it."""
    is_accelerated = card.name == "convatlas" and not card.takes_whole_steps
    return _accelerated(network, shape, card.choices) if is_accelerated else network


def _accelerated(network: nn.Module, shape: Sequence[int], choices: Mapping[str, str] | None) -> Accelerated:
    import torch

    from convatlas.engine import accelerate

    example = torch.zeros(tuple(shape)).to(memory_format=torch.channels_last)
    return accelerate(network, example, dict(choices) if choices is not None else None)


def _obstacle_in(network: nn.Module) -> str | None:
    import torch

    for parameter in network.parameters():
        if parameter.device.type != "cpu":
            return f"the network is on {parameter.device}"
        if parameter.dtype != torch.float32:
            return f"the network is of {str(parameter.dtype).removeprefix('torch.')}"
    return None


def _unavailable() -> str | None:
    from convatlas.engine import unavailable

    return unavailable()


def _times(milliseconds: Mapping[str, float]) -> str:
    by_time = sorted(milliseconds.items(), key=lambda pair: pair[1])
    return ", ".join(f"{kernel} {time:.3g}" for kernel, time in by_time) or "-"
