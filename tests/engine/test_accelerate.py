from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("llvmlite")

from networks import (
    assert_same_outputs,
    conv,
    error,
    network,
    numbers,
    randomised,
    rounding_allows,
    torchvision_network,
)
from rounding import EXACT

from convatlas.engine import Accelerated, accelerate, accelerated
from convatlas.engine.accelerated import SHAPES_KEPT
from convatlas.models import create_model, list_models, model_entry
from network_forms import PARAMETERS, SMALLEST_OF_EACH_FAMILY

CHANNELS_LAST = torch.channels_last
LARGE = {max(list_models(model_entry(name).family), key=PARAMETERS.__getitem__) for name in SMALLEST_OF_EACH_FAMILY}
TORCHVISION = {
    "resnet18": 64,
    "resnet50": 64,
    "googlenet": 64,
    "densenet121": 64,
    "vgg11_bn": 32,
    "squeezenet1_0": 64,
    "mobilenet_v2": 64,
    "shufflenet_v2_x0_5": 64,
    "resnext50_32x4d": 64,
}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


Fallbacks = Callable[[], list[str]]


@pytest.fixture
def fallbacks(caplog: pytest.LogCaptureFixture) -> Fallbacks:
    """What the engine has said of networks that it could not follow."""
    caplog.set_level(logging.INFO, "convatlas.engine.accelerated")
    return lambda: [record.message for record in caplog.records if record.name == "convatlas.engine.accelerated"]


def small() -> nn.Module:
    """Convolution, norm, shortcut, pool and a dense layer, in evaluation."""
    torch.manual_seed(0)

    def forward(self: Any, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(x)))
        x = self.pool(functional.relu(self.second(x) + x))
        return self.head(torch.flatten(x, 1))

    layers = {"first": conv(3, 16), "norm": nn.BatchNorm2d(16), "second": conv(16, 16), "pool": nn.MaxPool2d(2)}
    return network(forward, **layers, head=nn.Linear(16 * 36, 5)).eval()


def pictures(images: int = 2, *, side: int = 12, seed: int = 0) -> Tensor:
    return numbers(images, 3, side, side, seed=seed)


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def assert_close(got: Tensor, expected: Tensor) -> None:
    assert error(got, expected) <= EXACT


def runs_a_program(fast: Accelerated) -> bool:
    return any(program is not None for idle in fast._programs._idle.values() for program in idle)


# -- the contract, over all networks --


def assert_contract(model: nn.Module, *shape: int) -> None:
    model.eval()
    for images in (numbers(1, *shape), numbers(3, *shape, seed=1).contiguous(memory_format=CHANNELS_LAST)):
        fast = accelerate(model, images)
        assert runs_a_program(fast)
        before = images.clone()
        assert_same_outputs(fast, model, images)
        assert torch.equal(images, before)


@pytest.mark.parametrize("name", sorted(SMALLEST_OF_EACH_FAMILY))
def test_the_smallest_network_of_each_family_computes_the_same(name: str, fallbacks: Fallbacks) -> None:
    entry = model_entry(name)
    side = max(min(entry.image_size, 32), entry.minimum_size)
    model = randomised(create_model(name, image_size=side, seed=0))
    assert_contract(model, model.in_channels, side, side)
    assert not fallbacks()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LARGE | SMALLEST_OF_EACH_FAMILY))
def test_networks_of_each_family_at_their_own_size(name: str, fallbacks: Fallbacks) -> None:
    model = randomised(create_model(name, seed=0))
    assert_contract(model, model.in_channels, model.image_size, model.image_size)
    assert not fallbacks()


@pytest.mark.parametrize(("name", "side"), TORCHVISION.items())
def test_networks_of_torchvision_compute_the_same(name: str, side: int, fallbacks: Fallbacks) -> None:
    assert_contract(torchvision_network(name), 3, side, side)
    assert not fallbacks()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"),
    [("inception_v3", 128), *((name, 224) for name in TORCHVISION), ("vgg16", 224), ("resnet34", 160), ("alexnet", 96)],
)
def test_networks_of_torchvision_at_their_own_size(name: str, side: int, fallbacks: Fallbacks) -> None:
    assert_contract(torchvision_network(name), 3, side, side)
    assert not fallbacks()


