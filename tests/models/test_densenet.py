"""DenseNet against the figures of its paper (Huang et al. 2017), and its memory-efficient mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convatlas.models import create_model, outline_model
from convatlas.models.counts import shipped_counts
from convatlas.models.densenet import VARIANTS, DenseBlock, DenseLayer, DenseNet, minimum_size

every_name = pytest.mark.parametrize("name", VARIANTS)


@pytest.mark.parametrize(
    ("name", "parameters", "gigamacs"),  # torchvision's model pages
    [
        ("densenet121", 7_978_856, 2.834),
        ("densenet161", 28_681_000, 7.728),
        ("densenet169", 14_149_480, 3.36),
        ("densenet201", 20_013_928, 4.291),
    ],
)
def test_parameters_and_arithmetic_as_torchvision_has_them(name: str, parameters: int, gigamacs: float) -> None:
    assert shipped_counts()[name]["parameters"] == parameters
    assert shipped_counts()[name]["macs"] / 1e9 == pytest.approx(gigamacs, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "millions", "exactly"),
    [
        ("densenet40_12", 1.0, 1_019_722),
        ("densenet_bc100_12", 0.8, 769_162),
        ("densenet_bc190_40", 25.6, 25_624_430),
        ("densenet121_cifar", 7.0, 6_956_298),  # kuangliu's
    ],
)
def test_millions_of_parameters_as_in_table_2(name: str, millions: float, exactly: int) -> None:
    assert shipped_counts()[name]["parameters"] == exactly
    assert round(exactly / 1e6, 1) == millions


@every_name
def test_as_many_layers_with_weights_as_its_name_says(name: str) -> None:
    layers = [module for module in outline_model(name).modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == VARIANTS[name].depth
    assert str(VARIANTS[name].depth) in name


@every_name
def test_every_layer_sees_the_block_s_input_and_growth_rate_channels_of_each_layer_before(name: str) -> None:
    model, variant = outline_model(name), VARIANTS[name]
    channels = variant.stem_channels
    for block, depth in enumerate(variant.blocks, start=1):
        layers = list(model.get_submodule(f"features.denseblock{block}").children())
        assert [layer.norm1.num_features for layer in layers] == [
            channels + number * variant.growth_rate for number in range(depth)
        ]
        for layer in layers:
            last = layer.conv2 if variant.bottleneck else layer.conv1
            assert (last.out_channels, last.kernel_size) == (variant.growth_rate, (3, 3))
            if variant.bottleneck:
                assert (layer.conv1.out_channels, layer.conv1.kernel_size) == (4 * variant.growth_rate, (1, 1))
        channels += depth * variant.growth_rate
        if block < len(variant.blocks):
            conv = model.get_submodule(f"features.transition{block}.conv")
            assert (conv.in_channels, conv.out_channels) == (channels, int(channels * variant.compression))
            channels = conv.out_channels
    assert model.get_submodule("classifier").in_features == channels


def test_output_sizes_as_in_table_1() -> None:
    taps = outline_model("densenet121").taps
    stages = ("conv1", "pool1", "dense1", "transition1", "dense2", "transition2", "dense3", "transition3", "dense4")
    assert [taps[name].shape[-1] for name in stages] == [112, 56, 56, 28, 28, 14, 14, 7, 7]
    assert taps["dense4"].shape[0] == 1024
    assert taps["dense3_24"].shape == (32, 14, 14)


@pytest.mark.parametrize("name", ["densenet40_12", "densenet_bc100_12", "densenet_bc190_40"])
def test_small_images_are_seen_at_32_16_and_8_pixels(name: str) -> None:
    taps = outline_model(name).taps
    assert [taps[f"dense{block}"].shape[-1] for block in (1, 2, 3)] == [32, 16, 8]
    assert taps["conv1"].shape[0] == (2 * VARIANTS[name].growth_rate if "_bc" in name else 16)


def test_l_layers_have_l_times_l_plus_1_halves_connections() -> None:
    """Section 1, of a block: each layer reads the block's input and every layer before it, and so does what follows."""
    block = outline_model("densenet_bc100_12").get_submodule("features.denseblock1")
    read: list[int] = []
    for layer in block.children():
        layer.register_forward_pre_hook(lambda _layer, inputs: read.append(len(inputs[0])))
    block(torch.zeros(1, 24, 4, 4, device="meta"))
    assert read == list(range(1, 17))
    assert sum(read) == 16 * 17 // 2


@pytest.mark.parametrize(("name", "smallest"), [("densenet121", 29), ("densenet40_12", 4), ("densenet121_cifar", 8)])
def test_the_smallest_size_leaves_one_pixel(name: str, smallest: int) -> None:
    assert minimum_size(VARIANTS[name]) == smallest
    for size, side in ((smallest, 1), (smallest - 1, 0)):
        with torch.device("meta"):
            model = DenseNet(VARIANTS[name], num_classes=2, in_channels=3, image_size=size)
        assert model.taps[f"dense{len(VARIANTS[name].blocks)}"].shape[-1] == side


