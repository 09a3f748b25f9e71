"""The prediction sets of the runs of a report: calibrated on validation objects, measured on test objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .conformal import (
    KINDS,
    LEVELS,
    Category,
    Conformal,
    SetScores,
    by_class,
    by_class_and_magnitude,
    covariate_weights,
    holds_truth,
    membership_roc,
    score_sets,
    weighted_by_class,
)
from .metrics import MagnitudeBins, Spread, accuracy_by_magnitude, magnitude_edges, mean_and_spread
from .results import CalibrationSet, Outcome, RunHeader, TestSet, check_results
from .summary import FEWEST_A_BIN

KIND_NAMES = {
    "class": "by class",
    "class-magnitude": "by class and r magnitude",
    "weighted": "by class, weighted to test r",
}
"""How the kinds are called in tables and figures."""

COLUMN_LEVEL = 0.90
"""Level of the sets in the tables of predictions."""


@dataclass(frozen=True)
class RunSets:
    """The prediction sets of one run.

    Parameters
    ----------
    outcome : Outcome
        The run.
    kinds : dict of str to Conformal
        For each of `KINDS`, in their order.
    """

    outcome: Outcome
    kinds: dict[str, Conformal]

    def scores(self, test: TestSet, kind: str, level: float) -> SetScores:
        """Measure the sets of one kind and level on the test objects."""
        return score_sets(test.label, self.kinds[kind].sets(level))


def sets_of_runs(
    header: RunHeader, test: TestSet, outcomes: Sequence[Outcome], calibration: CalibrationSet | None
) -> list[RunSets]:
    """Make the prediction sets of every run that has probabilities of calibration objects.

    Parameters
    ----------
    header, test, outcomes
        The runs.
    calibration : CalibrationSet, optional
        Without one there are no sets. Weights are of its observed r magnitudes against those of `test`.

    Returns
    -------
    list of RunSets
        In the order of `outcomes`.

    Raises
    ------
    DataError
        If header, test set, outcomes and calibration set do not fit together.
    """
    check_results(header, test, outcomes, calibration)
    if calibration is None:
        return []
    label, cal_r, r = calibration.label, calibration.r_obs, test.r_obs
    # One fit serves all runs: weights know nothing of a classifier.
    weights = covariate_weights(
        label, np.asarray(cal_r)[:, None], np.asarray(r)[:, None], len(header.classes)
    )
    runs = []
    for outcome in outcomes:
        known, asked = outcome.calibration, outcome.probability
        if known is None:
            continue
        found = (
            by_class(label, known, asked),
            by_class_and_magnitude(label, known, cal_r, asked, r),
            weighted_by_class(label, known, weights, asked),
        )
        runs.append(RunSets(outcome, {each.kind: each for each in found}))
    return runs


def of_run(sets: Sequence[RunSets], outcome: Outcome) -> RunSets | None:
    """Return the sets of a run; None if it has none."""
    return next((each for each in sets if each.outcome is outcome), None)


def is_shifted(header: RunHeader) -> bool:
    """Whether the test objects are chosen otherwise than the validation objects, as in Experiment 3."""
    return header.experiment == 3 and header.population is None


def column_kind(header: RunHeader) -> str:
    """Return the kind of the sets in the tables of predictions: weighted where the test set is shifted."""
    return "weighted" if is_shifted(header) else "class"


def first_method(runs: Sequence[RunSets]) -> list[RunSets]:
    """Return the runs of the method that comes first."""
    return [run for run in runs if run.outcome.method == runs[0].outcome.method]


def over_runs(
    runs: Sequence[RunSets],
    test: TestSet,
    kind: str,
    level: float,
    quantity: Callable[[SetScores], float],
) -> Spread:
    """Return mean and spread over runs of one number of their sets."""
    return mean_and_spread([quantity(run.scores(test, kind, level)) for run in runs])


def coverage_by_magnitude(
    runs: Sequence[RunSets], test: TestSet, kind: str, level: float, who: np.ndarray
) -> MagnitudeBins:
    """Return the coverage, mean over runs, of the test objects `who` (mask) in bins of their own r."""
    held = np.mean([holds_truth(test.label, run.kinds[kind].sets(level)) for run in runs], axis=0)
    edges = magnitude_edges(test.r_obs)
    return accuracy_by_magnitude(test.r_obs[who], held[who], edges, minimum=FEWEST_A_BIN)


def bitmask(member: np.ndarray) -> np.ndarray:
    """Return sets (N, C) as int16 numbers (N,): bit k (value 2^k) is set if class k is in the set."""
    return np.asarray(member @ (1 << np.arange(member.shape[1])), np.int16)


def sets_json(header: RunHeader, test: TestSet, run: RunSets) -> dict[str, Any]:
    """Return all that is measured on the sets of a run, for metrics.json; fractions, levels as keys."""
    return {kind: _kind_json(header, test, run, kind) for kind in KINDS}


def _kind_json(header: RunHeader, test: TestSet, run: RunSets, kind: str) -> dict[str, Any]:
    found = run.kinds[kind]
    curve = membership_roc(test.label, found.p_value)
    bins = coverage_by_magnitude([run], test, kind, COLUMN_LEVEL, np.ones(len(test), bool))
    return {
        "levels": {f"{level:g}": _level_json(header, run.scores(test, kind, level)) for level in LEVELS},
        "categories": [_category_json(header, category) for category in found.categories],
        "membership_auc": float(np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)),
        f"coverage_{100 * COLUMN_LEVEL:g}_by_r_magnitude": {
            "lower": bins.lower,
            "upper": bins.upper,
            "count": bins.count,
            "coverage": bins.accuracy,
            "low": bins.low,
            "high": bins.high,
        },
    }


def _level_json(header: RunHeader, scores: SetScores) -> dict[str, Any]:
    return {
        "coverage": scores.coverage,
        "coverage_interval_95": [scores.low, scores.high],
        "mean_size": scores.mean_size,
        "share_of_size": scores.size_share,
        "classes": {
            name: {
                "objects": scores.class_count[k],
                "coverage": scores.class_coverage[k],
                "coverage_interval_95": [scores.class_low[k], scores.class_high[k]],
            }
            for k, name in enumerate(header.classes)
        },
    }


def _category_json(header: RunHeader, category: Category) -> dict[str, Any]:
    return {
        "class": header.classes[category.label],
        "r_lower": category.lower,
        "r_upper": category.upper,
        "calibration_objects": len(category),
        "effective_calibration_objects": category.effective,
        "q": {f"{level:g}": category.threshold(level) for level in LEVELS},
    }
