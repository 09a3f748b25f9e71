"""Cuts that meet a requirement: against a search over every cut, and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from margformer_fast.errors import ConfigError, DataError
from margformer_fast.evaluation import operating_points as op


def by_trial(positive, score, *, completeness=0.0, purity=0.0):
    """Return (threshold, completeness, purity, kept) of every cut that meets both, strictest first."""
    found = []
    for threshold in np.unique(score)[::-1]:
        kept = score >= threshold
        right = np.count_nonzero(kept & positive)
        point = (threshold, right / positive.sum(), right / kept.sum(), kept.sum())
        if right and point[1] >= completeness and point[2] >= purity:
            found.append(point)
    return found


def random_case(rng, decimals=None):
    n = int(rng.integers(20, 300))
    positive = rng.random(n) < rng.uniform(0.1, 0.9)
    positive[:2] = (True, False)
    score = rng.normal(size=n) + 1.5 * positive
    return positive, score if decimals is None else np.round(score, decimals)


def as_tuple(point):
    return point.threshold, point.completeness, point.purity, point.kept


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_purity_at_completeness_is_the_strictest_cut(rng, decimals):
    positive, score = random_case(rng, decimals)
    for wanted in (0.01, 0.5, 0.96, 1.0):
        expected = by_trial(positive, score, completeness=wanted)[0]
        assert as_tuple(op.purity_at_completeness(positive, score, wanted)) == pytest.approx(expected)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_completeness_at_purity_is_the_loosest_cut(rng, decimals):
    positive, score = random_case(rng, decimals)
    for wanted in (0.05, 0.6, 0.97, 1.0):
        ours = op.completeness_at_purity(positive, score, wanted)
        cuts = by_trial(positive, score, purity=wanted)
        if cuts:
            assert as_tuple(ours) == pytest.approx(cuts[-1])
            assert ours.completeness == max(cut[1] for cut in cuts)
        else:
            assert ours is op.UNREACHED


def test_a_requirement_met_to_the_object_is_met():
    """24 of 25 are 96 %, whatever the rounding."""
    score = -np.arange(25.0)
    point = op.purity_at_completeness(np.ones(25, bool), score, 0.96)
    assert (point.kept, point.threshold, point.purity) == (24, -23, 1)
    positive = np.arange(100) != 50
    assert op.completeness_at_purity(positive, -np.arange(100.0), 0.99).completeness == 1


def test_objects_of_equal_score_stay_together():
    positive = np.array([True, True, False, False, True])
    score = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
    point = op.purity_at_completeness(positive, score, 0.6)
    assert as_tuple(point) == (0.5, 2 / 3, 0.5, 4)
    # The cut in between, of one class alone, does not exist.
    assert as_tuple(op.completeness_at_purity(positive, score, 0.9)) == (0.9, 1 / 3, 1.0, 1)


def test_what_cannot_be_reached_is_nan():
    mixed = np.array([True, False]), np.array([0.5, 0.5])
    beaten = np.array([True, False]), np.array([0.1, 0.9])
    for point in (
        op.completeness_at_purity(*mixed, 0.97),
        op.completeness_at_purity(*beaten, 0.97),
        op.purity_at_completeness(np.array([False]), np.array([0.3]), 0.96),
        op.completeness_at_purity(np.array([], bool), np.array([]), 0.97),
    ):
        assert all(math.isnan(value) for value in (point.threshold, point.completeness, point.purity))
        assert point.kept == 0
    assert as_tuple(op.purity_at_completeness(np.array([True]), np.array([0.3]), 0.96)) == (0.3, 1, 1, 1)


def test_bins_meet_the_requirement_each_by_itself(rng):
    n = 600
    magnitude = rng.uniform(18, 22, n)
    magnitude[:3] = (np.nan, np.inf, 30.0)
    positive = rng.random(n) < 0.6
    score = rng.normal(size=n) + (22 - np.clip(np.nan_to_num(magnitude), 18, 22)) * positive
    edges = np.arange(18.0, 23.0)
    requirement = op.Requirement("GALAXY", "completeness", 0.9)
    bins = op.operating_bins(magnitude, positive, score, edges, requirement, minimum=1)
    assert bins.lower.tolist() == [18, 19, 20, 21]
    assert bins.centre.tolist() == [18.5, 19.5, 20.5, 21.5]
    assert bins.count.sum() == n - 3
    for b in range(4):
        inside = (magnitude >= edges[b]) & (magnitude < edges[b + 1])
        point = op.purity_at_completeness(positive[inside], score[inside], 0.9)
        assert (bins.threshold[b], bins.completeness[b], bins.purity[b], bins.kept[b]) == as_tuple(point)
        assert bins.of_class[b] == np.count_nonzero(positive[inside])
    assert bins.purity[0] > bins.purity[3]


def test_bins_need_enough_of_the_class(rng):
    magnitude = np.repeat([18.5, 19.5], 100)
    positive = np.arange(200) % 100 < np.repeat([30, 60], 100)
    bins = op.operating_bins(
        magnitude, positive, rng.random(200), np.array([18.0, 19.0, 20.0]), op.REQUIREMENTS[0], minimum=50
    )
    assert (bins.lower.tolist(), bins.of_class.tolist()) == ([19.0], [60])
    unreached = op.operating_bins(
        magnitude, positive, np.zeros(200), np.array([18.0, 19.0, 20.0]), op.REQUIREMENTS[1], minimum=1
    )
    assert np.isnan(unreached.completeness).all()
    assert unreached.kept.tolist() == [0, 0]


@pytest.mark.parametrize("edges", [np.empty(0), np.array([18.0])])
def test_no_bins_without_magnitudes(edges):
    bins = op.operating_bins(np.full(4, np.nan), np.ones(4, bool), np.ones(4), edges, op.REQUIREMENTS[0])
    assert len(bins.count) == len(bins.purity) == len(bins.lower) == len(bins.upper) == 0


def test_requirements_of_a_task():
    assert [r.in_words for r in op.requirements_of(("GALAXY", "QSO", "STAR"))] == [
        "GALAXY purity at 96 % completeness",
        "STAR completeness at 97 % purity",
    ]
    assert op.requirements_of(("QSO", "STAR")) == op.REQUIREMENTS[1:]


def test_what_is_refused():
    positive, score = np.array([True, False]), np.array([0.5, np.nan])
    with pytest.raises(DataError, match="score is not finite in 1 of 2 rows, the first 1"):
        op.purity_at_completeness(positive, score, 0.9)
    with pytest.raises(DataError, match=r"scores have shape \(3,\); expected \(2,\)"):
        op.completeness_at_purity(positive, np.zeros(3), 0.9)
    with pytest.raises(DataError, match="magnitudes, labels and scores have shapes"):
        op.operating_bins(np.zeros(3), positive, np.zeros(2), np.array([0.0, 1.0]), op.REQUIREMENTS[0])
    for value in (0.0, 1.5, math.nan):
        with pytest.raises(ConfigError, match="expected above 0 and at most 1"):
            op.purity_at_completeness(positive, np.zeros(2), value)
    with pytest.raises(ConfigError, match="cannot fix 'beauty'; expected 'completeness' or 'purity'"):
        op.Requirement("STAR", "beauty", 0.5)
