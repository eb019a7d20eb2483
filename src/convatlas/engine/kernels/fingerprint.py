"""A number that tells whether values in many places are what they were."""

from __future__ import annotations

from typing import Any

from convatlas.engine.kernels.simd import load_bits, load_place

PRIME = 1099511628211  # of the 64-bit FNV hash


def read(job: Any, task: int, scratch: int) -> None:
    """Mix the bits of all values whose addresses are in ``places`` into one number, left in ``strange``.

    Source: Fowler, Noll & Vo, "The FNV Non-Cryptographic Hash Algorithm", draft-eastlake-fnv.
    """
    mixed = 0
    for index in range(job.count):
        mixed = (mixed ^ load_bits(load_place(job.places, index))) * PRIME
    job.strange = mixed
