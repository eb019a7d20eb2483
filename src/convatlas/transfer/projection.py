"""Features in a plane: rows of many numbers as points, near each other where the rows are."""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import ExplanationError, unknown_name
from convatlas.transfer.features import Features

ProjectionName = Literal["tsne", "umap"]
PROJECTIONS: tuple[ProjectionName, ...] = get_args(ProjectionName)
TITLES: dict[ProjectionName, str] = {"tsne": "t-SNE", "umap": "UMAP"}

FEWEST = 5  # images of which a map says anything
PERPLEXITY = 30  # neighbours that count: the paper's 5 to 50
UMAP_NEIGHBOURS = 15  # its authors' own choice


def known_projection(name: str) -> ProjectionName:
    """A projection by its name, which can be carried out here.

    Raises:
        UnknownNameError: there is none of that name.
        ExplanationError: the package that it takes is not installed.
    """
    for known in PROJECTIONS:
        if name == known:
            if known == "umap":
                _umap()
            return known
    raise unknown_name("projection", str(name), PROJECTIONS)


def projected(features: Features, by: ProjectionName = "tsne") -> NDArray[np.float32]:
    """Features [N, D] as points [N, 2]; near by the angle between them. The same features give the same points.

    >>> rows = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    >>> projected(rows).shape
    (12, 2)

    Raises:
        ExplanationError: fewer than five rows, or the package umap-learn is wanted and not installed.
    Source: van der Maaten & Hinton 2008, "Visualizing Data using t-SNE"; McInnes, Healy & Melville 2018, "UMAP",
    arXiv 1802.03426.
    """
    if len(features) < FEWEST:
        raise ExplanationError(f"a map of the features needs {FEWEST} images or more; received {len(features)}")
    points = _by_umap(features) if by == "umap" else _by_tsne(features)
    return np.asarray(points, dtype=np.float32)


def _by_tsne(features: Features) -> NDArray[np.float32]:
    from sklearn.manifold import TSNE

    # A third of the images at most, so that those of other classes do not all count as neighbours.
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    has_directions = features.shape[1] > 1 and bool(np.ptp(features, axis=0).any())  # else there are no components
    start = "pca" if has_directions else "random"
    model = TSNE(metric="cosine", init=start, perplexity=perplexity, random_state=0)
    return np.asarray(model.fit_transform(features))


def _by_umap(features: Features) -> NDArray[np.float32]:
    umap = _umap()
    near = min(UMAP_NEIGHBOURS, len(features) - 1)
    # A random start: the spectral one cannot be had of a few images.
    model = umap(n_neighbors=near, metric="cosine", random_state=0, n_jobs=1, init="random")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its compiler, and of graphs in several parts, which a map may have
        return np.asarray(model.fit_transform(features))


def _umap() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TensorFlow is not there
            from umap import UMAP
    except ImportError as error:
        raise ExplanationError(
            "umap needs the package umap-learn: python -m pip install 'convatlas[umap]', or leave it to tsne"
        ) from error
    return UMAP
