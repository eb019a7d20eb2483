from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from convatlas.data.augmentation import Augmentation, ColourJitter, Cutout, Flip, PCAColour, RandomResizedCrop, Shift
from convatlas.data.batch import Batch, Place
from convatlas.data.batches import Batches
from convatlas.data.dataset import ImageArray
from convatlas.data.preprocessing import Preprocessing

STEPS: tuple[Augmentation, ...] = (
    Flip(), Shift(pixels=2), RandomResizedCrop(scale=(0.5, 1)), ColourJitter(hue=0.2), PCAColour(), Cutout(size=2),
)  # fmt: skip

CPU = torch.device("cpu")


def images(count: int = 23, side: int = 8) -> ImageArray:
    pixels = np.random.default_rng(count).integers(0, 256, (count + 5, side, side, 3), dtype=np.uint8)
    whole = ImageArray.of(pixels, np.arange(count + 5) % 10)
    return whole.subset(np.arange(5, count + 5))  # rows that are not those of the stored array


def batches(array: ImageArray, batch_size: int = 4, crop: int = 8, **options: object) -> Batches:
    preprocessing = Preprocessing.named("unit", array, crop=crop)
    return Batches(array, preprocessing, batch_size, **options)  # type: ignore[arg-type]


def joined(found: Sequence[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([batch.inputs for batch in found]), torch.cat([batch.targets for batch in found])


def test_without_shuffling_every_image_comes_once_in_order_with_its_label() -> None:
    array = images(23)
    found = list(batches(array).epoch(0))
    pixels, labels = joined(found)
    assert [len(batch.targets) for batch in found] == [4, 4, 4, 4, 4, 3] == [batch.global_size for batch in found]
    assert torch.equal((pixels * 255).round().byte().permute(0, 2, 3, 1), torch.from_numpy(array.take(np.arange(23))))
    assert labels.tolist() == array.labels.tolist()
    assert (pixels.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert found[0].inputs.is_contiguous(memory_format=torch.channels_last)


def test_shuffled_epochs_hold_every_image_once_each_in_an_order_of_its_own() -> None:
    array = images(23)
    in_order, shuffled = batches(array), batches(array, shuffle=True)
    whole = {image.numpy().tobytes(): int(label) for image, label in zip(*joined(list(in_order.epoch(0))), strict=True)}
    orders = []
    for epoch in (0, 1):
        pixels, labels = joined(list(shuffled.epoch(epoch)))
        keys = [image.numpy().tobytes() for image in pixels]
        assert set(keys) == set(whole)
        assert [whole[key] for key in keys] == labels.tolist()
        orders.append(keys)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("augmentation", [(), STEPS])
def test_an_epoch_depends_on_seed_and_epoch_and_nothing_else(augmentation: tuple[Augmentation, ...]) -> None:
    array = images()
    options = {"shuffle": True, "augmentation": augmentation}
    first = joined(list(batches(array, seed=3, **options).epoch(5)))[0]
    fresh = batches(array, seed=3, **options)
    list(fresh.epoch(4))
    torch.manual_seed(99)
    assert torch.equal(joined(list(fresh.epoch(5)))[0], first)
    assert not torch.equal(joined(list(batches(array, seed=4, **options).epoch(5)))[0], first)
    assert not torch.equal(joined(list(fresh.epoch(6)))[0], first)


def test_making_batches_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    list(batches(images(), shuffle=True, augmentation=STEPS).epoch(0))
    assert torch.equal(torch.rand(3), expected)


def test_an_epoch_taken_up_in_its_middle_goes_on_as_it_would_have() -> None:
    made = batches(images(), shuffle=True, augmentation=STEPS)
    whole, rest = list(made.epoch(2)), list(made.epoch(2, start=4))
    assert len(rest) == len(whole) - 4 == 2
    for expected, found in zip(whole[4:], rest, strict=True):
        assert torch.equal(found.inputs, expected.inputs)
        assert torch.equal(found.targets, expected.targets)


@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_all_processes_are_the_batch_of_one(world: int) -> None:
    settings = {"batch_size": 8, "shuffle": True, "augmentation": STEPS}
    alone = list(batches(images(), **settings).epoch(1))
    shares = [list(batches(images(), **settings, place=Place(CPU, rank, world)).epoch(1)) for rank in range(world)]
    for step, batch in enumerate(alone):
        together = [share[step] for share in shares]
        assert torch.equal(torch.cat([part.inputs for part in together]), batch.inputs)
        assert torch.equal(torch.cat([part.targets for part in together]), batch.targets)
        assert {part.global_size for part in together} == {batch.global_size}
        assert max(len(part.targets) for part in together) - min(len(part.targets) for part in together) <= 1


@pytest.mark.parametrize(
    ("count", "shuffle", "sizes"),
    [
        (9, True, [4, 4]),  # batch normalisation cannot learn from the ninth
        (9, False, [4, 4, 1]),
        (10, True, [4, 4, 2]),
        (8, True, [4, 4]),
        (1, True, [1]),
        (3, True, [3]),
    ],
)
def test_a_last_batch_of_one_is_left_out_of_training(count: int, shuffle: bool, sizes: list[int]) -> None:
    made = batches(images(count), shuffle=shuffle)
    assert [len(batch.targets) for batch in made.epoch(0)] == sizes
    assert len(made) == len(sizes)


def test_no_process_is_left_with_fewer_than_two_images_to_train_on() -> None:
    for rank in range(2):
        sizes = [len(batch.targets) for batch in batches(images(11), shuffle=True, place=Place(CPU, rank, 2)).epoch(0)]
        assert sizes == [2, 2]  # the last three images would have been one and two
    assert len(batches(images(12), shuffle=True, place=Place(CPU, 0, 2))) == 3


def test_larger_images_are_cropped_at_the_centre_or_with_augmentation_anywhere() -> None:
    array = images(16, side=12)
    stored = torch.from_numpy(array.take(np.arange(16)))
    centre = (joined(list(batches(array, crop=8).epoch(0)))[0] * 255).round().byte().permute(0, 2, 3, 1)
    assert torch.equal(centre, stored[:, 2:10, 2:10])
    anywhere = (joined(list(batches(array, crop=8, augmentation=[Flip(p=0)]).epoch(0)))[0] * 255).round().byte()
    windows = stored.unfold(1, 8, 1).unfold(2, 8, 1)  # [N, 5, 5, C, 8, 8]
    hits = (windows == anywhere[:, None, None]).all(dim=(3, 4, 5))
    assert (hits.sum(dim=(1, 2)) == 1).all()
    assert hits.any(dim=0).sum() > 8


def test_ten_crops_of_every_image() -> None:
    array = images(6, side=12)
    made = batches(array, crop=8, ten_crop=True)
    pixels, _ = joined(list(made.epoch(0)))
    assert pixels.shape == (6, 10, 3, 8, 8)
    centre, _ = joined(list(batches(array, crop=8).epoch(0)))
    assert torch.equal(pixels[:, 4], centre)
    assert torch.equal(pixels[:, 9], centre.flip(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("share", [0.4, 0.0])
def test_a_gpu_gets_the_batches_of_the_cpu(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convatlas.data.batches.SHARE_OF_DEVICE_MEMORY", share)
    array = images()
    exact = (Flip(), Shift(pixels=2), Cutout(size=2))
    on_cpu = joined(list(batches(array, shuffle=True, augmentation=exact).epoch(0)))
    on_gpu = joined(list(batches(array, shuffle=True, augmentation=exact, place=Place(torch.device("cuda"))).epoch(0)))
    torch.testing.assert_close(on_gpu[0].cpu(), on_cpu[0])
    assert torch.equal(on_gpu[1].cpu(), on_cpu[1])
