"""A linear probe and nearest neighbours on a network's features: the baseline of every fine-tuning, in seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convatlas.data.source import Labels
from convatlas.errors import RecipeError
from convatlas.models.contract import Classifier
from convatlas.transfer.features import Features

REGULARIZATION = 10.0  # scikit-learn's C, on features of mean norm 1; between 1 and 100 it hardly matters
NEIGHBOURS = 5
MOST_ITERATIONS = 1000


@dataclass(frozen=True)
class Probe:
    """A dense layer on features: ``features @ weight.T + bias`` are the logits.

    ``weight`` is [classes, D], ``bias`` [classes].
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def predict(self, features: Features) -> Labels:
        """The class of each row, [N]."""
        return np.asarray((features @ self.weight.T + self.bias).argmax(axis=1), dtype=np.int64)


def fit_probe(features: Features, labels: Labels, classes: int, *, balanced: bool = False) -> Probe:
    """Logistic regression on features [N, D], moved to mean 0 and scaled, all alike, to a norm of 1 in the mean.

    >>> rows = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.2]], np.float32)
    >>> fit_probe(rows, np.array([0, 0, 1, 1]), classes=2).predict(rows)
    array([0, 0, 1, 1])

    Classes that no label has are never predicted.
    """
    from sklearn.linear_model import LogisticRegression

    mean = features.mean(axis=0, dtype=np.float64)
    # One scale for all: features that hardly vary say little, and scaled up each by itself they would say much.
    scale = np.sqrt(((features - mean) ** 2).sum(axis=1).mean()) or 1.0
    model = LogisticRegression(
        C=REGULARIZATION, max_iter=MOST_ITERATIONS, class_weight="balanced" if balanced else None
    )
    model.fit((features - mean) / scale, labels)
    coefficients, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps the difference of two classes alone
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    weight = np.zeros((classes, features.shape[1]))
    bias = np.full(classes, intercept.min() - 100.0 if len(model.classes_) < classes else 0.0)
    weight[model.classes_] = coefficients / scale
    bias[model.classes_] = intercept - (coefficients / scale) @ mean
    return Probe(weight.astype(np.float32), bias.astype(np.float32))


def neighbours(features: Features, labels: Labels, others: Features) -> Labels:
    """The class that most of the nearest rows have, for each of others [M, D]; near is a small angle."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(min(NEIGHBOURS, len(features)), metric="cosine", algorithm="brute")
    model.fit(features, labels)
    return np.asarray(model.predict(others), dtype=np.int64)


@torch.no_grad()
def put_into_head(network: Classifier, probe: Probe) -> None:
    """Make the probe the network's output layer, dense or a 1x1 convolution.

    Raises:
        RecipeError: it is another one.
    """
    layer = network.get_submodule(network.output_names[-1])
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise RecipeError(
            f"the output layer {network.output_names[-1]} is a {type(layer).__name__}, which no linear probe can "
            "become: use --set head_start=random"
        )
    layer.weight.copy_(torch.from_numpy(probe.weight).reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(torch.from_numpy(probe.bias))
