from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
