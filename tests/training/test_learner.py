from __future__ import annotations

from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType

from convatlas.errors import TrainingError
from convatlas.training import learner


def test_sharded_training_is_refused_before_it_starts() -> None:
    with pytest.raises(TrainingError, match=r"launcher asks for FSDP.*torchrun"):
        learner._refuse_sharding(SimpleNamespace(distributed_type=DistributedType.FSDP))
    learner._refuse_sharding(SimpleNamespace(distributed_type=DistributedType.MULTI_GPU))


def test_step_seeds_differ_by_every_part_of_the_key() -> None:
    keys = [(seed, epoch, step, rank) for seed in (0, 1) for epoch in (0, 1) for step in (0, 1) for rank in (0, 1)]
    assert len({learner._seed_of(*key) for key in keys}) == len(keys)
