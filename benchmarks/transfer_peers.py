"""Fine-tuning from ImageNet's weights, against timm and fastai; and what each choice of the recipe brings.

    python benchmarks/transfer_peers.py ants-bees/ --peers-python ~/peers/bin/python --save
    python benchmarks/transfer_peers.py ants-bees/ --choices --save

The folder has ``train/`` and ``test/``. `--peers-python` is an environment with fastai and timm; each training runs in
a process of its own, on --threads threads, --jobs at a time. Contenders take turns, seed by seed, on the same training
and validation images and the same weights, as many passes over the images each, 32 at a time. Seeds decide order,
augmentation, dropout and new layers; the validation images are always the same. On a machine that others use, take
--threads 1: two threads that wait for each other while a third program has the core are several times slower than one.

  - convatlas: ``train("efficientnet_lite0", weights="imagenet")``, the recipe ``transfer``.
  - timm: the loop of its train.py, which is not in the package, by timm's public functions and that script's defaults
    (Nesterov's SGD, weight decay 2e-5, cosine, label smoothing 0.1, crops of 8 to 100 %, flips, colour jitter 0.4).
    Other than the defaults, for so short a training: warm-up of 1 epoch, not 5, and --sched-on-updates; the learning
    rate is chosen from five by the validation of another seed (accuracy, then loss). 0.0125 is the script's own.
  - fastai: its vision tutorial: ``Resize(460)``, ``aug_transforms(size=224)``, ``vision_learner`` on timm's network,
    ``fine_tune`` with its own rate; one epoch of the head, then the others. Its head has two dense layers.

Peers decode with two processes and read the files anew in each pass; convatlas decodes once, and starts from an empty
cache each time. --image-size is the side of the images that all are shown. Prints test accuracy, mean and standard
deviation over seeds, seconds of training, seconds until an epoch ended with 90 % of the test images right, and paired
differences with their 95 % intervals (Student's t over seeds: what other seeds would give, not other test images).

--choices changes one setting of the recipe at a time, and compares starts with and without pretrained weights.
--save keeps every figure in results/, after each round, with the hardware.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

RESULTS = Path(__file__).parent / "results"
WORKER = Path(__file__).parent / "contenders" / "fine_tuning.py"
NETWORK = "efficientnet_lite0"
RATES = (0.0003, 0.001, 0.004, 0.0125, 0.04)  # of timm, to choose from
RATE_SEED = 100
BATCH_SIZE = 32

Figures = dict[str, Any]

CHOICES: dict[str, Figures] = {
    "the recipe": {},
    "freeze = features": {"freeze": "features"},
    "freeze = until:mbconv4": {"freeze": "until:mbconv4"},
    "head_start = random": {"head_start": "random"},
    "head_start = random, head_rate = 20": {"head_start": "random", "head_rate": 20.0},
    "head_rate = 20": {"head_rate": 20.0},
    "layer_rates = 0.3": {"layer_rates": 0.3},
    "class_weights = balanced": {"class_weights": "balanced"},
    "freeze_batch_norm = false": {"freeze_batch_norm": False},
    "learning_rate x 5": {"learning_rate": 0.005},
}
INITIALIZATIONS = ("own", "he_normal", "glorot_uniform")


def weights_file(folder: Path) -> Path:
    """The weights that convatlas finds, with timm's names, for all."""
    import torch

    from convatlas.weights.pretrained import PretrainedClassifier

    path = folder / "weights.pth"
    torch.save(dict(PretrainedClassifier(NETWORK).model().state_dict()), path)
    return path


def parts_of(data: str) -> dict[str, list[tuple[str, int]]]:
    """The files of each part, divided as convatlas divides them."""
    from convatlas.data.cache import prepare
    from convatlas.data.catalog import open_source

    source = open_source(data)
    dataset = prepare(source, channels=3, resize=256)
    named = [(name, int(label)) for split in source.splits.values() for name, label in _names(split)]
    root = Path(source.location or data)
    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {part: [(str(root / named[row][0]), named[row][1]) for row in images.rows] for part, images in parts.items()}


def _names(split: Any) -> list[tuple[str, int]]:
    return [(split.name(index), label) for index, label in enumerate(split.labels)]


