"""A network of one's own, from the file to answers; and a stranger's, whose code is never run unasked."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import convatlas
from convatlas.cli.app import app
from convatlas.errors import ConvatlasError, NetworkCodeError, RecipeError, RunError
from convatlas.models.own import OwnEntry, create_own, own_entry, read_code
from convatlas.runs import ClassifierRun
from convatlas.training.progress import Silent

NETWORK = """
import torch
from torch import nn

def make(num_classes, in_channels=1, image_size=16):
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Linear(128, num_classes),
    )

def pair(num_classes):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(192, num_classes)
        def forward(self, images):
            logits = self.last(images.flatten(1))
            return (logits, logits) if self.training else logits
    return Pair()

def grey():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 10))

def lazy(num_classes):
    return nn.Sequential(nn.LazyConv2d(4, 3, padding=1), nn.Flatten(), nn.LazyLinear(num_classes))

class Wrapped(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.inner = nn.Module()
        self.body, self.head = nn.Conv2d(1, num_classes * 2, 3), nn.Linear(num_classes * 2, num_classes)
        self.token = nn.Parameter(torch.zeros(1))
        self.mean = torch.full((1, 1, 1), 0.1)
        self.inner.register_buffer("table", torch.ones(3), persistent=False)
    def forward(self, images):
        if images.sum() > 1e9:
            images = images - self.mean
        rows = self.body(images - self.mean).mean((2, 3)) + self.token
        return self.head(rows) + self.head(rows.abs())

class Outer(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(Wrapped(num_classes))
        self.register_buffer("table", torch.ones(3), persistent=False)

def functional(num_classes):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.w = nn.Conv2d(1, 7, 3), nn.Parameter(torch.zeros(num_classes, 7))
        def forward(self, images):
            return nn.functional.linear(self.c(images).mean((2, 3)), self.w)
    return Functional()

def tied(num_classes):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(64, num_classes)
            self.classifier = self.f
        def forward(self, images):
            return self.f(images[:, :1].flatten(1))
    return Tied()

def strict(num_classes, image_size, **others):
    assert image_size == 8 and others["in_channels"] == 1
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

def boom():
    open("boomed", "w").close()

def fails(num_classes):
    raise ValueError("not today")

def number():
    return 7

not_a_function = 3
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "my_net.py"
    file.write_text(NETWORK)
    return file


def trained(code: Path, tmp_path: Path, function: str = "make", **settings: object) -> ClassifierRun:
    run = convatlas.train(
        f"{code}:{function}", data="digits", out=tmp_path / "run", watch=Silent(), epochs=2, engine="torch", **settings
    )
    assert isinstance(run, ClassifierRun)
    return run


def entry(code: Path, function: str) -> OwnEntry:
    return own_entry(read_code(f"{code}:{function}"))


def test_it_is_trained_evaluated_explained_and_used_like_any_other(code: Path, tmp_path: Path) -> None:
    run = trained(code, tmp_path)
    assert run.card.test is not None
    assert run.card.test["accuracy"] > 0.3  # of ten classes
    assert (run.path / "network.py").read_bytes() == code.read_bytes()
    code.unlink()  # the run has its own copy

    again = convatlas.load(run.path)
    assert isinstance(again, ClassifierRun)
    assert convatlas.evaluate(again, engine="torch").accuracy == run.card.test["accuracy"]
    picture = tmp_path / "digit.png"
    Image.new("L", (8, 8), 90).save(picture)
    assert again.predict(picture)[0].label in again.classes
    assert convatlas.explain(again, picture).map.shape == (8, 8)
    assert convatlas.inspect(again).parameters == sum(each.numel() for each in again.model().parameters())
    assert "make on digits" in (run.path / "report.html").read_text()


def test_it_goes_on_where_it_was(code: Path, tmp_path: Path) -> None:
    whole = trained(code, tmp_path / "a", seed=3)
    convatlas.train(
        f"{code}:make", data="digits", out=tmp_path / "half", watch=Silent(), epochs=1, engine="torch", seed=3,
        schedule="constant",
    )  # fmt: skip
    further = convatlas.resume(tmp_path / "half", epochs=2, watch=Silent())
    assert further.card.status == "finished"
    assert further.model().state_dict().keys() == whole.model().state_dict().keys()


def test_seeds_decide_its_weights(code: Path) -> None:
    sizes = {"num_classes": 3, "in_channels": 1, "image_size": 8}
    chosen = entry(code, "make")
    first, second, other = (create_own(chosen, **sizes, seed=seed) for seed in (0, 0, 1))
    name = "network.0.weight"
    assert torch.equal(first.state_dict()[name], second.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_what_it_takes_is_read_from_its_function(code: Path) -> None:
    chosen = entry(code, "make")
    assert (chosen.image_size, chosen.in_channels, chosen.fixed_channels) == (16, 1, None)
    assert entry(code, "grey").fixed_channels == 1
    assert entry(code, "lazy").fixed_channels is None
    assert create_own(entry(code, "lazy"), num_classes=3, in_channels=2, image_size=8).output_names == ("network.2",)
    network = create_own(chosen, num_classes=3, in_channels=1, image_size=16)
    assert network.output_names == ("network.5",)
    assert [*network.taps] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("pair", "gives a tuple in training; it must give the logits alone"),
        ("grey", r"gives \[1, 10\] for 1 image of 1x8x8 and 3 classes.*let its function take num_classes"),
        ("fails", "ValueError: not today"),
        ("tied", "the same weights twice, as f.weight and classifier.weight"),
        ("number", "gives a int, not an nn.Module"),
        ("not_a_function", "there is no function not_a_function.*make, pair"),
        ("missing", "there is no function missing"),
    ],
)
def test_what_makes_no_classifier_is_said(code: Path, function: str, says: str) -> None:
    with pytest.raises(NetworkCodeError, match=says):
        create_own(entry(code, function), num_classes=3, in_channels=1 if function == "grey" else 3, image_size=8)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("my_net.py", "name the function that makes one"),
        ("nowhere.py:make", "there is no file nowhere.py"),
        ("my_net.py:no function", "name the function"),
    ],
)
def test_what_names_no_code_is_said(what: str, says: str) -> None:
    with pytest.raises(NetworkCodeError, match=says):
        convatlas.train(what, data="digits", watch=Silent())


