from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional

pytest.importorskip("llvmlite")

from pictures import numbers, part_of_larger, picture, relative_error, same_bits
from rounding import EXACT

from convatlas.engine import operators, reference
from convatlas.engine.operators import conv3x3, first_convolution

INFINITY, NAN = float("inf"), float("nan")
LAYOUTS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "channels first": lambda x: x.contiguous(),
    "part of a larger one": part_of_larger,
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every second column": lambda x: torch.stack([x, x], dim=-1).flatten(3)[..., ::2],
}


@pytest.fixture
def by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test whose operator turns to PyTorch."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("computed by PyTorch")

    monkeypatch.setattr(operators.functional, "conv2d", refuse)
    monkeypatch.setattr(operators, "_gradients_by_torch", refuse)


def theirs(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    return torch.conv2d(x, weight, bias, padding=padding)


def all_of(function: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, gradient: Tensor) -> Any:
    """Outputs and gradients by name."""
    given = {"x": x, "weight": weight, "bias": bias}
    leaves = {name: value.detach().requires_grad_() for name, value in given.items() if value is not None}
    y = function(leaves["x"], leaves["weight"], leaves.get("bias"), padding)
    y.backward(gradient)
    return {"y": y.detach(), **{name: leaf.grad for name, leaf in leaves.items()}}


def compare(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, gradient: Tensor | None = None) -> None:
    if gradient is None:
        high, wide = x.shape[2] + 2 * padding - 2, x.shape[3] + 2 * padding - 2
        gradient = picture(x.shape[0], weight.shape[0], high, wide, seed=9)
    got = all_of(conv3x3, x, weight, bias, padding, gradient)
    in_double = (x.double(), weight.double(), None if bias is None else bias.double(), padding, gradient.double())
    expected = all_of(theirs, *in_double)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert relative_error(got[name], value) <= EXACT, name


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [(4, 5), (6, 3)])
def test_the_formulas_of_the_gradients(padding: int, size: tuple[int, int]) -> None:
    x = numbers(1, 2, *size).double().requires_grad_()
    weight = numbers(2, 2, 3, 3, seed=1).double().requires_grad_()
    bias = numbers(2, seed=2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: conv3x3(*given, padding), (x, weight, bias))
    expected = theirs(x, weight, bias, padding)
    torch.testing.assert_close(conv3x3(x, weight, bias, padding), expected, check_stride=False)


@pytest.mark.usefixtures("by_kernels")
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_values_and_gradients_in_any_layout(padding: int, layout: Any) -> None:
    x, weight = layout(numbers(2, 16, 7, 9)), numbers(24, 16, 3, 3, seed=1)
    gradient = layout(numbers(2, 24, 5 + 2 * padding, 7 + 2 * padding, seed=3))
    compare(x, weight, numbers(24, seed=2), padding, gradient)
    compare(x, weight.contiguous(memory_format=torch.channels_last), None, padding, gradient)


@pytest.mark.usefixtures("by_kernels")
def test_expanded_inputs_weights_and_gradients() -> None:
    x, weight = numbers(1, 16, 6, 1).expand(3, 16, 6, 5), numbers(1, 16, 1, 1, seed=1).expand(8, 16, 3, 3)
    compare(x, weight, torch.ones(()).expand(8), 1, torch.ones(()).expand(3, 8, 6, 5))


@pytest.mark.usefixtures("by_kernels")
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (4, 4), (5, 4), (9, 2)])
def test_small_and_odd_sizes(size: tuple[int, int]) -> None:
    compare(picture(3, 8, *size), numbers(8, 8, 3, 3, seed=1), numbers(8, seed=2), 1)


@pytest.mark.parametrize(("channels", "out_channels"), [(3, 8), (8, 3), (12, 12)])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_other_numbers_of_channels_are_pytorchs(channels: int, out_channels: int, layout: Any) -> None:
    compare(layout(numbers(2, channels, 6, 7)), numbers(out_channels, channels, 3, 3, seed=1), None, 1)


