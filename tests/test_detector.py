"""AutoencoderDetector, as scikit-learn and as a person uses it."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from convatlas import AutoencoderDetector
from convatlas.errors import ConvatlasError

few_rows = pytest.mark.filterwarnings("ignore:.*held-out rows cannot promise")


@few_rows
@parametrize_with_checks([AutoencoderDetector(epochs=2, learning_rate=0.01, random_state=0)])
def test_it_is_what_scikit_learn_calls_an_outlier_detector(estimator, check) -> None:
    check(estimator)


def rows(count: int = 2500, seed: int = 0) -> np.ndarray:
    """Rows whose first two columns go together."""
    draws = np.random.default_rng(seed)
    first, *others = draws.normal(size=(4, count))
    return np.stack([first, 2 * first + 0.05 * others[0], others[1], others[2]], axis=1)


@pytest.fixture(scope="module")
def detector() -> AutoencoderDetector:
    made = AutoencoderDetector("autoencoder_bottleneck", epochs=8, learning_rate=0.005, random_state=1)
    return made.fit(rows())


def test_it_finds_what_breaks_a_rule_and_names_the_column(detector: AutoencoderDetector) -> None:
    new = rows(500, seed=1)
    new[7, 2] += 12
    scores, added = detector.score_samples(new), detector.explain(new)
    assert scores.argmin() == 7
    assert detector.predict(new)[7] == -1
    assert added[7].argmax() == 2
    assert np.allclose(added.sum(axis=1), -scores)
    assert detector.p_values(new)[7] == pytest.approx(1 / 501)


def test_no_more_normal_rows_are_outliers_than_was_asked_for(detector: AutoencoderDetector) -> None:
    assert len(detector.calibration_scores_) == 500
    assert (detector.predict(rows(20_000, seed=2)) == -1).mean() <= 0.01


def test_the_same_seed_gives_the_same_result_and_touches_nobody_s_chance(detector: AutoencoderDetector) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    numpys = np.random.get_state()[1].copy()  # whose it is not
    again = clone(detector).fit(rows())
    assert np.array_equal(again.score_samples(rows(50)), detector.score_samples(rows(50)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert np.array_equal(np.random.get_state()[1], numpys)


def test_a_row_s_score_does_not_depend_on_the_rows_beside_it(detector: AutoencoderDetector) -> None:
    new = rows(64, seed=3)
    alone = np.concatenate([detector.score_samples(row[None]) for row in new])
    assert np.allclose(alone, detector.score_samples(new), rtol=1e-9)


def test_it_comes_back_from_scikit_learn_s_own_ways_of_keeping_it(detector: AutoencoderDetector) -> None:
    kept = pickle.loads(pickle.dumps(detector))  # the user's own
    assert np.array_equal(kept.predict(rows(50)), detector.predict(rows(50)))


@few_rows
def test_names_of_columns_and_pipelines(detector: AutoencoderDetector) -> None:
    frame = pd.DataFrame(rows(300), columns=["a", "b", "c", "d"])
    named = make_pipeline(PowerTransformer(), AutoencoderDetector(epochs=1, random_state=0)).fit(frame)
    assert set(named.predict(frame)) <= {-1, 1}
    assert list(AutoencoderDetector(epochs=1).fit(frame).feature_names_in_) == ["a", "b", "c", "d"]
    assert detector.get_params()["false_alarms"] == 0.01


def test_too_few_rows_for_a_promise_are_told_and_still_taken() -> None:
    with pytest.warns(UserWarning, match="20 held-out rows cannot promise 0.01 of false alarms .* takes 299"):
        made = AutoencoderDetector(epochs=1, random_state=0).fit(rows(100))
    assert made.threshold_ == pytest.approx(made.calibration_scores_.max(), rel=1e-8)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"network": "autoencoder_plane"}, "did you mean autoencoder_plain"),
        ({"settings": {"sparsity": 1}}, "sparsity"),
        ({"false_alarms": 2}, "a share of rows is above 0 and below 1"),
        ({"scaling": "minmax"}, "scaling"),
        ({"validation_fraction": 0.9}, "validation_fraction"),
        ({"epochs": 0}, "greater"),
    ],
)
def test_mistakes_are_told_by_name(arguments: dict, complaint: str) -> None:
    with pytest.raises(ConvatlasError) as error:
        AutoencoderDetector(**{"epochs": 1} | arguments).fit(rows(60))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
