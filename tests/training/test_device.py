"""The device that is asked for by name, and what is said of one that is not there."""

from __future__ import annotations

import pytest
import torch

from convatlas.errors import RecipeError
from convatlas.training.processes import known_device, on_device, processes


def test_within_the_block_everything_is_on_the_device_and_afterwards_as_before() -> None:
    before = processes().device
    with on_device("cpu"):
        assert processes().device == torch.device("cpu")
    assert processes().device == before
    with on_device(None):
        assert processes().device == before


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "", "cuda:99999", "CPU ", 3])
def test_what_is_no_device_says_what_would_be(name: str) -> None:
    with pytest.raises(RecipeError, match="a device is cpu, cuda, cuda:0 or mps; received"):
        known_device(name)


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="no device cuda: PyTorch finds no CUDA GPU here"), on_device("cuda"):
        pass
    with pytest.raises(RecipeError, match="no device mps"):
        known_device("mps")


def test_a_number_beyond_the_gpus_names_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert known_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(RecipeError, match="no device cuda:2: PyTorch finds cuda:0, cuda:1 here"):
        known_device("cuda:2")
