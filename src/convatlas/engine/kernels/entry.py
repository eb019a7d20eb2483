"""From the body of a kernel, a function of one job and one task, to the function that a thread calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convatlas.engine.codegen import generate
from convatlas.engine.jobs import COMMON, COUNTER_BYTES, LANES, Kernel
from convatlas.engine.kernels.simd import take


def run(job: Any, body: Callable[..., None]) -> None:
    """Do one's own tasks, then what is left of the others'.

    The first counter numbers the threads, the others the tasks that were taken of each thread's.
    """
    own, threads = take(job.counters), job.threads
    scratch = job.scratch + own * job.scratch_bytes
    for turn in range(threads):
        owner = (own + turn) % threads
        task, end = job.tasks * owner // threads, job.tasks * (owner + 1) // threads
        counter = job.counters + (owner + 1) * COUNTER_BYTES
        while True:
            number = task + take(counter)
            if number >= end:
                break
            body(job, number, scratch)


def compile_kernel(kernel: Kernel, body: Callable[..., None]) -> str:
    """LLVM's assembly of ``kernel``, with one function to call: ``void <name>(job*)``."""
    return generate(kernel.name, (*COMMON, *kernel.fields), run, body, width=LANES)
