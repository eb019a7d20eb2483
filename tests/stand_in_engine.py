"""An engine that computes with PyTorch and remembers what it was asked: for tests of those who use the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn


@dataclass(frozen=True)
class Layer:
    """One line of an explanation."""

    layer: str
    shape: str
    kernel: str
    milliseconds: dict[str, float]


class Accelerated(nn.Module):
    """A wrapped network; ``shown`` is the shapes of all batches it has run, and whether it was learning from them."""

    why_not: str | None = None

    def __init__(self, model: nn.Module, choices: dict[str, str]) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.choices = choices
        self.shown: list[tuple[tuple[int, ...], bool]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shown.append((tuple(images.shape), self.training))
        logits: torch.Tensor = self.model(images)
        return logits

    def explain(self) -> list[Layer]:
        return [Layer(f"layer {shape}", shape, kernel, {kernel: 1.5}) for shape, kernel in self.choices.items()]


@dataclass
class StandIn:
    """What took the engine's place: its modules, and the example and the choices that each was made with."""

    made: list[Accelerated] = field(default_factory=list)
    examples: list[tuple[int, ...]] = field(default_factory=list)
    given: list[dict[str, str] | None] = field(default_factory=list)
    missing: str | None = None

    def unavailable(self) -> str | None:
        return self.missing

    def accelerate(self, model: nn.Module, example: torch.Tensor, choices: dict[str, str] | None = None) -> Accelerated:
        assert self.missing is None
        assert example.is_contiguous(memory_format=torch.channels_last)
        measured = {f"3x3 measured {len(self.made)}": "winograd"}  # another at every measuring, as on a noisy machine
        self.made.append(Accelerated(model, choices if choices is not None else measured))
        self.examples.append(tuple(example.shape))
        self.given.append(choices)
        return self.made[-1]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> StandIn:
        import convatlas.engine

        monkeypatch.setattr(convatlas.engine, "accelerate", self.accelerate, raising=False)
        monkeypatch.setattr(convatlas.engine, "unavailable", self.unavailable, raising=False)
        return self
