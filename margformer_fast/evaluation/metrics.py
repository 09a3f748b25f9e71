"""How good predictions are: scores, curves, calibration, and how far each number can be trusted.

Everything here is NumPy on arrays already in memory. Numbers are fractions, not percent.
A number that is not defined (the recall of a class without objects) is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ..errors import DataError
from .temperature import logits_of, temperature_scaled

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Scores:
    """Scores that follow from a confusion matrix.

    Parameters
    ----------
    confusion : ndarray of int64, shape (C, C)
        Number of objects; row = true class, column = predicted class.
    accuracy : float
        Fraction of objects that are right.
    precision, recall, f1 : ndarray of float64, shape (C,)
        Of each class. NaN for a class without test objects; precision is 0 for a class that is there
        but never predicted.
    macro_precision, macro_recall, macro_f1 : float
        Unweighted means over the classes that have test objects.
    """

    confusion: np.ndarray
    accuracy: float
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    macro_precision: float
    macro_recall: float
    macro_f1: float

    @property
    def support(self) -> np.ndarray:
        """Number of test objects of each class, shape (C,)."""
        return self.confusion.sum(axis=1)


@dataclass(frozen=True)
class Evaluation:
    """Everything that is measured on one run.

    Parameters
    ----------
    scores : Scores
        From the confusion matrix.
    auc, average_precision : ndarray of float64, shape (C,)
        Area under the ROC and under the precision-recall curve, each class against the rest; NaN for a
        class without objects on both sides and for a method that only decides.
    ece, brier : float
        Calibration error and Brier score; NaN for a method that only decides.
    ece_scaled : float
        Calibration error after temperature scaling; NaN without a temperature.
    """

    scores: Scores
    auc: np.ndarray
    average_precision: np.ndarray
    ece: float
    brier: float
    ece_scaled: float

    @property
    def macro_auc(self) -> float:
        """Unweighted mean of `auc` over classes; NaN if one is not defined."""
        return float(self.auc.mean())


@dataclass(frozen=True)
class Curve:
    """A ROC curve.

    Parameters
    ----------
    false_positive_rate, true_positive_rate : ndarray of float64, shape (T + 1,)
        From (0, 0) to (1, 1).
    threshold : ndarray of float64, shape (T + 1,)
        An object counts as positive if its score is at least this; starts with infinity, falls.
    """

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    threshold: np.ndarray


@dataclass(frozen=True)
class Reliability:
    """Accuracy against confidence.

    Parameters
    ----------
    edges : ndarray of float64, shape (B + 1,)
        Bins of confidence.
    confidence, accuracy : ndarray of float64, shape (B,)
        Means over the objects in each bin; NaN in an empty bin.
    count : ndarray of int64, shape (B,)
        Objects in each bin.
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class MagnitudeBins:
    """Accuracy in bins of magnitude.

    Parameters
    ----------
    lower, upper : ndarray of float64, shape (B,)
        Edges of the bins that hold enough objects; ``lower <= r < upper``.
    count : ndarray of int64, shape (B,)
        Objects in each bin.
    accuracy, low, high : ndarray of float64, shape (B,)
        Fraction right and its 95 % interval.
    """

    lower: np.ndarray
    upper: np.ndarray
    count: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """Middle of each bin, shape (B,)."""
        return (self.lower + self.upper) / 2


@dataclass(frozen=True)
class Spread:
    """Mean over runs and how much runs differ.

    Parameters
    ----------
    mean : float
        Mean over runs; NaN if a run has no value.
    spread : float or None
        Sample standard deviation (n - 1); None for a single run, which tells nothing about it.
    runs : int
        Number of runs.
    """

    mean: float
    spread: float | None
    runs: int


def _labels(label: np.ndarray, num_classes: int, what: str) -> np.ndarray:
    label = np.asarray(label)
    if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise DataError(f"{what} has shape {label.shape} and type {label.dtype}", expected="integers, (N,)")
    if len(label) == 0:
        raise DataError(f"{what} is empty", expected="at least one object")
    if label.min() < 0 or label.max() >= num_classes:
        raise DataError(
            f"{what} runs from {label.min()} to {label.max()}",
            expected=f"class indices from 0 to {num_classes - 1}",
        )
    return label.astype(np.int64)


