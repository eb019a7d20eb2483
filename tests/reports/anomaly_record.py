"""Makes ``anomaly_record.json``: a run on card payments, with scikit-learn's PCA in the place of a trained network.

Run it when what ``judge_scores`` writes has changed, where the payments are at hand:
``python tests/reports/anomaly_record.py card-fraud-part.npz``. Of the rows that are shown, numbers and values are made
up; scores, curves and shares are real ones.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from convatlas.tasks.reconstruct.metrics import judge_scores
from convatlas.tasks.reconstruct.rivals import rival_scores, rivals
from convatlas.tasks.reconstruct.thresholds import p_values, threshold_at

RATE, NATURAL = 0.01, 0.00173
COMPONENTS = 22
KEPT = ("average_precision", "average_precision_interval", "natural_average_precision",
        "natural_average_precision_interval", "roc_auc", "recall", "recall_at")  # fmt: skip


def made(path):
    file = np.load(path)
    rows, fraud, names = file["X"][:, 1:], file["y"] == 1, [str(name) for name in file["columns"]][1:]
    order = np.random.default_rng(0).permutation(np.flatnonzero(~fraud))
    fit, _, calibration, normal = np.split(order, [11478, 13774, 18365])
    test = np.concatenate([normal, np.flatnonzero(fraud)])
    centre, scale = rows[fit].mean(axis=0), rows[fit].std(axis=0)
    encoded = (rows - centre) / scale
    network = PCA(COMPONENTS, svd_solver="covariance_eigh").fit(encoded[fit])
    rebuilt = network.inverse_transform(network.transform(encoded))
    added = (encoded - rebuilt) ** 2 / rows.shape[1]
    scores = added.sum(axis=1)
    threshold = threshold_at(scores[calibration], RATE)
    evaluation = judge_scores(
        scores[test], fraud[test], calibration=scores[calibration], threshold=threshold, prevalence=NATURAL
    ).to_dict()

    made_up = np.random.default_rng(1)

    def shown(number):
        parts = np.argsort(-added[number])[:5]
        return {
            "row": int(made_up.integers(1, 23450)),
            "score": float(scores[number]),
            "p_value": float(p_values(scores[calibration], scores[[number]])[0]),
            "alarm": bool(scores[number] > threshold.value),
            "columns": [
                {
                    "name": names[part],
                    "seen": f"{made_up.normal(0, 4):.2f}",
                    "expected": f"{made_up.normal(0, 1):.2f}",
                    "share": float(added[number, part] / scores[number]),
                    "explains": float(added[number, part] / scores[number]),
                }
                for part in parts
            ],
        }

    unusual, usual = added[fraud].sum(axis=0), added[normal].sum(axis=0)
    shares, normal_shares = unusual / unusual.sum(), usual / usual.sum()
    missed = np.flatnonzero(fraud & (scores <= threshold.value))
    false = normal[scores[normal] > threshold.value]
    evaluation |= {
        "columns": [
            {"name": names[i], "share": float(shares[i]), "normal_share": float(normal_shares[i])}
            for i in np.argsort(-shares)
        ],
        "rivals": [rival(name, encoded, fraud, fit, calibration, test) for name in rivals()],
        "misses": [shown(i) for i in missed[np.argsort(scores[missed])][:10]],
        "false_alarm_rows": [shown(i) for i in false[np.argsort(-scores[false])][:10]],
        "drift": None,
    }
    return record(evaluation, names, centre, scale)


def rival(name, encoded, fraud, fit, calibration, test):
    start = time.perf_counter()
    scores = rival_scores(name, encoded[fit], encoded[np.concatenate([calibration, test])], seed=0)
    seconds = time.perf_counter() - start
    own, theirs = scores[: len(calibration)], scores[len(calibration) :]
    figures = judge_scores(
        theirs, fraud[test], calibration=own, threshold=threshold_at(own, RATE), prevalence=NATURAL
    ).to_dict()
    return {"name": name} | {key: figures[key] for key in KEPT} | {"seconds": round(seconds, 2)}


def record(test, names, centre, scale):
    columns = [
        {
            "kind": "number",
            "name": name,
            "centre": round(float(c), 2),
            "scale": round(float(s), 2),
            "fill": 0.0,
            "marked": False,
        }
        for name, c, s in zip(names, centre, scale, strict=True)
    ]
    losses = [0.92 * np.exp(-0.25 * epoch) + 0.1 for epoch in range(1, 31)]
    history = [
        {
            "epoch": float(epoch),
            "step": 180 * epoch,
            "seconds": 0.55 * epoch,
            "learning_rate": 0.0001,
            "train_loss": round(loss * 1.02, 5),
            "validation_loss": round(loss + 0.015 * np.sin(epoch), 5),
            "images_per_second": 20869.0,
        }
        for epoch, loss in enumerate(losses, start=1)
    ]
    best = min(history, key=lambda row: row["validation_loss"])
    return {
        "task": "reconstruct",
        "title": "autoencoder_plain on payments",
        "run_path": "runs/2026-11-26-autoencoder_plain-payments-3f2a",
        "model": {
            "name": "autoencoder_plain",
            "family": "autoencoder",
            "year": 1986,
            "paper": "Rumelhart, Hinton & Williams 1986",
            "parameters": 2389,
        },
        "data": {
            "name": "payments",
            "location": "payments.npz",
            "fingerprint": "9d1c0b7a52e84f6d",
            "label": "Class",
            "normal": "0",
            "time": None,
            "rows": 23449,
            "counts": {"fit": 11478, "validation": 2296, "calibration": 4591, "test": 5084},
            "anomalies": 492,
            "left_out": 0,
            "split_seed": 0,
            "columns": names,
        },
        "preprocessing": {"columns": columns, "scaling": "standard"},
        "recipe": {
            "batch_size": 64,
            "epochs": 30,
            "learning_rate": 0.0001,
            "optimizer": {"name": "adam", "betas": [0.9, 0.999]},
            "validation_fraction": 0.1,
            "calibration_fraction": 0.2,
            "test_fraction": 0.2,
            "seed": 0,
        },
        "history": history,
        "best": {"epoch": best["epoch"], "validation_loss": best["validation_loss"]},
        "test": test,
        "environment": {"python": "3.11.9", "torch": "2.6.0", "processor": "Intel Xeon, 2 cores", "engine": "torch"},
        "findings": ["61 rows are copies of others; copies stand on one side only."],
    }


def rounded(value):
    match value:
        case float():
            return float(f"{value:.5g}")
        case dict():
            return {key: rounded(part) for key, part in value.items()}
        case list() | tuple():
            return [rounded(part) for part in value]
        case _:
            return value


if __name__ == "__main__":
    content = json.dumps(rounded(made(sys.argv[1])), indent=None, separators=(",", ":"))
    Path(__file__).with_name("anomaly_record.json").write_text(content + "\n", encoding="utf-8")
