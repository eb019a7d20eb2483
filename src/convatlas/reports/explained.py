"""What a network sees in some pictures, as one HTML file that needs nothing else: no network, light and dark, phone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from convatlas.reports.heat import OPACITY
from convatlas.reports.page import environment

if TYPE_CHECKING:
    from markupsafe import Markup

# The page's policy names the script by its hash, so that no other runs on it, whatever a class is called.
SCRIPT = """
for (const slider of document.querySelectorAll("input[type=range]")) {
  const section = slider.closest("section");
  const show = () => section.style.setProperty("--opacity", slider.value / 100);
  slider.addEventListener("input", show);
  show();
}
"""


class MethodRecord(TypedDict):
    """One map of one picture."""

    name: str
    title: str
    meaning: str
    source: str
    layer: str | None
    heat: str  # a data: address
    file: str


class LayerRecord(TypedDict):
    """The strongest channels of a layer."""

    layer: str
    shown: int
    channels: int
    picture: str  # a data: address


class ThumbnailRecord(TypedDict):
    """A small picture with two lines below it."""

    picture: str  # a data: address
    title: str
    note: str
    name: str  # of its file, or its place in an array


class FeaturesMapRecord(TypedDict):
    """Images as points of a plane."""

    title: str  # of the projection
    part: str
    images: int
    is_judged: bool
    wrong: int
    svg: Markup
    thumbnails: Sequence[ThumbnailRecord]  # of misclassified images
    file: str
    table: str


class ChannelRecord(TypedDict):
    """The images that most excite a channel."""

    layer: str
    number: int
    are_pairs: bool  # whether what the strongest place sees stands beside each picture
    thumbnails: Sequence[ThumbnailRecord]
    file: str | None  # None where no image excites it


class PictureRecord(TypedDict):
    """One picture, what the network took it for, and where it saw that."""

    name: str
    explained: str  # the class
    probability: float
    top: Sequence[tuple[str, float]]
    picture: str  # a data: address
    methods: Sequence[MethodRecord]
    maps: LayerRecord
    nearest: Sequence[ThumbnailRecord]  # training images; empty where they are not asked for


class ExplainedRecord(TypedDict):
    """What the page of a command shows."""

    model: str
    run_path: str
    pictures: Sequence[PictureRecord]
    filters: str | None  # a data: address
    features_map: FeaturesMapRecord | None
    channels: Sequence[ChannelRecord]
    kind: str  # of the nearest and the most exciting images: "training image", or "image" of a network by name
    remarks: Sequence[str]


def render_explained(record: ExplainedRecord) -> str:
    """The page of some explained pictures, as HTML text; names are escaped, and the same record gives the same bytes.

    >>> asked = {"pictures": [], "filters": None, "features_map": None, "channels": [], "kind": "", "remarks": []}
    >>> "<h1>What lenet5 sees</h1>" in render_explained({"model": "lenet5", "run_path": "runs/mine", **asked})
    True
    """
    from markupsafe import Markup

    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    template = environment().get_template("explained.html.jinja")
    return template.render(
        explained=record, script=Markup(SCRIPT), script_hash=f"sha256-{digest}", opacity=round(100 * OPACITY)
    )  # safe: the script above, and nothing else
