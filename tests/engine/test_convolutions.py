from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

pytest.importorskip("llvmlite")

import rounding
from pictures import GUARD, numbers, part_of_larger, picture, relative_error, same_bits, surroundings
from rounding import EXACT

from convatlas.engine import convolutions, threads
from convatlas.engine.convolutions import (
    Epilogue,
    Geometry,
    direct,
    direct_weight_gradient,
    empty_picture,
    grouped,
    is_picture,
    pack_taps,
    pack_weight,
    transform_weight,
    weight_gradient,
    winograd,
)
from convatlas.engine.jobs import COLUMNS, FEWER, GROUPED, LANES, RELU, RELU6
from convatlas.engine.program import affine, pooling

FORMS = ("plain", "bias", "relu", "relu6", "residual", "bias residual relu", "bias relu pool", "pool")
INFINITY, NAN = float("inf"), float("nan")

few = settings(max_examples=40, deadline=None, derandomize=True)
widths = st.sampled_from([1, 3, 8, 12, 16, 17, 24])  # less than a vector, whole ones, and some of one more
many_widths = st.sampled_from([8, 10, 16, 24, 64, 72, 75, 136])  # within a chunk, a whole one, and beyond
sizes = st.integers(1, 13)


def layer(
    channels: int,
    out_channels: int,
    kernel: tuple[int, int] = (3, 3),
    stride: int = 1,
    padding: tuple[int, int] = (1, 1),
) -> Geometry:
    return Geometry(channels, out_channels, kernel, stride, padding)


