"""How far a score can be trusted, and whether one method is better than another on the same objects.

Two things make a score uncertain: which objects happened to be tested on, and which weights and batches a
run happened to start with. The bootstrap (Efron 1979, Ann. Stat. 7, 1) draws objects with replacement and
takes percentiles of the score; with several runs, each draw is judged by the mean over runs, which share the
objects. Runs are drawn as well where the question is how another training would come out.

Shapes: R runs, N objects, P patterns, S draws, C classes. Objects with equal label and equal predictions in
every run cannot be told apart, so what is drawn is how often each of the few such *patterns* occurs, from a
multinomial: the same distribution as drawing objects, at a cost that does not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from .metrics import confusion

DRAWS = 2000
"""Resamples of a bootstrap: an end of a 95 % interval then rests on 50 of them."""

BOOTSTRAPPED = ("accuracy", "macro_f1", "balanced_accuracy")
"""Scores that :func:`bootstrap` gives intervals of; balanced accuracy is the macro recall."""


@dataclass(frozen=True)
class Interval:
    """A value and where it may lie.

    Parameters
    ----------
    value : float
        From the objects as they are.
    low, high : float
        Percentiles of the resamples. They coincide when resamples cannot differ, as when all objects are
        right: the bootstrap does not see what it has not met.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of two classifiers on the same objects.

    Parameters
    ----------
    only_first, only_second : int
        Objects that only the first, and only the second, has right; the others say nothing.
    p : float
        Probability of a split at least as uneven if both were equally good; 1 without such objects.
    """

    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class Difference:
    """Accuracy of a second method minus that of a first, on the same objects.

    Parameters
    ----------
    objects : Interval
        Of the difference of mean accuracies over these very runs; objects drawn.
    objects_and_runs : Interval or None
        The same with runs drawn too: where the difference of freshly trained methods may lie. None if
        neither method has two runs, which tell nothing about it.
    p : float
        Two-sided bootstrap probability, over objects, that the sign of the difference is chance.
    """

    objects: Interval
    objects_and_runs: Interval | None
    p: float


def _runs(label: np.ndarray, predicted: np.ndarray, num_classes: int, what: str) -> np.ndarray:
    """Return predictions as (R, N), checked against the labels."""
    predicted = np.atleast_2d(predicted)
    if predicted.ndim != 2 or predicted.shape[0] == 0 or predicted.shape[1] != len(label):
        raise DataError(
            f"{what} has shape {predicted.shape}", expected=f"(runs, {len(label)}), as many objects as labels"
        )
    for run in predicted:
        confusion(label, run, num_classes)
    return predicted


def _patterns(rows_MN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct columns, (M, P), and how many objects have each, (P,)."""
    return np.unique(rows_MN, axis=1, return_counts=True)


def _draw(rng: np.random.Generator, count_P: np.ndarray, draws: int) -> np.ndarray:
    """Return how many objects of each pattern are in each resample, float64 (S, P)."""
    n = int(count_P.sum())
    return rng.multinomial(n, count_P / n, size=draws).astype(np.float64)


def _scores_of(table_SCC: np.ndarray) -> dict[str, np.ndarray]:
    """Return each of `BOOTSTRAPPED` for confusion matrices (S, C, C), row = true class.

    Means over classes leave out those without objects in the resample, as in
    :func:`margformer_fast.evaluation.metrics.scores`.
    """
    right_SC = np.diagonal(table_SCC, axis1=1, axis2=2)
    actual_SC, called_SC = table_SCC.sum(axis=2), table_SCC.sum(axis=1)
    there_SC = actual_SC > 0
    num_there = there_SC.sum(axis=1)
    f1_SC = 2 * right_SC / np.maximum(actual_SC + called_SC, 1)
    recall_SC = right_SC / np.maximum(actual_SC, 1)
    return {
        "accuracy": right_SC.sum(axis=1) / actual_SC.sum(axis=1),
        "macro_f1": np.where(there_SC, f1_SC, 0).sum(axis=1) / num_there,
        "balanced_accuracy": np.where(there_SC, recall_SC, 0).sum(axis=1) / num_there,
    }


def _interval(value: float, drawn_S: np.ndarray, confidence: float) -> Interval:
    low, high = np.quantile(drawn_S, (0.5 - confidence / 2, 0.5 + confidence / 2))
    return Interval(float(value), float(low), float(high))