def test_googlenet_with_side_outputs_trains_and_evaluates_as_its_own_code() -> None:
    model = torchvision_network("googlenet", aux_logits=True).train()
    images = numbers(2, 3, 64, 64)
    fast = accelerate(model, images)
    before = copy.deepcopy(model)

    def outputs(module: nn.Module, pixels: Tensor) -> Any:
        torch.manual_seed(0)
        return module(pixels)

    got, exact = outputs(fast, images), outputs(copy.deepcopy(before).double(), images.double())

    def furthest(seen: Any) -> float:
        return max(error(one.detach(), other.detach()) for one, other in zip(seen, exact, strict=True))

    assert type(got) is type(exact)
    assert rounding_allows(furthest(got), EXACT, before, lambda other: furthest(outputs(other, images.double())))
    assert_same_outputs(fast.eval(), model, images)


# -- what may change, and what must not --


def test_outputs_follow_parameters_and_statistics() -> None:
    model, images = small(), pictures()
    fast = accelerate(model, images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    other = {name: value + 0.1 for name, value in small().state_dict().items()}

    def step() -> None:
        model(images).square().mean().backward()
        optimizer.step()

    def move_statistics() -> None:
        model.train()(images)
        model.eval()

    def change_one_norm() -> None:
        with torch.no_grad():
            model.norm.running_var.mul_(3)

    outputs = [logits(fast, images)]
    for change in (step, lambda: model.load_state_dict(other), move_statistics, change_one_norm):
        change()
        outputs.append(logits(fast, images))
        assert error(outputs[-1], outputs[-2]) > 1e-3
        assert_close(outputs[-1], logits(model, images))


def test_outputs_follow_parameters_that_are_put_in_place_of_others() -> None:
    model, images = small(), pictures()
    fast = accelerate(model, images)
    model.load_state_dict({name: value * 1.5 for name, value in model.state_dict().items()}, assign=True)
    assert_close(logits(fast, images), logits(model, images))
    model.head.weight.data = model.head.weight.data * 2
    assert_close(logits(fast, images), logits(model, images))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_every_kind_of_optimizer_is_noticed(optimizer: Any, options: dict[str, bool]) -> None:
    model, images = small(), pictures()
    fast = accelerate(model, images)
    before = logits(fast, images)
    model(images).square().mean().backward()
    optimizer(model.parameters(), lr=0.1, **options).step()
    assert error(logits(fast, images), before) > 1e-3
    assert_close(logits(fast, images), logits(model, images))


def test_parameters_made_in_inference_mode_are_followed_where_they_are_replaced() -> None:
    with torch.inference_mode():
        model, images = small(), pictures()
        fast = accelerate(model, images)
        assert_close(fast(images), model(images))
    assert_close(logits(fast, images), logits(model, images))


def test_any_number_of_shapes() -> None:
    model = torchvision_network("resnet18").eval()
    fast = accelerate(model, numbers(2, 3, 32, 32))
    shapes = [(2, 32), (1, 32), (1, 40), (3, 33), (2, 48), (1, 32)]
    assert len(set(shapes)) > SHAPES_KEPT
    for images, side in shapes * 2:
        pixels = numbers(images, 3, side, side, seed=side)
        assert_close(logits(fast, pixels), logits(model, pixels))
    assert len(fast._programs._idle) == SHAPES_KEPT


def test_an_output_is_the_callers_own() -> None:
    model, images = small(), pictures()
    fast = accelerate(model, images)
    first = logits(fast, images)
    kept = first.clone()
    second = logits(fast, pictures(seed=1))
    assert torch.equal(first, kept)
    assert first.data_ptr() != second.data_ptr()
    first.fill_(7)
    assert_close(logits(fast, images), kept)


@pytest.mark.parametrize("make", [lambda: nn.Sequential(conv(3, 8), nn.ReLU()), lambda: nn.Sequential(nn.Identity())])
def test_an_output_that_is_a_picture_is_the_callers_own(make: Callable[[], nn.Module]) -> None:
    model, images = make().eval(), pictures()
    fast = accelerate(model, images)
    first = logits(fast, images)
    kept = first.clone()
    logits(fast, pictures(seed=1)).fill_(3)
    assert torch.equal(first, kept)
    assert_close(first, logits(model, images))


@pytest.mark.parametrize("arrange", [lambda x: x.transpose(2, 3), lambda x: x[:, :, ::2], lambda x: x.flip(3)[:1]])
def test_images_may_lie_in_memory_as_they_like(arrange: Callable[[Tensor], Tensor]) -> None:
    model = torchvision_network("resnet18").eval()
    images = arrange(numbers(2, 3, 40, 40))
    assert_close(logits(accelerate(model, images), images), logits(model, images))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_pixel_that_is_no_number_stays_in_its_image(value: float) -> None:
    model, images = torchvision_network("vgg11_bn").eval(), numbers(3, 3, 32, 32)
    fast = accelerate(model, images)
    clean = logits(fast, images)
    images[1, 0, 7, 9] = value
    got, expected = logits(fast, images), logits(model, images)
    assert_close(got[[0, 2]], clean[[0, 2]])
    assert torch.equal(got.isnan(), expected.isnan())
    assert got[1].isnan().any()
    assert_close(logits(fast, images.nan_to_num(0, 0, 0)), logits(model, images.nan_to_num(0, 0, 0)))


def test_an_infinity_that_reaches_few_values_reaches_the_same_as_with_pytorch() -> None:
    model = nn.Sequential(conv(8, 16), nn.ReLU(), conv(16, 8)).eval()
    images = numbers(2, 8, 17, 13)
    fast = accelerate(model, images)
    images[1, 3, 8, 8] = float("inf")
    got, expected = logits(fast, images), logits(model, images)
    assert 0 < int(expected.isfinite().logical_not().sum()) < expected.numel() / 4
    assert torch.equal(got.isfinite(), expected.isfinite())
    assert torch.equal(got.isnan(), expected.isnan())


# -- never slower --


def faster(name: str) -> Callable[[Any], dict[str, float]]:
    """What a comparison in which ``name`` has won says."""
    return lambda calls: {each: 1.0 if each == name else 2.0 for each in calls}


@pytest.mark.parametrize("training", [False, True])
def test_a_network_that_pytorch_runs_faster_is_left_to_it(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerated, "_compare", faster("torch"))
    model, images = nn.Sequential(conv(3, 24), nn.ReLU(), conv(24, 16)).train(training), pictures()
    fast = accelerate(model, images)
    assert fast.why_not == "PyTorch runs this network faster on this machine: 1 ms, the engine 2"
    with torch.no_grad():
        assert torch.equal(fast(images), model(images))
    *_, whole = (layer for layer in fast.explain() if layer.layer == "the network")
    assert whole.kernel == "torch"
    assert dict(whole.milliseconds) == {"convatlas": 2.0, "torch": 1.0}
    again = accelerate(model, images, fast.choices)
    assert again.why_not == "PyTorch runs this network faster on this machine"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.compares_networks
def test_networks_are_really_compared(training: bool) -> None:
    model, images = small().train(training), pictures()
    before = copy.deepcopy(model.state_dict())
    fast = accelerate(model, images)
    whole = [layer for layer in fast.explain() if layer.layer == "the network"]
    assert [layer.shape for layer in whole] == ["all of it, in evaluation", "all of it, in training"][: 1 + training]
    assert all(time > 0 for layer in whole for time in layer.milliseconds.values())
    assert (fast.why_not is None) == (whole[-1].kernel == "convatlas")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_images_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerated, "_compare", lambda calls: dict.fromkeys(calls, 2.0) | {list(calls)[1]: 1.0})
    monkeypatch.setattr(accelerated, "cache_bytes", lambda _: 1)
    monkeypatch.setattr(accelerated, "shared_cache_bytes", lambda: 1)
    model, images = nn.Sequential(conv(3, 40), nn.ReLU(), conv(40, 5)).eval(), pictures(5)
    fast = accelerate(model, images)
    assert fast.choices["all of it, in evaluation"] == "convatlas, images at a time: 1"
    assert_same_outputs(fast, model, images)
    assert_same_outputs(fast, model, images[:1])
    assert set(fast._programs._idle) == {(1, 3, 12, 12)}
    told = accelerate(model, images, fast.choices)
    assert torch.equal(logits(told, images), logits(fast, images))


