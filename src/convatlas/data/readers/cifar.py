"""CIFAR-10 and CIFAR-100 from the original python batches, checked against their published checksums.

The batches are pickles. They are read by an unpickler that knows numpy arrays and nothing else, so that a file that
pretends to be a batch can run no code.

Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images"; layout and checksums as on
https://www.cs.toronto.edu/~kriz/cifar.html and in torchvision.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convatlas.data.source import ArraySplit, FileStore, Labels, Pixels, Source
from convatlas.errors import DataError


@dataclass(frozen=True)
class CifarFormat:
    """File names with their MD5 checksums, and the keys in them."""

    name: str
    archive: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    meta: Mapping[str, str]
    labels_key: str
    classes_key: str

    @property
    def checksums(self) -> dict[str, str]:
        """MD5 of every file."""
        return {**self.train, **self.test, **self.meta}


CIFAR10 = CifarFormat(
    name="cifar10",
    archive="cifar-10-python.tar.gz",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
    labels_key="labels",
    classes_key="label_names",
)
CIFAR100 = CifarFormat(
    name="cifar100",
    archive="cifar-100-python.tar.gz",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
    labels_key="fine_labels",
    classes_key="fine_label_names",
)


def find_cifar(names: Iterable[str]) -> tuple[CifarFormat, str] | None:
    """Which CIFAR set lies among files, and the folder it lies in (ending with a slash, or empty).

    >>> find_cifar(["cifar-100-python/meta", "cifar-100-python/train", "cifar-100-python/test"])[1]
    'cifar-100-python/'
    """
    present = set(names)
    for cifar in (CIFAR10, CIFAR100):
        (meta,) = cifar.meta
        for name in present:
            folder = name.removesuffix(meta)
            if name == folder + meta and all(folder + file in present for file in cifar.checksums):
                return cifar, folder
    return None


def open_cifar(store: FileStore, cifar: CifarFormat, folder: str, stamp: str) -> Source:
    """The data set in a folder of batches.

    Raises:
        DataError: a file whose MD5 is not the published one.
    """
    (meta,) = cifar.meta
    classes = tuple(_read_batch(store, cifar, folder, meta)[cifar.classes_key])

    def read(files: Iterable[str]) -> tuple[Pixels, Labels]:
        batches = [_read_batch(store, cifar, folder, file) for file in files]
        rows = np.concatenate([batch["data"] for batch in batches])
        labels = np.concatenate([batch[cifar.labels_key] for batch in batches]).astype(np.int64)
        # 3,072 bytes a row: 1,024 of red, then of green, then of blue
        return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels

    splits = {
        "train": ArraySplit("train", lambda: read(cifar.train)),
        "test": ArraySplit("test", lambda: read(cifar.test)),
    }
    return Source(cifar.name, classes, splits, stamp)  # type: ignore[arg-type]  # the keys are split names


def _read_batch(store: FileStore, cifar: CifarFormat, folder: str, file: str) -> dict[str, Any]:
    content = store.read(folder + file)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != cifar.checksums[file]:
        raise DataError(
            f"{folder}{file} of {cifar.name} is damaged: its MD5 is not the published one. Download it again"
        )
    batch: dict[str, Any] = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    return batch


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dictionaries, lists, numbers, text and numpy arrays; whatever else a pickle asks for is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """The few functions that rebuild an array."""
        reconstruct = np.zeros(0).__reduce__()[0]  # numpy moves it between private modules; here it is wherever it is
        known = {"_reconstruct": reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
        if module.split(".", maxsplit=1)[0] == "numpy" and name in known:
            return known[name]
        raise DataError(f"a batch of images asks for {module}.{name}, which no image needs; refused. Download it again")
