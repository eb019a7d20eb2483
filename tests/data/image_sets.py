"""Small data sets made on the spot, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Image.Image:
    """A noise image that no other seed gives."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def make_folder(root: Path, layout: Mapping[str, int], suffix: str = ".png") -> Path:
    """Folders with so many different images each: ``{"train/cats": 3}``."""
    seed = 0
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture(seed).save(root / folder / f"{index:03d}{suffix}")
            seed += 1
    return root