def test_bfloat16_is_pytorchs() -> None:
    x, weight = picture(2, 16, 6, 6).bfloat16(), numbers(16, 16, 3, 3, seed=1).bfloat16()
    gradient = picture(2, 16, 6, 6, seed=3).bfloat16()
    got, expected = (all_of(function, x, weight, None, 1, gradient) for function in (conv3x3, theirs))
    for name, value in expected.items():
        assert got[name].dtype == torch.bfloat16
        torch.testing.assert_close(got[name], value, rtol=0.02, atol=0.02, check_stride=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_batch(dtype: torch.dtype) -> None:
    x, weight = torch.zeros(0, 8, 5, 6, dtype=dtype), numbers(16, 8, 3, 3).to(dtype)
    got = all_of(conv3x3, x, weight, numbers(16).to(dtype), 0, torch.zeros(0, 16, 3, 4, dtype=dtype))
    assert got["y"].shape == (0, 16, 3, 4)
    assert got["x"].shape == x.shape
    assert got["weight"].eq(0).all()
    assert got["bias"].eq(0).all()


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (numbers(1, 8, 5, 5), numbers(8, 16, 3, 3), None),
        (numbers(1, 16, 5, 5), numbers(8, 8, 3, 3), None),
        (numbers(1, 8, 5, 5), numbers(8, 8, 3, 3).double(), None),
        (numbers(1, 8, 5, 5), numbers(8, 8, 3, 3), numbers(4)),
        (numbers(1, 8, 5, 5), numbers(8, 8, 3, 3), numbers(8).double()),
        (numbers(1, 8, 1, 5), numbers(8, 8, 3, 3), None),
    ],
    ids=["fewer channels", "more channels", "another type", "a short bias", "a bias of another type", "too small"],
)
def test_what_pytorch_refuses_is_refused(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    with pytest.raises(RuntimeError):
        theirs(x, weight, bias, 0)
    with pytest.raises((RuntimeError, ValueError)):
        conv3x3(x, weight, bias, 0)


@pytest.mark.parametrize("strange", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("where", ["x", "weight", "bias", "gradient"])
@pytest.mark.parametrize("padding", [0, 1])
def test_infinities_and_nan_reach_what_they_reach_in_pytorch(strange: float, where: str, padding: int) -> None:
    size = 5 + 2 * padding
    given = {"x": picture(2, 8, 7, 7), "weight": numbers(8, 8, 3, 3, seed=1), "bias": numbers(8, seed=2)}
    given |= {"gradient": picture(2, 8, size, size, seed=3)}
    given[where][(1, 3, 2, 1)[: given[where].dim()] if where != "bias" else (3,)] = strange
    gradient = given.pop("gradient")
    got, expected = (all_of(function, *given.values(), padding, gradient) for function in (conv3x3, theirs))
    assert any(not value.isfinite().all() for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name],
            value,
            rtol=1e-4,
            atol=1e-4,
            equal_nan=True,
            check_stride=False,
            msg=lambda text, name=name: name + text,
        )


@pytest.mark.parametrize(("of_x", "of_weight"), [(1e38, 0.1), (3e38, 1e-3), (1e-3, 3e38), (1e19, 1e18), (1e38, 1e38)])
def test_values_that_overflow_only_on_the_way(of_x: float, of_weight: float) -> None:
    x = picture(2, 8, 6, 6).sign() * of_x
    weight, bias = numbers(8, 8, 3, 3, seed=1).clamp(-1, 1) * of_weight / 72, numbers(8, seed=2)
    gradient = picture(2, 8, 6, 6, seed=3).sign() * 0.01
    got, expected = (all_of(function, x, weight, bias, 1, gradient) for function in (conv3x3, theirs))
    for name, value in expected.items():
        scale = float(value[value.isfinite()].abs().max()) if value.isfinite().any() else 0
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-5 * scale, equal_nan=True, check_stride=False)


def test_values_below_the_normal_ones_are_not_lost() -> None:
    x, weight = picture(2, 8, 6, 6) * 1e-40, numbers(8, 8, 3, 3, seed=1)
    y = conv3x3(x, weight, None, 1)
    assert y.any()
    torch.testing.assert_close(y.double(), theirs(x.double(), weight.double(), None, 1), rtol=1e-5, atol=1e-43)


@pytest.mark.usefixtures("by_kernels")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Any) -> None:
    x, weight = picture(2, 8, 6, 6), numbers(8, 8, 3, 3, seed=1).requires_grad_()
    expected = conv3x3(x, weight, None, 1).detach()
    with mode():
        y = conv3x3(x, weight, None, 1)
    assert not y.requires_grad
    assert torch.equal(y, expected)


@pytest.mark.usefixtures("by_kernels")
def test_training_after_inference() -> None:
    """The memory that inference made is written to in training: with 8 outputs, half a panel of it is cleared."""

    def work() -> None:
        with torch.inference_mode():
            conv3x3(picture(1, 32, 3, 3), numbers(8, 32, 3, 3, seed=1), None, 1)
        compare(picture(1, 16, 3, 3), numbers(8, 16, 3, 3, seed=1), None, 1)

    with ThreadPoolExecutor(1) as pool:  # a thread that has no memory yet
        pool.submit(work).result()


