"""Weights under which every class is as common at each magnitude, whatever the survey selected."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import SplineTransformer

from ..errors import DataError

LARGEST_WEIGHT = 20.0
"""Of one object, relative to one of a class that is alone at its magnitude: else a class that is hardly
there at a magnitude would rest on a few objects."""

_KNOTS = 6
_FEWEST = 200


class MagnitudeBalance:
    """The probability of each class at a magnitude, of which weights are the inverse.

    Spectroscopic samples of compact sources hold bright stars and faint galaxies: a classifier learns that
    what is faint is a galaxy, which is true of the selection and not of the sky. Weighted by 1 / p(class | r)
    classes are equally common at every magnitude r, as in the test set of Experiment 3 (label shift given r:
    Saerens, Latinne & Decaestecker 2002, Neural Computation 14, 21). No test object is looked at.

    p(class | r) is a logistic regression on cubic splines of r with knots at quantiles; with fewer than 200
    objects on r itself.

    Parameters
    ----------
    label : ndarray of int, shape (N,)
        Classes of the training set.
    magnitude : ndarray of float, shape (N,)
        Observed magnitudes in the reference band.

    Raises
    ------
    DataError
        If a magnitude is not finite, or there are fewer than two classes.
    """

    def __init__(self, label: np.ndarray, magnitude: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(magnitude))
        if len(bad):
            raise DataError(
                f"{len(bad)} of {len(magnitude)} objects have no magnitude to balance classes by, "
                f"the first in row {bad[0]}",
                mend="Leave these objects out, or use --balance none.",
            )
        self._classes = np.unique(label)
        if len(self._classes) < 2:
            raise DataError("classes cannot be balanced, there is one alone", expected="at least two classes")
        regression = LogisticRegression(C=10.0, max_iter=1000)
        self._model: Pipeline = (
            make_pipeline(SplineTransformer(_KNOTS, 3, knots="quantile", extrapolation="linear"), regression)
            if len(label) >= _FEWEST
            else make_pipeline(regression)
        )
        self._centre = float(np.mean(magnitude))
        self._model.fit(magnitude[:, None] - self._centre, label)

    def weights(self, label: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
        """Return weights of objects, of mean 1.

        Parameters
        ----------
        label : ndarray of int, shape (M,)
            Classes, all of them among those of the training set.
        magnitude : ndarray of float, shape (M,)
            Observed magnitudes.

        Returns
        -------
        ndarray of float64, shape (M,)
        """
        p_MC = self._model.predict_proba(magnitude[:, None] - self._centre)
        p_M = p_MC[np.arange(len(label)), np.searchsorted(self._classes, label)]
        weight_M = np.minimum(1 / p_M, LARGEST_WEIGHT)
        return weight_M / weight_M.mean()
