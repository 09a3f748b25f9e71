"""The figure of how methods differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .judgement import compared_with
from .results import Outcome, RunHeader, TestSet
from .style import GREY, NamedFigure, method_look, run_figure, styled
from .summary import summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def method_differences(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Figure:
    """Draw each method's accuracy minus that of the first, with 95 % intervals: a forest plot.

    Thick: objects drawn; thin: runs drawn too.

    Raises
    ------
    DataError
        If there is one method only.
    """
    methods = summarise(header, test, outcomes)
    if len(methods) < 2:
        raise DataError("there is one method only", expected="another to compare it with")
    found = compared_with(test, methods[0], methods[1:])
    figure = run_figure(
        header,
        f"Difference from {methods[0].name}",
        f"The same {len(test):,} test objects.",
        8.6,
        1.75 + 0.48 * len(found),
    )
    axes = figure.subplots()
    for row, comparison in enumerate(found):
        look = method_look(row + 1)
        value, both = comparison.accuracy.objects, comparison.accuracy.objects_and_runs
        if both is not None:
            axes.plot([100 * both.low, 100 * both.high], [row, row], color=look["color"], lw=1.3)
        axes.plot(
            [100 * value.low, 100 * value.high], [row, row], color=look["color"], lw=5, alpha=0.45,
            solid_capstyle="butt",
        )  # fmt: skip
        axes.plot(100 * value.value, row, color=look["color"], marker=look["marker"], ms=7, mec="white")
        axes.annotate(
            f"{100 * value.value:+.2f}", (1.01, row), xycoords=("axes fraction", "data"), va="center"
        )
    axes.axvline(0, color=GREY, lw=1)
    axes.set_yticks(range(len(found)), [comparison.name for comparison in found])
    axes.set(ylim=(len(found) - 0.5, -0.5), xlabel="difference of accuracy (percentage points)")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    # Zero in view, with room on both sides.
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.05 * (high - low)), max(high, 0.05 * (high - low)))
    axes.plot([], [], color=GREY, lw=5, alpha=0.6, solid_capstyle="butt", label="95 %, objects drawn")
    if any(comparison.accuracy.objects_and_runs is not None for comparison in found):
        axes.plot([], [], color=GREY, lw=1.3, label="95 %, objects and runs drawn")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def comparison_figures(
    header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]
) -> Iterator[NamedFigure]:
    """Yield the figure of this module if there are methods to compare, with its caption."""
    if len(np.unique([outcome.method for outcome in outcomes])) > 1:
        yield NamedFigure(
            "differences",
            "Differences between methods",
            "Accuracy minus that of the first method on the same objects; an interval that holds zero does "
            "not tell the two apart, and the thin one says where freshly trained runs may lie.",
            method_differences(header, test, outcomes),
        )
