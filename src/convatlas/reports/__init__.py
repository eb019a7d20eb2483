"""Runs as figures and offline pages, made from plain records: no torch, nothing of the rest of the package."""

from convatlas.reports.confusions import Confusion, most_confused
from convatlas.reports.figures import confusion_figure, learning_curves, save_figure
from convatlas.reports.page import render_run
from convatlas.reports.record import RunRecord

__all__ = [
    "Confusion",
    "RunRecord",
    "confusion_figure",
    "learning_curves",
    "most_confused",
    "render_run",
    "save_figure",
]
