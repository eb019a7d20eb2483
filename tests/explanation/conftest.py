"""A small network that has learnt handwritten digits in a few seconds, and digits that it has not seen."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convatlas.models import Classifier, create_model

SIDE = 28


class Digits(NamedTuple):
    """A trained LeNet-5, and unseen images [N, 1, 28, 28] with their labels."""

    model: Classifier
    images: Tensor
    labels: Tensor


@pytest.fixture(scope="session")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = F.interpolate(torch.tensor(loaded.images, dtype=torch.float32)[:, None] / 16, size=SIDE, mode="bilinear")
    images, labels = (images - images.mean()) / images.std(), torch.tensor(loaded.target)
    model = create_model("lenet5", image_size=SIDE, seed=0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        for some in torch.randperm(1500, generator=generator).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(images[some]), labels[some]).backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    model.eval()
    with torch.no_grad():
        right = model(images[1500:]).argmax(dim=1) == labels[1500:]
    assert right.float().mean() > 0.9
    return Digits(model, images[1500:][right], labels[1500:][right])