@pytest.mark.parametrize(
    ("images", "megabytes", "expected"),
    [(8, 0.1, []), (8, 1, [4, 2]), (8, 20, [4, 2, 1]), (12, 20, [6, 3, 1]), (7, 1, [1]), (2, 9, [1]), (1, 99, [])],
)
def test_how_many_images_at_a_time_are_tried(
    images: int, megabytes: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerated, "cache_bytes", lambda _: 10**6)
    monkeypatch.setattr(accelerated, "shared_cache_bytes", lambda: 32 * 10**6)
    monkeypatch.setattr(accelerated, "thread_count", lambda: 2)
    assert accelerated._fewer(images, int(megabytes * 1e6)) == expected


def test_pytorchs_own_kernel_does_a_layer_where_it_was_faster() -> None:
    layers = {"a": conv(3, 16), "b": conv(16, 16), "n": nn.BatchNorm2d(16), "d": conv(16, 16, groups=16)}

    def forward(self: Any, x: Tensor) -> Tensor:
        x = functional.relu(self.a(x))
        x = functional.max_pool2d(functional.relu(self.n(self.b(x)) + x), 2)
        return functional.relu6(self.d(x) * 5)

    model, images = network(forward, **layers).eval(), pictures(seed=3)
    shapes = [layer.shape for layer in accelerate(model, images).explain() if layer.layer != "the network"]
    fast = accelerate(model, images, dict.fromkeys(shapes, "torch"))
    assert {layer.kernel for layer in fast.explain()} == {"torch"}
    assert_same_outputs(fast, model, images)
    images[0, 0, 3, 3] = float("nan")  # which oneDNN's own ReLU would make a zero
    got, expected = logits(fast, images), logits(model, images)
    assert torch.equal(got.isnan(), expected.isnan())
    assert got.isnan().any()


