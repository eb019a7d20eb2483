from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

pytest.importorskip("llvmlite")

from pictures import numbers, picture, same_bits

import convatlas
from convatlas.engine import compiler, convolutions, jobs
from convatlas.engine.jobs import Kernel
from convatlas.engine.processor import WIDTHS, vector_width

KERNELS = {f"{kernel.module}.{kernel.name}": kernel for kernel in jobs.KERNELS}
ONE = jobs.POOLING
MACHINE_CODE = b"machine code" * 10

CONVOLVE = """
import sys
import torch
from convatlas.engine.convolutions import Epilogue, Geometry, empty_picture, transform_weight, winograd

given, results = torch.load(sys.argv[1]), sys.argv[2]
x = given["x"].contiguous(memory_format=torch.channels_last)
y = empty_picture(2, 16, 9, 9)
assert winograd(Geometry(24, 16, (3, 3), 1, (1, 1)), x, transform_weight(given["weight"]), y, Epilogue())()
assert not any("kernels" in name for name in sys.modules)
torch.save(y, results)
"""


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Kernel]:
    """The kernels that were compiled; to what cannot be run, into a cache of their own."""
    monkeypatch.setenv("CONVATLAS_CACHE", str(tmp_path))
    asked: list[Kernel] = []

    def compile_it(kernel: Kernel) -> bytes:
        asked.append(kernel)
        return MACHINE_CODE

    monkeypatch.setattr(compiler, "_compile", compile_it)
    return asked


def run_python(code: str, *arguments: object, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_another_process_needs_no_compiler(tmp_path: Path) -> None:
    """Borders are cleared and copied here, for which kernels call the C library: the loader has to find it."""
    x, weight = picture(2, 24, 9, 9), numbers(16, 24, 3, 3, seed=1)
    geometry = convolutions.Geometry(24, 16, (3, 3), 1, (1, 1))
    y = convolutions.empty_picture(2, 16, 9, 9)
    assert convolutions.winograd(
        geometry, x, convolutions.transform_weight(weight), y, convolutions.Epilogue()
    )()  # which leaves its machine code in the cache
    torch.save({"x": x, "weight": weight}, tmp_path / "given")
    run_python(CONVOLVE, tmp_path / "given", tmp_path / "y")
    assert same_bits(torch.load(tmp_path / "y"), y)


def test_all_kernels_are_listed() -> None:
    alone = {kernel for kernel in vars(jobs).values() if isinstance(kernel, Kernel)}
    assert alone | set(jobs.GROUPED.values()) == set(jobs.KERNELS)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_machine_code_calls_nothing_but_the_c_library(kernel: Kernel) -> None:
    """What another process cannot find it would call at address 0."""
    from llvmlite import binding

    body = getattr(__import__(f"convatlas.engine.kernels.{kernel.module}", fromlist=["kernels"]), kernel.name)
    from convatlas.engine.kernels.entry import compile_kernel

    module = binding.parse_assembly(compile_kernel(kernel, body))
    missing = {part.name for part in (*module.functions, *module.global_variables) if part.is_declaration}
    assert {name for name in missing if not name.startswith("llvm.")} <= {"memset", "memcpy", "memmove"}


WIDTH = """
import sys
import torch
from convatlas.engine.convolutions import (
    Epilogue, Geometry, direct, empty_picture, grouped, pack_taps, pack_weight, transform_weight, weight_gradient,
    winograd,
)
from convatlas.engine.jobs import LANES

def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=torch.channels_last)

assert LANES == int(sys.argv[1])
x, weight, y = numbers(2, 20, 13, 9), numbers(28, 20, 3, 3), numbers(2, 28, 13, 9)
geometry, made = Geometry(20, 28, (3, 3), 1, (1, 1)), [empty_picture(2, 28, 13, 9) for _ in range(2)]
assert winograd(geometry, x, transform_weight(weight), made[0], Epilogue(activation=1))()
direct(geometry, x, pack_weight(weight), made[1], Epilogue(residual=y))()
made += [weight_gradient(geometry, x, y), empty_picture(2, 20, 13, 9)]
grouped(Geometry(20, 20, (3, 3), 1, (1, 1), 20), x, pack_taps(numbers(20, 1, 3, 3)), made[3], Epilogue())()
torch.save(made, sys.argv[2])
"""


@pytest.mark.slow
def test_any_width_of_vectors_computes_the_same_bits(tmp_path: Path) -> None:
    for width in WIDTHS:
        run_python(WIDTH, width, tmp_path / f"{width}", CONVATLAS_VECTOR_WIDTH=f"{width}")
    eight, sixteen = (torch.load(tmp_path / f"{width}") for width in WIDTHS)
    assert all(same_bits(one, other) for one, other in zip(eight, sixteen, strict=True))


@pytest.mark.parametrize("said", ["7", "eight", "32"])
def test_no_other_width_is_known(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVATLAS_VECTOR_WIDTH", said)
    with pytest.raises(ValueError, match=f"CONVATLAS_VECTOR_WIDTH is 8 or 16; received '{said}'"):
        vector_width()


def test_machine_code_is_kept(compiled: list[Kernel], tmp_path: Path) -> None:
    assert compiler._object_of(ONE) == MACHINE_CODE
    assert compiler._object_of(ONE) == MACHINE_CODE
    assert compiled == [ONE]
    kept = list((tmp_path / "engine").iterdir())
    assert len(kept) == 1
    assert kept[0].name.startswith("pooling-pool-")
    assert compiler.fingerprint() in kept[0].name


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: bytes([content[0] ^ 128]) + content[1:],
        lambda content: content[: len(content) // 2],
        lambda content: content[:5],
        lambda content: content + b"\0",
        lambda _: b"",
    ],
    ids=["its last byte", "its first byte", "cut in half", "cut short", "longer", "empty"],
)
def test_damaged_machine_code_is_compiled_again(damage: object, compiled: list[Kernel], tmp_path: Path) -> None:
    assert compiler._object_of(ONE) == MACHINE_CODE
    (path,) = (tmp_path / "engine").iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))  # type: ignore[operator]
    assert compiler._object_of(ONE) == MACHINE_CODE
    assert len(compiled) == 2
    assert path.read_bytes() == whole


