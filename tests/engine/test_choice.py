from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("llvmlite")

from networks import conv, numbers

from convatlas.engine import accelerate, choice
from convatlas.engine.choice import MARGIN, Chooser, LayerChoice, describe, fastest
from convatlas.engine.convolutions import Geometry

GEOMETRY = Geometry(8, 16, (3, 3), 1, (1, 1))
SHAPE = "3x3 pad 1, 8 -> 16, 12x10"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, with the machine code of all tests."""
    (tmp_path / "engine").mkdir()
    for kept in (Path(os.environ["CONVATLAS_CACHE"]) / "engine").glob("*.o"):
        (tmp_path / "engine" / kept.name).symlink_to(kept)
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path))
    return tmp_path / "engine"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that were measured; the direct kernel always wins."""
    shapes: list[tuple[int, ...]] = []

    def measure(geometry: Geometry, x: Tensor, kernels: Any) -> dict[str, float]:
        shapes.append(tuple(x.shape))
        return dict(zip(kernels, (2.0, 1.0), strict=True))

    monkeypatch.setattr(choice, "_measure", measure)
    return shapes


def picture(images: int = 2, height: int = 12, width: int = 10) -> Tensor:
    return numbers(images, 8, height, width).contiguous(memory_format=torch.channels_last)


def choose(chooser: Chooser, x: Tensor, layer: str = "layer") -> str:
    return chooser.choose(layer, GEOMETRY, x, {"winograd": never, "direct": never})


def never(x: Tensor, y: Tensor) -> Any:
    raise AssertionError("a kernel was prepared")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 16), nn.ReLU(), conv(16, 8)).eval()


def test_what_was_chosen_is_kept_to(cache: Path, measured: list[tuple[int, ...]]) -> None:
    for kernel in ("winograd", "direct"):
        assert choose(Chooser({SHAPE: kernel}), picture()) == kernel
    assert not measured


def test_what_was_not_chosen_then_does_not_depend_on_the_moment(cache: Path, measured: list[tuple[int, ...]]) -> None:
    chooser = Chooser({SHAPE: "direct"})
    assert choose(chooser, picture(height=20)) == "winograd"
    assert choose(chooser, picture(height=2, width=2)) == "direct"  # one tile: 36 products, where four pixels take 36
    assert not measured
    assert chooser.choices == {
        SHAPE: "direct",
        "3x3 pad 1, 8 -> 16, 20x10": "winograd",
        "3x3 pad 1, 8 -> 16, 2x2": "direct",
    }


def test_choices_given_are_not_changed(cache: Path, measured: list[tuple[int, ...]]) -> None:
    given: dict[str, str] = {}
    choose(Chooser(given), picture())
    assert not given


