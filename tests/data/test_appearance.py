"""The usual looks of a set, and what is unlike them: measured, put in words, held against what a card may say."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from convatlas.data.appearance import FEWEST, MOST, Appearance
from convatlas.data.cache import prepare
from convatlas.data.catalog import open_source
from convatlas.data.dataset import Dataset, ImageArray


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return prepare(open_source("digits"), channels=1, resize=28)


def usual_of(dataset: Dataset) -> Appearance:
    usual = Appearance.of(dataset.train, crop=28)
    assert usual is not None
    return usual


def shown_of(dataset: Dataset) -> np.ndarray:
    assert dataset.test is not None
    return dataset.test.take(np.arange(len(dataset.test)))


def test_no_digit_of_the_test_set_is_unlike_and_every_inverted_one_is(digits: Dataset) -> None:
    usual, images = usual_of(digits), shown_of(digits)
    assert not any(usual.unlike(images))
    inverted = usual.unlike(255 - images)
    assert all(inverted)
    assert all({"brighter", "brighter at its border"} <= set(words) for words in inverted)


def test_noise_and_black_are_unlike_digits(digits: Dataset) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), np.uint8)
    [of_noise], [of_black] = usual_of(digits).unlike(noise), usual_of(digits).unlike(np.zeros((1, 28, 28, 1), np.uint8))
    assert of_noise[0] == "more finely patterned"
    assert "darker" in of_black


def test_a_coloured_image_is_unlike_grey_ones_and_alpha_is_no_colour() -> None:
    greys = np.random.default_rng(0).integers(60, 200, (FEWEST, 8, 8, 1), np.uint8).repeat(4, axis=3)
    greys[..., 3] = 255
    usual = Appearance.of(ImageArray.of(greys, np.zeros(FEWEST, np.int64)), crop=8)
    assert usual is not None
    red = greys[:1].copy()
    red[..., 1:3] //= 2
    assert usual.unlike(greys[:1]) == [()]
    assert "more colourful" in usual.unlike(red)[0]


def test_only_the_centre_that_the_network_sees_counts(digits: Dataset) -> None:
    usual = Appearance.of(digits.train, crop=20)
    assert usual is not None
    framed = shown_of(digits)[:5].copy()
    framed[:, :4] = framed[:, -4:] = 255
    assert not any(usual.unlike(framed))


def test_few_images_tell_nothing_and_one_pixel_is_measured() -> None:
    few = ImageArray.of(np.zeros((FEWEST - 1, 4, 4, 3), np.uint8), np.zeros(FEWEST - 1, np.int64))
    assert Appearance.of(few, crop=4) is None
    dots = ImageArray.of(np.zeros((FEWEST, 1, 1, 1), np.uint8), np.zeros(FEWEST, np.int64))
    usual = Appearance.of(dots, crop=1)
    assert usual is not None
    assert usual.unlike(np.full((1, 1, 1, 1), 255, np.uint8))[0][:1] == ("brighter",)


def test_of_many_images_some_are_measured() -> None:
    many = ImageArray.of(np.zeros((MOST + 10, 2, 2, 1), np.uint8), np.zeros(MOST + 10, np.int64))
    assert Appearance.of(many, crop=2) == Appearance.of(many.subset(np.arange(MOST)), crop=2)


@pytest.mark.parametrize(
    "ranges",
    [{"brightness": [0.5, 0.1]}, {"brightness": [0, 2]}, {"taste": [0, 1]}, {"colour": [0]}, {"detail": [0, "nan"]}],
)
def test_ranges_that_cannot_be_are_refused(ranges: object) -> None:
    with pytest.raises(ValidationError):
        Appearance.model_validate({"crop": 8, "ranges": ranges})
