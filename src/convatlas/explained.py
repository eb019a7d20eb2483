"""What a run sees in pictures: prepared as in training, explained, and drawn over the square that the network saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from convatlas.data.decode import centre_square, decode_file, load_upright
from convatlas.errors import ExplanationError, unknown_name
from convatlas.explanation import METHODS, explain_image, feature_maps, first_filters, known_method, strongest
from convatlas.explanation.layers import tap_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from convatlas.explanation import Explanation, MethodName
    from convatlas.models import Classifier
    from convatlas.reports.explained import ExplainedRecord, LayerRecord, MethodRecord, PictureRecord
    from convatlas.runs import ImageClassifier

PAGE, FILTERS = "index.html", "first-layer.png"
MOST_FILTERS = 64
LONGEST_STEM = 40  # letters of a picture's name, in the names of files made from it
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)  # arrays have no equality that is one truth
class Explained:
    """Where a run sees a class in one image."""

    map: NDArray[np.float32]  # [H, W], 0 to 1, of the square that the network saw
    class_name: str
    probability: float
    layer: str | None  # that was looked at; None of methods that look at no layer


@dataclass(frozen=True)
class ExplainedFiles:
    """What was written of some images: JSON-ready records, one an image, and the places of what all share."""

    images: tuple[dict[str, Any], ...]
    page: str
    filters: str | None


def explain_file(
    run: ImageClassifier,
    image: str | Path,
    method: str = "gradcam",
    class_name: str | None = None,
    layer: str | None = None,
) -> Explained:
    """Where a run sees a class in an image file; `convatlas.explain` says more.

    Raises:
        ConvatlasError: no such method, class or layer; a file that is no image; a run without weights.
    """
    known_method(method)
    label = _label(run, class_name)
    found = explain_image(run.model(), _inputs(run, image), method, label, layer)
    _answers(run, found, image)  # refuses what is not finite
    return Explained(found.map.numpy(), run.classes[found.label], _probability(found), found.layer)


def explain_files(
    run: ImageClassifier,
    images: Sequence[str | Path],
    out: Path,
    *,
    methods: Sequence[MethodName] = ("gradcam",),
    class_name: str | None = None,
    layer: str | None = None,
    tell: Tell = lambda *_: None,
) -> ExplainedFiles:
    """Explain image files and write, into ``out``, a picture for each method, the layer's maps, and one page of all.

    >>> explain_files(run, ["seven.png"], Path("explained")).page  # doctest: +SKIP
    'explained/index.html'

    Args:
        run: of a classifier; or a network with somebody's weights.
        images: any format Pillow reads.
        out: a folder; what it holds under other names stays.
        methods: one picture each.
        class_name: that is looked for; in each image the most probable one when left out.
        layer: a tap of the network, of methods that look at one; the last that has places when left out.
        tell: is told what is being done, and how much of it is.

    Raises:
        ConvatlasError: as `explain_file`, or the disk refuses. All images are read before anything is written.
    """
    if layer is not None and not any(METHODS[method].has_layer for method in methods):
        raise ExplanationError(f"{methods[0]} looks at no layer: leave {layer} out, or use gradcam")
    label, model = _label(run, class_name), run.model()
    layer, _ = tap_of(model, layer)
    inputs = [_inputs(run, image) for image in images]
    records, pictures, total = [], [], len(images) * len(methods)
    for number, (image, seen) in enumerate(zip(images, inputs, strict=True)):
        found: dict[MethodName, Explanation] = {}
        for method in methods:
            tell("images and methods", number * len(methods) + len(found), total)
            chosen = label if not found else next(iter(found.values())).label
            found[method] = explain_image(model, seen, method, chosen, layer if METHODS[method].has_layer else None)
        place = out / f"{number + 1:0{len(str(len(images)))}}-{Path(image).stem[:LONGEST_STEM]}"
        record, picture = _drawn(run, image, found, _held(model, seen, found, layer), layer, place)
        records.append(record)
        pictures.append(picture)
    filters, address = _write_filters(run, out / FILTERS)
    page: ExplainedRecord = {
        "model": run.network_name,
        "run_path": run.place,
        "pictures": pictures,
        "filters": address,
    }
    return ExplainedFiles(tuple(records), _write_page(page, out / PAGE), filters)


def seen_square(width: int, height: int, resize: int, crop: int) -> tuple[int, int, int]:
    """Left, top and side of what the network sees of a picture whose short side becomes ``resize``, cut to ``crop``.

    >>> seen_square(640, 480, resize=256, crop=224)
    (110, 30, 420)
    """
    left, top, whole = centre_square(width, height)
    side = max(1, round(whole * crop / resize))
    return left + round((whole - side) / 2), top + round((whole - side) / 2), side


def _label(run: ImageClassifier, class_name: str | None) -> int | None:
    if class_name is None:
        return None
    if class_name not in run.classes:
        raise unknown_name("class", class_name, run.classes)
    return run.classes.index(class_name)


def _inputs(run: ImageClassifier, image: str | Path) -> torch.Tensor:
    """The image [C, H, W] as the network takes it, where the network is."""
    preprocessing = run.preprocessing
    pixels = torch.from_numpy(decode_file(image, preprocessing.channels, preprocessing.resize))
    return preprocessing.normalize(pixels[None].to(next(run.model().parameters()).device))[0]


def _answers(run: ImageClassifier, found: Explanation, image: str | Path) -> tuple[tuple[str, float], ...]:
    """The most probable classes, best first."""
    return run.task().predictions(found.logits[None], [image])[0].top


def _probability(found: Explanation) -> float:
    return float(found.logits.softmax(dim=0)[found.label])


def _held(model: Classifier, seen: torch.Tensor, found: dict[MethodName, Explanation], layer: str) -> torch.Tensor:
    """The layer's maps [C, h, w]: what a method has seen of them already, else of one more forward pass."""
    kept = (explanation.feature_maps for explanation in found.values())
    at_hand = next((maps for maps in kept if maps is not None), None)
    return feature_maps(model, seen, layer) if at_hand is None else at_hand


