"""Whether a network learns the same with the engine as without: VGG-16-BN on 5,000 images of CIFAR-10, several seeds.

    python benchmarks/engine_learning.py --data cifar10-jpeg.tar.xz [--images 5000] [--epochs 2] [--seeds 3]

Trains the same network twice for each seed, with the same recipe and the same images in the same order: with PyTorch
alone and with the engine. Prints losses, test accuracies and times; writes the curves and the figures to results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import convatlas
from convatlas.data.cache import prepare
from convatlas.data.catalog import open_source
from convatlas.runs import describe_environment
from convatlas.training.progress import Silent, StepReport

MODEL = "vgg16_bn_cifar"
ENGINES = ("torch", "auto")
NAMES = {"torch": "PyTorch alone", "auto": "with the engine"}
TEST_IMAGES = 2000
RESULTS = Path(__file__).parent / "results"


@dataclass
class Curve(Silent):
    """The mean loss of the epoch so far, at each step that is shown."""

    progress: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)

    def step(self, report: StepReport) -> None:
        """Remember."""
        self.progress.append(report.progress)
        self.loss.append(report.figures["loss"])


@dataclass(frozen=True)
class Outcome:
    """One training."""

    engine: str
    seed: int
    progress: list[float]
    loss: list[float]
    validation_accuracy: float
    test_accuracy: float
    images_per_second: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10, in any form that convatlas takes")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = some_images(options.data, options.images, Path(folder) / "cifar10-part.npz")
        outcomes = [
            learn(data, engine, seed, options.epochs, Path(folder))
            for seed in range(options.seeds)
            for engine in ENGINES
        ]
    print_summary(outcomes)
    stem = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-engine_learning"
    content = {
        "hardware": describe_environment(),
        "options": vars(options),
        "outcomes": [vars(each) for each in outcomes],
    }
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    title = f"{MODEL}, {options.images:,} images, {options.epochs} epochs"
    draw(outcomes, title, stem.with_suffix(".png"))
    print(f"written: {stem}.json and .png")


def some_images(location: str, count: int, path: Path) -> Path:
    """Random images of a data set's training and test splits, as a file."""
    dataset = prepare(open_source(location), channels=3, resize=32, validation_fraction=0.1, split_seed=0)
    assert dataset.test is not None
    random = np.random.default_rng(0)
    train, test = (
        np.sort(random.permutation(len(part))[:n]) for n, part in ((count, dataset.train), (TEST_IMAGES, dataset.test))
    )
    np.savez(
        path,
        x_train=dataset.train.take(train),
        y_train=dataset.train.labels[train],
        x_test=dataset.test.take(test),
        y_test=dataset.test.labels[test],
        classes=np.array(dataset.classes),
    )
    return path


def learn(data: Path, engine: Any, seed: int, epochs: int, folder: Path) -> Outcome:
    curve = Curve()
    run = convatlas.train(
        MODEL,
        data=data,
        recipe="vgg-cifar10",
        epochs=epochs,
        seed=seed,
        engine=engine,
        out=folder / f"{engine}-{seed}",
        watch=curve,
    )
    if run.card.best is None or run.card.test is None:
        raise SystemExit(f"the training of seed {seed}, {NAMES[engine]}, was cut short: nothing is written")
    rows = (run.path / "history.csv").read_text(encoding="utf-8").splitlines()
    speed = float(dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))["images_per_second"])
    outcome = Outcome(
        NAMES[engine],
        seed,
        curve.progress,
        curve.loss,
        run.card.best["validation_accuracy"],
        run.card.test["accuracy"],
        speed,
    )
    print(
        f"seed {seed}  {outcome.engine:16}  loss {curve.loss[-1]:.4f}  test accuracy {outcome.test_accuracy:.2%}  "
        f"{speed:.0f} images/s",
        flush=True,
    )
    return outcome


def print_summary(outcomes: list[Outcome]) -> None:
    for name in NAMES.values():
        accuracies = [each.test_accuracy for each in outcomes if each.engine == name]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        print(
            f"{name:16}  test accuracy {statistics.mean(accuracies):.2%} ± {spread:.2%} (n = {len(accuracies)} seeds)"
        )


def draw(outcomes: list[Outcome], title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for each in outcomes:
        is_ours = each.engine == NAMES["auto"]
        style = {"linestyle": "-", "linewidth": 1} if is_ours else {"linestyle": ":", "linewidth": 2.5}
        label = f"seed {each.seed}, {each.engine}"
        axes.plot(each.progress, each.loss, color=f"C{each.seed}", label=label, **style)
    axes.set(xlabel="share of the training", ylabel="mean loss of the epoch so far", title=title)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
