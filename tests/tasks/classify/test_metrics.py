"""Evaluation figures against scikit-learn, scipy and torch, and the properties they must keep on any data."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix
from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score

from convatlas.errors import DataError, TrainingError
from convatlas.tasks.classify.metrics import (
    Evaluation,
    EvaluationCounter,
    class_scores,
    confusion_matrix,
    cross_entropies,
    largest_useful_k,
    ranks,
    wilson_interval,
)


def names(count):
    return [f"class {index}" for index in range(count)]


def random_batch(n=200, classes=12, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    logits = generator.normal(size=(n, classes)) * 3
    logits[np.arange(n), labels] += generator.normal(2, 2, n)  # better than chance, worse than perfect
    return labels, logits


def evaluate(labels, logits):
    counter = EvaluationCounter(names(np.shape(logits)[1]))
    counter.add(labels, logits)
    return counter.result()


labelled_answers = st.integers(2, 6).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=60),
    )
)


@given(labelled_answers)
def test_confusion_matrix_equals_scikit_learn(drawn):
    classes, pairs = drawn
    labels, predictions = np.array(pairs).T
    expected = sklearn_confusion_matrix(labels, predictions, labels=range(classes))
    np.testing.assert_array_equal(confusion_matrix(labels, predictions, classes), expected)


@given(labelled_answers)
def test_class_scores_equal_scikit_learn_also_for_classes_never_seen_or_never_answered(drawn):
    classes, pairs = drawn
    labels, predictions = np.array(pairs).T
    expected = precision_recall_fscore_support(labels, predictions, labels=range(classes), zero_division=0)
    scores = class_scores(confusion_matrix(labels, predictions, classes), names(classes))
    received = [[s.precision, s.recall, s.f1, s.support] for s in scores]
    np.testing.assert_allclose(received, np.transpose(expected), atol=1e-12)


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_equals_scipy(drawn):
    correct, n = drawn
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_proportion_and_stays_within_0_and_1(drawn):
    correct, n = drawn
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert low < high


def test_no_images_say_nothing_about_the_accuracy():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("classes", [3, 5, 6, 100])
def test_accuracy_and_top_k_equal_scikit_learn(classes):
    labels, logits = random_batch(classes=classes)
    evaluation = evaluate(labels, logits)
    everyone = range(classes)
    top_1 = top_k_accuracy_score(labels, logits, k=1, labels=everyone)
    top_k = top_k_accuracy_score(labels, logits, k=evaluation.k, labels=everyone)
    assert evaluation.accuracy == pytest.approx(top_1)
    assert evaluation.top_k_accuracy == pytest.approx(top_k)
    assert 0 < evaluation.accuracy < evaluation.top_k_accuracy < 1  # the batch tells the two apart


def test_k_is_never_all_of_the_classes():
    assert [largest_useful_k(classes) for classes in (2, 3, 5, 6, 1000)] == [1, 2, 4, 5, 5]


@given(st.integers(1, 40), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_rank_zero_is_what_argmax_answers_even_among_ties(n, classes, seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    logits = generator.integers(0, 3, (n, classes)).astype(float)  # few values: many ties
    np.testing.assert_array_equal(ranks(labels, logits) == 0, logits.argmax(axis=1) == labels)
    everyone = np.stack([ranks(np.full(n, label), logits) for label in range(classes)], axis=1)
    np.testing.assert_array_equal(np.sort(everyone, axis=1), np.tile(np.arange(classes), (n, 1)))


def test_loss_equals_torch():
    labels, logits = random_batch()
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)).item()
    assert evaluate(labels, logits).loss == pytest.approx(expected, rel=1e-12)


def test_loss_of_huge_logits_does_not_overflow():
    np.testing.assert_allclose(cross_entropies([0, 1], [[1e5, 0.0], [1e5, 0.0]]), [0.0, 1e5])


def test_log_probabilities_give_the_loss_of_the_probabilities():
    labels, logits = random_batch()
    probabilities = torch.softmax(torch.tensor(logits), dim=1).numpy()
    mean_surprise = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    assert evaluate(labels, np.log(probabilities)).loss == pytest.approx(mean_surprise)


@given(st.lists(st.integers(0, 200), max_size=5))
def test_batches_of_any_size_add_up_to_the_whole(cuts):
    labels, logits = random_batch()
    counter = EvaluationCounter(names(12))
    edges = [0, *sorted(cuts), len(labels)]
    for start, stop in pairwise(edges):
        counter.add(labels[start:stop], logits[start:stop])
    whole = evaluate(labels, logits)
    parts = counter.result()
    np.testing.assert_array_equal(parts.confusion, whole.confusion)
    assert parts.top_k_correct == whole.top_k_correct
    assert parts.loss == pytest.approx(whole.loss)


def test_counters_of_several_processes_merge_into_the_whole():
    labels, logits = random_batch()
    shares = [EvaluationCounter(names(12)) for _ in range(3)]
    for rank, counter in enumerate(shares):
        counter.add(labels[rank::3], logits[rank::3])
    together, whole = EvaluationCounter.merged(shares).result().to_dict(), evaluate(labels, logits).to_dict()
    assert together.pop("loss") == pytest.approx(whole.pop("loss"))
    assert together == whole
    assert shares[0].result().n == 67  # merging leaves the parts as they were


def test_the_order_of_images_changes_nothing():
    labels, logits = random_batch()
    order = np.random.default_rng(1).permutation(len(labels))
    shuffled, straight = evaluate(labels[order], logits[order]).to_dict(), evaluate(labels, logits).to_dict()
    assert shuffled.pop("loss") == pytest.approx(straight.pop("loss"))
    assert shuffled == straight


def test_half_precision_logits_are_summed_in_double():
    counter = EvaluationCounter(names(2))
    for _ in range(3000):  # float16 sums stop growing at 2048
        counter.add(np.zeros(1, dtype=np.uint8), np.zeros((1, 2), dtype=np.float16))
    assert counter.result().loss == pytest.approx(math.log(2))


def test_json_round_trip():
    evaluation = evaluate(*random_batch())
    written = json.dumps(evaluation.to_dict(), allow_nan=False)
    assert Evaluation.from_dict(json.loads(written)).to_dict() == evaluation.to_dict()


def test_from_dict_computes_the_derived_figures_again():
    record = evaluate(*random_batch()).to_dict()
    forged = Evaluation.from_dict({**record, "accuracy": 1.0, "n": 10**6})
    assert (forged.accuracy, forged.n) == (record["accuracy"], record["n"])


def test_a_result_is_not_changed_by_batches_added_later():
    labels, logits = random_batch()
    counter = EvaluationCounter(names(12))
    counter.add(labels[:50], logits[:50])
    early = counter.result()
    counter.add(labels[50:], logits[50:])
    assert (early.n, counter.result().n) == (50, 200)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused_with_their_number(bad):
    labels, logits = random_batch()
    logits[3, 1] = bad
    with pytest.raises(TrainingError, match="not finite for 1 of 200 images"):
        evaluate(labels, logits)


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(DataError, match=r"label 7 lies outside the 3 classes .* 1 of 2 labels"):
        evaluate([0, 7], np.eye(3)[:2])
    with pytest.raises(DataError, match="label -1"):
        confusion_matrix([-1], [0], classes=3)


def test_logits_of_another_shape_are_refused():
    counter = EvaluationCounter(names(3))
    with pytest.raises(ValueError, match=r"logits must be \[2, 3\] \(images, classes\); received \[2, 4\]"):
        counter.add([0, 1], np.zeros((2, 4)))


def test_nothing_to_evaluate_is_an_error():
    counter = EvaluationCounter(names(3))
    counter.add([], np.zeros((0, 3)))
    with pytest.raises(DataError, match="received 0 images"):
        counter.result()
