"""The compiler of kernels: what it makes of a function computes what Python makes of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

from llvmlite import binding

from convatlas.engine import compiler
from convatlas.engine.codegen import KernelError, generate, static, vectors
from convatlas.engine.jobs import LANES
from convatlas.engine.kernels.simd import (
    BYTES,
    clear,
    constant,
    copy,
    first_lanes,
    load,
    load_one,
    number,
    store,
    store_one,
    take,
    total,
    transpose,
)

FIELDS = ("strange", "a", "b", "c")

few = settings(max_examples=40, deadline=None, derandomize=True)
numbers = st.integers(0, 40)
_engines: list[Any] = []


def compiled(function: Callable[..., None], *args: Any) -> Callable[..., int]:
    """A function of the fields ``a``, ``b`` and ``c`` that gives what the kernel has left in ``strange``."""
    assembly = generate("kernel", FIELDS, function, *args, width=LANES)
    module = binding.parse_assembly(assembly)
    engine = binding.create_mcjit_compiler(module, compiler._target_machine())
    engine.finalize_object()
    _engines.append(engine)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.get_function_address("kernel"))

    def run(a: int = 0, b: int = 0, c: int = 0) -> int:
        job = (ctypes.c_int64 * len(FIELDS))(0, a, b, c)
        call(ctypes.addressof(job))
        return int(job[FIELDS.index("strange")])

    return run


# -- whole numbers, which Python can check --


def arithmetic(job: Any) -> None:
    a, b = job.a, job.b
    c = job.c + 1
    quotient, remainder = a // c, a % c
    mixed = (a * 3 - b) ^ (quotient << 2) | (remainder & 5)
    job.strange = mixed + (a >> 1) + min(a, b, 7) - max(b, 2) + -a


def branches(job: Any) -> None:
    a, b = job.a, job.b
    result = 0
    if a > b and not (a + b) == 3:  # noqa: SIM201, what is tested
        result = 1
    elif a == b or a + b == 7:
        result = 2
    else:
        result = 3 if b != 5 else 4
    if 2 <= a < b <= 30:
        result += 10
    job.strange = result


def loops(job: Any) -> None:
    found = 0
    for index in range(1, job.a, 2):
        if index % 5 == 4:
            continue
        if index > job.b:
            break
        for inner in range(job.c):
            found += index * inner + 1
    countdown = job.a
    while countdown > 3:
        countdown -= 2
        if countdown == job.b:
            break
    job.strange = found * 100 + countdown


def first_divisor(number: int, most: int) -> int:
    for divisor in range(2, most):
        if number % divisor == 0:
            return divisor
    return number


def sign(number: int, centre: int) -> Any:
    if number < centre:
        return -1, centre - number
    if number == centre:
        return 0, 0
    return 1, number - centre


def calls(job: Any) -> None:
    direction, distance = sign(job.a, job.b)
    job.strange = first_divisor(job.a + 2, most=job.c + 3) * 10 + direction * (distance + 1)


def swapped(job: Any) -> None:
    a, b = job.a, job.b
    for _ in range(job.c):
        a, b = b, a + b
    pair = (a, (b, 1))
    job.strange = pair[1][0] - pair[0] + pair[-1][1] + len(pair)


PLAIN = (arithmetic, branches, loops, calls, swapped)


@pytest.mark.parametrize("function", PLAIN)
def test_whole_numbers_are_pythons(function: Callable[[Any], None]) -> None:
    run = compiled(function)

    @few
    @given(numbers, numbers, numbers)
    def check(a: int, b: int, c: int) -> None:
        job = SimpleNamespace(a=a, b=b, c=c % 9, strange=0)
        function(job)
        assert run(a, b, c % 9) == job.strange

    check()


# -- what is decided while it is compiled --


def written_out(job: Any, count: int, doubles: bool) -> None:
    parts = [job.a + place for place in static(count)]
    if doubles:
        parts = [part * 2 for part in parts]
    result = 0
    for place in static(len(parts)):
        result += parts[place] * (place + 1)
    job.strange = result if count < 9 else 0


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("doubles", [False, True])
def test_loops_and_branches_that_are_written_out(count: int, doubles: bool) -> None:
    job = SimpleNamespace(a=5)
    written_out(job, count, doubles)
    assert compiled(written_out, count, doubles)(5) == job.strange


def counts_what_is_taken(job: Any) -> None:
    taken = 0
    while True:
        if take(job.b) >= job.a:
            job.strange = taken
            return
        taken += 1


def test_what_is_taken_is_counted_in_memory() -> None:
    counter = np.array([2], np.int64)
    assert compiled(counts_what_is_taken)(7, address(counter)) == 5
    assert counter[0] == 8


# -- vectors --


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.ctypes.data)


def doubled(job: Any) -> None:
    for index, mask in vectors(job.c):
        value = load(job.a, index, mask)
        store(job.b, index, value + value * constant(1), mask)


def moved(job: Any) -> None:
    copy(job.a, job.b, job.c)
    clear(job.a, job.c)


@few
@given(count=st.integers(0, 3 * LANES + 1))
def test_what_is_left_of_a_vector_is_done_under_a_mask(count: int) -> None:
    run, move = _kernels()
    source = np.arange(1, count + LANES + 1, dtype=np.float32)
    target = np.full(count + LANES, -1, np.float32)
    run(address(source), address(target), count)
    assert target[:count].tolist() == (2 * source[:count]).tolist()
    assert (target[count:] == -1).all()
    before = source.copy()
    move(address(source), address(target), count)
    whole = -(-count // LANES) * LANES
    assert target[:count].tolist() == before[:count].tolist()
    assert not target[count:whole].any()
    assert (target[whole:] == -1).all()
    assert not source[:whole].any()
    assert (source[whole:] == before[whole:]).all()


def _kernels() -> tuple[Callable[..., int], Callable[..., int]]:
    if not _made:
        _made.extend((compiled(doubled), compiled(moved)))
    return _made[0], _made[1]


_made: list[Callable[..., int]] = []


def turned_round(job: Any) -> None:
    rows = [load(job.a, row * LANES) for row in static(LANES)]
    columns = transpose(rows)
    for row in static(LANES):
        store(job.b, row * LANES, columns[row])
    job.strange = 1 if total(load(job.a, 0, first_lanes(job.c))) == 3.0 else 0


def test_a_square_of_vectors_is_transposed() -> None:
    source = np.arange(LANES * LANES, dtype=np.float32).reshape(LANES, LANES)
    target = np.zeros_like(source)
    assert compiled(turned_round)(address(source), address(target), 3) == 1  # 0 + 1 + 2
    assert (target == source.T).all()


def single_values(job: Any) -> None:
    value = load_one(job.a, 1) - number(0.5)
    if value > 1.0:
        value = -value
    store_one(job.b, 0, value / 2.0)
    store_one(job.b + BYTES, 0, value * value)


def test_single_values() -> None:
    source, target = np.array([0, 2], np.float32), np.zeros(2, np.float32)
    compiled(single_values)(address(source), address(target))
    assert target.tolist() == [-0.75, 2.25]


# -- what is not known --


def dictionary(job: Any) -> None:
    job.strange = {1: 2}[1]


def unknown_name(job: Any) -> None:
    job.strange = nobody_knows_it  # noqa: F821


def another_kind(job: Any) -> None:
    value = job.a
    for _ in range(job.b):
        value = constant(1)
    job.strange = value


def fraction(job: Any) -> None:
    job.strange = job.a + 0.5


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (dictionary, "Dict is not known in kernels"),
        (unknown_name, "nobody_knows_it is not known here"),
        (another_kind, "a value of <.* x float> where i64 is wanted"),
        (fraction, "0.5 where an integer is wanted"),
    ],
)
def test_what_is_not_known_is_said_with_its_place(function: Callable[[Any], None], words: str) -> None:
    first = function.__code__.co_firstlineno
    with pytest.raises(KernelError, match=words) as caught:
        generate("kernel", FIELDS, function, width=LANES)
    place, _, line = str(caught.value).partition(", line ")
    assert place == f"test_codegen.{function.__name__}"
    assert first < int(line.split(":")[0]) <= first + 4
