"""What else finds anomalies among the same rows or images: an autoencoder that does not beat these is not needed.

Each learns from the rows or images that the network learnt from, encoded the same way, and sees no label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convatlas.errors import DataError, RunError, unknown_name
from convatlas.tasks.reconstruct.places import Places, map_scores, place_errors

NEIGHBOURS = 5
ROWS_FOR_NEIGHBOURS = 20_000  # that distances are taken to: each row is compared with all of them
VARIANCE_KEPT = 0.9  # of PCA: what is scored is the rest
RIDGE = 1e-6  # of a column's variance: columns that follow from others, or never vary, need not be left out
PYOD = "PyOD autoencoder"

Floats = NDArray[np.float64]


def rivals(*, with_pyod: bool = False) -> tuple[str, ...]:
    """Names of the detectors; PyOD's autoencoder, which takes minutes, only where it is asked for.

    >>> rivals()
    ('Mahalanobis', 'PCA', 'nearest neighbours', 'isolation forest')
    """
    return (*DETECTORS, PYOD) if with_pyod else tuple(DETECTORS)


def rival_scores(name: str, fit: ArrayLike, rows: ArrayLike, *, seed: int = 0) -> Floats:
    """How unusual a detector finds ``rows`` [m, features], having learnt from ``fit`` [n, features]: float64 [m].

    >>> rival_scores("Mahalanobis", [[0.0], [2.0]], [[1.0], [4.0]]).round(2).tolist()
    [0.0, 9.0]

    Greater is more unusual, and nothing else can be read from the size of a score.

    Raises:
        UnknownNameError: no such detector.
        DataError: fewer than two rows to learn from, or rows of another width.
        RunError: PyOD is not installed.
    """
    known = dict(DETECTORS) | {PYOD: _pyod}
    if name not in known:
        raise unknown_name("rival", name, known)
    learnt, asked = np.asarray(fit, dtype=np.float64), np.asarray(rows, dtype=np.float64)
    if learnt.ndim != 2 or asked.shape[1:] != learnt.shape[1:]:
        raise DataError(f"rows to score must be as wide as those learnt from; received {asked.shape}, {learnt.shape}")
    if len(learnt) < 2:
        raise DataError(f"{name} takes two rows to learn from at least; received {len(learnt)}")
    if len(asked) == 0:
        return np.zeros(0)
    return np.asarray(known[name](learnt, asked, seed), dtype=np.float64)


def _mahalanobis(fit: Floats, rows: Floats, seed: int) -> Floats:  # noqa: ARG001, a detector takes a seed
    """Squared distance from the mean, in standard deviations of the direction (Mahalanobis 1936)."""
    from sklearn.covariance import EmpiricalCovariance

    scale = np.where((deviation := fit.std(axis=0)) > 0, deviation, 1.0)
    model = EmpiricalCovariance(store_precision=False).fit(fit / scale)
    ridged = model.covariance_ + RIDGE * np.eye(fit.shape[1])
    centred = rows / scale - model.location_
    return np.asarray((centred * np.linalg.solve(ridged, centred.T).T).sum(axis=1))


def _pca(fit: Floats, rows: Floats, seed: int) -> Floats:  # noqa: ARG001
    """Mean squared error of rebuilding a row from the components with most of the variance: a linear autoencoder."""
    from sklearn.decomposition import PCA

    mean = fit.mean(axis=0)
    with np.errstate(invalid="ignore"):  # rows that are all the same have no variance to take a share of
        model = PCA(svd_solver="covariance_eigh").fit(fit - mean)  # it loses digits where the mean is large
    share = np.cumsum(model.explained_variance_) / max(model.explained_variance_.sum(), np.finfo(float).tiny)
    # All components would rebuild every row exactly, and rank none.
    kept = min(int(np.searchsorted(share, VARIANCE_KEPT)) + 1, fit.shape[1] - 1)
    components = model.components_[:kept]
    centred = rows - mean
    return np.asarray(((centred - centred @ components.T @ components) ** 2).mean(axis=1))


def _neighbours(fit: Floats, rows: Floats, seed: int) -> Floats:
    """Distance to the fifth nearest row (Ramaswamy, Rastogi & Shim 2000)."""
    from sklearn.neighbors import NearestNeighbors

    if len(fit) > ROWS_FOR_NEIGHBOURS:
        fit = fit[np.random.default_rng(seed).choice(len(fit), ROWS_FOR_NEIGHBOURS, replace=False)]
    model = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(fit))).fit(fit)
    distances, _ = model.kneighbors(rows)
    return np.asarray(distances[:, -1])


def _forest(fit: Floats, rows: Floats, seed: int) -> Floats:
    """How few random cuts set a row apart (Liu, Ting & Zhou 2008)."""
    from sklearn.ensemble import IsolationForest

    return np.asarray(-IsolationForest(random_state=seed).fit(fit).score_samples(rows))


def _pyod(fit: Floats, rows: Floats, seed: int) -> Floats:
    """PyOD's autoencoder with its own defaults; it draws from torch's generator, which is left as it was."""
    try:
        from pyod.models.auto_encoder import AutoEncoder
    except ImportError as error:
        raise RunError("PyOD is not installed: pip install 'convatlas[pyod]'") from error
    import torch

    with torch.random.fork_rng(devices=[]):
        model = AutoEncoder(random_state=seed, verbose=0)
        return np.asarray(model.fit(fit).decision_function(rows))


DETECTORS: Mapping[str, Callable[[Floats, Floats, int], Floats]] = {
    "Mahalanobis": _mahalanobis,
    "PCA": _pca,
    "nearest neighbours": _neighbours,
    "isolation forest": _forest,
}


Images = NDArray[np.float32]  # [n, C, h, w], as a network sees them
Scorer = Callable[[Images], Floats]

COMPONENTS = 64  # of images


def image_rivals() -> tuple[str, ...]:
    """Names of the detectors for images.

    >>> image_rivals()
    ('PCA-64', 'Mahalanobis', 'nearest neighbours')
    """
    return tuple(IMAGE_DETECTORS)


def fitted_image_rival(name: str, fit: Images, validation: Images, *, seed: int = 0) -> Scorer:
    """A detector that has learnt from good images [n, C, h, w]: what it gives images [m, C, h, w] are scores [m].

    PCA-64 rebuilds images from 64 components, and is scored as a network is, place by place beside what is usual for
    the validation images; the two others measure distances among those components.

    Raises:
        UnknownNameError: no such detector.
        DataError: fewer than two images to learn from.
    """
    if name not in IMAGE_DETECTORS:
        raise unknown_name("rival", name, IMAGE_DETECTORS)
    if len(fit) < 2:
        raise DataError(f"{name} takes two images to learn from at least; received {len(fit)}")
    return IMAGE_DETECTORS[name](fit, validation, seed)


def _components(fit: Images, seed: int) -> Any:
    from sklearn.decomposition import PCA

    flat = fit.reshape(len(fit), -1)
    kept = min(COMPONENTS, len(flat) - 1, flat.shape[1])
    return PCA(kept, svd_solver="randomized", random_state=seed).fit(flat)


def _pca_of_images(fit: Images, validation: Images, seed: int) -> Scorer:
    model = _components(fit, seed)

    def errors(images: Images) -> Images:
        flat = images.reshape(len(images), -1)
        return place_errors(model.inverse_transform(model.transform(flat)).reshape(images.shape), images)

    places = Places.of(errors(validation))
    return lambda images: map_scores(places.unusual(errors(images)))


def _mahalanobis_of_images(fit: Images, validation: Images, seed: int) -> Scorer:  # noqa: ARG001
    model = _components(fit, seed)
    variance = np.maximum(model.explained_variance_, np.finfo(np.float32).tiny)

    def score(images: Images) -> Floats:
        return np.asarray((model.transform(images.reshape(len(images), -1)) ** 2 / variance).sum(axis=1), np.float64)

    return score


def _neighbours_of_images(fit: Images, validation: Images, seed: int) -> Scorer:  # noqa: ARG001
    model = _components(fit, seed)
    learnt = model.transform(fit.reshape(len(fit), -1)).astype(np.float64)
    return lambda images: _neighbours(learnt, model.transform(images.reshape(len(images), -1)), seed)


IMAGE_DETECTORS: Mapping[str, Callable[[Images, Images, int], Scorer]] = {
    "PCA-64": _pca_of_images,
    "Mahalanobis": _mahalanobis_of_images,
    "nearest neighbours": _neighbours_of_images,
}
