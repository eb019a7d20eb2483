"""Runs kernels on the threads PyTorch already has.

PyTorch's own loops run on a pool of GNU OpenMP. A second pool would fight it for the cores: both keep their idle
threads spinning. So a kernel is started through the same library, with ``GOMP_parallel``; where that library is not
found (macOS, Windows), on a pool of ordinary threads.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convatlas.engine.compiler import address_of, fingerprint
from convatlas.engine.jobs import COUNTER_BYTES, Kernel

ALIGNMENT = 4096  # bytes; a page
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
KEPT_BYTES = 1 << 30

LEAST_WORK = 400_000  # multiply-adds for a thread: some ten microseconds

Start = Callable[[int, int, int], None]  # address of a function and of its argument, number of threads
CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_memory = threading.local()


def thread_count() -> int:
    """``torch.get_num_threads()``, which follows OMP_NUM_THREADS, but no more than a container may use."""
    return min(torch.get_num_threads(), _allowed_processors())


class Job:
    """A kernel and all it is told; can be run again and again, by one thread at a time.

    Args:
        kernel: what to run.
        tasks: into how many parts the work is cut.
        scratch: bytes of working memory that one thread needs.
        work: multiply-adds, or values read, in all tasks; a little is done by one thread, since waking another takes
            longer, and very long where the processor is busy with other programs.
        owners: whose memory the fields name; kept as long as the job is.
        fields: what the kernel is told; those not named are 0.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        tasks: int,
        scratch: int = 0,
        work: float = math.inf,
        owners: Iterable[object] = (),
        **fields: int,
    ) -> None:
        self._owners = tuple(owners)
        self._function = address_of(kernel)
        self._call = CALL(self._function)
        self._most_threads = max(1, int(min(tasks, work // LEAST_WORK)))
        self._scratch = -(-scratch // ALIGNMENT) * ALIGNMENT
        self._fields = kernel.layout(tasks=tasks, scratch_bytes=self._scratch, **fields)
        self._address = ctypes.addressof(self._fields)
        self._counters = ctypes.create_string_buffer(0)

    def run(self) -> Any:
        """Do all tasks and return the fields, where the kernel may have left a result."""
        threads = min(thread_count(), self._most_threads)
        fields = self._fields
        fields.strange = 0
        self._count_from_zero(threads)
        if self._scratch:
            fields.scratch = scratch_memory(self._scratch * threads)
        if threads == 1:
            self._call(self._address)
        else:
            _parallel_start()(self._function, self._address, threads)
        return fields

    def _count_from_zero(self, threads: int) -> None:
        size = (threads + 1) * COUNTER_BYTES
        if len(self._counters) != size:
            self._counters = ctypes.create_string_buffer(size)
            self._fields.threads = threads
            self._fields.counters = ctypes.addressof(self._counters)
        ctypes.memset(self._fields.counters, 0, size)


def run(kernel: Kernel, *, tasks: int, scratch: int = 0, work: float = math.inf, **fields: int) -> Any:
    """Run a kernel once; arguments as for ``Job``."""
    return Job(kernel, tasks=tasks, scratch=scratch, work=work, owners=(), **fields).run()


def scratch_memory(size: int) -> int:
    """The address of ``size`` bytes that belong to this thread until it asks again."""
    if size > getattr(_memory, "size", 0):
        _memory.block = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
        _memory.size = size
    if size == 0:
        return 0
    return -(-int(_memory.block.data_ptr()) // ALIGNMENT) * ALIGNMENT


def workspace(name: str, size: int) -> Tensor:
    """``size`` values of float32 that belong to this thread until it asks for ``name`` again."""
    block: Tensor | None = getattr(_memory, name, None)
    if block is None or block.numel() < size:
        with torch.inference_mode(False):  # a tensor of inference could not be written to in training
            block = torch.empty(size)
        setattr(_memory, name, block)
    return block[:size]


class WorkingMemory:
    """What kernels have left with the thread that called them."""

    @property
    def version(self) -> str:
        """Another one may keep other amounts."""
        return fingerprint()

    def held(self) -> dict[str, int]:
        """Bytes, by what they are for."""
        return {name: value.nbytes for name, value in vars(_memory).items() if isinstance(value, Tensor)}

    def give_back(self) -> None:
        """Free it all."""
        vars(_memory).clear()


@cache
def _parallel_start() -> Start:
    return _openmp_start() or _pool_start()


def _openmp_start() -> Start | None:
    library = _openmp_library()
    if library is None:
        return None
    parallel = ctypes.CDLL(library).GOMP_parallel
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return lambda function, argument, threads: parallel(function, argument, threads, 0)


def _openmp_library() -> str | None:
    """The GNU OpenMP that this process has loaded with PyTorch."""
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8").split()
    except OSError:
        return None
    libraries = sorted({word for word in mapped if "libgomp" in word})
    ours = [path for path in libraries if path.startswith(str(Path(torch.__file__).parent))]
    return next(iter(ours or libraries), None)


def _pool_start() -> Start:
    pool = ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="convatlas")

    def start_on_pool(function: int, argument: int, threads: int) -> None:
        # A task that finds nothing left to do returns at once, so it does not matter how many of these really run.
        call = CALL(function)
        helpers = [pool.submit(call, argument) for _ in range(threads - 1)]
        call(argument)
        for helper in helpers:
            helper.result()

    return start_on_pool


@cache
def keep_freed_memory() -> None:
    """Let the C library keep freed blocks of any size for this process instead of handing them back to the system.

    By default every tensor above 32 MB is mapped anew, and its pages are cleared one by one at their first touch: in a
    training step that takes longer than the arithmetic on it. Where the library is not glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            mallopt(option, KEPT_BYTES)


@cache
def _allowed_processors() -> int:
    """Processors that a control group (Docker, Kubernetes) lets this process keep busy, rounded up."""
    processors = os.cpu_count() or 1
    for path, parse in (("cpu.max", _quota_v2), ("cpu/cpu.cfs_quota_us", _quota_v1)):
        try:
            share = parse(Path("/sys/fs/cgroup") / path)
        except (OSError, ValueError, ZeroDivisionError):
            continue
        return max(1, math.ceil(min(processors, share)))
    return processors


def _quota_v2(path: Path) -> float:
    quota, period = path.read_text(encoding="ascii").split()
    return math.inf if quota == "max" else int(quota) / int(period)


def _quota_v1(path: Path) -> float:
    quota = int(path.read_text(encoding="ascii"))
    period = int(path.with_name("cpu.cfs_period_us").read_text(encoding="ascii"))
    return math.inf if quota < 0 else quota / period
