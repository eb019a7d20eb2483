"""Runs and inspected networks as figures, tables and offline pages.

All are made from plain records: no torch, nothing of the rest of the package.
"""

from convatlas.reports.bubbles import BubbleRow, bubble_figure
from convatlas.reports.confusions import Confusion, most_confused
from convatlas.reports.diagram import diagram_figure
from convatlas.reports.figures import confusion_figure, learning_curves, save_figure
from convatlas.reports.inspected import InspectedModel, LayerRow, folded_to_depth, layers_csv, layers_markdown
from convatlas.reports.layer_bars import layer_bars_figure
from convatlas.reports.page import render_run
from convatlas.reports.receptive_field import receptive_field_figure
from convatlas.reports.record import RunRecord

__all__ = [
    "BubbleRow",
    "Confusion",
    "InspectedModel",
    "LayerRow",
    "RunRecord",
    "bubble_figure",
    "confusion_figure",
    "diagram_figure",
    "folded_to_depth",
    "layer_bars_figure",
    "layers_csv",
    "layers_markdown",
    "learning_curves",
    "most_confused",
    "receptive_field_figure",
    "render_run",
    "save_figure",
]