def output_size(geometry: Geometry, x: Tensor, form: str) -> tuple[int, int]:
    """Of what a call stores."""
    high, wide = geometry.output_size(*x.shape[2:])
    return (high // 2, wide // 2) if "pool" in form else (high, wide)


def make_epilogue(form: str, shape: tuple[int, ...]) -> Epilogue:
    return Epilogue(
        bias=numbers(shape[1], seed=101) if "bias" in form else None,
        residual=part_of_larger(numbers(*shape, seed=102)) if "residual" in form else None,
        activation=RELU6 if "relu6" in form else RELU if "relu" in form else 0,
        pool="pool" in form,
    )


def expected_of(geometry: Geometry, x: Tensor, weight: Tensor, epilogue: Epilogue) -> Tensor:
    """In float64, by PyTorch."""
    bias = None if epilogue.bias is None else epilogue.bias.double()
    y = functional.conv2d(
        x.double(), weight.double(), bias, geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    )
    y = y if epilogue.residual is None else y + epilogue.residual
    y = {0: lambda y: y, RELU: functional.relu, RELU6: functional.relu6}[epilogue.activation](y)
    return functional.max_pool2d(y, 2) if epilogue.pool else y


def gradient_expected_of(geometry: Geometry, x: Tensor, gradient: Tensor) -> Tensor:
    size = (geometry.out_channels, geometry.channels, *geometry.kernel)
    return torch.nn.grad.conv2d_weight(
        x.double(), size, gradient.double(), stride=geometry.stride, padding=geometry.padding
    )


def by_winograd(geometry: Geometry, x: Tensor, weight: Tensor, epilogue: Epilogue | None = None) -> Tensor:
    y = empty_picture(x.shape[0], geometry.out_channels, *geometry.output_size(*x.shape[2:]))
    assert winograd(geometry, x, transform_weight(weight), y, epilogue or Epilogue())()
    return y


def by_direct(geometry: Geometry, x: Tensor, weight: Tensor, epilogue: Epilogue | None = None) -> Tensor:
    y = empty_picture(x.shape[0], geometry.out_channels, *geometry.output_size(*x.shape[2:]))
    direct(geometry, x, pack_weight(weight), y, epilogue or Epilogue())()
    return y


@few
@given(
    st.integers(1, 3), many_widths, many_widths, sizes, sizes, st.integers(0, 1), st.sampled_from(FORMS), st.booleans()
)  # fmt: skip
def test_winograd_is_a_convolution_with_its_epilogue(
    images: int, channels: int, out_channels: int, height: int, width: int, padding: int, form: str, is_part: bool
) -> None:
    geometry = layer(channels, out_channels, padding=(padding, padding))
    x, weight = picture(images, channels, height, width), numbers(out_channels, channels, 3, 3, seed=1)
    x *= 0.1 if "relu6" in form else 1  # errors are relative to the largest output, which shall not be cut off
    high, wide = output_size(geometry, x, form)
    assume(min(high, wide) >= 1)
    y = picture(images, out_channels, high, wide)
    x, y = (part_of_larger(x), part_of_larger(y)) if is_part else (x, y)
    epilogue = make_epilogue(form, tuple(y.shape))
    assert winograd(geometry, x, transform_weight(weight), y, epilogue)() is True
    assert relative_error(y, expected_of(geometry, x, weight, epilogue)) <= EXACT
    assert not is_part or not surroundings(y).any()


@few
@given(st.integers(1, 3), many_widths, many_widths, sizes, sizes, st.integers(0, 2))
def test_a_turned_weight_gives_the_gradient_of_the_input(
    images: int, channels: int, out_channels: int, height: int, width: int, padding: int
) -> None:
    assume(min(height, width) + 2 * padding >= 3)
    weight = numbers(out_channels, channels, 3, 3, seed=1)
    gradient = picture(images, out_channels, height + 2 * padding - 2, width + 2 * padding - 2)
    turned = transform_weight(weight, turned=True, reuse=True)
    x_gradient = empty_picture(images, channels, height, width)
    back = layer(out_channels, channels, padding=(2 - padding, 2 - padding))
    assert winograd(back, gradient, turned, x_gradient, Epilogue())()
    expected = torch.nn.grad.conv2d_input(x_gradient.shape, weight.double(), gradient.double(), padding=padding)
    assert relative_error(x_gradient, expected) <= EXACT


@few
@given(
    images=st.integers(1, 3),
    channels=st.integers(1, 19),
    out_channels=many_widths,
    size=st.tuples(sizes, sizes),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    stride=st.integers(1, 3),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    form=st.sampled_from([form for form in FORMS if "pool" not in form]),
    is_part=st.booleans(),
)
def test_direct_is_a_convolution_with_its_epilogue(
    images: int, channels: int, out_channels: int, size: Any, kernel: Any, stride: int, padding: Any, form: str,
    is_part: bool,
) -> None:  # fmt: skip
    geometry = layer(channels, out_channels, kernel, stride, padding)
    x, weight = picture(images, channels, *size), numbers(out_channels, channels, *kernel, seed=1)
    assume(min(size[0] + 2 * padding[0] - kernel[0], size[1] + 2 * padding[1] - kernel[1]) >= 0)
    y = picture(images, out_channels, *output_size(geometry, x, form))
    x, y = (part_of_larger(x), part_of_larger(y)) if is_part else (x, y)
    epilogue = make_epilogue(form, tuple(y.shape))
    direct(geometry, x, pack_weight(weight), y, epilogue)()
    assert relative_error(y, expected_of(geometry, x, weight, epilogue)) <= EXACT
    assert not is_part or not surroundings(y).any()


windows = {
    "images": st.integers(1, 3),
    "size": st.tuples(st.integers(1, 15), st.integers(1, 15)),
    "kernel": st.tuples(st.integers(1, 5), st.integers(1, 5)),
    "stride": st.integers(1, 3),
    "dilation": st.integers(1, 3),
    "padding": st.tuples(st.integers(0, 3), st.integers(0, 3)),
    "is_part": st.booleans(),
}


@few
@given(groups=st.sampled_from([1, 2, 3, 8, 32]), inner=st.sampled_from([1, 3, 4, 8, 16]),
       outer=st.sampled_from([1, 2, 4, 8, 12, 20, 40]),
       form=st.sampled_from(["plain", "bias relu", "residual", "bias residual relu6"]), **windows)  # fmt: skip
def test_direct_is_a_convolution_in_groups_and_with_dilation(
    groups: int, inner: int, outer: int, images: int, size: Any, kernel: Any, stride: int, dilation: int, padding: Any,
    form: str, is_part: bool,
) -> None:  # fmt: skip
    geometry = Geometry(groups * inner, groups * outer, kernel, stride, padding, groups, dilation)
    high, wide = geometry.output_size(*size)
    assume(min(high, wide) >= 1)
    x, weight = picture(images, groups * inner, *size), numbers(groups * outer, inner, *kernel, seed=1)
    y = picture(images, groups * outer, high, wide)
    x, y = (part_of_larger(x), part_of_larger(y)) if is_part else (x, y)
    epilogue = make_epilogue(form, tuple(y.shape))
    direct(geometry, x, pack_weight(weight, groups), y, epilogue)()
    assert relative_error(y, expected_of(geometry, x, weight, epilogue)) <= EXACT
    assert not is_part or not surroundings(y).any()


@few
@given(
    groups=st.sampled_from([2, 3, 8, 12, 33]),
    inner=st.sampled_from(sorted(GROUPED)),
    form=st.sampled_from(["plain", "bias relu", "bias relu6"]),
    **windows,
)
def test_small_groups_are_convolved_each_by_itself(
    groups: int,
    inner: int,
    images: int,
    size: Any,
    kernel: Any,
    stride: int,
    dilation: int,
    padding: Any,
    form: str,
    is_part: bool,
) -> None:
    channels = groups * inner
    geometry = Geometry(channels, channels, kernel, stride, padding, groups, dilation)
    high, wide = geometry.output_size(*size)
    assume(min(high, wide) >= 1)
    x, weight = picture(images, channels, *size), numbers(channels, inner, *kernel, seed=1)
    y = picture(images, channels, high, wide)
    x, y = (part_of_larger(x), part_of_larger(y)) if is_part else (x, y)
    epilogue = make_epilogue(form, tuple(y.shape))
    grouped(geometry, x, pack_taps(weight), y, epilogue)()
    assert relative_error(y, expected_of(geometry, x, weight, epilogue)) <= EXACT
    assert not is_part or not surroundings(y).any()


@few
@given(st.integers(1, 3), widths, sizes, sizes, st.sampled_from(FORMS), st.booleans(), st.booleans(), st.booleans())
def test_scale_shift_residual_and_activation(
    images: int, channels: int, height: int, width: int, form: str, scales: bool, is_gate: bool, is_part: bool
) -> None:
    x, y = picture(images, channels, height, width), picture(images, channels, height, width)
    x, y = (part_of_larger(x), part_of_larger(y)) if is_part else (x, y)
    epilogue = make_epilogue(form.replace("pool", ""), tuple(y.shape))
    scale = numbers(images, channels, seed=7) if is_gate else numbers(channels, seed=8)
    affine(x, y, scale if scales else None, epilogue.bias, epilogue.residual, epilogue.activation)()
    expected = x.double()
    if scales:
        expected = expected * scale.double()[..., None, None]
    if epilogue.bias is not None:
        expected = expected + epilogue.bias[:, None, None]
    if epilogue.residual is not None:
        expected = expected + epilogue.residual
    expected = {0: lambda y: y, RELU: functional.relu, RELU6: functional.relu6}[epilogue.activation](expected)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-6)
    assert not is_part or not surroundings(y).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 6), (7, 7), (13, 24)])
