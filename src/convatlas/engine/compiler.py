"""Kernels as machine code: compiled by LLVM once a machine, kept in the user's cache.

Compiling one takes a few tenths of a second; loading what was kept takes milliseconds. What is kept is named by a hash
of the sources, of the compiler's version, of the processor and of the width of its vectors, so it is never stale.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import threading
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from convatlas.engine.jobs import LANES, Kernel
from convatlas.errors import StorageError
from convatlas.files import cache_directory, replacing

log = logging.getLogger(__name__)

DIGEST_BYTES = 32

_lock = threading.Lock()
_addresses: dict[Kernel, int] = {}
_engines: list[Any] = []  # owners of the machine code; it lives as long as the process


def address_of(kernel: Kernel) -> int:
    """Where the machine code of a kernel is; compiled if it never was on this machine.

    Raises:
        ImportError: llvmlite is not installed.
    """
    found = _addresses.get(kernel)
    if found is not None:
        return found
    with _lock:
        if kernel not in _addresses:
            _addresses[kernel] = _load(kernel, _object_of(kernel))
        return _addresses[kernel]


def _object_of(kernel: Kernel) -> bytes:
    path = _path_of(kernel)
    kept = _read(path)
    if kept is not None:
        return kept
    _say_once()
    machine_code = _compile(kernel)
    with suppress(StorageError), replacing(path) as temporary:  # where that fails it is compiled again next time
        temporary.write_bytes(_digest(machine_code) + machine_code)
    return machine_code


@cache
def _say_once() -> None:
    log.warning("compiling the CPU engine for this processor; this happens once and takes a few seconds")


def _path_of(kernel: Kernel) -> Path:
    layout = _digest(repr(kernel).encode()).hex()[:8]
    return cache_directory() / "engine" / f"{kernel.module}-{kernel.name}-{layout}-{fingerprint()}.o"


def _read(path: Path) -> bytes | None:
    """Kept machine code; None if there is none, or if it is not what was once written: that must never be run."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, machine_code = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return machine_code if digest == _digest(machine_code) else None


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@cache
def fingerprint() -> str:
    """Names this processor, the compiler, and the sources that machine code is made from."""
    from llvmlite import binding

    digest = hashlib.sha256()
    here = Path(__file__)
    beside = (here.with_name(name) for name in ("codegen.py", "jobs.py"))
    for source in (here, *beside, *sorted(here.parent.glob("kernels/*.py"))):
        digest.update(source.read_bytes())
    machine = (binding.get_default_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
    digest.update(repr((metadata.version("llvmlite"), machine, LANES)).encode())
    return digest.hexdigest()[:16]


def _compile(kernel: Kernel) -> bytes:
    from llvmlite import binding

    from convatlas.engine.kernels.entry import compile_kernel

    body = getattr(importlib.import_module(f"convatlas.engine.kernels.{kernel.module}"), kernel.name)
    machine = _target_machine()
    module = binding.parse_assembly(compile_kernel(kernel, body))
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(module, passes)
    return bytes(machine.emit_object(module))


def _load(kernel: Kernel, machine_code: bytes) -> int:
    from llvmlite import binding

    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _target_machine())
    engine.add_object_file(binding.ObjectFileRef.from_data(machine_code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(kernel.name))


def _target_machine() -> Any:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3, jit=True
    )
