"""Whether the column that is named is the one that is wrong: one value of a normal payment is changed, each in turn.

    python benchmarks/planted_column.py --data card-fraud-part.npz [--rows 200] [--seeds 3]

Two kinds of change: a value moved by some standard deviations, and a value taken from another payment, which is usual
for its column and wrong only beside the others. Told for each: how often the changed column adds most to the score, and
how often it is among the first three, for the plain autoencoder, for PCA, and for the plain size of each value, which
needs no network. Prints a table and writes the figures to results/.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from false_alarms import FIT_ROWS, RESULTS, Floats, environment, normal_payments, trained
from sklearn.decomposition import PCA

from convatlas.tasks.reconstruct.explanation import column_errors
from convatlas.tasks.reconstruct.rivals import VARIANCE_KEPT
from convatlas.tasks.reconstruct.task import errors
from convatlas.tasks.reconstruct.thresholds import threshold_at

Errors = Callable[[Floats], Floats]

MOVED = (3.0, 5.0, 10.0)  # standard deviations
RATE = 0.01  # of false alarms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="rows of payments: an npz of X, y and columns")
    parser.add_argument("--rows", type=int, default=200, help="payments changed, for each column")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    payments = normal_payments(options.data)
    outcomes = [outcome for seed in range(options.seeds) for outcome in planted(payments, options.rows, seed)]
    table = summary(outcomes)
    for line in table:
        print(
            f"{line['change']:24} {line['explained_by']:14} first {line['first']:6.1%} ± {line['first_spread']:.1%}   "
            f"among three {line['among_three']:6.1%}   alarms {line['alarms']:6.1%}"
        )
    now = datetime.now(UTC)
    settings = vars(options) | {"data": Path(options.data).name, "fit_rows": FIT_ROWS, "rate": RATE}
    record = {
        "made": now.isoformat(timespec="seconds"),
        "settings": settings,
        "environment": environment(),
        "summary": table,
        "outcomes": outcomes,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d}-planted_column.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(path)


def planted(payments: Floats, count: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    rows = payments[random.permutation(len(payments))]
    fit, held_out = rows[:FIT_ROWS], rows[FIT_ROWS:]
    mean, deviation = fit.mean(axis=0), fit.std(axis=0)
    fit, held_out = (fit - mean) / deviation, (held_out - mean) / deviation
    usual, others = held_out[: len(held_out) // 2], held_out[len(held_out) // 2 :]
    found = []
    for name, of in explanations(fit, seed).items():
        threshold = threshold_at(of(usual).sum(axis=1), RATE).value
        for change, how in changes().items():
            draw = np.random.default_rng((seed, 1))  # the same payments for each way of explaining
            figures = named(of, others, how, count, threshold, draw)
            means = {key: float(np.mean(values)) for key, values in figures.items()}
            found.append({"seed": seed, "change": change, "explained_by": name} | means)
    return found


def explanations(fit: Floats, seed: int) -> dict[str, Errors]:
    network = trained(fit, seed)
    model = PCA(n_components=VARIANCE_KEPT, svd_solver="full").fit(fit)

    def of_network(rows: Floats) -> Floats:
        with torch.inference_mode():
            inputs = torch.from_numpy(rows).float()
            return column_errors(errors(network(inputs), inputs).numpy(), np.arange(rows.shape[1]))

    return {
        "autoencoder": of_network,
        "PCA": lambda rows: (rows - model.inverse_transform(model.transform(rows))) ** 2,
        "size alone": lambda rows: rows**2,
    }


def changes() -> dict[str, Callable[[Floats, Floats, np.random.Generator], Floats]]:
    """How a column's values [n] become others, given all values of the column."""

    def moved(by: float) -> Callable[[Floats, Floats, np.random.Generator], Floats]:
        return lambda values, _every, random: values + by * random.choice([-1.0, 1.0], len(values))

    swapped = {"from another payment": lambda values, every, random: random.choice(every, len(values))}
    return {f"{by:g} standard deviations": moved(by) for by in MOVED} | swapped


def named(
    of: Errors,
    rows: Floats,
    how: Callable[[Floats, Floats, np.random.Generator], Floats],
    count: int,
    threshold: float,
    random: np.random.Generator,
) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {"first": [], "among_three": [], "alarms": []}
    for column in range(rows.shape[1]):
        changed = rows[random.choice(len(rows), count, replace=False)]
        changed[:, column] = how(changed[:, column], rows[:, column], random)
        parts = of(changed)
        place = (parts > parts[:, column : column + 1]).sum(axis=1)
        figures["first"].append(float((place == 0).mean()))
        figures["among_three"].append(float((place < 3).mean()))
        figures["alarms"].append(float((parts.sum(axis=1) > threshold).mean()))
    return figures


def summary(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, and how far the seeds lie apart."""
    kinds = dict.fromkeys((outcome["change"], outcome["explained_by"]) for outcome in outcomes)
    table = []
    for change, name in kinds:
        same = [each for each in outcomes if (each["change"], each["explained_by"]) == (change, name)]
        means = {key: float(np.mean([each[key] for each in same])) for key in ("first", "among_three", "alarms")}
        spread = float(np.std([each["first"] for each in same], ddof=1)) if len(same) > 1 else 0.0
        table.append({"change": change, "explained_by": name} | means | {"first_spread": spread})
    order = list(changes())
    return sorted(table, key=lambda line: order.index(line["change"]))


if __name__ == "__main__":
    main()
