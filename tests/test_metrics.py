"""Metrics against scikit-learn, against hand-made cases, and where a number is not defined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from margformer_fast.errors import DataError
from margformer_fast.evaluation import metrics


def random_case(rng, classes, n=None, decimals=None):
    """Labels in which every class occurs, and probabilities that know something of them."""
    n = n or int(rng.integers(20, 400))
    label = rng.integers(0, classes, n)
    label[:classes] = np.arange(classes)
    logit = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[label]
    if decimals is not None:
        logit = np.round(logit, decimals)
    probability = np.exp(logit)
    return label, probability / probability.sum(axis=1, keepdims=True)


def check_against_sklearn(label, predicted, classes):
    """Compare scores with those of scikit-learn over the classes that have objects."""
    table = metrics.confusion(label, predicted, classes)
    np.testing.assert_array_equal(table, sk.confusion_matrix(label, predicted, labels=range(classes)))
    ours = metrics.scores(table)
    there = np.unique(label)
    per_class = sk.precision_recall_fscore_support(label, predicted, labels=there, zero_division=0)
    macro = sk.precision_recall_fscore_support(
        label, predicted, labels=there, zero_division=0, average="macro"
    )
    assert ours.accuracy == pytest.approx(sk.accuracy_score(label, predicted))
    for mine, theirs in zip((ours.precision, ours.recall, ours.f1, ours.support), per_class, strict=True):
        np.testing.assert_allclose(mine[there], theirs)
    assert (ours.macro_precision, ours.macro_recall, ours.macro_f1) == pytest.approx(macro[:3])
    absent = np.setdiff1d(np.arange(classes), there)
    for mine in (ours.precision, ours.recall, ours.f1):
        assert np.isnan(mine[absent]).all()


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_scores_are_those_of_sklearn(rng, classes):
    label, probability = random_case(rng, classes)
    check_against_sklearn(label, metrics.predict(probability), classes)


def test_scores_with_a_class_never_predicted(rng):
    label = rng.integers(0, 3, 50)
    label[:3] = (0, 1, 2)
    predicted = np.where(label == 1, 2, label)
    check_against_sklearn(label, predicted, 3)
    assert metrics.scores(metrics.confusion(label, predicted, 3)).precision[1] == 0


def test_scores_with_a_class_absent(rng):
    label = rng.choice([0, 2], 60)
    label[:2] = (0, 2)
    check_against_sklearn(label, rng.integers(0, 3, 60), 3)


def test_scores_of_one_object():
    ours = metrics.scores(metrics.confusion(np.array([1]), np.array([1]), 2))
    assert (ours.accuracy, ours.macro_f1) == (1, 1)
    assert math.isnan(ours.recall[0])


def test_rows_of_the_confusion_matrix_are_the_truth():
    table = metrics.confusion(np.array([0, 0, 0, 1]), np.array([1, 1, 0, 1]), 2)
    assert table.tolist() == [[1, 2], [0, 1]]


def test_the_first_of_equal_probabilities_is_predicted():
    assert metrics.predict(np.array([[0.4, 0.2, 0.4], [0.2, 0.4, 0.4]])).tolist() == [0, 1]


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_roc_and_average_precision_are_those_of_sklearn(rng, decimals):
    label, probability = random_case(rng, 2, decimals=decimals)
    positive, score = label == 1, probability[:, 1]
    curve = metrics.roc_curve(positive, score)
    false, true, threshold = sk.roc_curve(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive_rate, false)
    np.testing.assert_allclose(curve.true_positive_rate, true)
    np.testing.assert_array_equal(curve.threshold, threshold)
    assert metrics.roc_auc(positive, score) == pytest.approx(sk.roc_auc_score(positive, score))
    assert metrics.average_precision(positive, score) == pytest.approx(
        sk.average_precision_score(positive, score)
    )


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_macro_auc_is_one_against_the_rest(rng, classes):
    label, probability = random_case(rng, classes)
    ours = metrics.evaluate(label, probability).macro_auc
    if classes == 2:
        assert ours == pytest.approx(sk.roc_auc_score(label, probability[:, 1]))
    else:
        assert ours == pytest.approx(sk.roc_auc_score(label, probability, multi_class="ovr", average="macro"))


def test_a_constant_score_has_auc_one_half(rng):
    positive = rng.random(30) < 0.5
    positive[:2] = (True, False)
    assert metrics.roc_auc(positive, np.full(30, 0.3)) == 0.5
    assert metrics.average_precision(positive, np.full(30, 0.3)) == pytest.approx(positive.mean())


def test_curves_of_one_sided_sets_are_not_defined(rng):
    score = rng.random(10)
    for positive in (np.zeros(10, bool), np.ones(10, bool)):
        assert math.isnan(metrics.roc_auc(positive, score))
        with pytest.raises(DataError, match="objects inside and outside"):
            metrics.roc_curve(positive, score)
    assert math.isnan(metrics.average_precision(np.zeros(10, bool), score))
    assert metrics.average_precision(np.ones(10, bool), score) == 1


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_brier_score(rng, classes):
    label, probability = random_case(rng, classes)
    mine = metrics.brier(label, probability)
    if classes == 2:
        assert mine == pytest.approx(sk.brier_score_loss(label, probability[:, 1]))
    by_hand = np.mean(
        [sum((p[k] - (k == y)) ** 2 for k in range(classes)) for y, p in zip(label, probability, strict=True)]
    )
    assert mine == pytest.approx(by_hand / 2 if classes == 2 else by_hand)


def test_calibration_error_by_hand(rng):
    label, probability = random_case(rng, 3, n=211)
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == label
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics.expected_calibration_error(label, probability) == pytest.approx(total / 211)


def test_calibration_of_the_sure():
    right = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert metrics.expected_calibration_error(np.array([1, 0]), right) == 0
    assert metrics.expected_calibration_error(np.array([0, 1]), right) == 1
    bins = metrics.reliability(np.array([1, 1]), right)
    assert bins.count.tolist() == [0] * 14 + [2]
    assert (bins.accuracy[-1], bins.confidence[-1]) == (0.5, 1)
    assert np.isnan(bins.accuracy[:-1]).all()


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin():
    probability = np.array([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]])
    assert metrics.reliability(np.array([0, 1, 1]), probability, bins=4).count.tolist() == [0, 1, 1, 1]


def test_wilson_interval_solves_its_equation(rng):
    count = rng.integers(1, 500, 40)
    right = rng.integers(0, count + 1)
    low, high = metrics.wilson_interval(right, count)
    for end in (low, high):
        free = (end > 0) & (end < 1)
        # Both ends are where the observed fraction is 1.96 standard errors of the *true* fraction away.
        error = np.sqrt(end * (1 - end) / count)
        np.testing.assert_allclose(np.abs(right / count - end)[free], 1.959963984540054 * error[free])
    assert (low[right == 0] == 0).all()
    assert (high[right == count] == 1).all()
    assert ((low <= right / count) & (right / count <= high)).all()


def test_wilson_interval_of_a_published_example():
    # Newcombe (1998, Stat. Med. 17, 857), table I: 81 of 263 and 0 of 20.
    low, high = metrics.wilson_interval(np.array([81, 0]), np.array([263, 20]))
    np.testing.assert_allclose(low, [0.2553, 0.0], atol=5e-5)
    np.testing.assert_allclose(high, [0.3662, 0.1611], atol=5e-5)


def test_accuracy_by_magnitude(rng):
    magnitude = np.concatenate([rng.uniform(18, 19, 30), rng.uniform(19, 20, 4), [np.nan, np.inf, 25.0]])
    right = np.concatenate([np.arange(30) < 24, [True] * 7])
    bins = metrics.accuracy_by_magnitude(magnitude, right, np.array([18.0, 19.0, 20.0]), minimum=5)
    assert (bins.lower.tolist(), bins.upper.tolist(), bins.centre.tolist()) == ([18], [19], [18.5])
    assert (bins.count.tolist(), bins.accuracy.tolist()) == ([30], [0.8])
    low, high = metrics.wilson_interval(24, 30)
    assert (bins.low[0], bins.high[0]) == (low, high)
    all_bins = metrics.accuracy_by_magnitude(magnitude, right, np.array([18.0, 19.0, 20.0]), minimum=1)
    assert all_bins.count.tolist() == [30, 4]


def test_a_magnitude_on_an_edge_belongs_to_the_fainter_bin():
    bins = metrics.accuracy_by_magnitude(
        np.array([19.0]), np.array([True]), np.array([18.0, 19.0, 20.0]), minimum=1
    )
    assert bins.lower.tolist() == [19]


def test_accuracy_by_magnitude_without_magnitudes():
    magnitude = np.full(5, np.nan)
    edges = metrics.magnitude_edges(magnitude)
    assert len(edges) == 0
    assert len(metrics.accuracy_by_magnitude(magnitude, np.ones(5, bool), edges).count) == 0


@pytest.mark.parametrize(("faint", "width"), [(23.0, 0.25), (26.0, 0.5)])
def test_magnitude_edges_cover_all(rng, faint, width):
    magnitude = np.append(rng.uniform(20, faint, 500), [20.0, faint, np.nan])
    edges = metrics.magnitude_edges(magnitude)
    np.testing.assert_allclose(np.diff(edges), width)
    assert edges[0] <= 20
    assert faint < edges[-1]
    np.testing.assert_allclose(edges / width, np.round(edges / width))


def test_spread_of_runs(rng):
    values = rng.normal(size=4).tolist()
    ours = metrics.mean_and_spread(values)
    assert (ours.mean, ours.spread, ours.runs) == (
        pytest.approx(np.mean(values)),
        pytest.approx(np.std(values, ddof=1)),
        4,
    )
    assert metrics.mean_and_spread([0.5]) == metrics.Spread(0.5, None, 1)
    assert math.isnan(metrics.mean_and_spread([0.5, math.nan]).mean)
    with pytest.raises(DataError, match="no run"):
        metrics.mean_and_spread([])


def test_confident_mistakes(rng):
    label, probability = random_case(rng, 3, n=300)
    rows = metrics.confident_mistakes(label, probability, 7)
    wrong = probability.argmax(axis=1) != label
    assert wrong[rows].all()
    assert len(rows) == 7
    confidence = probability.max(axis=1)
    assert (np.diff(confidence[rows]) <= 0).all()
    rest = np.setdiff1d(np.flatnonzero(wrong), rows)
    assert confidence[rest].max() <= confidence[rows].min()
    assert len(metrics.confident_mistakes(np.array([0]), np.array([[1.0, 0.0]]), 7)) == 0


def test_evaluate_collects(rng):
    label, probability = random_case(rng, 3)
    result = metrics.evaluate(label, probability)
    assert result.scores.accuracy == np.mean(probability.argmax(axis=1) == label)
    assert result.ece == metrics.expected_calibration_error(label, probability)
    assert result.brier == metrics.brier(label, probability)
    for k in range(3):
        assert result.auc[k] == metrics.roc_auc(label == k, probability[:, k])
        assert result.average_precision[k] == metrics.average_precision(label == k, probability[:, k])


def test_evaluate_decisions(rng):
    label = rng.integers(0, 2, 40)
    result = metrics.evaluate(label, np.eye(2)[label], decides_only=True)
    assert result.scores.accuracy == 1
    assert np.isnan(
        [*result.auc, *result.average_precision, result.ece, result.brier, result.macro_auc]
    ).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(rng, bad):
    label, probability = random_case(rng, 2, n=30)
    probability[17, 1] = bad
    for measure in (metrics.evaluate, metrics.brier, metrics.reliability):
        with pytest.raises(DataError, match="probability is not finite in 1 of 30 rows, the first 17"):
            measure(label, probability)
    for measure in (metrics.roc_auc, metrics.roc_curve, metrics.average_precision):
        with pytest.raises(DataError, match="score is not finite in 1 of 30 rows, the first 17"):
            measure(label == 1, probability[:, 1])


@pytest.mark.parametrize(
    ("label", "predicted", "message"),
    [
        ([0, 2], [0, 1], "label runs from 0 to 2; expected class indices from 0 to 1"),
        ([0, 1], [0, -1], "predicted runs from -1 to 0"),
        ([0, 1], [0], "1 predictions for 2 labels"),
        ([0.0, 1.0], [0, 1], "label has shape .2,. and type float64; expected integers"),
    ],
)
def test_labels_that_cannot_be_counted(label, predicted, message):
    with pytest.raises(DataError, match=message):
        metrics.confusion(np.array(label), np.array(predicted), 2)


def test_other_inputs_that_do_not_fit(rng):
    label, probability = random_case(rng, 2, n=10)
    with pytest.raises(DataError, match="label is empty"):
        metrics.confusion(np.array([], int), np.array([], int), 2)
    with pytest.raises(DataError, match="probability has 9 rows; expected 10"):
        metrics.evaluate(label, probability[:9])
    with pytest.raises(DataError, match=r"probability has shape \(10,\)"):
        metrics.evaluate(label, probability[:, 0])
    with pytest.raises(DataError, match="confusion matrix is empty"):
        metrics.scores(np.zeros((2, 2), int))
    with pytest.raises(DataError, match="9 results for 10 magnitudes"):
        metrics.accuracy_by_magnitude(np.ones(10), np.ones(9), np.array([0.0, 2.0]))
