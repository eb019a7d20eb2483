"""The pass leaves a module as it was, and writes down what ran."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from convatlas.errors import InspectionError
from convatlas.inspection import trace_module


class Remembering(nn.Module):
    """Keeps tensors in every place a module has, and counts its calls."""

    def __init__(self, *, needs_numbers: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(4))
        self.last: torch.Tensor | None = None
        self.seen: list[torch.Tensor] = []
        self.named: dict[str, torch.Tensor] = {}
        self.needs_numbers = needs_numbers

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.drop(self.norm(self.conv(images)))
        self.calls += 1
        self.mean = maps.mean((0, 2, 3))
        self.last = maps
        self.seen.append(maps)
        self.named["maps"] = maps + torch.rand(1)
        if self.needs_numbers and maps.sum() > 0:
            return maps.relu_()
        return maps


def state(module: nn.Module) -> list[object]:
    modules = [(name, id(each), each.training, list(each._forward_hooks)) for name, each in module.named_modules()]
    return [
        modules,
        [list(vars(each)) for each in module.modules()],
        [(name, id(tensor), tensor.requires_grad, tensor.grad) for name, tensor in module.named_parameters()],
        [(name, id(tensor), tensor.tolist()) for name, tensor in module.named_buffers()],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    ]


@pytest.mark.parametrize("needs_numbers", [False, True])
def test_the_module_comes_back_as_it_was(needs_numbers: bool) -> None:
    module = Remembering(needs_numbers=needs_numbers).train()
    module.norm.eval()
    module.conv.weight.requires_grad_(False)
    module.conv.register_forward_hook(lambda *_: None)
    image = torch.ones(1, 3, 8, 8)
    before = state(module)
    trace_module(module, image)
    assert state(module) == before
    assert (module.last, module.seen, module.named) == (None, [], {})
    assert image.sum() == 3 * 8 * 8
    assert not any(isinstance(tensor, FakeTensor) for tensor in (*module.parameters(), *module.buffers()))
    assert module(image).requires_grad


def test_a_module_that_fails_comes_back_as_it_was() -> None:
    module = Remembering(needs_numbers=False).train()
    before = state(module)
    with pytest.raises(InspectionError):
        trace_module(module, torch.ones(1, 5, 8, 8))
    assert state(module) == before


def test_nothing_is_printed_when_a_module_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InspectionError):
        trace_module(nn.Conv2d(3, 4, 3), torch.ones(1, 3, 2, 2))
    assert capfd.readouterr() == ("", "")


def test_a_layer_that_fails_and_is_gone_around_does_not_upset_the_calls() -> None:
    class Trying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.large, self.small = nn.Sequential(nn.Conv2d(3, 4, 9)), nn.Conv2d(3, 4, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            try:
                return self.large(images)
            except RuntimeError:
                return self.small(images).relu()

    trace = trace_module(Trying(), torch.zeros(1, 3, 4, 4))
    where = [(operator.name, trace.calls[operator.call].name) for operator in trace.operators]
    assert where == [("aten.convolution", "small"), ("aten.relu", "")]


def test_values_follow_writes() -> None:
    trace = trace_module(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)), torch.zeros(1, 3, 4, 4))
    convolution, relu = trace.operators
    assert relu.inputs == convolution.outputs
    assert relu.outputs[0].index != relu.inputs[0].index
    assert relu.outputs[0].storage == relu.inputs[0].storage
    assert not relu.reads_overwritten


def test_no_fused_operator_hides_attention_or_recurrence() -> None:
    attention = trace_module(nn.MultiheadAttention(8, 2), *[torch.zeros(5, 1, 8)] * 3)
    recurrent = trace_module(nn.LSTM(4, 4), torch.zeros(5, 1, 4))
    names = {operator.name for trace in (attention, recurrent) for operator in trace.operators}
    assert {"aten.bmm", "aten.addmm", "aten.tanh"} <= names
    assert not any("lstm" in name or "rnn" in name or "scaled_dot" in name for name in names)
