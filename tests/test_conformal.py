"""Sets hold the true class as often as promised, equal those of crepes, and do not depend on order."""

from __future__ import annotations

import math

import numpy as np
import pytest
from crepes import ConformalClassifier
from toy_results import probabilities

from margformer_fast.errors import DataError
from margformer_fast.evaluation import conformal
from margformer_fast.evaluation.conformal import (
    LEVELS,
    ClassWeights,
    by_class,
    by_class_and_magnitude,
    covariate_weights,
    holds_truth,
    membership_roc,
    score_sets,
    weighted_by_class,
)
from margformer_fast.evaluation.metrics import roc_auc


def chance_bound(trials, odds=1e-6):
    """How far a mean of `trials` numbers from [0, 1] is from its expectation with these odds (Hoeffding)."""
    return math.sqrt(math.log(2 / odds) / (2 * trials))


def problem(rng, classes=3, n=900, m=500):
    """Labels, probabilities and magnitudes of calibration and test objects that are drawn alike."""
    sides = []
    for size in (n, m):
        label = rng.integers(0, classes, size)
        sides.append((label, probabilities(rng, label, classes), rng.uniform(18, 22, size)))
    return sides


def every_kind(label, calibration, calibration_r, probability, r):
    weights = covariate_weights(label, calibration_r[:, None], r[:, None], calibration.shape[1])
    return [
        by_class(label, calibration, probability),
        by_class_and_magnitude(label, calibration, calibration_r, probability, r),
        weighted_by_class(label, calibration, weights, probability),
    ]


def crepes_p_values(score, category, test_score, test_category):
    """p-values of crepes, not smoothed; `test_category` has a category for each object and class."""
    oracle = ConformalClassifier()
    oracle.fit(score, bins=category)
    columns = [
        oracle.predict_p(test_score[:, [k]], bins=test_category[:, k], smoothing=False)[:, 0]
        for k in range(test_score.shape[1])
    ]
    return np.stack(columns, axis=1)


def same_as_crepes(mine, p):
    np.testing.assert_allclose(mine.p_value, p, rtol=0, atol=1e-12)
    for level in LEVELS:
        # crepes keeps a class whose p-value is 1 - level to the last bit, which the promise does not need.
        clear = np.abs(p - (1 - level)) > 1e-9
        np.testing.assert_array_equal(mine.sets(level)[clear], (p >= 1 - level)[clear])


# The same sets as others


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_sets_by_class_are_those_of_crepes(rng, classes):
    (label, calibration, _), (_, probability, _) = problem(rng, classes, n=int(rng.integers(200, 3000)))
    score = 1 - calibration[np.arange(len(label)), label]
    category = np.broadcast_to(np.arange(classes), probability.shape)
    p = crepes_p_values(score, label, 1 - probability, category)
    same_as_crepes(by_class(label, calibration, probability), p)


def test_sets_by_class_and_magnitude_are_those_of_crepes(rng):
    (label, calibration, cal_r), (_, probability, r) = problem(rng, 2, n=2000)
    mine = by_class_and_magnitude(label, calibration, cal_r, probability, r)
    score = 1 - calibration[np.arange(len(label)), label]
    category, test_category = np.empty(len(label), int), np.empty(probability.shape, int)
    for k in range(2):
        edges = [c.lower for c in mine.categories if c.label == k]
        assert len(edges) >= 5
        category[label == k] = 100 * k + np.searchsorted(edges, cal_r[label == k], side="right")
        test_category[:, k] = 100 * k + np.searchsorted(edges, r, side="right")
    same_as_crepes(mine, crepes_p_values(score, category, 1 - probability, test_category))


