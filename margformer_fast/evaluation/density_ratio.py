"""How much more frequent objects like one are in one sample than in another."""

from __future__ import annotations

import numpy as np

from ..errors import DataError

LARGEST_RATIO = 100.0
"""Ratios lie between this and its inverse: a fit far outside the data it was made on is no measurement."""

KNOTS = 8
"""Where the logarithm of the ratio may bend, for each covariate."""


def density_ratio(calibration: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate p_target(x) / p_calibration(x), at the objects of both samples, from covariates alone.

    A classifier that tells the samples apart gives the ratio as its odds (Sugiyama, Suzuki & Kanamori 2012,
    "Density Ratio Estimation in Machine Learning", chapter 4): logistic regression on the standardised
    covariates, their squares, and hinges max(0, x - knot) with `KNOTS` knots a covariate at quantiles of the
    target sample. The hinges follow a cut such as r > 20, which squares alone smear out.

    Parameters
    ----------
    calibration, target : ndarray of float, shapes (n, k) and (m, k)
        Covariates, any units. A row that is not finite has no ratio.

    Returns
    -------
    of_calibration, of_target : ndarray of float64, shapes (n,) and (m,)
        The ratio, scaled to a mean of 1 over the calibration objects and clipped to `LARGEST_RATIO` and its
        inverse; NaN without covariates. All 1 where a sample has no object with covariates.

    Raises
    ------
    DataError
        If the samples are not tables with equal numbers of columns.
    """
    sides = [np.asarray(side, np.float64) for side in (calibration, target)]
    if any(side.ndim != 2 or side.shape[1] == 0 for side in sides) or sides[0].shape[1] != sides[1].shape[1]:
        raise DataError(
            f"covariates have shapes {sides[0].shape} and {sides[1].shape}",
            expected="(n, k) and (m, k) with one k",
        )
    known = [np.isfinite(side).all(axis=1) for side in sides]
    found = [np.where(there, 1.0, np.nan) for there in known]
    if not all(there.any() for there in known):
        return found[0], found[1]
    log_odds = _log_odds(sides[0][known[0]], sides[1][known[1]])
    # The largest exponent is taken out first, so that none overflows.
    scale = np.log(np.mean(np.exp(log_odds[0] - log_odds[0].max()))) + log_odds[0].max()
    limit = np.log(LARGEST_RATIO)
    for ratio, there, odds in zip(found, known, log_odds, strict=True):
        ratio[there] = np.exp(np.clip(odds - scale, -limit, limit))
    return found[0], found[1]


def _log_odds(calibration: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithm of the odds of being a target, at the objects of both samples."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    n, pooled = len(calibration), np.concatenate([calibration, target])
    spread = pooled.std(axis=0)
    # A column that does not vary says nothing; rounding may leave its spread a little above zero.
    spread[spread <= 1e-9 * np.abs(pooled).max(axis=0)] = np.inf
    x = (pooled - pooled.mean(axis=0)) / spread
    knots = np.quantile(x[n:], np.linspace(0, 1, KNOTS + 1)[:-1], axis=0)
    hinges = np.maximum(0, x[:, None, :] - knots).reshape(len(x), -1)
    terms = np.concatenate([x, x**2, hinges], axis=1)
    is_target = np.arange(len(x)) >= n
    # Balanced: the odds are then the ratio of densities, whatever the sizes of the samples.
    # Newton's steps end where no order of the objects or unit of the covariates matters.
    model = LogisticRegression(class_weight="balanced", solver="newton-cholesky", tol=1e-8, max_iter=200)
    with threadpool_limits(1):
        log_odds = model.fit(terms, is_target).decision_function(terms)
    return log_odds[:n], log_odds[n:]


def effective_size(weight: np.ndarray) -> float:
    """Return how many objects of equal weight tell as much: (sum w)^2 / sum w^2 (Kish 1965); 0 if none."""
    weight = np.asarray(weight, np.float64)
    return float(weight.sum() ** 2 / np.sum(weight**2)) if weight.any() else 0.0
