"""What a network is before training: shapes, parameters, cost, receptive field, memory. It knows none of ours."""

from convatlas.inspection.inspected import Inspection, inspect_module
from convatlas.inspection.layers import INPUT, Layer
from convatlas.inspection.receptive_field import Window
from convatlas.inspection.trace import trace_module

__all__ = ["INPUT", "Inspection", "Layer", "Window", "inspect_module", "trace_module"]