def test_a_weight_is_a_number_of_objects(rng):
    """Objects of weight 3 count as three; weights of 1 change nothing."""
    (label, calibration, _), (_, probability, _) = problem(rng, n=60)
    ones = [ClassWeights(np.ones(np.sum(label == k)), np.ones(len(probability))) for k in range(3)]
    plain = by_class(label, calibration, probability)
    np.testing.assert_array_equal(
        weighted_by_class(label, calibration, ones, probability).p_value, plain.p_value
    )
    times = rng.integers(1, 4, len(label))
    weights = [ClassWeights(times[label == k].astype(float), np.ones(len(probability))) for k in range(3)]
    mine = weighted_by_class(label, calibration, weights, probability)
    copied = by_class(np.repeat(label, times), np.repeat(calibration, times, axis=0), probability)
    np.testing.assert_allclose(mine.p_value, copied.p_value, rtol=0, atol=1e-12)
    # The scale of all weights together is nothing.
    scaled = [ClassWeights(0.01 * w.calibration, 0.01 * w.test) for w in weights]
    again = weighted_by_class(label, calibration, scaled, probability)
    np.testing.assert_allclose(mine.p_value, again.p_value, rtol=0, atol=1e-12)


def test_a_threshold_is_the_kth_smallest_score():
    score = np.arange(1, 25) / 100
    calibration = np.stack([1 - score, score], axis=1)
    (category, other) = by_class(np.zeros(24, int), calibration, calibration).categories
    # (24 + 1) 0.68 is 17 and (24 + 1) 0.9 is 22.5; 95 % needs the 24th, 99 % a 25th.
    found = [category.threshold(level) for level in LEVELS]
    np.testing.assert_allclose(found, [0.17, 0.23, 0.24, 1.0], rtol=0, atol=1e-12)
    assert [other.threshold(level) for level in LEVELS] == [1.0] * 4
    assert (len(category), len(other), category.effective, other.effective) == (24, 0, 24, 0)
    # 75 * 0.68 is 51, but 51.00000000000001 in float64.
    score = np.arange(1, 75) / 100
    (category, _) = by_class(np.zeros(74, int), np.stack([1 - score, score], axis=1), calibration).categories
    assert category.threshold(0.68) == pytest.approx(0.51)
    found = by_class(
        np.zeros(74, int), np.stack([1 - score, score], axis=1), np.stack([1 - score, score], axis=1)
    )
    assert found.sets(0.68)[:, 0].sum() == 51


def test_thresholds_and_sets_agree(rng):
    (label, calibration, cal_r), (_, probability, r) = problem(rng, n=1200)
    # Whole numbers of hundredths: many ties, with each other and with thresholds.
    calibration, probability = np.round(calibration, 2), np.round(probability, 2)
    weights = covariate_weights(label, cal_r[:, None], r[:, None], 3)
    for found in every_kind(label, calibration, cal_r, probability, r):
        for level in LEVELS:
            member = found.sets(level)
            for c in found.categories:
                rows = np.flatnonzero((r >= c.lower) & (r < c.upper))
                own = weights[c.label].test[rows] if found.kind == "weighted" else np.ones(len(rows))
                q = np.array([c.threshold(level, w) for w in own])
                np.testing.assert_array_equal(
                    member[rows, c.label], 1 - probability[rows, c.label] <= q, err_msg=found.kind
                )


# The promise


@pytest.mark.parametrize(
    ("n", "level", "k"), [(4, 0.6, 3), (4, 0.79, 4), (1, 0.5, 1), (9, 0.9, 9), (3, 0.9, 4)]
)
def test_coverage_of_few_objects_is_exact(rng, n, level, k):
    """A new score is below the k-th of n drawn like it with probability k / (n + 1)."""
    trials, held = 4000, 0
    for _ in range(trials):
        label = np.ones(n + 1, int)
        p = probabilities(rng, label, 2)
        held += by_class(label[1:], p[1:], p[:1]).sets(level)[0, 1]
    assert abs(held / trials - k / (n + 1)) < chance_bound(trials)


