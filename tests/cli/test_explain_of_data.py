"""``convatlas explain`` of what a run's own images say: the nearest ones, a map, what excites a channel."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import convatlas as convatlas_api
from convatlas.data.cache import prepare
from convatlas.data.catalog import open_source
from convatlas.data.decode import decode_file
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import ConvatlasError
from convatlas.explained import exciting_images, map_features, nearest_images
from convatlas.explanation import feature_maps
from convatlas.models import create_model
from convatlas.runs import ClassificationCard, ClassifierRun, DataCard, ModelCard
from convatlas.runs.run import WEIGHTS

Command = Callable[..., Any]

CLASSES = ("ant", "bee", "cow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise, each with a colour of its own."""
    place = tmp_path_factory.mktemp("data") / "animals"
    chance = np.random.default_rng(0)
    for channel, name in enumerate(CLASSES):
        (place / name).mkdir(parents=True)
        for number in range(12):
            pixels = chance.integers(0, 120, (40, 48, 3), dtype=np.uint8)
            pixels[:, :, channel] += 120
            Image.fromarray(pixels).save(place / name / f"{number}.png")
    return place


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", folder)


@pytest.fixture
def enough(folder: Path, tmp_path: Path) -> Path:
    """A folder with validation images enough for a map."""
    place = tmp_path / "divided"
    for part, numbers in (("train", range(6)), ("val", range(6, 12))):
        for name in CLASSES:
            (place / part / name).mkdir(parents=True)
            for number in numbers:
                shutil.copy(folder / name / f"{number}.png", place / part / name)
    return place


def make_run(place: Path, folder: Path, scale: float = 1.0, include: str | None = None) -> Path:
    dataset = prepare(open_source(folder, include), channels=3, resize=32)
    card = ClassificationCard(
        created="2026-11-22T10:00:00+00:00",
        model=ModelCard(name="lenet5", num_classes=3, in_channels=3, image_size=28),
        classes=CLASSES,
        preprocessing=Preprocessing(channels=3, resize=32, crop=28, scale=1 / 255, mean=(0.5,) * 3, std=(0.25,) * 3),
        recipe={},
        data=DataCard(
            name="animals",
            location=str(folder),
            include=include,
            fingerprint=dataset.fingerprint,
            counts=dataset.counts,
            mirror=True,
            split_seed=0,
            validation_fraction=0.1,
            copies_left_out=0,
        ),
        environment={},
    )
    made = ClassifierRun.create(card, place)
    model = create_model("lenet5", num_classes=3, in_channels=3, image_size=28, seed=0)
    torch.nn.init.normal_(model.get_parameter("classifier.output.weight"), generator=torch.Generator().manual_seed(0))
    save_file({key: value * scale for key, value in model.state_dict().items()}, place / WEIGHTS)
    return made.path


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_at_once(convatlas: Command, tmp_path: Path, folder: Path, enough: Path) -> None:
    run = make_run(tmp_path / "run3", enough)
    answer = convatlas(
        "explain", run, folder / "bee" / "3.png", "--nearest", "--map", "--channel", "c3:4", "--channel", "s2:0"
    )
    assert answer.code == 0, answer.err
    image, near, mapped, *channels, page = answer.out.splitlines()
    assert "explained/1-3-gradcam.png" in image
    assert near.startswith("  nearest  ")
    assert near.count(",") == 7
    assert near.endswith("  explained/1-3-nearest.png")
    assert mapped.startswith("map  18 validation images, ")
    assert mapped.endswith(" misclassified  explained/features-map.png, explained/features-map.csv")
    assert channels == [
        "channel  c3:4  explained/channel-c3-4.png",
        "channel  s2:0  explained/channel-s2-0.png",
    ]
    assert page == "page  explained/index.html"
    text = Path("explained/index.html").read_text(encoding="utf-8")
    for heading in ("The nearest training images", "Map of the features", "Channel 4 of layer c3"):
        assert heading in text
    assert text.count("data:image") > 8 + 9 + 9
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert text.count("<script>") == 1


def test_the_map_as_a_table_and_a_record(convatlas: Command, tmp_path: Path, enough: Path) -> None:
    run = make_run(tmp_path / "other", enough)
    answer = convatlas("explain", run, "--map", "--json", "--out", "maps")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert said["images"] == said["channels"] == said["remarks"] == []
    drawn = said["features_map"]
    assert (drawn["projection"], drawn["images"], drawn["part"]) == ("tsne", 18, "validation")
    rows = list(csv.DictReader(Path(drawn["table"]).read_text(encoding="utf-8").splitlines()))
    assert {row["image"] for row in rows} == {f"val/{name}/{number}.png" for name in CLASSES for number in range(6, 12)}
    opened = convatlas_api.load(run)
    assert isinstance(opened, ClassifierRun)
    for row in rows:
        assert row["class"] == row["image"].split("/")[1]
        assert opened.predict(enough / row["image"], engine="torch")[0].label == row["answer"]
    assert drawn["misclassified"] == sum(row["class"] != row["answer"] for row in rows)
    with Image.open(drawn["file"]) as picture:
        assert min(picture.size) > 500
    found = map_features(opened)
    assert found.points[0] == pytest.approx([float(rows[0]["x"]), float(rows[0]["y"])], abs=1e-3)


def test_the_image_itself_is_nearest_to_itself(run: Path, folder: Path) -> None:
    opened = convatlas_api.load(run)
    assert isinstance(opened, ClassifierRun)
    everything = nearest_images(opened, folder / "cow" / "0.png", most=99)
    assert len(everything) == prepare(open_source(folder), channels=3, resize=32).counts["train"]
    similarities = [near.similarity for near in everything]
    assert similarities == sorted(similarities, reverse=True)
    known = everything[-1]
    (itself,) = nearest_images(opened, folder / known.image.removeprefix("train/"), most=1)
    assert (itself.image, itself.similarity) == (known.image, pytest.approx(1))
    assert itself.class_name == known.class_name == known.image.split("/")[-2]


