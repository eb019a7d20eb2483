from __future__ import annotations

import pytest
import torch

from convatlas.data.batch import Place
from convatlas.data.tables.batches import RowBatches

CPU = torch.device("cpu")
ROWS = torch.arange(69.0).reshape(23, 3)


def test_without_shuffling_rows_come_in_order_and_are_their_own_targets() -> None:
    found = list(RowBatches(ROWS, 4).epoch(0))
    assert [len(batch.inputs) for batch in found] == [4, 4, 4, 4, 4, 3] == [batch.global_size for batch in found]
    assert torch.equal(torch.cat([batch.inputs for batch in found]), ROWS)
    assert all(batch.targets is batch.inputs for batch in found)


def test_epochs_have_orders_of_their_own_the_same_each_time() -> None:
    orders = [torch.cat([batch.inputs for batch in RowBatches(ROWS, 5, shuffle=True, seed=s).epoch(e)])[:, 0].tolist()
              for s, e in ((0, 0), (0, 1), (1, 0), (0, 0))]  # fmt: skip
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert all(sorted(order) == ROWS[:, 0].tolist() for order in orders)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_shares_of_all_processes_are_the_whole_batch(world: int, shuffle: bool) -> None:
    whole = RowBatches(ROWS, 7, shuffle=shuffle)
    shares = [RowBatches(ROWS, 7, shuffle=shuffle, place=Place(CPU, rank, world)) for rank in range(world)]
    for batch, *parts in zip(whole.epoch(2), *(share.epoch(2) for share in shares), strict=not shuffle):
        assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)
        assert {part.global_size for part in parts} == {len(batch.inputs)}
    assert max(share.shape for share in shares) == (-(-7 // world), 3)


def test_a_later_start_goes_on_where_it_was() -> None:
    batches = RowBatches(ROWS, 4, shuffle=True)
    for late, batch in zip(batches.epoch(1, start=3), list(batches.epoch(1))[3:], strict=True):
        assert torch.equal(late.inputs, batch.inputs)


def test_a_last_batch_of_one_row_is_left_out_only_in_training() -> None:
    assert len(RowBatches(ROWS, 11, shuffle=True)) == 2
    assert len(RowBatches(ROWS, 11)) == 3
    assert len(RowBatches(ROWS[:1], 11, shuffle=True)) == 1
    assert RowBatches(ROWS, 64).shape == (23, 3)
