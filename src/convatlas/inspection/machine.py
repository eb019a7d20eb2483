"""The machine this runs on, as far as it decides what operators take for themselves; and the memory it has."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

PRETENCES = ("ONEDNN_", "DNNL_", "ATEN_", "MKL_")  # what tells a library to use lesser instructions, or other kernels
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """A processor, the instructions PyTorch uses of it, and the number of threads.

    ``details`` is whatever else PyTorch's choice of kernels depends on.
    """

    processor: str
    instructions: str
    threads: int
    details: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.processor}, {self.instructions}, {threads}"

    @property
    def name(self) -> str:
        """A name for a file of what was measured here and holds nowhere else."""
        everything = json.dumps([self.processor, self.instructions, self.threads, dict(self.details)], sort_keys=True)
        return f"{self.instructions}-{self.threads}-{hashlib.sha256(everything.encode()).hexdigest()[:16]}".lower()


def this_machine() -> Machine:
    """The one that this runs on, as it is set now.

    >>> print(this_machine())  # doctest: +SKIP
    AMD EPYC, AVX2, 2 threads
    """
    backend = torch.backends.mkldnn
    details = {name: value for name, value in os.environ.items() if name.startswith(PRETENCES)}
    details |= {
        "features": _features(),
        "torch": torch.__version__,
        "onednn": f"{torch._C._has_mkldnn} {backend.enabled} {backend.deterministic}",
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
        "precision": torch.get_float32_matmul_precision(),
    }
    return Machine(_processor(), _instructions(), torch.get_num_threads(), details)


def free_bytes() -> int | None:
    """Memory that this process can still take: what the machine has free, or less where a control group allows less.

    None where the system does not say.
    """
    known = [amount for amount in (_free_of_machine(), *_free_of_groups(CGROUPS)) if amount is not None]
    return min(known, default=None)


@cache
def _processor() -> str:
    return _of_cpuinfo("model name") or platform.processor() or platform.machine()


@cache
def _features() -> str:
    return _of_cpuinfo("flags") or _of_cpuinfo("Features") or ""


def _of_cpuinfo(field: str) -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"^{field}\s*: (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else None


def _instructions() -> str:
    """Of PyTorch's own kernels, and of oneDNN where it is told to use lesser ones."""
    ours = str(torch.backends.cpu.get_cpu_capability())
    told = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA")
    return f"{ours} and {told}" if told else ours


def _free_of_machine() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(re.findall(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)[0]) * 1024
    except (OSError, IndexError):
        return _free_pages()


def _free_pages() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows and macOS have no such names
        return None


def _free_of_groups(root: Path) -> Iterator[int]:
    """What the control groups that this process is in (Docker, Kubernetes) leave it, of either version."""
    for folder, limit, used, reclaimable in (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            allowed, taken = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, used))
            if allowed != "max":
                yield int(allowed) - int(taken) + _counted(folder / "memory.stat", reclaimable)
        except (OSError, ValueError):
            continue


def _counted(path: Path, name: str) -> int:
    """A figure of a control group's statistics; that of cached files counts as used until somebody wants the room."""
    try:
        found = re.search(rf"^{name} (\d+)$", path.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
