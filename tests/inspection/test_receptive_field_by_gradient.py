"""The receptive field is what the gradient says: on networks drawn at random, and on every registered one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from torch import nn

from convatlas.inspection import trace_module
from convatlas.inspection.reach import Field, Reach
from convatlas.inspection.receptive_field import receptive_fields, window_of

from .random_graphs import CHANNELS, Extent, Graph, all_steps, even_steps, positive, seen_by_gradient

LARGE = 96  # of an image in whose middle no border is seen


def field_of(module: nn.Module, image: torch.Tensor) -> Field | None:
    trace = trace_module(module, image)
    return receptive_fields(trace)[trace.calls[0].outputs[0].index]


def extents(reaches: tuple[Reach, Reach], shape: torch.Size, index: tuple[int, ...]) -> Extent:
    ends = [
        (int(np.broadcast_to(reach.low, shape)[index]), int(np.broadcast_to(reach.high, shape)[index]))
        for reach in reaches
    ]
    empty = [low > high for low, high in ends]
    assert empty[0] == empty[1]
    return None if empty[0] else (ends[0], ends[1])


def inside(extent: Extent, window: Extent) -> bool:
    if extent is None:
        return True
    return window is not None and all(
        out[0] <= own[0] and own[1] <= out[1] for own, out in zip(extent, window, strict=True)
    )


def some_elements(shape: torch.Size, count: int) -> list[tuple[int, ...]]:
    """Corners, and others spread evenly."""
    total = shape.numel()
    corners = [0, shape[-1] - 1, total - shape[-1], total - 1]
    places = {*corners, *np.linspace(0, total - 1, min(count, total)).astype(int).tolist()}
    return [tuple(int(each) for each in np.unravel_index(place, shape)) for place in sorted(places)]


def drawn(examples: int, **draws: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """A test of so many networks, the same ones every time."""
    fixed = settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    return lambda test: fixed(given(**draws)(test))


ALL = {
    "steps": st.lists(all_steps(), min_size=1, max_size=5),
    "size": st.tuples(st.integers(1, 14), st.integers(1, 14)),
}
EVEN = {
    "steps": st.lists(even_steps(), min_size=1, max_size=4),
    "size": st.tuples(st.integers(4, 16), st.integers(4, 16)),
}


@drawn(80, **ALL)
def test_the_support_is_where_the_gradient_is(steps: list[object], size: tuple[int, int]) -> None:
    check_support(steps, size)


@pytest.mark.slow
@drawn(400, **ALL)
def test_the_support_of_many_is_where_the_gradient_is(steps: list[object], size: tuple[int, int]) -> None:
    check_support(steps, size)


@drawn(30, **EVEN)
def test_the_window_is_what_a_position_sees_far_from_every_border(steps: list[object], size: tuple[int, int]) -> None:
    check_window(steps, size)


@pytest.mark.slow
@drawn(120, **EVEN)
def test_the_window_of_many_is_what_a_position_sees(steps: list[object], size: tuple[int, int]) -> None:
    check_window(steps, size)


def check_support(steps: list[object], size: tuple[int, int]) -> None:
    module = positive(Graph(steps))
    image = torch.ones(1, CHANNELS, *size, dtype=torch.float64, requires_grad=True)
    output = module(image)
    field = field_of(module, image)
    note(f"{steps} {output.shape}")
    if field is None:
        return
    for index in some_elements(output.shape, 24):
        seen = seen_by_gradient(output[index], image)
        assert extents(field.support, output.shape, index) == seen, index
        if "Gate" not in str(steps) and "lambda" not in str(steps):  # gates add to what is seen, not to the window
            assert inside(seen, extents(field.window, output.shape, index)), index


def check_window(steps: list[object], size: tuple[int, int]) -> None:
    """And it is the same figure whatever the image, however small: the literature's."""
    module = positive(Graph(steps))
    small = torch.ones(1, CHANNELS, *size, dtype=torch.float64)
    positions = module(small).shape[2:]  # the first call decides what steps there are
    window = window_of(field_of(module, small))
    note(f"{steps} {window}")
    assume(window is not None and window.jump is not None)  # None: branches of different strides, cut to one size
    image = torch.ones(1, CHANNELS, LARGE, LARGE, dtype=torch.float64, requires_grad=True)
    channels = module(image)
    output = channels.sum(1)  # a position has all its channels
    field = field_of(module, image)
    for direction, axis in enumerate(field.axes):
        sizes = sizes_far_inside(
            output[0],
            image,
            direction,
            window.jump[direction],
            axis.period,
            partial(touches_no_border, field, channels.shape),
        )
        assert window_of(field).size[direction] == max(sizes)
        here = max(sizes[place % axis.period] for place in range(positions[direction]))
        if "bilinear" in str(steps):  # interpolates between edge pixels and themselves: not as if the map went on
            assert window.size[direction] <= max(sizes)
        else:
            assert window.size[direction] == here


def touches_no_border(field: Field, shape: torch.Size, position: list[int]) -> bool:
    """By the window: a support of dilated kernels may end before a border that the kernel is over."""
    windows = [extents(field.window, shape, (0, channel, *position)) for channel in range(shape[1])]
    return all(low >= 0 and high < LARGE for window in windows if window for low, high in window)


def sizes_far_inside(
    output: torch.Tensor,
    image: torch.Tensor,
    direction: int,
    jump: float,
    period: int,
    is_inside: Callable[[list[int]], bool],
) -> list[int]:
    """How much the positions of one period see, by their place in it; the next period sees as much, farther on."""
    middle = [side // 2 for side in output.shape]
    middle[direction] -= middle[direction] % period
    seen: list[Extent] = []
    for _ in range(2 * period):
        assume(middle[direction] < output.shape[direction] and is_inside(middle))
        seen.append(seen_by_gradient(output[middle[0], middle[1]], image))
        middle[direction] += 1
    for sooner, later in zip(seen[:period], seen[period:], strict=True):
        assert (sooner is None) == (later is None)  # between what a transposed convolution writes there are holes
        if sooner is not None and later is not None:
            assert later[direction] == tuple(end + jump * period for end in sooner[direction])
    sizes = [extent[direction][1] - extent[direction][0] + 1 if extent else 0 for extent in seen[:period]]
    assume(max(sizes) > 0)
    return sizes
