"""Whether the column that is named is the one that is wrong: one value of a normal payment is changed, each in turn.

    python benchmarks/planted_column.py --data card-fraud-part.npz [--rows 200] [--seeds 3]

Two kinds of change: a value moved by some standard deviations, and a value taken from another payment, which is usual
for its column and wrong only beside the others. Told for each: how often the changed column comes first, and how often
it is among the first three, by what columns explain (how far the score falls when one holds its usual value) and by
what they add, for the plain and the deep autoencoder; for PCA; and by the plain size of each value,
which needs no network. Prints a table and writes the figures to results/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from false_alarms import FIT_ROWS, RESULTS, Floats, environment, normal_payments
from sklearn.decomposition import PCA

from convatlas.models import RowAutoencoder, create_autoencoder
from convatlas.tasks.reconstruct.explanation import column_errors, explained_by
from convatlas.tasks.reconstruct.rivals import VARIANCE_KEPT
from convatlas.tasks.reconstruct.task import Reconstruction, errors
from convatlas.tasks.reconstruct.thresholds import threshold_at
from convatlas.tensors import read_tensors
from convatlas.training.checkpoint import BEST_WEIGHTS
from convatlas.training.feed import Feed
from convatlas.training.fit import fit
from convatlas.training.recipe import ReconstructionRecipe, recipe_for

Ranks = Callable[[Floats], Floats]

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
            f"{line['change']:24} {line['explained_by']:16} first {line['first']:6.1%} ± {line['first_spread']:.1%}   "
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


class Explanation(NamedTuple):
    """By what columns are ordered, [n, columns], and the score that raises alarms, [n]."""

    ranks: Ranks
    scores: Callable[[Floats], Floats]


def planted(payments: Floats, count: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    rows = payments[random.permutation(len(payments))]
    learnt, held_out = rows[:FIT_ROWS], rows[FIT_ROWS:]
    mean, deviation = learnt.mean(axis=0), learnt.std(axis=0)
    learnt, held_out = (learnt - mean) / deviation, (held_out - mean) / deviation
    usual, others = held_out[: len(held_out) // 2], held_out[len(held_out) // 2 :]
    found = []
    for name, explanation in explanations(learnt, seed).items():
        threshold = threshold_at(explanation.scores(usual), RATE).value
        for change, how in changes().items():
            draw = np.random.default_rng((seed, 1))  # the same payments for each way of explaining
            figures = named(explanation, others, how, count, threshold, draw)
            means = {key: float(np.mean(values)) for key, values in figures.items()}
            found.append({"seed": seed, "change": change, "explained_by": name} | means)
    return found


def explanations(learnt: Floats, seed: int) -> dict[str, Explanation]:
    found = {}
    for name in ("plain", "deep"):
        network, usual = (
            by_default_recipe(f"autoencoder_{name}", learnt, seed),
            np.median(learnt, axis=0).astype(np.float32),
        )
        added = partial(of_network, network)
        scores = partial(total, added)
        found[f"{name}, explains"] = Explanation(partial(explained, scores, usual), scores)
        found[f"{name}, adds"] = Explanation(added, scores)
    model = PCA(n_components=VARIANCE_KEPT, svd_solver="full").fit(learnt)

    def of_pca(rows: Floats) -> Floats:
        return (rows - model.inverse_transform(model.transform(rows))) ** 2

    return found | {
        "PCA, adds": Explanation(of_pca, partial(total, of_pca)),
        "size alone": Explanation(np.square, partial(total, np.square)),
    }


def by_default_recipe(name: str, rows: Floats, seed: int) -> RowAutoencoder:
    recipe = recipe_for("autoencoder", ReconstructionRecipe).updated(seed=seed)
    network = create_autoencoder(name, columns=rows.shape[1], seed=seed)
    learnt = torch.from_numpy(rows).float()
    with tempfile.TemporaryDirectory() as folder:
        fit(network, Reconstruction(1.0), Feed.of_rows(learnt[1000:], learnt[:1000], recipe), recipe, Path(folder))
        network.load_state_dict(read_tensors(Path(folder) / BEST_WEIGHTS))
    return network.eval()


def of_network(network: RowAutoencoder, rows: Floats) -> Floats:
    """What each column adds to the score."""
    with torch.inference_mode():
        inputs = torch.from_numpy(rows).float()
        return column_errors(errors(network(inputs), inputs).numpy(), np.arange(rows.shape[1]))


def total(added: Ranks, rows: Floats) -> Floats:
    return added(rows).sum(axis=1)


def explained(scores: Callable[[Floats], Floats], usual: Floats, rows: Floats) -> Floats:
    owner = np.arange(rows.shape[1])
    return np.stack([explained_by(scores, row, usual, owner, len(owner)) for row in rows.astype(np.float32)])


def changes() -> dict[str, Callable[[Floats, Floats, np.random.Generator], Floats]]:
    """How a column's values [n] become others, given all values of the column."""

    def moved(by: float) -> Callable[[Floats, Floats, np.random.Generator], Floats]:
        return lambda values, _every, random: values + by * random.choice([-1.0, 1.0], len(values))

    swapped = {"from another payment": lambda values, every, random: random.choice(every, len(values))}
    return {f"{by:g} standard deviations": moved(by) for by in MOVED} | swapped


def named(
    explanation: Explanation,
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
        parts = explanation.ranks(changed)
        place = (parts > parts[:, column : column + 1]).sum(axis=1)
        figures["first"].append(float((place == 0).mean()))
        figures["among_three"].append(float((place < 3).mean()))
        figures["alarms"].append(float((explanation.scores(changed) > threshold).mean()))
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
