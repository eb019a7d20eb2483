"""Mean, standard deviation and principal components of the pixels of a data set, exactly and in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convatlas.data.dataset import ImageArray


@dataclass(frozen=True)
class ColourBasis:
    """How the colours of a data set spread, for pixels in 0..1: their mean and their principal components."""

    mean: npt.NDArray[np.float64]  # [C]
    eigenvalues: npt.NDArray[np.float64]  # [C], ascending
    eigenvectors: npt.NDArray[np.float64]  # [C, C], one a column


def channel_statistics(array: ImageArray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, in 0..1.

    >>> channel_statistics(ImageArray.of(np.full((2, 4, 4, 1), 255, np.uint8), np.zeros(2, np.int64)))
    ((1.0,), (0.0,))
    """
    channels = range(array.image_shape[2])
    mean, squares = _moments(array, [(channel, channel) for channel in channels])
    variance = np.array([squares[channel, channel] for channel in channels]) - mean**2
    return tuple((mean / 255).tolist()), tuple((np.sqrt(variance.clip(0)) / 255).tolist())


def colour_basis(array: ImageArray) -> ColourBasis:
    """Principal components of the colours.

    Source: Krizhevsky, Sutskever & Hinton 2012, section 4.1.
    """
    channels = array.image_shape[2]
    mean, products = _moments(array, [(one, other) for one in range(channels) for other in range(one, channels)])
    covariance = np.zeros((channels, channels))
    for (one, other), product in products.items():
        covariance[one, other] = covariance[other, one] = product - mean[one] * mean[other]
    eigenvalues, eigenvectors = np.linalg.eigh(covariance / 255**2)
    return ColourBasis(mean / 255, eigenvalues, eigenvectors)


def _moments(
    array: ImageArray, pairs: Sequence[tuple[int, int]]
) -> tuple[npt.NDArray[np.float64], dict[tuple[int, int], float]]:
    """Mean of each channel, and of the product of each pair of channels; summed as integers, so nothing is rounded."""
    total = np.zeros(array.image_shape[2], dtype=np.uint64)
    products = dict.fromkeys(pairs, 0)
    for chunk in array.chunks(megabytes=4):
        total += chunk.sum(axis=0, dtype=np.uint32).sum(axis=(0, 1), dtype=np.uint64)
        for one, other in pairs:
            product = np.multiply(chunk[..., one], chunk[..., other], dtype=np.uint16)
            products[one, other] += int(product.sum(axis=0, dtype=np.uint32).sum(dtype=np.uint64))
    pixels = len(array) * array.image_shape[0] * array.image_shape[1]
    return total / pixels, {pair: product / pixels for pair, product in products.items()}