def test_the_place_of_an_exciting_image_is_what_the_layer_sees(run: Path, folder: Path) -> None:
    opened = convatlas_api.load(run)
    assert isinstance(opened, ClassifierRun)
    found = exciting_images(opened, "s2:3", most=2)
    assert len(found) == 2
    first = found[0]
    pixels = torch.from_numpy(decode_file(folder / first.image.removeprefix("train/"), 3, 32))
    shown = opened.preprocessing.normalize(pixels[None])[0]
    assert feature_maps(opened.model(), shown, "s2")[3].max().item() == pytest.approx(first.value, abs=1e-3)
    left, top, right, bottom = first.box
    kept = torch.zeros_like(shown)
    kept[:, top:bottom, left:right] = shown[:, top:bottom, left:right]
    assert feature_maps(opened.model(), kept, "s2")[3].max().item() >= first.value - 1e-3  # it sees nothing else
    assert 0 < right - left < 28


def test_images_that_are_gone_are_a_remark_or_a_mistake(convatlas: Command, tmp_path: Path, folder: Path) -> None:
    moved = tmp_path / "was-here"
    shutil.copytree(folder, moved)
    run = make_run(tmp_path / "run2", moved)
    moved.rename(tmp_path / "is-here")
    picture = tmp_path / "is-here" / "bee" / "1.png"
    answer = convatlas("explain", run, picture, "--nearest", "--channel", "c3:4")
    assert answer.code == 0, answer.err
    image, remark, page = answer.out.splitlines()
    assert remark.startswith("! the images of ")
    assert "name their place with --data" in remark
    assert "gradcam" in image
    assert page.startswith("page")
    assert "are gone" in Path("explained/index.html").read_text(encoding="utf-8")
    alone = convatlas("explain", run, "--channel", "c3:4")
    assert (alone.code, alone.out, len(alone.err.splitlines())) == (2, "", 1)
    found = convatlas("explain", run, picture, "--nearest", "--data", tmp_path / "is-here", "--json")
    assert json.loads(found.out)["images"][0]["nearest"][0]["image"].split("/")[-2] in CLASSES
    assert json.loads(found.out)["remarks"] == []
    Image.new("RGB", (40, 40)).save(tmp_path / "is-here" / "ant" / "new.png")
    changed = convatlas("explain", run, picture, "--nearest", "--data", tmp_path / "is-here")
    assert "! the images have changed since the training" in changed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to explain: name images, or ask for --map or --channel LAYER:NUMBER"),
        (["--nearest"], "name images"),
        (["--map", "--nearest"], "are of images"),
        (["--map", "--class", "bee"], "are of images"),
        (["--channel", "c3"], "a channel is written LAYER:NUMBER"),
        (["--channel", "c3:99"], "c3 has channels 0 to 15; received 'c3:99'"),
        (["--channel", "c33:0"], "no layer named 'c33'; did you mean c3"),
        (["--map", "--projection", "pca"], "no projection named 'pca'"),
        (["--projection", "tsne"], "add --map"),
        (["--data", "photos"], "--data names the images for --nearest, --map and --channel"),
        (["--map", "--data", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(convatlas: Command, run: Path, arguments: list[str], message: str) -> None:
    answer = convatlas("explain", run, *arguments)
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 1)
    assert message in answer.err
    assert not Path("explained").exists()


def test_too_few_images_for_a_map(convatlas: Command, run: Path) -> None:
    answer = convatlas("explain", run, "--map")
    assert (answer.code, answer.out) == (2, "")
    assert "needs 5 images or more; received 3" in answer.err


@pytest.mark.parametrize("asked", [["--map"], ["--channel", "c3:4"]])
def test_weights_that_are_no_use_are_one_line(
    convatlas: Command, tmp_path: Path, folder: Path, asked: list[str]
) -> None:
    answer = convatlas("explain", make_run(tmp_path / "large", folder, scale=1e30), *asked)
    assert (answer.code, len(answer.err.splitlines())) == (2, 1)
    assert "finite" in answer.err


def test_a_network_by_name_is_told_its_images(folder: Path) -> None:
    from convatlas.explained.images import images_for
    from convatlas.weights import PretrainedClassifier

    class Named(PretrainedClassifier):
        def __init__(self) -> None:
            self.name = "lenet5"

        preprocessing = Preprocessing(channels=3, resize=32, crop=28, scale=1 / 255, mean=(0,) * 3, std=(1,) * 3)

    with pytest.raises(ConvatlasError, match=r"lenet5 comes without the images.*name some with --data"):
        images_for(Named())
    known = images_for(Named(), folder)
    assert known.name_in(known.unfitted, 0).split("/")[-2] in CLASSES


def test_images_are_named_right_beside_files_that_were_left_out(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "with masks"
    shutil.copytree(folder, place)
    for name in CLASSES:
        for number in range(12):
            Image.new("L", (40, 48), 20 * number).save(place / name / f"{number}.bmp")
    run = convatlas_api.load(make_run(tmp_path / "run", place, include="*.png"))
    assert isinstance(run, ClassifierRun)
    dataset = prepare(open_source(place, "*.png"), channels=3, resize=32)
    trained_on = {int(row) for row in dataset.train.rows}
    files = [path for path in sorted(place.rglob("*.png")) if nearest_images(run, path, most=1)[0].similarity > 0.9999]
    assert len(files) == len(trained_on)
    for path in files:
        assert nearest_images(run, path, most=1)[0].image == path.relative_to(place).as_posix()
