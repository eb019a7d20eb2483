from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torchvision.transforms.v2 import functional as theirs

from convatlas.data.augment import Draws, augment, needs_colours, resized_crops, turn_hue
from convatlas.data.augmentation import (
    Augmentation,
    ColourJitter,
    Cutout,
    Flip,
    PCAColour,
    RandomResizedCrop,
    Shift,
)
from convatlas.data.dataset import ImageArray
from convatlas.data.statistics import ColourBasis, colour_basis

EVERY_STEP: list[Augmentation] = [
    Flip(),
    Shift(fraction=0.2),
    Shift(pixels=3, fill="constant"),
    Shift(pixels=2, fill="edge"),
    Shift(pixels=4, fill="mean"),
    Cutout(size=4),
    PCAColour(),
    RandomResizedCrop(),
    ColourJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
]


def pixels(count: int = 6, side: int = 12, channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, side, side, channels), dtype=np.uint8))


def colours(images: torch.Tensor) -> ColourBasis:
    return colour_basis(ImageArray.of(images.numpy(), np.zeros(len(images), np.int64)))


def draws(total: int, part: slice | None = None, seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), total, part or slice(0, total))


def augmented(images: torch.Tensor, *steps: Augmentation, crop: int | None = None, seed: int = 0) -> torch.Tensor:
    return augment(images, steps, crop or images.shape[1], draws(len(images), seed=seed), colours(images))


@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda step: step.kind)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_step_keeps_shape_and_type_repeats_and_treats_images_apart(step: Augmentation, channels: int) -> None:
    images = pixels(count=16, channels=channels)
    before = images.clone()
    first = augmented(images, step, crop=10)
    assert (first.shape, first.dtype) == ((16, 10, 10, channels), torch.uint8)
    assert torch.equal(first, augmented(images, step, crop=10))
    assert not torch.equal(first, augmented(images, step, crop=10, seed=1))
    assert torch.equal(images, before)
    same = augmented(images[:1].expand(16, -1, -1, -1).contiguous(), step)
    assert len({image.numpy().tobytes() for image in same}) > 1


@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda step: step.kind)
def test_part_of_a_batch_is_what_the_whole_batch_would_have_there(step: Augmentation) -> None:
    images = pixels(count=7)
    basis = colours(images)
    whole = augment(images, [step, Flip()], 10, draws(7), basis)
    for part in (slice(0, 3), slice(3, 7), slice(6, 7)):
        share = augment(images[part], [step, Flip()], 10, draws(7, part), basis)
        assert torch.equal(share, whole[part])


@pytest.mark.parametrize(
    "step",
    [
        Flip(p=0),
        PCAColour(std=0),
        ColourJitter(),
        RandomResizedCrop(scale=(1, 1), ratio=(1, 1)),
    ],
    ids=lambda step: step.kind,
)
def test_steps_of_no_strength_change_nothing(step: Augmentation) -> None:
    assert torch.equal(augmented(pixels(), step), pixels())


def test_no_step_and_no_room_give_the_images_and_room_gives_crops() -> None:
    images = pixels(count=40)
    assert torch.equal(augmented(images), images)
    crops = augmented(images, crop=10)
    places = set()
    for image, crop in zip(images, crops, strict=True):
        found = [
            (top, left)
            for top in range(3)
            for left in range(3)
            if torch.equal(image[top : top + 10, left : left + 10], crop)
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) == 9  # every place there is


