"""Conformal prediction: for each object a set of classes that holds the true one as often as is asked for.

Split conformal prediction (Papadopoulos et al. 2002; Vovk, Gammerman & Shafer 2005, "Algorithmic Learning in
a Random World") with the score 1 - p(class): objects that the classifier was not fitted to tell how unsure it
is of the true class, and a class enters the set of a new object unless it is less likely than nearly all of
those. Each class is calibrated by itself ("Mondrian", label-conditional): the promise then holds for each.

Three kinds: by class; by class and magnitude; and weighted by class for a test sample whose covariates are
distributed otherwise than those of the calibration objects (Tibshirani, Barber, Candes & Ramdas 2019,
arXiv:1904.06019). docs/conformal.md says what each promises, and when it does not hold.

Shapes: N objects to classify, n calibration objects, C classes, k covariates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import DataError
from .density_ratio import density_ratio, effective_size
from .metrics import Curve, roc_curve, wilson_interval

LEVELS = (0.68, 0.90, 0.95, 0.99)
"""Shares of objects whose set is to hold the true class."""

KINDS = ("class", "class-magnitude", "weighted")
"""How the sets are calibrated."""

FEWEST_IN_BIN = 100
"""Calibration objects of a class that a bin of magnitude needs: with 99 the level 99 % has a threshold."""

BIN_WIDTH_MAG = 0.25
"""Width of the bins before they are merged; edges are multiples of it."""

_ROUNDING = 1e-9
"""Two levels this close are one: 75 * 0.68 is 51, though not in float64."""


@dataclass(frozen=True)
class Category:
    """Calibration objects that are compared with: those of one class, perhaps in a bin of magnitude.

    Parameters
    ----------
    label : int
        The class.
    score : ndarray of float64, shape (n,)
        1 - p(class) of each object, rising.
    mass : ndarray of float64, shape (n + 1,)
        Sum of the weights of the first 0, 1, ... n of them.
    effective : float
        Effective number of objects, (sum w)^2 / sum w^2; n if all weights are 1.
    lower, upper : float
        Bin of magnitude, ``lower <= r < upper``.
    own : float
        Median weight of the objects to classify; 1 without weights.
    """

    label: int
    score: np.ndarray
    mass: np.ndarray
    effective: float
    lower: float = -np.inf
    upper: float = np.inf
    own: float = 1.0

    def __len__(self) -> int:
        return len(self.score)

    def p_value(self, score: np.ndarray, own: np.ndarray | float = 1.0) -> np.ndarray:
        """Return the weight, as a share of all, of what is as strange as an object or stranger, with itself.

        Parameters
        ----------
        score : ndarray of float64, shape (M,)
            1 - p(class) of the objects.
        own : float or ndarray of float64, shape (M,)
            Their own weight, which counts as infinitely strange.

        Returns
        -------
        ndarray of float64, shape (M,)
            Above 0, at most 1. With weights of 1 it is (1 + number of scores >= this) / (1 + n).
        """
        below = self.mass[np.searchsorted(self.score, score, side="left")]
        return 1 - below / (self.mass[-1] + own)

    def threshold(self, level: float, own: float | None = None) -> float:
        """Return the largest score with which the class enters a set of this level.

        With weights of 1 it is the k-th smallest score, k = ceil((n + 1) level); in general the quantile
        `level` of the weighted scores with the object's own weight (`own`; the median one if not given) at
        infinity. 1, so that the class always enters, where that quantile is infinite.
        """
        total = self.mass[-1] + (self.own if own is None else own)
        place = int(np.searchsorted(self.mass[1:], (level - _ROUNDING) * total, side="left"))
        return float(self.score[place]) if place < len(self.score) else 1.0


@dataclass(frozen=True)
class ClassWeights:
    """Density ratios p_test(x) / p_calibration(x | class) for one class.

    Parameters
    ----------
    calibration : ndarray of float64, shape (n_y,)
        At the calibration objects of the class, in their order; mean 1.
    test : ndarray of float64, shape (N,)
        At the test objects.
    """

    calibration: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Conformal:
    """Every class of every object with the level from which on it is in the object's set.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    p_value : ndarray of float64, shape (N, C)
        A class is in the set of level L if this is above 1 - L.
    categories : tuple of Category
        What was compared with, by class, then by magnitude.
    """

    kind: str
    p_value: np.ndarray
    categories: tuple[Category, ...]

    def sets(self, level: float) -> np.ndarray:
        """Return which classes are in each object's set, bool (N, C). A set may be empty."""
        return self.p_value > 1 - level + _ROUNDING