def in_a_process(name: str, python: str, plan: Figures, threads: int) -> Figures:
    """One training, from an empty cache."""
    with TemporaryDirectory() as cache:
        path = Path(cache) / "plan.json"
        path.write_text(json.dumps(plan))
        number = str(threads)
        done = subprocess.run(
            [python, str(WORKER), name, str(path)],
            env=os.environ | {"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, "CONVATLAS_CACHE": cache},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
    found: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    return found | {"load": os.getloadavg()[0]}


def against_peers(arguments: argparse.Namespace, recorded: Figures, keep: Callable[[], None]) -> None:
    with TemporaryDirectory() as folder:
        weights = str(weights_file(Path(folder)))
        shared = parts_of(arguments.data) | {"data": arguments.data, "weights": weights, "batch_size": BATCH_SIZE}
        shared |= {"epochs": arguments.epochs, "image_size": arguments.image_size or 224}

        def train(contender: str, seed: int, rate: float = 0.0) -> Figures:
            python = sys.executable if contender == "convatlas" else arguments.peers_python
            found = in_a_process(contender, python, shared | {"seed": seed, "rate": rate}, arguments.threads)
            print(
                f"  {contender} {seed} {rate or ''}: {100 * found['test']:.1f} %, {found['seconds']:.0f} s, to 90 % "
                f"{found['seconds to goal']}",
                flush=True,
            )
            return found

        with ThreadPoolExecutor(arguments.jobs) as turns:
            rates = arguments.rates
            tried = dict(zip(rates, turns.map(lambda rate: train("timm", RATE_SEED, rate), rates), strict=True))
            best = max(tried, key=lambda rate: (tried[rate]["validation"], -tried[rate]["validation loss"]))
            recorded["timm's rates"] = [{"rate": rate} | found for rate, found in tried.items()]
            recorded["timm's rate"] = best
            rows: dict[str, list[Figures]] = {"convatlas": [], "timm": [], "fastai": []}
            recorded["peers"] = rows
            first = list(rows)
            order = [(name, seed) for seed in range(arguments.seeds) for name in first[seed % 3 :] + first[: seed % 3]]
            for (name, seed), found in zip(order, turns.map(lambda turn: train(*turn, best), order), strict=True):
                rows[name].append({"seed": seed} | found)
                keep()
        show_peers(rows)


def show_peers(rows: dict[str, list[Figures]]) -> None:
    for contender, found in rows.items():
        to_goal = [each["seconds to goal"] for each in found if each["seconds to goal"] is not None]
        goal = f"{statistics.mean(to_goal):.0f} s ({len(to_goal)} of {len(found)})" if to_goal else "never"
        print(
            f"{contender}: {spread(found)}, {statistics.mean(each['seconds'] for each in found):.0f} s, to 90 % {goal}"
        )
        if contender != "convatlas":
            print(f"  convatlas minus {contender}: {difference(rows['convatlas'], found)} points")


def what_choices_bring(arguments: argparse.Namespace, recorded: Figures, keep: Callable[[], None]) -> None:
    """Every setting once with each seed, seed by seed, so that one that was stopped has whole rounds."""
    settings = CHOICES if arguments.only is None else {name: CHOICES[name] for name in arguments.only}
    runs = {name: {"weights": "imagenet"} | change for name, change in settings.items()}
    for name in INITIALIZATIONS if arguments.only is None else ():
        initial = {} if name == "own" else {"initialization": name}
        runs[f"weights, head of {name}"] = {"weights": "imagenet", "head_start": "random", "head_rate": 20.0} | initial
        runs[f"from scratch, {name}"] = {"epochs": arguments.scratch_epochs} | initial
    rows: dict[str, list[Figures]] = {name: [] for name in runs}
    recorded["choices"] = rows
    for seed in range(arguments.seeds):
        for name, run in runs.items():
            rows[name].append(one_choice(arguments, seed, run))
            print(f"  {name} {seed}: {100 * rows[name][-1]['test']:.1f} %", flush=True)
        keep()
    first = next(iter(rows))
    for name, found in rows.items():
        print(f"{name}: {spread(found)}, {difference(found, rows[first])} points")


def one_choice(arguments: argparse.Namespace, seed: int, settings: Figures) -> Figures:
    import convatlas
    from convatlas.training.progress import Silent

    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        run = convatlas.train(
            NETWORK,
            data=arguments.data,
            out=Path(folder) / "run",
            seed=seed,
            image_size=arguments.image_size,
            watch=Silent(),
            **settings,
        )
    assert run.card.test is not None
    assert run.card.best is not None
    return {
        "test": run.card.test["accuracy"],
        "test loss": run.card.test.get("loss"),
        "validation": run.card.best["validation_accuracy"],
        "seconds": time.perf_counter() - began,
    }


def spread(rows: list[Figures]) -> str:
    values = [100 * each["test"] for each in rows]
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation} %"


def difference(ours: list[Figures], others: list[Figures]) -> str:
    """The mean of the paired differences of test accuracy in points, and its interval."""
    from scipy.stats import t

    gaps = [100 * (one["test"] - other["test"]) for one, other in zip(ours, others, strict=True)]
    mean = statistics.mean(gaps)
    if len(gaps) < 2:
        return f"{mean:+.1f}"
    half = float(t.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder with train/ and test/")
    parser.add_argument("--peers-python", default=sys.executable, help="a Python that has fastai and timm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6, help="passes over the training images, of every contender")
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES), help="of timm, to choose from")
    parser.add_argument("--choices", action="store_true", help="what each setting brings, instead of the peers")
    parser.add_argument("--only", nargs="+", choices=list(CHOICES), help="these choices alone")
    parser.add_argument("--image-size", type=int, help="the network's own when left out")
    parser.add_argument("--threads", type=int, default=2, help="of each training")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, of the peers")
    parser.add_argument("--scratch-epochs", type=int, default=12, help="of trainings without weights, in --choices")
    parser.add_argument("--save", action="store_true", help="write results/<date>-transfer-peers.json or -choices.json")
    arguments = parser.parse_args()
    from convatlas.runs import describe_environment

    recorded: Figures = {
        "made": datetime.now(UTC).isoformat(),
        "environment": describe_environment() | {"processor": processor()},
        "asked": {name: value for name, value in vars(arguments).items() if name not in ("data", "peers_python")},
    }
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-transfer-{'choices' if arguments.choices else 'peers'}.json"

    def keep() -> None:
        if arguments.save:
            path.write_text(json.dumps(recorded, indent=2) + "\n")

    (what_choices_bring if arguments.choices else against_peers)(arguments, recorded, keep)


if __name__ == "__main__":
    main()
