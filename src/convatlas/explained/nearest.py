"""Which training images a network takes to be most like one: nearest in what it knows of them, not in their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convatlas.data.dataset import ImageArray
from convatlas.data.decode import decode_file
from convatlas.explained.images import KnownImages, Tell, images_for, seen_pixels, untold
from convatlas.transfer.features import features_and_answers, features_of
from convatlas.transfer.similar import most_similar

if TYPE_CHECKING:
    from PIL import Image

    from convatlas.reports.explained import ThumbnailRecord
    from convatlas.runs import ImageClassifier

MOST_NEAR = 8


@dataclass(frozen=True)
class NearImage:
    """A training image, and how like another a network takes it to be."""

    image: str  # its file, or its place in an array
    class_name: str
    similarity: float  # the cosine of the angle between their features, 1 of the same
    position: int  # among the training images


def nearest_images(
    run: ImageClassifier, image: str | Path, most: int = MOST_NEAR, data: str | Path | None = None
) -> list[NearImage]:
    """The training images whose features are nearest to an image's, the nearest first.

    The features are what the output layer is given; near is a large cosine similarity.

    >>> nearest_images(convatlas.load("runs/mine"), "cat.jpg")[0].class_name  # doctest: +SKIP
    'cat'

    Args:
        run: of a classifier; or a network with somebody's weights.
        image: a file, in any format Pillow reads.
        most: how many.
        data: where the run's images are now, if they have moved; of a network by name, any images.

    Raises:
        ConvatlasError: the images are gone, there are none, or the file is no image.
    """
    return near_each(run, [image], images_for(run, data), most)[0]


def near_each(
    run: ImageClassifier,
    images: Sequence[str | Path],
    known: KnownImages,
    most: int = MOST_NEAR,
    tell: Tell = untold,
) -> list[list[NearImage]]:
    """As `nearest_images`, of several, for one pass over the training images."""
    network, preprocessing, train = run.model(), run.preprocessing, known.dataset.train
    pixels = np.stack([decode_file(image, preprocessing.channels, preprocessing.resize) for image in images])
    asked = ImageArray.of(pixels, np.zeros(len(pixels), dtype=np.int64))
    others = features_of(network, asked, preprocessing)
    telling = partial(tell, "training images")
    features = features_and_answers(network, train, preprocessing, tell=telling).features
    places, similarities = most_similar(features, others, most)
    return [
        [
            NearImage(known.name_in(train, place), known.class_in(train, place), round(similarity, 4), place)
            for place, similarity in zip(row, values, strict=True)
        ]
        for row, values in zip(places.tolist(), similarities.tolist(), strict=True)
    ]


def draw_near(
    run: ImageClassifier, known: KnownImages, found: Sequence[NearImage], asked: Image.Image
) -> tuple[Image.Image, list[ThumbnailRecord]]:
    """A sheet of an image, ``asked``, and those that are near it; and each of those for the page."""
    from convatlas.reports.heat import address
    from convatlas.reports.sheets import Tile, sheet, thumbnail

    pictures = [thumbnail(seen_pixels(run, known.dataset.train, near.position)) for near in found]
    captions = [(near.class_name, f"similarity {near.similarity:.3f}") for near in found]
    first = Tile(thumbnail(asked), ("the image", "that is explained"))
    tiles = [first, *(Tile(picture, caption) for picture, caption in zip(pictures, captions, strict=True))]
    shown: list[ThumbnailRecord] = [
        {"picture": address(picture), "title": caption[0], "note": caption[1], "name": near.image}
        for picture, caption, near in zip(pictures, captions, found, strict=True)
    ]
    return sheet(tiles, columns=3), shown
