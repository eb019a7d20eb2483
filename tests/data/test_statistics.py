from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.data import dataset
from convatlas.data.dataset import ImageArray
from convatlas.data.statistics import channel_statistics, colour_basis


def images(seed: int, channels: int, count: int = 7) -> ImageArray:
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (count, 5, 5, 1)) * draw.uniform(0.2, 1, channels) + draw.integers(
        0, 40, (count, 5, 5, channels)
    )
    return ImageArray.of(pixels.clip(0, 255).astype(np.uint8), np.zeros(count, np.int64))


@given(seed=st.integers(0, 10_000), channels=st.sampled_from([1, 3, 4]))
def test_mean_and_deviation_are_numpys(seed: int, channels: int) -> None:
    array = images(seed, channels)
    pixels = array.take(np.arange(7)).reshape(-1, channels) / 255
    mean, std = channel_statistics(array)
    assert mean == pytest.approx(pixels.mean(axis=0), abs=1e-12)
    assert std == pytest.approx(pixels.std(axis=0), abs=1e-9)


@given(seed=st.integers(0, 10_000), channels=st.sampled_from([1, 3, 4]))
def test_the_colour_basis_takes_the_covariance_apart(seed: int, channels: int) -> None:
    array = images(seed, channels)
    basis = colour_basis(array)
    pixels = array.take(np.arange(7)).reshape(-1, channels) / 255
    together = basis.eigenvectors * basis.eigenvalues @ basis.eigenvectors.T
    assert together == pytest.approx(np.cov(pixels.T, bias=True).reshape(channels, channels), abs=1e-9)
    assert basis.mean == pytest.approx(pixels.mean(axis=0), abs=1e-12)


def test_white_images_do_not_overflow_and_only_the_split_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((70_000, 1, 1, 1), 255, np.uint8)
    pixels[60_000:] = 0
    array = ImageArray.of(pixels, np.zeros(70_000, np.int64))
    assert channel_statistics(array.subset(np.arange(60_000))) == ((1.0,), (0.0,))
    assert channel_statistics(array)[0] == pytest.approx([6 / 7])
    assert dataset.MOST_IMAGES_IN_A_CHUNK * 255**2 < 2**32  # what a 32-bit sum of squares can hold


def test_chunks_are_bounded_and_complete() -> None:
    array = ImageArray.of(np.arange(3 * 2**20, dtype=np.uint8).reshape(3, 1024, 1024, 1), np.zeros(3, np.int64))
    chunks = list(array.subset(np.array([2, 0, 1])).chunks(megabytes=2))
    assert [len(chunk) for chunk in chunks] == [2, 1]
    assert (np.concatenate(chunks) == array.stored[[2, 0, 1]]).all()
