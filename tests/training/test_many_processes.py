"""Two processes that share every batch take the steps that one would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

TRAIN = ["train", "lenet5", "--data", "digits", "--image-size", "16", "--epochs", "2"]
TRAIN += ["--engine", "torch"]  # whose kernels for 50, 51 and 101 images no clock chooses


def launch(processes: int, out: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    # A batch of 101 is divided into 50 and 51: shares of different sizes must not weigh the same.
    command = [sys.executable, *launcher, "-m", "convatlas", *TRAIN, "--out", str(out), "--set", "batch_size=101"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("report  ") == 1  # only one of them speaks


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    launch(1, tmp_path / "one")
    launch(2, tmp_path / "two")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=5e-4)
    histories = [(tmp_path / name / "history.csv").read_text().splitlines()[1:] for name in ("one", "two")]
    for row, other in zip(*histories, strict=True):
        for column in (4, 5, 6, 7):  # training and validation loss and accuracy
            torch.testing.assert_close(
                float(row.split(",")[column]), float(other.split(",")[column]), rtol=1e-3, atol=1e-3
            )