@contextmanager
def noting_what_is_kept(model: nn.Module) -> Iterator[dict[int, int]]:
    """Address -> bytes of all memory that is kept for the gradients, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    held: list[torch.Tensor] = []  # so that none takes the place of another

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


class Step(NamedTuple):
    logits: torch.Tensor
    gradients: dict[str, torch.Tensor | None]
    statistics: dict[str, torch.Tensor]
    bytes_kept: int


def step(name: str, memory_efficient: bool) -> Step:
    """One step of training, from the same start with the same images."""
    model = create_model(name, num_classes=3, seed=0).train()
    assert isinstance(model, DenseNet)
    model.memory_efficient = memory_efficient
    with noting_what_is_kept(model) as kept:
        logits = model(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return Step(logits.detach(), gradients, dict(model.named_buffers()), sum(kept.values()))


@pytest.mark.parametrize("name", ["densenet40_12", "densenet_bc100_12"])
def test_memory_efficient_training_computes_the_same_and_keeps_less(name: str) -> None:
    usual, sparing = step(name, memory_efficient=False), step(name, memory_efficient=True)
    assert torch.equal(sparing.logits, usual.logits)
    torch.testing.assert_close(sparing.gradients, usual.gradients)
    # A batch that passes a normalisation twice is counted once.
    torch.testing.assert_close(sparing.statistics, usual.statistics, rtol=0, atol=0)
    assert sparing.statistics["features.denseblock1.denselayer1.norm1.num_batches_tracked"] == 1
    assert sparing.bytes_kept < usual.bytes_kept / 2


def test_memory_grows_with_the_depth_of_a_block_and_not_with_its_square() -> None:
    """Pleiss et al. 2017, section 3: twice the layers in a block keep about twice as much."""

    def kept_by(layers: int, memory_efficient: bool) -> int:
        block = DenseBlock(layers, 16, VARIANTS["densenet40_12"])
        for layer in block.values():
            layer.memory_efficient = memory_efficient
        with noting_what_is_kept(block) as kept:
            block(torch.randn(1, 16, 8, 8))
        return sum(kept.values())

    assert kept_by(24, memory_efficient=False) > 3 * kept_by(12, memory_efficient=False)
    assert kept_by(24, memory_efficient=True) < 2.2 * kept_by(12, memory_efficient=True)


def test_memory_efficient_is_off_until_it_is_set() -> None:
    model = outline_model("densenet_bc100_12")
    assert isinstance(model, DenseNet)
    assert not model.memory_efficient
    model.memory_efficient = True
    assert model.memory_efficient
    assert all(layer.memory_efficient for layer in model.modules() if isinstance(layer, DenseLayer))
    model.memory_efficient = False
    assert not any(layer.memory_efficient for layer in model.modules() if isinstance(layer, DenseLayer))


def test_memory_efficient_changes_nothing_in_evaluation() -> None:
    model = create_model("densenet40_12", seed=0).eval()
    assert isinstance(model, DenseNet)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = []
    for memory_efficient in (False, True):
        model.memory_efficient = memory_efficient
        with noting_what_is_kept(model) as noted:
            model(images)
        kept.append(sum(noted.values()))
    assert kept[0] == kept[1]


def test_a_frozen_normalisation_stays_frozen_in_memory_efficient_training() -> None:
    model = create_model("densenet40_12", seed=0).train()
    assert isinstance(model, DenseNet)
    model.memory_efficient = True
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    images = torch.randn(2, 3, 8, 8)
    sparing = torch.autograd.grad(model(images).sum(), list(model.parameters()))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    model.memory_efficient = False
    usual = torch.autograd.grad(model(images).sum(), list(model.parameters()))
    torch.testing.assert_close(sparing, usual)


def test_a_graph_that_is_retained_gives_its_gradients_twice() -> None:
    model = create_model("densenet40_12", seed=0).train()
    assert isinstance(model, DenseNet)
    model.memory_efficient = True
    logits = model(torch.randn(2, 3, 8, 8)).sum()
    once, again = (torch.autograd.grad(logits, list(model.parameters()), retain_graph=True) for _ in range(2))
    torch.testing.assert_close(once, again)
    assert model.get_buffer("features.denseblock1.denselayer1.norm1.num_batches_tracked") == 1


def test_a_trace_does_not_lose_the_sparing_of_memory() -> None:
    """The engine then trains by the network's own code."""
    model = outline_model("densenet40_12").train()
    assert isinstance(model, DenseNet)
    torch.fx.symbolic_trace(model)
    model.memory_efficient = True
    with pytest.raises(TypeError, match="memory_efficient = False"):
        torch.fx.symbolic_trace(model)
    torch.fx.symbolic_trace(model.eval())


def test_memory_efficient_training_can_be_compiled() -> None:
    block = DenseBlock(2, 16, VARIANTS["densenet40_12"])
    for layer in block.values():
        layer.memory_efficient = True
    maps = torch.randn(2, 16, 4, 4)
    expected = block(maps)
    torch.testing.assert_close(torch.compile(block, backend="eager")(maps), expected)
