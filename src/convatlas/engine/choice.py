"""Which kernel does a layer: measured once a machine and shape, kept in the user's cache, recorded in a run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from convatlas.engine.compiler import fingerprint
from convatlas.engine.convolutions import Geometry, empty_picture
from convatlas.engine.jobs import POSITIONS, TILE
from convatlas.engine.threads import thread_count
from convatlas.errors import StorageError
from convatlas.files import cache_directory, write_json

ENOUGH_TILES = 256  # more of them take longer, but in proportion
ROUNDS = 5
MARGIN = 1.05
CACHED_VALUES = 16 * 2**20  # 64 MB, more than most processors keep

Prepare = Callable[[Tensor, Tensor], Callable[[], object]]  # from a picture and room for the outputs to a call


@dataclass(frozen=True)
class LayerChoice:
    """Which kernel does a layer, and the milliseconds each took when they were compared."""

    layer: str
    shape: str
    kernel: str
    milliseconds: Mapping[str, float]


class Chooser:
    """Chooses a kernel for each shape of layer, and remembers.

    Args:
        given: shape -> kernel, as a run has recorded it. Then nothing is measured, so that the choice does not depend
            on the moment: a shape that is not among them is done by the kernel with fewer multiplications.
    """

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self.choices = dict(given or {})
        self.layers: dict[tuple[str, str], LayerChoice] = {}
        self._measures = given is None
        self._times: dict[str, dict[str, float]] = {}

    @cached_property
    def _path(self) -> Path:
        return cache_directory() / "engine" / f"choices-{fingerprint()}-{thread_count()}.json"

    @cached_property
    def _measured(self) -> dict[str, dict[str, float]]:
        return _read(self._path)

    def choose(self, layer: str, geometry: Geometry, x: Tensor, kernels: Mapping[str, Prepare]) -> str:
        """The name of the kernel for inputs of this shape: the fastest of ``kernels``, "winograd" and "direct"."""
        shape = describe(geometry, x)
        if shape not in self.choices:
            self.choices[shape] = self._choice(geometry, shape, x, kernels)
        times = self._times.get(shape, {})
        self.layers[layer, shape] = LayerChoice(layer, shape, self.choices[shape], times)
        return self.choices[shape]

    def _choice(self, geometry: Geometry, shape: str, x: Tensor, kernels: Mapping[str, Prepare]) -> str:
        if not saves_multiplications(geometry, x):
            return "direct"
        if not self._measures:
            return "winograd"
        self._times[shape] = self._compare(geometry, shape, x, kernels)
        return _fastest(self._times[shape])

    def _compare(self, geometry: Geometry, shape: str, x: Tensor, kernels: Mapping[str, Prepare]) -> dict[str, float]:
        images = _enough_images(geometry, x)
        case = f"{images} x {shape}"
        if case not in self._measured:
            self._measured[case] = _measure(geometry, x[:images], kernels)
            with suppress(StorageError):  # it is measured again next time
                write_json(self._path, self._measured)
        return self._measured[case]


def _fastest(times: Mapping[str, float]) -> str:
    """The kernel with the least time; the first named unless another is clearly faster, for measurements are noisy."""
    first = next(iter(times))
    return min(times, key=lambda name: times[name] * (1 if name == first else MARGIN))


def saves_multiplications(geometry: Geometry, x: Tensor) -> bool:
    """Whether Winograd's 36 products a tile are fewer than a direct sum's nine a pixel: not in small pictures."""
    high, wide = geometry.output_size(x.shape[2], x.shape[3])
    return POSITIONS * _tiles(high, wide) < 9 * high * wide


def describe(geometry: Geometry, x: Tensor) -> str:
    """A layer's shape in words, such as ``3x3 pad 1, 64 -> 128, 56x56``; for any number of images."""
    high, wide = geometry.kernel
    sizes = f"{geometry.channels} -> {geometry.out_channels}, {x.shape[2]}x{x.shape[3]}"
    return f"{high}x{wide} pad {geometry.padding[0]}, {sizes}"


def _enough_images(geometry: Geometry, x: Tensor) -> int:
    high, wide = geometry.output_size(x.shape[2], x.shape[3])
    return min(x.shape[0], max(1, ENOUGH_TILES // _tiles(high, wide)))


def _tiles(high: int, wide: int) -> int:
    return -(-high // TILE) * -(-wide // TILE)


def _measure(geometry: Geometry, x: Tensor, kernels: Mapping[str, Prepare]) -> dict[str, float]:
    """Milliseconds of each kernel: the best of a few rounds in which they take turns."""
    y = empty_picture(x.shape[0], geometry.out_channels, *geometry.output_size(x.shape[2], x.shape[3]))
    with torch.no_grad():
        calls = {name: prepare(x, y) for name, prepare in kernels.items()}
        for call in calls.values():
            call()
        elsewhere = torch.zeros(CACHED_VALUES)
        rounds = [{name: _seconds(call, elsewhere) for name, call in calls.items()} for _ in range(ROUNDS)]
    return {name: round(min(times[name] for times in rounds) * 1000, 4) for name in calls}


def _seconds(call: Callable[[], object], elsewhere: Tensor) -> float:
    """Of one call whose weights are not in the caches any more, as in a network: other layers have used those since."""
    elsewhere.add_(1)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = content.items() if isinstance(content, dict) else ()
    return {case: times for case, times in known if _are_times(times)}


def _are_times(value: object) -> bool:
    is_complete = isinstance(value, dict) and value.keys() == {"winograd", "direct"}
    return is_complete and all(isinstance(time, float | int) for time in cast(dict[str, object], value).values())
