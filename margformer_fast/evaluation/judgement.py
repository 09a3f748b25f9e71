"""What a survey and a referee ask of the methods of a run: samples at requirements, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .comparison import Difference, Interval, McNemar, bootstrap, difference, mcnemar
from .metrics import Spread, magnitude_edges, mean_and_spread, predict
from .operating_points import (
    UNREACHED,
    OperatingBins,
    OperatingPoint,
    Requirement,
    operating_bins,
    requirements_of,
)
from .results import Outcome, RunHeader, TestSet
from .summary import MethodSummary


@dataclass(frozen=True)
class RequirementMet:
    """How the runs of a method meet one requirement.

    Parameters
    ----------
    requirement : Requirement
        What was asked for.
    points : tuple of OperatingPoint
        One a run; `UNREACHED` for a method that only decides, which has no cut to move.
    bins : tuple of OperatingBins
        One a run, in bins of r; none for a method that only decides. All have the same bins.
    """

    requirement: Requirement
    points: tuple[OperatingPoint, ...]
    bins: tuple[OperatingBins, ...]

    def over_runs(self, quantity: str) -> Spread:
        """Return mean and spread of an attribute of `points`; NaN if a run does not reach the requirement."""
        return mean_and_spread([getattr(point, quantity) for point in self.points])

    def mean_in_bins(self, quantity: str) -> np.ndarray:
        """Return the mean over runs of an attribute of `bins`, shape (B,); NaN as for :meth:`over_runs`."""
        return np.mean([getattr(bins, quantity) for bins in self.bins], axis=0)


@dataclass(frozen=True)
class Comparison:
    """A method beside another, on the same objects.

    Parameters
    ----------
    method, name, first : str
        The method, how it is called, and the method it is compared with.
    accuracy : Difference
        Accuracy minus that of `first`.
    mcnemar : tuple of McNemar
        Run by run in their order, as far as both have runs; those of `first` are the `only_first`.
    """

    method: str
    name: str
    first: str
    accuracy: Difference
    mcnemar: tuple[McNemar, ...]


def _distinct(method: MethodSummary) -> Sequence[Outcome]:
    """Return the runs, one alone if all are equal: chance has no part in them."""
    return method.runs[:1] if method.runs_are_equal else method.runs


def _predicted(method: MethodSummary) -> np.ndarray:
    """Return predictions, shape (R, N)."""
    return np.array([predict(run.probability) for run in _distinct(method)])


def requirements_met(header: RunHeader, test: TestSet, method: MethodSummary) -> list[RequirementMet]:
    """Return how a method meets each requirement that concerns the classes of the task."""
    found = []
    runs = _distinct(method)
    ranked = [run for run in runs if not run.decides_only]
    edges = magnitude_edges(test.r_obs)
    for requirement in requirements_of(header.classes):
        k = header.classes.index(requirement.class_name)
        positive = test.label == k
        points = [
            UNREACHED if run.decides_only else requirement.point(positive, run.probability[:, k])
            for run in runs
        ]
        bins = [
            operating_bins(test.r_obs, positive, run.probability[:, k], edges, requirement) for run in ranked
        ]
        found.append(RequirementMet(requirement, tuple(points), tuple(bins)))
    return found


def intervals(header: RunHeader, test: TestSet, method: MethodSummary) -> dict[str, Interval]:
    """Return 95 % bootstrap intervals of a method's mean scores over test objects."""
    return bootstrap(test.label, _predicted(method), len(header.classes))


def compared_with(test: TestSet, first: MethodSummary, others: Sequence[MethodSummary]) -> list[Comparison]:
    """Compare each of some methods with one, paired by object."""
    one = _predicted(first)
    found = []
    for method in others:
        two = _predicted(method)
        tests = [mcnemar(a == test.label, b == test.label) for a, b in zip(one, two, strict=False)]
        found.append(
            Comparison(
                method.method, method.name, first.method, difference(test.label, one, two), tuple(tests)
            )
        )
    return found


def comparisons(test: TestSet, methods: Sequence[MethodSummary]) -> list[Comparison]:
    """Compare every two methods, the later with the earlier; those with the first come first."""
    return [
        comparison
        for index, first in enumerate(methods)
        for comparison in compared_with(test, first, methods[index + 1 :])
    ]