@dataclass(frozen=True)
class SetScores:
    """How often sets hold the true class, and how large they are.

    Parameters
    ----------
    coverage, low, high : float
        Share of objects whose set holds the true class, and its 95 % Wilson interval from their number.
    class_count : ndarray of int64, shape (C,)
        Objects of each true class.
    class_coverage, class_low, class_high : ndarray of float64, shape (C,)
        The same for each class; NaN for a class without objects.
    mean_size : float
        Mean number of classes in a set.
    size_share : ndarray of float64, shape (C + 1,)
        Share of sets with 0, 1, ... C classes.
    """

    coverage: float
    low: float
    high: float
    class_count: np.ndarray
    class_coverage: np.ndarray
    class_low: np.ndarray
    class_high: np.ndarray
    mean_size: float
    size_share: np.ndarray


def by_class(label: np.ndarray, calibration: np.ndarray, probability: np.ndarray) -> Conformal:
    """Calibrate each class by itself.

    If objects of a class are exchangeable with its calibration objects, the set of level L holds the true
    class of at least a share L of them, on average over calibration sets, whatever the classifier.

    Parameters
    ----------
    label : ndarray of int, shape (n,)
        True class of each calibration object; a class may have none, and is then in every set.
    calibration : ndarray of float, shape (n, C)
        Their probabilities, from a classifier that was not fitted to them.
    probability : ndarray of float, shape (N, C)
        Probabilities of the objects to classify.

    Returns
    -------
    Conformal

    Raises
    ------
    DataError
        If shapes do not fit, a label is outside the classes or a probability is not in [0, 1].
    """
    label, calibration, probability = _checked(label, calibration, probability)
    scores = scores_by_class(label, calibration)
    return by_sorted_scores(scores, probability)


