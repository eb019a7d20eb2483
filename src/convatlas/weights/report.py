"""What became of each layer when weights were loaded: nothing is left out silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from convatlas.errors import first_of
from convatlas.weights.layers import Kind

Status = Literal["loaded", "new head", "mismatched", "initial"]
STATUSES: tuple[Status, ...] = ("loaded", "new head", "mismatched", "initial")
COLUMNS = 80  # of a terminal
MEANING = {
    "loaded": "loaded",
    "new head": "new head",
    "mismatched": "shape differs",
    "initial": "left at initial",
}


@dataclass(frozen=True)
class LayerReport:
    """One layer of the network."""

    layer: str
    kind: Kind
    status: Status
    parameters: int
    source: str | None = None  # the layer of the file
    detail: str = ""


@dataclass(frozen=True)
class SkippedLayer:
    """One layer of the file that nothing was made of."""

    layer: str
    parameters: int


@dataclass(frozen=True)
class LoadReport:
    """What was loaded into which layers, what was not, and why.

    >>> report = LoadReport("a.pth", "by name", (LayerReport("conv", "convolution", "loaded", 9),), ())
    >>> report.loaded, report.share
    (9, 1.0)
    """

    source: str
    how: str  # "by name", "by the papers' names", "in the order of the layers"
    layers: tuple[LayerReport, ...]
    skipped: tuple[SkippedLayer, ...]
    remarks: tuple[str, ...] = ()

    @property
    def loaded(self) -> int:
        """Parameters that were loaded."""
        return self._count("loaded")

    @property
    def total(self) -> int:
        """Parameters of the network without layers that were made anew for other classes."""
        return sum(layer.parameters for layer in self.layers) - self._count("new head")

    @property
    def share(self) -> float:
        """Of the network's parameters, new head apart, those that were loaded."""
        return self.loaded / self.total if self.total else 0.0

    @property
    def features_share(self) -> float:
        """The same of all layers but the dense ones, which depend on the classes and the size of the images."""
        layers = [layer for layer in self.layers if layer.kind != "dense" and layer.status != "new head"]
        total = sum(layer.parameters for layer in layers)
        return sum(layer.parameters for layer in layers if layer.status == "loaded") / total if total else self.share

    def lines(self) -> list[str]:
        r"""The table, in lines of text that fit 80 columns as far as the names of layers do.

        >>> layers = (LayerReport("conv", "convolution", "loaded", 9),)
        >>> print(*LoadReport("a.pth", "by name", layers, ()).lines(), sep="\n")
        weights  a.pth, by name
          loaded                         9 parameters in 1 layer
        """
        found = [f"weights  {self.source}, {self.how}"]
        for status in STATUSES:
            own = [layer for layer in self.layers if layer.status == status]
            if own:
                named = "" if status == "loaded" else first_of(map(_named, own), 3)
                found += _lines(MEANING[status], sum(layer.parameters for layer in own), len(own), named)
        if self.skipped:
            named = first_of((layer.layer for layer in self.skipped), 3)
            count = sum(layer.parameters for layer in self.skipped)
            found += _lines("not used of the file", count, len(self.skipped), named)
        return found + [f"  ! {remark}" for remark in self.remarks]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, layer by layer."""
        return asdict(self) | {"loaded": self.loaded, "total": self.total}

    def _count(self, status: Status) -> int:
        return sum(layer.parameters for layer in self.layers if layer.status == status)


def _named(layer: LayerReport) -> str:
    return f"{layer.layer} ({layer.detail})" if layer.detail else layer.layer


def _lines(what: str, parameters: int, layers: int, named: str) -> list[str]:
    """A line of the table; the names of layers on one of their own where they would not fit a terminal."""
    line = f"  {what:<20} {parameters:>11,} parameters in {layers:,} layer{'s' if layers != 1 else ''}"
    if not named:
        return [line]
    whole = f"{line}: {named}"
    return [whole] if len(whole) <= COLUMNS else [f"{line}:", f"    {named}"]


def shapes(theirs: Sequence[int], ours: Sequence[int]) -> str:
    """Two shapes that are not the same, in words.

    >>> shapes((1000, 512), (10, 512))
    '1000x512, here 10x512'
    """
    return f"{_by(theirs)}, here {_by(ours)}"


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
