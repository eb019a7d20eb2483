"""Everything that ``convatlas explain`` writes: of images, of a run's own images, and one page of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convatlas.errors import DataError, ExplanationError, RunError
from convatlas.explained.channels import draw_exciting, exciting_each, shows_apart
from convatlas.explained.drawn import FILTERS, draw_image, held, save_picture, write_filters
from convatlas.explained.features_map import MOST_MAPPED, FeaturesMap, map_of, write_map
from convatlas.explained.images import KnownImages, Tell, images_for, untold
from convatlas.explained.nearest import NearImage, draw_near, near_each
from convatlas.explained.pictures import inputs_of, label_of, seen_square
from convatlas.explanation import METHODS, explain_image, parse_channel
from convatlas.explanation.layers import tap_of
from convatlas.runs import ClassifierRun
from convatlas.transfer.baseline import some_of
from convatlas.transfer.projection import ProjectionName, known_projection

if TYPE_CHECKING:
    from torch import Tensor

    from convatlas.data.dataset import ImageArray
    from convatlas.explained.channels import ExcitingImage
    from convatlas.explanation import Channel, Explanation, MethodName
    from convatlas.reports.explained import ChannelRecord, ExplainedRecord, PictureRecord, ThumbnailRecord
    from convatlas.runs import ImageClassifier

PAGE = "index.html"
LONGEST_STEM = 40  # letters of a picture's name, in the names of files made from it


@dataclass(frozen=True)
class OfData:
    """What is asked about a network that takes the images it was trained on; nothing, as it is.

    >>> OfData(nearest=8, channels=("conv4_3:17",)).is_asked
    True
    """

    nearest: int = 0  # training images that are nearest to each explained one
    projection: str | None = None  # by which the features are drawn as a map: "tsne" or "umap"
    channels: tuple[str, ...] = ()  # LAYER:NUMBER, whose most exciting images are wanted
    data: str | Path | None = None  # where the images are now, if they have moved; of a network by name, any

    @property
    def is_asked(self) -> bool:
        """Whether the images are needed."""
        return bool(self.nearest or self.projection or self.channels)


@dataclass(frozen=True)
class ExplainedFiles:
    """What was written: JSON-ready records, one an image and one a channel, and the places of what all share."""

    images: tuple[dict[str, Any], ...]
    page: str
    filters: str | None
    features_map: dict[str, Any] | None = None
    channels: tuple[dict[str, Any], ...] = ()
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class _Wanted:
    """`OfData`, checked against the network."""

    nearest: int
    projection: ProjectionName | None
    channels: tuple[Channel, ...]

    @classmethod
    def of(cls, run: ImageClassifier, asked: OfData) -> _Wanted:
        projection = known_projection(asked.projection) if asked.projection is not None else None
        model = run.model()
        channels = tuple(dict.fromkeys(parse_channel(model, text) for text in asked.channels))
        return cls(asked.nearest, projection, channels)


@dataclass(frozen=True)
class _Found:
    """What the images that a run knows say about it."""

    known: KnownImages
    nearest: Sequence[Sequence[NearImage]]  # of each explained image; empty where it is not wanted
    features_map: tuple[ImageArray, FeaturesMap] | None
    channels: dict[Channel, list[ExcitingImage]]


def explain_files(
    run: ImageClassifier,
    images: Sequence[str | Path],
    out: Path,
    *,
    methods: Sequence[MethodName] = ("gradcam",),
    class_name: str | None = None,
    layer: str | None = None,
    of_data: OfData | None = None,
    tell: Tell = untold,
) -> ExplainedFiles:
    """Explain image files, or the run by its own images, and write pictures and one page of all into ``out``.

    >>> explain_files(run, ["seven.png"], Path("explained")).page  # doctest: +SKIP
    'explained/index.html'
    >>> explain_files(run, [], Path("explained"), of_data=OfData(projection="tsne")).page  # doctest: +SKIP
    'explained/index.html'

    Args:
        run: of a classifier; or a network with somebody's weights.
        images: any format Pillow reads; none where only ``of_data`` is asked.
        out: a folder; what it holds under other names stays.
        methods: one picture each.
        class_name: that is looked for; in each image the most probable one when left out.
        layer: a tap of the network, of methods that look at one; the last that has places when left out.
        of_data: what is asked besides, about the images that the run was trained on. Where those are gone, a remark
            says so, unless nothing else is asked or their place was named.
        tell: is told what is being done, and how much of it is.

    Raises:
        ConvatlasError: as `explain_file`, nothing is asked, or the disk refuses. All images are read before anything
            is written.
    """
    asked = of_data or OfData()
    _refuse_nothing(images, asked, methods, class_name, layer)
    label, wanted = label_of(run, class_name), _Wanted.of(run, asked)
    seen = _ImagesSeen(run, images, methods, label, layer)
    found, remarks = _looked_up(run, images, asked, wanted, tell)
    records, pictures = seen.write(out, tell)
    if found is not None:
        _write_nearest(run, found, images, records, pictures, out)
    mapped = write_map(run, *found.features_map, out) if found is not None and found.features_map else None
    drawn = [_write_channel(run, found.known, *each, out) for each in found.channels.items()] if found else []
    filters, address = write_filters(run, out / FILTERS)
    page: ExplainedRecord = {
        "model": run.network_name,
        "run_path": run.place,
        "pictures": pictures,
        "filters": address,
        "features_map": mapped[1] if mapped else None,
        "channels": [shown for _, shown in drawn],
        "kind": "training image" if isinstance(run, ClassifierRun) else "image",
        "remarks": remarks,
    }
    return ExplainedFiles(
        images=tuple(records),
        page=_write_page(page, out / PAGE),
        filters=filters,
        features_map=mapped[0] if mapped else None,
        channels=tuple(record for record, _ in drawn),
        remarks=tuple(remarks),
    )


def _refuse_nothing(
    images: Sequence[str | Path],
    asked: OfData,
    methods: Sequence[MethodName],
    class_name: str | None,
    layer: str | None,
) -> None:
    if not images and not (asked.projection or asked.channels):
        raise ExplanationError("there is nothing to explain: name images, or ask for --map or --channel LAYER:NUMBER")
    if not images and (class_name is not None or layer is not None or asked.nearest):
        raise ExplanationError("a class, a layer and the nearest images are of images: name some, or leave it out")
    if layer is not None and not any(METHODS[method].has_layer for method in methods):
        raise ExplanationError(f"{methods[0]} looks at no layer: leave {layer} out, or use gradcam")


class _ImagesSeen:
    """Image files, read; to be explained and written."""

    def __init__(
        self,
        run: ImageClassifier,
        images: Sequence[str | Path],
        methods: Sequence[MethodName],
        label: int | None,
        layer: str | None,
    ) -> None:
        self.run, self.images, self.methods, self.label = run, images, methods, label
        self.layer = tap_of(run.model(), layer)[0] if images else ""
        self.inputs = [inputs_of(run, image) for image in images]

    def write(self, out: Path, tell: Tell) -> tuple[list[dict[str, Any]], list[PictureRecord]]:
        """Records of what was written, and what the page shows."""
        records, pictures = [], []
        for number, (image, seen) in enumerate(zip(self.images, self.inputs, strict=True)):
            found = self._explained(number, seen, tell)
            place = place_of(out, self.images, number)
            maps = held(self.run.model(), seen, found, self.layer)
            record, picture = draw_image(self.run, image, found, maps, self.layer, place)
            records.append(record)
            pictures.append(picture)
        return records, pictures

    def _explained(self, number: int, seen: Tensor, tell: Tell) -> dict[MethodName, Explanation]:
        model, total = self.run.model(), len(self.images) * len(self.methods)
        found: dict[MethodName, Explanation] = {}
        for method in self.methods:
            tell("images and methods", number * len(self.methods) + len(found), total)
            chosen = self.label if not found else next(iter(found.values())).label
            layer = self.layer if METHODS[method].has_layer else None
            found[method] = explain_image(model, seen, method, chosen, layer)
        return found


def place_of(out: Path, images: Sequence[str | Path], number: int) -> Path:
    """With what the names of an image's files begin.

    >>> place_of(Path("explained"), ["photos/bee.jpg"], 0).as_posix()
    'explained/1-bee'
    """
    return out / f"{number + 1:0{len(str(len(images)))}}-{Path(images[number]).stem[:LONGEST_STEM]}"


def _looked_up(
    run: ImageClassifier, images: Sequence[str | Path], asked: OfData, wanted: _Wanted, tell: Tell
) -> tuple[_Found | None, list[str]]:
    """What the run's images say, and remarks; where they are gone, only those."""
    if not asked.is_asked:
        return None, []
    try:
        known = images_for(run, asked.data, tell)
    except (RunError, DataError, ExplanationError) as error:
        if asked.data is not None or not images:
            raise
        return None, [str(error)]
    nearest = near_each(run, images, known, wanted.nearest, tell) if wanted.nearest else []
    mapped = None
    if wanted.projection is not None:
        some = some_of(known.unfitted, MOST_MAPPED)
        mapped = some, map_of(run, known, some, wanted.projection, tell)
    channels = exciting_each(run, wanted.channels, known, tell=tell) if wanted.channels else {}
    return _Found(known, nearest, mapped, channels), list(known.remarks)