def _scores(score: np.ndarray, n: int, what: str) -> np.ndarray:
    score = np.asarray(score, np.float64)
    if len(score) != n:
        raise DataError(f"{what} has {len(score)} rows", expected=f"{n}, as many as labels")
    bad = np.flatnonzero(~np.isfinite(score).reshape(n, -1).all(axis=1))
    if len(bad):
        raise DataError(f"{what} is not finite in {len(bad)} of {n} rows, the first {bad[0]}")
    return score


def _probabilities(label: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.ndim(probability) != 2:
        raise DataError(f"probability has shape {np.shape(probability)}", expected="(N, classes)")
    label = _labels(label, np.shape(probability)[1], "label")
    return label, _scores(probability, len(label), "probability")


def predict(probability: np.ndarray) -> np.ndarray:
    """Return the most probable class of each object, int64 (N,); the first of equals, as published."""
    return np.argmax(probability, axis=1).astype(np.int64)


def confusion(label: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count objects by true and predicted class.

    Parameters
    ----------
    label, predicted : ndarray of int, shape (N,)
        True and predicted class indices.
    num_classes : int
        Number of classes C.

    Returns
    -------
    ndarray of int64, shape (C, C)
        Row = true class, column = predicted class, both in label order.

    Raises
    ------
    DataError
        If an index is outside the classes, or lengths differ.
    """
    label = _labels(label, num_classes, "label")
    predicted = _labels(predicted, num_classes, "predicted")
    if len(label) != len(predicted):
        raise DataError(f"{len(predicted)} predictions for {len(label)} labels")
    return np.bincount(label * num_classes + predicted, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def scores(confusion: np.ndarray) -> Scores:
    """Return the scores that follow from a confusion matrix, shape (C, C), row = true class."""
    confusion = np.asarray(confusion, np.int64)
    right = np.diag(confusion).astype(np.float64)
    actual, called = confusion.sum(axis=1), confusion.sum(axis=0)
    there = actual > 0
    if not there.any():
        raise DataError("the confusion matrix is empty", expected="at least one object")
    precision, recall, f1 = (np.full(len(confusion), np.nan) for _ in range(3))
    precision[there] = right[there] / np.maximum(called[there], 1)
    recall[there] = right[there] / actual[there]
    f1[there] = 2 * right[there] / (actual + called)[there]
    return Scores(
        confusion=confusion,
        accuracy=float(right.sum() / confusion.sum()),
        precision=precision,
        recall=recall,
        f1=f1,
        macro_precision=float(precision[there].mean()),
        macro_recall=float(recall[there].mean()),
        macro_f1=float(f1[there].mean()),
    )


def ranked(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what a cut at each distinct score keeps: right and wrong objects, and the scores, falling.

    Parameters
    ----------
    positive : ndarray of bool, shape (N,)
        Which objects are of the class looked for.
    score : ndarray of float, shape (N,)
        Higher for objects more likely to be of that class.

    Returns
    -------
    true, false : ndarray of int64, shape (T,)
        Objects of the class, and others, with at least each score.
    threshold : ndarray of float64, shape (T,)
        The distinct scores.

    Raises
    ------
    DataError
        If a score is not finite, or lengths differ.
    """
    positive = np.asarray(positive, bool)
    score = _scores(score, len(positive), "score")
    order = np.argsort(-score, kind="stable")
    score, positive = score[order], positive[order]
    # Objects with equal scores cannot be told apart: the curve only has a point where the score changes.
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    true = np.cumsum(positive)[last]
    return true, last + 1 - true, score[last]


def roc_curve(positive: np.ndarray, score: np.ndarray) -> Curve:
    """Return the ROC curve of a score.

    Parameters
    ----------
    positive : ndarray of bool, shape (N,)
        Which objects are of the class looked for.
    score : ndarray of float, shape (N,)
        Higher for objects more likely to be of that class.

    Raises
    ------
    DataError
        If a score is not finite, or all objects are on one side.
    """
    true, false, threshold = ranked(positive, score)
    if true[-1] == 0 or false[-1] == 0:
        raise DataError("a ROC curve needs objects inside and outside the class")
    return Curve(
        false_positive_rate=np.concatenate(([0.0], false / false[-1])),
        true_positive_rate=np.concatenate(([0.0], true / true[-1])),
        threshold=np.concatenate(([np.inf], threshold)),
    )


def roc_auc(positive: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the ROC curve (ties count half); NaN if all objects are on one side."""
    true, false, _ = ranked(positive, score)
    if true[-1] == 0 or false[-1] == 0:
        return float("nan")
    curve = roc_curve(positive, score)
    return float(np.trapezoid(curve.true_positive_rate, curve.false_positive_rate))


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Return the sum of precision times step in recall over thresholds; NaN without positives."""
    true, false, _ = ranked(positive, score)
    if true[-1] == 0:
        return float("nan")
    steps = np.diff(true, prepend=0) / true[-1]
    return float(np.sum(steps * true / (true + false)))


def reliability(label: np.ndarray, probability: np.ndarray, bins: int = CALIBRATION_BINS) -> Reliability:
    """Compare the probability of the predicted class with how often it is right, in equal bins of it."""
    label, probability = _probabilities(label, probability)
    confidence = probability.max(axis=1)
    right = predict(probability) == label
    edges = np.linspace(0, 1, bins + 1)
    # Bins are open on the left, so that certainty (1.0) falls into the last one.
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    filled = np.where(count > 0, count, np.nan)
    return Reliability(
        edges=edges,
        confidence=np.bincount(which, confidence, bins) / filled,
        accuracy=np.bincount(which, right, bins) / filled,
        count=count,
    )


def expected_calibration_error(
    label: np.ndarray, probability: np.ndarray, bins: int = CALIBRATION_BINS
) -> float:
    """Return the mean over objects of |accuracy - confidence| in bins of confidence (Guo et al. 2017)."""
    bin_ = reliability(label, probability, bins)
    filled = bin_.count > 0
    gap = np.abs(bin_.accuracy - bin_.confidence)[filled]
    return float(np.sum(gap * bin_.count[filled]) / bin_.count.sum())


def brier(label: np.ndarray, probability: np.ndarray) -> float:
    """Return the Brier score: mean over objects of the sum over classes of (p - truth)^2 (Brier 1950).

    Halved for two classes, so that it is the usual mean of (p - truth)^2 of one of them.
    """
    label, probability = _probabilities(label, probability)
    truth = np.eye(probability.shape[1])[label]
    total = float(np.mean(np.sum((probability - truth) ** 2, axis=1)))
    return total / 2 if probability.shape[1] == 2 else total


def evaluate(
    label: np.ndarray,
    probability: np.ndarray,
    *,
    decides_only: bool = False,
    temperature: float | None = None,
) -> Evaluation:
    """Measure everything on one run.

    Parameters
    ----------
    label : ndarray of int, shape (N,)
        True class indices.
    probability : ndarray of float, shape (N, C)
        Predicted probabilities.
    decides_only : bool
        The probabilities are mere decisions; what needs a ranking or a confidence is then NaN.
    temperature : float, optional
        Of :mod:`.temperature`; concerns ``ece_scaled`` alone.

    Raises
    ------
    DataError
        If a probability is not finite or a label is outside the classes.
    """
    label, probability = _probabilities(label, probability)
    num_classes = probability.shape[1]
    nothing = np.full(num_classes, np.nan)
    scaled = None if temperature is None else temperature_scaled(logits_of(probability), temperature)
    one_against_rest = [(label == k, probability[:, k]) for k in range(num_classes)]
    return Evaluation(
        scores=scores(confusion(label, predict(probability), num_classes)),
        auc=nothing if decides_only else np.array([roc_auc(*side) for side in one_against_rest]),
        average_precision=nothing
        if decides_only
        else np.array([average_precision(*side) for side in one_against_rest]),
        ece=float("nan") if decides_only else expected_calibration_error(label, probability),
        brier=float("nan") if decides_only else brier(label, probability),
        ece_scaled=float("nan") if scaled is None else expected_calibration_error(label, scaled),
    )


def wilson_interval(
    right: np.ndarray | float, count: np.ndarray | int, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Wilson score interval of a fraction ``right / count`` (Wilson 1927).

    It stays inside [0, 1] and keeps a width when all or none are right, which mean +- sigma does not.

    Parameters
    ----------
    right : array_like of float
        Number of successes; need not be whole, so that a mean over runs can be used.
    count : array_like of int
        Number of trials, at least 1.
    confidence : float
        Probability that the interval holds the true fraction.
    """
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    right, count = np.asarray(right, np.float64), np.asarray(count, np.float64)
    fraction = right / count
    centre = (fraction + z2 / (2 * count)) / (1 + z2 / count)
    half = np.sqrt(z2 * (fraction * (1 - fraction) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    # Rounding must not push an end past the fraction itself when all or none are right.
    return np.minimum(np.maximum(centre - half, 0), fraction), np.maximum(
        np.minimum(centre + half, 1), fraction
    )


def magnitude_edges(magnitude: np.ndarray) -> np.ndarray:
    """Return round bin edges that cover the finite magnitudes, 0.5 mag wide, or 0.25 for a range under 4 mag.

    The width follows the middle 96 % of the objects, so that one outlier does not decide it.
    """
    finite = np.asarray(magnitude)[np.isfinite(magnitude)]
    if len(finite) == 0:
        return np.empty(0)
    bright, faint = np.quantile(finite, (0.02, 0.98))
    width = 0.25 if faint - bright < 4 else 0.5
    first, last = np.floor(finite.min() / width), np.floor(finite.max() / width) + 1
    return np.arange(first, last + 1) * width


_COMPACTNESS_WIDTHS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_COMPACTNESS_BINS = 15
_MOST_BINS = 200


def compactness_edges(compactness: np.ndarray) -> np.ndarray:
    """Return round bin edges for compactness (deVRad / psfFWHM), at most 15 for the middle 96 % of objects.

    They cover all finite values up to 200 bins; what lies beyond is too rare to be counted in bins.
    """
    finite = np.asarray(compactness, np.float64)[np.isfinite(compactness)]
    if len(finite) == 0:
        return np.empty(0)
    low, high = np.quantile(finite, (0.02, 0.98))
    wide_enough = [w for w in _COMPACTNESS_WIDTHS if (high - low) / w <= _COMPACTNESS_BINS]
    width = wide_enough[0] if wide_enough else _COMPACTNESS_WIDTHS[-1]
    first = np.floor(max(float(finite.min()), low - _MOST_BINS / 2 * width) / width)
    last = min(np.floor(finite.max() / width) + 1, first + _MOST_BINS)
    return np.arange(first, last + 1) * width


def accuracy_by_magnitude(
    magnitude: np.ndarray, right: np.ndarray, edges: np.ndarray, *, minimum: int = 20
) -> MagnitudeBins:
    """Return the fraction right in bins of magnitude with 95 % Wilson intervals.

    Parameters
    ----------
    magnitude : ndarray of float, shape (N,)
        Or any other quantity. Objects without a finite one are left out.
    right : ndarray of bool, shape (N,), or of float for a mean over runs
        Whether each object was classified correctly, or in which fraction of runs. Runs share their
        objects, so the interval counts objects, however many runs there are.
    edges : ndarray of float64, shape (B + 1,)
        Edges of the bins, rising.
    minimum : int
        Bins with fewer objects are dropped.
    """
    magnitude, right = np.asarray(magnitude, np.float64), np.asarray(right, np.float64)
    if len(magnitude) != len(right):
        raise DataError(f"{len(right)} results for {len(magnitude)} magnitudes")
    bins = max(len(edges) - 1, 0)
    which = np.searchsorted(edges, magnitude, side="right") - 1
    use = np.isfinite(magnitude) & (which >= 0) & (which < bins)
    count = np.bincount(which[use], minlength=bins)
    correct = np.bincount(which[use], right[use], bins)
    keep = count >= max(minimum, 1)
    low, high = wilson_interval(correct[keep], count[keep])
    return MagnitudeBins(
        lower=edges[:-1][keep],
        upper=edges[1:][keep],
        count=count[keep],
        accuracy=correct[keep] / count[keep],
        low=low,
        high=high,
    )


def mean_and_spread(values: Sequence[float]) -> Spread:
    """Return the mean over runs and their sample standard deviation (None for one run).

    Raises
    ------
    DataError
        If there is no value.
    """
    if len(values) == 0:
        raise DataError("no run to take the mean of", expected="at least one")
    array = np.asarray(values, np.float64)
    spread = float(array.std(ddof=1)) if len(array) > 1 else None
    return Spread(float(array.mean()), spread, len(array))


def confident_mistakes(label: np.ndarray, probability: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of the wrongly classified objects with the highest confidence, most confident first.

    Returns
    -------
    ndarray of int64, shape (at most count,)
    """
    label, probability = _probabilities(label, probability)
    wrong = np.flatnonzero(predict(probability) != label)
    order = np.argsort(-probability[wrong].max(axis=1), kind="stable")
    return wrong[order][:count].astype(np.int64)