def test_each_class_is_covered_where_one_is_hard(rng):
    """One class of 10 % is hardly ever recognised: its sets must hold it all the same, in every kind."""
    size = 20_000
    label = (rng.random(2 * size) < 0.1).astype(int)
    p = probabilities(rng, label, 2, np.where(label == 1, -0.5, 3.0)[:, None])
    r = rng.uniform(18, 22, 2 * size)
    cal, new = slice(None, size), slice(size, None)
    for found in every_kind(label[cal], p[cal], r[cal], p[new], r[new]):
        for level in LEVELS:
            scores = score_sets(label[new], found.sets(level))
            # Test objects, calibration objects, and at most 20 bins that each round up by 1 / (n + 1).
            few = np.minimum(np.bincount(label[cal]), scores.class_count)
            slack = 2 * chance_bound(few.min()) + 20 / few.min()
            assert np.abs(scores.class_coverage - level).max() < slack, (found.kind, level)
    # A plain choice of classes by 10 % of all objects gives the hard class up.
    pooled = np.quantile(1 - p[cal][np.arange(size), label[cal]], 0.9)
    assert score_sets(label[new], 1 - p[new] <= pooled).class_coverage[1] < 0.5


def shifted(rng, size):
    """Calibration objects of all magnitudes, faint test objects alone, and a classifier worse at those."""
    sides = []
    for faint in (False, True):
        label = rng.integers(0, 2, size)
        r = rng.uniform(20.5 if faint else 17, 22, size)
        sides.append((label, probabilities(rng, label, 2, 3 * np.clip(22 - r, 0, 2)[:, None]), r))
    return sides


def test_weights_restore_coverage_under_a_shift(rng):
    (label, calibration, cal_r), (true, probability, r) = shifted(rng, 6000)
    plain, by_magnitude, weighted = every_kind(label, calibration, cal_r, probability, r)
    for level in (0.68, 0.9):
        lost = score_sets(true, plain.sets(level)).class_coverage
        assert (lost < level - 0.15).all()
        for found in (by_magnitude, weighted):
            restored = score_sets(true, found.sets(level)).class_coverage
            assert np.abs(restored - level).max() < 0.09, (found.kind, level)
    # Three tenths of the calibration objects are like the test objects.
    for category in weighted.categories:
        assert 0.22 < category.effective / len(category) < 0.38


def test_true_weights_keep_the_promise_with_few_objects(rng):
    """Two kinds of objects, of which the test sample has more of the hard one: the bound of the paper."""
    n, level, trials = 20, 0.8, 4000
    held = {"plain": 0, "weighted": 0}
    label = np.zeros(n, int)
    for _ in range(trials):
        hard = rng.random(n + 1) < np.where(np.arange(n + 1) == 0, 0.8, 0.2)
        score = np.clip(0.1 * rng.random(n + 1) + 0.5 * hard, 0, 1)
        p = np.stack([1 - score, score], axis=1)
        weight = np.where(hard, 0.8 / 0.2, 0.2 / 0.8)
        weights = [ClassWeights(weight[1:], weight[:1]), ClassWeights(np.empty(0), np.ones(1))]
        held["plain"] += by_class(label, p[1:], p[:1]).sets(level)[0, 0]
        held["weighted"] += weighted_by_class(label, p[1:], weights, p[:1]).sets(level)[0, 0]
    assert held["weighted"] / trials > level - chance_bound(trials)
    assert held["plain"] / trials < level - 2 * chance_bound(trials)


# Order, ties, and what is missing


def test_a_shuffle_changes_nothing(rng):
    (label, calibration, cal_r), (true, probability, r) = problem(rng, n=1000)
    cal, new = rng.permutation(len(label)), rng.permutation(len(true))
    before = every_kind(label, calibration, cal_r, probability, r)
    after = every_kind(label[cal], calibration[cal], cal_r[cal], probability[new], r[new])
    for a, b in zip(before, after, strict=True):
        # The fit of the weights adds in another order.
        np.testing.assert_allclose(
            a.p_value[new], b.p_value, rtol=0, atol=1e-6 if a.kind == "weighted" else 0
        )


def test_sets_keep_to_their_own_magnitudes(rng):
    """Faint objects are hard and bright ones are not: with magnitudes of others both would be wrong."""
    (label, calibration, cal_r), (true, probability, r) = shifted(rng, 12_000)
    found = by_class_and_magnitude(label, calibration, cal_r, probability, r)
    wrong = by_class_and_magnitude(label, calibration, rng.permutation(cal_r), probability, r)
    faint = r > 21.5
    rates = [holds_truth(true, each.sets(0.9))[faint].mean() for each in (found, wrong)]
    assert abs(rates[0] - 0.9) < 0.06
    assert rates[1] < 0.8


