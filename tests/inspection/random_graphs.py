"""Networks drawn at random, and the gradient's word on what their outputs see.

Weights are positive and poolings average, so no gradient is zero by chance: the pixels with a gradient are those that
an output depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

CHANNELS = 4

Step = Callable[[torch.Tensor], torch.Tensor]
Extent = tuple[tuple[int, int], tuple[int, int]] | None  # first and last row, first and last column


class Graph(nn.Module):
    """Steps one after another; those that the first maps are too small for are left out for good."""

    def __init__(self, steps: Sequence[nn.Module | Step]) -> None:
        super().__init__()
        self.steps = steps
        self.registered = nn.ModuleList([step for step in steps if isinstance(step, nn.Module)])
        self.fitting: list[nn.Module | Step] | None = None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if self.fitting is None:
            self.fitting = []
            for step in self.steps:
                after = attempt(step, maps)
                if after is not None:
                    self.fitting.append(step)
                    maps = after
            return maps
        for step in self.fitting:
            maps = step(maps)
        return maps


class Branches(nn.Module):
    """Two ways, cut to one size, side by side or added."""

    def __init__(self, ways: Sequence[nn.Module], join: str) -> None:
        super().__init__()
        self.ways = nn.ModuleList(ways)
        self.join = join

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        outputs = [way(maps) for way in self.ways]
        rows, columns = (min(output.shape[dim] for output in outputs) for dim in (2, 3))
        outputs = [output[:, :, :rows, :columns] for output in outputs]
        if self.join == "cat":
            return torch.cat(outputs, 1)[:, 2:-2]
        return outputs[0] + outputs[1]


class Gate(nn.Module):
    """Squeeze-and-excitation: each channel times a function of all."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        # nought, such as padding, times a gate would have no gradient
        return (maps + 1) * self.dense(maps.mean((2, 3)))[:, :, None, None]


class ChannelsLast(nn.Module):
    """A dense layer on every position, in another order of dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.dense(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class HalfChannels(nn.Module):
    """One half of the channels goes on as it is: ShuffleNet's unit."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        left, right = maps.chunk(2, 1)
        right = self.inner(torch.cat([right, right], 1))[:, :2]
        rows, columns = (min(left.shape[dim], right.shape[dim]) for dim in (2, 3))
        both = torch.cat([left[:, :, :rows, :columns], right[:, :, :rows, :columns]], 1)
        return both.view(1, 2, 2, rows, columns).transpose(1, 2).flatten(1, 2)


def attempt(step: nn.Module | Step, maps: torch.Tensor) -> torch.Tensor | None:
    """What a step makes of maps; None where they are too small for it or become too large."""
    try:
        after = step(maps)
    except (RuntimeError, ValueError):
        return None
    fits = after.shape[1] == CHANNELS and min(after.shape[2:]) > 0 and max(after.shape[2:]) <= LARGEST
    return after if fits else None


LARGEST = 48

small, tiny = st.integers(1, 4), st.integers(0, 2)


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Module:
    kernel = draw(st.tuples(small, small))
    padding = draw(st.one_of(st.just((0, 0)), st.just((kernel[0] // 2, kernel[1] // 2)), st.tuples(tiny, tiny)))
    groups = draw(st.sampled_from([1, 1, 2, CHANNELS]))
    stride, dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3))), draw(st.integers(1, 2))
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, padding, dilation, groups)


@st.composite
def poolings(draw: st.DrawFn) -> nn.Module:
    kernel = draw(small)
    padding = draw(st.integers(0, kernel // 2))
    return nn.AvgPool2d(kernel, draw(st.integers(1, 3)), padding, ceil_mode=draw(st.booleans()))


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> nn.Module:
    stride = draw(st.integers(1, 3))
    extra = draw(st.integers(0, stride - 1))
    kernel, padding, dilation = draw(small), draw(tiny), draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 2]))
    return nn.ConvTranspose2d(CHANNELS, CHANNELS, kernel, stride, padding, extra, groups, dilation=dilation)


