"""Figures of accuracy against what makes an object hard: its magnitude, and how compact it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .metrics import compactness_edges, magnitude_edges
from .results import Outcome, RunHeader, TestSet
from .style import GREY, INK, class_colour, legend_below, method_look, percent_axes, run_figure, styled
from .summary import summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def accuracy_against_magnitude(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Figure:
    """Draw accuracy in bins of r, for all objects and for each true class, with 95 % Wilson intervals."""
    edges = magnitude_edges(test.r_obs)
    return _accuracy_against(
        header, test, outcomes, test.r_obs, edges, "magnitude", "observed r magnitude (AB mag)"
    )


@styled
def accuracy_against_compactness(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Figure:
    """Draw accuracy in bins of compactness, otherwise as :func:`accuracy_against_magnitude`."""
    edges = compactness_edges(test.compactness)
    return _accuracy_against(
        header,
        test,
        outcomes,
        test.compactness,
        edges,
        "compactness",
        "deVRad / psfFWHM, mean over bands",
    )


def _accuracy_against(
    header: RunHeader,
    test: TestSet,
    outcomes: Sequence[Outcome],
    quantity: np.ndarray,
    edges: np.ndarray,
    name_of_quantity: str,
    axis_label: str,
) -> Figure:
    methods = summarise(header, test, outcomes)
    panels = [("all objects", np.ones(len(test), bool))]
    panels += [(name, test.label == k) for k, name in enumerate(header.classes)]
    columns = 3 if len(panels) == 3 else 2
    rows = -(-len(panels) // columns)
    figure = run_figure(
        header,
        f"Accuracy against {name_of_quantity}",
        "Bands: 95 % intervals from the number of objects. Grey: how many there are.",
        11.4 if columns == 3 else 10.0,
        1.3 + 3.1 * rows,
    )
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    known = np.isfinite(quantity)
    width = edges[1] - edges[0] if len(edges) > 1 else 1.0
    used: list[float] = []
    for axes, (name, who) in zip(grid.flat, panels, strict=False):
        counts = axes.twinx()
        if len(edges):
            counts.stairs(np.histogram(quantity[who & known], edges)[0], edges, fill=True, color="#eceef1")
        counts.set(ylim=(0, 4 * max(counts.get_ylim()[1], 1)), yticks=[])
        counts.spines[:].set_visible(False)
        axes.set_zorder(counts.get_zorder() + 1)
        axes.patch.set_visible(False)
        lowest = 1.0
        for index, method in enumerate(methods):
            bins = method.in_bins(test, who, quantity, edges)
            if not len(bins.count):
                continue
            used += [bins.lower[0], bins.upper[-1]]
            lowest = min(lowest, bins.accuracy.min() - 0.04)
            look = method_look(index)
            axes.fill_between(bins.centre, bins.low, bins.high, color=look["color"], alpha=0.13, lw=0)
            axes.plot(
                bins.centre,
                bins.accuracy,
                **look,
                ms=4.5,
                mec="white",
                mew=0.5,
                lw=1.5,
                label=method.name,
            )
        if lowest == 1.0:
            axes.text(
                0.5, 0.5, "too few objects in every bin", transform=axes.transAxes, ha="center", color=GREY
            )
        axes.set_title(
            f"{name} ({np.count_nonzero(who):,})", color=INK if name == "all objects" else class_colour(name)
        )
        axes.set_ylim(max(0.0, np.floor(20 * lowest) / 20), 1.01)
        percent_axes(axes.yaxis)
    if used:
        grid[0, 0].set_xlim(min(used) - 0.15 * width, max(used) + 0.15 * width)
    for axes in grid[:, 0]:
        axes.set_ylabel("classified correctly")
    for axes in grid[-1]:
        axes.set_xlabel(axis_label)
    legend_below(figure, grid.flat)
    return figure