def bootstrap(
    label: np.ndarray,
    predicted: np.ndarray,
    num_classes: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Return percentile intervals of the scores of one method over test objects.

    Parameters
    ----------
    label : ndarray of int, shape (N,)
        True class indices.
    predicted : ndarray of int, shape (R, N) or (N,)
        Predicted class indices of each run. The score of a resample is the mean over runs.
    num_classes : int
        Number of classes C.
    draws, seed : int
        Number of resamples, and what they depend on besides the predictions. Objects are drawn from all, not
        within classes: how many of each class were observed is chance too.
    confidence : float
        Probability that the interval is to hold the true value.

    Returns
    -------
    dict of str to Interval
        One for each of `BOOTSTRAPPED`.

    Raises
    ------
    DataError
        If an index is outside the classes, shapes do not fit, or there is no object or run.
    """
    label = np.asarray(label)
    predicted = _runs(label, predicted, num_classes, "predicted")
    pattern_MP, count_P = _patterns(np.vstack([label, predicted]))
    resample_SP = np.vstack([count_P, _draw(np.random.default_rng(seed), count_P, draws)])
    total = {name: np.zeros(draws + 1) for name in BOOTSTRAPPED}
    for called_P in pattern_MP[1:]:
        cell_PX = np.eye(num_classes**2)[pattern_MP[0] * num_classes + called_P]
        table_SCC = (resample_SP @ cell_PX).reshape(-1, num_classes, num_classes)
        for name, value_S in _scores_of(table_SCC).items():
            total[name] += value_S / len(predicted)
    return {name: _interval(value[0], value[1:], confidence) for name, value in total.items()}


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
    """Test whether two single runs are equally accurate (McNemar 1947, Psychometrika 12, 153), exactly.

    The objects that only one of them has right are split like fair coins if they are equally accurate; the
    two-sided probability is twice that of the smaller side or fewer.

    Parameters
    ----------
    first_right, second_right : ndarray of bool, shape (N,)
        Which objects each has right, in the same order.

    Raises
    ------
    DataError
        If shapes differ.
    """
    first, second = np.asarray(first_right, bool), np.asarray(second_right, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise DataError(f"results have shapes {first.shape} and {second.shape}", expected="(N,) twice")
    only_first, only_second = np.count_nonzero(first & ~second), np.count_nonzero(second & ~first)
    n, fewer = only_first + only_second, min(only_first, only_second)
    # Logarithms, because 2**n is beyond a float from 1024 objects on.
    log_fair = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(fewer + 1)
    ]
    most = max(log_fair)
    tail = math.exp(most) * sum(math.exp(term - most) for term in log_fair)
    return McNemar(int(only_first), int(only_second), min(1.0, 2 * tail))


def _run_weights(rng: np.random.Generator, runs: int, draws: int) -> np.ndarray:
    """Return the weight of each run in each draw, (S, R).

    One run fewer is drawn than there are: the mean of R - 1 drawn runs scatters by s / sqrt(R) with the
    sample standard deviation s, where R of them would scatter too little (Rao & Wu 1988, JASA 83, 231), by a
    factor of 0.7 for two runs.
    """
    drawn = max(runs - 1, 1)
    return rng.multinomial(drawn, np.full(runs, 1 / runs), size=draws) / drawn


def difference(
    label: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """Return accuracy of a second method minus that of a first, means over runs, paired by object.

    Parameters
    ----------
    label : ndarray of int, shape (N,)
        True class indices.
    first, second : ndarray of int, shapes (R, N) and (R', N), or (N,)
        Predicted class indices of each run of each method.
    draws, seed, confidence
        As for :func:`bootstrap`.

    Returns
    -------
    Difference

    Raises
    ------
    DataError
        If an index is negative, shapes do not fit, or there is no object or run.

    Notes
    -----
    Objects and runs are drawn independently of each other (Owen 2007, Ann. Appl. Stat. 1, 386), which errs on
    the wide side. The probability counts draws on the wrong side of zero, twice, a tie with either side, and
    one more draw than there was on each, so that it is never 0.
    """
    label = np.asarray(label)
    sides = [_runs(label, side, _classes(label, first, second), "predicted") for side in (first, second)]
    right_MN = np.vstack(sides) == label
    pattern_MP, count_P = _patterns(right_MN)
    rng = np.random.default_rng(seed)
    resample_SP = np.vstack([count_P, _draw(rng, count_P, draws)])
    accuracy_SM = resample_SP @ pattern_MP.T / len(label)
    of_first_SR, of_second_SR = np.split(accuracy_SM, [len(sides[0])], axis=1)
    by_object_S = of_second_SR.mean(axis=1) - of_first_SR.mean(axis=1)
    # Means of runs that are all alike differ by rounding; that is a tie.
    drawn_S = np.where(np.abs(by_object_S) < 1e-12, 0, by_object_S)[1:]
    wrong_side = min(np.count_nonzero(drawn_S <= 0), np.count_nonzero(drawn_S >= 0))
    both = None
    if max(map(len, sides)) > 1:
        by_both_S = sum(
            sign * np.einsum("sr,sr->s", side_SR[1:], _run_weights(rng, side_SR.shape[1], draws))
            for sign, side_SR in ((-1, of_first_SR), (1, of_second_SR))
        )
        both = _interval(by_object_S[0], np.asarray(by_both_S), confidence)
    return Difference(
        _interval(by_object_S[0], by_object_S[1:], confidence),
        both,
        min(1.0, 2 * (float(wrong_side) + 1) / (draws + 1)),
    )


def _classes(*arrays: np.ndarray | Sequence[int]) -> int:
    """Return one more than the largest index, so that every one that is not negative is a class."""
    return 1 + max((int(np.max(array)) for array in arrays if np.size(array)), default=0)