@pytest.mark.parametrize("blocked", [".", "engine"])
def test_where_nothing_can_be_written_it_is_compiled_every_time(
    blocked: str, compiled: list[Kernel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    place = cache / blocked
    place.parent.mkdir(exist_ok=True)
    place.write_text("a file, where a folder should be")
    monkeypatch.setenv("CONVATLAS_CACHE", str(cache))
    for times in (1, 2):
        assert compiler._object_of(ONE) == MACHINE_CODE
        assert len(compiled) == times
    assert place.read_text() == "a file, where a folder should be"


def test_another_layout_of_a_job_is_another_file(compiled: list[Kernel], tmp_path: Path) -> None:
    compiler._object_of(ONE)
    compiler._object_of(Kernel(ONE.module, ONE.name, (*ONE.fields, "more")))
    assert len(compiled) == 2
    assert len(list((tmp_path / "engine").iterdir())) == 2


def test_the_fingerprint_changes_with_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "engine"
    shutil.copytree(Path(compiler.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    fingerprint = compiler.fingerprint.__wrapped__
    before = fingerprint()
    monkeypatch.setattr(compiler, "__file__", str(copy / "compiler.py"))
    assert fingerprint() == before
    with (copy / "kernels" / "simd.py").open("a") as source:
        source.write("# changed\n")
    changed = fingerprint()
    assert changed != before
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_name", lambda: "another")
    assert fingerprint() not in (before, changed)


def test_machine_code_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    address = compiler.address_of(ONE)
    monkeypatch.setattr(compiler, "_load", lambda *_: pytest.fail("loaded again"))
    assert compiler.address_of(ONE) == address != 0


def test_compiling_writes_only_to_the_cache(tmp_path: Path) -> None:
    package = Path(convatlas.__file__).parent
    before = contents(package)
    code = "from convatlas.engine import unavailable; assert unavailable() is None"
    run_python(code, PYTHONDONTWRITEBYTECODE="1", CONVATLAS_CACHE=str(tmp_path))
    assert contents(package) <= before
    assert [path.suffix for path in (tmp_path / "engine").iterdir()] == [".o"]


def contents(folder: Path) -> set[Path]:
    """All files but compiled modules, which whoever else imports them may write."""
    return {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc" and ".pyc." not in path.name}
