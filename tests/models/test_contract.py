"""Every registered network answers the contract: one of each form in the fast suite, the others in the slow one.

What is about shapes runs on torch's meta device, at each network's own image size; what is about numbers runs at the
smallest. Numbers in networks of more than 30 million parameters take seconds a test: all of them are in the slow suite.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convatlas.errors import ImageSizeError
from convatlas.models import (
    Classifier,
    TrainingOutput,
    create_model,
    list_models,
    model_entry,
    outline_model,
)
from convatlas.models.counts import count, shipped_counts
from network_forms import LARGE, ONE_OF_EACH_FORM, SMALLEST_OF_EACH_FAMILY, every_network, with_the_others_slow

BATCH, CLASSES = 2, 7
WITH_HEADS = {name for name, counts in shipped_counts().items() if counts["auxiliary_parameters"]}
#: At the smallest size a norm sees one value of each image. Of two values it makes 1 and -1 whatever they are, and its
#: derivative is next to nothing or, where they are close, enormous: in a thousand layers it multiplies up to 1e36 (by
#: float64). No training normalises by so few; eight do not multiply.
ENOUGH_TO_NORMALISE = 8


def images(name: str, size: int, channels: int | None = None, device: str = "cpu", number: int = BATCH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (number, channels or model_entry(name).in_channels, size, size)
    return torch.randn(shape, generator=generator).to(device)


def logits_of(model: Classifier, output: torch.Tensor | TrainingOutput) -> tuple[torch.Tensor, ...]:
    """The network's logits, then those of its auxiliary heads, which it has in training mode only."""
    if model.auxiliary_heads and model.training:
        assert isinstance(output, TrainingOutput)
        assert len(output.auxiliary) == len(model.auxiliary_heads)
        assert 0 < output.weight < 1
        return (output.logits, *output.auxiliary)
    assert isinstance(output, torch.Tensor)
    return (output,)


@pytest.mark.parametrize("name", with_the_others_slow(list_models(), ONE_OF_EACH_FORM & (LARGE | WITH_HEADS)))
def test_training_gives_one_logit_a_class_and_every_parameter_has_a_part_in_them(name: str) -> None:
    """Beside what is shown with numbers: of networks that are too large for that, and of heads at their own size."""
    model, entry = outline_model(name).train(), model_entry(name)
    logits = logits_of(model, model(images(name, entry.image_size, device="meta")))
    assert {each.shape for each in logits} == {(BATCH, entry.num_classes)}
    gradients = torch.autograd.grad(sum(each.sum() for each in logits), list(model.parameters()), allow_unused=True)
    unused = [key for (key, _), gradient in zip(model.named_parameters(), gradients, strict=True) if gradient is None]
    assert not unused


@every_network
def test_evaluating_gives_logits_taps_and_counts_as_they_are_told(name: str) -> None:
    model, entry = outline_model(name), model_entry(name)
    own = (model.num_classes, model.in_channels, model.image_size)
    assert own == (entry.num_classes, entry.in_channels, entry.image_size)
    seen: dict[str, tuple[int, ...]] = {}

    def watch(module: nn.Module, what: str) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: seen.update({what: tuple(output.shape[1:])}))

    watch(model, "logits")
    for tap, place in model.taps.items():
        watch(model.get_submodule(place.module), tap)
    assert count(model) == shipped_counts()[name]  # which evaluates one image
    assert seen.pop("logits") == (entry.num_classes,)
    assert seen == {tap: place.shape for tap, place in model.taps.items()}
    assert len({place.module for place in model.taps.values()}) == len(model.taps) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("channels", [1, 3, 4])
@torch.no_grad()
def test_images_of_any_number_of_channels(name: str, channels: int) -> None:
    size = model_entry(name).minimum_size
    model = outline_model(name, num_classes=CLASSES, in_channels=channels, image_size=size)
    assert model.eval()(images(name, size, channels, device="meta")).shape == (BATCH, CLASSES)


@every_network
def test_one_pixel_below_the_smallest_size_is_an_error(name: str) -> None:
    smallest = model_entry(name).minimum_size
    with pytest.raises(ImageSizeError) as caught:
        create_model(name, image_size=smallest - 1)
    message = str(caught.value)
    assert message.startswith(f"{name} needs images of at least {smallest}x{smallest} (")
    assert f"received {smallest - 1}x{smallest - 1}. Use --image-size {smallest}" in message
    assert "\n" not in message


@every_network
@torch.no_grad()
def test_the_smallest_size_is_no_larger_than_it_must_be(name: str) -> None:
    """Built one pixel below in spite of the check, the network cannot run, or its feature map is made of padding.

    Whatever numbers are in the memory: on so few pixels that is faster than without any.
    """
    entry, device = model_entry(name), "meta" if name in LARGE else "cpu"
    small = entry.minimum_size - 1
    try:
        with torch.device("meta"):
            model = entry.build(num_classes=CLASSES, in_channels=entry.in_channels, image_size=small).train()
        model.to_empty(device=device)(images(name, small, device=device))
    except (RuntimeError, UserWarning):
        return
    maps = [place.shape for place in outline_model(name).taps.values() if place.shape[1:] not in {(), (1, 1)}]
    stride = round(entry.image_size / maps[-1][-1])
    assert small < stride


class Numbers(NamedTuple):
    """A fresh network at its smallest size, of another number of channels than its own, and images."""

    name: str
    model: Classifier
    batch: torch.Tensor


