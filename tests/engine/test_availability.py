from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from convatlas.engine import accelerate, availability, compiler, unavailable

WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llvmlite":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())

import torch
from torch import nn

import convatlas
from convatlas import engine

assert engine.unavailable() == "llvmlite is not installed", engine.unavailable()
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
images = torch.randn(2, 8, 7, 7)
fast = engine.accelerate(model, images)
with torch.no_grad():
    assert torch.equal(fast(images), model(images))
fast.train()
fast(images).sum().backward()
assert model[0].weight.grad is not None
assert fast.choices == {}
assert fast.explain() == []
"""


def test_without_its_compiler_the_network_is_called_as_it_is() -> None:
    command = [sys.executable, "-c", WITHOUT]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


def test_it_works_where_its_compiler_is() -> None:
    pytest.importorskip("llvmlite")
    assert unavailable() is None


def test_a_failure_of_the_compiler_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite")

    def fail() -> None:
        raise RuntimeError("unknown processor 'z80'")

    monkeypatch.setattr(compiler, "_addresses", {})
    monkeypatch.setattr(compiler, "_target_machine", fail)
    said = availability.unavailable.__wrapped__()
    assert said == "its kernels cannot be compiled here: unknown processor 'z80'"


@pytest.mark.parametrize("training", [False, True])
def test_where_it_does_not_work_the_network_is_called_as_it_is(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(accelerate.__globals__, "unavailable", lambda: "not here")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()).train(training)
    images = torch.randn(2, 8, 7, 7)
    fast = accelerate(model, images)
    with torch.no_grad():
        assert torch.equal(fast(images), model(images))
    assert fast.choices == {}


def test_a_library_that_cannot_be_looked_for_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ValueError(f"{name}.__spec__ is None")

    monkeypatch.setattr("importlib.util.find_spec", refuse)
    assert availability.unavailable.__wrapped__() == "llvmlite is not installed"
