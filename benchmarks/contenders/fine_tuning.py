"""Who takes part in benchmarks/transfer_peers.py: one fine-tuning in a process of its own, whose last line is JSON.

    python benchmarks/contenders/fine_tuning.py timm plan.json

Each imports only its own library, so that fastai may be in another environment. The clock runs from the call, images
still undecoded, to the end of the last epoch with its validation; it stands still while test images are looked at.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

GOAL = 0.9  # test accuracy whose time is told
WORKERS = 2  # processes that decode, of peers


@dataclass(frozen=True)
class Plan:
    """What every contender is given; images are (path, class number)."""

    data: str
    weights: str  # a state dict with timm's names
    seed: int
    epochs: int
    batch_size: int
    image_size: int
    rate: float  # timm's learning rate
    train: list[tuple[str, int]]
    validation: list[tuple[str, int]]
    test: list[tuple[str, int]]


@dataclass
class Clock:
    """Seconds of training, and when the test accuracy reached the goal."""

    seconds: float = 0.0
    to_goal: float | None = None
    accuracies: list[tuple[float, float]] = field(default_factory=list)
    _began: float = field(default_factory=time.perf_counter)

    def stop(self) -> None:
        """Add what has passed."""
        self.seconds += time.perf_counter() - self._began

    def go_on(self) -> None:
        """Count again from now."""
        self._began = time.perf_counter()

    def look(self, accuracy: Callable[[], float], *, last: bool = False) -> None:
        """After an epoch, the clock standing still: test images are looked at until the goal is reached, and last."""
        self.stop()
        if self.to_goal is None or last:
            found = accuracy()
            self.accuracies.append((self.seconds, found))
            if self.to_goal is None and found >= GOAL:
                self.to_goal = self.seconds
        self.go_on()


def convatlas_transfer(plan: Plan) -> dict[str, Any]:
    """The recipe ``transfer`` as a person gets it: the best epoch by validation is kept, and tested once at the end."""
    from tempfile import TemporaryDirectory

    import numpy as np

    import convatlas
    from convatlas.data.cache import prepare
    from convatlas.data.catalog import open_source
    from convatlas.data.geometry import MARGIN
    from convatlas.training import checkpoint
    from convatlas.training.progress import Silent

    clock = Clock()
    starts: list[float] = []

    class Timed(Silent):
        def weights(self, lines: Any) -> None:
            if lines[0].startswith("probe"):  # fitted, and in the output layer
                clock.stop()
                clock.go_on()
                starts.append(clock.seconds)

        def row(self, row: Any, is_best: bool) -> None:
            del is_best
            clock.look(partial(tested, row.epoch), last=row.epoch >= plan.epochs)

    def tested(epoch: float) -> float:
        del epoch
        _, weights, _ = checkpoint.load(out)
        network = convatlas.create_model("efficientnet_lite0", num_classes=2, image_size=plan.image_size, seed=0)
        network.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
        return accuracy_on(network.eval(), batches())

    def batches() -> Iterable[Any]:
        import torch

        resize = round(plan.image_size * MARGIN)
        inside = slice((resize - plan.image_size) // 2, (resize + plan.image_size) // 2)
        test = prepare(open_source(plan.data), channels=3, resize=resize).test
        assert test is not None
        for start in range(0, len(test), 51):
            pixels = test.take(np.arange(start, min(start + 51, len(test))))[:, inside, inside]
            images = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float()
            yield images / 127.5 - 1, torch.from_numpy(test.labels[start : start + 51])

    with TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run = convatlas.train(
            "efficientnet_lite0",
            data=plan.data,
            weights="imagenet",
            out=out,
            seed=plan.seed,
            epochs=plan.epochs,
            image_size=plan.image_size,
            watch=Timed(),
        )
        assert run.card.test is not None
        assert run.card.baseline is not None
        assert run.card.best is not None
        probe = run.card.baseline.probe.correct / run.card.baseline.probe.n
        to_goal = starts[0] if probe >= GOAL else clock.to_goal
        return {
            "test": run.card.test["accuracy"],
            "last epoch": clock.accuracies[-1][1],
            "validation": run.card.best["validation_accuracy"],
            "validation loss": run.card.best["validation_loss"],
            "probe": probe,
            "seconds to the probe": starts[0],
            "seconds": clock.accuracies[-1][0],
            "seconds to goal": to_goal,
            "engine": run.card.engine.name,
        }


def timm_train(plan: Plan) -> dict[str, Any]:
    """The loop of timm's train.py by its public functions and defaults; what differs is in transfer_peers.py."""
    import timm
    import torch
    from timm.data import create_loader, resolve_data_config
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import AverageMeter, random_seed

    clock = Clock()
    random_seed(plan.seed, 0)
    network = timm.create_model(
        "tf_efficientnet_lite0", pretrained=True, num_classes=2, pretrained_cfg_overlay={"file": plan.weights}
    )
    config = resolve_data_config({}, model=network)
    shared = {
        "input_size": (3, plan.image_size, plan.image_size),
        "mean": config["mean"],
        "std": config["std"],
        "num_workers": WORKERS,
        "use_prefetcher": False,
        "device": torch.device("cpu"),
    }
    judging = partial(
        create_loader,
        batch_size=plan.batch_size,
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
        **shared,
    )
    train = create_loader(
        Photographs(plan.train), batch_size=plan.batch_size, is_training=True, interpolation="random", **shared
    )
    validation, test = judging(Photographs(plan.validation)), judging(Photographs(plan.test))
    optimizer = create_optimizer_v2(network, opt="sgd", lr=plan.rate, momentum=0.9, weight_decay=2e-5)
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        "cosine",
        num_epochs=plan.epochs,
        warmup_epochs=1,
        warmup_lr=1e-5,
        step_on_epochs=False,
        updates_per_epoch=len(train),
    )
    objective = LabelSmoothingCrossEntropy(0.1)
    losses = AverageMeter()
    updates = 0
    scheduler.step_update(0)
    for epoch in range(epochs):
        network.train()
        for images, labels in train:
            loss = objective(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(images))
            updates += 1
            scheduler.step_update(updates, metric=losses.avg)
        scheduler.step(epoch + 1)
        validated, validation_loss = judged_on(network.eval(), validation)
        clock.look(lambda: accuracy_on(network, test), last=epoch == epochs - 1)
    return told(clock, validated, validation_loss)


