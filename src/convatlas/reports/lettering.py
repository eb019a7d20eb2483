"""How much room a text takes, known before anything is drawn."""

from __future__ import annotations

from functools import lru_cache

from convatlas.reports.figures import missing_glyphs_allowed


@lru_cache(maxsize=4096)
def text_width(text: str, points: float, *, bold: bool = False) -> float:
    """Width in inches of a line in matplotlib's default font, whatever is in it.

    >>> 0.3 < text_width("convolution", 7) < 0.7
    True
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=points, weight="bold" if bold else "normal")
    with missing_glyphs_allowed():
        width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72