@pytest.mark.parametrize(
    "memory", [lambda x: x, part_of_larger, lambda x: part_of_larger(x.repeat(1, 2, 1, 1))[:, :16]]
)
@pytest.mark.parametrize("normalises", [False, True])
def test_a_1x1_convolution_of_any_memory_with_and_without_activation(size: Any, memory: Any, normalises: bool) -> None:
    geometry = layer(16, 24, (1, 1), 1, (0, 0))
    x, weight = memory(picture(2, 16, *size)), numbers(24, 16, 1, 1, seed=1)
    scale, shift = numbers(16, seed=2), numbers(16, seed=3)
    y = part_of_larger(torch.zeros(2, 24, *size))
    direct(geometry, x, pack_weight(weight), y, Epilogue(), (scale, shift) if normalises else None)()
    seen = functional.relu(x.double() * scale[:, None, None] + shift[:, None, None]) if normalises else x
    assert relative_error(y, expected_of(geometry, seen, weight, Epilogue())) <= EXACT
    assert not surroundings(y).any()


def test_a_nan_passes_the_activation_and_relu() -> None:
    geometry = layer(8, 8, (1, 1), 1, (0, 0))
    x = picture(1, 8, 3, 3)
    x[0, 2, 1, 1] = NAN
    y = torch.zeros_like(x)
    direct(
        geometry, x, pack_weight(torch.ones(8, 8, 1, 1)), y, Epilogue(activation=RELU), (torch.ones(8), torch.zeros(8))
    )()
    assert y.isnan().nonzero()[:, 2:].unique(dim=0).tolist() == [[1, 1]]


def test_a_panel_deeper_than_the_fastest_cache() -> None:
    geometry = layer(136, 24)  # 9 * 136 values a sum: three visits to the outputs
    x, weight = picture(1, 136, 5, 6), numbers(24, 136, 3, 3, seed=1)
    assert relative_error(by_direct(geometry, x, weight), expected_of(geometry, x, weight, Epilogue())) <= EXACT