def scores_by_class(label: np.ndarray, calibration: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what sets by class need of calibration objects: for each class the scores 1 - p, rising.

    Parameters
    ----------
    label, calibration : ndarray
        As for :func:`by_class`.

    Returns
    -------
    tuple of ndarray of float64, length C
        Of the objects of each class; empty for a class without objects.

    Raises
    ------
    DataError
        As :func:`by_class`.
    """
    label, calibration, _ = _checked(label, calibration, calibration)
    return tuple(np.sort(1 - calibration[label == k, k]) for k in range(calibration.shape[1]))


def by_sorted_scores(scores: Sequence[np.ndarray], probability: np.ndarray) -> Conformal:
    """Compare objects with scores that were kept: :func:`by_class` without its calibration objects.

    Parameters
    ----------
    scores : sequence of ndarray of float64, length C
        From :func:`scores_by_class`.
    probability : ndarray of float, shape (N, C)
        Probabilities of the objects to classify.

    Raises
    ------
    DataError
        If there are not as many classes as scores, or a probability is not in [0, 1].
    """
    _, _, probability = _checked(np.empty(0, np.int64), np.empty((0, len(scores))), probability)
    categories = tuple(_category(k, score) for k, score in enumerate(scores))
    p_value = [each.p_value(1 - probability[:, each.label]) for each in categories]
    return Conformal("class", np.stack(p_value, axis=1), categories)


def by_class_and_magnitude(
    label: np.ndarray,
    calibration: np.ndarray,
    calibration_r: np.ndarray,
    probability: np.ndarray,
    r: np.ndarray,
    *,
    fewest: int = FEWEST_IN_BIN,
) -> Conformal:
    """Calibrate each class by itself in bins of magnitude, so that the promise holds in each bin.

    The bins of a class come from its calibration magnitudes: cells of `BIN_WIDTH_MAG` are joined from the
    faint end until each bin has `fewest` objects; what is left joins the brightest bin. The outer bins are
    open. A class with fewer than twice as many has one bin, all its objects. Objects without a magnitude are
    compared with all calibration objects of the class.

    Parameters
    ----------
    label, calibration, probability : ndarray
        As for :func:`by_class`.
    calibration_r, r : ndarray of float, shapes (n,) and (N,)
        Magnitudes; NaN where unknown.
    fewest : int
        Calibration objects of a class in a bin, at least 1.

    Returns
    -------
    Conformal

    Raises
    ------
    DataError
        As :func:`by_class`; or if there are not as many magnitudes as objects, or `fewest` is not positive.
    """
    label, calibration, probability = _checked(label, calibration, probability)
    calibration_r = _column(calibration_r, len(calibration), "calibration magnitudes")
    r = _column(r, len(probability), "magnitudes")
    if fewest < 1:
        raise DataError(f"a bin cannot have {fewest} objects at least", expected="1 or more")
    whole = by_class(label, calibration, probability)
    p_value, categories = whole.p_value.copy(), []
    for k, one in enumerate(whole.categories):
        mine = label == k
        inner = _inner_edges(calibration_r[mine], fewest)
        if not len(inner):
            categories.append(one)
            continue
        edges = np.concatenate([[-np.inf], inner, [np.inf]])
        for lower, upper in pairwise(edges):
            there = mine & (calibration_r >= lower) & (calibration_r < upper)
            category = _category(k, 1 - calibration[there, k], lower=lower, upper=upper)
            here = (r >= lower) & (r < upper)
            p_value[here, k] = category.p_value(1 - probability[here, k])
            categories.append(category)
    return Conformal("class-magnitude", p_value, tuple(categories))


def weighted_by_class(
    label: np.ndarray, calibration: np.ndarray, weights: Sequence[ClassWeights], probability: np.ndarray
) -> Conformal:
    """Calibrate each class by itself with weights that make its calibration objects like the test sample.

    What is assumed: within a class, the scores depend on the sample only through the covariates (p(score |
    class, x) is one for both samples), and in the test sample the covariates are distributed alike for all
    classes, p(x | class) = p(x). The latter is so by construction in Experiment 3, whose test set has as many
    galaxies as stars in each 0.1 mag of r. Each calibration object of class y then counts
    p_test(x) / p_calibration(x | y), which needs no test label. Each test object has its own threshold,
    since its own weight stands at infinity (Tibshirani et al. 2019, equation 7).

    Parameters
    ----------
    label, calibration, probability : ndarray
        As for :func:`by_class`.
    weights : sequence of ClassWeights, length C
        From :func:`covariate_weights`. NaN marks objects without covariates: such a calibration object is
        left out, such a test object is compared with all calibration objects of the class, unweighted.

    Returns
    -------
    Conformal

    Raises
    ------
    DataError
        As :func:`by_class`; or if there are not as many weights as objects or a weight is not positive.
    """
    label, calibration, probability = _checked(label, calibration, probability)
    if len(weights) != calibration.shape[1]:
        raise DataError(f"weights of {len(weights)} classes", expected=f"{calibration.shape[1]}")
    whole = by_class(label, calibration, probability)
    p_value, categories = whole.p_value.copy(), []
    for k, weight in enumerate(weights):
        score = 1 - calibration[label == k, k]
        mine = _column(weight.calibration, len(score), f"calibration weights of class {k}")
        own = _column(weight.test, len(probability), f"test weights of class {k}")
        if np.any(mine <= 0) or np.any(own <= 0):
            raise DataError(f"a weight of class {k} is not positive", expected="ratios of densities above 0")
        has, known = np.isfinite(mine), np.isfinite(own)
        category = _category(
            k, score[has], weight=mine[has], own=float(np.median(own[known])) if known.any() else 1.0
        )
        p_value[known, k] = category.p_value(1 - probability[known, k], own[known])
        categories.append(category)
    return Conformal("weighted", p_value, tuple(categories))


def covariate_weights(
    label: np.ndarray, calibration_x: np.ndarray, x: np.ndarray, num_classes: int
) -> list[ClassWeights]:
    """Estimate the weights of each class from covariates; they depend on no classifier and no test label.

    Parameters
    ----------
    label : ndarray of int, shape (n,)
        True class of each calibration object.
    calibration_x, x : ndarray of float, shapes (n, k) and (N, k)
        Covariates of calibration and test objects, such as the magnitude; a row that is not finite has
        weight NaN.
    num_classes : int
        C.

    Returns
    -------
    list of ClassWeights, length C

    Raises
    ------
    DataError
        If the covariates are not tables of as many columns, or there is not a row for each label.
    """
    label, calibration_x = np.asarray(label), np.asarray(calibration_x, np.float64)
    if len(calibration_x) != len(label):
        raise DataError(f"{len(calibration_x)} rows of covariates for {len(label)} calibration objects")
    return [ClassWeights(*density_ratio(calibration_x[label == k], x)) for k in range(num_classes)]


def holds_truth(label: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Return whether each object's set holds its true class, bool (N,), from labels (N,) and sets (N, C)."""
    return np.asarray(member, bool)[np.arange(len(label)), label]


def score_sets(label: np.ndarray, member: np.ndarray) -> SetScores:
    """Measure sets against true classes.

    Parameters
    ----------
    label : ndarray of int, shape (N,)
        True classes.
    member : ndarray of bool, shape (N, C)
        Which classes are in each set.

    Raises
    ------
    DataError
        If there is no object, or labels and sets do not fit together.
    """
    label, member = np.asarray(label), np.asarray(member, bool)
    if member.ndim != 2 or not len(member):
        raise DataError(f"sets have shape {member.shape}", expected="(N, classes), one object at least")
    classes = member.shape[1]
    label = _labels(label, len(member), classes)
    right = holds_truth(label, member)
    count = np.bincount(label, minlength=classes)
    there = count > 0
    rates = np.full((3, classes), np.nan)
    held = np.bincount(label, right, classes)[there]
    rates[:, there] = held / count[there], *wilson_interval(held, count[there])
    low, high = wilson_interval(float(right.sum()), len(right))
    size = member.sum(axis=1)
    return SetScores(
        coverage=float(right.mean()),
        low=float(low),
        high=float(high),
        class_count=count,
        class_coverage=rates[0],
        class_low=rates[1],
        class_high=rates[2],
        mean_size=float(size.mean()),
        size_share=np.bincount(size, minlength=classes + 1) / len(size),
    )


def membership_roc(label: np.ndarray, p_value: np.ndarray) -> Curve:
    """Return the ROC curve of set membership as the level goes from 0 to 1, over pairs of object and class.

    True positives are true classes that are in their object's set, false ones wrong classes (micro average).
    """
    truth = np.arange(p_value.shape[1]) == np.asarray(label)[:, None]
    return roc_curve(truth.ravel(), p_value.ravel())


def _labels(label: np.ndarray, n: int, classes: int) -> np.ndarray:
    if label.shape != (n,) or (n and not np.issubdtype(label.dtype, np.integer)):
        raise DataError(
            f"labels have shape {label.shape} and type {label.dtype}", expected=f"integers, ({n},)"
        )
    if n and (label.min() < 0 or label.max() >= classes):
        raise DataError(
            f"labels run from {label.min()} to {label.max()}",
            expected=f"class indices from 0 to {classes - 1}",
        )
    return label.astype(np.int64)


def _checked(
    label: np.ndarray, calibration: np.ndarray, probability: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    calibration, probability = np.asarray(calibration, np.float64), np.asarray(probability, np.float64)
    if calibration.ndim != 2 or probability.ndim != 2 or calibration.shape[1] != probability.shape[1]:
        raise DataError(
            f"probabilities have shapes {calibration.shape} and {probability.shape}",
            expected="(n, C) of calibration objects and (N, C) with one C",
        )
    for what, p in (("calibration", calibration), ("test", probability)):
        bad = np.flatnonzero(~((p >= 0) & (p <= 1)).all(axis=1))
        if len(bad):
            raise DataError(
                f"{len(bad)} of {len(p)} {what} objects have a probability outside [0, 1], the first in row "
                f"{bad[0]}",
                mend="Apply softmax to logits first.",
            )
    return _labels(np.asarray(label), len(calibration), calibration.shape[1]), calibration, probability


def _column(values: np.ndarray, n: int, what: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.shape != (n,):
        raise DataError(f"{what} have shape {values.shape}", expected=f"({n},), as many as objects")
    return values


def _category(
    label: int,
    score: np.ndarray,
    *,
    weight: np.ndarray | None = None,
    lower: float = -np.inf,
    upper: float = np.inf,
    own: float = 1.0,
) -> Category:
    weight = np.ones(len(score)) if weight is None else weight
    order = np.argsort(score, kind="stable")
    mass = np.concatenate([[0.0], np.cumsum(weight[order])])
    return Category(label, score[order], mass, effective_size(weight), float(lower), float(upper), own)


def _inner_edges(r: np.ndarray, fewest: int) -> np.ndarray:
    """Return the magnitudes that part the bins of a class, rising; none if there is but one bin."""
    cells, count = np.unique(np.floor(r[np.isfinite(r)] / BIN_WIDTH_MAG), return_counts=True)
    edges, gathered, left = [], 0, int(count.sum())
    for cell, objects in zip(cells[::-1], count[::-1], strict=True):
        gathered, left = gathered + objects, left - objects
        if gathered >= fewest and left >= fewest:
            edges.append(cell * BIN_WIDTH_MAG)
            gathered = 0
    return np.array(edges[::-1], np.float64)
