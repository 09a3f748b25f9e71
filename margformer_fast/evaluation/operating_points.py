"""Samples cut at a stated requirement: purity at fixed completeness, completeness at fixed purity.

A survey does not use the most probable class: it asks for so many of the galaxies, or for so pure a sample
of stars, and cuts the probability there. Soumagnac et al. (2015, MNRAS 450, 666) put the science requirements
of the Dark Energy Survey in these terms, and judged classifiers by them: a galaxy completeness of 0.96, a
stellar purity of 0.97. Completeness is the recall of a class, the fraction of its objects that are kept;
purity is its precision, the fraction of kept objects that belong to it. Both are of the test objects: purity
moves with the mixture of classes, so it compares methods on the same objects, and surveys only if their
mixtures are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, DataError
from .metrics import ranked

FEWEST_OF_CLASS = 50
"""Objects of the class that a bin needs: with 25, a single one is what a completeness of 0.96 may lose."""

NAN = float("nan")


@dataclass(frozen=True)
class OperatingPoint:
    """A cut of a score, and what it keeps.

    Parameters
    ----------
    threshold : float
        Objects with at least this score are kept; NaN if no cut meets the requirement.
    completeness : float
        Kept fraction of the objects of the class; NaN likewise.
    purity : float
        Fraction of the kept objects that are of the class; NaN likewise.
    kept : int
        Objects kept; 0 if no cut meets the requirement.
    """

    threshold: float
    completeness: float
    purity: float
    kept: int


UNREACHED = OperatingPoint(NAN, NAN, NAN, 0)
"""What is returned when no cut meets the requirement."""


def _cut_where(
    positive: np.ndarray, score: np.ndarray, *, completeness: float = 0.0, purity: float = 0.0, loosest: bool
) -> OperatingPoint:
    """Return the strictest or the loosest cut that has so much of both."""
    if len(positive) == 0 or not np.any(positive):
        return UNREACHED
    true, false, threshold = ranked(positive, score)
    found, clean = true / true[-1], true / (true + false)
    meets = np.flatnonzero((found >= completeness) & (clean >= purity))
    # A cut that keeps none of the class is no sample of it.
    meets = meets[true[meets] > 0]
    if not len(meets):
        return UNREACHED
    at = meets[-1 if loosest else 0]
    return OperatingPoint(float(threshold[at]), float(found[at]), float(clean[at]), int(true[at] + false[at]))


def purity_at_completeness(positive: np.ndarray, score: np.ndarray, completeness: float) -> OperatingPoint:
    """Return the strictest cut that still keeps so large a fraction of a class.

    Parameters
    ----------
    positive : ndarray of bool, shape (N,)
        Which objects are of the class.
    score : ndarray of float, shape (N,)
        Higher for objects more likely to be of the class. Objects of equal score are kept or left together,
        so that the completeness reached may be above the one asked for.
    completeness : float
        Fraction to keep, above 0 and at most 1.

    Returns
    -------
    OperatingPoint
        `UNREACHED` without objects of the class; with one, a cut can always be found.

    Raises
    ------
    DataError
        If a score is not finite, or lengths differ.
    ConfigError
        If `completeness` is no such fraction.
    """
    return Requirement("class", "completeness", completeness).point(positive, score)


def completeness_at_purity(positive: np.ndarray, score: np.ndarray, purity: float) -> OperatingPoint:
    """Return the loosest cut whose sample is so pure: it keeps the most of the class.

    Parameters
    ----------
    positive, score
        As for :func:`purity_at_completeness`.
    purity : float
        Fraction of the kept objects that is to be of the class, above 0 and at most 1.

    Returns
    -------
    OperatingPoint
        `UNREACHED` if no cut gives so pure a sample, or without objects of the class.

    Raises
    ------
    DataError
        If a score is not finite, or lengths differ.
    ConfigError
        If `purity` is no such fraction.
    """
    return Requirement("class", "purity", purity).point(positive, score)


@dataclass(frozen=True)
class Requirement:
    """What a sample of one class must have.

    Parameters
    ----------
    class_name : str
        Class that the sample is of.
    fixed : {"completeness", "purity"}
        What is asked for; the other is what is measured.
    value : float
        How much of it, above 0 and at most 1.

    Raises
    ------
    ConfigError
        If `fixed` is neither, or `value` no such fraction.
    """

    class_name: str
    fixed: str
    value: float

    def __post_init__(self) -> None:
        if self.fixed not in ("completeness", "purity"):
            raise ConfigError(f"cannot fix {self.fixed!r}", expected="'completeness' or 'purity'")
        if not 0 < self.value <= 1:
            raise ConfigError(f"{self.fixed} is {self.value}", expected="above 0 and at most 1")

    @property
    def free(self) -> str:
        """Which of the two is measured."""
        return "purity" if self.fixed == "completeness" else "completeness"

    @property
    def in_words(self) -> str:
        """As ``"GALAXY purity at 96 % completeness"``."""
        return f"{self.class_name} {self.free} at {100 * self.value:g} % {self.fixed}"

    def point(self, positive: np.ndarray, score: np.ndarray) -> OperatingPoint:
        """Return the cut that meets this requirement; see :func:`purity_at_completeness`."""
        positive = np.asarray(positive, bool)
        if positive.shape != np.shape(score):
            raise DataError(
                f"scores have shape {np.shape(score)}", expected=f"{positive.shape}, as the truth"
            )
        if self.fixed == "completeness":
            return _cut_where(positive, score, completeness=self.value, loosest=False)
        return _cut_where(positive, score, purity=self.value, loosest=True)


REQUIREMENTS = (Requirement("GALAXY", "completeness", 0.96), Requirement("STAR", "purity", 0.97))
"""What every report measures, of the classes its task has."""


@dataclass(frozen=True)
class OperatingBins:
    """A requirement met anew in each bin of magnitude.

    Parameters
    ----------
    lower, upper : ndarray of float64, shape (B,)
        Edges of the bins that hold enough objects of the class; ``lower <= r < upper``.
    count, of_class : ndarray of int64, shape (B,)
        Objects in each bin, and those of the class among them.
    threshold, completeness, purity : ndarray of float64, shape (B,)
        Of the cut of each bin; NaN in a bin where no cut meets the requirement.
    kept : ndarray of int64, shape (B,)
        Objects that the cut keeps.
    """

    lower: np.ndarray
    upper: np.ndarray
    count: np.ndarray
    of_class: np.ndarray
    threshold: np.ndarray
    completeness: np.ndarray
    purity: np.ndarray
    kept: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """Middle of each bin, shape (B,)."""
        return (self.lower + self.upper) / 2


def operating_bins(
    magnitude: np.ndarray,
    positive: np.ndarray,
    score: np.ndarray,
    edges: np.ndarray,
    requirement: Requirement,
    *,
    minimum: int = FEWEST_OF_CLASS,
) -> OperatingBins:
    """Meet a requirement in each bin of magnitude with a cut of its own.

    One cut for all magnitudes would meet it on the whole and miss it where objects are faint.

    Parameters
    ----------
    magnitude : ndarray of float, shape (N,)
        Objects without a finite magnitude are left out.
    positive, score : ndarray, shape (N,)
        As for :func:`purity_at_completeness`.
    edges : ndarray of float64, shape (B + 1,)
        Edges of the bins, rising.
    requirement : Requirement
        What to meet.
    minimum : int
        Bins with fewer objects of the class are dropped.

    Raises
    ------
    DataError
        If lengths differ, or a score is not finite.
    """
    magnitude, positive, score = (
        np.asarray(magnitude, np.float64),
        np.asarray(positive, bool),
        np.asarray(score),
    )
    if not magnitude.shape == positive.shape == score.shape:
        raise DataError(
            f"magnitudes, labels and scores have shapes {magnitude.shape}, {positive.shape}, {score.shape}",
            expected="the same",
        )
    bins = max(len(edges) - 1, 0)
    known = np.isfinite(magnitude)
    which = np.where(known, np.searchsorted(edges, magnitude, side="right") - 1, -1)
    of_class = [np.count_nonzero(positive[which == b]) for b in range(bins)]
    keep = [b for b in range(bins) if of_class[b] >= max(minimum, 1)]
    points = [requirement.point(positive[which == b], score[which == b]) for b in keep]
    return OperatingBins(
        lower=np.asarray(edges, np.float64)[keep],
        upper=np.asarray(edges, np.float64)[[b + 1 for b in keep]],
        count=np.array([np.count_nonzero(which == b) for b in keep], np.int64),
        of_class=np.array([of_class[b] for b in keep], np.int64),
        threshold=np.array([p.threshold for p in points], np.float64),
        completeness=np.array([p.completeness for p in points], np.float64),
        purity=np.array([p.purity for p in points], np.float64),
        kept=np.array([p.kept for p in points], np.int64),
    )


def requirements_of(classes: Sequence[str]) -> tuple[Requirement, ...]:
    """Return those of `REQUIREMENTS` whose class a task has."""
    return tuple(requirement for requirement in REQUIREMENTS if requirement.class_name in classes)
