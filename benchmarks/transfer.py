"""What ImageNet's weights bring to a few hundred photographs: ants and bees, five seeds, and five images a class.

    python benchmarks/transfer.py ants-bees/ --networks efficientnet_lite0 efficientnet_lite2 --save

The folder has ``train/`` and ``test/``. For each network: a linear probe and the five nearest neighbours on its
features; fine-tuning by the recipe ``transfer`` for each seed, which decides order, augmentation and the validation
images; and as long from scratch with the network's own recipe. Then, for some draws of five images of each class, what
the probe and the neighbours make of all test images. Nothing is chosen by the test images.

Prints test accuracies, mean and standard deviation over seeds or draws, with the seconds that a training took.
--save keeps every figure in results/, with the hardware.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import convatlas
from convatlas.data.cache import prepare
from convatlas.data.catalog import open_source
from convatlas.data.geometry import choose_geometry
from convatlas.models import create_model
from convatlas.runs import describe_environment
from convatlas.training.progress import Silent
from convatlas.transfer.features import features_of
from convatlas.transfer.probe import fit_probe, neighbours
from convatlas.weights import load_weights, open_weights

RESULTS = Path(__file__).parent / "results"


def fine_tuned(network: str, data: str, seed: int, folder: Path, **settings: Any) -> dict[str, float]:
    """Test accuracies of one training, and of the baselines beside it."""
    began = time.perf_counter()
    out = folder / f"{network}-{seed}-{len(list(folder.iterdir()))}"
    run = convatlas.train(network, data=data, out=out, seed=seed, watch=Silent(), **settings)
    seconds = time.perf_counter() - began
    assert run.card.test is not None
    figures = {"fine-tuned": run.card.test["accuracy"], "seconds": seconds, "n": run.card.test["n"]}
    baseline = run.card.baseline
    if baseline is not None:
        figures |= {
            "probe": baseline.probe.correct / baseline.probe.n,
            "neighbours": baseline.neighbours.correct / baseline.neighbours.n,
        }
    return figures


def few_images(network: str, data: str, each: int, draws: int) -> list[dict[str, float]]:
    """Test accuracies of the probe and the neighbours that have seen ``each`` images of every class."""
    weights = open_weights("imagenet", network)
    model = create_model(network, seed=0)
    load_weights(model, weights)
    source = open_source(data)
    geometry = choose_geometry(source, native_size=model.image_size)
    dataset = prepare(source, channels=3, resize=geometry.resize)
    preprocessing = weights.prepared(resize=geometry.resize, crop=geometry.crop)
    assert dataset.test is not None
    train, test = (features_of(model, images, preprocessing) for images in (dataset.train, dataset.test))
    labels, truth = dataset.train.labels, dataset.test.labels
    found = []
    for draw in range(draws):
        chance = np.random.default_rng(draw)
        classes = range(len(dataset.classes))
        rows = np.concatenate([chance.choice(np.flatnonzero(labels == c), each, replace=False) for c in classes])
        probe = fit_probe(train[rows], labels[rows], len(dataset.classes))
        found.append(
            {
                "probe": float((probe.predict(test) == truth).mean()),
                "neighbours": float((neighbours(train[rows], labels[rows], test) == truth).mean()),
            }
        )
    return found


def spread(figures: list[dict[str, float]], name: str) -> str:
    values = [100 * each[name] for each in figures if name in each]
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder with train/ and test/")
    parser.add_argument("--networks", nargs="+", default=["efficientnet_lite0", "efficientnet_lite2"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--scratch", default="2m", help="how long from scratch; 0 for not at all")
    parser.add_argument("--save", action="store_true", help="write results/<date>-transfer.json")
    arguments = parser.parse_args()
    recorded: dict[str, Any] = {"made": datetime.now(UTC).isoformat(), "environment": describe_environment()}
    with TemporaryDirectory() as folder:
        for network in arguments.networks:
            place = Path(folder)
            seeds = [
                fine_tuned(network, arguments.data, seed, place, weights="imagenet") for seed in range(arguments.seeds)
            ]
            few = few_images(network, arguments.data, 5, arguments.draws)
            seconds = statistics.median(each["seconds"] for each in seeds)
            print(
                f"{network}: fine-tuned {spread(seeds, 'fine-tuned')} % ({seconds:.0f} s), probe "
                f"{spread(seeds, 'probe')}, neighbours {spread(seeds, 'neighbours')}, n = {seeds[0]['n']}; five images "
                f"a class: probe {spread(few, 'probe')}, neighbours {spread(few, 'neighbours')}",
                flush=True,
            )
            recorded[network] = {"seeds": seeds, "five images a class": few}
            if arguments.scratch != "0":
                minutes = float(arguments.scratch.rstrip("m"))
                scratch = [fine_tuned(network, arguments.data, 0, place, time_budget=60 * minutes)]
                recorded[network]["from scratch"] = scratch
                print(f"  from scratch, {minutes:g} minutes: {spread(scratch, 'fine-tuned')} %", flush=True)
    if arguments.save:
        path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-transfer.json"
        path.write_text(json.dumps(recorded, indent=2) + "\n")
        print(path)


if __name__ == "__main__":
    main()
