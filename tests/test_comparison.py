"""Intervals and tests between methods: against scipy, objects drawn one by one, and at their limits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from margformer_fast.errors import DataError
from margformer_fast.evaluation import comparison


def runs_of(rng, label, classes, runs, accuracy):
    """Predictions of runs that are right so often, and guess else."""
    guess = rng.integers(0, classes, (runs, len(label)))
    return np.where(rng.random((runs, len(label))) < accuracy, label, guess)


@pytest.mark.parametrize("classes", [2, 3])
def test_values_are_the_scores_of_sklearn(rng, classes):
    label = rng.integers(0, classes, 200)
    label[:classes] = np.arange(classes)
    predicted = runs_of(rng, label, classes, 3, 0.7)
    found = comparison.bootstrap(label, predicted, classes, draws=50)
    assert tuple(found) == comparison.BOOTSTRAPPED
    expected = [
        (
            sk.accuracy_score(label, run),
            sk.f1_score(label, run, average="macro"),
            sk.balanced_accuracy_score(label, run),
        )
        for run in predicted
    ]
    assert [i.value for i in found.values()] == pytest.approx(np.mean(expected, axis=0))


def test_resamples_are_those_of_objects(rng):
    """The distribution of the mean over runs is that of scores of objects drawn one by one."""
    n = 60
    label = rng.integers(0, 3, n)
    predicted = runs_of(rng, label, 3, 2, 0.6)
    found = comparison.bootstrap(label, predicted, 3, draws=4000, seed=int(rng.integers(1000)))
    one_by_one = []
    for _ in range(600):
        rows = rng.integers(0, n, n)
        scores = [
            (
                np.mean(run[rows] == label[rows]),
                sk.f1_score(label[rows], run[rows], average="macro", labels=np.unique(label[rows])),
                np.mean([np.mean(run[rows][label[rows] == k] == k) for k in np.unique(label[rows])]),
            )
            for run in predicted
        ]
        one_by_one.append(np.mean(scores, axis=0))
    low, high = np.quantile(one_by_one, (0.025, 0.975), axis=0)
    # A quantile of 600 draws is uncertain by about 0.03 of the interval's width.
    for k, name in enumerate(comparison.BOOTSTRAPPED):
        assert found[name].low == pytest.approx(low[k], abs=0.2 * (high[k] - low[k]))
        assert found[name].high == pytest.approx(high[k], abs=0.2 * (high[k] - low[k]))


def test_interval_of_one_run_is_binomial(rng):
    n, right = 500, 430
    label = np.zeros(n, int)
    predicted = (np.arange(n) >= right).astype(int)
    found = comparison.bootstrap(label, predicted, 2, draws=20_000)["accuracy"]
    assert found.value == right / n
    for end, quantile in ((found.low, 0.025), (found.high, 0.975)):
        assert end * n == pytest.approx(stats.binom.ppf(quantile, n, right / n), abs=1.5)


def test_the_same_seed_gives_the_same_interval_in_any_order(rng):
    label = rng.integers(0, 2, 100)
    predicted = runs_of(rng, label, 2, 2, 0.7)
    order = rng.permutation(100)
    first = comparison.bootstrap(label, predicted, 2, seed=3)
    assert comparison.bootstrap(label[order], predicted[:, order], 2, seed=3) == first
    assert comparison.bootstrap(label, predicted, 2, seed=4) != first


def test_a_class_absent_from_objects_or_resamples(rng):
    label = np.array([0] * 30 + [2])
    predicted = np.zeros(31, int)
    found = comparison.bootstrap(label, predicted, 3, draws=400)
    assert found["balanced_accuracy"].value == 0.5
    # In a third of the resamples the only object of class 2 is not there: class 0 is then all there is.
    assert (found["balanced_accuracy"].low, found["balanced_accuracy"].high) == (0.5, 1.0)


def test_what_has_no_scatter_has_no_width():
    for n in (1, 40):
        found = comparison.bootstrap(np.zeros(n, int), np.zeros(n, int), 2)
        assert all((i.value, i.low, i.high) == (1, 1, 1) for i in found.values())
    wrong = comparison.bootstrap(np.array([1]), np.array([0]), 2)["macro_f1"]
    assert (wrong.value, wrong.low, wrong.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (1, 0), (0, 7), (5, 5), (12, 31), (700, 900), (4000, 4300)]
)
def test_mcnemar_is_the_exact_binomial_test(rng, first, second):
    one, two = np.zeros((2, first + second + 50), bool)
    one[:first] = True
    two[first : first + second] = True
    one[-20:] = two[-20:] = True
    order = rng.permutation(len(one))
    found = comparison.mcnemar(one[order], two[order])
    assert (found.only_first, found.only_second) == (first, second)
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert found.p == pytest.approx(expected, rel=1e-9)


def test_difference_of_a_method_and_itself(rng):
    label = rng.integers(0, 2, 80)
    predicted = runs_of(rng, label, 2, 3, 0.8)
    found = comparison.difference(label, predicted, predicted[::-1])
    assert found.p == 1
    assert (found.objects.value, found.objects.low, found.objects.high) == pytest.approx((0, 0, 0))
    # Fresh runs of the same method would not be the same runs.
    assert found.objects_and_runs.high > 0 > found.objects_and_runs.low


def test_a_clear_difference_and_its_sign(rng):
    label = rng.integers(0, 3, 1000)
    worse, better = runs_of(rng, label, 3, 2, 0.5), runs_of(rng, label, 3, 3, 0.9)
    found = comparison.difference(label, worse, better)
    value = np.mean(better == label) - np.mean(worse == label)
    assert found.objects.value == pytest.approx(value)
    assert 0 < found.objects.low < value < found.objects.high
    assert found.p == pytest.approx(2 / (comparison.DRAWS + 1))
    mirrored = comparison.difference(label, better, worse).objects
    assert mirrored.high < 0
    assert mirrored.value == pytest.approx(-value)


def test_interval_of_a_difference_is_paired(rng):
    """Two methods that err on the same objects differ by less than their intervals apart would allow."""
    n = 2000
    label = np.zeros(n, int)
    first = (np.arange(n) < 400).astype(int)
    second = (np.arange(n) < 380).astype(int)
    found = comparison.difference(label, first, second, draws=20_000).objects
    # The difference is k / n, k binomial with 20 of 2000.
    assert found.low * n == pytest.approx(stats.binom.ppf(0.025, n, 20 / n), abs=1.5)
    assert found.high * n == pytest.approx(stats.binom.ppf(0.975, n, 20 / n), abs=1.5)


def test_runs_that_scatter_widen_the_interval_by_their_scatter(rng):
    """With so many objects that they hardly matter, what is left is the standard error over runs."""
    n = 100_000
    label = np.zeros(n, int)
    share = np.array([0.10, 0.14, 0.12, 0.20])
    first = np.zeros(n, int)
    second = (np.arange(n) < share[:, None] * n).astype(int)
    found = comparison.difference(label, first, second, draws=20_000)
    assert found.objects.high - found.objects.low < 0.01
    drawn = share[np.array(np.meshgrid(*[range(4)] * 3)).reshape(3, -1)].mean(axis=0)
    assert drawn.std() == pytest.approx(share.std(ddof=1) / 2)
    for end, quantile in ((found.objects_and_runs.low, 0.975), (found.objects_and_runs.high, 0.025)):
        assert end == pytest.approx(-np.quantile(drawn, quantile), abs=0.004)


def test_runs_say_nothing_when_there_is_one(rng):
    label = rng.integers(0, 2, 50)
    one, two = runs_of(rng, label, 2, 1, 0.7), runs_of(rng, label, 2, 2, 0.7)
    assert comparison.difference(label, one[0], one).objects_and_runs is None
    assert comparison.difference(label, one, two).objects_and_runs is not None


def test_the_probability_is_uniform_when_methods_are_equal(rng):
    """Of many pairs of equally good methods about one in ten has p below 0.1."""
    below = 0
    for _ in range(300):
        label = np.zeros(400, int)
        first, second = (rng.random((2, 400)) < 0.2).astype(int)
        below += comparison.difference(label, first, second, draws=300).p < 0.1
    # 30 expected; the bounds are four standard deviations off.
    assert 9 < below < 51


def test_what_is_refused():
    label = np.array([0, 1])
    with pytest.raises(DataError, match=r"predicted has shape \(1, 3\); expected \(runs, 2\)"):
        comparison.bootstrap(label, np.zeros(3, int), 2)
    with pytest.raises(DataError, match=r"predicted has shape \(0, 2\)"):
        comparison.bootstrap(label, np.zeros((0, 2), int), 2)
    with pytest.raises(DataError, match="predicted runs from 0 to 5"):
        comparison.bootstrap(label, np.array([0, 5]), 2)
    with pytest.raises(DataError, match="label is empty"):
        comparison.bootstrap(np.array([], int), np.zeros((1, 0), int), 2)
    with pytest.raises(DataError, match="predicted runs from -1 to 0"):
        comparison.difference(label, label, np.array([0, -1]))
    with pytest.raises(DataError, match=r"results have shapes \(2,\) and \(3,\)"):
        comparison.mcnemar(np.ones(2, bool), np.ones(3, bool))
