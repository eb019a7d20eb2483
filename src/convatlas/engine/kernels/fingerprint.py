"""A number that tells whether values are what they were: their bits, mixed."""

from __future__ import annotations

from typing import Any

from convatlas.engine.codegen import vectors
from convatlas.engine.kernels.simd import (
    FNV64_PRIME,
    bits_total,
    load_bits,
    load_integer,
    mixed_with,
    no_bits,
    read_bits,
)


def read(job: Any, task: int, scratch: int) -> None:
    """Mix all values of ``ranges``, pairs of an address and a count, and those at ``places``; left in ``strange``.

    Source: Fowler, Noll & Vo, "The FNV Non-Cryptographic Hash Algorithm", draft-eastlake-fnv; here on whole values.
    """
    lanes = no_bits()
    for index in range(job.range_count):
        start = load_integer(job.ranges, 2 * index)
        for place, mask in vectors(load_integer(job.ranges, 2 * index + 1)):
            lanes = mixed_with(lanes, read_bits(start, place, mask))
    mixed = bits_total(lanes)
    for index in range(job.place_count):
        mixed = (mixed ^ load_bits(load_integer(job.places, index))) * FNV64_PRIME
    job.strange = mixed
