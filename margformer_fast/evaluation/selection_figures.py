"""Figures for who cuts a sample: purity against completeness, and what requirements cost with magnitude."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .judgement import requirements_met
from .metrics import predict, ranked, wilson_interval
from .operating_points import FEWEST_OF_CLASS, requirements_of
from .results import Outcome, RunHeader, TestSet
from .style import (
    GREY,
    PM,
    NamedFigure,
    class_colour,
    legend_below,
    method_look,
    methods_below,
    percent_axes,
    run_figure,
    styled,
)
from .summary import fraction, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEARLY_PURE, _NARROWEST = 0.995, 0.9
"""Completeness is shown from where the first curve ceases to be so pure, and at least above 90 %."""


@styled
def precision_recall_curves(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Figure:
    """Draw purity against completeness, a panel a class against the rest, one line a run.

    A class without objects on both sides is left out. Filled markers show what the most probable class
    gives; a grey cross-hair marks a requirement on the class.

    Raises
    ------
    DataError
        If no class has test objects both inside and outside.
    """
    methods = summarise(header, test, outcomes)
    wanted = [k for k in range(len(header.classes)) if 0 < np.count_nonzero(test.label == k) < len(test)]
    if not wanted:
        raise DataError("a precision-recall curve needs test objects of two classes")
    figure = run_figure(
        header,
        "Purity against completeness",
        f"{len(test):,} test objects. Markers: the most probable class. Grey line: the requirement.",
        4.6 * len(wanted) if len(wanted) < 3 else 3.9 * len(wanted),
        5.3,
    )
    panels = figure.subplots(1, len(wanted), squeeze=False)[0]
    required = {requirement.class_name: requirement for requirement in requirements_of(header.classes)}
    for axes, k in zip(panels, wanted, strict=True):
        positive = test.label == k
        lowest = [1.0]
        left = [_NARROWEST]
        for index, method in enumerate(methods):
            look = method_look(index)
            curves = [run for run in method.runs if not run.decides_only]
            for run in curves:
                true, false, _ = ranked(positive, run.probability[:, k])
                found, pure = true / true[-1], true / (true + false)
                line = {"color": look["color"], "linestyle": look["linestyle"], "alpha": 0.85, "lw": 1.5}
                axes.plot(found, pure, **line)
                lowest.append(float(np.min(pure[(found >= 0.5) & (found <= 0.99)], initial=1.0)))
                left.append(float(np.max(found[pure >= _NEARLY_PURE], initial=0.0)))
            called = [predict(run.probability) == k for run in method.runs]
            points = np.array(
                [(np.mean(c[positive]), np.mean(positive[c]) if c.any() else np.nan) for c in called]
            )
            lowest += points[np.isfinite(points[:, 1]), 1].tolist()
            left += points[:, 0].tolist()
            axes.plot(
                *points.T, ls="", color=look["color"], marker=look["marker"], ms=6, mec="white", mew=0.6
            )
            area = fraction(method.of_class("average_precision", k), PM) if curves else "decides only"
            axes.plot([], [], **look, ms=5, label=area)
        if (requirement := required.get(header.classes[k])) is not None:
            draw = axes.axvline if requirement.fixed == "completeness" else axes.axhline
            draw(requirement.value, color=GREY, lw=1, ls=(0, (2, 2)), zorder=0)
        axes.set_title(
            f"{header.classes[k]} against {_rest(header, k)}", color=class_colour(header.classes[k])
        )
        axes.legend(loc="lower left", title="average precision", alignment="left", handlelength=3)
        floor = max(0.0, np.floor(20 * min(lowest) - 0.5) / 20)
        axes.set(
            xlim=(max(0.0, np.floor(20 * min(left) - 1) / 20), 1.005),
            ylim=(floor, 1 + 0.02 * (1 - floor)),
            xlabel=f"{header.classes[k]} completeness (recall)",
        )
        percent_axes(axes.xaxis, axes.yaxis)
    panels[0].set_ylabel("purity (precision)")
    methods_below(figure, [method.name for method in methods])
    return figure


def _rest(header: RunHeader, k: int) -> str:
    return header.classes[1 - k] if len(header.classes) == 2 else "others"


@styled
def operating_points_against_magnitude(
    header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]
) -> Figure:
    """Draw what each requirement costs in bins of r, a panel a requirement; each bin has its own cut.

    Lines are means over runs; a bin where a run cannot meet the requirement is a gap. Methods that only
    decide are left out. The first of the others has its 95 % Wilson interval from the number of objects;
    those of many would hide each other.

    Raises
    ------
    DataError
        If no requirement concerns the classes, or every method only decides.
    """
    requirements = requirements_of(header.classes)
    methods = summarise(header, test, outcomes)
    if not requirements or all(outcome.decides_only for outcome in outcomes):
        raise DataError("no method has a cut that could be moved to meet a requirement")
    banded = next(k for k, each in enumerate(methods) if not all(run.decides_only for run in each.runs))
    figure = run_figure(
        header,
        "Samples at stated requirements, against magnitude",
        f"A cut of its own in each bin. Band: 95 % from the number of objects, {methods[banded].name}.",
        max(6.4, 5.2 * len(requirements)),
        4.9,
    )
    panels = figure.subplots(1, len(requirements), squeeze=False, sharex=True)[0]
    met = [requirements_met(header, test, method) for method in methods]
    for column, (axes, requirement) in enumerate(zip(panels, requirements, strict=True)):
        lowest = 1.0
        for index, of_method in enumerate(met):
            found = of_method[column]
            if not found.bins or not len(found.bins[0].count):
                continue
            centre, value = found.bins[0].centre, found.mean_in_bins(requirement.free)
            look = method_look(index)
            if index == banded:
                # A purity is counted among the kept, a completeness among those of the class.
                of = np.maximum(found.mean_in_bins("kept" if requirement.free == "purity" else "of_class"), 1)
                low, high = wilson_interval(value * of, of)
                axes.fill_between(centre, low, high, color=look["color"], alpha=0.13, lw=0)
                lowest = float(np.nanmin(np.append(low, lowest)))
            name = methods[index].name
            axes.plot(centre, value, **look, ms=4.5, mec="white", mew=0.5, lw=1.5, label=name)
            lowest = float(np.nanmin(np.append(value, lowest)))
        if not axes.get_lines():
            axes.text(
                0.5, 0.5, "too few objects in every bin", transform=axes.transAxes, ha="center", color=GREY
            )
        floor = max(0.0, np.floor(20 * lowest - 0.8) / 20)
        axes.set(
            ylim=(floor, 1 + 0.02 * (1 - floor)),
            ylabel=f"{requirement.class_name} {requirement.free}",
            xlabel="observed r magnitude (AB mag)",
        )
        axes.set_title(requirement.in_words, color=class_colour(requirement.class_name))
        percent_axes(axes.yaxis)
    legend_below(figure, panels)
    return figure


def selection_figures(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Iterator[NamedFigure]:
    """Yield the figures of this module that a report's contents allow, with captions."""
    if len(np.unique(test.label)) > 1:
        yield NamedFigure(
            "precision_recall",
            "Purity against completeness",
            "What fraction of a sample belongs to the class against what fraction of the class is in it, as "
            "the threshold on its probability moves; purity is that of these test objects and moves with the "
            "mixture of classes.",
            precision_recall_curves(header, test, outcomes),
        )
    if (
        requirements_of(header.classes)
        and np.isfinite(test.r_obs).any()
        and not all(outcome.decides_only for outcome in outcomes)
    ):
        yield NamedFigure(
            "operating_points",
            "Samples at stated requirements, against magnitude",
            "Purity of galaxies with completeness fixed, and completeness of stars with purity fixed, "
            "as Soumagnac et al. (2015) ask of the Dark Energy Survey, met anew in each bin; bins with fewer "
            f"than {FEWEST_OF_CLASS} objects of the class are left out, and gaps are where no cut meets it.",
            operating_points_against_magnitude(header, test, outcomes),
        )
