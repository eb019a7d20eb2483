"""Small networks, each with something that a program could get wrong: what is shared, joined, or changed in place."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("llvmlite")

from networks import assert_same_outputs, conv, network, numbers

from convatlas.engine import accelerate
from convatlas.engine.program import Arena

SHAPE = (2, 8, 13, 11)
FOLLOWED: dict[str, nn.Module] = {}
LEFT: dict[str, nn.Module] = {}  # to the network's own code

Forward = Callable[[Any, Tensor], Any]


def case(where: dict[str, nn.Module], **layers: nn.Module) -> Callable[[Forward], Forward]:
    def add(forward: Forward) -> Forward:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(where))
            for layer in layers.values():
                layer.apply(lambda part: getattr(part, "reset_parameters", lambda: None)())
        where[forward.__name__] = network(forward, **layers).eval()
        return forward

    return add


def followed(**layers: nn.Module) -> Callable[[Forward], Forward]:
    return case(FOLLOWED, **layers)


def left(**layers: nn.Module) -> Callable[[Forward], Forward]:
    return case(LEFT, **layers)


# -- concatenations --


@followed(a=conv())
def the_same_twice(self: Any, x: Tensor) -> Tensor:
    x = self.a(x)
    return torch.cat([x, x], 1)


@followed(a=conv(), b=conv(), c=conv(16, 8))
def parts_used_elsewhere(self: Any, x: Tensor) -> Tensor:
    a, b = self.a(x), self.b(x)
    return self.c(torch.cat([a, b], 1)) + a * b


@followed(a=conv(), b=conv())
def the_same_parts_in_two_orders(self: Any, x: Tensor) -> Tensor:
    a, b = self.a(x), self.b(x)
    return torch.cat([a, b], 1) + torch.cat([b, a], dim=1)


@followed(a=conv(), b=conv(8, 16), c=conv(24, 8), d=conv(32, 8))
def growing(self: Any, x: Tensor) -> Tensor:
    a, b = self.a(x), self.b(x)
    c = self.c(torch.cat([a, b], 1))
    return self.d(torch.cat([a, b, c], 1))


@followed(a=conv(), b=conv())
def a_join_within_a_join(self: Any, x: Tensor) -> Tensor:
    joined = torch.cat([self.a(x), self.b(x)], 1)
    return torch.cat([joined, joined[:, :8] * 2], 1)


@followed(a=conv(), b=conv(), c=conv(), d=conv(), e=conv(32, 16))
def parts_that_are_joins(self: Any, x: Tensor) -> Tensor:
    inner, other = torch.cat([self.a(x), self.b(x)], 1), torch.cat([self.c(x), x * 2], 1)
    joined = torch.cat([self.d(x), inner, self.c(x)], 1)  # as in Inception-v3: the outer join has more parts
    return self.e(joined) * torch.cat([other, inner], 1)[:, 8:24]


@followed(a=conv(), b=conv(), c=conv(), d=conv(), e=conv(56, 8))
def parts_that_are_joins_of_the_same(self: Any, x: Tensor) -> Tensor:
    a, b = self.a(x), self.b(x)
    one, two = torch.cat([a, b], 1), torch.cat([b, a], 1)
    return self.e(torch.cat([self.c(x), one, two, self.d(x), a], 1))


@followed(a=conv(), b=conv(), c=conv(), d=conv(), e=conv(32, 8), f=conv(40, 8))
def a_join_that_is_a_part_of_two(self: Any, x: Tensor) -> Tensor:
    inner = torch.cat([self.a(x), self.b(x)], 1)
    c, d = self.c(x), self.d(x)
    return self.e(torch.cat([c, inner, d], 1)) + self.f(torch.cat([d, c, inner, self.a(x)], 1))


@followed(a=conv())
def with_the_images(self: Any, x: Tensor) -> Tensor:
    return torch.cat([x, self.a(x)], 1)


@followed(a=conv())
def along_the_height(self: Any, x: Tensor) -> Tensor:
    return torch.cat([self.a(x), x], 2)


@followed(a=conv(), b=conv())
def along_a_dimension_counted_from_the_end(self: Any, x: Tensor) -> Tensor:
    return torch.cat((self.a(x), self.b(x)), dim=-3)


@followed(a=conv(), pool=nn.MaxPool2d(3, 1, 1), average=nn.AvgPool2d(3, 1))
def of_pools(self: Any, x: Tensor) -> Tensor:
    x = self.a(x)
    return torch.cat([x, self.pool(x)], 1)[:, :, 1:-1, 1:-1] * torch.cat([self.average(x)] * 2, 1)


@followed(a=conv(8, 16), b=conv(16, 16), c=conv(32, 8, 1))
def one_part_later_than_the_other(self: Any, x: Tensor) -> Tensor:
    a = self.a(x)
    return self.c(torch.cat([functional.relu(self.b(functional.relu(a))), a], 1))


# -- shortcuts --


@followed(a=conv())
def the_images_themselves(self: Any, x: Tensor) -> Tensor:
    return functional.relu(self.a(x) + x)


@followed(a=conv(), b=conv(8, 8, 1), n=nn.BatchNorm2d(8))
def a_branch_computed_later(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    y = y + self.n(self.b(x))
    return y * 2


@followed(a=conv(), b=conv(), c=conv())
def a_branch_of_several_layers(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    return torch.add(self.c(functional.relu(self.b(x))), y)


@followed(a=conv())
def itself(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    return y + y


@followed(a=conv())
def with_a_factor(self: Any, x: Tensor) -> Tensor:
    return torch.add(self.a(x), x, alpha=2)


@followed(a=conv())
def a_number(self: Any, x: Tensor) -> Tensor:
    return self.a(x) + 1


@followed(a=conv(), b=conv())
def used_again_after_the_addition(self: Any, x: Tensor) -> Tensor:
    y = functional.relu(self.a(x))
    return functional.relu(self.b(y) + y) - y


@left(a=conv(), b=conv(8, 1, 1))
def of_another_shape(self: Any, x: Tensor) -> Tensor:
    return self.a(x) + functional.adaptive_avg_pool2d(x, 1)


# -- in place --


@followed(a=conv(), r=nn.ReLU(inplace=True), b=conv())
def relu_of_the_only_reader(self: Any, x: Tensor) -> Tensor:
    return self.b(self.r(self.a(x)))


@followed(a=conv(), b=conv(16, 8))
def relu_of_a_join(self: Any, x: Tensor) -> Tensor:
    return self.b(functional.relu_(torch.cat([self.a(x), x], 1)))


@followed(a=conv(), b=conv(), c=conv(16, 8), d=conv())
def relu_of_a_join_whose_parts_are_used_later(self: Any, x: Tensor) -> Tensor:
    a, b = self.a(x), self.b(x)
    y = functional.relu(torch.cat([a, b], 1), inplace=True)
    return self.c(y) + self.d(a)


@left(a=conv(), b=conv(), c=conv(16, 8))
def a_part_changed_after_the_join(self: Any, x: Tensor) -> Tensor:
    a, b = self.a(x), self.b(x)
    joined = torch.cat([a, b], 1)
    return self.c(joined) + a.relu_() * 2


@left(a=conv(), b=conv())
def relu_whose_input_is_used_again(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    z = functional.relu(y, inplace=True)
    return self.b(y) + z


@left(a=conv(), b=conv(), r=nn.ReLU(inplace=True))
def a_shortcuts_source_changed_before_it_is_added(self: Any, x: Tensor) -> Tensor:
    x = self.a(x) * 1.5
    shortcut = self.b(x)
    return shortcut + self.r(x) * 2


@left(a=conv())
def the_images(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    x.relu_()
    return y + x


@left(a=conv(), b=conv())
def a_view(self: Any, x: Tensor) -> Tensor:
    x = self.a(x.clone())
    x.permute(0, 2, 3, 1).relu_()
    return self.b(x)


@followed(a=conv(), b=conv())
def an_addition_whose_target_is_used_again(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    z = self.b(y)
    y += x
    return z * y


# -- layers --


@followed(a=conv())
def one_layer_called_twice(self: Any, x: Tensor) -> Tensor:
    return self.a(functional.relu(self.a(x)))


@followed(a=conv(), n=nn.BatchNorm2d(8))
def one_norm_called_twice(self: Any, x: Tensor) -> Tensor:
    return self.n(self.a(self.n(self.a(x))))


@followed(a=conv(), n=nn.BatchNorm2d(8), m=nn.BatchNorm2d(8))
def two_norms_in_a_row(self: Any, x: Tensor) -> Tensor:
    return self.m(self.n(self.a(x)))


@followed(a=conv(), n=nn.BatchNorm2d(8, affine=False))
def a_norm_without_weights(self: Any, x: Tensor) -> Tensor:
    return self.n(self.a(x))


@followed(a=conv(), n=nn.BatchNorm2d(8, track_running_stats=False))
def a_norm_without_statistics(self: Any, x: Tensor) -> Tensor:
    return self.n(self.a(x))


@followed(a=conv(8, 16, 1), n=nn.BatchNorm2d(8, track_running_stats=False))
def a_norm_without_statistics_before_the_layer(self: Any, x: Tensor) -> Tensor:
    return self.a(functional.relu(self.n(x)))


@followed(a=conv(8, 16, 1), n=nn.BatchNorm2d(8), m=nn.BatchNorm2d(16), r=nn.ReLU(inplace=True))
def norm_and_relu_before_and_norm_behind(self: Any, x: Tensor) -> Tensor:
    return functional.relu(self.m(self.a(self.r(self.n(x)))))


@followed(a=conv(8, 16, 1), b=conv(), n=nn.BatchNorm2d(8))
def norm_and_relu_before_two_layers(self: Any, x: Tensor) -> Tensor:
    y = functional.relu(self.n(x))
    return torch.cat([self.a(y), self.b(y)], 1)


@followed(a=conv(8, 16, 1, stride=2), n=nn.BatchNorm2d(8))
def norm_and_relu_before_a_stride(self: Any, x: Tensor) -> Tensor:
    return self.a(functional.relu(self.n(x)))


@followed(a=conv(bias=False, stride=2), b=nn.Conv2d(8, 24, (3, 5), padding=(0, 2)), c=nn.Conv2d(24, 8, 3))
def strides_and_paddings(self: Any, x: Tensor) -> Tensor:
    return self.c(self.b(self.a(x)))


@followed(
    a=conv(groups=2), b=conv(dilation=2), c=conv(padding_mode="reflect"), d=nn.Conv2d(8, 8, 3, padding="same"), e=conv()
)
def convolutions_left_to_pytorch(self: Any, x: Tensor) -> Tensor:
    return self.e(self.d(self.c(self.b(self.a(x)))))


@followed(a=conv(8, 12), b=conv(12, 5), c=conv(5, 8))
def odd_numbers_of_channels(self: Any, x: Tensor) -> Tensor:
    return functional.max_pool2d(self.c(functional.relu(self.b(functional.relu(self.a(x))))), 2)


@followed(a=conv(), b=nn.ConvTranspose2d(8, 8, 2, 2), c=conv())
def up_and_down(self: Any, x: Tensor) -> Tensor:
    return self.c(self.b(self.a(x)))


@followed(a=conv(), d=nn.Dropout(), e=nn.Dropout2d(), i=nn.Identity(), b=conv())
def dropout_and_identity(self: Any, x: Tensor) -> Tensor:
    return self.b(functional.relu(self.i(self.e(self.d(self.a(x))))))


@followed(a=conv(), i=nn.Identity())
def identity_at_the_end(self: Any, x: Tensor) -> Tensor:
    return self.i(self.a(x).flatten(1))


@followed(a=conv(), d=nn.Dropout(), i=nn.Identity())
def dropout_and_identity_at_the_end(self: Any, x: Tensor) -> Tensor:
    return self.d(self.i(self.a(x)))


@followed(i=nn.Identity(), a=conv())
def identity_of_the_images(self: Any, x: Tensor) -> Tensor:
    return self.a(self.i(x)) + x


@followed(
    a=conv(),
    p=nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    q=nn.AvgPool2d(2, 2, ceil_mode=True),
    r=nn.AvgPool2d(3, 2, 1),
    s=nn.AvgPool2d(2),
    t=nn.MaxPool2d((2, 3), (1, 2)),
    u=nn.MaxPool2d(2, 2, ceil_mode=True),
    v=nn.AvgPool2d(3, 1, 1, count_include_pad=False),
)
def pools(self: Any, x: Tensor) -> Tensor:
    x = self.a(x)
    return sum(
        (pool(x).mean((2, 3)) for pool in (self.p, self.q, self.r, self.s, self.t, self.u, self.v)),
        start=x.mean((2, 3)),
    )


@followed(a=conv(), g=nn.AdaptiveAvgPool2d(1), h=nn.AdaptiveAvgPool2d((1, 1)), grid=nn.AdaptiveAvgPool2d(2))
def the_mean_of_a_picture(self: Any, x: Tensor) -> Tensor:
    x = self.a(x)
    square = x[:, :, 2:]
    return self.g(x) + self.h(square) + self.grid(x).amax((2, 3), keepdim=True)


@followed(a=conv(), p=nn.MaxPool2d(2), n=nn.BatchNorm2d(8))
def a_norm_behind_a_pool(self: Any, x: Tensor) -> Tensor:
    return self.n(self.p(self.a(x)))


@followed(a=conv(), b=conv(), p=nn.MaxPool2d(2))
def a_pool_of_what_is_used_again(self: Any, x: Tensor) -> Tensor:
    y = functional.relu(self.a(x))
    return self.p(y).mean((2, 3)) + self.b(y).mean((2, 3))


# -- functions --


@followed(a=conv(), b=conv())
def functional_forms(self: Any, x: Tensor) -> Tensor:
    x = functional.avg_pool2d(functional.max_pool2d(functional.relu(self.a(x)), 2), 2)
    return functional.adaptive_avg_pool2d(self.b(x).relu(), 1).reshape(x.shape[0], -1)


@followed(a=conv(), f=nn.Linear(8 * 13 * 11, 5))
def view_by_the_size(self: Any, x: Tensor) -> Tensor:
    x = self.a(x)
    return self.f(x.view(x.size(0), -1))


@followed(a=conv(), f=nn.Linear(8 * 13 * 11, 5))
def view_by_a_number(self: Any, x: Tensor) -> Tensor:
    return self.f(self.a(x).view(-1, 8 * 13 * 11))


@followed(a=conv(), f=nn.Linear(8, 5))
def several_sizes(self: Any, x: Tensor) -> Tensor:
    images, channels, height, width = x.shape
    y = self.a(x).reshape(images, channels, height * width).transpose(1, 2)
    return self.f(y).sum(1) / (height * width)


@followed(a=conv(), b=conv(8, 8, 1))
def squeeze_and_excite(self: Any, x: Tensor) -> Tensor:
    x = self.a(x)
    return x * torch.sigmoid(self.b(x.mean((2, 3), keepdim=True)))


@followed(a=conv())
def part_of_the_channels(self: Any, x: Tensor) -> Tensor:
    return self.a(x)[:, 2:5, ::2]


@followed(a=conv())
def indices(self: Any, x: Tensor) -> Tensor:
    return self.a(x).flatten(1).argmax(1)


@left(a=conv())
def a_number_out_of_the_images(self: Any, x: Tensor) -> Tensor:
    x = self.a(x)
    return x / x.abs().max().item()


@left(a=conv())
def a_number_out_of_the_images_by_function(self: Any, x: Tensor) -> Tensor:
    x = self.a(x)
    return x * (1 + torch.is_nonzero(x.amax() > 1))


# -- parts, groups, gates and odd numbers of channels --


@followed(a=conv())
def two_halves(self: Any, x: Tensor) -> Tensor:
    one, other = self.a(x).chunk(2, 1)
    return one * other


@followed(a=conv(), b=conv(4, 4), c=conv(8, 8))
def channels_shuffled(self: Any, x: Tensor) -> Tensor:
    one, other = self.a(x).chunk(2, dim=1)  # as in ShuffleNet
    joined = torch.cat([one, self.b(other)], 1)
    images, channels, height, width = joined.shape
    shuffled = joined.view(images, 2, channels // 2, height, width).transpose(1, 2).contiguous()
    return self.c(shuffled.view(images, -1, height, width))


@followed(a=conv(), b=conv(3, 8), c=conv(5, 8))
def uneven_parts(self: Any, x: Tensor) -> Tensor:
    one, other = torch.split(self.a(x), [3, 5], dim=1)
    again = other.split(2, 2)[0]
    return self.b(one)[:, :, :2] + self.c(again)


@followed(a=conv())
def a_part_of_the_images(self: Any, x: Tensor) -> Tensor:
    return self.a(x).chunk(2, 0)[0]


@followed(a=conv(), b=conv(), c=conv(), d=conv())
def a_part_that_outlives_the_rest(self: Any, x: Tensor) -> Tensor:
    one, _ = self.a(x).chunk(2, 1)
    y = self.d(self.c(self.b(x)))
    return y[:, :4] + one


@followed(a=conv(8, 12), n=nn.BatchNorm2d(12), b=conv(20, 12), c=conv(32, 5), p=nn.MaxPool2d(2), h=nn.Linear(5, 3))
def growing_by_an_odd_number(self: Any, x: Tensor) -> Tensor:
    y = functional.relu(self.n(self.a(x)))
    y = torch.cat([x, y], 1)
    y = torch.cat([y, self.b(y)], 1)  # as in DenseNet with a growth rate of 12
    return self.h(self.p(self.c(y)).mean((2, 3)))


@followed(a=conv(groups=4), b=conv(8, 16, 1), c=nn.Conv2d(16, 16, 5, padding=2, stride=2, groups=16), r=nn.ReLU6())
def groups_and_depthwise(self: Any, x: Tensor) -> Tensor:
    return self.r(self.c(self.r(self.b(self.r(self.a(x) * 3))))) + 1


@followed(a=nn.Conv2d(8, 8, 3, padding=2, dilation=2), b=conv())
def dilated(self: Any, x: Tensor) -> Tensor:
    return self.b(functional.relu(self.a(x))) + x


@followed(n=nn.BatchNorm2d(8), a=conv(), m=nn.BatchNorm2d(8), b=conv())
def norm_before_convolution(self: Any, x: Tensor) -> Tensor:
    y = self.a(functional.relu(self.n(x)))  # as in the residual networks of 2016
    return self.b(functional.relu(self.m(y))) + x


@followed(a=conv(), b=conv(8, 4, 1), c=conv(4, 8, 1), r=nn.ReLU())
def a_gate_before_the_shortcut(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    gate = torch.sigmoid(self.c(self.r(self.b(functional.adaptive_avg_pool2d(y, 1)))))
    return self.r(y * gate + x)


@followed(a=conv(), b=conv())
def a_gate_of_one_channel(self: Any, x: Tensor) -> Tensor:
    return self.b(self.a(x) * torch.sigmoid(x[:, :1]) + x)


@followed(a=conv(), b=conv())
def a_gate_that_comes_first(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    return self.b(torch.sigmoid(y.mean((2, 3), keepdim=True)) * y)


def given_up(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the engine has said of networks that it could not follow."""
    return [record.message for record in caplog.records if record.name == "convatlas.engine.accelerated"]


