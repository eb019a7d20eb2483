"""Autoencoders of images beside PCA-64, Mahalanobis and nearest neighbours: which find what is not normal.

    python benchmarks/defect_images.py [--normals Sneaker Bag] [--epochs 15] [--seeds 1]

Two kinds of sets. Fashion-MNIST with one class normal and all others not (CONVATLAS_DATA names the folder above it).
And pieces of the photograph of a brick wall that scikit-image carries: learnt from its upper part, tested on its lower
one, with a piece of grass put in, a scratch drawn, or a part blurred. Prints the figures and writes them to results/.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from false_alarms import RESULTS, environment
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

import convatlas
from convatlas.training.progress import Silent

NETWORKS = ("autoencoder_dense_latent", "autoencoder_convolutional")
SIDE = 64
GOOD, TESTED, DEFECTS = 800, 200, 100
UPPER = 340  # rows of the photograph that are learnt from
FIGURES = ("average_precision", "natural_average_precision", "roc_auc", "recall")

Pixels = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--normals", nargs="*", default=["Sneaker", "Bag", "Shirt", "Trouser"])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        wall = Path(folder) / "wall"
        make_wall(wall)
        sets = [("fashion-mnist", normal) for normal in options.normals] + [(str(wall), "good")]
        for data, normal in sets:
            for network in NETWORKS:
                for seed in range(options.seeds):
                    outcomes += list(measured(data, normal, network, options.epochs, seed, Path(folder)))
    now = datetime.now(UTC)
    record = {
        "made": now.isoformat(timespec="seconds"),
        "settings": vars(options),
        "environment": environment(),
        "outcomes": outcomes,
    }
    path = RESULTS / f"{now:%Y-%m-%d}-defect_images.json"
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(f"figures {path}")


def measured(data: str, normal: str, network: str, epochs: int, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """A network and its rivals on one set, at 5 % anomalies."""
    out = folder / f"{network}-{Path(data).name}-{normal}-{seed}"
    run = convatlas.train(
        network, data=data, normal=normal, epochs=epochs, seed=seed, out=out, watch=Silent(), false_alarms="5%"
    )
    test = convatlas.evaluate(run, prevalence="5%").to_dict()
    for name, figures in [("network", test), *((rival["name"], rival) for rival in test["rivals"])]:
        told = {figure: figures[figure] for figure in FIGURES}
        outcome = {"data": Path(data).name, "normal": normal, "network": network, "seed": seed, "detector": name} | told
        if name == "network":
            outcome |= {"located": test["located"], "kinds": test["kinds"]}
        print(
            {key: round(value, 3) if isinstance(value, float) else value for key, value in outcome.items()}, flush=True
        )
        yield outcome


def make_wall(folder: Path) -> None:
    """Good pieces of a wall, and ones with a defect, with masks: as anomaly detection's data sets are laid out."""
    from skimage import data

    draws = np.random.default_rng(0)
    wall, grass = data.brick(), data.grass()
    for number in range(GOOD):
        save(piece(wall[:UPPER], draws), folder / "train" / "good" / f"{number:03}.png")
    for number in range(TESTED):
        save(piece(wall[UPPER:], draws), folder / "test" / "good" / f"{number:03}.png")
    for kind in ("grass", "scratch", "blur"):
        for number in range(DEFECTS):
            picture, mask = spoilt(piece(wall[UPPER:], draws), kind, grass, draws)
            save(picture, folder / "test" / kind / f"{number:03}.png")
            save(mask, folder / "ground_truth" / kind / f"{number:03}_mask.png")


def piece(picture: Pixels, draws: np.random.Generator) -> Pixels:
    """A square of a picture, anywhere."""
    top, left = (int(draws.integers(0, side - SIDE + 1)) for side in picture.shape)
    return picture[top : top + SIDE, left : left + SIDE].copy()


def spoilt(picture: Pixels, kind: str, grass: Pixels, draws: np.random.Generator) -> tuple[Pixels, Pixels]:
    """The picture with a defect, and where that is."""
    mask = Image.new("L", (SIDE, SIDE), 0)
    pen = ImageDraw.Draw(mask)
    left, top = (int(at) for at in draws.integers(4, SIDE - 24, 2))
    if kind == "scratch":
        right, bottom = (int(at) for at in draws.integers(20, SIDE - 4, 2))
        pen.line((left, top, right, bottom), fill=255, width=2)
        other = np.full_like(picture, 255 if draws.random() < 0.5 else 0)
    else:
        size = int(draws.integers(12, 21))
        pen.rectangle((left, top, left + size, top + size), fill=255)
        blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(3)))
        other = piece(grass, draws) if kind == "grass" else blurred
    is_wrong = np.asarray(mask) > 0
    return np.where(is_wrong, other, picture).astype(np.uint8), np.asarray(mask)


def save(pixels: Pixels, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


if __name__ == "__main__":
    main()
