"""Which kernel does a layer: measured once a machine and shape, kept in the user's cache, recorded in a run."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from convatlas.engine.compiler import fingerprint
from convatlas.engine.convolutions import FLOAT, Geometry, empty_picture
from convatlas.engine.jobs import POSITIONS, TILE
from convatlas.engine.processor import cache_bytes
from convatlas.engine.threads import thread_count
from convatlas.errors import StorageError
from convatlas.files import cache_directory, write_json

log = logging.getLogger(__name__)

WHOLE = "the network"  # as a layer among others, in an explanation
ENOUGH_PIXELS = 4096  # of outputs; more of them take longer, but in proportion
ROUNDS = 8  # at most, where other programs disturb
HOPELESS = 1.5  # times as slow as the fastest: not tried again
ALIKE = 1.05  # two times that differ by no more are those of an undisturbed machine
MARGIN = 1.05
CACHED_BYTES = (2**23, 2**26)  # the least and the most that is read to have the caches forget: 8 and 64 MB

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

    ``measures`` is false where kernels are given.

    Args:
        given: shape -> kernel, as a run has recorded it. Then nothing is measured, so that the choice does not depend
            on the moment: a shape that is not among them is done by the engine's kernel with fewest multiplications.
    """

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self.choices = dict(given or {})
        self.layers: dict[tuple[str, str], LayerChoice] = {}
        self.measures = given is None
        self._times: dict[str, dict[str, float]] = {}

    @cached_property
    def _path(self) -> Path:
        return cache_directory() / "engine" / f"choices-{fingerprint()}-{thread_count()}.json"

    @cached_property
    def _measured(self) -> dict[str, dict[str, float]]:
        return _read(self._path)

    def choose(self, layer: str, geometry: Geometry, x: Tensor, kernels: Mapping[str, Prepare], when: str = "") -> str:
        """The name of the kernel for inputs of this shape.

        Args:
            layer: its name, to be shown.
            geometry: its sizes.
            x: a picture as it will see.
            kernels: those that can do it, by name; the first is taken where nothing may be measured.
            when: words before the shape where the choice is not that of an evaluation.
        """
        shape = when + describe(geometry, x)
        if not saves_multiplications(geometry, x):
            kernels = {name: prepare for name, prepare in kernels.items() if name != "winograd"}
        if self.choices.get(shape) not in kernels:
            self.choices[shape] = self._choice(geometry, shape, x, kernels)
        times = self._times.get(shape, {})
        self.layers[layer, shape] = LayerChoice(layer, shape, self.choices[shape], times)
        return self.choices[shape]

    def choose_network(
        self,
        when: str,
        case: str,
        calls: Mapping[str, Callable[[], object]],
        measure: Callable[[Mapping[str, Callable[[], object]]], dict[str, float]],
    ) -> None:
        """Decide which of several calls runs a whole network, as ``measure`` finds the milliseconds of each."""
        if self.measures:
            self._times[when] = self._compare(case, calls.keys(), lambda: measure(calls))
            self.choices[when] = fastest(self._times[when])
            self.layers[WHOLE, when] = LayerChoice(WHOLE, when, self.choices[when], self._times[when])

    def why_torch(self, when: str) -> str | None:
        """In words, why PyTorch runs a whole network; None where it does not."""
        if self.choices.get(when) != "torch":
            return None
        times = self._times.get(when)
        measured = f": {times['torch']:.3g} ms, the engine {times['convatlas']:.3g}" if times else ""
        return f"PyTorch runs this network faster on this machine{measured}"

    def _compare(self, case: str, names: Collection[str], measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Milliseconds by name, as ``measure`` finds them, or as they were found on this machine before."""
        if set(self._measured.get(case, ())) != set(names):
            _say_once()
            self._measured[case] = measure()
            with suppress(StorageError):  # it is measured again next time
                write_json(self._path, _read(self._path) | self._measured)  # others may have added to it since
        return self._measured[case]

    def _choice(self, geometry: Geometry, shape: str, x: Tensor, kernels: Mapping[str, Prepare]) -> str:
        if not self.measures or len(kernels) == 1:
            return next(iter(kernels))
        images = _enough_images(geometry, x)
        case = f"{images} x {shape}: {', '.join(kernels)}"
        self._times[shape] = self._compare(case, kernels.keys(), lambda: _measure(geometry, x[:images], kernels))
        return fastest(self._times[shape])


@cache
def _say_once() -> None:
    log.warning("comparing kernels for this network on this machine; this happens once and takes some seconds")


def fastest(times: Mapping[str, float]) -> str:
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
    special = (("stride", geometry.stride), ("groups", geometry.groups), ("dilation", geometry.dilation))
    rest = "".join(f", {name} {value}" for name, value in special if value > 1)
    pads = geometry.padding
    pad = f"{pads[0]}" if pads[0] == pads[1] else f"{pads[0]}x{pads[1]}"
    return f"{high}x{wide} pad {pad}, {sizes}{rest}"


def _enough_images(geometry: Geometry, x: Tensor) -> int:
    high, wide = geometry.output_size(x.shape[2], x.shape[3])
    return min(x.shape[0], max(1, ENOUGH_PIXELS // (high * wide)))


def _tiles(high: int, wide: int) -> int:
    return -(-high // TILE) * -(-wide // TILE)


def _measure(geometry: Geometry, x: Tensor, kernels: Mapping[str, Prepare]) -> dict[str, float]:
    """Milliseconds of each kernel: the best of a few rounds in which they take turns."""
    y = empty_picture(x.shape[0], geometry.out_channels, *geometry.output_size(x.shape[2], x.shape[3]))
    with torch.no_grad():
        calls = {name: prepare(x, y) for name, prepare in kernels.items()}
        for call in calls.values():
            call()
        return take_turns(calls)


def take_turns(calls: Mapping[str, Callable[[], object]], rounds: int | None = None) -> dict[str, float]:
    """Milliseconds of each call, the best of several rounds; one that is far behind is not waited for again.

    Rounds go on until the best two of whoever may still win are alike: a call that was interrupted by another program
    is not. Before each the caches are made to forget, as in a network: other layers have used them since.
    """
    least, most = CACHED_BYTES
    elsewhere = torch.zeros(min(max(2 * cache_bytes(3), least), most) // FLOAT)
    times: dict[str, list[float]] = {name: [] for name in calls}
    racing = list(calls)
    for number in range(rounds or ROUNDS):
        elsewhere.add_(1)
        start = number % len(racing)  # whoever comes first finds nothing in the caches
        for name in racing[start:] + racing[:start]:
            times[name] = sorted([*times[name], _seconds(calls[name])])
        fastest_one = min(each[0] for each in times.values())
        racing = [name for name in calls if times[name][0] <= HOPELESS * fastest_one]
        if all(len(times[name]) > 1 and times[name][1] <= ALIKE * times[name][0] for name in racing):
            break
    return {name: round(each[0] * 1000, 4) for name, each in times.items()}


def _seconds(call: Callable[[], object]) -> float:
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
    if not isinstance(value, dict):
        return False
    return all(
        isinstance(time, float | int) and math.isfinite(time) for time in cast(dict[str, object], value).values()
    )
