"""Small tables that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd


def payments(rows: int = 400, frauds: int = 20, seed: int = 0) -> pd.DataFrame:
    """Payments in the order of their time, of which some are frauds; numbers, a text, and some that are missing."""
    draw = np.random.default_rng(seed)
    amount = draw.lognormal(3, 1, rows).round(2)
    frame = pd.DataFrame(
        {
            "seconds": np.sort(draw.uniform(0, 86_400, rows)).round(3),
            "amount": amount,
            "distance": np.where(draw.random(rows) < 0.1, np.nan, draw.normal(size=rows)),
            "country": draw.choice(["CH", "DE", "FR"], rows, p=[0.7, 0.2, 0.1]),
            "fraud": 0,
        }
    )
    which = draw.choice(rows, frauds, replace=False)
    frame.loc[which, "amount"] += 1000
    frame.loc[which, "fraud"] = 1
    return frame


def written(frame: pd.DataFrame, path: Path) -> Path:
    """The table as a file of the kind its name says."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name.lower() else ",")
    return path
