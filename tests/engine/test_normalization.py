from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

pytest.importorskip("llvmlite")

from rounding import UNIT

from convatlas.engine.normalization import batch_norm, can_normalise, relu_pool

FORMS = {
    "plain": {},
    "relu": {"relu": True},
    "pool": {"relu": True, "pool": True},
    "residual": {"residual": True},
    "residual relu": {"residual": True, "relu": True},
}
MOMENTUM, EPS = 0.3, 1e-5
EXACT = 80 * UNIT  # of values of the order of 1: they are rounded a dozen times, and sums are kept in float64
EDGE = 2 * EXACT  # so near to 0, or to another value of a window, rounding may decide which way a gradient goes


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(*shape: int, seed: int = 0) -> Tensor:
    return numbers(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


def theirs(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, running: Any, form: Any) -> Tensor:
    y = functional.batch_norm(x, *running, weight, bias, training=True, momentum=MOMENTUM, eps=EPS)
    if residual is not None:
        y = y + residual
    if form.get("relu"):
        y = functional.relu(y)
    return functional.max_pool2d(y, 2) if form.get("pool") else y


def ours(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, running: Any, form: Any) -> Tensor:
    options = {**form, "residual": residual}
    return batch_norm(x, weight, bias, *running, momentum=MOMENTUM, eps=EPS, **options)


def operands(x: Tensor, form: Any) -> dict[str, Tensor | None]:
    """What is normalised, and with what."""
    weight, bias = numbers(x.shape[1], seed=1), numbers(x.shape[1], seed=2)
    weight[0] = 0  # all values of a window are equal then
    return {
        "x": x,
        "weight": weight,
        "bias": bias,
        "residual": picture(*x.shape, seed=3) if form.get("residual") else None,
    }


def everything(
    function: Any, x: Tensor, form: Any, dtype: torch.dtype, gradient: Tensor | None = None
) -> dict[str, Any]:
    """The output, the running statistics after it, and all gradients."""
    given = operands(x, form)
    leaves = {name: value.detach().to(dtype).requires_grad_() for name, value in given.items() if value is not None}
    running = (numbers(x.shape[1], seed=4).to(dtype), numbers(x.shape[1], seed=5).abs().to(dtype))
    y = function(leaves["x"], leaves["weight"], leaves["bias"], leaves.get("residual"), running, form)
    if gradient is None:
        gradient = numbers(*y.shape, seed=6)
    y.backward(gradient.to(dtype))
    gradients = {name: leaf.grad for name, leaf in leaves.items()}
    return {"y": y.detach(), "running_mean": running[0], "running_var": running[1], **gradients}


def compare(x: Tensor, form: Any, within: float = EXACT) -> None:
    gradient = clear_gradient(x, form)
    got = everything(ours, x, form, torch.float32, gradient)
    expected = everything(theirs, x, form, torch.float64, gradient)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        error = (got[name].double() - value).abs().max().item()
        assert error <= within * max(1, value.abs().max().item()), (name, error)


def clear_gradient(x: Tensor, form: Any) -> Tensor:
    """A gradient of the outputs; 0 where rounding may decide whether ReLU lets it through, or which value pooling."""
    given = {name: value if value is None else value.double() for name, value in operands(x, form).items()}
    before = theirs(**given, running=(None, None), form={})
    clear = before.abs() > EDGE if form.get("relu") else torch.ones_like(before, dtype=torch.bool)
    if form.get("pool"):
        windows = before.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).sort(-1).values
        best, next_best = windows[..., -1], windows[..., -2]
        clear = (best.abs() > EDGE) & ((best == next_best) | (best - next_best > EDGE))
    return numbers(*clear.shape, seed=6) * clear


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    "shape",
    [
        (3, 16, 7, 9),  # odd
        (2, 24, 6, 35),  # more columns than a run
        (1, 8, 2, 2),
        (5, 72, 3, 3),
        (4, 32, 33, 20),  # several tasks
    ],
)
def test_values_running_statistics_and_gradients_are_those_of_pytorch(form: Any, shape: tuple[int, ...]) -> None:
    compare(picture(*shape) * 2 + 1, form)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    form=st.sampled_from(list(FORMS.values())),
    images=st.integers(1, 5),
    channels=st.integers(1, 5),
    height=st.integers(2, 13),
    width=st.integers(2, 40),
    mean=st.sampled_from([0.0, -3.0, 100.0]),
    seed=st.integers(0, 100),
)
def test_any_shape(form: Any, images: int, channels: int, height: int, width: int, mean: float, seed: int) -> None:
    compare(
        picture(images, channels * 8, height, width, seed=seed) + mean, form, within=4 * EXACT
    )  # few values cancel more


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("deviation", "mean"), [(0.1, 1e3), (1, 2**22)])
def test_a_large_mean_costs_no_digits(form: Any, deviation: float, mean: float) -> None:
    compare(picture(4, 16, 16, 20) * deviation + mean, form)


