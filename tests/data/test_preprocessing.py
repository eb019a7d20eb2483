from __future__ import annotations

import numpy as np
import pytest
import torch
from image_sets import picture
from pydantic import ValidationError
from torchvision.transforms import v2

from convatlas.data.dataset import ImageArray
from convatlas.data.decode import decode
from convatlas.data.preprocessing import NORMALIZATIONS, Preprocessing
from convatlas.errors import DataError


def images(side: int = 20, channels: int = 3, count: int = 5) -> ImageArray:
    pixels = np.random.default_rng(side).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return ImageArray.of(pixels, np.zeros(count, np.int64))


def batch(array: ImageArray) -> torch.Tensor:
    return torch.from_numpy(array.take(np.arange(len(array))))


@pytest.mark.parametrize("crop", [20, 17, 16, 1])
def test_imagenet_normalization_is_torchvisions(crop: int) -> None:
    array = images()
    ours = Preprocessing.named("imagenet", array, crop=crop).normalize(batch(array))
    normalize = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    steps = v2.Compose([v2.CenterCrop(crop), v2.ToDtype(torch.float32, scale=True), normalize])
    theirs = steps(batch(array).permute(0, 3, 1, 2))
    assert ours.shape == (5, 3, crop, crop)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_standardized_training_images_have_mean_0_and_deviation_1() -> None:
    array = images()
    normalized = Preprocessing.named("standardize", array, crop=20).normalize(batch(array)).double()
    assert normalized.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (normalized.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_a_constant_channel_is_standardized_to_0() -> None:
    array = ImageArray.of(np.full((2, 4, 4, 4), 255, np.uint8), np.zeros(2, np.int64))
    normalized = Preprocessing.named("standardize", array, crop=4).normalize(batch(array))
    assert normalized.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("unit", [10 / 255, 20 / 255, 30 / 255]),
        ("mean", [10 - 123.680, 20 - 116.779, 30 - 103.939]),
        ("caffe", [30 - 103.939, 20 - 116.779, 10 - 123.680]),
    ],
)
def test_one_pixel_by_hand(normalization: str, expected: list[float]) -> None:
    array = ImageArray.of(np.array([10, 20, 30], np.uint8).reshape(1, 1, 1, 3), np.zeros(1, np.int64))
    normalized = Preprocessing.named(normalization, array, crop=1).normalize(batch(array))  # type: ignore[arg-type]
    assert normalized.flatten().tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
def test_imagenets_colours_are_refused_for_other_channels(channels: int) -> None:
    for normalization in ("imagenet", "caffe", "mean"):
        with pytest.raises(DataError, match=f"for colour images; received {channels} channels"):
            Preprocessing.named(normalization, images(channels=channels), crop=8)  # type: ignore[arg-type]
    assert Preprocessing.named("unit", images(channels=channels), crop=8).channels == channels


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_preprocessing_is_kept_in_json_to_the_last_bit(normalization: str) -> None:
    preprocessing = Preprocessing.named(normalization, images(), crop=16)  # type: ignore[arg-type]
    again = Preprocessing.model_validate_json(preprocessing.model_dump_json())
    assert again == preprocessing
    assert torch.equal(again.normalize(batch(images())), preprocessing.normalize(batch(images())))


def test_the_result_is_channels_last_in_memory() -> None:
    array = images()
    normalized = Preprocessing.named("caffe", array, crop=16).normalize(batch(array))
    assert normalized.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("side", "crop"), [(20, 16), (21, 16), (20, 20)])
def test_ten_crops_are_torchvisions(side: int, crop: int) -> None:
    array = images(side)
    ours = Preprocessing.named("unit", array, crop=crop).ten_crops(batch(array))
    theirs = torch.stack(v2.TenCrop(crop)(batch(array).permute(0, 3, 1, 2)), dim=1)
    assert ours.shape == (5, 10, 3, crop, crop)
    torch.testing.assert_close(ours, theirs / 255)


def test_the_stored_square_and_the_centre_crop_are_torchvisions_on_a_photograph() -> None:
    photograph = picture(5, size=(90, 61))
    preprocessing = Preprocessing(channels=3, resize=40, crop=32, scale=1 / 255, mean=(0, 0, 0), std=(1, 1, 1))
    ours = preprocessing.normalize(torch.from_numpy(decode(photograph, 3, 40))[None])[0]
    steps = [v2.Resize(40), v2.CenterCrop(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    torch.testing.assert_close(ours, v2.Compose(steps)(photograph))


GOOD = {"channels": 3, "resize": 20, "crop": 16, "scale": 1.0, "mean": (0, 0, 0), "std": (1, 1, 1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": 21}, "a crop of 21 cannot be cut from images of 20"),
        ({"mean": (0,)}, "need 3 values; received 1 and 3"),
        ({"std": (1, 1, 0)}, "greater than 0"),
        ({"channels": 1, "mean": (0,), "std": (1,), "channel_order": "BGR"}, "BGR needs 3 channels"),
        ({"channels": 2}, "Input should be 1, 3 or 4"),
        ({"sharpen": True}, "Extra inputs"),
        ({"scale": float("inf")}, "finite"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Preprocessing.model_validate(GOOD | change)