def test_a_network_runs_the_kernels_it_is_given(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = numbers(1, 3, 16, 16)
    shapes = [choice.shape for choice in accelerate(network(), images).explain() if choice.layer != "the network"]
    monkeypatch.setattr(choice, "_measure", never)
    outputs = []
    for kernel in ("winograd", "direct"):
        given = {"3x3 pad 1, 3 -> 16, 16x16": "direct"} | dict.fromkeys(shapes[1:], kernel)
        fast = accelerate(network(), images, given)
        assert fast.choices == given
        assert {choice.kernel for choice in fast.explain()[1:]} == {kernel}
        assert all(not choice.milliseconds for choice in fast.explain())
        with torch.no_grad():
            outputs.append(fast(images))
            assert torch.equal(accelerate(network(), images, given)(images), outputs[-1])
    assert not torch.equal(*outputs)  # they round differently, so the choice was obeyed
    torch.testing.assert_close(*outputs)


def test_what_is_chosen_for_a_training_serves_its_evaluations_too(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = numbers(2, 3, 16, 16)
    choices = accelerate(network().train(), images).choices
    assert {shape.startswith("in training: ") for shape in choices} == {True, False}
    monkeypatch.setattr(choice, "_measure", never)
    fast = accelerate(network().train(), images, choices)
    fast(images).sum().backward()
    assert fast.choices == choices
    with torch.no_grad():
        fast.eval()(images)
    assert fast.choices == choices


def test_times_are_kept_and_read_again(cache: Path, measured: list[tuple[int, ...]]) -> None:
    first = Chooser()
    choose(first, picture())
    (kept,) = cache.glob("choices-*.json")
    assert json.loads(kept.read_text()) == {f"2 x {SHAPE}: winograd, direct": {"winograd": 2.0, "direct": 1.0}}
    second = Chooser()
    assert choose(second, picture()) == "direct"
    assert second.layers == first.layers
    assert len(measured) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"2 x ', b"3"])
def test_a_damaged_file_is_measured_again(content: bytes, cache: Path, measured: list[tuple[int, ...]]) -> None:
    choose(Chooser(), picture())
    (kept,) = cache.glob("choices-*.json")
    before = kept.read_bytes()
    kept.write_bytes(content)
    assert choose(Chooser(), picture()) == "direct"
    assert len(measured) == 2
    assert kept.read_bytes() == before


@pytest.mark.parametrize(
    "times",
    [
        {},
        None,
        3,
        "fast",
        {"winograd": "fast", "direct": None},
        {"winograd": float("nan"), "direct": 1.0},
        {"other": 1.0},
    ],
)
def test_times_that_are_none_are_measured_again(times: Any, cache: Path, measured: list[tuple[int, ...]]) -> None:
    choose(Chooser(), picture())
    (kept,) = cache.glob("choices-*.json")
    kept.write_text(json.dumps({f"2 x {SHAPE}: winograd, direct": times}))
    assert choose(Chooser(), picture()) == "direct"
    assert len(measured) == 2


def test_where_nothing_can_be_written_all_is_as_before(
    cache: Path, measured: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = cache / "file"
    blocked.write_text("")
    monkeypatch.setenv("CONVATLAS_CACHE", str(blocked))
    assert choose(Chooser(), picture()) == "direct"
    assert choose(Chooser(), picture()) == "direct"
    assert len(measured) == 2


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"winograd": 1.0, "direct": 1.0}, "winograd"),
        ({"winograd": 1.0, "direct": 2.0}, "winograd"),
        ({"winograd": MARGIN - 0.01, "direct": 1.0}, "winograd"),
        ({"winograd": MARGIN + 0.01, "direct": 1.0}, "direct"),
        ({"direct": MARGIN - 0.01, "winograd": 1.0}, "direct"),
    ],
)
def test_the_first_kernel_is_taken_unless_another_is_clearly_faster(times: dict[str, float], expected: str) -> None:
    assert fastest(times) == expected


def test_a_shape_is_measured_once_for_all_its_layers(cache: Path, measured: list[tuple[int, ...]]) -> None:
    chooser = Chooser()
    for name in ("conv1", "conv2", "conv1"):
        choose(chooser, picture(), name)
    assert len(measured) == 1
    assert [(layer.layer, layer.kernel) for layer in chooser.layers.values()] == [
        ("conv1", "direct"), ("conv2", "direct"),
    ]  # fmt: skip


def test_what_is_chosen_for_a_shape_holds_for_any_number_of_images(
    cache: Path, measured: list[tuple[int, ...]]
) -> None:
    chooser = Chooser()
    for images in (4, 1, 9):
        choose(chooser, picture(images))
    assert measured == [(4, 8, 12, 10)]


def test_a_batch_is_measured_by_enough_of_its_images(cache: Path, measured: list[tuple[int, ...]]) -> None:
    choose(Chooser(), picture(40))
    choose(Chooser(), picture(3, 100, 100))
    assert measured == [(34, 8, 12, 10), (1, 8, 100, 100)]  # 120 and 10,000 pixels an image


def test_measuring_times_every_kernel_on_the_layers_own_inputs(cache: Path) -> None:
    calls: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []

    def prepare(name: str) -> Any:
        def with_tensors(x: Tensor, y: Tensor) -> Any:
            return lambda: calls.append((name, tuple(x.shape), tuple(y.shape)))

        return with_tensors

    chooser = Chooser()
    chooser.choose("layer", GEOMETRY, picture(), {name: prepare(name) for name in ("winograd", "direct")})
    assert set(calls) == {(name, (2, 8, 12, 10), (2, 16, 12, 10)) for name in ("winograd", "direct")}
    (layer,) = chooser.layers.values()
    assert isinstance(layer, LayerChoice)
    assert set(layer.milliseconds) == {"winograd", "direct"}
    assert all(time >= 0 for time in layer.milliseconds.values())


def test_shapes_in_words() -> None:
    assert describe(GEOMETRY, picture()) == SHAPE
    assert describe(Geometry(8, 16, (1, 1), 1, (0, 0)), picture()) == "1x1 pad 0, 8 -> 16, 12x10"
    grouped = Geometry(8, 16, (3, 3), 2, (1, 2), 4, 3)
    assert describe(grouped, picture()) == "3x3 pad 1x2, 8 -> 16, 12x10, stride 2, groups 4, dilation 3"
