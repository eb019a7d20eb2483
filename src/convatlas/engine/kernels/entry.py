"""From the body of a kernel, a function of one job and one task, to the function that a thread calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convatlas.engine.codegen import generate
from convatlas.engine.jobs import COMMON, LANES, Kernel
from convatlas.engine.kernels.simd import take


def run(job: Any, body: Callable[..., None]) -> None:
    """Do tasks until none is left."""
    scratch = job.scratch + take(job, "slot") * job.scratch_bytes
    while True:
        task = take(job, "next")
        if task >= job.tasks:
            return
        body(job, task, scratch)


def compile_kernel(kernel: Kernel, body: Callable[..., None]) -> str:
    """LLVM's assembly of ``kernel``, with one function to call: ``void <name>(job*)``."""
    return generate(kernel.name, (*COMMON, *kernel.fields), run, body, width=LANES)
