"""From the body of a kernel, a function of one job and one task, to the function that a thread calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from convatlas.engine.jobs import COMMON, Kernel
from convatlas.engine.kernels.simd import inline, take

INT64_BYTES = 8
SLOT = COMMON.index("slot") * INT64_BYTES

# What Numba's way of raising exceptions calls. No kernel raises one; but where Numba is not loaded these are missing,
# and LLVM then links nothing at all: even ``memset`` would be called at address 0.
EXCEPTIONS = re.compile(r"^declare (.* @(?:numba_|NRT_|_?Py)\w+\(.*\)).*$", re.MULTILINE)
EXCEPTION_KINDS = re.compile(r"^(@_?Py\w+) = external .*global i8.*$", re.MULTILINE)


@intrinsic
def _address(typing: Any, pointer: Any) -> tuple[Any, Callable[..., Any]]:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(types.voidptr), generate


def compile_kernel(kernel: Kernel, body: Callable[..., None]) -> str:
    """LLVM's assembly of ``kernel``, with one function to call: ``void <name>(job*)``."""
    record = numba.from_dtype(np.dtype([(name, np.int64) for name in (*COMMON, *kernel.fields)], align=True))

    @intrinsic
    def job_at(typing: Any, pointer: Any) -> tuple[Any, Callable[..., Any]]:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(record))

        return record(types.voidptr), generate

    task_body = inline(body)

    def run(pointer: Any) -> None:
        job = job_at(pointer)
        address = _address(pointer)
        scratch = job.scratch + take(address + SLOT) * job.scratch_bytes
        while True:
            task = take(address)
            if task >= job.tasks:
                return
            task_body(job, task, scratch)

    compiled = numba.cfunc(types.void(types.voidptr), error_model="numpy")(run)
    return _without_exceptions(str(compiled.inspect_llvm()).replace(compiled.native_name, kernel.name))


def _without_exceptions(assembly: str) -> str:
    """The same code, which needs no symbol of Numba or Python."""
    assembly = EXCEPTIONS.sub(r"define internal \1 { unreachable }", assembly)
    return EXCEPTION_KINDS.sub(r"\1 = internal global i8 0", assembly)
