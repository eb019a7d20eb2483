"""The linear probe: the same answers as scikit-learn, in a head of ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convatlas.data.dataset import Dataset, ImageArray
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import UnknownNameError
from convatlas.models import create_model
from convatlas.transfer.baseline import probed
from convatlas.transfer.features import features_of
from convatlas.transfer.probe import fit_probe, neighbours, put_into_head


def blobs(classes: int, each: int = 20) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    return (3 * np.eye(classes, 8)[labels] + chance.normal(size=(len(labels), 8))).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_probe_separates_what_can_be_separated(classes: int) -> None:
    features, labels = blobs(classes)
    probe = fit_probe(features, labels, classes)
    assert probe.weight.shape == (classes, 8)
    assert (probe.predict(features) == labels).mean() > 0.95
    assert (neighbours(features, labels, features) == labels).mean() > 0.9


def test_a_class_without_images_is_never_named() -> None:
    features, labels = blobs(3)
    probe = fit_probe(features, np.where(labels == 2, 3, labels), 5)
    assert set(probe.predict(features)) <= {0, 1, 3}


def pictures(n: int = 30) -> ImageArray:
    """Bright and dark pictures."""
    chance = np.random.default_rng(1)
    labels = np.arange(n) % 2
    images = chance.integers(0, 100, (n, 32, 32, 3)) + 120 * labels[:, None, None, None]
    return ImageArray.of(images.astype(np.uint8), labels)


UNIT = Preprocessing(channels=3, resize=32, crop=32, scale=1 / 255, mean=(0, 0, 0), std=(1, 1, 1))


def dataset() -> Dataset:
    images = pictures()
    return Dataset("pictures", ("dark", "bright"), images, images, images, "f", (), False, 0, 0.0)


def test_the_head_gives_the_probes_answers() -> None:
    model = create_model("resnet20", num_classes=2, seed=0).eval()
    found = probed(model, dataset(), UNIT)
    put_into_head(model, found.probe)
    images = pictures()
    with torch.no_grad():
        logits = model(UNIT.normalize(torch.from_numpy(images.take(np.arange(len(images))))))
    features = features_of(model, images, UNIT)
    assert features.shape == (30, 64)
    assert np.allclose(logits.numpy(), features @ found.probe.weight.T + found.probe.bias, atol=1e-4)
    assert found.baseline.probe.accuracy > 0.9
    assert found.baseline.guessing.accuracy == 0.5


def test_features_of_a_tap_are_means_of_its_maps() -> None:
    model = create_model("resnet20", num_classes=2, seed=0).eval()
    features = features_of(model, pictures(), UNIT, tap="conv1")
    assert features.shape == (30, 16)
    with pytest.raises(UnknownNameError, match="there is no layer named 'conv77'"):
        features_of(model, pictures(), UNIT, tap="conv77")