@pytest.mark.usefixtures("by_kernels")
@pytest.mark.parametrize("leaf", ["x", "weight", "bias"])
def test_a_gradient_that_only_one_needs(leaf: str) -> None:
    leaves = {"x": picture(2, 8, 5, 5), "weight": numbers(8, 8, 3, 3, seed=1), "bias": numbers(8, seed=2)}
    expected = all_of(conv3x3, *leaves.values(), 1, torch.ones(2, 8, 5, 5))
    leaves[leaf].requires_grad_()
    conv3x3(*leaves.values(), 1).sum().backward()
    assert torch.equal(leaves[leaf].grad, expected[leaf])
    assert [name for name, value in leaves.items() if value.grad is not None] == [leaf]


@pytest.mark.usefixtures("by_kernels")
def test_the_same_bits_every_time() -> None:
    given = (picture(3, 24, 9, 9), numbers(40, 24, 3, 3, seed=1), numbers(40, seed=2), 1, picture(3, 40, 9, 9, seed=3))
    one, other = (all_of(conv3x3, *given) for _ in range(2))
    for name, value in one.items():
        assert same_bits(other[name], value), name


@pytest.mark.usefixtures("by_kernels")
def test_nothing_given_is_changed_and_nothing_returned_is_shared() -> None:
    given = (picture(2, 8, 5, 5), numbers(8, 8, 3, 3, seed=1), numbers(8, seed=2), 1, picture(2, 8, 5, 5, seed=3))
    before = [part.clone() for part in given if isinstance(part, Tensor)]
    first = all_of(conv3x3, *given)
    copies = {name: value.clone() for name, value in first.items()}
    all_of(conv3x3, given[0] + 1, given[1] * 2, *given[2:])
    for name, value in first.items():
        assert torch.equal(value, copies[name]), name
    for part, copy in zip((part for part in given if isinstance(part, Tensor)), before, strict=True):
        assert torch.equal(part, copy)


