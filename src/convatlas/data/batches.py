"""Labelled images as batches for a network: shuffled, augmented and normalised, a whole batch at a time.

Images stay unsigned bytes until the last moment; on a GPU that has room, they all live there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from convatlas.data.augment import Draws, augment, needs_colours
from convatlas.data.augmentation import Augmentation
from convatlas.data.batch import AUGMENTATION, ORDER, Batch, Place, generator, share_of
from convatlas.data.dataset import ImageArray
from convatlas.data.preprocessing import Preprocessing
from convatlas.data.statistics import ColourBasis, colour_basis

SHARE_OF_DEVICE_MEMORY = 0.4  # that images may take of what is free; the network needs the rest


class Batches:
    """The batches of a split.

    >>> batches = Batches(dataset.train, preprocessing, 128, augmentation=[Flip()], shuffle=True)   # doctest: +SKIP
    >>> for batch in batches.epoch(0):   # doctest: +SKIP
    ...     loss = cross_entropy(model(batch.inputs), batch.targets)

    Args:
        array: the images.
        preprocessing: from stored image to input.
        batch_size: images in a batch, over all processes together.
        augmentation: steps for every batch, with a random crop before them; without any, the centre is shown.
        shuffle: whether an epoch has its images in an order of its own. A last batch that would leave a process fewer
            than two images is then left out, since batch normalisation cannot learn from one.
        seed: decides, with the epoch and the step, every order and every draw.
        place: where batches are wanted; by default the CPU, whole.
        ten_crop: give ten crops of every image instead of its centre.
    """

    def __init__(
        self,
        array: ImageArray,
        preprocessing: Preprocessing,
        batch_size: int,
        *,
        augmentation: Sequence[Augmentation] = (),
        shuffle: bool = False,
        seed: int = 0,
        place: Place | None = None,
        ten_crop: bool = False,
    ) -> None:
        self._array = array
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._augmentation = tuple(augmentation)
        self._shuffle = shuffle
        self._seed = seed
        self._place = place or Place(torch.device("cpu"))
        self._device = self._place.device
        self._view = preprocessing.ten_crops if ten_crop else preprocessing.normalize

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, C, s, s] of the largest share of a batch that a process has."""
        share = -(-min(self._batch_size, len(self._array)) // self._place.world)
        return share, self._preprocessing.channels, self._preprocessing.crop, self._preprocessing.crop

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self._array), self._batch_size)
        is_left_out = rest < 2 * self._place.world and self._shuffle and full > 0
        return full + (rest > 0 and not is_left_out)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step ``start`` on; of each, this process's share.

        The shares of all processes, one after the other, are the batch that a single process would see.
        """
        order = self._order(epoch)
        for step in range(start, len(self)):
            indices = order[step * self._batch_size : (step + 1) * self._batch_size]
            share = share_of(len(indices), self._place.rank, self._place.world)
            images = self._images(indices[share])
            if self._augmentation:
                images = self._augmented(images, epoch, step, len(indices), share)
            labels = self._labels[torch.from_numpy(indices[share])].to(self._device, non_blocking=True)
            yield Batch(self._view(images), labels, len(indices))

    def _order(self, epoch: int) -> np.typing.NDArray[np.int64]:
        if not self._shuffle:
            return np.arange(len(self._array))
        return torch.randperm(len(self._array), generator=generator(ORDER, self._seed, epoch)).numpy()

    def _augmented(self, images: Tensor, epoch: int, step: int, total: int, share: slice) -> Tensor:
        draws = Draws(generator(AUGMENTATION, self._seed, epoch, step), total, share, self._device)
        return augment(images, self._augmentation, self._preprocessing.crop, draws, self._colours)

    def _images(self, indices: np.typing.NDArray[np.int64]) -> Tensor:
        if self._on_device is not None:
            return self._on_device[torch.from_numpy(indices).to(self._device, non_blocking=True)]
        images = torch.from_numpy(self._array.take(indices))
        if self._device.type == "cuda":
            images = images.pin_memory()
        return images.to(self._device, non_blocking=True)

    @cached_property
    def _labels(self) -> Tensor:
        return torch.from_numpy(self._array.labels)

    @cached_property
    def _colours(self) -> ColourBasis | None:
        return colour_basis(self._array) if needs_colours(self._augmentation) else None

    @cached_property
    def _on_device(self) -> Tensor | None:
        """All the images, where the device is a GPU with room for them."""
        if self._device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(self._device)
        if len(self._array) * int(np.prod(self._array.image_shape)) > SHARE_OF_DEVICE_MEMORY * free:
            return None
        images = torch.empty((len(self._array), *self._array.image_shape), dtype=torch.uint8, device=self._device)
        start = 0
        for chunk in self._array.chunks():
            images[start : start + len(chunk)] = torch.from_numpy(chunk).to(self._device)
            start += len(chunk)
        return images
