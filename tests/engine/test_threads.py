from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("llvmlite")

from pictures import numbers, picture, relative_error, same_bits
from rounding import EXACT

from convatlas.engine import threads
from convatlas.engine.convolutions import Epilogue, Geometry, empty_picture, transform_weight, winograd
from convatlas.engine.operators import conv3x3

PROCESSORS = 8


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the quotas of a container with eight processors are read."""
    monkeypatch.setattr(threads, "Path", lambda _: tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: PROCESSORS)
    return tmp_path


def allowed() -> int:
    return threads._allowed_processors.__wrapped__()


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    geometry = Geometry(weight.shape[1], weight.shape[0], (3, 3), 1, (1, 1))
    y = empty_picture(x.shape[0], weight.shape[0], *x.shape[2:])
    assert winograd(geometry, x, transform_weight(weight, reuse=True), y, Epilogue())()
    return y


def test_as_many_threads_as_pytorch_has(monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]) -> None:
    monkeypatch.setattr(threads, "_allowed_processors", lambda: 3)
    for number, expected in ((1, 1), (2, 2), (5, 3)):
        set_threads(number)
        assert threads.thread_count() == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000\n", PROCESSORS),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("6400000 100000\n", PROCESSORS),
        ("max", PROCESSORS),
        ("", PROCESSORS),
        ("two 100000", PROCESSORS),
        ("200000 0", PROCESSORS),
    ],
)
def test_the_quota_of_a_container(quota: str, expected: int, control_group: Path) -> None:
    (control_group / "cpu.max").write_text(quota)
    assert allowed() == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [
        ("-1\n", "100000\n", PROCESSORS),
        ("300000\n", "100000\n", 3),
        ("250000\n", "100000\n", 3),
        ("many", "100000", PROCESSORS),
        ("300000", None, PROCESSORS),
        ("300000", "0", PROCESSORS),
    ],
)
def test_the_quota_of_an_older_container(quota: str, period: str | None, expected: int, control_group: Path) -> None:
    folder = control_group / "cpu"
    folder.mkdir()
    (folder / "cpu.cfs_quota_us").write_text(quota)
    if period is not None:
        (folder / "cpu.cfs_period_us").write_text(period)
    assert allowed() == expected


def test_without_a_container_all_processors(control_group: Path) -> None:
    assert allowed() == PROCESSORS


@pytest.mark.parametrize("number", [2, 5])
def test_a_pool_of_ordinary_threads_gives_the_same_bits(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = picture(3, 16, 21, 22), numbers(72, 16, 3, 3, seed=1)
    monkeypatch.setattr(threads, "thread_count", lambda: number)
    expected = convolve(x, weight)
    start, asked = threads._pool_start(), []

    def pool_start(function: int, argument: int, count: int) -> None:
        asked.append(count)
        start(function, argument, count)

    monkeypatch.setattr(threads, "_parallel_start", lambda: pool_start)
    assert same_bits(convolve(x, weight), expected)
    assert asked
    assert max(asked) == number


@pytest.mark.parametrize("number", [1, 2, 3, 16])
def test_a_run_of_tasks_is_done_to_its_end_by_whoever_comes(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where fewer threads come than were asked for: those help with what belongs to the others."""
    x, weight = picture(3, 16, 21, 22), numbers(72, 16, 3, 3, seed=1)
    expected = convolve(x, weight)
    monkeypatch.setattr(threads, "thread_count", lambda: number)
    alone = threads._pool_start()
    monkeypatch.setattr(threads, "_parallel_start", lambda: lambda function, job, _: alone(function, job, 1))
    assert same_bits(convolve(x, weight), expected)


def test_without_openmp_there_is_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_openmp_library", lambda: None)
    assert threads._openmp_start() is None
    monkeypatch.setattr(threads, "_pool_start", lambda: "the pool")
    assert threads._parallel_start.__wrapped__() == "the pool"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyTorch brings another OpenMP")
def test_openmp_is_the_one_that_pytorch_has_loaded() -> None:
    found = threads._openmp_library()
    assert found is not None
    others = {part for part in Path("/proc/self/maps").read_text().split() if "libgomp" in part}
    assert found in others
    threads._openmp_start()
    assert {part for part in Path("/proc/self/maps").read_text().split() if "libgomp" in part} == others


@pytest.mark.parametrize("is_pool", [False, True])
def test_several_threads_convolve_at_once(is_pool: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_pool:
        start = threads._pool_start()
        monkeypatch.setattr(threads, "_parallel_start", lambda: start)
    monkeypatch.setattr(threads, "thread_count", lambda: 2)
    begin = Barrier(4)

    def work(number: int) -> list[float]:
        x, weight = picture(2, 8 * number, 12, 13, seed=number), numbers(24, 8 * number, 3, 3, seed=number)
        x, weight = x.requires_grad_(), weight.requires_grad_()
        expected = functional.conv2d(x.double(), weight.double(), padding=1)
        gradient = numbers(*expected.shape, seed=number)
        wanted = [expected.detach(), *torch.autograd.grad(expected, (x, weight), gradient.double())]
        begin.wait(timeout=600)
        errors = []
        for _ in range(10):
            y = conv3x3(x, weight, None, 1)
            got = [y.detach(), *torch.autograd.grad(y, (x, weight), gradient)]
            errors += [relative_error(*pair) for pair in zip(got, wanted, strict=True)]
        return errors

    with ThreadPoolExecutor(4) as pool:
        for errors in pool.map(work, (1, 2, 3, 4)):
            assert max(errors) <= EXACT


def test_working_memory_belongs_to_a_thread() -> None:
    mine, page = threads.scratch_memory(10_000), threads.ALIGNMENT
    assert mine % page == 0
    assert threads.scratch_memory(5_000) == mine
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(threads.scratch_memory, 10_000).result()
        their_workspace = pool.submit(threads.workspace, "products", 100).result()
    assert abs(theirs - mine) >= 10_000
    assert threads.scratch_memory(0) == 0
    one = threads.workspace("products", 100)
    assert one.data_ptr() != their_workspace.data_ptr()
    assert threads.workspace("products", 50).data_ptr() == one.data_ptr()
    assert threads.workspace("inputs", 50).data_ptr() != one.data_ptr()
    assert threads.workspace("products", 100_000).shape == (100_000,)


def test_working_memory_is_as_large_as_was_asked() -> None:
    def ask() -> list[tuple[int, int, int]]:
        asked = [(threads.scratch_memory(size), size) for size in (1, 100_000, 100_001)]
        block = threads._memory.block
        return [(address - block.data_ptr(), size, block.numel()) for address, size in asked[-1:]]

    with ThreadPoolExecutor(1) as pool:  # a thread that has none yet
        for offset, size, room in pool.submit(ask).result():
            assert 0 <= offset <= room - size


ALONE = """
import os
from convatlas.engine import threads

assert threads.thread_count() == 1
threads._parallel_start = None  # nothing is started
from pictures import numbers, picture
from test_threads import convolve
import torch
import sys

torch.save(convolve(picture(3, 16, 21, 22), numbers(72, 16, 3, 3, seed=1)), sys.argv[1])
"""


def test_one_thread_where_the_environment_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", path + ALONE, str(tmp_path / "y")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(threads, "thread_count", lambda: 2)
    assert same_bits(torch.load(tmp_path / "y"), convolve(picture(3, 16, 21, 22), numbers(72, 16, 3, 3, seed=1)))
