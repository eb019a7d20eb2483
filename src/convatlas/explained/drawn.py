"""What was found in one image as pictures: over the square that the network saw; a layer's maps, its filters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from convatlas.data.decode import load_upright
from convatlas.explained.pictures import answers_of, probability_of, seen_square
from convatlas.explanation import METHODS, feature_maps, first_filters, strongest

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from convatlas.explanation import Explanation, MethodName
    from convatlas.models import Classifier
    from convatlas.reports.explained import LayerRecord, MethodRecord, PictureRecord
    from convatlas.runs import ImageClassifier

FILTERS = "first-layer.png"
MOST_FILTERS = 64


def held(model: Classifier, seen: torch.Tensor, found: dict[MethodName, Explanation], layer: str) -> torch.Tensor:
    """The layer's maps [C, h, w]: what a method has seen of them already, else of one more forward pass."""
    kept = (explanation.feature_maps for explanation in found.values())
    at_hand = next((maps for maps in kept if maps is not None), None)
    return feature_maps(model, seen, layer) if at_hand is None else at_hand


def draw_image(
    run: ImageClassifier,
    image: str | Path,
    found: dict[MethodName, Explanation],
    held: torch.Tensor,
    layer: str,
    place: Path,
) -> tuple[dict[str, Any], PictureRecord]:
    """The files of one image: a record of them, and what the page shows. Their names begin with ``place``."""
    from convatlas.reports.heat import address, shown_square

    first = next(iter(found.values()))
    top, class_name, probability = answers_of(run, first, image), run.classes[first.label], probability_of(first)
    picture, preprocessing = load_upright(image), run.preprocessing
    square = shown_square(picture, *seen_square(*picture.size, preprocessing.resize, preprocessing.crop))
    methods = [_draw_method(method, each, square, place) for method, each in found.items()]
    maps, maps_file = _draw_maps(held, layer, place)
    record = {
        "image": str(image),
        "class": class_name,
        "probability": probability,
        "layer": layer,
        "top": [{"class": name, "probability": share} for name, share in top],
        "methods": [{"method": each["name"], "layer": each["layer"], "file": each["file"]} for each in methods],
        "maps": maps_file,
    }
    return record, {
        "name": str(image),
        "explained": class_name,
        "probability": probability,
        "top": top,
        "picture": address(square),
        "methods": methods,
        "maps": maps,
        "nearest": [],
    }


def _draw_method(method: MethodName, found: Explanation, square: Image.Image, place: Path) -> MethodRecord:
    from convatlas.reports.heat import address, heat, overlaid

    said, values = METHODS[method], found.map.numpy()
    file = place.with_name(f"{place.name}-{method}.png")
    save_picture(overlaid(square, values), file)
    return {
        "name": method,
        "title": said.title,
        "meaning": said.meaning,
        "source": said.source,
        "layer": found.layer,
        "heat": address(heat(values)),
        "file": str(file),
    }


def _draw_maps(held: torch.Tensor, layer: str, place: Path) -> tuple[LayerRecord, str]:
    from convatlas.reports.heat import address, map_tiles

    chosen = strongest(held)
    sheet = map_tiles(chosen.maps.cpu().numpy(), chosen.channels)
    file = place.with_name(f"{place.name}-{layer}.png")
    save_picture(sheet, file)
    shown: LayerRecord = {
        "layer": layer,
        "shown": len(chosen.channels),
        "channels": len(held),
        "picture": address(sheet),
    }
    return shown, str(file)


def write_filters(run: ImageClassifier, file: Path) -> tuple[str | None, str | None]:
    """The first layer's filters as a file and as an address; neither where there are none that can be seen."""
    from convatlas.reports.heat import address, filter_tiles

    filters = first_filters(run.model())
    if filters is None:
        return None, None
    seen = filters[:MOST_FILTERS, :3].cpu()
    ordered = seen.flip(1) if run.preprocessing.channel_order == "BGR" else seen
    tiles = ordered[:, 0] if ordered.shape[1] < 3 else ordered.permute(0, 2, 3, 1)
    sheet = filter_tiles(tiles.contiguous().numpy())
    save_picture(sheet, file)
    return str(file), address(sheet)


def save_picture(picture: Image.Image, file: Path) -> None:
    """As PNG; what is there is replaced whole or not at all."""
    from convatlas.files import replacing

    with replacing(file) as temporary:
        picture.save(temporary, "PNG")
