"""The figure of how training went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .results import Outcome, RunHeader, by_method, method_name, slug
from .style import GREY, METHOD_COLOURS, NamedFigure, legend_below, percent_axes, run_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGE_NAMES = {
    "pretrain": "contrastive pre-training",
    "finetune": "fine-tuning",
    "probe": "probe on the frozen encoder",
    "train": "supervised training",
    "supervised": "supervised training",
    "images-only": "supervised training, images only",
    "margnet-dnn": "MargNet's network of features",
    "margnet-cnn": "MargNet's network of images",
    "margnet-ensemble": "MargNet's ensemble head",
}


def _column(history: Sequence[Mapping[str, float | None]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return epochs and values of the entries that have a finite `key`."""
    pairs = [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
    epochs, values = np.array(pairs, np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    return epochs[finite], values[finite]


@styled
def learning_curves(header: RunHeader, runs: Sequence[Outcome], index: int = 0) -> Figure:
    """Draw loss, and accuracy where it was measured, against epoch; a column a stage.

    Parameters
    ----------
    header : RunHeader
    runs : sequence of Outcome
        The runs of one method, with a history.
    index : int
        Index of the method, which decides its colour.

    Raises
    ------
    DataError
        If no run has a history.
    """
    stages = list(dict.fromkeys(stage for run in runs for stage, rows in run.history.items() if len(rows)))
    if not stages:
        raise DataError("there is no history to draw", where=f"method {runs[0].method!r}")
    histories = {stage: [run.history[stage] for run in runs if run.history.get(stage)] for stage in stages}
    measured = {
        stage: any(len(_column(rows, "val_accuracy")[0]) for rows in histories[stage]) for stage in stages
    }
    rows = 2 if any(measured.values()) else 1
    figure = run_figure(
        header,
        f"Learning curves: {method_name(runs[0].method)}",
        "1 run." if len(runs) == 1 else f"{len(runs)} runs.",
        max(6.4, 4.8 * len(stages)),
        1.3 + 2.6 * rows,
    )
    grid = figure.subplots(rows, len(stages), squeeze=False, sharex="col")
    colour = METHOD_COLOURS[index % len(METHOD_COLOURS)]
    kinds = (("train_loss", "training", GREY, (0, (4, 1.5))), ("val_loss", "validation", colour, "-"))
    for column, stage in enumerate(stages):
        top = grid[0, column]
        for k, history in enumerate(histories[stage]):
            for key, name, shade, dash in kinds:
                epochs, values = _column(history, key)
                if not len(epochs):
                    continue
                few = "." if len(epochs) < 3 else ""
                label = name if k == 0 else None
                top.plot(
                    epochs, values, color=shade, linestyle=dash, marker=few, alpha=0.85, lw=1.4, label=label
                )
                if key == "val_loss":
                    best = np.argmin(values)
                    label = "lowest validation loss" if k == 0 else None
                    top.plot(epochs[best], values[best], "o", color=shade, ms=6, mec="white", label=label)
        top.set(title=STAGE_NAMES.get(stage, stage), ylabel="loss")
        if rows == 2:
            bottom = grid[1, column]
            bottom.set_visible(measured[stage])
            for history in histories[stage] if measured[stage] else ():
                epochs, values = _column(history, "val_accuracy")
                bottom.plot(
                    epochs, values, color=colour, lw=1.4, alpha=0.85, marker="." if len(epochs) < 3 else ""
                )
            bottom.set_ylabel("validation accuracy")
            percent_axes(bottom.yaxis)
        lowest = grid[1, column] if measured[stage] else top
        lowest.set_xlabel("epoch")
        lowest.xaxis.get_major_locator().set_params(integer=True)
        lowest.tick_params(labelbottom=True)
    legend_below(figure, grid.flat)
    return figure


def learning_figures(header: RunHeader, outcomes: Sequence[Outcome]) -> Iterator[NamedFigure]:
    """Yield one figure for each method that learned in epochs, with captions."""
    for index, (method, runs) in enumerate(by_method(outcomes).items()):
        if any(len(rows) for run in runs for rows in run.history.values()):
            yield NamedFigure(
                f"learning_{slug(method)}",
                f"Learning curves: {method_name(method)}",
                "Loss and validation accuracy of each run against epoch, a column a stage of training.",
                learning_curves(header, runs, index),
            )
