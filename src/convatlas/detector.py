"""An autoencoder as scikit-learn has outlier detectors: fit, score_samples, decision_function, predict."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from convatlas.acceleration import settle_steps
from convatlas.data.tables.encoding import RowEncoding, Scaling
from convatlas.models import RowAutoencoder, create_autoencoder, outline_autoencoder
from convatlas.models.settings import Setting
from convatlas.tasks.reconstruct.explanation import column_errors
from convatlas.tasks.reconstruct.task import Reconstruction, errors
from convatlas.tasks.reconstruct.thresholds import CONFIDENCE, p_values, parse_rate, rows_needed, threshold_at
from convatlas.tensors import read_tensors
from convatlas.training.checkpoint import BEST_WEIGHTS
from convatlas.training.feed import Feed
from convatlas.training.fit import fit
from convatlas.training.learner import needs_autograd
from convatlas.training.recipe import ReconstructionRecipe, parse_recipe

Floats = NDArray[np.float64]

ROUNDING = 1e-9  # a row scores the same among any others up to this: the one that sets the threshold is never above it
FEWEST_TO_DIVIDE = 10  # rows; of fewer, the same ones are learnt from and set the threshold
ROWS_AT_ONCE = 16_384  # that are scored; bounds the memory


class AutoencoderDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Finds rows that are unlike those it was fitted on, and says which of their columns make them so.

    >>> from convatlas import AutoencoderDetector
    >>> detector = AutoencoderDetector(false_alarms="1%", random_state=0).fit(normal_rows)   # doctest: +SKIP
    >>> detector.predict(new_rows)   # doctest: +SKIP
    array([ 1,  1, -1])

    There is no contamination to guess: the threshold comes from rows that are held out of the fit, for a share of false
    alarms. Nothing is kept but numbers; scikit-learn's own tools may pickle them.

    Args:
        network: a registered autoencoder of rows, see ``convatlas.list_models(task="reconstruct")``.
        settings: of the network, such as ``{"corruption": "gaussian"}``.
        false_alarms: share of normal rows that may be called outliers, 0.01 or "1%".
        confidence: with which there are no more than that; it takes 299 held-out rows for 1 %. With fewer, a warning
            says so and the share is only kept on average.
        scaling: of the columns: "standard", "robust" or "none".
        epochs, batch_size, learning_rate: of the training, by Adam.
        validation_fraction: of the rows, that choose the best weights.
        calibration_fraction: of the rows, that set the threshold.
        random_state: of weights, order and division; an int gives the same result every time.

    Attributes:
        threshold_: above which anomaly score a row is an outlier.
        offset_: ``-threshold_``; ``decision_function`` is ``score_samples`` minus it.
        calibration_scores_: anomaly scores of the held-out rows, [n].
        encoding_: how the columns are scaled.
        weights_: of the network, by name.
        n_features_in_, feature_names_in_: as scikit-learn has them.
    """

    def __init__(  # noqa: PLR0913, what a person may want to say
        self,
        network: str = "autoencoder_plain",
        *,
        settings: Mapping[str, Setting] | None = None,
        false_alarms: float | str = 0.01,
        confidence: float = CONFIDENCE,
        scaling: Scaling = "standard",
        epochs: int = 50,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        validation_fraction: float = 0.1,
        calibration_fraction: float = 0.2,
        random_state: Any = None,
    ) -> None:
        self.network = network
        self.settings = settings
        self.false_alarms = false_alarms
        self.confidence = confidence
        self.scaling = scaling
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.calibration_fraction = calibration_fraction
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: ARG002, N803, as scikit-learn calls them
        """Learn from rows [n, features], which are taken to be normal; ``y`` is not looked at.

        Raises:
            ValueError: numbers that are not finite, fewer than two rows.
            ConvatlasError: a network, a setting or a share that cannot be.
        """
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        rate = parse_rate(self.false_alarms)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        recipe = self._recipe(seed)
        fitted, validating, calibrating = _divided(len(rows), recipe, seed)
        frame = _frame(rows)
        self.encoding_ = RowEncoding.fit(frame.iloc[fitted], self.scaling)
        encoded = self.encoding_.encode(frame)
        network = create_autoencoder(self.network, columns=self.encoding_.width, seed=seed, **(self.settings or {}))
        self.weights_ = _trained(network, encoded[fitted], encoded[validating], recipe)
        self.calibration_scores_ = self._anomaly_scores(rows[calibrating])
        self.threshold_ = self._threshold(rate) * (1 + ROUNDING)
        self.offset_ = -self.threshold_
        return self

    def score_samples(self, X: ArrayLike) -> Floats:  # noqa: N803
        """How normal each row [n, features] is: minus its anomaly score, the mean squared error of its columns, [n]."""
        return -self._anomaly_scores(self._checked(X))

    def decision_function(self, X: ArrayLike) -> Floats:  # noqa: N803
        """``score_samples`` minus ``offset_``: below 0 for outliers, [n]."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:  # noqa: N803
        """1 for each row [n, features] that looks normal, -1 for an outlier, [n]."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def p_values(self, X: ArrayLike) -> Floats:  # noqa: N803
        """The share of normal rows that score as high or higher, by the held-out rows, [n]."""
        return p_values(self.calibration_scores_, self._anomaly_scores(self._checked(X)))

    def explain(self, X: ArrayLike) -> Floats:  # noqa: N803
        """What each column adds to each row's anomaly score, [n, features]; a row adds up to ``-score_samples``."""
        return self._column_errors(self._checked(X))

    def _recipe(self, seed: int) -> ReconstructionRecipe:
        content = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "optimizer": "adam",
            "scaling": self.scaling,
            "validation_fraction": self.validation_fraction,
            "calibration_fraction": self.calibration_fraction,
            "seed": seed,
        }
        return parse_recipe(content, "AutoencoderDetector", ReconstructionRecipe)

    def _threshold(self, rate: float) -> float:
        scores = np.sort(self.calibration_scores_)
        needed = rows_needed(rate, self.confidence)
        if len(scores) >= needed:
            return threshold_at(scores, rate, self.confidence).value
        warnings.warn(
            f"{len(scores):,} held-out rows cannot promise {rate:.3g} of false alarms with {self.confidence:.0%} "
            f"confidence, which takes {needed:,}: the share is only kept on average, or the highest score is the "
            "threshold",
            stacklevel=3,
        )
        return float(scores[min(len(scores), math.ceil((len(scores) + 1) * (1 - rate))) - 1])

    def _checked(self, X: ArrayLike) -> Floats:  # noqa: N803
        check_is_fitted(self)
        rows: Floats = validate_data(self, X, dtype=np.float64, reset=False)
        return rows

    def _anomaly_scores(self, rows: Floats) -> Floats:
        return np.asarray(self._column_errors(rows).sum(axis=1), dtype=np.float64)

    def _column_errors(self, rows: Floats) -> Floats:
        network = self._built()
        parts = []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            encoded = torch.from_numpy(self.encoding_.encode(_frame(rows[start : start + ROWS_AT_ONCE]))).double()
            with torch.inference_mode():
                of_features = errors(network(encoded), encoded)
            parts.append(column_errors(of_features.numpy(), self.encoding_.owner, rows.shape[1]))
        every: Floats = np.concatenate(parts)
        return every

    def _built(self) -> RowAutoencoder:
        """The network, in double precision: a row's score then hardly depends on the rows beside it."""
        outline = outline_autoencoder(self.network, columns=self.encoding_.width, **(self.settings or {}))
        weights = {name: torch.from_numpy(array) for name, array in self.weights_.items()}
        outline.load_state_dict(weights, assign=True)
        return outline.double().eval()