# -- where the model itself is called --


def test_hooks_on_layers_are_called_and_may_change_what_they_see() -> None:
    model, images = small(), pictures()
    fast = accelerate(model, images)
    seen: list[tuple[int, ...]] = []
    handle = model.second.register_forward_hook(lambda *seen_by: seen.append(tuple(seen_by[2].shape)))
    logits(fast, images)
    assert seen == [(2, 16, 12, 12)]
    handle.remove()
    plain = logits(fast, images)
    assert len(seen) == 1
    model.first.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    assert torch.equal(logits(fast, images), logits(model, images))
    assert error(logits(fast, images), plain) > 1e-3


def test_hooks_on_gradients_are_called() -> None:
    model, images = small().train(), pictures()
    fast = accelerate(model, images)
    seen: list[str] = []
    model.second.register_full_backward_hook(lambda *_: seen.append("second"))
    fast(images).sum().backward()
    assert seen == ["second"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_networks_of_other_types_are_called_themselves(dtype: torch.dtype) -> None:
    model, images = small().to(dtype), pictures().to(dtype)
    fast = accelerate(model, images)
    assert torch.equal(logits(fast, images), logits(model, images))
    assert logits(fast, images).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("train", [False, True])
def test_images_of_another_type_than_the_weights_are_refused_as_by_pytorch(dtype: torch.dtype, train: bool) -> None:
    model = nn.Sequential(conv(3, 16), conv(16, 16)).train(train)
    fast = accelerate(model, pictures())
    model.to(dtype)
    with pytest.raises(RuntimeError, match=r"type|dtype"):
        logits(fast, pictures())


def test_autocast_is_left_to_pytorch() -> None:
    model, images = small(), pictures()
    fast = accelerate(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = logits(fast, images), logits(model, images)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, expected)


def test_another_device_is_left_to_pytorch() -> None:
    fast = accelerate(small().to("meta"), pictures().to("meta"))
    assert fast(torch.empty(2, 3, 12, 12, device="meta")).device.type == "meta"


def test_an_empty_batch_and_a_wrong_shape_are_left_to_pytorch() -> None:
    model = small()
    fast = accelerate(model, pictures())
    assert logits(fast, torch.empty(0, 3, 12, 12)).shape == (0, 5)
    with pytest.raises(RuntimeError):
        logits(fast, pictures(side=20))
    with pytest.raises(RuntimeError):
        logits(fast, numbers(2, 4, 12, 12))
    assert_close(logits(fast, pictures()), logits(model, pictures()))


def test_a_network_with_branches_that_depend_on_the_images(fallbacks: Fallbacks) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x) if x.mean() > 0 else x

    model = network(forward, a=conv(3, 8), b=conv()).eval()
    fast = accelerate(model, pictures())
    assert len(fallbacks()) == 1
    for shift in (-10.0, 10.0):
        assert torch.equal(logits(fast, pictures() + shift), logits(model, pictures() + shift))
    model.train()
    fast.train()
    fast(pictures()).sum().backward()
    assert model.a.weight.grad is not None


def test_a_layer_left_in_training_is_obeyed() -> None:
    model, images = small(), pictures()
    fast = accelerate(model, images)
    model.norm.train()
    before = model.norm.running_mean.clone()
    expected = logits(copy.deepcopy(model), images)
    assert torch.equal(logits(fast, images), expected)
    assert not torch.equal(model.norm.running_mean, before)
    model.norm.eval()
    assert_close(logits(fast, images), logits(model, images))