def test_a_flip_is_torchvisions() -> None:
    images = pixels(count=40)
    flipped = augmented(images, Flip())
    mirrored = torch.tensor([not torch.equal(one, other) for one, other in zip(images, flipped, strict=True)])
    assert 8 < mirrored.sum() < 32
    assert torch.equal(
        flipped[mirrored], theirs.horizontal_flip(images[mirrored].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    )
    assert torch.equal(augmented(images, Flip(p=1)), images.flip(2))


@pytest.mark.parametrize(("fill", "padding_mode"), [("constant", "constant"), ("edge", "edge"), ("reflect", "reflect")])
def test_a_shift_is_torchvisions_padding_and_crop(fill: str, padding_mode: str) -> None:
    images = pixels(count=60)
    shifted = augmented(images, Shift(pixels=3, fill=fill))  # type: ignore[arg-type]
    padded = theirs.pad(images.permute(0, 3, 1, 2), [3], padding_mode=padding_mode).permute(0, 2, 3, 1)
    places = set()
    for image, moved in zip(padded, shifted, strict=True):
        found = [(y, x) for y in range(7) for x in range(7) if torch.equal(image[y : y + 12, x : x + 12], moved)]
        assert len(found) == 1
        places.update(found)
    assert {y for y, _ in places} == {x for _, x in places} == set(range(7))


@given(side=st.integers(2, 40), fraction=st.floats(0.01, 0.99), pixels=st.integers(1, 60))
def test_a_shift_leaves_some_of_the_image_in_sight(side: int, fraction: float, pixels: int) -> None:
    assert 1 <= Shift(fraction=fraction).distance(side) < side
    assert Shift(pixels=pixels).distance(side) == min(pixels, side - 1)


def test_steps_follow_each_other() -> None:
    images = pixels(count=50).clamp_min(1)
    shifted = augmented(images, Shift(pixels=5, fill="constant"))
    then_flipped = augmented(images, Shift(pixels=5, fill="constant"), Flip(p=1))
    assert torch.equal(then_flipped, shifted.flip(2))
    assert (shifted == 0).any()


def test_a_black_border_survives_a_reflection_of_the_edge() -> None:
    """A second shift looks at the result of the first, black border included, and not at the image behind it."""
    images = torch.full((200, 6, 6, 1), 255, dtype=torch.uint8)
    twice = augmented(images, Shift(pixels=1, fill="constant"), Shift(pixels=1, fill="edge"))
    assert set(twice.unique().tolist()) == {0, 255}
    assert (twice[:, :2] == 0).all(dim=(1, 2, 3)).any()  # down by one, and again with the black edge repeated


def test_a_shift_uncovers_the_mean_colour() -> None:
    images = pixels(count=40).clamp_max(200)
    basis = ColourBasis(np.array([0.8, 0.9, 1.0]), np.ones(3), np.eye(3))
    black = augment(images.clamp_min(1), [Shift(pixels=3, fill="constant")], 12, draws(40))
    mean = augment(images.clamp_min(1), [Shift(pixels=3, fill="mean")], 12, draws(40), basis)
    uncovered = (black == 0).all(dim=3)
    assert uncovered.any()
    assert (mean[uncovered] == torch.tensor([204, 230, 255])).all()
    assert torch.equal(mean[~uncovered], black[~uncovered])


@pytest.mark.parametrize(("first", "last", "last_colour"), [("constant", "mean", 204), ("mean", "constant", 0)])
def test_shifts_with_different_fillings_each_keep_their_own(first: str, last: str, last_colour: int) -> None:
    images = torch.full((200, 6, 6, 1), 100, dtype=torch.uint8)
    basis = ColourBasis(np.array([0.8]), np.ones(1), np.eye(1))
    steps = [Shift(pixels=1, fill=first), Shift(pixels=2, fill=last)]  # type: ignore[arg-type]
    shifted = augment(images, steps, 6, draws(200), basis)[..., 0]
    assert set(shifted.unique().tolist()) == {0, 100, 204}
    # by one and then by two in the same direction: the border's outer two rows are the last shift's
    twice = (shifted[:, :3] != 100).all(dim=(1, 2))
    assert twice.any()
    assert (shifted[twice][:, :2] == last_colour).all()


def test_cutout_covers_a_square_with_the_mean_colour() -> None:
    images = torch.zeros(300, 12, 12, 3, dtype=torch.uint8)
    basis = ColourBasis(np.array([0.2, 0.4, 0.6]), np.ones(3), np.eye(3))
    covered = augment(images, [Cutout(size=4)], 12, draws(300), basis)
    mask = (covered == torch.tensor([51, 102, 153])).all(dim=3)
    assert torch.equal(mask, (covered != 0).any(dim=3))
    heights, widths = mask.any(dim=2).sum(dim=1), mask.any(dim=1).sum(dim=1)
    assert (heights * widths == mask.sum(dim=(1, 2))).all()  # rectangles
    assert heights.max() == widths.max() == 4
    assert heights.min() == widths.min() == 2  # its centre is in the image, its border need not be
    assert mask.any(dim=0).all()


def test_pca_noise_lies_along_the_components() -> None:
    images = torch.full((4000, 1, 1, 3), 128, dtype=torch.uint8)
    direction = np.array([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, 1.0]]).T
    basis = ColourBasis(np.zeros(3), np.array([0.0, 1.0, 0.0]), direction)
    moved = augment(images, [PCAColour(std=0.1)], 1, draws(4000), basis).double().flatten(1) - 128
    along = moved @ torch.tensor([-0.8, 0.6, 0.0], dtype=torch.float64)
    assert along.std().item() == pytest.approx(0.1 * 255, rel=0.05)
    assert abs(along.mean().item()) < 2
    assert (moved @ torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)).abs().max() <= 1  # rounding
    assert (moved[:, 2] == 0).all()