def _trained(
    network: RowAutoencoder, rows: NDArray[np.float32], validation: NDArray[np.float32], recipe: ReconstructionRecipe
) -> dict[str, NDArray[Any]]:
    """The weights of a training, the best by the validation rows."""
    learnt = torch.from_numpy(rows)
    task = Reconstruction(baseline=float(learnt.double().var(dim=0, correction=0).mean()))
    feed = Feed.of_rows(learnt, torch.from_numpy(validation), recipe)
    engine = settle_steps(network, feed.train.shape, obstacle=needs_autograd(network, recipe)).card
    with tempfile.TemporaryDirectory(prefix="convatlas-") as folder:
        fit(network, task, feed, recipe, Path(folder), engine=engine)
        return {name: tensor.numpy().copy() for name, tensor in read_tensors(Path(folder) / BEST_WEIGHTS).items()}


def _divided(
    count: int, recipe: ReconstructionRecipe, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Which rows to learn from, to choose the best weights by, and to set the threshold by; disjoint but for few."""
    order = np.random.default_rng(seed).permutation(count)
    if count < FEWEST_TO_DIVIDE:
        return order, order, order
    validating = max(1, round(recipe.validation_fraction * count))
    calibrating = max(1, round(recipe.calibration_fraction * count))
    held_out = validating + calibrating
    return order[held_out:], order[:validating], order[validating:held_out]


def _frame(rows: Floats) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[f"x{place}" for place in range(rows.shape[1])], copy=False)