@few
@given(st.integers(1, 4), many_widths, many_widths, sizes, sizes, st.integers(0, 2), st.booleans())
def test_the_gradient_of_a_weight(
    images: int, channels: int, out_channels: int, height: int, width: int, padding: int, is_part: bool
) -> None:
    assume(min(height, width) + 2 * padding >= 3)
    geometry = layer(channels, out_channels, padding=(padding, padding))
    x = picture(images, channels, height, width)
    gradient = picture(images, out_channels, *geometry.output_size(height, width), seed=1)
    if is_part:
        x, gradient = part_of_larger(x), part_of_larger(gradient)
    made = weight_gradient(geometry, x, gradient)
    assert made is not None
    assert relative_error(made, gradient_expected_of(geometry, x, gradient)) <= EXACT


@few
@given(
    images=st.integers(1, 3),
    channels=st.integers(1, 9),
    out_channels=st.sampled_from([LANES, COLUMNS, 3 * LANES]),
    size=st.tuples(st.integers(1, 40), sizes),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 4)),
    stride=st.integers(1, 3),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 2)),
    is_part=st.booleans(),
)
def test_the_gradient_of_a_first_weight(
    images: int, channels: int, out_channels: int, size: Any, kernel: Any, stride: int, padding: Any, is_part: bool
) -> None:
    assume(min(size[0] + 2 * padding[0] - kernel[0], size[1] + 2 * padding[1] - kernel[1]) >= 0)
    geometry = layer(channels, out_channels, kernel, stride, padding)
    x = picture(images, channels, *size)
    gradient = picture(images, out_channels, *geometry.output_size(*size), seed=1)
    x = part_of_larger(x) if is_part else x
    made = direct_weight_gradient(geometry, x, gradient)
    assert relative_error(made, gradient_expected_of(geometry, x, gradient)) <= EXACT


@pytest.mark.parametrize("channels", [16, 128])
def test_no_more_is_lost_to_rounding_than_the_analysis_allows(channels: int) -> None:
    geometry = layer(channels, 32)
    x, weight = picture(2, channels, 12, 12), numbers(32, channels, 3, 3, seed=1)
    gradient = picture(2, 32, 12, 12, seed=2)
    expected = expected_of(geometry, x, weight, Epilogue())
    assert spread(by_winograd(geometry, x, weight), expected) <= rounding.of_winograd(channels)
    assert spread(by_direct(geometry, x, weight), expected) <= rounding.of_a_sum(9 * channels)
    made = weight_gradient(geometry, x, gradient)
    assert made is not None
    assert spread(made, gradient_expected_of(geometry, x, gradient)) <= rounding.of_winograd_gradient(tiles=2 * 3 * 3)


def spread(got: Tensor, expected: Tensor) -> float:
    """The root mean square of the errors."""
    return float((got.double() - expected).square().mean().sqrt())


@pytest.mark.parametrize("convolve", [by_winograd, by_direct])
@pytest.mark.parametrize(
    ("of_x", "of_weight"), [(1e-30, 1.0), (1e-15, 1e-15), (1e15, 1e15), (1e15, 1.0), (1e-30, 1e30)]
)
def test_tiny_and_huge_values(convolve: Any, of_x: float, of_weight: float) -> None:
    geometry = layer(16, 16)
    x, weight = picture(2, 16, 7, 9) * of_x, numbers(16, 16, 3, 3, seed=1) * of_weight
    assert relative_error(convolve(geometry, x, weight), expected_of(geometry, x, weight, Epilogue())) <= EXACT
    gradient = picture(2, 16, 7, 9, seed=2) * of_weight
    made = weight_gradient(geometry, x, gradient)
    assert made is not None
    assert relative_error(made, gradient_expected_of(geometry, x, gradient)) <= EXACT


@pytest.mark.parametrize("convolve", [by_winograd, by_direct])
@pytest.mark.parametrize("scale", [1e-38, 1e-40])
def test_values_below_the_normal_ones_are_not_lost(convolve: Any, scale: float) -> None:
    geometry = layer(16, 16)
    x, weight = picture(2, 16, 7, 9) * scale, numbers(16, 16, 3, 3, seed=1)
    expected = expected_of(geometry, x, weight, Epilogue())
    smallest = 2.0**-149
    worst = (convolve(geometry, x, weight).double() - expected).abs().max()
    assert worst <= EXACT * expected.abs().max() + 200 * smallest  # each of 144 products is rounded to a multiple of it


