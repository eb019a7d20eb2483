"""Inspecting, planning and comparing, put together."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import convatlas
from convatlas.errors import InspectionError, UnknownNameError
from convatlas.examination import compare_models, inspect_subject, time_training
from convatlas.models import create_autoencoder, create_model, outline_model
from convatlas.subjects import open_subject


def test_inspect_by_name_and_by_module_say_the_same() -> None:
    by_name = convatlas.inspect("cnn5_cifar", batch_size=4)
    by_module = convatlas.inspect(create_model("cnn5_cifar"), batch_size=4)
    assert by_name.layers == by_module.layers
    assert by_name.memory is not None
    assert by_module.memory is not None
    assert by_name.memory.inference_peak_bytes == by_module.memory.inference_peak_bytes


def test_a_layer_is_found_by_either_name() -> None:
    inspection = convatlas.inspect("vgg16", image_size=32, batch_size=1)
    assert inspection.layer("conv5_3") is inspection.layer("features.29")
    with pytest.raises(UnknownNameError, match="did you mean conv5_3"):
        inspection.layer("conv5_4")


def test_a_module_of_ones_own_is_planned_with_sgd() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 6 * 6, 3))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    inspection = convatlas.inspect(module, (3, 8, 8))
    assert inspection.memory is not None
    assert inspection.memory.batch_size == 32
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.training


def test_the_optimizer_and_the_limit_are_heeded() -> None:
    subject = open_subject("cnn5_cifar")
    sgd = inspect_subject(subject, batch_size=1, optimizer="sgd").memory
    adam = inspect_subject(subject, batch_size=1, optimizer="adam", memory_limit=60_000_000)
    assert sgd is not None
    assert adam.memory is not None
    weights = 4 * sum(parameter.numel() for parameter in outline_model("cnn5_cifar").parameters())
    more = adam.memory.training_peak_bytes - sgd.training_peak_bytes
    assert weights <= more < 2 * weights  # a second number for each weight, and what Adam's step needs while it runs
    assert adam.largest_batch is not None
    assert adam.largest_batch > 1
    fits = inspect_subject(subject, batch_size=adam.largest_batch, optimizer="adam").memory
    too_large = inspect_subject(subject, batch_size=adam.largest_batch + 1, optimizer="adam").memory
    assert fits is not None
    assert too_large is not None
    assert fits.training_peak_bytes <= 60_000_000 < too_large.training_peak_bytes


def test_what_gives_no_classes_is_not_timed() -> None:
    with pytest.raises(InspectionError, match="not \\[N, classes\\]"):
        time_training(open_subject(nn.Conv2d(3, 4, 3), (3, 8, 8)), images=100)


def test_what_is_timed_is_what_the_network_gives_and_not_its_last_layer() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())  # flattening is a view, and no layer that computes
    time = time_training(open_subject(module, (3, 8, 8)), images=64, engine="torch")
    assert time.epochs is None  # nobody knows
    assert time.epoch_seconds == pytest.approx(2 * time.step.mean)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("vgg16", 212),
        ("seresnet20", 81),
        pytest.param("resnet50", 427, marks=pytest.mark.slow),
        pytest.param("inception_v3", 1311, marks=pytest.mark.slow),
    ],
)
def test_the_field_is_that_of_the_last_map_before_it_is_averaged(name: str, field: int) -> None:
    (network,) = compare_models([name], batch_size=2, batches=None)
    assert network.receptive_field == (field, field)


@pytest.mark.parametrize(
    "depths",
    [{"vgg16": 16, "resnet20": 20}, pytest.param({"resnet50": 50, "densenet121": 121}, marks=pytest.mark.slow)],
)
def test_networks_beside_each_other(depths: dict[str, int]) -> None:
    networks = list(compare_models([*depths], batch_size=1, batches=None))
    assert [(each.name, each.depth) for each in networks] == [*depths.items()]
    assert all(each.speed is None for each in networks)


@pytest.mark.slow
def test_heads_that_only_training_uses_do_not_count() -> None:
    (googlenet,) = compare_models(["googlenet"], batch_size=1, batches=None)
    assert (googlenet.depth, googlenet.parameters) == (22, 6_624_904)


def test_an_autoencoder_is_planned_by_its_own_loss_and_optimizer() -> None:
    by_name = inspect_subject(open_subject("autoencoder_plain", columns=12), batch_size=16)
    by_module = inspect_subject(open_subject(create_autoencoder("autoencoder_plain", columns=12)), batch_size=16)
    assert by_name.layers == by_module.layers
    assert by_name.memory is not None
    assert by_module.memory is not None
    assert by_name.memory.training_peak_bytes == by_module.memory.training_peak_bytes
    assert by_name.memory.setting.layout == "contiguous"
    costly = inspect_subject(open_subject("autoencoder_contractive", columns=12), batch_size=16).memory
    assert costly is not None
    assert costly.training_peak_bytes > by_name.memory.training_peak_bytes
    limited = inspect_subject(open_subject("autoencoder_plain"), memory_limit=10_000_000)
    assert limited.largest_batch is not None
    assert limited.largest_batch > 64
    with pytest.raises(InspectionError, match="at least one row"):
        inspect_subject(open_subject("autoencoder_plain"), batch_size=0)


def test_the_training_of_an_autoencoder_is_timed_on_rows() -> None:
    time = time_training(open_subject("autoencoder_denoising", columns=6), images=640, batch_size=64)
    assert (time.shown, time.images, time.epochs) == ("rows", 640, 50)
    assert time.epoch_seconds == pytest.approx(10 * time.step.mean)


def test_autoencoders_beside_classifiers() -> None:
    networks = list(compare_models(["autoencoder_deep", "lenet5"], batch_size=2, batches=2, engine="torch"))
    assert [(each.image_size, each.columns, each.depth) for each in networks] == [(None, 29, 4), (28, None, 5)]
    assert networks[0].published is None
    assert all(each.speed is not None for each in networks)
    (wider,) = compare_models(["autoencoder_deep"], columns=100, batches=None)
    assert wider.parameters > networks[0].parameters


def test_a_network_that_is_none_is_told_before_any_is_looked_into() -> None:
    with pytest.raises(UnknownNameError):
        list(compare_models(["resnet50", "resnet51"], batches=None))