def _drawn(
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
    top, class_name, probability = _answers(run, first, image), run.classes[first.label], _probability(first)
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
    }


def _draw_method(method: MethodName, found: Explanation, square: Image.Image, place: Path) -> MethodRecord:
    from convatlas.reports.heat import address, heat, overlaid

    said, values = METHODS[method], found.map.numpy()
    file = place.with_name(f"{place.name}-{method}.png")
    _save(overlaid(square, values), file)
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
    _save(sheet, file)
    shown: LayerRecord = {
        "layer": layer,
        "shown": len(chosen.channels),
        "channels": len(held),
        "picture": address(sheet),
    }
    return shown, str(file)


def _write_filters(run: ImageClassifier, file: Path) -> tuple[str | None, str | None]:
    """The first layer's filters as a file and as an address; neither where there are none that can be seen."""
    from convatlas.reports.heat import address, filter_tiles

    filters = first_filters(run.model())
    if filters is None:
        return None, None
    seen = filters[:MOST_FILTERS, :3].cpu()
    ordered = seen.flip(1) if run.preprocessing.channel_order == "BGR" else seen
    tiles = ordered[:, 0] if ordered.shape[1] < 3 else ordered.permute(0, 2, 3, 1)
    sheet = filter_tiles(tiles.contiguous().numpy())
    _save(sheet, file)
    return str(file), address(sheet)


def _write_page(page: ExplainedRecord, file: Path) -> str:
    from convatlas.files import write_text
    from convatlas.reports.explained import render_explained

    write_text(file, render_explained(page))
    return str(file)


def _save(picture: Image.Image, file: Path) -> None:
    from convatlas.files import replacing

    with replacing(file) as temporary:
        picture.save(temporary, "PNG")