def test_an_outlier_in_the_first_pixel_costs_no_digits() -> None:
    x = picture(8, 8, 32, 32)
    x[0, :, 0, 0] = 1e6  # the distances are counted from it
    compare(x, FORMS["plain"])


@pytest.mark.parametrize("scale", [1e-30, 1e15, 1e30])
def test_tiny_and_huge_values(scale: float) -> None:
    x = picture(2, 8, 6, 6) * scale
    got = ours(x, torch.ones(8), torch.zeros(8), None, (None, None), {})
    expected = theirs(x.double(), torch.ones(8).double(), torch.zeros(8).double(), None, (None, None), {})
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6 * min(1, scale))


def test_of_equal_values_the_first_has_the_gradient() -> None:
    x = torch.randint(-1, 3, (4, 16, 9, 10), generator=torch.Generator().manual_seed(0)).float()
    compare(x.contiguous(memory_format=torch.channels_last), FORMS["pool"])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [(0, 3, 0, 0), (1, 3, 2, 1)])
def test_a_value_that_is_not_finite_spoils_its_channel_as_in_pytorch(form: Any, strange: float, at: Any) -> None:
    x = picture(2, 8, 5, 6)
    x[at] = strange
    got, expected = everything(ours, x, form, torch.float32), everything(theirs, x, form, torch.float64)
    assert got["y"][:, 3].isnan().all()
    for name, value in expected.items():
        torch.testing.assert_close(got[name].double(), value, rtol=1e-4, atol=1e-5, equal_nan=True, msg=name)


def test_a_residual_that_is_not_a_number_spoils_one_output() -> None:
    x, residual = picture(2, 8, 4, 4), picture(2, 8, 4, 4, seed=1).requires_grad_()
    with torch.no_grad():
        residual[1, 2, 3, 0] = float("nan")
    y = batch_norm(x, None, None, None, None, momentum=0.1, eps=EPS, residual=residual, relu=True)
    y.sum().backward()
    assert y.isnan().nonzero().tolist() == [[1, 2, 3, 0]]
    assert residual.grad is not None
    assert residual.grad[1, 2, 3, 0] == 1  # as from PyTorch's ReLU


def test_a_constant_channel_without_eps_is_pytorchs() -> None:
    x = torch.full((2, 8, 3, 3), 5.0).contiguous(memory_format=torch.channels_last)
    assert batch_norm(x, None, None, None, None, momentum=0.1, eps=0).isnan().all()
    assert batch_norm(x, None, torch.ones(8), None, None, momentum=0.1, eps=EPS).eq(1).all()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_number_of_threads_changes_no_bit(form: Any, threads: Callable[[int], None]) -> None:
    x = picture(16, 16, 33, 32) + 1
    threads(1)
    alone = everything(ours, x, form, torch.float32)
    threads(2)
    for name, value in everything(ours, x, form, torch.float32).items():
        assert torch.equal(value, alone[name]), name


def test_the_number_of_threads_changes_no_bit_of_the_sums(threads: Callable[[int], None]) -> None:
    x, seen = picture(16, 16, 33, 32) + 1, []
    for number in (1, 2):
        threads(number)
        statistics = torch.zeros(2, 16, dtype=torch.float64)  # float32 would hide the order of the sums
        ours(x, torch.ones(16), torch.zeros(16), None, statistics, {})
        seen.append(statistics)
    assert torch.equal(*seen)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_any_layout_of_the_input(form: Any) -> None:
    x = numbers(2, 16, 6, 7)
    expected = everything(ours, x.contiguous(memory_format=torch.channels_last), form, torch.float32)
    part = torch.zeros(2, 32, 6, 7).contiguous(memory_format=torch.channels_last)[:, :16].copy_(x)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (x, part, turned):
        for name, value in everything(ours, other, form, torch.float32).items():
            assert torch.equal(value, expected[name]), name


