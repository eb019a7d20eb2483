"""Encoded rows as batches: each is what a network is shown, and what it is to give back."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from convatlas.data.batch import ORDER, Batch, Place, generator, share_of

GATHERED_ROWS = 4096  # of the order, copied together: as many calls as there are batches would cost more than the copy
SHARE_OF_DEVICE_MEMORY = 0.4  # that rows may take of what is free


class RowBatches:
    """The batches of some rows.

    >>> batches = RowBatches(torch.zeros(10, 3), batch_size=4)
    >>> [tuple(batch.inputs.shape) for batch in batches.epoch(0)]
    [(4, 3), (4, 3), (2, 3)]

    Args:
        rows: float32 [n, columns].
        batch_size: rows in a batch, over all processes together.
        shuffle: whether an epoch has its rows in an order of its own. A last batch that would leave a process fewer
            than two rows is then left out.
        seed: decides, with the epoch, every order.
        place: where batches are wanted; by default the CPU, whole.
    """

    def __init__(
        self, rows: Tensor, batch_size: int, *, shuffle: bool = False, seed: int = 0, place: Place | None = None
    ) -> None:
        self._place = place or Place(torch.device("cpu"))
        self._rows = rows.to(self._place.device) if _has_room(self._place.device, rows) else rows
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed

    @property
    def shape(self) -> tuple[int, int]:
        """[n, columns] of the largest share of a batch that a process has."""
        return -(-min(self._batch_size, len(self._rows)) // self._place.world), self._rows.shape[1]

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self._rows), self._batch_size)
        is_left_out = rest < 2 * self._place.world and self._shuffle and full > 0
        return full + (rest > 0 and not is_left_out)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step ``start`` on; of each, this process's share.

        The shares of all processes, one after the other, are the batch that a single process would see.
        """
        order = self._order(epoch)
        at_once = max(1, GATHERED_ROWS // self._batch_size)
        for first in range(start, len(self), at_once):
            run = slice(first * self._batch_size, min(first + at_once, len(self)) * self._batch_size)
            rows = self._rows[run] if order is None else self._rows.index_select(0, order[run])
            for batch in torch.split(rows, self._batch_size):
                size = batch.shape[0]
                own = batch if self._place.world == 1 else batch[share_of(size, self._place.rank, self._place.world)]
                own = own.to(self._place.device)
                yield Batch(own, own, size)

    def _order(self, epoch: int) -> Tensor | None:
        if not self._shuffle:
            return None
        order = torch.randperm(len(self._rows), generator=generator(ORDER, self._seed, epoch))
        return order.to(self._rows.device)


def _has_room(device: torch.device, rows: Tensor) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return rows.nbytes <= SHARE_OF_DEVICE_MEMORY * free
