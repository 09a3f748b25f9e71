"""Figures of the scores of all test objects: confusion, ROC and reliability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .metrics import predict, reliability, roc_curve, wilson_interval
from .results import Outcome, RunHeader, TestSet
from .style import (
    GREY,
    INK,
    PALE,
    PM,
    legend_below,
    method_look,
    percent_axes,
    run_figure,
    styled,
)
from .summary import FEWEST_A_BIN, fraction, percent, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def confusion_matrices(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Figure:
    """Draw one confusion matrix a method: percent of the true class, and mean number of objects a run."""
    methods = summarise(header, test, outcomes)
    most, side = (4, 2.7) if len(header.classes) == 2 else (3, 3.4)
    rows = -(-len(methods) // most)
    columns = -(-len(methods) // rows)
    figure = run_figure(
        header,
        "Confusion matrices",
        f"{len(test):,} test objects; percent of the true class.",
        max(6.4, 0.3 + side * columns),
        0.6 + (side + 0.75) * rows,
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(methods) :]:
        axes.set_visible(False)
    for k, (axes, method) in enumerate(zip(grid.flat, methods, strict=False)):
        total = np.sum([result.scores.confusion for result in method.evaluations], axis=0)
        actual = total.sum(axis=1, keepdims=True)
        share = total / np.maximum(actual, 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        for (i, j), part in np.ndenumerate(share):
            shade = "white" if part > 0.55 else INK
            large = f"{100 * part:.1f} %" if actual[i, 0] else "-"
            axes.text(j, i - 0.07, large, ha="center", va="center", color=shade, fontsize=12)
            axes.text(
                j,
                i + 0.2,
                f"{total[i, j] / len(method.runs):,.0f}",
                ha="center",
                va="center",
                color=shade,
                fontsize=8.5,
            )
        ticks = range(len(header.classes))
        axes.set_xticks(ticks, header.classes)
        axes.set_yticks(ticks, header.classes, rotation=90, va="center")
        axes.tick_params(length=0)
        accuracy = f"accuracy {percent(method.over_runs('accuracy'), PM)} %"
        axes.set_title(method.name, fontsize=10, pad=19)
        axes.text(
            0,
            1.02,
            f"{accuracy}, {method.runs_in_words}",
            transform=axes.transAxes,
            color=GREY,
            fontsize=8.5,
        )
        axes.set_xlabel("predicted class")
        if k % columns == 0:
            axes.set_ylabel("true class")
    return figure


def _false_and_true_rate(label: np.ndarray, predicted: np.ndarray, k: int) -> tuple[float, float]:
    return float(np.mean(predicted[label != k] == k)), float(np.mean(predicted[label == k] == k))


@styled
def roc_curves(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Figure:
    """Draw ROC curves: whole, and on a logarithmic axis where contamination is low.

    For two classes the second is looked for; for more, each against the rest. A class without objects on
    both sides is left out. Filled markers show what the most probable class gives.

    Raises
    ------
    DataError
        If no class has test objects both inside and outside.
    """
    classes = header.classes
    methods = summarise(header, test, outcomes)
    wanted = [1] if len(classes) == 2 else range(len(classes))
    wanted = [k for k in wanted if 0 < np.count_nonzero(test.label == k) < len(test)]
    if not wanted:
        raise DataError("a ROC curve needs test objects of two classes")
    figure = run_figure(
        header,
        "ROC curves",
        f"{len(test):,} test objects. Markers: the most probable class.",
        9.4 if len(wanted) == 1 else 3.7 * len(wanted),
        5.3 if len(wanted) == 1 else 8.0,
    )
    grid = figure.subplots(1, 2, squeeze=False).T if len(wanted) == 1 else figure.subplots(2, len(wanted))
    for column, k in enumerate(wanted):
        whole, corner = grid[:, column]
        positive = test.label == k
        # Half an object: where a curve is drawn that has not yet let in a single wrong one.
        least = 0.5 / np.count_nonzero(~positive)
        lowest = 1.0
        for index, method in enumerate(methods):
            look = method_look(index)
            ranked = [run for run in method.runs if not run.decides_only]
            for run in ranked:
                curve = roc_curve(positive, run.probability[:, k])
                false, true = curve.false_positive_rate, curve.true_positive_rate
                line = {"color": look["color"], "linestyle": look["linestyle"], "alpha": 0.85, "lw": 1.5}
                whole.plot(false, true, **line)
                start = true[np.searchsorted(false, least, side="right") - 1]
                seen = false > least
                corner.plot(np.append(least, false[seen]), np.append(start, true[seen]), **line)
                lowest = min(lowest, float(np.interp(max(0.003, 4 * least), false, true)))
            points = np.array(
                [_false_and_true_rate(test.label, predict(run.probability), k) for run in method.runs]
            )
            lowest = min(lowest, points[:, 1].min())
            dots = {"color": look["color"], "marker": look["marker"], "ms": 6, "mec": "white", "mew": 0.6}
            whole.plot(*points.T, ls="", **dots)
            corner.plot(np.maximum(points[:, 0], least), points[:, 1], ls="", **dots)
            whole.plot(
                [],
                [],
                **look,
                ms=5,
                label=fraction(method.of_class("auc", k), PM) if ranked else "decides only",
            )
            corner.plot([], [], **look, ms=5, label=method.name)
        others = classes[1 - k] if len(classes) == 2 else "others"
        whole.plot([0, 1], [0, 1], color=PALE, lw=1, zorder=0)
        whole.set(
            title=f"{classes[k]} against {others}", aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
        )
        whole.legend(loc="lower right", title="area under the curve", alignment="left", handlelength=3)
        floor = max(0.0, np.floor(20 * lowest - 1) / 20)
        corner.set(xscale="log", xlim=(least, 1), ylim=(floor, 1 + 0.02 * (1 - floor)))
        corner.set_title("where contamination is low")
        for axes in (whole, corner):
            percent_axes(axes.xaxis, axes.yaxis)
            axes.set_ylabel(f"{classes[k]} found (true positives)")
            axes.set_xlabel(f"{others} called {classes[k]} (false positives)")
    legend_below(figure, grid[1])
    return figure


@styled
def reliability_diagram(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Figure:
    """Draw how often predictions are right against how sure they are, and how many are how sure.

    Runs of a method are pooled. Methods that only decide are left out.

    Raises
    ------
    DataError
        If every method only decides.
    """
    if all(outcome.decides_only for outcome in outcomes):
        raise DataError("no method gives probabilities to compare with")
    figure = run_figure(header, "Reliability", f"{len(test):,} test objects; runs pooled.", 6.6, 6.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    start = lowest = 1 / len(header.classes)
    top.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (2, 2)), label="perfectly calibrated")
    for index, method in enumerate(summarise(header, test, outcomes)):
        runs = [run for run in method.runs if not run.decides_only]
        if not runs:
            continue
        bins = reliability(np.tile(test.label, len(runs)), np.concatenate([run.probability for run in runs]))
        there = bins.count >= FEWEST_A_BIN * len(runs)
        # Runs share their objects, so the interval counts objects, not predictions.
        low, high = wilson_interval(
            (bins.accuracy * bins.count)[there] / len(runs), bins.count[there] / len(runs)
        )
        accuracy = bins.accuracy[there]
        lowest = min([lowest, *accuracy])
        top.errorbar(
            bins.confidence[there],
            accuracy,
            np.maximum([accuracy - low, high - accuracy], 0),
            **method_look(index),
            ms=5,
            mec="white",
            mew=0.5,
            lw=1.4,
            elinewidth=1,
            label=f"{method.name}, ECE {fraction(method.over_runs('ece'), PM)}",
        )
        bottom.stairs(bins.count / len(runs), bins.edges, color=method_look(index)["color"], lw=1.4)
    top.set(ylabel="classified correctly", xlim=(start - 0.02, 1.01), ylim=(max(0.0, lowest - 0.05), 1.03))
    top.legend(loc="lower right")
    bottom.set(yscale="log", ylabel="objects", xlabel="probability of the predicted class")
    percent_axes(top.yaxis, bottom.xaxis)
    return figure
