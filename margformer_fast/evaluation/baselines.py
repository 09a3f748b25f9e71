"""What a network has to beat: a survey's own separator, and boosted trees on the catalogue features."""

from __future__ import annotations

import numpy as np

from ..errors import DataError

SEPARATOR_CUT = 0.145
"""Magnitudes by which an extended object must be brighter than a point-source fit says."""

BOOSTING = {"learning_rate": 0.1, "max_iter": 400, "max_leaf_nodes": 31, "min_samples_leaf": 20}
"""Settings of :func:`features_only`, fixed so that the baseline cannot be tuned to lose."""

HOLD_OUT = {"validation_fraction": 0.1, "n_iter_no_change": 20}
"""Early stopping of :func:`features_only`, on a hold-out part of its training objects."""

_FEWEST_FOR_HOLD_OUT = 50


def features_only(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, num_classes: int, seed: int
) -> np.ndarray:
    """Classify from catalogue features alone, by histogram gradient boosting.

    scikit-learn's ``HistGradientBoostingClassifier`` with `BOOSTING`; it stops early by `HOLD_OUT` when
    every class has at least 50 training objects. Trees need no scaling and take NaN as "missing".

    Parameters
    ----------
    train_x, test_x : ndarray of float, shapes (N, F) and (M, F)
        Features; NaN where missing.
    train_y : ndarray of int, shape (N,)
        Class indices.
    num_classes : int
        Number of classes C of the task.
    seed : int
        Chooses the hold-out objects.

    Returns
    -------
    ndarray of float64, shape (M, C)
        Probabilities; 0 for a class without training objects.

    Raises
    ------
    DataError
        If a feature is infinite, shapes do not fit, or the training objects are all of one class.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    train_x, test_x, train_y = np.asarray(train_x), np.asarray(test_x), np.asarray(train_y)
    if train_x.ndim != 2 or test_x.ndim != 2 or train_x.shape[1] != test_x.shape[1]:
        raise DataError(
            f"features have shapes {train_x.shape} and {test_x.shape}",
            expected="(N, F) and (M, F) with one F",
        )
    if train_y.shape != (len(train_x),):
        raise DataError(f"training labels have shape {train_y.shape}", expected=f"({len(train_x)},)")
    for name, x in (("training", train_x), ("test", test_x)):
        bad = np.flatnonzero(np.isinf(x).any(axis=1))
        if len(bad):
            raise DataError(
                f"{len(bad)} of {len(x)} {name} objects have an infinite feature, the first in row {bad[0]}",
                mend="Use NaN for a missing value.",
            )
    there, count = np.unique(train_y, return_counts=True)
    if len(there) and (there[0] < 0 or there[-1] >= num_classes):
        raise DataError(
            f"training labels run from {there[0]} to {there[-1]}", expected=f"0 to {num_classes - 1}"
        )
    if len(there) < 2:
        raise DataError("the training objects are all of one class", expected="at least two classes")
    model = HistGradientBoostingClassifier(
        **BOOSTING, **HOLD_OUT, early_stopping=bool(count.min() >= _FEWEST_FOR_HOLD_OUT), random_state=seed
    )
    probability = np.zeros((len(test_x), num_classes))
    # One thread: a tree's steps are so short that, on a shared machine, threads mostly wait for each other.
    # 20,000 objects took 0.4 s with one thread and 3.2 s with two, beside other work on two cores.
    with threadpool_limits(1):
        model.fit(train_x, train_y)
        probability[:, there] = model.predict_proba(test_x)
    return probability


def survey_separator(psfmag: np.ndarray, modelmag: np.ndarray, cut: float = SEPARATOR_CUT) -> np.ndarray:
    """Tell extended objects from point sources as SDSS photometry does: ``psfMag - modelMag > 0.145``.

    A point-source fit misses light of an extended object, so its PSF magnitude is fainter than that of
    the better of an exponential and a de Vaucouleurs profile. This is the early SDSS criterion (Stoughton
    et al. 2002, AJ 123, 485), applied to one band; give it the r band, the deepest for most objects. Since
    DR2 the survey uses the composite (cmodel) magnitude with the same cut, in each band for ``type`` and
    on the fluxes summed over bands for ``objc_type``; pass cmodel magnitudes as `modelmag` for that.

    Parameters
    ----------
    psfmag, modelmag : ndarray of float, shape (N,)
        PSF and model magnitudes in one band.
    cut : float
        Difference in magnitudes above which an object is extended.

    Returns
    -------
    ndarray of bool, shape (N,)
        True for a galaxy (extended).

    Raises
    ------
    DataError
        If a magnitude is not finite or a sentinel such as -9999, or shapes differ.
    """
    psfmag, modelmag = np.asarray(psfmag, np.float64), np.asarray(modelmag, np.float64)
    if psfmag.shape != modelmag.shape:
        raise DataError(f"magnitudes have shapes {psfmag.shape} and {modelmag.shape}", expected="one shape")
    for name, value in (("psfMag", psfmag), ("modelMag", modelmag)):
        bad = np.flatnonzero(~np.isfinite(value) | (value < -100))
        if len(bad):
            raise DataError(
                f"{name} is missing for {len(bad)} of {len(value)} objects, the first in row {bad[0]}",
                mend="Leave these objects out of the test set.",
            )
    return psfmag - modelmag > cut


def decisions(predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return decisions as probabilities of 0 and 1, shape (N, C), from class indices, shape (N,)."""
    return np.eye(num_classes)[np.asarray(predicted, np.int64)]
