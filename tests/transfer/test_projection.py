"""Features in a plane, and which are like which."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from convatlas.data.dataset import ImageArray
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import ExplanationError, UnknownNameError
from convatlas.models import create_model
from convatlas.transfer.features import features_and_answers, features_of
from convatlas.transfer.projection import known_projection, projected
from convatlas.transfer.similar import most_similar


def groups() -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(3), 15)
    noise = np.random.default_rng(0).normal(scale=0.1, size=(len(labels), 6))
    return (np.eye(3, 6)[labels] + noise).astype(np.float32), labels


def test_neighbours_stay_neighbours() -> None:
    features, labels = groups()
    points = projected(features)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.95
    assert (projected(features) == points).all()


@pytest.mark.parametrize("count", [5, 6, 8])
def test_a_few_images_have_a_map_too(count: int) -> None:
    features, _ = groups()
    assert np.isfinite(projected(features[:count])).all()


def test_features_that_are_all_alike_have_a_map() -> None:
    assert projected(np.ones((6, 4), dtype=np.float32)).shape == (6, 2)


def test_too_few_images_and_unknown_projections() -> None:
    with pytest.raises(ExplanationError, match="needs 5 images or more; received 4"):
        projected(np.ones((4, 3), dtype=np.float32))
    with pytest.raises(UnknownNameError, match="no projection named 'tsnee'; did you mean tsne"):
        known_projection("tsnee")


def test_umap_without_its_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ExplanationError, match=r"needs the package umap-learn: .*convatlas\[umap\]"):
        known_projection("umap")


@pytest.mark.slow
def test_umap() -> None:
    pytest.importorskip("umap")
    features, _ = groups()
    assert projected(features, "umap").shape == (45, 2)


def test_most_similar_is_by_angle() -> None:
    rows = np.array([[0, 0], [1, 0], [0, 9], [-1, 0]], dtype=np.float32)
    places, similarities = most_similar(rows, np.array([[5, 1], [0, 0]], dtype=np.float32), most=9)
    assert places[0].tolist() == [1, 2, 0, 3]
    assert similarities[0, 0] == pytest.approx(5 / 26**0.5)
    assert (similarities[1] == 0).all()


def test_features_and_answers_come_of_one_pass() -> None:
    model = create_model("lenet5", seed=0).train()
    pixels = np.random.default_rng(0).integers(0, 255, (5, 28, 28, 1), dtype=np.uint8)
    images = ImageArray.of(pixels, np.zeros(5, dtype=np.int64))
    unit = Preprocessing(channels=1, resize=28, crop=28, scale=1 / 255, mean=(0,), std=(1,))
    told: list[tuple[int, int]] = []
    seen = features_and_answers(model, images, unit, tell=lambda done, total: told.append((done, total)))
    assert model.training
    assert (seen.features == features_of(model, images, unit)).all()
    with torch.inference_mode():
        logits = model.eval()(unit.normalize(torch.from_numpy(pixels)))
    assert seen.answers.tolist() == logits.argmax(dim=1).tolist()
    assert told == [(0, 5)]
