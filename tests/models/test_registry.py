"""Names, errors and counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from convatlas.errors import ConvatlasError, ImageSizeError, UnknownNameError
from convatlas.models import create_model, describe_models, list_models, model_entry, outline_model
from convatlas.models.registry import register

NAMES = set(
    """
    lenet5 lenet5_1998 alexnet alexnet_2012 alexnet_mnist
    vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn vgg11_lrn vgg16c vgg16c_bn
    vgg11_cifar_fc vgg13_cifar_fc vgg16c_cifar_fc vgg16_cifar_fc vgg19_cifar_fc
    vgg11_bn_cifar vgg13_bn_cifar vgg16_bn_cifar vgg19_bn_cifar vgg10_cifar vgg11_mnist cnn5_cifar
    nin nin_imagenet googlenet googlenet_2014 googlenet_cifar bn_inception se_inception
    inception_v3 inception_v4 inception_resnet_v1 inception_resnet_v2
    resnet18 resnet34 resnet50 resnet101 resnet152 resnet50_v1 resnet101_v1 resnet152_v1 resnet34_a resnet34_c
    resnet20 resnet32 resnet44 resnet56 resnet110 resnet1202 resnet18_cifar resnet18_s2 plain18 plain34 plain20 plain56
    preresnet18 preresnet50 preresnet152 preresnet110 preresnet164 preresnet1001
    resnext50_32x4d resnext101_32x8d resnext101_64x4d resnext29_8x64d resnext29_16x64d
    wide_resnet50_2 wide_resnet101_2 wide_resnet16_8 wide_resnet28_10 wide_resnet40_4
    seresnet50 seresnet101 seresnet152 seresnext50_32x4d seresnext101_32x4d seresnet20 seresnet110
    densenet121 densenet161 densenet169 densenet201 densenet40_12 densenet_bc100_12 densenet_bc190_40
    mobilenet_v1 mobilenet_v2
""".split()  # noqa: SIM905
)


def test_the_names_that_people_rely_on_are_there() -> None:
    assert NAMES - set(list_models()) == set()


def test_a_family_is_a_part_of_the_list() -> None:
    assert list_models("lenet") == ["lenet5_1998", "lenet5"]
    families = {model_entry(name).family for name in list_models()}
    assert sorted(name for family in families for name in list_models(family)) == sorted(list_models())


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no model named 'vgg61'; did you mean .*vgg16.*`convatlas models`"):
        create_model("vgg61")
    with pytest.raises(UnknownNameError, match=r"no model family named 'vggs'; did you mean vgg\?"):
        list_models("vggs")


def test_a_network_that_nobody_counted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convatlas.models.registry.shipped_counts", dict)
    with pytest.raises(ConvatlasError, match=r"lenet5_1998 is not in models/counts\.json"):
        describe_models()


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="two models are named 'lenet5'"):
        register(replace(model_entry("vgg16"), name="lenet5"))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (
            "vgg16",
            28,
            "vgg16 needs images of at least 32x32 (five 2x2 poolings); received 28x28. "
            "Use --image-size 32, or vgg11_mnist",
        ),
        (
            "alexnet",
            32,
            "alexnet needs images of at least 63x63 (an 11x11 convolution of stride 4 and three 3x3 poolings); "
            "received 32x32. Use --image-size 63, or nin",
        ),
        (
            "vgg11_mnist",
            3,
            "vgg11_mnist needs images of at least 4x4 (two 2x2 poolings); received 3x3. Use --image-size 4",
        ),
    ],
)
def test_too_small_an_image_says_what_to_do(name: str, size: int, message: str) -> None:
    with pytest.raises(ImageSizeError) as caught:
        create_model(name, image_size=size)
    assert str(caught.value) == message


@pytest.mark.parametrize("argument", ["num_classes", "in_channels"])
def test_no_classes_or_channels_is_an_error(argument: str) -> None:
    with pytest.raises(ConvatlasError, match=f"lenet5 needs {argument} of at least 1; received 0"):
        create_model("lenet5", **{argument: 0})


def test_a_seed_leaves_torch_s_random_state_alone() -> None:
    state = torch.get_rng_state()
    seeded = create_model("lenet5", seed=3).state_dict()["features.c1.weight"]
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(seeded, create_model("lenet5", seed=4).state_dict()["features.c1.weight"])


def test_without_a_seed_torch_s_random_state_decides() -> None:
    torch.manual_seed(5)
    first = create_model("lenet5").state_dict()["features.c1.weight"]
    assert not torch.equal(create_model("lenet5").state_dict()["features.c1.weight"], first)
    torch.manual_seed(5)
    assert torch.equal(create_model("lenet5").state_dict()["features.c1.weight"], first)


def test_an_outline_takes_no_memory() -> None:
    model = outline_model("vgg19")
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_descriptions_count_what_a_real_network_has() -> None:
    (description,) = [model for model in describe_models("vgg") if model["name"] == "vgg11_bn_cifar"]
    state = create_model("vgg11_bn_cifar").state_dict()
    floating = sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())
    assert description["parameters"] + description["buffers"] == floating
    assert description["buffers"] == sum(tensor.numel() for key, tensor in state.items() if "running_" in key)


def test_descriptions_are_the_entries() -> None:
    for description in describe_models():
        entry = model_entry(description["name"])
        for key in ("family", "year", "paper", "image_size", "minimum_size", "in_channels", "num_classes", "recipe"):
            assert description[key] == getattr(entry, key)