def test_its_file_is_alone(tmp_path: Path) -> None:
    (tmp_path / "blocks_beside.py").write_text("raise SystemExit('was imported')")
    (tmp_path / "net.py").write_text("import blocks_beside\n")
    with pytest.raises(NetworkCodeError, match="ModuleNotFoundError"):
        entry(tmp_path / "net.py", "make")


def test_weights_of_others_are_refused(code: Path) -> None:
    with pytest.raises(RecipeError, match="weights are for a registered network"):
        convatlas.train(f"{code}:make", data="digits", weights="imagenet", watch=Silent())


def test_a_strangers_code_is_run_only_if_they_are_trusted(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = tmp_path / "was_run"
    code.write_text(f"open({str(proof)!r}, 'w').close()\n{NETWORK}")
    run = trained(code, tmp_path)
    proof.unlink()
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path / "another machine"))
    picture = tmp_path / "digit.png"
    Image.new("L", (8, 8), 90).save(picture)

    def command(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*words])
        text = str(done.exception) if isinstance(done.exception, ConvatlasError) else done.output
        return done.exit_code, " ".join(text.split())

    place = str(run.path)
    for words in (
        ("predict", place, str(picture)),
        ("evaluate", place),
        ("explain", place, str(picture), "--out", str(tmp_path / "explained")),
        ("inspect", place),
        ("train", "--resume", place, "--epochs", "3"),
    ):
        status, text = command(*words)
        assert status != 0
        assert "brings the code of its network" in text
        assert "--trust" in text
    assert command("runs")[0] == 0
    assert not proof.exists()

    status, text = command("train", "lenet5", "--data", "digits", "--trust")
    assert "--trust is for the code that a run holds" in text
    status, text = command("inspect", place, "--trust", "--json")
    assert status == 0, text
    assert proof.exists()
    proof.unlink()
    shutil.rmtree(tmp_path / "another machine")

    status, text = command("predict", place, str(picture), "--trust", "--engine", "torch", "--json")
    assert status == 0, text
    assert proof.exists()
    assert command("evaluate", place, "--engine", "torch")[0] == 0  # said once


