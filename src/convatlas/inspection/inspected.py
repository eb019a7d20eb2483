"""What a traced network comes to: its layers with their totals, as an object and as plain records for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from convatlas.errors import InspectionError, unknown_name
from convatlas.inspection.layers import Layer, list_layers
from convatlas.inspection.trace import trace_module

if TYPE_CHECKING:
    from convatlas.inspection.memory import MemoryPlan


@dataclass(frozen=True)
class Inspection:
    """A network as it is, before any training.

    Figures of the whole network count every parameter once; ``layers`` add up to them, but for ``unused``.
    """

    model: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    layers: tuple[Layer, ...]
    parameters: int  # trainable
    frozen_parameters: int
    buffers: int  # floating-point numbers that are kept with the weights and not trained
    unused: Mapping[str, int]  # parameters that the forward pass does not read: module -> how many
    memory: MemoryPlan | None = None
    why_no_memory: str | None = None  # where it could not be planned
    memory_limit: int | None = None  # bytes
    largest_batch: int | None = None  # that can be trained within the limit

    @property
    def macs(self) -> int | None:
        """Multiply-adds of the pass; None where an operator's are not known."""
        return _total([layer.macs for layer in self.layers])

    @property
    def flops(self) -> int | None:
        """Two for each multiply-add; None where an operator's are not known."""
        return _total([layer.flops for layer in self.layers])

    @property
    def unknown_operators(self) -> tuple[str, ...]:
        """Operators of which neither cost nor window is known; nothing is guessed for them."""
        return tuple(dict.fromkeys(name for layer in self.layers for name in layer.unknown_operators))

    def layer(self, name: str) -> Layer:
        """A layer by the paper's name or by its path; the last call of one that is called more than once.

        >>> import convatlas
        >>> convatlas.inspect("vgg16").layer("conv5_3").receptive_field.size
        (196, 196)

        Raises:
            UnknownNameError: there is none; the nearest are named.
        """
        found = [layer for layer in self.layers if name in (layer.tap, layer.name)]
        if not found:
            raise unknown_name("layer", name, [layer.tap or layer.name for layer in self.layers])
        return found[-1]

    def record(self) -> dict[str, Any]:
        """The same as plain values, ready for JSON."""
        return {
            "model": self.model,
            "input_shape": list(self.input_shapes[0]) if self.input_shapes else [],
            "output_shapes": [list(shape) for shape in self.output_shapes],
            "parameters": self.parameters,
            "frozen_parameters": self.frozen_parameters,
            "buffers": self.buffers,
            "unused_parameters": dict(self.unused),
            "macs": self.macs,
            "flops": self.flops,
            "memory": self._memory_record(),
            "why_no_memory": self.why_no_memory,
            "unknown_operators": list(self.unknown_operators),
            "layers": [_record(layer) for layer in self.layers],
        }

    def _memory_record(self) -> dict[str, Any] | None:
        if self.memory is None:
            return None
        limit = {"limit_bytes": self.memory_limit, "largest_batch": self.largest_batch}
        return {
            "batch_size": self.memory.batch_size,
            "inference_peak_bytes": self.memory.inference_peak_bytes,
            "training_peak_bytes": self.memory.training_peak_bytes,
            "textbook_bytes": self.memory.textbook_bytes,
            "planned_for": str(self.memory.setting),
            "peak_at": self.memory.training_peak_at,
            "at_peak": asdict(self.memory.at_training_peak),
            "largest_layers": [asdict(layer) for layer in self.memory.largest_layers()],
            **(limit if self.memory_limit is not None else {}),
        }


def inspect_module(
    module: nn.Module, *inputs: Any, name: str | None = None, taps: Mapping[str, str] | None = None
) -> Inspection:
    """Run a module once on fake tensors and tell what it is made of.

    >>> import torch
    >>> inspection = inspect_module(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.zeros(1, 3, 32, 32))
    >>> inspection.parameters, inspection.macs
    (224, 194400)

    Args:
        module: any module; it is left as it was.
        inputs: what it is called with.
        name: what to call it; its class's name when left out.
        taps: paper's name of a layer -> path of the module whose output it is.

    Raises:
        InspectionError: the module cannot be called with these inputs; says where and why.
    """
    _refuse_uninitialized(module)
    trace = trace_module(module, *inputs)
    parameters = dict(module.named_parameters())
    values = {value.index for operator in trace.operators for value in operator.inputs}
    read = {name for index, name in trace.parameters.items() if index in values}
    unused: dict[str, int] = {}
    for path, tensor in parameters.items():
        if path not in read:
            owner = path.partition(".")[0]
            unused[owner] = unused.get(owner, 0) + tensor.numel()
    frozen = sum(tensor.numel() for tensor in parameters.values() if not tensor.requires_grad)
    return Inspection(
        model=name or type(module).__name__,
        input_shapes=tuple(value.shape for value in trace.inputs),
        output_shapes=tuple(value.shape for value in trace.calls[0].outputs),
        layers=tuple(list_layers(trace, taps)),
        parameters=sum(tensor.numel() for tensor in parameters.values()) - frozen,
        frozen_parameters=frozen,
        buffers=sum(buffer.numel() for buffer in module.buffers() if buffer.is_floating_point()),
        unused=unused,
    )


def _refuse_uninitialized(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InspectionError(
                f"{name} has no shape yet (a lazy layer); call the module once on an example before inspecting it"
            )


def _total(figures: list[int | None]) -> int | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) if len(known) == len(figures) else None


def _record(layer: Layer) -> dict[str, Any]:
    window = layer.receptive_field
    return {
        "name": layer.name,
        "tap": layer.tap,
        "type": layer.type,
        "detail": layer.detail,
        "depth": layer.name.count(".") + 1 if layer.name else 0,
        "call": layer.call,
        "calls": layer.calls,
        "input_shapes": [list(shape) for shape in layer.input_shapes],
        "output_shape": list(layer.output_shape),
        "parameters": layer.parameters,
        "frozen_parameters": layer.frozen_parameters,
        "buffers": layer.buffers,
        "macs": layer.macs,
        "flops": layer.flops,
        "receptive_field": list(window.size) if window else None,
        "jump": list(window.jump) if window and window.jump else None,
        "centre": list(window.centre) if window else None,
        "activation_bytes": layer.activation_bytes,
        "operators": list(layer.operators),
        "unknown_operators": list(layer.unknown_operators),
        "sources": list(layer.sources),
    }
