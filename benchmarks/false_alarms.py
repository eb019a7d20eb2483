"""Whether a threshold keeps the false alarms it promises: normal card payments, divided anew a thousand times.

    python benchmarks/false_alarms.py --data card-fraud-part.npz [--resplits 1000] [--rates 1% 0.1%]

Some payments are learnt from; the others are the world. Three thresholds for the same rate of false alarms are
compared: that of convatlas (held-out rows, 95 % confidence), the plain quantile of the same held-out rows, and the
quantile of the scores of the rows that were learnt from. Twice, for each detector:

- calibration rows are drawn from the world with replacement, and the share of the world above the threshold is counted:
  the true rate of false alarms, exactly. It is to pass what was promised in 5 of 100 draws at most;
- the world is divided into calibration rows and the rest, and false alarms are counted in the rest, as a test does.

Once more by time: the oldest rows are learnt from, the next calibrate, the newest are counted. Prints a table and
writes the figures with the versions to results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import nn

from convatlas.tasks.reconstruct.rivals import rival_scores
from convatlas.tasks.reconstruct.task import scores
from convatlas.tasks.reconstruct.thresholds import exact_interval, parse_rate, threshold_at

CONFIDENCE = 0.95
FIT_ROWS, CALIBRATION_ROWS = 9000, 5000
EPOCHS, RATE, BATCH = 30, 1e-3, 64
RESULTS = Path(__file__).parent / "results"

Floats = NDArray[np.float64]
Scorer = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Scored:
    """Scores of the rows learnt from and of others, by one detector."""

    fit: Floats
    held_out: Floats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="rows of payments: an npz of X, y and columns")
    parser.add_argument("--resplits", type=int, default=1000)
    parser.add_argument("--rates", nargs="+", default=["1%", "0.1%"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rates = [parse_rate(rate) for rate in options.rates]
    normal = normal_payments(options.data)
    random_order = np.random.default_rng(options.seed).permutation(len(normal))
    outcomes = []
    for name, detect in detectors(options.seed).items():
        shuffled = scored(detect, normal[random_order])
        by_time = scored(detect, normal)
        for rate in rates:
            outcome = {"detector": name, "rate": rate} | resplit(shuffled, rate, options.resplits, options.seed)
            outcome["by_time"] = counted_later(by_time, rate)
            outcomes.append(outcome)
            show(outcome)
    now = datetime.now(UTC)
    settings = vars(options) | {
        "data": Path(options.data).name,
        "fit_rows": FIT_ROWS,
        "calibration_rows": CALIBRATION_ROWS,
        "held_out_rows": len(normal) - FIT_ROWS,
        "confidence": CONFIDENCE,
    }
    record = {
        "made": now.isoformat(timespec="seconds"),
        "settings": settings,
        "environment": environment(),
        "outcomes": outcomes,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d}-false_alarms.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(path)


def normal_payments(location: str) -> Floats:
    """Normal payments, oldest first, without their time; each different one once, or copies would be on both sides."""
    with np.load(location) as file:
        rows, is_fraud = file["X"], file["y"] == 1
    normal = rows[~is_fraud]
    normal = normal[np.argsort(normal[:, 0], kind="stable")]
    _, first = np.unique(normal[:, 1:], axis=0, return_index=True)
    return np.asarray(normal[np.sort(first), 1:], dtype=np.float64)


def detectors(seed: int) -> dict[str, Callable[[Floats], Scorer]]:
    def rival(name: str) -> Callable[[Floats], Scorer]:
        return lambda fit: lambda rows: rival_scores(name, fit, rows, seed=seed)

    return {"autoencoder": lambda fit: autoencoder(fit, seed)} | {
        name: rival(name) for name in ("Mahalanobis", "nearest neighbours")
    }


def autoencoder(fit: Floats, seed: int) -> Scorer:
    network = trained(fit, seed)

    def of(asked: Floats) -> Floats:
        with torch.inference_mode():
            inputs = torch.from_numpy(asked).float()
            return np.asarray(scores(network(inputs), inputs).numpy())

    return of


def trained(fit: Floats, seed: int) -> nn.Module:
    """The plain autoencoder 29-40-29 with ReLU."""
    torch.manual_seed(seed)
    rows, width = torch.from_numpy(fit).float(), fit.shape[1]
    network = nn.Sequential(nn.Linear(width, 40), nn.ReLU(), nn.Linear(40, width))
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    for _ in range(EPOCHS):
        for batch in rows[torch.randperm(len(rows))].split(BATCH):
            loss = (network(batch) - batch).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


def scored(detect: Callable[[Floats], Scorer], rows: Floats) -> Scored:
    """A detector that learnt from the first rows, scaled by what these show, and its scores of all."""
    fit = rows[:FIT_ROWS]
    scaled = (rows - fit.mean(axis=0)) / fit.std(axis=0)
    found = detect(scaled[:FIT_ROWS])(scaled)
    return Scored(found[:FIT_ROWS], found[FIT_ROWS:])


def thresholds(calibration: Floats, fit: Floats, rate: float) -> dict[str, float]:
    return {
        "held-out rows, 95 % confidence": threshold_at(calibration, rate, CONFIDENCE).value,
        "held-out rows, quantile": float(np.quantile(calibration, 1 - rate)),
        "rows learnt from, quantile": float(np.quantile(fit, 1 - rate)),
    }


def resplit(found: Scored, rate: float, resplits: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    world, n = found.held_out, len(found.held_out)
    true: dict[str, list[float]] = {}
    rest: dict[str, list[float]] = {}
    for _ in range(resplits):
        drawn = world[random.integers(0, n, CALIBRATION_ROWS)]
        for way, value in thresholds(drawn, found.fit, rate).items():
            true.setdefault(way, []).append(float((world > value).mean()))
        order = random.permutation(n)
        for way, value in thresholds(world[order[:CALIBRATION_ROWS]], found.fit, rate).items():
            rest.setdefault(way, []).append(float((world[order[CALIBRATION_ROWS:]] > value).mean()))
    return {
        # What the rule gives of scores without ties: below 5 %, for only whole rows can lie above a threshold.
        "expected_to_pass": float(binom.cdf(rows_above(rate), CALIBRATION_ROWS, rate)),
        "true": {way: described(rates, rate) for way, rates in true.items()},
        "rest": {way: described(rates, rate) for way, rates in rest.items()},
    }


def rows_above(rate: float) -> int:
    """Calibration rows that the threshold leaves above it."""
    steps = np.arange(float(CALIBRATION_ROWS))
    return int((steps > threshold_at(steps, rate, CONFIDENCE).value).sum())


def described(rates: list[float], promised: float) -> dict[str, Any]:
    passed = int(sum(rate > promised for rate in rates))
    return {
        "mean": float(np.mean(rates)),
        "middle_90_percent": np.quantile(rates, (0.05, 0.95)).tolist(),
        "passed": passed / len(rates),
        "passed_interval": list(exact_interval(passed, len(rates))),
    }


def counted_later(found: Scored, rate: float) -> dict[str, Any]:
    """False alarms among the newest rows, with thresholds from those before."""
    calibration, newest = found.held_out[:CALIBRATION_ROWS], found.held_out[CALIBRATION_ROWS:]
    counts = {way: int((newest > value).sum()) for way, value in thresholds(calibration, found.fit, rate).items()}
    return {
        way: {"rate": count / len(newest), "interval": list(exact_interval(count, len(newest)))}
        for way, count in counts.items()
    }


def show(outcome: dict[str, Any]) -> None:
    rate = outcome["rate"]
    print(f"{outcome['detector']}, {rate:.3g} of false alarms asked for", flush=True)
    print(f"  {'threshold from':32} {'true rate: mean':>16} {'above it':>9} {'in the rest':>12} {'later rows':>11}")
    for way, true in outcome["true"].items():
        rest, later = outcome["rest"][way], outcome["by_time"][way]
        print(
            f"  {way:32} {true['mean']:16.3%} {true['passed']:9.1%} {rest['mean']:12.3%} {later['rate']:11.2%}",
            flush=True,
        )
    print(f"  expected above it by the rule: {outcome['expected_to_pass']:.1%}")


def environment() -> dict[str, object]:
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
