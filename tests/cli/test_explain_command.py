"""``convatlas explain``, and the same from Python: what is written, what is said, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

import convatlas as convatlas_api
from convatlas.data.decode import decode_file
from convatlas.data.preprocessing import Preprocessing
from convatlas.errors import ConvatlasError, RunError
from convatlas.explained import seen_square
from convatlas.explanation import METHOD_NAMES
from convatlas.models import create_model
from convatlas.runs import ClassificationCard, ClassifierRun, DataCard, ModelCard
from convatlas.runs.run import WEIGHTS

Command = Callable[..., Any]

CLASSES = ("ant", "bee", "<script>alert('cow')</script>")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a colour LeNet-5 that has learnt nothing, cut from larger images than it sees."""
    return make_run(tmp_path_factory.mktemp("runs") / "animals")


def make_run(place: Path, **changes: Any) -> Path:
    card = ClassificationCard(
        created="2026-11-22T10:00:00+00:00",
        model=ModelCard(name="lenet5", num_classes=3, in_channels=3, image_size=28),
        classes=CLASSES,
        preprocessing=Preprocessing(
            channels=3, resize=32, crop=28, scale=1 / 255, mean=(0.5,) * 3, std=(0.25,) * 3, channel_order="BGR"
        ),
        recipe={},
        data=DataCard(
            name="animals",
            location="/animals",
            fingerprint="f",
            counts={},
            mirror=True,
            split_seed=0,
            validation_fraction=0.1,
        ),
        environment={},
    )
    made = ClassifierRun.create(card.model_copy(update=changes), place)
    model = create_model("lenet5", num_classes=3, in_channels=3, image_size=28, seed=0)
    torch.nn.init.normal_(model.get_parameter("classifier.output.weight"), generator=torch.Generator().manual_seed(0))
    save_file(model.state_dict(), place / WEIGHTS)
    return made.path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A wide photograph, and a tiny grey drawing of the same name as another in another folder."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    wide = Image.fromarray(noise).resize((640, 480))
    ImageDraw.Draw(wide).ellipse((200, 100, 400, 300), fill="red")
    wide.save(folder / "photo.jpg")
    (folder / "other").mkdir()
    Image.fromarray(noise[:20, :12, 0]).save(folder / "other" / "photo.png")
    return [folder / "photo.jpg", folder / "other" / "photo.png"]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_line_an_image_and_a_page(convatlas: Command, run: Path, pictures: list[Path]) -> None:
    answer = convatlas("explain", run, *pictures)
    assert answer.code == 0, answer.err
    *lines, page = answer.out.splitlines()
    assert page == "page  explained/index.html"
    for line, picture, number in zip(lines, pictures, (1, 2), strict=True):
        start = f"{re.escape(str(picture))}  (ant|bee|<script>.*</script>)  [0-9.]+%  layer s4  "
        assert re.fullmatch(f"{start}explained/{number}-photo-gradcam.png, explained/{number}-photo-s4.png", line)
    assert sorted(file.name for file in Path("explained").iterdir()) == [
        "1-photo-gradcam.png",
        "1-photo-s4.png",
        "2-photo-gradcam.png",
        "2-photo-s4.png",
        "first-layer.png",
        "index.html",
    ]


