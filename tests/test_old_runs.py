"""Runs of format 1, from before there were tasks: they open, predict, evaluate, and go on as they would have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import convatlas
from convatlas.errors import RunError
from convatlas.training import checkpoint
from convatlas.training.progress import Silent
from stopping import StopAt

SETTINGS: dict[str, Any] = {"steps": 30, "batch_size": 64, "learning_rate": 0.01}


def train(out: Path, watch: Silent) -> convatlas.Run:
    return convatlas.train("lenet5", "digits", out=out, image_size=28, engine="torch", watch=watch, **SETTINGS)


def make_old(run: Path) -> None:
    """What the first format said of the same training."""
    card = json.loads((run / "card.json").read_text(encoding="utf-8"))
    del card["task"]
    (run / "card.json").write_text(json.dumps(card | {"format_version": 1}), encoding="utf-8")
    state = json.loads((run / "state.json").read_text(encoding="utf-8"))
    sums = state["tally"].pop("sums")
    state["tally"] |= {"loss": sums.get("loss", 0.0), "correct": round(sums.get("accuracy", 0))}
    (run / "state.json").write_text(json.dumps(state), encoding="utf-8")


def test_an_old_run_goes_on_as_it_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convatlas.training.fit.REDRAW_EVERY", 0.0)  # so that the watch hears of every step
    train(tmp_path / "whole", Silent())
    stopped = train(tmp_path / "stopped", StopAt(26)).path
    make_old(stopped)
    assert checkpoint.load_state(stopped).tally.sums["accuracy"] > 0  # within an epoch, after a validation
    resumed = convatlas.resume(stopped, watch=Silent())
    assert resumed.card.status == "finished"
    whole, gone_on = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(tensor, gone_on[name]) for name, tensor in whole.items())


def test_an_old_run_is_used_like_any_other(tmp_path: Path) -> None:
    path = train(tmp_path / "run", Silent()).path
    make_old(path)
    run = convatlas.load(path)
    assert run.card.task == "classify"
    Image.new("L", (28, 28)).save(tmp_path / "black.png")
    assert run.predict(tmp_path / "black.png")[0].label in run.card.classes
    assert convatlas.evaluate(run, engine="torch").summary() == run.card.test  # as it was trained


def test_a_run_of_a_format_to_come_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"format_version": 3}), encoding="utf-8")
    with pytest.raises(RunError, match="format version 3; this convatlas reads 1 and 2"):
        convatlas.load(tmp_path)
