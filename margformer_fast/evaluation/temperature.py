"""Temperature scaling: one number that makes probabilities as sure as they are right.

Logits are divided by a temperature T before softmax, and T is the one with which objects that the classifier
was not fitted to are most likely (Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599). The order of classes
stays, so every decision and the accuracy do too.

Shapes: N objects, C classes.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError, DataError

COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures that are looked through; networks need 1 to 3."""

_SMALLEST = 1e-300  # a probability of 0 has no logarithm
_HALVINGS = 60  # of the range of 1/T: beyond what float64 tells apart


def logits_of(probability: np.ndarray) -> np.ndarray:
    """Return logits whose softmax is `probability` (N, C), as float64; those of a network are as good."""
    return np.log(np.maximum(np.asarray(probability, np.float64), _SMALLEST))


def fit_temperature(label: np.ndarray, logits: np.ndarray) -> float:
    """Return the temperature with which the true classes are most likely.

    The mean of -ln p(true class) is convex in b = 1/T; its slope is the mean over objects of
    ``sum_k p_k z_k - z_true`` with p = softmax(b z), and where that changes sign is found by halving.

    Parameters
    ----------
    label : ndarray of int, shape (N,)
        True classes of objects that the classifier was not fitted to.
    logits : ndarray of float, shape (N, C)
        Logits, in any precision; the fit is made in float64.

    Returns
    -------
    float
        From `COLDEST` to `HOTTEST`. 1, which changes nothing, if no object is wrong (or all logits are
        equal): nothing then says how sure is too sure. `HOTTEST` if the logits tell nothing of the classes.

    Raises
    ------
    DataError
        If there is no object, a logit is not finite, a label is outside the classes, or shapes do not fit.
    """
    label, z = np.asarray(label), _checked(logits)
    if label.shape != (len(z),) or not np.issubdtype(label.dtype, np.integer):
        raise DataError(
            f"labels have shape {label.shape} and type {label.dtype}", expected=f"integers, ({len(z)},)"
        )
    if len(z) == 0:
        raise DataError("a temperature cannot be fitted to no object", expected="at least one")
    if label.min() < 0 or label.max() >= z.shape[1]:
        raise DataError(
            f"labels run from {label.min()} to {label.max()}",
            expected=f"class indices from 0 to {z.shape[1] - 1}",
        )
    z = z - z.max(axis=1, keepdims=True)
    true = np.take_along_axis(z, label[:, None].astype(np.int64), axis=1)[:, 0]
    if np.all(true == 0):
        return 1.0
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(_HALVINGS):
        middle = np.sqrt(low * high)
        likely = np.exp(middle * z)
        mean = (likely * z).sum(axis=1) / likely.sum(axis=1)
        low, high = (middle, high) if np.mean(mean - true) < 0 else (low, middle)
    return float(np.clip(1 / np.sqrt(low * high), COLDEST, HOTTEST))


def temperature_scaled(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(logits / temperature), float64 (N, C).

    Raises
    ------
    ConfigError
        If the temperature is not above zero and finite.
    DataError
        If a logit is not finite, or logits are not (N, C).
    """
    if not (temperature > 0 and np.isfinite(temperature)):
        raise ConfigError(f"temperature is {temperature}", expected="above 0, finite")
    z = _checked(logits)
    likely = np.exp((z - z.max(axis=1, keepdims=True)) / temperature)
    return likely / likely.sum(axis=1, keepdims=True)


def _checked(logits: np.ndarray) -> np.ndarray:
    z = np.asarray(logits, np.float64)
    if z.ndim != 2 or z.shape[1] < 2:
        raise DataError(f"logits have shape {z.shape}", expected="(N, classes), two classes at least")
    bad = np.flatnonzero(~np.isfinite(z).all(axis=1))
    if len(bad):
        raise DataError(f"{len(bad)} of {len(z)} logits are not finite, the first in row {bad[0]}")
    return z