def test_equal_scores_enter_together():
    calibration = np.full((50, 2), 0.5)
    label = np.arange(50) % 2
    found = by_class(label, calibration, np.array([[0.5, 0.5], [0.4, 0.6]]))
    assert found.sets(0.9).tolist() == [[True, True], [False, True]]
    np.testing.assert_allclose(found.p_value, [[1, 1], [1 / 26, 1]], rtol=0, atol=1e-12)


def test_a_set_can_be_empty_and_full():
    calibration = np.tile([[0.99, 0.01], [0.01, 0.99]], (30, 1))
    found = by_class(np.arange(60) % 2, calibration, np.array([[0.5, 0.5], [1.0, 0.0]]))
    assert found.sets(0.9).tolist() == [[False, False], [True, False]]
    # 30 objects do not reach 99 %.
    assert found.sets(0.99).all()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_calibration_objects(rng, n):
    label = np.zeros(n, int)
    calibration, cal_r = probabilities(rng, label, 3), rng.uniform(18, 22, n)
    probability, r = probabilities(rng, np.zeros(8, int), 3), rng.uniform(18, 22, 8)
    for found in every_kind(label, calibration, cal_r, probability, r):
        assert found.sets(0.9).all()
        # Nothing is known of classes without objects: they enter at any level.
        assert (found.p_value[:, 1:] == 1).all()
        assert (found.p_value > 0).all()


def test_objects_without_a_magnitude(rng):
    (label, calibration, cal_r), (_, probability, r) = problem(rng, n=1500)
    cal_r[::3], r[::5] = np.nan, np.nan
    plain, by_magnitude, weighted = every_kind(label, calibration, cal_r, probability, r)
    for found in (by_magnitude, weighted):
        np.testing.assert_array_equal(found.p_value[::5], plain.p_value[::5])
        assert np.isfinite(found.p_value).all()
        assert not np.array_equal(found.p_value, plain.p_value)
    known = np.isfinite(cal_r)
    without = by_class_and_magnitude(label[known], calibration[known], cal_r[known], probability, r)
    np.testing.assert_array_equal(by_magnitude.p_value[np.isfinite(r)], without.p_value[np.isfinite(r)])
    none = every_kind(label, calibration, np.full(1500, np.nan), probability, r)
    np.testing.assert_array_equal(none[1].p_value, plain.p_value)
    # Without one calibration magnitude nothing is left to weigh, and every class enters.
    assert (none[2].p_value[np.isfinite(r)] == 1).all()
    nothing = every_kind(label, calibration, cal_r, probability, np.full(500, np.nan))
    for found in nothing[1:]:
        np.testing.assert_array_equal(found.p_value, plain.p_value)


def test_bins_have_enough_objects(rng):
    label = np.repeat([0, 1, 2], [1000, 199, 250])
    calibration, cal_r = probabilities(rng, label, 3), rng.normal(20, 1, len(label))
    cal_r[0] = -9999.0
    r = np.array([-9999.0, 10.0, 30.0, np.inf, np.nan])
    probability = probabilities(rng, np.zeros(5, int), 3)
    found = by_class_and_magnitude(label, calibration, cal_r, probability, r)
    for k, most in ((0, 10), (1, 1), (2, 2)):
        bins = [c for c in found.categories if c.label == k]
        assert 1 <= len(bins) <= most
        assert sum(len(c) for c in bins) == np.sum(label == k)
        assert all(len(c) >= min(100, np.sum(label == k)) for c in bins)
        assert (bins[0].lower, bins[-1].upper) == (-np.inf, np.inf)
        assert [c.upper for c in bins[:-1]] == [c.lower for c in bins[1:]]
    assert len([c for c in found.categories if c.label == 0]) >= 5
    brightest, faintest = found.categories[0], [c for c in found.categories if c.label == 0][-1]
    score = 1 - probability[:, 0]
    np.testing.assert_array_equal(found.p_value[:2, 0], brightest.p_value(score[:2]))
    np.testing.assert_array_equal(found.p_value[2:3, 0], faintest.p_value(score[2:3]))


