"""A map of images that a network was not fitted to: each a point, near those that it takes to be alike."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convatlas.explained.images import KnownImages, Tell, images_for, seen_pixels, untold
from convatlas.transfer.baseline import some_of
from convatlas.transfer.features import features_and_answers
from convatlas.transfer.projection import TITLES, ProjectionName, known_projection, projected

if TYPE_CHECKING:
    from convatlas.data.dataset import ImageArray
    from convatlas.reports.explained import FeaturesMapRecord, ThumbnailRecord
    from convatlas.runs import ImageClassifier

MOST_MAPPED = 2000  # images: more take t-SNE minutes, and their points hide each other
MOST_WRONG_SHOWN = 12
MAP, TABLE = "features-map.png", "features-map.csv"


@dataclass(frozen=True, eq=False)  # arrays have no equality that is one truth
class FeaturesMap:
    """Images as points of a plane, each with its class and what the network took it for."""

    points: NDArray[np.float32]  # [N, 2]
    images: tuple[str, ...]
    classes: tuple[str, ...]  # of each image
    answers: tuple[str, ...]
    part: str  # "test" or "validation"
    projection: ProjectionName
    is_judged: bool  # whether all the classes are ones that the network names

    @property
    def wrong(self) -> list[int]:
        """The numbers of the misclassified images; none where the network does not name these classes."""
        pairs = enumerate(zip(self.classes, self.answers, strict=True))
        return [place for place, (own, answer) in pairs if self.is_judged and own != answer]


def map_features(
    run: ImageClassifier, projection: str = "tsne", data: str | Path | None = None, most: int = MOST_MAPPED
) -> FeaturesMap:
    """The features of the test images, or else of the validation's, as points of a plane.

    >>> map_features(convatlas.load("runs/mine")).points.shape  # doctest: +SKIP
    (359, 2)

    Args:
        run: of a classifier; or a network with somebody's weights.
        projection: "tsne", or "umap", which takes the package umap-learn.
        data: where the run's images are now, if they have moved; of a network by name, any images.
        most: of more images so many are drawn, always the same.

    Raises:
        ConvatlasError: no such projection, the images are gone, or there are too few.
    Source: van der Maaten & Hinton 2008, "Visualizing Data using t-SNE".
    """
    by = known_projection(projection)
    known = images_for(run, data)
    return map_of(run, known, some_of(known.unfitted, most), by)


def map_of(
    run: ImageClassifier, known: KnownImages, images: ImageArray, by: ProjectionName, tell: Tell = untold
) -> FeaturesMap:
    """As `map_features`, of images that are at hand."""
    telling = partial(tell, f"{known.part} images")
    seen = features_and_answers(run.model(), images, run.preprocessing, tell=telling)
    tell(f"{TITLES[by]} of {len(images):,} images", 0, 1)
    return FeaturesMap(
        points=projected(seen.features, by),
        images=tuple(known.name_in(images, place) for place in range(len(images))),
        classes=tuple(known.class_in(images, place) for place in range(len(images))),
        answers=tuple(run.classes[answer] for answer in seen.answers.tolist()),
        part=known.part,
        projection=by,
        is_judged=set(known.dataset.classes) <= set(run.classes),
    )


def write_map(
    run: ImageClassifier, images: ImageArray, found: FeaturesMap, out: Path
) -> tuple[dict[str, Any], FeaturesMapRecord]:
    """The map as a picture and as a table, in ``out``; a record of them, and what the page shows."""
    from convatlas.files import write_text
    from convatlas.reports.features_map import features_figure, features_svg
    from convatlas.reports.figures import save_figure

    title, wrong = TITLES[found.projection], found.wrong
    save_figure(features_figure(found.points.tolist(), found.classes, wrong), out / MAP)
    write_text(out / TABLE, _as_csv(found))
    record = {
        "projection": found.projection,
        "images": len(found.images),
        "part": found.part,
        "misclassified": len(wrong) if found.is_judged else None,
        "file": str(out / MAP),
        "table": str(out / TABLE),
    }
    return record, {
        "title": title,
        "part": found.part,
        "images": len(found.images),
        "is_judged": found.is_judged,
        "wrong": len(wrong),
        "svg": features_svg(found.points.tolist(), found.classes, wrong, title),
        "thumbnails": [_wrong_thumbnail(run, images, found, place) for place in wrong[:MOST_WRONG_SHOWN]],
        "file": str(out / MAP),
        "table": str(out / TABLE),
    }


def _wrong_thumbnail(run: ImageClassifier, images: ImageArray, found: FeaturesMap, place: int) -> ThumbnailRecord:
    from convatlas.reports.heat import address
    from convatlas.reports.sheets import thumbnail

    return {
        "picture": address(thumbnail(seen_pixels(run, images, place))),
        "title": found.classes[place],
        "note": f"taken for {found.answers[place]}",
        "name": found.images[place],
    }


def _as_csv(found: FeaturesMap) -> str:
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\n")
    table.writerow(("image", "class", "answer", "x", "y"))
    for name, own, answer, (x, y) in zip(
        found.images, found.classes, found.answers, found.points.tolist(), strict=True
    ):
        table.writerow((name, own, answer, f"{x:.4f}", f"{y:.4f}"))
    return written.getvalue()
