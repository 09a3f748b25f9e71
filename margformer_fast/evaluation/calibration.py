"""What a trained classifier is told after training so that its numbers can be believed, without its data.

Two things come from objects that it was not fitted to: a temperature, which makes its probabilities as sure
as they are right (:mod:`.temperature`), and the scores of each class, from which prediction sets of any level
are made (:mod:`.conformal`). Sets are made from probabilities as the network gave them: they need no
temperature, and so stay the sets that a run measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..errors import ConfigError, DataError
from .conformal import by_sorted_scores, scores_by_class
from .temperature import fit_temperature, logits_of

LOWEST_LEVEL, HIGHEST_LEVEL = 0.5, 0.999
"""Levels that sets are made at."""

_SCHEMA = 1


@dataclass(frozen=True)
class Calibration:
    """A temperature, and how strange calibration objects of each class looked.

    Parameters
    ----------
    temperature : float
        Logits are divided by it.
    scores : tuple of ndarray of float64
        For each class 1 - p(class) of its calibration objects, rising, p without temperature.
    """

    temperature: float
    scores: tuple[np.ndarray, ...]

    @classmethod
    def fit(cls, label: np.ndarray, probability: np.ndarray) -> Self:
        """Calibrate on objects that the classifier was not fitted to.

        Parameters
        ----------
        label : ndarray of int, shape (n,)
            True classes.
        probability : ndarray of float, shape (n, C)
            Probabilities as the network gave them.

        Raises
        ------
        DataError
            If there is no object, shapes do not fit, a label is outside the classes, or a probability is not
            in [0, 1].
        """
        scores = scores_by_class(label, probability)
        return cls(fit_temperature(label, logits_of(probability)), scores)

    def sets(self, probability: np.ndarray, level: float) -> np.ndarray:
        """Return which classes are in each object's set.

        Parameters
        ----------
        probability : ndarray of float, shape (N, C)
            Probabilities as the network gave them, without temperature.
        level : float
            Share of objects whose set is to hold the true class, from `LOWEST_LEVEL` to `HIGHEST_LEVEL`.

        Returns
        -------
        ndarray of bool, shape (N, C)
            A set may be empty. A class with too few calibration objects for the level is in every set.

        Raises
        ------
        ConfigError
            If the level is outside.
        DataError
            If the probabilities are of another number of classes or not in [0, 1].
        """
        return by_sorted_scores(self.scores, probability).sets(checked_level(level))

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the calibration as ``calibration.json`` holds it."""
        return {
            "schema": _SCHEMA,
            "temperature": self.temperature,
            "score": "1 - p(class), p without temperature, of the calibration objects of the class, rising",
            "scores": {name: score.tolist() for name, score in zip(classes, self.scores, strict=True)},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], classes: Sequence[str], where: Path) -> Self:
        """Read what :meth:`to_dict` made.

        Raises
        ------
        DataError
            If something is missing, not a number, out of range or out of order, naming it and `where`.
        """
        if not isinstance(values, Mapping) or values.get("schema") != _SCHEMA:
            found = values.get("schema") if isinstance(values, Mapping) else values
            raise DataError(
                f"has schema {found!r:.60}",
                where=where,
                expected=str(_SCHEMA),
                mend="Copy or save the model again.",
            )
        temperature, scores = values.get("temperature"), values.get("scores")
        if not (isinstance(temperature, int | float) and math.isfinite(temperature) and temperature > 0):
            raise DataError(
                f"temperature is {temperature!r}", where=where, expected="a finite number above 0"
            )
        if not isinstance(scores, Mapping) or set(scores) != set(classes):
            found = sorted(scores) if isinstance(scores, Mapping) else scores
            raise DataError(f"scores are of {found}", where=where, expected=", ".join(classes))
        return cls(float(temperature), tuple(_scores(scores[name], name, where) for name in classes))


def checked_level(level: float) -> float:
    """Return a level that sets can be made at.

    Raises
    ------
    ConfigError
        If it is not from `LOWEST_LEVEL` to `HIGHEST_LEVEL`.
    """
    if not LOWEST_LEVEL <= level <= HIGHEST_LEVEL:
        raise ConfigError(f"level is {level}", expected=f"from {LOWEST_LEVEL} to {HIGHEST_LEVEL}")
    return float(level)


def _scores(values: Any, name: str, where: Path) -> np.ndarray:
    try:
        score = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        score = np.full(1, np.nan)
    if score.ndim != 1 or not np.all((score >= 0) & (score <= 1)) or np.any(np.diff(score) < 0):
        raise DataError(
            f"scores of {name} are not usable", where=where, expected="numbers from 0 to 1, rising"
        )
    return score