# Measured


def test_scores_of_sets_by_hand():
    label = np.array([0, 0, 0, 2])
    member = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 0]], bool)
    found = score_sets(label, member)
    assert found.coverage == 0.5
    assert found.class_count.tolist() == [3, 0, 1]
    np.testing.assert_array_equal(found.class_coverage, [2 / 3, np.nan, 0])
    assert found.mean_size == 5 / 4
    assert found.size_share.tolist() == [0.25, 0.5, 0, 0.25]
    assert found.low < 0.5 < found.high
    assert np.isnan(found.class_low[1])
    assert found.class_low[2] == 0 < found.class_high[2]


def test_the_curve_of_membership_counts_pairs(rng):
    (label, calibration, _), (true, probability, _) = problem(rng, n=300, m=200)
    found = by_class(label, calibration, probability)
    curve = membership_roc(true, found.p_value)
    truth = np.eye(3, dtype=bool)[true]
    for level in LEVELS:
        member = found.sets(level)
        point = (member[~truth].mean(), member[truth].mean())
        gap = np.hypot(curve.false_positive_rate - point[0], curve.true_positive_rate - point[1])
        assert gap.min() < 1e-12
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(roc_auc(truth.ravel(), found.p_value.ravel()))
    assert area > 0.7


# What is refused


def test_input_that_does_not_fit(rng):
    (label, calibration, cal_r), (true, probability, r) = problem(rng, n=30, m=10)
    weights = covariate_weights(label, cal_r[:, None], r[:, None], 3)
    bad = probability.copy()
    bad[4, 1] = np.nan
    cases = [
        (lambda: by_class(label, calibration, probability[:, :2]), r"shapes \(30, 3\) and \(10, 2\)"),
        (lambda: by_class(label[1:], calibration, probability), r"labels have shape \(29,\)"),
        (lambda: by_class(label + 0.5, calibration, probability), "type float64; expected integers"),
        (lambda: by_class(label + 2, calibration, probability), "labels run from 2 to 4; expected .* 0 to 2"),
        (lambda: by_class(label, calibration, bad), "1 of 10 test objects .* first in row 4. Apply softmax"),
        (lambda: by_class(label, 3 * calibration, probability), "calibration objects have a probability"),
        (
            lambda: by_class_and_magnitude(label, calibration, cal_r[1:], probability, r),
            r"calibration magnitudes have shape \(29,\); expected \(30,\)",
        ),
        (
            lambda: by_class_and_magnitude(label, calibration, cal_r, probability, r, fewest=0),
            "cannot have 0 objects",
        ),
        (lambda: weighted_by_class(label, calibration, weights[:2], probability), "weights of 2 classes"),
        (lambda: weighted_by_class(label, calibration, weights[::-1], probability[:9]), "weights of class 0"),
        (
            lambda: weighted_by_class(
                label, calibration, [ClassWeights(0 * w.calibration, w.test) for w in weights], probability
            ),
            "weight of class 0 is not positive",
        ),
        (lambda: covariate_weights(label, cal_r[1:, None], r[:, None], 3), "29 rows of covariates for 30"),
        (lambda: covariate_weights(label, cal_r[:, None], r, 3), r"shapes \(\d+, 1\) and \(10,\)"),
        (lambda: score_sets(true[:0], np.empty((0, 3))), r"sets have shape \(0, 3\)"),
        (lambda: score_sets(true, np.ones((9, 3))), r"labels have shape \(10,\)"),
    ]
    for use, message in cases:
        with pytest.raises(DataError, match=message):
            use()


def test_kinds_are_named_as_listed(rng):
    (label, calibration, cal_r), (_, probability, r) = problem(rng, n=50, m=5)
    found = every_kind(label, calibration, cal_r, probability, r)
    assert tuple(each.kind for each in found) == conformal.KINDS
