"""All runs of a method taken together, and what a reader of their numbers must be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .metrics import (
    Evaluation,
    MagnitudeBins,
    Spread,
    accuracy_by_magnitude,
    compactness_edges,
    evaluate,
    magnitude_edges,
    mean_and_spread,
    predict,
    wilson_interval,
)
from .published import PublishedResult, published
from .results import Outcome, RunHeader, TestSet, by_method, check_results, method_name

FEWEST_A_BIN = 20
"""Bins of magnitude with fewer objects are left out."""

FEW_TEST_OBJECTS = 500

QUANTITIES: dict[str, Callable[[Evaluation], float]] = {
    "accuracy": lambda e: e.scores.accuracy,
    "macro_precision": lambda e: e.scores.macro_precision,
    "macro_recall": lambda e: e.scores.macro_recall,
    "macro_f1": lambda e: e.scores.macro_f1,
    "macro_auc": lambda e: e.macro_auc,
    "ece": lambda e: e.ece,
    "ece_scaled": lambda e: e.ece_scaled,
    "brier": lambda e: e.brier,
}
"""What is measured on a run."""

CLASS_QUANTITIES: dict[str, Callable[[Evaluation], np.ndarray]] = {
    "precision": lambda e: e.scores.precision,
    "recall": lambda e: e.scores.recall,
    "f1": lambda e: e.scores.f1,
    "auc": lambda e: e.auc,
    "average_precision": lambda e: e.average_precision,
}
"""What is measured on each class of a run."""

TABLE_QUANTITIES = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
"""What stands in a table beside the published results, in their order."""


def published_for(header: RunHeader) -> tuple[PublishedResult, ...]:
    """Return the published results that a run stands beside: none if it chose a population of its own."""
    return published(header.experiment, header.task) if header.population is None else ()


@dataclass(frozen=True)
class MethodSummary:
    """The runs of one method.

    Parameters
    ----------
    method : str
        As in `Outcome`.
    runs : tuple of Outcome
    evaluations : tuple of Evaluation
        One a run.
    """

    method: str
    runs: tuple[Outcome, ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def name(self) -> str:
        """How the method is called in tables."""
        return method_name(self.method)

    @property
    def runs_in_words(self) -> str:
        """``"1 run"``, ``"3 runs"``, or ``"3 equal runs"`` when the seed changes nothing."""
        if len(self.runs) == 1:
            return "1 run"
        return f"{len(self.runs)} equal runs" if self.runs_are_equal else f"{len(self.runs)} runs"

    @cached_property
    def runs_are_equal(self) -> bool:
        """Whether all runs predicted the same, as a method without chance does: they count as one."""
        return all(np.array_equal(run.probability, self.runs[0].probability) for run in self.runs[1:])

    def over_runs(self, quantity: str) -> Spread:
        """Return mean and spread of one of `QUANTITIES`."""
        return self._spread([QUANTITIES[quantity](e) for e in self.evaluations])

    def of_class(self, quantity: str, k: int) -> Spread:
        """Return mean and spread of one of `CLASS_QUANTITIES` for class `k`."""
        return self._spread([float(CLASS_QUANTITIES[quantity](e)[k]) for e in self.evaluations])

    def _spread(self, values: list[float]) -> Spread:
        return mean_and_spread(values[:1] if self.runs_are_equal else values)

    def accuracy_interval(self, objects: int) -> tuple[float, float]:
        """Return the 95 % interval of the mean accuracy that comes from the number of test objects."""
        low, high = wilson_interval(self.over_runs("accuracy").mean * objects, objects)
        return float(low), float(high)

    def by_magnitude(self, test: TestSet, who: np.ndarray) -> MagnitudeBins:
        """Return the accuracy, mean over runs, of the test objects `who` (mask) in bins of r."""
        return self.in_bins(test, who, test.r_obs, magnitude_edges(test.r_obs))

    def by_compactness(self, test: TestSet, who: np.ndarray) -> MagnitudeBins:
        """Return the same in bins of compactness."""
        return self.in_bins(test, who, test.compactness, compactness_edges(test.compactness))

    def in_bins(
        self, test: TestSet, who: np.ndarray, quantity: np.ndarray, edges: np.ndarray
    ) -> MagnitudeBins:
        """Return the same in bins of any quantity of the test objects, shape (N,)."""
        right = np.mean([predict(run.probability) == test.label for run in self.runs], axis=0)
        return accuracy_by_magnitude(quantity[who], right[who], edges, minimum=FEWEST_A_BIN)


def summarise(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> list[MethodSummary]:
    """Evaluate every run and group the runs by method, methods in the order of their first run.

    Raises
    ------
    DataError
        If header, test set and outcomes do not fit together.
    """
    check_results(header, test, outcomes)
    return [
        MethodSummary(
            method,
            tuple(runs),
            tuple(
                evaluate(
                    test.label,
                    run.probability,
                    decides_only=run.decides_only,
                    temperature=run.temperature,
                )
                for run in runs
            ),
        )
        for method, runs in by_method(outcomes).items()
    ]


def cautions(header: RunHeader, test: TestSet, methods: Sequence[MethodSummary]) -> list[str]:
    """Return what must be known before the numbers are used: the run's own warnings, and what they hide."""
    found = list(header.warnings)
    support = np.bincount(test.label, minlength=len(header.classes))
    found += [
        f"No test object is a {name}: it has no scores, and macro means leave it out."
        for name, objects in zip(header.classes, support, strict=True)
        if not objects
    ]
    for method in methods:
        called = sum(e.scores.confusion.sum(axis=0) for e in method.evaluations)
        found += [
            f"{method.name} never predicts {name}; its precision is counted as 0."
            for name, objects, calls in zip(header.classes, support, called, strict=True)
            if objects and not calls
        ]
    for method in methods:
        skipped = sum(
            int(row.get("skipped_steps") or 0)
            for run in method.runs
            for rows in run.history.values()
            for row in rows
        )
        if skipped:
            steps = "step was" if skipped == 1 else "steps were"
            found.append(
                f"{method.name}: {skipped} training {steps} left out: "
                "the loss or its gradient was not finite."
            )
    if len(test) < FEW_TEST_OBJECTS:
        low, high = methods[0].accuracy_interval(len(test))
        found.append(
            f"Only {len(test)} test objects: that alone leaves the accuracy of {methods[0].name} open "
            f"from {100 * low:.1f} to {100 * high:.1f} % (95 % interval)."
        )
    return found


def percent(value: Spread, between: str = "+-") -> str:
    """Return a fraction as percent with its spread, if there is one; a dash if it is not defined."""
    spread = None if value.spread is None else 100 * value.spread
    return _with_spread(100 * value.mean, spread, 2, between)


def fraction(value: Spread, between: str = "+-") -> str:
    """Return a fraction with four digits and its spread, if there is one; a dash if it is not defined."""
    return _with_spread(value.mean, value.spread, 4, between)


def published_cells(result: PublishedResult, between: str = "+-") -> list[str]:
    """Return accuracy, precision, recall and F1 as published: to 0.1 % with a spread, else to 0.001 %."""
    numbers = (result.accuracy, result.precision, result.recall, result.f1)
    digits = 3 if result.spread is None else 1
    return [
        _with_spread(math.nan if number is None else number, result.spread, digits, between)
        for number in numbers
    ]


def _with_spread(value: float, spread: float | None, digits: int, between: str) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.{digits}f}" + ("" if spread is None else f" {between} {spread:.{digits}f}")
