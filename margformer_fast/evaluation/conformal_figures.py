"""The figures of prediction sets: whether they hold what they promise, how large they are, and at which r."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .conformal import KINDS, LEVELS, SetScores, membership_roc
from .metrics import magnitude_edges
from .prediction_sets import (
    COLUMN_LEVEL,
    KIND_NAMES,
    RunSets,
    column_kind,
    coverage_by_magnitude,
    first_method,
)
from .results import CalibrationSet, RunHeader, TestSet, method_name
from .style import (
    GREY,
    INK,
    METHOD_COLOURS,
    METHOD_DASHES,
    NamedFigure,
    class_colour,
    headed,
    legend_below,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GRID = np.linspace(0.5, 0.995, 100)
_EMPTY, _ONE, _MORE = "#d1d5db", "#9ecae1", "#332288"


def conformal_figures(
    header: RunHeader, test: TestSet, calibration: CalibrationSet, runs: Sequence[RunSets]
) -> Iterator[NamedFigure]:
    """Yield the figures of the first method's prediction sets, with captions.

    Parameters
    ----------
    header, test, calibration
        What the runs were tested and calibrated on.
    runs : sequence of RunSets
        At least one.
    """
    runs = first_method(runs)
    yield NamedFigure(
        "set_coverage",
        "Coverage of prediction sets",
        "How often a set holds the true class against how often it is to, mean over runs. Below, the "
        "difference in points; inside the grey band it is no more than the numbers of calibration and test "
        "objects explain (two standard deviations, scarcest class).",
        coverage_against_level(header, test, runs),
    )
    yield NamedFigure(
        "set_size",
        "Size of prediction sets",
        "What coverage costs. An empty set says that an object is unlike all calibration objects at this "
        "level, one with several classes that they cannot be told apart. Right: true classes in the set "
        "against wrong classes in the set as the level goes from 0 to 1, all pairs of object and class.",
        set_sizes(header, test, runs),
    )
    if len(magnitude_edges(test.r_obs)):
        yield NamedFigure(
            "set_coverage_magnitude",
            f"Coverage at {COLUMN_LEVEL:.0%} against magnitude".replace("%", " %"),
            "Each test object with its own observed r magnitude; bands are 95 % intervals from the number of "
            "objects. Grey: calibration objects; outline: test objects.",
            coverage_against_magnitude(header, test, calibration, runs),
        )


def _headed(header: RunHeader, title: str, runs: Sequence[RunSets], size: tuple[float, float]) -> Figure:
    count = "1 run" if len(runs) == 1 else f"mean of {len(runs)} runs"
    return headed(
        f"{title}: {method_name(runs[0].outcome.method)}",
        f"{header.title}. {count.capitalize()}, calibrated on validation objects.",
        *size,
        simulated=header.simulated,
    )


def _percent(*axes: Axes, x: bool = True, y: bool = True) -> None:
    from matplotlib.ticker import PercentFormatter

    for each in axes:
        for axis, wanted in ((each.xaxis, x), (each.yaxis, y)):
            if wanted:
                axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def _scores(test: TestSet, runs: Sequence[RunSets], kind: str) -> list[list[SetScores]]:
    """Return scores on `_GRID`: a list a level, with one entry a run."""
    return [[run.scores(test, kind, level) for run in runs] for level in _GRID]


@styled
def coverage_against_level(header: RunHeader, test: TestSet, runs: Sequence[RunSets]) -> Figure:
    """Draw coverage of each class against level, a column a kind, and its difference from the level below."""
    figure = _headed(header, "Coverage of prediction sets", runs, (11.4, 6.0))
    grid = figure.subplots(2, len(KINDS), sharex=True, sharey="row", height_ratios=(3, 2))
    support = np.bincount(test.label, minlength=len(header.classes))
    marked = [int(np.argmin(np.abs(_GRID - level))) for level in LEVELS]
    for (top, bottom), kind in zip(grid.T, KINDS, strict=True):
        coverage = np.array(
            [np.mean([s.class_coverage for s in row], axis=0) for row in _scores(test, runs, kind)]
        )
        top.plot(_GRID, _GRID, color=GREY, lw=1, ls=(0, (2, 2)), label="as promised")
        bottom.axhline(0, color=GREY, lw=1, ls=(0, (2, 2)))
        known = np.zeros(len(header.classes))
        for category in runs[0].kinds[kind].categories:
            known[category.label] += category.effective
        there = (support > 0) & (known > 0)
        if there.any():
            chance = 200 * np.sqrt(_GRID * (1 - _GRID) * (1 / known[there] + 1 / support[there]).max())
            bottom.fill_between(_GRID, -chance, chance, color="#e5e7eb", lw=0)
        for k in np.flatnonzero(support):
            look = {"color": class_colour(header.classes[k]), "markevery": marked, "marker": "o", "ms": 4}
            label = f"{header.classes[k]} ({support[k]:,})"
            top.plot(_GRID, coverage[:, k], **look, mec="white", mew=0.5, label=label)
            bottom.plot(_GRID, 100 * (coverage[:, k] - _GRID), **look, mec="white", mew=0.5)
        top.set_title(KIND_NAMES[kind])
        bottom.set(xlabel="level: share of sets to hold the true class", xlim=(_GRID[0], 1))
        _percent(top)
        _percent(bottom, y=False)
    grid[0, 0].set_ylabel("sets that hold the true class")
    grid[1, 0].set_ylabel("coverage - level (points)")
    legend_below(figure, grid[0])
    return figure


@styled
def set_sizes(header: RunHeader, test: TestSet, runs: Sequence[RunSets]) -> Figure:
    """Draw mean size against level, shares of sizes, and the ROC curve of membership."""
    figure = _headed(header, "Size of prediction sets", runs, (11.4, 4.4))
    size, shares, roc = figure.subplots(1, 3)
    for index, kind in enumerate(KINDS):
        look = {"color": METHOD_COLOURS[index], "linestyle": METHOD_DASHES[index], "label": KIND_NAMES[kind]}
        means = [np.mean([s.mean_size for s in row]) for row in _scores(test, runs, kind)]
        size.plot(_GRID, means, **look)
        for run in runs:
            curve = membership_roc(test.label, run.kinds[kind].p_value)
            roc.plot(curve.false_positive_rate, curve.true_positive_rate, **look, lw=1.2)
    size.axhline(1, color=GREY, lw=1, ls=(0, (2, 2)))
    size.set(title="mean number of classes in a set", xlabel="level", xlim=(_GRID[0], 1))
    kind = column_kind(header)
    part = np.array([np.mean([s.size_share for s in row], axis=0) for row in _scores(test, runs, kind)])
    stack = (part[:, 0], part[:, 1], part[:, 2:].sum(axis=1))
    shares.stackplot(
        _GRID, *stack, colors=(_EMPTY, _ONE, _MORE), labels=("empty", "one class", "several classes"), lw=0
    )
    shares.set(title=f"sets {KIND_NAMES[kind]}", xlabel="level", xlim=(_GRID[0], _GRID[-1]), ylim=(0, 1))
    roc.set(
        title="membership, all levels", xlabel="wrong classes in the set", ylabel="true classes in the set"
    )
    roc.set(xlim=(-0.01, 1), ylim=(0, 1.01))
    _percent(size, y=False)
    _percent(shares, roc)
    legend_below(figure, (size, shares), columns=6)
    return figure


@styled
def coverage_against_magnitude(
    header: RunHeader, test: TestSet, calibration: CalibrationSet, runs: Sequence[RunSets]
) -> Figure:
    """Draw the coverage of each class at `COLUMN_LEVEL` in bins of r, a panel a kind."""
    figure = _headed(header, f"Coverage at {100 * COLUMN_LEVEL:g} % against magnitude", runs, (11.4, 4.6))
    panels = figure.subplots(1, len(KINDS), sharex=True, sharey=True)
    both = np.concatenate([test.r_obs, calibration.r_obs])
    edges = magnitude_edges(both)
    lowest, used = COLUMN_LEVEL, []
    for axes, kind in zip(panels, KINDS, strict=True):
        counts = axes.twinx()
        for r, look in (
            (calibration.r_obs, {"fill": True, "color": "#e5e7eb"}),
            (test.r_obs, {"color": "#9ca3af", "lw": 1}),
        ):
            share = np.histogram(r[np.isfinite(r)], edges)[0]
            counts.stairs(share / max(share.max(), 1), edges, **look)
        counts.set(ylim=(0, 4), yticks=[])
        counts.spines[:].set_visible(False)
        axes.set_zorder(counts.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.axhline(COLUMN_LEVEL, color=INK, lw=1, ls=(0, (2, 2)), label="as promised")
        for k, name in enumerate(header.classes):
            bins = coverage_by_magnitude(runs, test, kind, COLUMN_LEVEL, test.label == k)
            if not len(bins.count):
                continue
            used += [bins.lower[0], bins.upper[-1]]
            lowest = min(lowest, bins.low.min())
            axes.fill_between(bins.centre, bins.low, bins.high, color=class_colour(name), alpha=0.13, lw=0)
            axes.plot(
                bins.centre,
                bins.accuracy,
                "o-",
                color=class_colour(name),
                ms=4.5,
                mec="white",
                mew=0.5,
                label=name,
            )
        axes.set_title(KIND_NAMES[kind])
        axes.set_xlabel("observed r magnitude (AB mag)")
    _percent(*panels, x=False)
    if used:
        panels[0].set_xlim(min(used) - 0.05, max(used) + 0.05)
    panels[0].set_ylim(max(0.0, np.floor(20 * (lowest - 0.1)) / 20), 1.01)
    panels[0].set_ylabel("sets that hold the true class")
    legend_below(figure, panels)
    return figure