def test_steps_that_need_the_colours_say_so() -> None:
    for step in (Cutout(size=2), PCAColour(), Shift(pixels=2, fill="mean")):
        assert needs_colours([step])
        with pytest.raises(ValueError, match="need the colours"):
            augment(pixels(), [step], 12, draws(6))


@pytest.mark.parametrize("box", [(0, 0, 12, 12), (3, 1, 5, 9), (2, 7, 9, 4), (11, 11, 1, 1), (0, 0, 1, 12)])
@pytest.mark.parametrize("side", [6, 12, 17])
def test_resized_crops_are_torchvisions(box: tuple[int, int, int, int], side: int) -> None:
    images = pixels(count=2)
    top, left, height, width = (torch.tensor([float(value)] * 2) for value in box)
    ours = resized_crops(images, top, left, height, width, side)
    floats = images.permute(0, 3, 1, 2).float()
    reference = theirs.resized_crop(floats, *box, size=[side, side], antialias=False).permute(0, 2, 3, 1)
    # a place within 12 pixels is rounded a few times, by 12 * 2^-24 each, and its neighbour differs by 255 at most
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-3)


@settings(max_examples=30)
@given(low=st.floats(0.01, 1), ratio=st.floats(0.1, 1), seed=st.integers(0, 1000))
def test_random_resized_crops_stay_in_the_image(low: float, ratio: float, seed: int) -> None:
    """Nothing but values between the darkest and the brightest pixel can come out of an interpolation inside."""
    images = pixels().clamp(100, 200)
    step = RandomResizedCrop(scale=(low, 1), ratio=(ratio, 1 / ratio))
    cropped = augmented(images, step, crop=9, seed=seed)
    assert cropped.shape == (6, 9, 9, 3)
    assert cropped.min() >= 100
    assert cropped.max() <= 200


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_jitter_is_torchvisions_for_the_factor_drawn(name: str) -> None:
    images = pixels(count=12)
    step = ColourJitter(**{name: 0.5})
    ours = augmented(images, step).permute(0, 3, 1, 2)
    factors = draws(12).uniform(0.5, 1.5)
    adjust = getattr(theirs, f"adjust_{name}")
    for image, factor, result in zip(images.permute(0, 3, 1, 2), factors, ours, strict=True):
        reference = adjust(image, factor.item())
        assert (result.int() - reference.int()).abs().max() <= 1, name
    assert not torch.equal(ours, images.permute(0, 3, 1, 2))


@pytest.mark.parametrize("turn", [-0.5, -0.3, -0.01, 0.0, 0.1, 0.5])
def test_turning_the_hue_is_torchvisions(turn: float) -> None:
    colours = pixels(count=3).float() / 255
    colours[0, :6] = 0.5  # greys have no hue
    ours = turn_hue(colours, torch.full((3,), turn)).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours, theirs.adjust_hue(colours.permute(0, 3, 1, 2), turn), rtol=0, atol=2e-5)


def test_colour_jitter_leaves_transparency_alone() -> None:
    images = pixels(channels=4)
    step = ColourJitter(brightness=0.9, contrast=0.9, saturation=0.9, hue=0.5)
    assert torch.equal(augmented(images, step)[..., 3], images[..., 3])


def test_specifications_are_told_apart_by_their_kind_and_kept_in_json() -> None:
    adapter = TypeAdapter(list[Augmentation])
    assert adapter.validate_json(adapter.dump_json(EVERY_STEP)) == EVERY_STEP
    assert adapter.validate_python([{"kind": "flip"}, {"kind": "shift", "pixels": 4}]) == [Flip(), Shift(pixels=4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "flop"}, "'flip', 'shift', 'cutout', 'pca_colour', 'random_resized_crop', 'colour_jitter'"),
        ({"kind": "shift"}, "give either fraction or pixels"),
        ({"kind": "shift", "fraction": 0.1, "pixels": 2}, "give either fraction or pixels"),
        ({"kind": "shift", "pixels": 2, "fill": "wrap"}, "reflect"),
        ({"kind": "flip", "p": 1.5}, "less than or equal to 1"),
        ({"kind": "flip", "probability": 1}, "Extra inputs"),
        ({"kind": "random_resized_crop", "scale": (0.9, 0.1)}, "lowest, highest"),
        ({"kind": "colour_jitter", "hue": 0.6}, "less than or equal to 0.5"),
    ],
)
def test_specifications_that_make_no_sense_are_refused(content: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Augmentation).validate_python(content)
