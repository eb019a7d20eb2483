"""An accelerated network is never another than the one it was made from, in whatever way that one is changed."""

from __future__ import annotations

import copy
import ctypes
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as nn_module

pytest.importorskip("llvmlite")

from networks import assert_step_of, conv, error, network, numbers, randomised, step

from convatlas.engine import Accelerated, accelerate
from convatlas.engine.freshness import SHORT, Form, Values
from convatlas.models import create_model

CLOSE = 1e-5  # of the largest output


def own() -> nn.Module:
    """Somebody's own module: a shortcut, a norm by itself, a number that its code uses, dense layers."""

    def forward(self: Any, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(x)))
        x = functional.relu(self.alone(x + self.second(x) * self.strength))
        return self.head(functional.relu(self.hidden(self.pool(x).flatten(1))))

    layers = {"first": conv(3, 16), "norm": nn.BatchNorm2d(16), "second": conv(16, 16), "alone": nn.BatchNorm2d(16)}
    made = network(forward, **layers, pool=nn.MaxPool2d(2), hidden=nn.Linear(16 * 16, 32), head=nn.Linear(32, 10))
    made.strength = 0.5
    return made


def with_biases(model: nn.Module) -> nn.Module:
    """As a training would leave them: at first they are zeros."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn5": (lambda: with_biases(create_model("cnn5_cifar", seed=0)), (2, 3, 32, 32)),
    "ResNet-20": (lambda: create_model("resnet20", image_size=16, seed=0), (2, 3, 16, 16)),
    "VGG": (lambda: create_model("vgg11_bn_cifar", seed=0), (2, 3, 32, 32)),
    "own": (own, (2, 3, 8, 8)),
}


def first(model: nn.Module, kind: type[nn.Module]) -> Any:
    return next(part for part in model.modules() if isinstance(part, kind))


def last(model: nn.Module, kind: type[nn.Module]) -> Any:
    return [part for part in model.modules() if isinstance(part, kind)][-1]


def weights(model: nn.Module) -> Iterator[Tensor]:
    yield from (parameter for parameter in model.parameters() if parameter.dim() > 1)


# -- what people do to a network --


def zero_all_but_the_first_channel(model: nn.Module) -> None:
    last(model, nn.Conv2d).weight.data[1:].zero_()


def prune(model: nn.Module) -> None:
    for weight in weights(model):
        weight.data *= torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) > 0.5


def average_by_hand(model: nn.Module) -> None:
    for weight in weights(model):
        weight.data.mul_(0.9).add_(torch.ones_like(weight) * weight.abs().mean(), alpha=0.1)


def write_through_numpy(model: nn.Module) -> None:
    values = last(model, nn.Conv2d).weight.detach().numpy()
    values[:, 1] *= 3


def write_through_numpy_into_a_bias(model: nn.Module) -> None:
    last(model, nn.Linear).bias.detach().numpy()[-1] += 2


def write_through_memory(model: nn.Module) -> None:
    weight = first(model, nn.Conv2d).weight
    ctypes.memset(weight.data_ptr(), 0, weight.numel() * 2)  # half of it


def shift_one_row_of_a_dense_layer(model: nn.Module) -> None:
    first(model, nn.Linear).weight.data[1] += 5


def shift_one_output_channel(model: nn.Module) -> None:
    last(model, nn.Conv2d).weight.data[3] += 2


def exchange_the_numbers(model: nn.Module) -> None:
    weight = first(model, nn.Conv2d).weight
    weight.data = weight.data * 1.5


def exchange_a_layer(model: nn.Module) -> None:
    for path, part in model.named_modules():
        if isinstance(part, nn.Conv2d):
            other = copy.deepcopy(part)
            other.weight.data += 0.1
            owner, _, name = path.rpartition(".")
            setattr(model.get_submodule(owner), name, other)
            return


def exchange_a_parameter(model: nn.Module) -> None:
    layer = first(model, nn.Conv2d)
    layer.weight = nn.Parameter(layer.weight.detach() * 2)


def load_by_assignment(model: nn.Module) -> None:
    state = {name: value * 1.5 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def freeze_and_scale_the_first_layer(model: nn.Module) -> None:
    layer = first(model, nn.Conv2d)
    layer.requires_grad_(False)
    layer.weight *= 2


def take_a_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) * 0.1
    optimizer.step()
    optimizer.zero_grad()


def weight_norm_as_it_was(model: nn.Module) -> None:
    layer = torch.nn.utils.weight_norm(last(model, nn.Conv2d))
    layer.weight_g.data *= 2


def weight_norm_as_it_is(model: nn.Module) -> None:
    layer = nn.utils.parametrizations.weight_norm(last(model, nn.Conv2d))
    layer.parametrizations.weight.original0.data *= 2


def another_forward_method(model: nn.Module) -> None:
    layer = last(model, nn.Conv2d)
    layer.forward = types.MethodType(lambda self, x: nn.Conv2d.forward(self, x) * 2, layer)


def another_dilation(model: nn.Module) -> None:
    layer = first(model, nn.Conv2d)
    more = layer.kernel_size[0] // 2
    layer.dilation, layer.padding = (2, 2), (layer.padding[0] + more,) * 2  # the size of the outputs is the same


def another_eps(model: nn.Module) -> None:
    last(model, nn.BatchNorm2d).eps = 0.5


def one_running_mean(model: nn.Module) -> None:
    last(model, nn.BatchNorm2d).running_mean.data[3] += 2


def running_variances(model: nn.Module) -> None:
    last(model, nn.BatchNorm2d).running_var.detach().numpy()[:] *= 4


def shared_weights(model: nn.Module) -> None:
    one, other = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)][-2:]
    if one.weight.shape == other.weight.shape:
        other.weight = one.weight
    one.weight.data *= 1.5


CHANGES = [
    zero_all_but_the_first_channel, prune, average_by_hand, write_through_numpy, write_through_numpy_into_a_bias,
    write_through_memory, shift_one_row_of_a_dense_layer, shift_one_output_channel, exchange_the_numbers,
    exchange_a_layer, exchange_a_parameter, load_by_assignment, freeze_and_scale_the_first_layer, take_a_step,
    weight_norm_as_it_was, weight_norm_as_it_is, another_forward_method, another_dilation,
]  # fmt: skip
OF_NORMS = [another_eps, one_running_mean, running_variances, shared_weights]
IN_EVALUATION_ONLY = {"one_running_mean", "running_variances"}  # a training neither reads nor needs them
SAMPLED = 5  # one in so many of the changes to small registered networks is tried in the fast suite; of one's own, all


def cases(evaluating: bool) -> list[Any]:
    found = []
    for name in NETWORKS:
        changes = CHANGES + (OF_NORMS if name != "cnn5" else [])
        for change in changes:
            if not evaluating and change.__name__ in IN_EVALUATION_ONLY:
                continue
            number = len(found)
            is_slow = name == "VGG" or (name != "own" and number % SAMPLED != 0)
            marks = [pytest.mark.slow] if is_slow else []
            found.append(pytest.param(name, change, marks=marks, id=f"{name}, {change.__name__.replace('_', ' ')}"))
    return found


def changed(model: nn.Module, change: Callable[[nn.Module], None]) -> None:
    with torch.no_grad():
        change(model)


@pytest.mark.parametrize(("name", "change"), cases(evaluating=True))
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_a_change_is_seen_by_the_next_evaluation(name: str, change: Callable[[nn.Module], None]) -> None:
    make, shape = NETWORKS[name]
    model, images = randomised(make()).eval(), numbers(*shape)
    fast = accelerate(model, images, {})
    with torch.no_grad():
        before = fast(images)
        changed(model, change)
        got, expected = fast(images), model(images)
    assert error(got, expected) <= CLOSE
    assert error(got, before) > 100 * CLOSE  # or it would not have mattered


@pytest.mark.parametrize(("name", "change"), cases(evaluating=False))
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_a_change_is_seen_by_the_next_step_of_training(name: str, change: Callable[[nn.Module], None]) -> None:
    make, shape = NETWORKS[name]
    model, images = randomised(make()).train(), numbers(*shape)
    fast = accelerate(model, images, {})
    step(fast, model, images)
    changed(model, change)
    assert_step_of(fast, model, images)


def test_an_attribute_that_the_networks_code_uses() -> None:
    model, images = own().eval(), numbers(2, 3, 8, 8)
    fast = accelerate(model, images, {})
    with torch.no_grad():
        before = fast(images)
        model.strength = 3.0
        assert error(fast(images), model(images)) <= CLOSE
        assert error(fast(images), before) > 100 * CLOSE
        model.strength = torch.tensor(0.1)
        assert error(fast(images), model(images)) <= CLOSE


def test_what_no_sample_shows_is_read_again_when_it_is_asked() -> None:
    model = nn.Sequential(conv(64, 256)).eval()
    images = numbers(1, 64, 8, 8)
    fast = accelerate(model, images, {})
    weight = model[0].weight
    assert weight.numel() > SHORT
    with torch.no_grad():
        before = fast(images)
        weight.detach().numpy()[200, 40, 1, 1] = 100  # one of 147,456
        fast.refresh()
        assert error(fast(images), model(images)) <= CLOSE
        assert error(fast(images), before) > 100 * CLOSE


# -- whoever watches, traces or transforms wants the network itself --


def test_hooks_for_all_modules_are_called() -> None:
    model, images = own().eval(), numbers(2, 3, 8, 8)
    fast = accelerate(model, images, {})
    seen: list[str] = []
    handle = nn_module.register_module_forward_hook(lambda part, *_: seen.append(type(part).__name__))
    try:
        with torch.no_grad():
            fast(images)
    finally:
        handle.remove()
    assert seen.count("Conv2d") == 2


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
def test_a_trace_computes_the_network() -> None:
    model, images = own().eval(), numbers(2, 3, 8, 8)
    with torch.no_grad():
        traced = torch.jit.trace(accelerate(model, images, {}), images)
        other = numbers(2, 3, 8, 8, seed=5)
        assert error(traced(other), model(other)) <= CLOSE


def test_operators_are_counted_and_transformed() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, images = own().eval(), numbers(2, 3, 8, 8)
    fast = accelerate(model, images, {})
    counts = []
    for module in (fast, model):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(images)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    with torch.no_grad():
        many = numbers(3, 2, 3, 8, 8)
        torch.testing.assert_close(torch.func.vmap(fast)(many), torch.func.vmap(model)(many))


# -- weights that are not there, or not what the layers say --


@pytest.mark.parametrize("training", [False, True])
def test_weights_on_another_device_are_left_to_pytorch(training: bool) -> None:
    model, images = own().train(training), numbers(2, 3, 8, 8)
    fast = accelerate(model, images, {})
    model.second.to("meta")
    assert outcome(fast, images) == outcome(model, images)
    model.to("meta")
    assert outcome(fast, images) == outcome(model, images)


@torch.no_grad()
def outcome(module: nn.Module, images: Tensor) -> tuple[Any, ...]:
    """The shape and the device of the outputs, or the kind of the refusal."""
    try:
        output = module(images)
    except RuntimeError as refusal:
        return (type(refusal),)
    return output.shape, output.device


def test_weights_without_memory_are_not_read() -> None:
    model, images = own().eval(), numbers(2, 3, 8, 8)
    fast = accelerate(model, images, {})
    kept = model.second.weight.detach().clone()
    model.second.weight.untyped_storage().resize_(0)
    assert not Values(model).are_readable
    model.second.weight.untyped_storage().resize_(kept.nbytes)
    model.second.weight.data.copy_(kept)
    with torch.no_grad():
        assert error(fast(images), model(images)) <= CLOSE


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(16, 16, 3, 2), (16, 8, 3, 3), (8, 16, 3, 3), (16, 16, 1, 1)])
def test_weights_of_another_shape_give_what_the_network_gives(shape: tuple[int, ...], training: bool) -> None:
    model, images = own().train(training), numbers(2, 3, 8, 8)
    fast = accelerate(model, images, {})
    model.second.weight.data = numbers(*shape)
    assert outcome(fast, images) == outcome(model, images)


def test_square_weights_turned_round_in_their_memory() -> None:
    model, images = nn.Sequential(conv(16, 16, bias=False), conv(16, 16)).eval(), numbers(2, 16, 8, 8)
    fast = accelerate(model, images, {})
    with torch.no_grad():
        fast(images)
        model[0].weight.data = model[0].weight.data.transpose(0, 1)
        assert error(fast(images), model(images)) <= CLOSE


# -- the first use, by many threads --


def test_threads_that_meet_a_network_at_once_and_others_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    bystander = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3)).eval()
    images = numbers(2, 3, 8, 8)
    models = [own().eval() for _ in range(8)]
    with torch.no_grad():
        alone = bystander(images)
        expected = [model(images) for model in models]

    @torch.no_grad()
    def use(number: int) -> tuple[bool, bool]:
        untouched = all(torch.equal(bystander(images), alone) for _ in range(5))
        got = accelerate(models[number % 8], images, {})(images)
        return untouched, error(got, expected[number % 8]) <= CLOSE

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(use, range(40))) == {(True, True)}


# -- what is looked at --


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple),
    layout=st.sampled_from(["plain", "transposed", "strided"]),
    data=st.data(),
)
def test_a_short_tensor_is_looked_at_whole(shape: tuple[int, ...], layout: str, data: Any) -> None:
    holder = nn.Module()
    tensor = numbers(*shape)
    tensor = tensor.transpose(0, -1) if layout == "transposed" else tensor[::2] if layout == "strided" else tensor
    if tensor.numel() > SHORT or (layout == "strided" and tensor.numel() > 64):
        tensor = tensor.reshape(-1)[:64]
    holder.register_buffer("values", tensor)
    values = Values(holder)
    assert values.hold()
    place = data.draw(st.integers(0, tensor.numel() - 1))
    at = tuple(int(index) for index in torch.unravel_index(torch.tensor(place), tensor.shape))
    tensor.detach().numpy()[at] += 1
    assert not values.hold()
    tensor.detach().numpy()[at] -= 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(channel=st.integers(0, 299), layout=st.sampled_from([torch.contiguous_format, torch.channels_last]))
def test_of_a_long_weight_every_output_channel_is_looked_at(channel: int, layout: torch.memory_format) -> None:
    holder = nn.Module()
    holder.register_buffer("values", numbers(300, 16, 3, 3).contiguous(memory_format=layout))
    values = Values(holder)
    holder.values.detach().numpy()[channel] += 1
    assert not values.hold()


def test_a_form_is_that_of_the_layers_not_of_the_numbers() -> None:
    model = own()
    form = Form(model)
    model.eval()
    model.first.weight.data += 1
    assert form.holds()
    model.first.stride = (2, 2)
    assert not form.holds()


def test_an_accelerated_network_gives_back_its_evaluations_memory_when_it_trains() -> None:
    model, images = own(), numbers(2, 3, 8, 8)
    fast: Accelerated = accelerate(model.eval(), images, {})
    assert fast._programs._idle
    model.train()
    fast(images)
    assert not fast._programs._idle
    assert not fast._programs._weights._made
