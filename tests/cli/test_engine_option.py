"""The CPU engine in training, evaluating and predicting: used by default, recorded, kept to, and turned off."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import convatlas as convatlas_api
from convatlas.errors import DataError
from convatlas.training import checkpoint
from convatlas.training.progress import Silent, StepReport
from stand_in_engine import StandIn

Command = Callable[..., Any]

TRAIN = ("train", "lenet5", "--data", "digits", "--image-size", 16, "--set", "batch_size=101")
MEASURED = {"name": "convatlas", "choices": {"3x3 measured 0": "winograd"}}
TORCH = {"name": "torch", "choices": {}}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn().install(monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the engine trained, to be copied."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        StandIn().install(patch)
        convatlas_api.train(
            "lenet5", "digits", image_size=16, epochs=1, batch_size=101, ema_decay=0.9, out=out, watch=Silent()
        )
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.radial_gradient("L").resize((16, 16)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def recorded(run: Path) -> dict[str, Any]:
    engine: dict[str, Any] = json.loads((run / "card.json").read_text())["engine"]
    return engine


def test_a_training_uses_the_engine_says_so_and_records_it(convatlas: Command, engine: StandIn, tmp_path: Path) -> None:
    answer = convatlas(*TRAIN, "--epochs", 1, "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert "engine  convatlas (layers: 1 winograd)" in answer.out
    assert "milliseconds" not in answer.out
    assert recorded(tmp_path / "run") == MEASURED
    measured, trained, tested = engine.made
    assert engine.given == [None, MEASURED["choices"], None]  # the training keeps to what was measured before it
    assert engine.examples[:2] == [(101, 1, 16, 16)] * 2
    assert measured.shown == []
    assert trained.shown[0] == ((101, 1, 16, 16), True)
    assert trained.shown[-1][1] is False  # it was validated by the engine too
    assert {learning for _, learning in tested.shown} == {False}
    assert "<td>convatlas</td>" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_layers_are_explained(convatlas: Command, engine: StandIn, tmp_path: Path) -> None:
    answer = convatlas(*TRAIN, "--set", "steps=1", "--explain", "--out", tmp_path / "run")
    assert "layer 3x3 measured 0  3x3 measured 0  winograd  winograd 1.5" in answer.out
    answer = convatlas("evaluate", tmp_path / "run", "--explain")
    assert "winograd  winograd 1.5" in answer.out
    layers = json.loads(convatlas("evaluate", tmp_path / "run", "--explain", "--json").out)["layers"]
    assert [layer["milliseconds"] for layer in layers] == [{"winograd": 1.5}]
    assert "engine  torch\n" in convatlas("evaluate", tmp_path / "run", "--explain", "--engine", "torch").out


@pytest.mark.usefixtures("undrawn")
def test_torch_is_a_word_away(convatlas: Command, engine: StandIn, picture: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    off = ("--engine", "torch")
    answer = convatlas(*TRAIN, "--set", "steps=2", "--out", run, *off)
    assert "engine  torch\n" in answer.out
    assert recorded(run) == TORCH
    assert json.loads(convatlas("evaluate", run, "--json", *off).out)["engine"] == "torch"
    assert convatlas("predict", run, picture, *off).code == 0
    assert convatlas("train", "--resume", run, "--epochs", 1).code == 0  # also goes on as it began
    assert recorded(run) == TORCH
    assert engine.made == []


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("setting", "reason"),
    [("precision=bfloat16", "torch (the recipe asks for bfloat16)"), (None, "torch (llvmlite is not installed)")],
)
def test_torch_where_the_engine_cannot(
    setting: str | None, reason: str, convatlas: Command, engine: StandIn, tmp_path: Path
) -> None:
    if setting is None:
        engine.missing = "llvmlite is not installed"
    answer = convatlas(*TRAIN, "--set", "steps=2", "--set", setting or "seed=0", "--out", tmp_path / "run")
    assert answer.code == 0, answer.err
    assert f"engine  {reason}" in answer.out
    assert recorded(tmp_path / "run") == TORCH
    assert engine.made == []


@pytest.mark.usefixtures("undrawn")
def test_evaluating_and_predicting_use_the_engine(
    convatlas: Command, engine: StandIn, run: Path, picture: Path
) -> None:
    evaluation = json.loads(convatlas("evaluate", run, "--json").out)
    assert evaluation["engine"] == "convatlas"
    assert len(engine.made) == 1
    assert engine.examples == [engine.made[0].shown[0][0]] == [(256, 1, 16, 16)]
    assert engine.made[0].training is False
    assert json.loads(convatlas("evaluate", run, "--json", "--engine", "torch").out)["engine"] == "torch"
    assert len(engine.made) == 1

    answer = convatlas("predict", run, picture, "--json")
    assert engine.made[1].shown == [((1, 1, 16, 16), False)]
    assert convatlas("predict", run, picture, "--json", "--engine", "torch").out == answer.out
    assert len(engine.made) == 2

    opened = convatlas_api.load(run)
    with pytest.raises(DataError, match="missing"):
        opened.predict([picture, picture.with_name("missing.png")])
    assert len(engine.made) == 2  # refused before anything was compiled
    opened.predict([picture, picture])
    opened.predict(picture)
    assert len(engine.made) == 3  # made ready once for each opened run


@pytest.mark.usefixtures("undrawn")
def test_a_resumed_training_keeps_to_the_recorded_choices_and_to_the_bits(
    engine: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopAtThree(Silent):
        steps = 0

        def step(self, report: StepReport) -> None:
            self.steps += 1
            if self.steps == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr("convatlas.training.fit.REDRAW_EVERY", 0.0)
    monkeypatch.setattr("convatlas.training.fit.CHECKPOINT_EVERY", 0.0)
    settings = {"image_size": 16, "steps": 6, "ema_decay": 0.5}
    convatlas_api.train("lenet5", "digits", out=tmp_path / "whole", watch=Silent(), **settings)
    before = len(engine.made)
    with pytest.raises(KeyboardInterrupt):
        convatlas_api.train("lenet5", "digits", out=tmp_path / "killed", watch=StopAtThree(), **settings)
    choices = recorded(tmp_path / "killed")["choices"]
    assert choices == {f"3x3 measured {before}": "winograd"}  # on the card before the first step
    before = len(engine.made)
    resumed = convatlas_api.resume(tmp_path / "killed", watch=Silent())
    assert resumed.card.status == "finished"
    assert resumed.card.engine.choices == choices
    assert engine.given[before:] == [choices] * 3 + [None]  # network, its average; then the test, which may choose
    whole, again = (checkpoint.load(tmp_path / name)[1] for name in ("whole", "killed"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_the_engine_goes_on_without_it_and_says_so_in_a_line(
    convatlas: Command, engine: StandIn, run: Path
) -> None:
    engine.missing = "llvmlite is not installed"
    answer = convatlas("train", "--resume", run, "--epochs", 2)
    assert answer.code == 0, answer.err
    assert "the CPU engine cannot go on with what it began: llvmlite is not installed. PyTorch goes on" in " ".join(
        answer.out.split()
    )
    assert recorded(run) == TORCH
    assert engine.made == []


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("asked", "expected"), [("torch", TORCH), ("auto", MEASURED)])
def test_a_run_changes_its_engine_where_that_is_asked_for(
    asked: str, expected: dict[str, Any], convatlas: Command, engine: StandIn, run: Path
) -> None:
    answer = convatlas("train", "--resume", run, "--epochs", 2, "--engine", "torch")
    assert answer.code == 0, answer.err
    assert "cannot go on" not in answer.out
    assert recorded(run) == TORCH
    answer = convatlas("train", "--resume", run, "--epochs", 3, "--engine", asked)
    assert answer.code == 0, answer.err
    assert recorded(run) == expected


@pytest.mark.usefixtures("undrawn")
def test_runs_of_before_the_engine_are_those_of_torch(convatlas: Command, engine: StandIn, run: Path) -> None:
    card = json.loads((run / "card.json").read_text())
    del card["engine"]
    (run / "card.json").write_text(json.dumps(card))
    assert convatlas("train", "--resume", run, "--epochs", 2).code == 0
    assert recorded(run) == TORCH
    assert engine.made == []


def test_the_files_of_a_run_are_the_same_whatever_ran_it(engine: StandIn, run: Path, tmp_path: Path) -> None:
    """The stand-in computes with PyTorch, so that even the bits are."""
    other = tmp_path / "torch"
    convatlas_api.train(
        "lenet5",
        "digits",
        image_size=16,
        epochs=1,
        batch_size=101,
        ema_decay=0.9,
        out=other,
        watch=Silent(),
        engine="torch",
    )
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in other.iterdir())
    one, two = (load_file(path / "model.safetensors") for path in (run, other))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    "command", [TRAIN, ("train", "--resume", "nowhere"), ("evaluate", "nowhere"), ("predict", "nowhere", "x.png")]
)
def test_an_engine_that_is_none_is_one_line(command: tuple[object, ...], convatlas: Command) -> None:
    answer = convatlas(*command, "--engine", "torche")
    assert answer.code == 2
    assert answer.err == "convatlas: there is no engine named 'torche'; did you mean torch? Known: auto, torch\n"


@pytest.mark.slow
def test_the_engine_itself_goes_on_to_the_bits_and_agrees_with_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convatlas.engine import unavailable

    if reason := unavailable():
        pytest.skip(reason)

    class StopAtThree(Silent):
        steps = 0

        def step(self, report: StepReport) -> None:
            self.steps += 1
            if self.steps == 3:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("convatlas.training.fit.REDRAW_EVERY", 0.0)
    # Beside other work PyTorch may be the faster one, and the whole network be left to it.
    monkeypatch.setattr(
        "convatlas.engine.accelerated._compare", lambda calls: dict(zip(calls, range(1, 9), strict=False))
    )
    settings = {"image_size": 32, "steps": 5, "batch_size": 32, "ema_decay": 0.5}
    whole = convatlas_api.train("vgg11_bn_cifar", "digits", out=tmp_path / "whole", watch=Silent(), **settings)
    assert whole.card.engine.choices
    stopped = convatlas_api.train("vgg11_bn_cifar", "digits", out=tmp_path / "cut", watch=StopAtThree(), **settings)
    assert stopped.card.status == "interrupted"
    resumed = convatlas_api.resume(tmp_path / "cut", watch=Silent())
    assert resumed.card.engine == stopped.card.engine
    one, two = (checkpoint.load(tmp_path / name)[1] for name in ("whole", "cut"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    losses = [convatlas_api.evaluate(whole, engine=engine).loss for engine in ("auto", "torch")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
