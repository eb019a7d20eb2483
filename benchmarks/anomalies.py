"""How well autoencoders find fraud among card payments, beside simpler detectors, by recipe and division.

    python benchmarks/anomalies.py --data card-fraud-part.npz [--seeds 5]

Every network is trained by the recipe it has when none is named, and the source's networks by the source's recipes;
each with several seeds of weights and order, on one division of the rows. Told are average precision where 0.86 % and
0.18 % of the rows are fraud, as in the source's test set and in life, what is found at 1 % and 0.1 % false alarms, and
the false alarms that a threshold for 1 % gave. Prints a table and writes the figures to results/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from false_alarms import RESULTS, environment

import convatlas
from convatlas.assessment.autoencoder import prepared_for
from convatlas.data.tables.prepared import PreparedTable
from convatlas.tasks.reconstruct.metrics import judge_scores
from convatlas.tasks.reconstruct.rivals import rival_scores, rivals
from convatlas.tasks.reconstruct.thresholds import threshold_at
from convatlas.training.progress import Silent

PREVALENCES = {"ap_source": 0.0086, "ap_life": 0.0018}
RATE = 0.01
OURS = ("plain", "deep", "sparse", "contractive", "denoising")
OF_THE_SOURCE = {
    "autoencoder-plain": "plain",
    "autoencoder-deep": "deep",
    "autoencoder-deep-5-percent": "deep",
    "autoencoder-sparse": "sparse",
    "autoencoder-contractive": "contractive",
}
BY_TIME = ("plain", "deep")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="rows of payments: an npz of X, y and columns")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    payments = table(options.data)
    ways: list[tuple[str, str | None, str | None]] = [
        *((f"autoencoder_{name}", None, None) for name in OURS),
        *((f"autoencoder_{name}", recipe, None) for recipe, name in OF_THE_SOURCE.items()),
        *((f"autoencoder_{name}", None, "Time") for name in BY_TIME),
    ]
    outcomes = []
    for network, recipe, time in ways:
        for seed in range(options.seeds):
            outcomes += list(measured(payments, network, recipe, time, seed))
        print(summary(outcomes, network, recipe, time), flush=True)
    for time in (None, "Time"):
        for name in rivals():
            print(summary(outcomes, name, None, time), flush=True)
    now = datetime.now(UTC)
    record = {
        "made": now.isoformat(timespec="seconds"),
        "settings": vars(options) | {"data": Path(options.data).name, "rate": RATE, "prevalences": PREVALENCES},
        "environment": environment(),
        "outcomes": outcomes,
    }
    path = RESULTS / f"{now:%Y-%m-%d}-anomalies.json"
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(f"figures {path}")


def table(path: str) -> pd.DataFrame:
    content = np.load(path)
    frame = pd.DataFrame(content["X"], columns=[str(name) for name in content["columns"]])
    return frame.assign(Class=content["y"].astype(int))


def measured(
    payments: pd.DataFrame, network: str, recipe: str | None, time: str | None, seed: int
) -> Iterator[dict[str, Any]]:
    """The figures of a training, and with the first seed those of its rivals, which have none."""
    data = payments if time is not None else payments.drop(columns="Time")
    with tempfile.TemporaryDirectory() as folder:
        run = convatlas.train(
            network, data=data, label="Class", time=time, recipe=recipe, seed=seed, out=Path(folder) / "run",
            watch=Silent(),
        )  # fmt: skip
        prepared = prepared_for(run, data)
        scores, _ = run.scored(prepared.encoded(prepared.parts.test))
        made = {"detector": network, "recipe": recipe or "autoencoder", "time": time, "seed": seed}
        yield made | judged(prepared, scores, run.calibration().scores)
    if seed == 0 and network == "autoencoder_plain" and recipe is None:
        fit, calibration, test = (
            prepared.encoded(getattr(prepared.parts, part)) for part in ("fit", "calibration", "test")
        )
        for name in rivals():
            every = rival_scores(name, fit, np.concatenate([calibration, test]))
            made = {"detector": name, "recipe": None, "time": time, "seed": 0}
            yield made | judged(prepared, every[len(calibration) :], every[: len(calibration)])


def judged(prepared: PreparedTable, scores: np.ndarray, calibration: np.ndarray) -> dict[str, float]:
    anomalies = prepared.anomalies[prepared.parts.test]
    found = {}
    for name, prevalence in PREVALENCES.items():
        evaluation = judge_scores(
            scores, anomalies, calibration=calibration, threshold=threshold_at(calibration, RATE),
            prevalence=prevalence, resamples=2,
        ).to_dict()  # fmt: skip
        found[name] = evaluation["natural_average_precision"]
    recalls = {f"recall_at_{at['false_alarm_rate']:g}": at["recall"] for at in evaluation["recall_at"]}
    kept = {name: evaluation[name] for name in ("n", "anomalies", "roc_auc", "false_alarm_rate", "recall")}
    return found | recalls | kept


def summary(outcomes: list[Mapping[str, Any]], detector: str, recipe: str | None, time: str | None) -> str:
    wanted = recipe or ("autoencoder" if detector.startswith("autoencoder") else None)
    own = [each for each in outcomes if (each["detector"], each["recipe"], each["time"]) == (detector, wanted, time)]
    figures = []
    for name in ("ap_source", "ap_life", "recall_at_0.01", "recall_at_0.001", "roc_auc", "false_alarm_rate"):
        values = np.array([each[name] for each in own])
        figures.append(f"{name} {values.mean():.3f} ± {values.std(ddof=len(values) > 1):.3f}")
    return f"{detector} by {wanted}, {'by time' if time else 'at random'}, {len(own)}: {'  '.join(figures)}"


if __name__ == "__main__":
    main()