def enlargements() -> st.SearchStrategy[nn.Module]:
    return st.builds(
        lambda factor, mode: nn.Upsample(scale_factor=factor, mode=mode),
        st.integers(2, 3),
        st.sampled_from(["nearest", "nearest-exact", "bilinear"]),
    )


@st.composite
def branches(draw: st.DrawFn, step: st.SearchStrategy[Any]) -> nn.Module:
    ways = [Graph(draw(st.lists(step, max_size=2))) for _ in range(2)]
    return Branches(ways, draw(st.sampled_from(["cat", "add"])))


def even_steps() -> st.SearchStrategy[Any]:
    """Steps that treat all positions alike."""
    plain = st.one_of(convolutions(), convolutions(), poolings(), transposed_convolutions(), enlargements())
    shifted = st.integers(0, 2).map(lambda start: lambda maps: maps[:, :, start:, start:])
    plain = st.one_of(plain, plain, shifted, st.just(ChannelsLast()))
    return st.one_of(plain, plain, branches(plain))


def sizes() -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(1, 9), st.integers(1, 9))


def uneven_steps() -> st.SearchStrategy[Any]:
    """Steps that know where they are, or see everything."""
    padding = st.tuples(*[st.integers(-1, 2)] * 4)
    return st.one_of(
        st.builds(Gate),
        st.builds(nn.AdaptiveAvgPool2d, sizes()),
        st.builds(
            lambda size, mode: nn.Upsample(size, mode=mode, align_corners=True if mode != "nearest" else None),
            sizes(),
            st.sampled_from(["nearest", "bilinear", "bicubic"]),
        ),
        st.builds(lambda pads: lambda maps: F.pad(maps, pads), padding),
        st.builds(
            lambda pads, mode: lambda maps: F.pad(maps, pads, mode=mode),
            st.tuples(*[tiny] * 4),
            st.sampled_from(["reflect", "replicate"]),
        ),
        st.builds(lambda step: lambda maps: maps[:, :, ::step, 1::step], st.integers(1, 3)),
        st.just(lambda maps: maps.flip(2)),
        st.just(lambda maps: maps.roll((1, 2), (2, 3))),
        st.just(lambda maps: maps.transpose(2, 3)),
        st.just(lambda maps: maps + maps.mean(2, keepdim=True)),
        st.just(lambda maps: maps.cumsum(3)),
        st.just(lambda maps: F.pixel_shuffle(maps, 2).repeat(1, CHANNELS, 1, 1)),
        st.just(lambda maps: F.pixel_unshuffle(maps, 2)[:, 3:-2:3][:, :CHANNELS]),
        st.just(lambda maps: torch.stack(maps.unbind(1)[::-1], 1)),
        st.just(lambda maps: torch.cat(maps.split(1, 3)[1:], 3)),
        st.just(lambda maps: maps.flatten(2).matmul(torch.ones(maps[0, 0].numel(), 6).to(maps)).view(1, -1, 2, 3)),
        st.just(lambda maps: F.glu(torch.cat([maps + 1, 1e-6 * maps[:, :, 1:2].expand_as(maps)], 1), 1)),
        st.builds(HalfChannels, convolutions()),
    )


def all_steps() -> st.SearchStrategy[Any]:
    plain = st.one_of(even_steps(), uneven_steps())
    return st.one_of(plain, plain, branches(plain))


def positive(module: nn.Module) -> nn.Module:
    """The module with weights of one sign, in float64."""
    generator = torch.Generator().manual_seed(0)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5
            parameter.copy_(drawn / max(1, parameter[0].numel()))
    return module


def seen_by_gradient(output: torch.Tensor, image: torch.Tensor) -> Extent:
    """The rectangle of pixels of which an element's gradient is not zero; None where there are none."""
    (gradient,) = torch.autograd.grad(output, image, retain_graph=True)
    seen = gradient.abs().sum((0, 1)) > 0
    if not seen.any():
        return None
    rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
    return (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))