def fastai_fine_tune(plan: Plan) -> dict[str, Any]:
    """The way of fastai's vision tutorial: ``vision_learner(...).fine_tune``, one epoch of the head and then all."""
    import torch
    from fastai.vision.all import (
        Callback,
        CategoryBlock,
        DataBlock,
        ImageBlock,
        IndexSplitter,
        Resize,
        accuracy,
        aug_transforms,
        set_seed,
        vision_learner,
    )

    clock = Clock()
    set_seed(plan.seed, reproducible=True)
    names = dict(plan.train + plan.validation + plan.test)
    files = [Path(path) for path, _ in plan.train + plan.validation]
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=lambda _: files,
        get_y=lambda path: names[str(path)],
        splitter=IndexSplitter(range(len(plan.train), len(files))),
        item_tfms=Resize(round(460 / 224 * plan.image_size)),
        batch_tfms=aug_transforms(size=plan.image_size),
    )
    loaders = block.dataloaders(plan.data, bs=plan.batch_size, num_workers=WORKERS, device=torch.device("cpu"))
    learner = vision_learner(
        loaders, "tf_efficientnet_lite0", metrics=accuracy, pretrained_cfg_overlay={"file": plan.weights}
    )
    test = loaders.test_dl([Path(path) for path, _ in plan.test], with_labels=True)
    figures: list[Any] = []

    class Looks(Callback):
        order = 100  # after the recorder

        def after_epoch(self) -> None:
            figures.append(self.learn.recorder.values[-1])
            self.learn.model.eval()
            clock.look(lambda: accuracy_on(self.learn.model, test), last=len(figures) == plan.epochs)

    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(plan.epochs - 1, cbs=[Looks()])
    _, loss, validated = figures[-1]
    return told(clock, float(validated), float(loss))


class Photographs:
    """As timm's ImageDataset reads them: RGB, decoded at each look."""

    def __init__(self, files: list[tuple[str, int]]) -> None:
        self.files = files
        self.transform: Callable[[Any], Any] | None = None  # create_loader sets it

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        path, label = self.files[index]
        image = Image.open(path).convert("RGB")
        return (self.transform(image) if self.transform is not None else image), label


def accuracy_on(network: Any, batches: Iterable[Any]) -> float:
    return judged_on(network, batches)[0]


def judged_on(network: Any, batches: Iterable[Any]) -> tuple[float, float]:
    """Accuracy and mean cross-entropy of a network in evaluation mode."""
    import torch
    from torch.nn.functional import cross_entropy

    right, lost, seen = 0, 0.0, 0
    with torch.no_grad():
        for images, labels in batches:
            logits = torch.Tensor.as_subclass(network(images), torch.Tensor)
            truth = torch.Tensor.as_subclass(labels, torch.Tensor)
            right += int((logits.argmax(1) == truth).sum())
            lost += float(cross_entropy(logits, truth, reduction="sum"))
            seen += len(truth)
    return right / seen, lost / seen


def told(clock: Clock, validation: float, loss: float) -> dict[str, Any]:
    seconds, accuracy = clock.accuracies[-1]
    return {
        "test": accuracy,
        "validation": validation,
        "validation loss": loss,
        "seconds": seconds,
        "seconds to goal": clock.to_goal,
        "looks": clock.accuracies,
    }


CONTENDERS: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "convatlas": convatlas_transfer,
    "timm": timm_train,
    "fastai": fastai_fine_tune,
}


def main() -> None:
    import warnings

    warnings.filterwarnings("ignore")
    name, path = sys.argv[1:]
    content = json.loads(Path(path).read_text())
    for part in ("train", "validation", "test"):
        content[part] = [tuple(pair) for pair in content[part]]
    print(json.dumps(CONTENDERS[name](Plan(**content))), flush=True)


if __name__ == "__main__":
    main()