@pytest.mark.parametrize("strange", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("pool", [False, True])
def test_winograd_says_that_an_output_is_not_finite(strange: float, padding: int, pool: bool) -> None:
    geometry = layer(8, 8, padding=(padding, padding))
    weight = numbers(8, 8, 3, 3, seed=1)
    transformed = transform_weight(weight)
    for at in range(49):
        x = picture(1, 8, 7, 7)
        x[0, at % 8].view(-1)[at] = strange
        expected = expected_of(geometry, x, weight, Epilogue(pool=pool, activation=RELU if pool else 0))
        y = empty_picture(1, 8, *expected.shape[2:])
        is_finite = winograd(geometry, x, transformed, y, Epilogue(pool=pool, activation=RELU if pool else 0))()
        assert not is_finite or bool(expected.isfinite().all()), at
        if is_finite:  # what it hit is not stored
            assert relative_error(y, expected) <= EXACT


@pytest.mark.parametrize("strange", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("tap", range(9))
def test_winograd_says_that_a_weight_or_a_bias_is_not_finite(strange: float, tap: int) -> None:
    geometry = layer(8, 24)
    x, y = picture(1, 8, 5, 5), empty_picture(1, 24, 5, 5)
    weight, bias = numbers(24, 8, 3, 3, seed=1), numbers(24, seed=2)
    assert winograd(geometry, x, transform_weight(weight), y, Epilogue(bias))()
    bias[tap] = strange
    assert not winograd(geometry, x, transform_weight(weight), y, Epilogue(bias))()
    weight[20, 5].view(-1)[tap] = strange
    assert not winograd(geometry, x, transform_weight(weight), y, Epilogue())()


@pytest.mark.parametrize("strange", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("which", [0, 1])
def test_no_gradient_of_a_weight_where_it_is_not_finite(strange: float, which: int) -> None:
    geometry = layer(8, 16, padding=(0, 0))
    for at in range((7 * 7, 5 * 5)[which]):
        operands = [picture(1, 8, 7, 7), picture(1, 16, 5, 5, seed=1)]
        operands[which][0, at % 8].view(-1)[at] = strange
        assert weight_gradient(geometry, *operands) is None, at


@pytest.mark.parametrize("strange", [NAN, INFINITY])
def test_direct_spreads_infinities_and_nan_as_pytorch_does(strange: float) -> None:
    geometry = layer(5, 16, (3, 2), 2, (1, 0))
    x, weight = picture(2, 5, 9, 8), numbers(16, 5, 3, 2, seed=1)
    x[1, 3, 4, 5] = strange
    expected = expected_of(geometry, x, weight, Epilogue()).float()
    torch.testing.assert_close(by_direct(geometry, x, weight), expected, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("block", [6, 12, 48])
@pytest.mark.parametrize("splits", [1, 2, 3])
@pytest.mark.parametrize("number", [1, 2])
def test_blocks_and_threads_change_no_bit(
    block: int, splits: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = layer(16, 136)  # three chunks, several panels
    x, weight = picture(2, 16, 11, 14), numbers(136, 16, 3, 3, seed=1)
    monkeypatch.setattr(threads, "thread_count", lambda: 1)
    alone = {convolve: convolve(geometry, x, weight) for convolve in (by_winograd, by_direct)}
    monkeypatch.setattr(threads, "thread_count", lambda: number)
    for name in ("_winograd_blocks", "_direct_blocks"):
        monkeypatch.setattr(convolutions, name, lambda *_: (block, splits))
    for convolve, expected in alone.items():
        assert same_bits(convolve(geometry, x, weight), expected), convolve


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("changes", [{"LEAST_TILES": 5, "LAST_CACHE_SHARE": 0}, {"GRADIENT_BLOCK": 3}, {"APART": 32}])
def test_blocks_and_threads_change_no_bit_of_a_gradient(
    number: int, changes: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = layer(24, 40)
    x, gradient = picture(3, 24, 11, 14), picture(3, 40, 11, 14, seed=1)
    first, stem = layer(3, 32, (5, 5), 2, (2, 2)), picture(3, 3, 11, 14)
    of_stem = picture(3, 32, 6, 7, seed=2)
    monkeypatch.setattr(threads, "thread_count", lambda: 1)
    alone, alone_first = weight_gradient(geometry, x, gradient), direct_weight_gradient(first, stem, of_stem)
    monkeypatch.setattr(threads, "thread_count", lambda: number)
    for name, value in changes.items():
        monkeypatch.setattr(convolutions, name, value)
    assert alone is not None
    again = weight_gradient(geometry, x, gradient)
    assert again is not None
    assert same_bits(again, alone)
    assert same_bits(direct_weight_gradient(first, stem, of_stem), alone_first)


def test_a_call_can_be_repeated_on_other_values() -> None:
    geometry = layer(8, 8)
    x, y, weight = picture(1, 8, 6, 6), empty_picture(1, 8, 6, 6), numbers(8, 8, 3, 3, seed=1)
    call = winograd(geometry, x, transform_weight(weight), y, Epilogue())
    x[0, 0, 0, 0] = NAN
    assert not call()
    x.copy_(numbers(1, 8, 6, 6, seed=5))
    assert call()  # the bad news of the last call is forgotten
    assert relative_error(y, expected_of(geometry, x, weight, Epilogue())) <= EXACT


def test_a_reused_weight_is_overwritten_and_one_that_is_kept_is_not() -> None:
    one, other = numbers(8, 8, 3, 3, seed=1), numbers(8, 8, 3, 3, seed=2)
    kept = transform_weight(one)
    before = kept.clone()
    reused = transform_weight(one, reuse=True)
    assert same_bits(reused, before)
    transform_weight(other, reuse=True)
    assert same_bits(kept, before)
    assert not same_bits(reused, before)


def test_working_memory_that_was_made_for_inference_serves_training() -> None:
    """With 8 outputs, half of the only panel is cleared."""

    def work() -> Tensor:
        with torch.inference_mode():
            transform_weight(torch.ones(8, 32, 3, 3), reuse=True)
        return transform_weight(torch.ones(8, 24, 3, 3), reuse=True)

    with ThreadPoolExecutor(1) as pool:  # a thread that has no memory yet
        assert pool.submit(work).result().isfinite().all()


def test_panels_are_filled_up_with_zeros() -> None:
    weight = numbers(COLUMNS + 5, 3, 2, 2)
    panels = pack_weight(weight)
    first, second = panels[: 12 * COLUMNS].view(12, COLUMNS), panels[12 * COLUMNS :].view(12, LANES)
    assert second[:, 5:].eq(0).all()
    assert first[5, 2] == weight[2, 2, 0, 1]  # (y, x, channel) = (0, 1, 2)
    assert second[5, 2] == weight[COLUMNS + 2, 2, 0, 1]


def test_each_group_has_panels_of_its_own() -> None:
    weight = numbers(4 * 3, 2, 1, 1)  # four groups of three outputs
    assert same_bits(pack_weight(weight, 4), torch.cat([pack_weight(part) for part in weight.split(3)]))


@pytest.mark.parametrize(
    ("change", "by_winograd"),
    [
        ({}, True),
        ({"padding": (0, 0)}, True),
        ({"channels": 12, "out_channels": 13}, True),
        ({"padding": (2, 2)}, False),
        ({"padding": (0, 1)}, False),
        ({"stride": 2}, False),
        ({"dilation": 2}, False),
        ({"groups": 8}, False),
        ({"kernel": (1, 1)}, False),
        ({"kernel": (3, 1)}, False),
        ({"channels": 3}, False),
        ({"out_channels": 7}, False),
    ],
)
def test_which_layers_suit_winograd(change: dict[str, Any], by_winograd: bool) -> None:
    assert replace(layer(16, 24), **change).suits_winograd is by_winograd


def test_which_layers_are_depthwise() -> None:
    assert replace(layer(24, 24), groups=24).is_depthwise
    assert not replace(layer(24, 48), groups=24).is_depthwise
    assert not layer(1, 1).is_depthwise


@given(st.integers(1, 5000), st.integers(7, 60), st.integers(1, 20), st.integers(1, 64))
def test_every_thread_gets_the_same_to_do(rows: int, usual: int, most_shares: int, workers: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "thread_count", lambda: workers)
        block, shares = convolutions._even_blocks(rows, usual, most_shares)
    assert block % FEWER == 0
    assert 1 <= shares <= max(1, min(workers, most_shares))
    assert block <= 2 * usual + FEWER
    tasks = -(-rows // block) * shares
    of_one_thread = -(-tasks // workers) * block / shares  # whoever has most to do
    assert of_one_thread <= rows / workers + block / shares + 1


def test_which_layers_have_small_groups() -> None:
    assert replace(layer(24, 24), groups=24).has_small_groups
    assert replace(layer(32, 32), groups=8).has_small_groups
    assert not replace(layer(32, 64), groups=8).has_small_groups
    assert not replace(layer(30, 30), groups=10).has_small_groups  # a vector would hold parts of a group
    assert not layer(8, 8).has_small_groups


def test_what_is_a_picture() -> None:
    whole = picture(2, 8, 4, 5)
    for good in (whole, part_of_larger(whole), whole[:, :4], numbers(2, 1, 4, 5), numbers(3, 8, 1, 1)):
        assert is_picture(good)
    for bad in (
        numbers(2, 8, 4, 5),
        whole.double(),
        whole[0],
        whole[:0],
        whole[:, :, :, :1].expand(2, 8, 4, 5),
        whole.to("meta"),
        whole.transpose(1, 2),
    ):
        assert not is_picture(bad)


@few
@given(
    images=st.integers(1, 3),
    channels=widths,
    size=st.tuples(st.integers(3, 11), st.integers(3, 11)),
    window=st.integers(1, 3),
    stride=st.integers(1, 3),
    pads=st.booleans(),
    rounds_up=st.booleans(),
    strange=st.sampled_from([0.0, NAN, INFINITY, -INFINITY]),
    is_part=st.booleans(),
)
def test_the_largest_in_each_window(
    images: int, channels: int, size: Any, window: int, stride: int, pads: bool, rounds_up: bool, strange: float,
    is_part: bool,
) -> None:  # fmt: skip
    x, padding = sprinkled(picture(images, channels, *size), strange), window // 2 * int(pads)
    expected = functional.max_pool2d(x, window, stride, padding, ceil_mode=rounds_up)
    y = torch.zeros_like(expected).contiguous(memory_format=torch.channels_last)
    x, y = (part_of_larger(x), part_of_larger(y)) if is_part else (x, y)
    pooling(x, y, window, stride, padding, average=False)()
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True, check_stride=False)
    assert not is_part or not surroundings(y).any()


@few
@given(
    images=st.integers(1, 3),
    channels=widths,
    size=st.tuples(st.integers(3, 11), st.integers(3, 11)),
    window=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 1),
    strange=st.sampled_from([0.0, NAN, INFINITY]),
)
def test_the_average_of_each_window(
    images: int, channels: int, size: Any, window: int, stride: int, padding: int, strange: float
) -> None:
    assume(2 * padding <= window)
    x = sprinkled(picture(images, channels, *size), strange)
    expected = functional.avg_pool2d(x, window, stride, padding)
    y = torch.zeros_like(expected).contiguous(memory_format=torch.channels_last)
    pooling(x, y, window, stride, padding, average=True)()
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6, equal_nan=True, check_stride=False)


def sprinkled(x: Tensor, strange: float) -> Tensor:
    """Some values replaced, so that they fall into each place of a window."""
    where = torch.rand(x.shape, generator=torch.Generator().manual_seed(9)) < 0.15
    return torch.where(where, torch.tensor(strange), x).contiguous(memory_format=torch.channels_last)


def test_the_guard_is_seen() -> None:
    part = part_of_larger(torch.zeros(1, 8, 2, 2))
    assert not surroundings(part).any()
    assert part._base is not None
    part._base[0, 0, 0, 0] = 1
    assert surroundings(part).sum() == 1
    assert torch.tensor(GUARD).isnan()


def test_everything_a_call_names_lives_as_long_as_it() -> None:
    geometry, expected = layer(8, 8), torch.zeros(())
    y = empty_picture(2, 8, 20, 20)

    def make() -> Callable[[], bool]:
        nonlocal expected
        x, weight, bias = picture(2, 8, 20, 20), numbers(8, 8, 3, 3, seed=1), numbers(8, seed=2)
        expected = expected_of(geometry, x, weight, Epilogue(bias))
        return winograd(geometry, x, transform_weight(weight), y, Epilogue(bias))

    call = make()
    _ = [torch.full((size,), NAN) for size in (2 * 8 * 400, 36 * 16 * 8, 8) for _ in range(20)]  # takes freed memory
    assert call()
    assert relative_error(y, expected) <= EXACT