def test_all_methods_as_json(convatlas: Command, run: Path, pictures: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "looks"
    answer = convatlas("explain", run, pictures[1], "--method", "all", "--class", "bee", "--out", out, "--json")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    (image,) = said["images"]
    assert image["image"] == str(pictures[1])
    assert image["class"] == "bee"
    assert [each["method"] for each in image["methods"]] == list(METHOD_NAMES)
    assert [each["layer"] for each in image["methods"]] == ["s4", "s4", None, None, None]
    assert sum(each["probability"] for each in image["top"]) == pytest.approx(1)
    assert {each["class"]: each["probability"] for each in image["top"]}["bee"] == image["probability"]
    files = [*(each["file"] for each in image["methods"]), image["maps"], said["filters"]]
    for file in files[:5]:
        with Image.open(file) as drawn:
            assert drawn.size == (230, 230)  # of 12 pixels, 10 are seen: 28 of 32; each is 23 times as large
    assert all(Path(file).is_file() for file in [*files, said["page"]])
    page = Path(said["page"]).read_text(encoding="utf-8")
    for title in ("Grad-CAM", "Grad-CAM++", "Guided backpropagation", "Occlusion", "Integrated gradients"):
        assert f"<strong>{title}" in page


def test_the_same_from_python(convatlas: Command, run: Path, pictures: list[Path]) -> None:
    opened = convatlas_api.load(run)
    for method in METHOD_NAMES:
        found = convatlas_api.explain(opened, pictures[0], method=method, class_name="ant")
        assert isinstance(found, convatlas_api.Explained)
        assert found.map.shape == (28, 28)
        assert found.map.dtype == np.float32
        assert (found.class_name, found.layer) == ("ant", "s4" if method.startswith("gradcam") else None)
    best = convatlas_api.explain(run, pictures[0], layer="c3")
    top = opened.predict(pictures[0])[0].top[0]
    assert (best.class_name, best.layer) == (top[0], "c3")
    assert best.probability == pytest.approx(top[1], abs=1e-5)
    said = json.loads(convatlas("explain", run, pictures[0], "--json", "--layer", "c3").out)["images"][0]
    assert (said["class"], said["probability"]) == (best.class_name, pytest.approx(best.probability))


def test_the_map_lies_where_the_network_looked(tmp_path: Path) -> None:
    """A frame drawn at the border of what is seen of a picture is at the border of the network's input."""
    left, top, side = seen_square(640, 480, resize=32, crop=28)
    assert (left, top, side) == (110, 30, 420)
    picture = Image.new("L", (640, 480), 0)
    ImageDraw.Draw(picture).rectangle((left, top, left + side - 1, top + side - 1), fill=255)
    picture.save(tmp_path / "frame.png")
    seen = decode_file(tmp_path / "frame.png", 1, 32)[:, :, 0]
    assert seen[2:30, 2:30].min() > 128
    assert seen[:2].max() < 128
    assert seen[:, 30:].max() < 128


def test_the_page_asks_for_nothing_and_runs_one_script(convatlas: Command, run: Path, pictures: list[Path]) -> None:
    assert convatlas("explain", run, *pictures).code == 0
    page = Path("explained/index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert "alert('cow')" not in page  # the class is escaped
    assert "&lt;script&gt;alert(&#39;cow&#39;)" in page
    assert page.count("<script>") == 1
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert page.count('type="range"') == len(pictures)
    assert "prefers-color-scheme: dark" in page
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    import base64
    import hashlib

    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page


def test_grad_cam_shows_each_image_to_the_network_once(run: Path, pictures: list[Path], tmp_path: Path) -> None:
    from convatlas.explained import explain_files

    opened = convatlas_api.load(run)
    assert isinstance(opened, ClassifierRun)
    passes: list[object] = []
    handle = opened.model().register_forward_hook(lambda *_: passes.append(None))
    explain_files(opened, pictures, tmp_path / "out")
    handle.remove()
    assert len(passes) == len(pictures)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class", "bea"], "no class named 'bea'; did you mean bee"),
        (["--method", "gradcan"], "no method named 'gradcan'; did you mean gradcam.*all"),
        (["--layer", "c4"], "no layer named 'c4'"),
        (["--layer", "f6"], "f6 gives 84 numbers without a place. Layers with one: s4, c3, s2, c1"),
        (["--layer", "s4", "--method", "occlusion"], "occlusion looks at no layer: leave s4 out"),
        (["missing.png"], "missing.png cannot be read: there is no such file"),
        (["--out", "taken.txt"], "cannot write taken.txt/1-photo-gradcam.png"),
        (["--frob"], "--frob"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    convatlas: Command, run: Path, pictures: list[Path], arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "taken.txt").write_text("precious")
    answer = convatlas("explain", run, pictures[0], *arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert re.search(message, answer.err), answer.err
    assert len(answer.err.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["taken.txt"]


def test_runs_that_cannot_be_explained(convatlas: Command, tmp_path: Path, pictures: list[Path]) -> None:
    answer = convatlas("explain", "nowhere", pictures[0])
    assert (answer.code, answer.out) == (2, "")
    assert "nowhere is not a run" in answer.err
    empty = make_run(tmp_path / "empty")
    (empty / WEIGHTS).unlink()
    with pytest.raises(RunError, match="no weights yet"):
        convatlas_api.explain(empty, pictures[0])


def test_a_network_whose_answers_are_no_numbers_is_refused(tmp_path: Path, pictures: list[Path]) -> None:
    run = make_run(tmp_path / "large")
    model = create_model("lenet5", num_classes=3, in_channels=3, image_size=28, seed=0)
    weights = {key: value * 1e30 for key, value in model.state_dict().items()}
    save_file(weights, run / WEIGHTS)
    with pytest.raises(ConvatlasError, match="finite"):
        convatlas_api.explain(run, pictures[0])
