"""Modules that are not ours: right, or a clear word of what is not known."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from convatlas.errors import InspectionError
from convatlas.inspection import Inspection, inspect_module

IMAGE = (1, 3, 224, 224)


def from_torchvision(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, **options)


def from_timm(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name)


def counted_by_torch(module: nn.Module, *inputs: torch.Tensor) -> int:
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # whose fused operators the counter does not know
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module.eval()(*inputs)
    torch.backends.mha.set_fastpath_enabled(was)
    return counter.get_total_flops()


def adds_up(inspection: Inspection, module: nn.Module) -> bool:
    """Rows add up to the network, but for what it does not use."""
    rows = sum(layer.parameters + layer.frozen_parameters for layer in inspection.layers)
    total = sum(parameter.numel() for parameter in module.parameters())
    return rows + sum(inspection.unused.values()) == total == inspection.parameters + inspection.frozen_parameters


NETWORKS = {
    "resnet18": (from_torchvision("resnet18"), 11_689_512, 1_814_073_344, 435),
    "googlenet": (from_torchvision("googlenet", init_weights=False), 13_004_888, 1_498_376_192, None),
    "shufflenet_v2_x1_0": (from_torchvision("shufflenet_v2_x1_0"), 2_278_604, 144_907_992, None),
    "convnext_tiny": (from_torchvision("convnext_tiny"), 28_589_128, 4_455_531_264, None),
    "efficientnet_b0": (from_torchvision("efficientnet_b0"), 5_288_548, 385_814_752, None),
    "swin_t": (from_torchvision("swin_t"), 28_288_354, 4_490_566_656, None),
    "vit_tiny_patch16_224": (from_timm("vit_tiny_patch16_224"), 5_717_416, 1_253_683_200, None),
    "convnextv2_atto": (from_timm("convnextv2_atto"), 3_708_400, 547_332_480, None),
    "eca_nfnet_l0": (from_timm("eca_nfnet_l0"), 24_143_924, 4_244_258_560, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_torchvision_and_timm(name: str) -> None:
    make, parameters, macs, field = NETWORKS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = make()
    image = torch.zeros(IMAGE)
    inspection = inspect_module(module, image)
    assert inspection.parameters == parameters
    assert adds_up(inspection, module)
    assert inspection.unknown_operators == ()
    assert 2 * macs == inspection.flops == counted_by_torch(module, image)
    assert inspection.layers[-1].receptive_field is not None
    if field is not None:
        assert inspection.layer("layer4.1").receptive_field.size == (field, field)
    assert set(inspection.unused) == ({"aux1", "aux2"} if name == "googlenet" else set())


@pytest.mark.slow
def test_a_network_that_returns_a_dict() -> None:
    module = torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=5)
    image = torch.zeros(IMAGE)
    inspection = inspect_module(module, image)
    assert adds_up(inspection, module)
    assert inspection.flops == counted_by_torch(module, image)
    assert inspection.layers[-1].output_shape == (1, 5, 224, 224)
    assert inspection.layers[-1].receptive_field.jump == (1.0, 1.0)


def test_a_transformer() -> None:
    module = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
    tokens = torch.zeros(2, 10, 32)
    inspection = inspect_module(module, tokens)
    assert adds_up(inspection, module)
    assert inspection.unknown_operators == ()
    assert inspection.flops == counted_by_torch(module, tokens)
    products = 10 * 32 * 32 * 4 + 2 * 10 * 10 * 32 + 2 * 10 * 32 * 64  # projections, attention, two dense layers
    assert inspection.macs == 2 * 2 * products
    assert all(layer.receptive_field is None for layer in inspection.layers)  # it sees no image


class TiedTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.logits = nn.Embedding(100, 32), nn.Linear(32, 100, bias=False)
        self.logits.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.logits(self.embedding(tokens))


def test_tied_weights_and_whole_numbers() -> None:
    module = TiedTokens()
    inspection = inspect_module(module, torch.zeros(2, 7, dtype=torch.long))
    assert [layer.parameters for layer in inspection.layers] == [3200, 0]
    assert (inspection.parameters, inspection.macs) == (3200, 2 * 7 * 32 * 100)


@torch.library.custom_op("convatlas_tests::mystery", mutates_args=())
def mystery(maps: torch.Tensor) -> torch.Tensor:
    return maps.clone()


@mystery.register_fake
def _(maps: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(maps)


class Between(nn.Module):
    """Something between two convolutions."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3)
        self.between = between

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.between(self.first(images)))


@pytest.mark.parametrize(
    ("between", "name"),
    [(mystery, "convatlas_tests.mystery"), (lambda maps: torch.fft.fft2(maps).real, "aten._fft_c2c")],
)
def test_an_unknown_operator_is_named_and_what_comes_after_is_left_open(
    between: Callable[[torch.Tensor], torch.Tensor], name: str
) -> None:
    inspection = inspect_module(Between(between), torch.zeros(1, 3, 16, 16))
    first, own, last = inspection.layers
    assert name in inspection.unknown_operators
    assert (first.receptive_field.size, own.receptive_field, last.receptive_field) == ((3, 3), None, None)
    assert (inspection.macs, own.macs, last.macs) == (None, None, 14 * 14 * 4 * 4 * 9)


def test_a_path_that_depends_on_the_numbers_is_followed_and_said() -> None:
    module = Between(lambda maps: maps * 2 if maps.sum() > 0 else maps.relu())
    inspection = inspect_module(module, torch.zeros(1, 3, 16, 16))
    assert inspection.unknown_operators == ("aten._local_scalar_dense (the path may depend on the number)",)
    assert inspection.macs == 16 * 16 * 3 * 4 * 9 + 14 * 14 * 4 * 4 * 9
    assert inspection.layers[-1].receptive_field.size == (5, 5)


def add_through_a_view(maps: torch.Tensor) -> torch.Tensor:
    maps[:, :2] += 1
    return maps


def test_what_was_written_through_a_view_is_not_guessed() -> None:
    inspection = inspect_module(Between(add_through_a_view), torch.zeros(1, 3, 16, 16))
    assert inspection.layers[-1].receptive_field is None
    assert "of memory that was written to through another tensor" in " ".join(inspection.unknown_operators)
    assert inspection.macs == 16 * 16 * 3 * 4 * 9 + 14 * 14 * 4 * 4 * 9


def test_layers_without_parameters_and_several_inputs() -> None:
    class Sum(nn.Module):
        def forward(self, images: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return images * scale[:, :, None, None]

    inspection = inspect_module(Sum(), torch.zeros(2, 3, 8, 8), torch.zeros(2, 3))
    (row,) = inspection.layers
    assert (inspection.parameters, inspection.macs, row.receptive_field.size) == (0, 0, (1, 1))
    assert inspection.input_shapes == ((2, 3, 8, 8), (2, 3))


def test_a_wrapper() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    inspection = inspect_module(nn.DataParallel(inner), torch.zeros(1, 3, 8, 8))
    assert [layer.name for layer in inspection.layers] == ["module.0", "module.1"]
    assert inspection.parameters == 112


def test_a_failure_names_the_layer_in_one_line() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(8, 4, 3)))
    with pytest.raises(InspectionError, match=r"^1\.0 \(Conv2d\) fails on this input: .*channels") as caught:
        inspect_module(module, torch.zeros(1, 3, 8, 8))
    assert "\n" not in str(caught.value)


def test_a_lazy_layer_says_what_to_do() -> None:
    with pytest.raises(InspectionError, match=r"0\.weight has no shape yet .*call the module once"):
        inspect_module(nn.Sequential(nn.LazyLinear(4)), torch.zeros(1, 3))
