"""How fast an autoencoder learns from rows and scores them, beside PyOD's.

    python benchmarks/rows_speed.py [--rows 20000] [--long] [--scored 1000000]

Both train the same layers, 29-40-29, by Adam on batches of 64, in turns and in one process, start-up excluded; told are
rows/s and their ratio. ``--long`` also trains on 200,000 rows for 30 epochs, and a table of ``--scored`` rows is scored
from a CSV, a Parquet and an .npz file, with the memory that took. Prints the figures and writes them to results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from false_alarms import RESULTS, environment

import convatlas
from convatlas.acceleration import settle_steps
from convatlas.models import create_autoencoder
from convatlas.tasks.reconstruct.task import Reconstruction
from convatlas.training.feed import Feed
from convatlas.training.fit import fit
from convatlas.training.learner import needs_autograd
from convatlas.training.progress import Silent
from convatlas.training.recipe import ReconstructionRecipe

COLUMNS, HIDDEN, BATCH = 29, 40, 64
EPOCHS, TURNS = 10, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--long", action="store_true", help="also 200,000 rows for 30 epochs")
    parser.add_argument("--scored", type=int, default=0, help="rows of a table that is scored")
    options = parser.parse_args()
    now = datetime.now(UTC)
    record: dict[str, Any] = {
        "made": now.isoformat(timespec="seconds"), "settings": vars(options), "environment": environment(),
    }  # fmt: skip
    record["training"] = in_turns(normal_rows(options.rows))
    if options.long:
        rows = normal_rows(200_000)
        record["200,000 rows, 30 epochs, seconds"] = timed(lambda: ours(rows, 30))
    if options.scored:
        record["scoring"] = scored(options.scored)
    for name, value in record.items():
        print(name, value)
    path = RESULTS / f"{now:%Y-%m-%d}-rows_speed.json"
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")


def normal_rows(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, COLUMNS)).astype(np.float32)


def in_turns(rows: np.ndarray) -> dict[str, Any]:
    """Rows a second of each, best of several turns; and the median of the turns' ratios."""
    ways: dict[str, Callable[[], None]] = {
        "convatlas": lambda: ours(rows, EPOCHS), "PyOD": lambda: theirs(rows, EPOCHS),
    }  # fmt: skip
    for way in ways.values():
        way()  # what is loaded and made once
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    speeds = {name: round(EPOCHS * len(rows) / min(taken)) for name, taken in seconds.items()}
    ratios = sorted(theirs / own for own, theirs in zip(seconds["convatlas"], seconds["PyOD"], strict=True))
    told = {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}
    return {"rows/s": speeds, "ratio": {name: round(ratio, 1) for name, ratio in told.items()}, "seconds": seconds}


def ours(rows: np.ndarray, epochs: int) -> None:
    recipe = ReconstructionRecipe(epochs=epochs, batch_size=BATCH, learning_rate=1e-3, optimizer="adam")
    network = create_autoencoder("autoencoder_plain", columns=COLUMNS, seed=0)
    learnt = torch.from_numpy(rows)
    feed = Feed.of_rows(learnt, learnt[:1000], recipe)
    engine = settle_steps(network, feed.train.shape, obstacle=needs_autograd(network, recipe)).card
    with tempfile.TemporaryDirectory() as folder:
        fit(network, Reconstruction(1.0), feed, recipe, Path(folder), engine=engine)


def theirs(rows: np.ndarray, epochs: int) -> None:
    from pyod.models.auto_encoder import AutoEncoder

    detector = AutoEncoder(
        hidden_neuron_list=[HIDDEN], epoch_num=epochs, batch_size=BATCH, lr=1e-3, batch_norm=False, dropout_rate=0.0,
        verbose=0, random_state=0,
    )  # fmt: skip
    detector.fit(rows)


def scored(count: int) -> dict[str, Any]:
    """Seconds and memory of scoring a table of so many rows of 30 columns, each file in a process of its own."""
    draws = np.random.default_rng(0)
    frame = pd.DataFrame(draws.normal(size=(count, 30)), columns=[f"x{place}" for place in range(30)]).round(6)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        convatlas.train("autoencoder_deep", data=frame.iloc[:5000], out=place / "run", epochs=1, watch=Silent())
        frame.to_csv(place / "rows.csv", index=False)
        frame.to_parquet(place / "rows.parquet")
        np.savez(place / "rows.npz", X=frame.to_numpy(), columns=np.array(list(frame.columns)))
        frame.iloc[:1000].to_csv(place / "few.csv", index=False)
        return {file: scored_alone(place, file) for file in ("few.csv", "rows.csv", "rows.parquet", "rows.npz")}


def scored_alone(folder: Path, file: str) -> dict[str, float]:
    """What a process that does nothing else takes: its peak, beside that of a file of a thousand rows."""
    script = (
        "import sys, time, convatlas\n"
        "run = convatlas.load(sys.argv[1])\n"
        "run.predict(sys.argv[3], explain=10)\n"  # what is loaded once
        "start = time.perf_counter()\n"
        "run.predict(sys.argv[2], explain=10)\n"
        "seconds = time.perf_counter() - start\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]\n"
        "print(seconds, int(peak) / 1024)\n"  # ru_maxrss would be that of the process that started this one
    )
    command = [sys.executable, "-c", script, folder / "run", folder / file, folder / "few.csv"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return {"seconds": round(float(told[0]), 2), "peak, MB": round(float(told[1]))}


def timed(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