def _write_nearest(
    run: ImageClassifier,
    found: _Found,
    images: Sequence[str | Path],
    records: Sequence[dict[str, Any]],
    pictures: Sequence[PictureRecord],
    out: Path,
) -> None:
    """A sheet an image, told in its record and shown on the page."""
    from convatlas.data.decode import load_upright

    preprocessing = run.preprocessing
    for number, near in enumerate(found.nearest):
        place, picture = place_of(out, images, number), load_upright(images[number])
        left, top, side = seen_square(*picture.size, preprocessing.resize, preprocessing.crop)
        sheet, pictures[number]["nearest"] = draw_near(
            run, found.known, near, picture.crop((left, top, left + side, top + side))
        )
        file = place.with_name(f"{place.name}-nearest.png")
        save_picture(sheet, file)
        records[number]["nearest"] = [asdict(each) for each in near]
        records[number]["nearest_file"] = str(file)


def _write_channel(
    run: ImageClassifier, known: KnownImages, channel: Channel, found: Sequence[ExcitingImage], out: Path
) -> tuple[dict[str, Any], ChannelRecord]:
    file, are_pairs = None, shows_apart(run, found)
    thumbnails: list[ThumbnailRecord] = []
    if found:
        file = out / f"channel-{channel.layer}-{channel.number}.png"
        sheet, thumbnails = draw_exciting(run, known, found, are_pairs)
        save_picture(sheet, file)
    record = {
        "layer": channel.layer,
        "channel": channel.number,
        "images": [asdict(each) for each in found],
        "file": str(file) if file else None,
    }
    shown: ChannelRecord = {
        "layer": channel.layer,
        "number": channel.number,
        "are_pairs": are_pairs,
        "thumbnails": thumbnails,
        "file": str(file) if file else None,
    }
    return record, shown


def _write_page(page: ExplainedRecord, file: Path) -> str:
    from convatlas.files import write_text
    from convatlas.reports.explained import render_explained

    write_text(file, render_explained(page))
    return str(file)