@pytest.mark.parametrize("channels", [(8, 16), (3, 16), (12, 12)])
@pytest.mark.parametrize("winograd", [False, True])
@pytest.mark.parametrize("layout", [LAYOUTS["channels last"], LAYOUTS["channels first"]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_said_of_the_outputs_is_so(channels: Any, winograd: bool, layout: Any, dtype: torch.dtype) -> None:
    inputs, outputs = channels
    x, weight = layout(numbers(2, inputs, 6, 7)).to(dtype), numbers(outputs, inputs, 3, 3).to(dtype)
    gradient = layout(numbers(2, outputs, 6, 7)).to(dtype)
    for function, given in (
        (conv3x3, (x, weight, None, 1, winograd)),
        (operators.input_gradient, (gradient, weight, 1, winograd)),
        (operators.weight_gradient, (x, gradient, 1)),
    ):
        real = function(*given)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            said = function(*(mode.from_tensor(part) if isinstance(part, Tensor) else part for part in given))
        assert (said.shape, said.dtype, said.stride()) == (real.shape, real.dtype, real.stride()), function


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [((7, 7), 2, [3, 3]), ((3, 3), 1, [1, 1]), ((2, 5), 3, [0, 2])]
)
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_first_convolution(channels: int, kernel: Any, stride: int, padding: list[int], has_bias: bool) -> None:
    x, weight = numbers(2, channels, 13, 14), numbers(16, channels, *kernel, seed=1).requires_grad_()
    bias = numbers(16, seed=2).requires_grad_() if has_bias else None
    in_double = [None if part is None else part.detach().double().requires_grad_() for part in (weight, bias)]
    y = first_convolution(x, weight, bias, stride, padding)
    expected = functional.conv2d(x.double(), *in_double, stride, padding)
    gradient = numbers(*y.shape, seed=3)
    y.backward(gradient)
    expected.backward(gradient.double())
    assert relative_error(y, expected) <= EXACT
    assert y.is_contiguous(memory_format=torch.channels_last)
    for got, value in zip((weight, bias), in_double, strict=True):
        assert got is None or relative_error(got.grad, value.grad) <= EXACT


@pytest.mark.parametrize("strange", [NAN, INFINITY])
@pytest.mark.parametrize("where", ["x", "weight", "gradient"])
def test_the_first_convolution_spreads_infinities_and_nan_as_pytorch_does(strange: float, where: str) -> None:
    given = {"x": picture(2, 3, 9, 9), "weight": numbers(16, 3, 3, 3, seed=1), "gradient": picture(2, 16, 5, 5, seed=2)}
    given[where][1, 2, 1, 1] = strange  # away from the border: there, padding is multiplied like any zero
    seen = []
    for function in (first_convolution, functional.conv2d):
        weight = given["weight"].clone().requires_grad_()
        y = function(given["x"], weight, None, 2, [1, 1])
        y.backward(given["gradient"])
        seen.append((y.detach(), weight.grad))
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-4, equal_nan=True, check_stride=False)


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (numbers(1, 1, 5, 5), numbers(16, 3, 3, 3), None),
        (numbers(1, 3, 5, 5).double(), numbers(16, 3, 3, 3), None),
        (numbers(1, 3, 5, 5), numbers(16, 3, 3, 3).double(), None),
        (numbers(1, 3, 5, 5), numbers(16, 3, 3, 3), numbers(4)),
        (numbers(1, 3, 5, 5), numbers(16, 3, 3, 3), numbers(16).double()),
    ],
    ids=["fewer channels", "images of another type", "a weight of another type", "a short bias", "a double bias"],
)
def test_the_first_convolution_refuses_what_pytorch_refuses(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    with pytest.raises(RuntimeError):
        functional.conv2d(x, weight, bias)
    with pytest.raises(RuntimeError, match="float32 images with 3 channels"):
        first_convolution(x, weight, bias, 1, [0, 0])


class Block(nn.Module):
    """Two convolutions, of which one falls back to PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.one = nn.Parameter(torch.randn(16, 8, 3, 3, generator=generator) / 8)
        self.two = nn.Parameter(torch.randn(12, 16, 3, 3, generator=generator) / 12)
        self.bias = nn.Parameter(torch.randn(16, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return conv3x3(functional.relu(conv3x3(x, self.one, self.bias, 1)), self.two, None, 0).mean((2, 3))


@pytest.mark.slow
def test_export() -> None:
    x = picture(2, 8, 7, 9)
    program = torch.export.export(Block(), (x,))
    assert torch.equal(program.module()(x), Block()(x))
    assert "convatlas.conv3x3" in str(program.graph)


@pytest.mark.slow
def test_compile() -> None:
    x, block = picture(2, 8, 7, 9), Block()
    expected = torch.autograd.grad(block(x).square().sum(), list(block.parameters()))
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    for got, value in zip(
        torch.autograd.grad(compiled(x).square().sum(), list(block.parameters())), expected, strict=True
    ):
        torch.testing.assert_close(got, value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # PyTorch's check looks at its own copies
@pytest.mark.parametrize("channels", [8, 3])
@pytest.mark.parametrize("winograd", [False, True])
def test_the_rules_of_operators(channels: int, winograd: bool) -> None:
    x, weight = picture(2, channels, 5, 6).requires_grad_(), numbers(16, channels, 3, 3, seed=1).requires_grad_()
    torch.library.opcheck(conv3x3, (x, weight, numbers(16).requires_grad_(), 1, winograd))
    torch.library.opcheck(operators.input_gradient, (picture(2, 16, 5, 6), weight.detach(), 1, winograd))
    torch.library.opcheck(operators.weight_gradient, (x.detach(), picture(2, 16, 5, 6), 1))
    torch.library.opcheck(first_convolution, (x.detach(), weight, None, 1, [1, 1]))
    torch.library.opcheck(operators.first_weight_gradient, (x.detach(), picture(2, 16, 5, 6), [3, 3], 1, [1, 1]))


PARALLEL = """
import os
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from pictures import picture
from test_operators import Block

rank, store, results = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
block = DistributedDataParallel(Block())
block(picture(4, 8, 6, 6)[rank * 2 : rank * 2 + 2]).square().mean().backward()
torch.save([part.grad for part in block.parameters()], f"{results}/{rank}")
dist.destroy_process_group()
os._exit(0)  # threads of PyTorch's that are still there when Python ends can abort the process: what was asked is saved
"""


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    places = [str(tmp_path / "store"), str(tmp_path)]
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    ranks = [subprocess.Popen([sys.executable, "-c", path + PARALLEL, str(rank), *places]) for rank in range(2)]
    assert [process.wait(timeout=600) for process in ranks] == [0, 0]
    block = Block()
    block(picture(4, 8, 6, 6)).square().mean().backward()
    expected = [part.grad for part in block.parameters()]
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / str(rank)), expected, rtol=1e-4, atol=1e-7)


def test_the_float64_path_is_the_reference() -> None:
    x, weight = numbers(1, 2, 5, 5).double(), numbers(3, 2, 3, 3, seed=1).double()
    assert torch.equal(conv3x3(x, weight, None, 1), reference.convolve(x, weight, 1))