def assert_follows(model: nn.Module) -> None:
    fast = accelerate(model, numbers(*SHAPE))
    for seed in (1, 2):
        assert_same_outputs(fast, model, numbers(*SHAPE, seed=seed) * seed)


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_program_computes_what_the_network_does(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "convatlas.engine.accelerated")
    assert_follows(FOLLOWED[name])
    assert not given_up(caplog)


@pytest.mark.parametrize("name", LEFT)
def test_what_no_program_can_do_is_left_to_the_network(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "convatlas.engine.accelerated")
    assert_follows(LEFT[name])
    assert len(given_up(caplog)) == 1


@pytest.mark.parametrize("make", [lambda x: (x, x), lambda x: {"logits": x}, lambda x: x.shape[0], lambda _: None])
def test_what_is_no_tensor_is_given_as_the_network_gives_it(make: Callable[[Tensor], Any]) -> None:
    model = network(lambda self, x: make(self.a(x)), a=conv()).eval()
    images = numbers(*SHAPE)
    with torch.no_grad():
        got, expected = accelerate(model, images)(images), model(images)
    assert type(got) is type(expected)
    assert str(got) == str(expected)


def test_memory_is_used_again() -> None:
    arena = Arena()
    small, large = arena.take(10), arena.take(100)
    arena.give(large)
    arena.give(small)
    assert arena.take(11) is large
    assert arena.take(11) is not small
    assert arena.take(10) is small
    assert arena.take(1).numel() == 1


def test_a_deep_network_needs_the_memory_of_few_layers() -> None:
    depth = 12
    model = nn.Sequential(*(conv() for _ in range(depth))).eval()
    images = numbers(*SHAPE)
    fast = accelerate(model, images)
    (program,) = fast._programs._idle[SHAPE]
    assert program is not None
    places = {value.data_ptr() for value in program._values.values()}
    assert len(places) <= 3
