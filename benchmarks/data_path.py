"""The data path against torchvision's, in one run: LeNet-5 on Fashion-MNIST, with the same augmentation and step.

    python benchmarks/data_path.py [--data /usr/share/datasets/fashion-mnist] [--rounds 5]

Ours: `Batches`, which augments a whole batch of bytes at a time. Theirs: a `Dataset` of Pillow images as
`torchvision.datasets` has it, RandomCrop(28, padding=2), RandomHorizontalFlip, ToTensor and Normalize, in a
`DataLoader` with no workers and with one for each core, kept alive between epochs; the better one counts.

Each is timed over the same images, alone and with training, the contenders taking turns. Prints medians and ratios, and
writes them with the hardware to results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from convatlas.data.augmentation import Flip, Shift
from convatlas.data.batches import Batches
from convatlas.data.cache import prepare
from convatlas.data.catalog import open_source
from convatlas.data.dataset import ImageArray
from convatlas.data.preprocessing import Preprocessing
from convatlas.models import create_model

SHIFT = 2
RESULTS = Path(__file__).parent / "results"

Pairs = Iterable[tuple[Tensor, Tensor]]


class PillowImages(Dataset[tuple[Tensor, Tensor]]):
    """Images as `torchvision.datasets.FashionMNIST` gives them: one at a time, through Pillow and a transform."""

    def __init__(self, array: ImageArray, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images = torch.from_numpy(array.take(np.arange(len(array)))[..., 0])
        self.labels = torch.from_numpy(array.labels)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


def our_batches(array: ImageArray, preprocessing: Preprocessing, batch_size: int) -> Iterator[Pairs]:
    batches = Batches(
        array, preprocessing, batch_size, augmentation=[Shift(pixels=SHIFT, fill="constant"), Flip()], shuffle=True
    )
    for epoch in range(10**6):
        yield ((batch.inputs, batch.targets) for batch in batches.epoch(epoch))


def their_batches(array: ImageArray, preprocessing: Preprocessing, batch_size: int, workers: int) -> Iterator[Pairs]:
    transform = transforms.Compose([
        transforms.RandomCrop(28, padding=SHIFT),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(preprocessing.mean, preprocessing.std),
    ])  # fmt: skip
    loader = DataLoader(
        PillowImages(array, transform), batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        yield loader


def train_step() -> Callable[[Tensor, Tensor], None]:
    model = create_model("lenet5", seed=0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step(images: Tensor, labels: Tensor) -> None:
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def do_nothing(images: Tensor, labels: Tensor) -> None: ...


def images_per_second(batches: Pairs, step: Callable[[Tensor, Tensor], None]) -> float:
    count = 0
    began = time.perf_counter()
    for images, labels in batches:
        step(images, labels)
        count += len(labels)
    return count / (time.perf_counter() - began)


def measure(array: ImageArray, batch_size: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    preprocessing = Preprocessing.named("standardize", array, crop=28)
    cores = os.cpu_count() or 1
    contenders = {
        "convatlas": our_batches(array, preprocessing, batch_size),
        "DataLoader, 0 workers": their_batches(array, preprocessing, batch_size, 0),
        f"DataLoader, {cores} workers": their_batches(array, preprocessing, batch_size, cores),
    }
    steps = {"data only": do_nothing, "training": train_step()}
    speeds: dict[str, dict[str, list[float]]] = {task: {name: [] for name in contenders} for task in steps}
    for turn in range(rounds + 1):
        for task, step in steps.items():
            for name, epochs in contenders.items():
                speed = images_per_second(next(epochs), step)
                if turn:  # the first warms caches and starts workers
                    speeds[task][name].append(speed)
    return speeds


def summarize(speeds: dict[str, dict[str, list[float]]]) -> dict[str, object]:
    summary: dict[str, object] = {}
    for task, by_name in speeds.items():
        medians = {name: statistics.median(values) for name, values in by_name.items()}
        best = max((name for name in medians if name != "convatlas"), key=lambda name: medians[name])
        summary[task] = {
            "images_per_second": {name: round(median) for name, median in medians.items()},
            "range": {name: [round(min(values)), round(max(values))] for name, values in by_name.items()},
            "best_other": best,
            "ratio": round(medians["convatlas"] / medians[best], 2),
        }
    return summary


def environment() -> dict[str, object]:
    cpu = next((line.split(":")[1].strip() for line in cpu_info() if line.startswith("model name")), platform.machine())
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist", help="a folder with Fashion-MNIST's four files")
    parser.add_argument("--images", type=int, default=10_000, help="images in an epoch")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    before = environment()
    dataset = prepare(open_source(arguments.data), channels=1, resize=28)
    array = dataset.train.subset(np.arange(arguments.images))
    summary = summarize(measure(array, arguments.batch_size, arguments.rounds))
    for task, figures in summary.items():
        print(task)
        for name, speed in figures["images_per_second"].items():  # type: ignore[index]
            print(f"  {name:24} {speed:9,} images/s")
        print(f"  ratio to the best of the others: {figures['ratio']}")  # type: ignore[index]
    now = datetime.now(UTC)
    settings = vars(arguments) | {"data": dataset.name}
    record = {"made": now.isoformat(timespec="seconds"), "settings": settings, "environment": before, **summary}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d}-data_path.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