def test_gradients_in_evaluation_are_the_models() -> None:
    model = small()
    fast = accelerate(model, pictures())
    gradients = []
    for module in (fast, model):
        images = pictures().requires_grad_()
        module(images)[:, 1].sum().backward()
        gradients.append(images.grad)
        model.zero_grad()
    assert torch.equal(gradients[0], gradients[1])


# -- it is a module like others --


def test_parameters_and_state_are_the_models() -> None:
    model = small()
    fast = accelerate(model, pictures())
    assert fast.model is model
    assert [*map(id, fast.parameters())] == [*map(id, model.parameters())]
    assert list(fast.state_dict()) == [f"model.{name}" for name in model.state_dict()]
    assert [name for name, _ in fast.named_children()] == ["model"]


def test_modes_reach_the_model_and_back() -> None:
    model, images = small(), pictures()
    fast = accelerate(model, images)
    assert not fast.training
    fast.train()
    assert all(part.training for part in model.modules())
    fast(images)
    fast.eval()
    assert not any(part.training for part in model.modules())
    assert_close(logits(fast, images), logits(model, images))


def test_the_models_own_mode_is_the_one_that_counts() -> None:
    model = network(
        lambda self, x: functional.dropout(self.a(x).flatten(1), 0.5, training=self.training), a=conv(3, 8)
    ).train()
    images = pictures()
    fast = accelerate(model, images)
    fast(images)
    model.eval()  # not by way of ``fast``
    assert_close(logits(fast, images), logits(model, images))
    model.train()
    torch.manual_seed(0)
    expected = logits(model, images)
    torch.manual_seed(0)
    assert_close(logits(fast, images), expected)


def test_a_copy_is_on_its_own() -> None:
    model, images = small(), pictures()
    fast = accelerate(model, images)
    twin = copy.deepcopy(fast)
    assert_close(logits(twin, images), logits(fast, images))
    before = logits(fast, images)
    with torch.no_grad():
        twin.model.head.weight.mul_(2)
    assert torch.equal(logits(fast, images), before)
    assert_close(logits(twin, images), logits(twin.model, images))
    assert error(logits(twin, images), before) > 1e-3


def test_it_can_be_pickled() -> None:
    images = pictures()
    model = nn.Sequential(conv(3, 16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 144, 4)).eval()
    fast = accelerate(model, images)
    expected, choices = logits(fast, images), fast.choices
    twin = pickle.loads(pickle.dumps(fast))
    assert twin.choices == choices
    assert torch.equal(logits(twin, images), expected)


def test_layers_are_explained() -> None:
    fast = accelerate(torchvision_network("resnet18").eval(), numbers(1, 3, 64, 64))
    explained = {choice.layer: choice for choice in fast.explain()}
    assert explained["layer1.0.conv1"].shape == "3x3 pad 1, 64 -> 64, 16x16"
    assert {choice.kernel for choice in explained.values()} <= {"winograd", "direct", "torch", "convatlas"}
    assert set(explained["the network"].milliseconds) == {"convatlas", "torch"}
    assert fast.choices == {choice.shape: choice.kernel for choice in fast.explain()}


# -- threads --


def test_threads_that_call_it_at_once_get_their_own_answers() -> None:
    model = torchvision_network("resnet18").eval()
    fast = accelerate(model, numbers(2, 3, 32, 32))
    inputs = [numbers(2 + index % 2, 3, 32, 32, seed=index) for index in range(12)]
    expected = [logits(fast, images) for images in inputs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda images: logits(fast, images), inputs * 3))
    for one, other in zip(got, expected * 3, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_the_number_of_threads_changes_no_bit(name: str, threads: Callable[[int], None]) -> None:
    """Of what the engine computes: the dense layer is PyTorch's, which may share out its sums by threads."""
    model, images = torchvision_network(name).eval(), numbers(2, 3, 32, 32)
    *_, (dense, _) = model.named_children()
    setattr(model, dense, nn.Identity())
    threads(1)
    fast = accelerate(model, images)
    assert fast.choices
    expected = logits(fast, images)
    for number in (2, 1):
        threads(number)
        again = accelerate(model, images, fast.choices)
        assert torch.equal(logits(again, images), expected)
        assert torch.equal(logits(fast, images), expected)


def test_the_same_bits_every_time() -> None:
    model, images = torchvision_network("resnet18").eval(), numbers(3, 3, 32, 32)
    fast = accelerate(model, images)
    expected = logits(fast, images)
    assert all(torch.equal(logits(fast, images), expected) for _ in range(20))
