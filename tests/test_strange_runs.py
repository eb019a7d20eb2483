"""A run that a stranger made or edited: each of its files may say anything, and the answer is one line."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import convatlas
from convatlas.errors import ConvatlasError, RunError
from convatlas.training import checkpoint
from convatlas.training.progress import Silent
from stopping import StopAt

STRANGE: list[Any] = [
    None, True, -1, 0, 2**40, 2**70, -1.5, 1e300, "", "0", "[/red]x[red]", "<script>", "n" * 20_000, [], [[]], {},
    {"a": []},
]  # fmt: skip
RESUMED = 25  # of the edited checkpoints, to the end


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped within its second epoch."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convatlas.training.fit.REDRAW_EVERY", 0.0)  # so that the watch hears of every step
        run = convatlas.train(
            "lenet5", "digits", out=out, image_size=16, steps=24, batch_size=64, learning_rate=0.01, momentum=0.9,
            engine="torch", watch=StopAt(22),
        )  # fmt: skip
    assert run.card.status == "interrupted"
    return out


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "copy"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.effect_noise((16, 16), 50).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def edits(content: Any, edit: Callable[[Any], Any] = lambda value: value) -> Iterator[Any]:
    """The content with each of its values exchanged for each strange one, left out, or kept beside an unknown one."""
    for value in STRANGE:
        yield edit(value)
    if isinstance(content, dict):
        yield edit(content | {"unknown": 1})
        for name, part in content.items():
            yield edit({other: value for other, value in content.items() if other != name})
            yield from edits(part, lambda value, name=name: edit(content | {name: value}))
    elif isinstance(content, list) and content:
        yield edit(content * 2)
        yield from edits(content[0], lambda value: edit([value, *content[1:]]))


def assert_one_line(error: pytest.ExceptionInfo[ConvatlasError]) -> None:
    assert 0 < len(str(error.value)) < 1000


def complaint(use: Callable[[], object]) -> str:
    """What one line says against it; nothing if it can be done. Every other exception is a failure."""
    try:
        use()
    except ConvatlasError as error:
        return str(error)
    return ""


def test_a_card_may_say_anything(copy: Path, picture: Path) -> None:
    card = json.loads((copy / "card.json").read_text(encoding="utf-8"))
    refused = 0
    for edited in edits(card):
        (copy / "card.json").write_text(json.dumps(edited), encoding="utf-8")
        said = complaint(lambda: convatlas.load(copy).predict(picture, engine="torch"))
        assert len(said) < 1000
        refused += bool(said)
    assert refused > 200


def test_a_checkpoint_may_say_anything(copy: Path) -> None:
    state = json.loads((copy / "state.json").read_text(encoding="utf-8"))
    accepted = []
    for edited in edits(state):
        (copy / "state.json").write_text(json.dumps(edited), encoding="utf-8")
        said = complaint(lambda: checkpoint.load(copy))
        assert len(said) < 1000
        if not said:
            accepted.append(edited)
    assert checkpoint_goes_on(copy, state)
    for edited in random.Random(0).sample(accepted, min(RESUMED, len(accepted))):
        assert len(complaint(lambda edited=edited: checkpoint_goes_on(copy, edited))) < 1000


def test_a_history_of_another_task_is_refused(copy: Path) -> None:
    state = json.loads((copy / "state.json").read_text(encoding="utf-8"))
    for figure in ("train_perplexity", "validation_perplexity"):
        strange = state | {"history": [state["history"][0] | {figure: 1.0}]}
        (copy / "state.json").write_text(json.dumps(strange), encoding="utf-8")
        said = complaint(lambda: convatlas.resume(copy, watch=Silent()))
        assert "is damaged at history: a row has not the figures of its task" in said


def checkpoint_goes_on(copy: Path, state: Any) -> bool:
    """Whether a training goes on from a state to its end; on a copy, so that the next one can too."""
    again = Path(shutil.copytree(copy, copy.parent / "again"))
    try:
        (again / "state.json").write_text(json.dumps(state), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("convatlas.workflows.classify.write_report", lambda *_, **__: None)
            patch.setattr("convatlas.reports.figures.save_figure", lambda *_: None)
            return convatlas.resume(again, watch=Silent()).card.status == "finished"
    finally:
        shutil.rmtree(again)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "NaN", '"\\ud800"', "1" * 10_000, "\xff", "\0"])
@pytest.mark.parametrize("name", ["card.json", "state.json"])
def test_json_that_is_none(text: str, name: str, copy: Path) -> None:
    (copy / name).write_text(text, encoding="latin-1")
    with pytest.raises(RunError) as error:
        convatlas.resume(copy, watch=Silent())
    assert_one_line(error)


@pytest.mark.parametrize("name", ["card.json", "state.json", "model.safetensors", "last-*.safetensors"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_a_file_without_an_end_is_not_read(name: str, make: Callable[[Path], None], copy: Path, picture: Path) -> None:
    (path,) = copy.glob(name)
    path.unlink()
    make(path)
    with pytest.raises(RunError) as error:
        if name == "model.safetensors":
            convatlas.load(copy).predict(picture)
        else:
            convatlas.resume(copy, watch=Silent())
    assert_one_line(error)


def changed(tensors: dict[str, torch.Tensor], change: str) -> dict[str, torch.Tensor]:
    name, tensor = max(tensors.items(), key=lambda item: item[1].numel())
    match change:
        case "not finite":
            tensor = tensor.clone()
            tensor.view(-1)[-1] = float("nan")
        case "missing":
            return {other: value for other, value in tensors.items() if other != name}
        case "another shape":
            tensor = tensor.flatten()
        case "complex64" | "int64" | "float8_e4m3fn" | "bool":
            tensor = tensor.to(getattr(torch, change))
        case "unknown":
            return tensors | {"os.system": torch.zeros(1)}
    return tensors | {name: tensor}


CHANGES = ["not finite", "missing", "another shape", "complex64", "int64", "float8_e4m3fn", "bool", "unknown"]


@pytest.mark.parametrize("change", CHANGES)
def test_weights_are_held_against_the_network_before_they_are_used(change: str, copy: Path, picture: Path) -> None:
    path = copy / "model.safetensors"
    save_file(changed(load_file(path), change), path)
    with pytest.raises(RunError, match="does not hold the weights of lenet5") as error:
        convatlas.load(copy).predict(picture)
    assert_one_line(error)


@pytest.mark.parametrize("change", CHANGES[:-1])
@pytest.mark.parametrize("name", ["last-*.safetensors", "optimizer-*.safetensors"])
def test_a_checkpoint_is_held_against_the_network(change: str, name: str, copy: Path) -> None:
    if change == "missing" and name.startswith("optimizer"):
        pytest.skip("an optimiser has no state before its first step, so none is missing")
    (path,) = copy.glob(name)
    save_file(changed(load_file(path), change), path)
    with pytest.raises(RunError) as error:
        convatlas.resume(copy, watch=Silent())
    assert_one_line(error)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_converted(kind: torch.dtype, copy: Path, picture: Path) -> None:
    path = copy / "model.safetensors"
    before = convatlas.load(copy).predict(picture, top=10)[0]
    weights = load_file(path)
    converted = {name: tensor.to(kind) for name, tensor in weights.items() if tensor.is_floating_point()}
    save_file(weights | converted, path)
    after = convatlas.load(copy).predict(picture, top=10)[0]
    assert dict(after.top) == pytest.approx(dict(before.top), abs=0.05)


def test_nothing_is_written_through_a_link(copy: Path, tmp_path: Path) -> None:
    """In a stranger's run they may lead to this person's files."""
    precious, folder = tmp_path / "thesis.txt", tmp_path / "folder"
    precious.write_text("precious")
    folder.mkdir()
    (copy / ".lock").unlink()
    (copy / ".lock").symlink_to(precious)
    with pytest.raises(RunError, match="cannot be written"):
        convatlas.resume(copy, watch=Silent())
    shutil.rmtree(copy / "evaluations", ignore_errors=True)
    (copy / "evaluations").symlink_to(folder)
    convatlas.evaluate(copy)
    assert precious.read_text() == "precious"
    assert not list(folder.iterdir())


def test_copies_of_a_checkpoint_are_kept(copy: Path) -> None:
    (path,) = copy.glob("last-*.safetensors")
    for name in ("last-best.safetensors", "optimizer-of-monday.safetensors"):
        shutil.copy(path, copy / name)
    convatlas.resume(copy, watch=Silent())
    assert (copy / "last-best.safetensors").is_file()
    assert (copy / "optimizer-of-monday.safetensors").is_file()
    assert not path.exists()


def test_a_class_folder_that_is_gone_does_not_shift_the_others(tmp_path: Path) -> None:
    for shade, name in enumerate(("ant", "bee", "cat")):
        for number in range(12):
            path = tmp_path / "pictures" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (16, 16), 80 * shade + number).save(path)
    run = convatlas.train("lenet5", tmp_path / "pictures", out=tmp_path / "run", image_size=16, steps=1, watch=Silent())
    (tmp_path / "pictures" / "ant").rename(tmp_path / "elsewhere")
    with pytest.raises(ConvatlasError, match="without ant"):
        convatlas.evaluate(run.path)
    (tmp_path / "elsewhere").rename(tmp_path / "pictures" / "wasp")
    with pytest.raises(ConvatlasError, match="not trained on: wasp"):
        convatlas.evaluate(run.path)


@pytest.mark.parametrize(
    "call",
    [
        lambda run, picture: run.predict(picture, top=-1),
        lambda run, picture: run.predict(picture, top=1.5),
        lambda *_: convatlas.train("lenet5", "digits", image_size=28, memory=3.5),
        lambda *_: convatlas.train("lenet5", "digits", image_size=28, memory=-1),
        lambda *_: convatlas.train("lenet5", "digits", image_size=0),
        lambda *_: convatlas.train("lenet5", "digits", image_size=28, epochs="many"),
        lambda *_: convatlas.load("n" * 5000),
        lambda *_: convatlas.load("a\0b"),
    ],
)
def test_what_a_call_takes_is_said_in_one_line(call: Callable[..., object], copy: Path, picture: Path) -> None:
    with pytest.raises(ConvatlasError) as error:
        call(convatlas.load(copy), picture)
    assert_one_line(error)


@pytest.mark.slow
def test_a_reader_who_leaves_ends_a_command_quietly(copy: Path) -> None:
    for arguments in (["models"], ["runs", str(copy.parent), "--json"], ["train", "--resume", str(copy)]):
        command = [sys.executable, "-m", "convatlas", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            complaints = process.stderr.read().decode()
        assert "Traceback" not in complaints
        assert "Broken pipe" not in complaints
    assert convatlas.load(copy).card.status != "training"


@pytest.mark.slow
def test_letters_that_a_terminal_has_not_do_not_end_a_training(copy: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    command = [sys.executable, "-m", "convatlas", "train", "--resume", str(copy)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
