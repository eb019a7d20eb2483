"""``kill -9`` in earnest: a process that is killed again and again ends with the weights of one that never was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from convatlas.training import checkpoint

DEADLY = """
import os, signal, sys
from pathlib import Path
from convatlas import files, runs
deadly = int(sys.argv[1])
sys.argv = ["convatlas", *sys.argv[2:]]
replace, seen = Path.replace, 0
def dying(self, target):
    global seen
    seen += 1
    if seen == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = dying
from convatlas.cli import main
main()
"""
TRAIN = ["train", "lenet5", "--data", "digits", "--image-size", "16", "--epochs", "3", "--seed", "5"]


def convatlas(*arguments: object, deadly: int = -1) -> int:
    """Run the command line in a process of its own, which kills itself as it is about to rename its n-th file."""
    command = [sys.executable, "-c", DEADLY, str(deadly), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False).returncode


def assert_equal_weights(one: Path, other: Path) -> None:
    for load in (lambda path: load_file(path / "model.safetensors"), lambda path: checkpoint.load(path)[1]):
        expected, received = load(one), load(other)
        assert expected.keys() == received.keys()
        assert all(torch.equal(expected[name], received[name]) for name in expected)


def test_a_training_killed_while_it_saves_ends_with_the_same_weights(tmp_path: Path) -> None:
    assert convatlas(*TRAIN, "--out", tmp_path / "whole") == 0
    killed = tmp_path / "killed"
    # Before the first step the card is written twice; then five files an epoch, best weights first.
    assert convatlas(*TRAIN, "--out", killed, deadly=6) == -signal.SIGKILL
    assert convatlas("train", "--resume", killed, deadly=5) == -signal.SIGKILL
    assert convatlas("train", "--resume", killed) == 0
    assert_equal_weights(tmp_path / "whole", killed)


def test_a_training_killed_from_outside_ends_with_the_same_weights(tmp_path: Path) -> None:
    assert convatlas(*TRAIN, "--out", tmp_path / "whole") == 0
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-m", "convatlas", *TRAIN, "--out", str(killed)])
    while not checkpoint.exists(killed) and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert convatlas("train", "--resume", killed) == 0
    assert_equal_weights(tmp_path / "whole", killed)
