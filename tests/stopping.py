"""A training that somebody stops."""

from __future__ import annotations

import signal

from convatlas.training.progress import Silent, StepReport


class StopAt(Silent):
    """Presses Ctrl-C at a step, counted from where this training begins."""

    def __init__(self, step: int) -> None:
        self._left = step

    def step(self, report: StepReport) -> None:
        """Count down."""
        self._left -= 1
        if self._left == 0:
            signal.raise_signal(signal.SIGINT)
