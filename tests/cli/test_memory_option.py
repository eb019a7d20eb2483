from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convatlas import memory_budget

Command = Callable[..., Any]


def test_a_size_that_is_none_is_refused_before_the_images(convatlas: Command, tmp_path: Path) -> None:
    answer = convatlas("train", "lenet5", "--data", "no-such-folder", "--memory", "8 gigs", "--out", tmp_path / "run")
    assert answer.code == 2
    assert "8GB" in answer.err
    assert not (tmp_path / "run").exists()


def test_too_little_memory_is_one_line(convatlas: Command, tmp_path: Path) -> None:
    answer = convatlas(
        "train", "lenet5", "--data", "digits", "--image-size", 28, "--memory", "100MB", "--out", tmp_path / "run"
    )
    assert answer.code == 2
    assert "--memory allows 100 MB" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_resume_takes_no_new_limit(convatlas: Command) -> None:
    answer = convatlas("train", "--resume", "some-run", "--memory", "8GB")
    assert answer.code == 2
    assert "leave out --memory" in answer.err


def trained_with(free: int, convatlas: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a training by large batches prints where so many bytes are free."""
    monkeypatch.setattr(memory_budget, "free_bytes", lambda: free)
    answer = convatlas(
        "train", "lenet5", "--data", "digits", "--image-size", 28, "--out", tmp_path / "run", "--engine", "torch",
        "--set", "batch_size=1000", "--set", "steps=1",
    )  # fmt: skip
    assert answer.code == 0
    return " ".join(answer.out.split())


def test_a_training_that_takes_more_than_is_free_is_told_of_before_it_begins(
    convatlas: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = trained_with(50 * 10**6, convatlas, tmp_path, monkeypatch)
    assert re.search(r"batches of 1000 take \d\S* [MG]B of memory, and .* are free for this process", said)
    assert said.index("are free for this process") < said.index("accuracy")


def test_a_training_that_fits_is_not_warned_of(
    convatlas: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "are free" not in trained_with(8 * 10**9, convatlas, tmp_path, monkeypatch)