def test_code_that_was_changed_is_refused_although_the_run_is_trusted(code: Path, tmp_path: Path) -> None:
    run = trained(code, tmp_path)
    (run.path / "network.py").write_text(NETWORK + "\nimport os\n")
    with pytest.raises(RunError, match="was changed since"):
        convatlas.load(run.path, trust=True).model()


def test_code_that_is_gone_or_a_link_is_refused(code: Path, tmp_path: Path) -> None:
    run = trained(code, tmp_path)
    copied = tmp_path / "copied"
    shutil.copytree(run.path, copied)
    (copied / "network.py").unlink()
    with pytest.raises(RunError, match="cannot be read"):
        convatlas.load(copied).model()


@pytest.mark.parametrize("value", ["../../x", "A" * 64, "0" * 63])
def test_a_hash_that_is_a_path_is_refused(code: Path, tmp_path: Path, value: str) -> None:
    run = trained(code, tmp_path)
    card = json.loads((run.path / "card.json").read_text())
    card["model"]["code"]["sha256"] = value
    (run.path / "card.json").write_text(json.dumps(card))
    with pytest.raises(RunError, match=r"damaged at model\.code\.sha256"):
        convatlas.load(run.path, trust=True)


def test_trust_is_in_what_can_be_read(code: Path, tmp_path: Path) -> None:
    run = trained(code, tmp_path)
    evil = NETWORK + "\nopen('evil', 'w').close()\n"
    bait, other = tmp_path / "bait", tmp_path / "other"
    for folder in (bait, other):
        shutil.copytree(run.path, folder)
        card = json.loads((folder / "card.json").read_text())
        card["model"]["code"]["sha256"] = hashlib.sha256(evil.encode()).hexdigest()
        (folder / "card.json").write_text(json.dumps(card))
    (other / "network.py").write_text(evil)
    with pytest.raises(RunError, match="was changed since"):
        convatlas.load(bait, trust=True)
    opened = convatlas.load(other)
    assert isinstance(opened, ClassifierRun)
    with pytest.raises(RunError, match="brings the code"):
        opened.model()


def test_trust_is_in_one_function(code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = trained(code, tmp_path)
    card = json.loads((run.path / "card.json").read_text())
    card["model"]["code"]["factory"] = "boom"
    (run.path / "card.json").write_text(json.dumps(card))
    opened = convatlas.load(run.path)
    assert isinstance(opened, ClassifierRun)
    with pytest.raises(RunError, match="brings the code"):
        opened.model()
    assert not (tmp_path / "boomed").exists()


def test_a_run_named_like_code_runs_none(code: Path, tmp_path: Path) -> None:
    run = trained(code, tmp_path)
    folder = tmp_path / "run.py:make"
    shutil.copytree(run.path, folder)
    (tmp_path / "run.py").write_text("raise SystemExit('was run')")
    assert convatlas.inspect(str(folder)).parameters > 0


def test_the_output_layer_is_the_one_that_gives_the_classes(code: Path, tmp_path: Path) -> None:
    sizes = {"num_classes": 3, "in_channels": 1, "image_size": 8}
    assert create_own(entry(code, "Outer"), **sizes).output_names == ("network.0.head",)
    assert create_own(entry(code, "functional"), **sizes).output_names == ()
    assert create_own(entry(code, "strict"), **sizes).output_names == ("network.1",)
    with pytest.raises(RecipeError, match="cannot be told"):
        trained(code, tmp_path / "a", "functional", freeze="features")
    run = trained(code, tmp_path / "b", "Outer", freeze="features")
    first = create_own(entry(code, "Outer"), **sizes | {"num_classes": 10}, seed=0).state_dict()
    now = run.model().state_dict()
    changed = {name for name in first if not torch.equal(first[name], now[name])}
    assert changed == {"network.0.head.weight", "network.0.head.bias"}


def test_it_is_inspected_before_training_by_the_same_name(code: Path) -> None:
    inspected = convatlas.inspect(f"{code}:make")
    assert inspected.parameters == sum(each.numel() for each in entry(code, "make").build(
        num_classes=10, in_channels=1, image_size=16).parameters())  # fmt: skip
    assert inspected.layers[0].output_shape == (1, 8, 16, 16)
