"""A matplotlib figure as SVG inside an HTML page: themed by the page, named for screen readers, unique identifiers."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from convatlas.reports.figures import missing_glyphs_allowed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
FONT_FAMILY = re.compile(r"font-family:[^;]*;?\s*")
HEX_COLOUR = re.compile(r"#[0-9a-f]{6}\b")


def inline_svg(figure: Figure, name: str, description: str, variables: Mapping[str, str]) -> str:
    """The ``<svg>`` element of a figure, without background, to stand in an HTML page.

    Text stays text: it can be selected, and takes the page's fonts. ``name`` keeps the identifiers of several figures
    on one page apart; ``description`` is what a screen reader says; ``variables`` maps colours of the figure to the CSS
    variables that replace them.

    >>> from convatlas.reports.figures import INK, loss_curve
    >>> svg = inline_svg(loss_curve([]), "loss", "Loss by epoch", {INK: "--ink"})
    >>> svg[:37], 'aria-label="Loss by epoch"' in svg, "fill: var(--ink)" in svg
    ('<svg xmlns="http://www.w3.org/2000/sv', True, True)
    """
    root = ElementTree.fromstring(_matplotlib_svg(figure))
    _remove_style_sheet(root)
    for element in root.iter():
        element.attrib.update({key: _adopted(key, value, name, variables) for key, value in element.attrib.items()})
    del root.attrib["width"], root.attrib["height"]  # the view box keeps the proportions, the page sets the size
    root.set("role", "img")
    root.set("aria-label", description)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _matplotlib_svg(figure: Figure) -> str:
    import matplotlib as mpl

    written = io.StringIO()
    # A fixed salt gives the same identifiers every time; "none" keeps text as text instead of outlines.
    with mpl.rc_context({"svg.hashsalt": "convatlas", "svg.fonttype": "none"}), missing_glyphs_allowed():
        figure.savefig(written, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    return written.getvalue()


def _remove_style_sheet(root: ElementTree.Element) -> None:
    # It would apply to the whole page; what it says (round line joins) is the page's to say.
    for definitions in root.findall(f"{{{SVG}}}defs[{{{SVG}}}style]"):
        root.remove(definitions)


def _adopted(key: str, value: str, name: str, variables: Mapping[str, str]) -> str:
    if key == "id":
        return f"{name}-{value}"
    if value.startswith("#"):  # a reference, such as xlink:href="#marker"
        return f"#{name}-{value[1:]}"
    if value.startswith("url(#"):
        return value.replace("url(#", f"url(#{name}-")
    if key == "style":
        return HEX_COLOUR.sub(lambda colour: _variable(colour[0], variables), FONT_FAMILY.sub("", value))
    return value


def _variable(colour: str, variables: Mapping[str, str]) -> str:
    return f"var({variables[colour]})" if colour in variables else colour
