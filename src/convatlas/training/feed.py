"""What a training is shown: batches to learn from, and batches to choose the best weights by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from convatlas.data.batch import Batch, Place
from convatlas.data.batches import Batches as ImageBatches
from convatlas.data.dataset import Dataset, ImageArray
from convatlas.data.preprocessing import Preprocessing
from convatlas.data.tables.batches import RowBatches
from convatlas.tasks.contract import Batches
from convatlas.training.processes import processes
from convatlas.training.recipe import ClassificationRecipe, Recipe

EVALUATED_ROWS = 16_384  # at once, outside training


@dataclass(frozen=True)
class OwnTargets:
    """Batches of images that are to come out as they went in."""

    batches: ImageBatches

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the batches."""
        return self.batches.shape

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.batches)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, their images in the place of the labels."""
        for batch in self.batches.epoch(epoch, start=start):
            yield replace(batch, targets=batch.inputs)


@dataclass(frozen=True)
class Feed:
    """The batches of a training, on this process's device; the validation's are never shuffled or augmented.

    >>> feed = Feed.of_images(dataset, preprocessing, load_recipe("lenet"))  # doctest: +SKIP
    >>> feed.train.shape  # doctest: +SKIP
    (128, 1, 28, 28)
    """

    train: Batches
    validation: Batches

    @classmethod
    def of_rows(cls, train: Tensor, validation: Tensor, recipe: Recipe) -> Self:
        """Encoded rows, float32 [n, columns], of which a network learns to rebuild each."""
        here = processes()
        place = Place(here.device, here.process_index, here.num_processes)
        return cls(
            RowBatches(train, recipe.batch_size, shuffle=True, seed=recipe.seed, place=place),
            RowBatches(validation, EVALUATED_ROWS, place=place),
        )

    @classmethod
    def of_good_images(
        cls, train: ImageArray, validation: ImageArray, preprocessing: Preprocessing, recipe: Recipe
    ) -> Self:
        """Images of which a network learns to rebuild each; nothing is read before the first batch."""
        here = processes()
        place = Place(here.device, here.process_index, here.num_processes)
        shuffled = ImageBatches(train, preprocessing, recipe.batch_size, shuffle=True, seed=recipe.seed, place=place)
        judged = ImageBatches(validation, preprocessing, preprocessing.evaluation_batch, place=place)
        return cls(OwnTargets(shuffled), OwnTargets(judged))

    @classmethod
    def of_images(cls, dataset: Dataset, preprocessing: Preprocessing, recipe: ClassificationRecipe) -> Self:
        """The images of a data set, as a recipe wants them; nothing is read before the first batch."""
        here = processes()
        place = Place(here.device, here.process_index, here.num_processes)
        train = ImageBatches(
            dataset.train,
            preprocessing,
            recipe.batch_size,
            augmentation=recipe.augmentation,
            shuffle=True,
            seed=recipe.seed,
            place=place,
        )
        return cls(train, ImageBatches(dataset.validation, preprocessing, preprocessing.evaluation_batch, place=place))