@pytest.fixture(scope="module", params=with_the_others_slow(list_models(), ONE_OF_EACH_FORM - LARGE))
def built(request: pytest.FixtureRequest) -> tuple[Numbers, dict[str, torch.Tensor]]:
    """A network with weights, and a copy of its buffers. Memory that ``initialize`` did not set holds NaN."""
    name = request.param
    size, channels = model_entry(name).minimum_size, 4 - model_entry(name).in_channels  # grey for coloured
    torch.use_deterministic_algorithms(True)  # torch then fills new memory with NaN
    try:
        model = create_model(name, num_classes=CLASSES, in_channels=channels, image_size=size, seed=0)
    finally:
        torch.use_deterministic_algorithms(False)
    return Numbers(name, model, images(name, size, channels)), {
        key: buffer.clone() for key, buffer in model.named_buffers()
    }


@pytest.fixture
def numbers(built: tuple[Numbers, dict[str, torch.Tensor]]) -> Numbers:
    """The network as it was made, whatever the test before has normalised."""
    numbers, buffers = built
    numbers.model.load_state_dict(buffers, strict=False)
    return numbers


def copy_of(name: str, model: Classifier) -> Classifier:
    """The same network on the same tensors."""
    copy = outline_model(name, num_classes=CLASSES, in_channels=model.in_channels, image_size=model.image_size)
    copy.load_state_dict(model.state_dict(), strict=True, assign=True)
    return copy.eval()


@torch.no_grad()
def test_training_gives_numbers(numbers: Numbers) -> None:
    for logits in logits_of(numbers.model, numbers.model.train()(numbers.batch)):
        assert logits.shape == (BATCH, CLASSES)
        assert logits.isfinite().all()


def test_evaluating_gives_numbers_and_so_do_its_gradients(numbers: Numbers) -> None:
    logits = numbers.model.eval()(numbers.batch)
    assert logits.shape == (BATCH, CLASSES)
    assert logits.isfinite().all()
    gradients = torch.autograd.grad(logits.sum(), list(numbers.model.parameters()), allow_unused=True)
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def test_initialize_sets_every_parameter_and_buffer(numbers: Numbers) -> None:
    _, model, _ = numbers
    assert [key for key, tensor in model.state_dict().items() if not tensor.isfinite().all()] == []


def test_a_gradient_reaches_every_parameter(numbers: Numbers) -> None:
    name, model, _ = numbers
    batch = images(name, model.image_size, model.in_channels, number=ENOUGH_TO_NORMALISE)
    torch.manual_seed(0)  # dropout
    labels = torch.arange(ENOUGH_TO_NORMALISE) % CLASSES
    losses = [F.cross_entropy(logits, labels) for logits in logits_of(model, model.train()(batch))]
    gradients = torch.autograd.grad(sum(losses), list(model.parameters()))
    for (key, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert gradient.isfinite().all(), key
        assert gradient.any() or is_bias_before_batch_norm(model, key) or is_taken_away(model, key, batch), key


@torch.no_grad()
def is_taken_away(model: Classifier, key: str, batch: torch.Tensor) -> bool:
    """Whether a bias may be anything, as in MobileNet v2's bottlenecks, which only normalised 1x1 convolutions read."""
    logits, bias = [], model.get_parameter(key)
    for shift in (0, 1):
        bias += shift
        torch.manual_seed(0)  # dropout
        logits.append(torch.cat(logits_of(model, model(batch))))
    bias -= 1
    return key.endswith(".bias") and torch.allclose(*logits, rtol=1e-3, atol=1e-3)


def is_bias_before_batch_norm(model: Classifier, key: str) -> bool:
    """Batch normalisation takes away the bias before it, so that its gradient is nothing but rounding."""
    path, _, kind = key.rpartition(".")
    sequence, _, place = path.rpartition(".")
    if kind != "bias" or not place.isdigit():
        return False
    following = dict(model.get_submodule(sequence).named_children()).get(str(int(place) + 1))
    return isinstance(following, nn.BatchNorm1d | nn.BatchNorm2d)


@pytest.mark.parametrize("name", with_the_others_slow(list_models(), SMALLEST_OF_EACH_FAMILY - LARGE))
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    one, other = (create_model(name, image_size=model_entry(name).minimum_size, seed=0) for _ in range(2))
    for (key, weights), again in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(weights, again), key


def test_forward_is_the_head_of_the_features(numbers: Numbers) -> None:
    _, model, batch = numbers
    model.eval()
    with torch.no_grad():
        feature_map = model.features(batch)
        assert feature_map.dim() == 4
        torch.testing.assert_close(model.head(feature_map), model(batch), rtol=0, atol=0)


def test_state_dict_goes_round_strictly(numbers: Numbers) -> None:
    name, model, batch = numbers
    copy = copy_of(name, model)
    assert not any(tensor.is_meta for tensor in [*copy.parameters(), *copy.buffers()])
    with torch.no_grad():
        torch.testing.assert_close(copy(batch), model.eval()(batch), rtol=0, atol=0)


def test_replace_head_changes_the_output_layer_and_nothing_else(numbers: Numbers) -> None:
    name, model, batch = numbers
    copy = copy_of(name, model)
    copy.replace_head(3)
    assert not any(layer.training for layer in copy.modules())
    before, after = model.state_dict(), copy.state_dict()
    assert list(after) == list(before)
    changed = [key for key in after if after[key].data_ptr() != before[key].data_ptr()]
    assert {key.rpartition(".")[0] for key in changed} == set(copy.output_names)
    assert all(after[key].shape[:1] in {(3,), ()} for key in changed)  # () counts the batches of a normalisation
    assert copy.num_classes == 3
    with torch.no_grad():
        logits = copy.eval()(batch)
    assert logits.shape == (BATCH, 3)
    assert logits.isfinite().all()
