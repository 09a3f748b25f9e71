"""Figures of cut samples hold the numbers that were measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from sklearn.metrics import precision_recall_curve
from toy_results import probabilities, toy_results

from margformer_fast.errors import DataError
from margformer_fast.evaluation.judgement import requirements_met
from margformer_fast.evaluation.results import Outcome
from margformer_fast.evaluation.selection_figures import (
    operating_points_against_magnitude,
    precision_recall_curves,
    selection_figures,
)
from margformer_fast.evaluation.style import METHOD_COLOURS, png
from margformer_fast.evaluation.summary import summarise


def lines(axes, colour, points):
    """Return the (x, y) of the lines of one colour with so many points or more."""
    return [
        np.array(line.get_data(), float)
        for line in axes.get_lines()
        if to_hex(line.get_color()) == colour.lower() and len(line.get_xdata()) >= points
    ]


def test_curves_are_purity_against_completeness(rng):
    header, test, outcomes = toy_results(rng, task="sgq", n=300)
    figure = precision_recall_curves(header, test, outcomes)
    png(figure, dpi=40)
    runs = [run for run in outcomes if run.method == "simclr"]
    for k, axes in enumerate(figure.axes):
        drawn = lines(axes, METHOD_COLOURS[0], 50)
        for run, (found, pure) in zip(runs, drawn, strict=True):
            precision, recall, _ = precision_recall_curve(test.label == k, run.probability[:, k])
            expected = set(zip(recall.round(9), precision.round(9), strict=True))
            assert set(zip(found.round(9), pure.round(9), strict=True)) <= expected


def test_a_single_early_mistake_does_not_widen_the_view(rng):
    """Curves that are pure up to a high completeness are shown where they part."""
    header, test, _ = toy_results(rng, n=2000)
    outcome = Outcome("m", 0, probabilities(rng, test.label, 2, 6.0))
    early = outcome.probability.copy()
    early[np.flatnonzero(test.label == 1)[0]] = (1, 0)
    for probability in (outcome.probability, early):
        axes = precision_recall_curves(header, test, [replace(outcome, probability=probability)]).axes[0]
        assert axes.get_xlim()[0] > 0.5


def test_bins_are_those_of_the_requirement(rng):
    header, test, outcomes = toy_results(rng, n=1500, runs=2)
    outcomes = outcomes[-1:] + outcomes[:-1]
    figure = operating_points_against_magnitude(header, test, outcomes)
    png(figure, dpi=40)
    for index, method in enumerate(summarise(header, test, outcomes)):
        for axes, met in zip(figure.axes, requirements_met(header, test, method), strict=True):
            drawn = lines(axes, METHOD_COLOURS[index], 2)
            if method.method == "survey-separator":
                assert not drawn
                continue
            assert len(drawn[0][0]) > 3
            np.testing.assert_array_equal(
                drawn[0], [met.bins[0].centre, met.mean_in_bins(met.requirement.free)]
            )
    # The band belongs to the first method with a cut to move, here the second of all.
    bands = [to_hex(band.get_facecolor()[0]) for band in figure.axes[0].collections]
    assert bands == [METHOD_COLOURS[1].lower()]


def test_contents_that_allow_no_figure(rng):
    header, test, outcomes = toy_results(rng, n=60)
    one_class = replace(test, label=np.zeros(60, int))
    with pytest.raises(DataError, match="needs test objects of two classes"):
        precision_recall_curves(header, one_class, outcomes)
    with pytest.raises(DataError, match="no method has a cut"):
        operating_points_against_magnitude(header, test, outcomes[-1:])
    stems = [named.stem for named in selection_figures(header, one_class, outcomes)]
    assert stems == ["operating_points"]
    unknown = replace(test, r_obs=np.full(60, np.nan))
    assert [each.stem for each in selection_figures(header, unknown, outcomes)] == ["precision_recall"]
    few = operating_points_against_magnitude(header, test, outcomes)
    assert all(axes.texts[0].get_text() == "too few objects in every bin" for axes in few.axes)
