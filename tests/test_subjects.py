"""What can be looked into, and what is said of what cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from convatlas.errors import ConvatlasError, ImageSizeError, InspectionError, RunError, UnknownNameError
from convatlas.models import create_autoencoder, create_model
from convatlas.subjects import example_input, open_subject

OWN_FILE = """
import torch
from torch import nn

import beside

def small():
    return nn.Sequential(nn.Conv2d(1, beside.CHANNELS, 3), nn.Flatten(), nn.LazyLinear(2))

def digits():
    return nn.Conv2d(1, 4, 3), torch.zeros(1, 1, 28, 28)

def words():
    return nn.Embedding(10, 4), torch.zeros(1, 7, dtype=torch.long)

def several():
    return nn.Bilinear(2, 3, 4), (torch.zeros(1, 2), torch.zeros(1, 3))

made = nn.Conv2d(3, 4, 3)

def broken():
    raise ValueError("no\\nweights")

def a_number():
    return 7
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("CHANNELS = 4")
    path = tmp_path / "own.py"
    path.write_text(OWN_FILE)
    return path


def test_a_registered_network_takes_no_memory_until_its_numbers_are_wanted() -> None:
    subject = open_subject("vgg16", image_size=64, num_classes=3)
    assert subject.name == "vgg16"
    assert subject.shape == (1, 3, 64, 64)
    assert all(parameter.is_meta for parameter in subject.module.parameters())
    assert subject.taps["conv5_3"] == "features.29"
    assert subject.recipe is not None
    assert subject.recipe.name == "vgg"
    assert subject.image_batch(8) == (8, 3, 64, 64)


def test_the_numbers_are_those_a_training_starts_from() -> None:
    subject = open_subject("lenet5")
    assert subject.recipe is not None
    fresh = create_model("lenet5", seed=subject.recipe.seed).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in subject.network().state_dict().items())


def test_a_module_is_taken_as_it_is() -> None:
    module = nn.Conv2d(3, 4, 3).double()
    subject = open_subject(module, (3, 20, 30))
    assert subject.module is module
    assert subject.inputs[0].shape == (1, 3, 20, 30)
    assert subject.inputs[0].dtype == torch.float64
    assert subject.recipe is None


def test_a_network_of_ours_given_as_a_module_has_its_taps_and_its_image() -> None:
    subject = open_subject(create_model("lenet5"))
    assert subject.shape == (1, 1, 28, 28)
    assert "s4" in subject.taps


def test_an_autoencoder_is_shown_rows() -> None:
    subject = open_subject("autoencoder_deep", columns=12)
    assert subject.is_of_rows
    assert (subject.shape, subject.batch(8)) == ((1, 12), (8, 12))
    assert all(parameter.is_meta for parameter in subject.module.parameters())
    assert subject.taps["code"] == "encoder.relu2"
    assert subject.recipe is not None
    assert subject.recipe.task == "reconstruct"
    fresh = create_autoencoder("autoencoder_deep", columns=12, seed=subject.recipe.seed).state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in subject.network().state_dict().items())


def test_an_autoencoder_given_as_a_module_has_its_taps_and_its_row() -> None:
    subject = open_subject(create_autoencoder("autoencoder_plain", columns=5))
    assert subject.shape == (1, 5)
    assert subject.taps == {"code": "encoder.relu1"}
    assert not open_subject("lenet5").is_of_rows
    assert open_subject("lenet5").batch(2) == (2, 1, 28, 28)


@pytest.mark.parametrize(
    ("factory", "shapes"),
    [
        ("digits", [(1, 1, 28, 28)]),
        ("words", [(1, 7)]),
        ("several", [(1, 2), (1, 3)]),
        ("made", [(1, 3, 224, 224)]),
    ],
)
def test_a_file_of_ones_own(own_file: Path, factory: str, shapes: list[tuple[int, ...]]) -> None:
    subject = open_subject(f"{own_file}:{factory}")
    assert subject.name == factory
    assert [tuple(each.shape) for each in subject.inputs] == shapes


def test_what_lies_beside_the_file_can_be_imported(own_file: Path) -> None:
    assert isinstance(open_subject(f"{own_file}:small", (1, 8, 8)).module, nn.Sequential)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("{file}:broken", "broken cannot be called: ValueError: no weights"),
        ("{file}:a_number", "a_number gives a int, not an nn.Module"),
        ("{file}:missing", "missing cannot be called: AttributeError"),
        ("{file}", "name the function that makes one"),
        ("nowhere.py:small", "there is no file nowhere.py"),
    ],
)
def test_a_file_without_a_module_is_told_in_one_line(own_file: Path, what: str, said: str) -> None:
    with pytest.raises(InspectionError, match=said) as caught:
        open_subject(what.format(file=own_file))
    assert "\n" not in str(caught.value)


def test_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean .*vgg16"):
        open_subject("vgg61")
    with pytest.raises(ImageSizeError, match="at least 32x32"):
        open_subject("vgg16", image_size=16)
    with pytest.raises(RunError, match=r"has no card\.json"):
        open_subject(str(tmp_path))
    for example in (["image.png"], 64, {"x": torch.zeros(3)}):
        with pytest.raises(InspectionError, match="an example of the input"):
            example_input(example)


def test_what_the_subject_does_not_leave_open_is_refused() -> None:
    with pytest.raises(InspectionError, match="example cannot be chosen for a network by name"):
        open_subject("vgg16", (3, 64, 64))
    with pytest.raises(InspectionError, match="image_size cannot be chosen for what is no network by name"):
        open_subject(nn.Conv2d(3, 4, 3), image_size=64)
    with pytest.raises(InspectionError, match="num_classes cannot be chosen for an autoencoder of rows"):
        open_subject("autoencoder_plain", num_classes=2)
    with pytest.raises(InspectionError, match="columns cannot be chosen for a classifier of images"):
        open_subject("lenet5", columns=2)
    with pytest.raises(InspectionError, match="columns cannot be chosen for what is no network by name"):
        open_subject(nn.Linear(3, 4), columns=3)


def test_a_file_with_dataclasses_and_one_that_ends_itself(tmp_path: Path) -> None:
    modern = tmp_path / "modern.py"
    modern.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n\n"
        "@dataclass\nclass Plan:\n    width: int = 4\n\ndef net():\n    return nn.Conv2d(3, Plan().width, 3)\n"
    )
    assert isinstance(open_subject(f"{modern}:net").module, nn.Conv2d)
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit(0)\n")
    with pytest.raises(InspectionError, match="SystemExit"):
        open_subject(f"{script}:net")


def test_words_come_in_no_batches_of_images(own_file: Path) -> None:
    with pytest.raises(ConvatlasError, match="not called with images"):
        open_subject(f"{own_file}:words").image_batch(2)