def test_any_layout_of_the_gradient() -> None:
    x, size = picture(2, 16, 6, 7), (2, 16, 3, 3)
    one = torch.ones(size)
    expected = everything(ours, x, FORMS["pool"], torch.float32, one.contiguous(memory_format=torch.channels_last))
    for gradient in (one, torch.ones(()).expand(size), torch.ones(2, 16, 3, 6)[..., ::2]):
        for name, value in everything(ours, x, FORMS["pool"], torch.float32, gradient).items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_outputs_are_channels_last_and_need_no_gradient(form: Any) -> None:
    x, residual = numbers(2, 8, 5, 5), numbers(2, 8, 5, 5) if form.get("residual") else None
    weight = torch.ones(8, requires_grad=True)
    mean, var = torch.zeros(8), torch.ones(8)
    with torch.no_grad():
        y = ours(x, weight, torch.zeros(8), residual, (mean, var), form)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y.requires_grad
    assert mean.any()  # still training
    with torch.inference_mode():
        assert torch.equal(ours(x, weight, torch.zeros(8), residual, (mean, var), form), y)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_only_the_input_is_kept_and_behind_a_residual_the_output(form: Any) -> None:
    x = picture(4, 16, 16, 16).requires_grad_()
    residual = picture(4, 16, 16, 16, seed=1) if form.get("residual") else None
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = ours(x, torch.ones(16), torch.zeros(16), residual, (None, None), form)
    large = {tensor.data_ptr() for tensor in kept if tensor.numel() > 100}
    masks = {y.data_ptr()} if form == FORMS["residual relu"] else set()
    assert large == {x.data_ptr()} | masks


@pytest.mark.parametrize("leaf", ["x", "weight", "bias", "residual"])
def test_a_gradient_that_only_one_needs(leaf: str) -> None:
    leaves = {"x": picture(2, 8, 4, 4), "weight": numbers(8, seed=1), "bias": numbers(8, seed=2)}
    leaves["residual"] = picture(2, 8, 4, 4, seed=3)
    all_needed = {name: value.clone().requires_grad_() for name, value in leaves.items()}
    one_needed = {name: value.requires_grad_(name == leaf) for name, value in leaves.items()}
    for arguments in (all_needed, one_needed):
        ours(**arguments, running=(None, None), form={"relu": True}).square().sum().backward()
    assert torch.equal(one_needed[leaf].grad, all_needed[leaf].grad)
    assert [name for name, value in one_needed.items() if value.grad is not None] == [leaf]


@pytest.mark.parametrize("shape", [(2, 8, 2, 2), (3, 16, 7, 9), (4, 64, 32, 32)])
def test_relu_pool_is_that_of_pytorch(shape: tuple[int, ...]) -> None:
    x = torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(0)).float()  # with many equal values
    compare_relu_pool(x)
    compare_relu_pool(picture(*shape))


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -float("inf")])
def test_relu_pool_lets_through_what_pytorch_does(strange: float) -> None:
    x = picture(4, 16, 9, 11)
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.3] = strange
    compare_relu_pool(x)


def compare_relu_pool(x: Tensor) -> None:
    leaf, reference = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = relu_pool(leaf), functional.max_pool2d(functional.relu(reference), 2)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    gradient = numbers(*y.shape, seed=2)
    y.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(leaf.grad, reference.grad, rtol=0, atol=0)


def test_what_the_kernels_take() -> None:
    assert can_normalise(torch.empty(1, 8, 1, 2))
    assert can_normalise(torch.empty(2, 3, 4, 4))
    assert can_normalise(torch.empty(1, 8, 2, 2), pool=True)
    assert not can_normalise(torch.empty(4, 8, 1, 2), pool=True)
    for other in (
        torch.empty(0, 8, 4, 4),
        torch.empty(2, 0, 4, 4),
        torch.empty(2, 8, 4),
        torch.empty(1, 8, 1, 1),  # one value has no variance
        torch.empty(2, 8, 4, 4, dtype=torch.float64),
        torch.empty(2, 8, 4, 4, device="meta"),
    ):
        assert not can_normalise(other)


def test_what_cannot_be_fused_is_refused() -> None:
    x, none = picture(2, 8, 4, 4), (None, None, None, None)
    with pytest.raises(ValueError, match=r"received torch.float32 \(2, 8, 1, 1\)"):
        batch_norm(x, *none, momentum=0.1, eps=EPS, residual=torch.zeros(2, 8, 1, 1))
    for options in ({"pool": True}, {"pool": True, "relu": True, "residual": x}):
        with pytest.raises(ValueError, match="pooling is fused only"):
            batch_norm(x, *none, momentum=0.1, eps=EPS, **options)
