"""PyTorch's files: wrappers, whole checkpoints, and what is no file of weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from convatlas.errors import WeightsError
from convatlas.models import create_model
from convatlas.weights import load_weights
from convatlas.weights.torch_file import read_torch_file

STATE = create_model("lenet5", seed=1).state_dict()


def loaded(path: Path) -> dict[str, torch.Tensor]:
    model = create_model("lenet5", seed=2)
    report = load_weights(model, path)
    assert report.share == 1
    assert not report.skipped
    return model.state_dict()


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {f"module.{name}": tensor for name, tensor in STATE.items()},
        {f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()},
        {"epoch": 7, "state_dict": STATE, "best": 0.9},
        {"epoch": 7, "model": {f"module.{name}": tensor for name, tensor in STATE.items()}},
        {"checkpoint": 1, "model": {"state_dict": STATE}},
        {name: tensor.double() for name, tensor in STATE.items()},
    ],
    ids=["bare", "parallel", "compiled and parallel", "checkpoint", "trainer", "nested", "float64"],
)
def test_weights_are_found_wherever_they_lie(content: object, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    for name, tensor in loaded(path).items():
        assert torch.equal(tensor, STATE[name])


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    assert torch.equal(loaded(path)["features.c1.weight"], STATE["features.c1.weight"])


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("i-was-run"),))


def test_a_pickle_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"state_dict": Evil()}))
    with pytest.raises(WeightsError, match="no file of weights alone"):
        read_torch_file(path)
    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(WeightsError, match="no file of weights alone"):
        read_torch_file(path)
    assert not (tmp_path / "i-was-run").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04rest", b"\x80\x02}q\x00."])
def test_damaged_files_are_told_in_one_line(content: bytes, tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(content)
        with pytest.raises(WeightsError) as told:
            read_torch_file(path)
        assert "\n" not in str(told.value)
        assert path.name in str(told.value)
