"""The figures of a report.

Each function returns a :class:`matplotlib.figure.Figure` that belongs to no global state: nothing is left
open, no backend is chosen, and matplotlib's settings are as they were. Colours are safe for colour-blind
readers (classes: Okabe & Ito 2008; methods: Tol 2021, "muted"); methods also differ in marker and dash.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from ..files import atomic_file
from .metrics import (
    CALIBRATION_BINS,
    compactness_edges,
    confident_mistakes,
    magnitude_edges,
    predict,
    reliability,
    roc_curve,
    wilson_interval,
)
from .results import Outcome, RunHeader, TestSet, by_method, method_name, slug
from .summary import FEWEST_A_BIN, fraction, percent, summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
CLASS_COLOURS = {"GALAXY": "#D55E00", "QSO": "#009E73", "STAR": "#0072B2"}
SPARE_CLASS_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9")
METHOD_COLOURS = (
    *("#332288", "#CC6677", "#999933", "#AA4499", "#44AA99"),
    *("#882255", "#117733", "#88CCEE", "#DDAA33", "#555555"),
)
METHOD_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "<")
METHOD_DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (5, 1.5, 1.2, 1.5)),
    "-",
    "--",
    ":",
    "-.",
    "-",
    "--",
)
INK, GREY, PALE = "#222222", "#6b7280", "#d1d5db"
PM = "\u00b1"

TSNE_OBJECTS = 1500
TSNE_FEWEST = 50
GALLERY_SIZE = 12
_MISSING_PIXEL = (0.85, 0.85, 0.9)

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

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class NamedFigure:
    """A figure with its file name and its one-sentence caption."""

    stem: str
    title: str
    caption: str
    figure: Figure


def styled(make: Callable[..., Any]) -> Callable[..., Any]:
    """Run `make` with the style of this module, whatever the user's settings, and put those back."""

    @wraps(make)
    def run(*args: Any, **kwargs: Any) -> Any:
        from matplotlib import style

        with style.context(["default", _STYLE]):
            return make(*args, **kwargs)

    return run


def class_colour(name: str) -> str:
    """Return the colour of a class, the same in every figure."""
    return CLASS_COLOURS.get(name) or SPARE_CLASS_COLOURS[sum(name.encode()) % len(SPARE_CLASS_COLOURS)]


def method_look(index: int) -> dict[str, Any]:
    """Return colour, marker and dash of the method with this index."""
    return {
        "color": METHOD_COLOURS[index % len(METHOD_COLOURS)],
        "marker": METHOD_MARKERS[index % len(METHOD_MARKERS)],
        "linestyle": METHOD_DASHES[index % len(METHOD_DASHES)],
    }


def run_figure(header: RunHeader, title: str, detail: str, width: float, height: float) -> Figure:
    """Return an empty figure of a run: as :func:`headed`, with what was tested under the title."""
    return headed(title, f"{header.title}. {detail}", width, height, simulated=header.simulated)


def headed(title: str, detail: str, width: float, height: float, *, simulated: bool) -> Figure:
    """Return an empty figure of `width` x `height` inches with its heading, and a badge if simulated.

    To be called, and the figure filled, by a function that is :func:`styled`.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # The heading stands above the rectangle that the panels are laid out in.
    room = (0.006, 0.01, 0.988, 0.98 - 0.62 / height)
    figure = Figure(
        figsize=(width, height), layout=ConstrainedLayoutEngine(rect=room, w_pad=0.08, h_pad=0.06)
    )
    figure.text(0.012, 1 - 0.13 / height, title, va="top", fontsize=13, fontweight="bold")
    figure.text(0.012, 1 - 0.40 / height, detail, va="top", color=GREY, fontsize=9)
    if simulated:
        badge = {
            "boxstyle": "round,pad=0.35",
            "facecolor": "#fff7ed",
            "edgecolor": "#c2410c",
            "linewidth": 0.8,
        }
        figure.text(
            0.988,
            1 - 0.15 / height,
            "simulated data",
            ha="right",
            va="top",
            fontsize=9,
            color="#9a3412",
            bbox=badge,
        )
    return figure


def legend_below(figure: Figure, panels: Iterable[Axes], columns: int = 4) -> None:
    """Put one legend of everything labelled in `panels` under the figure."""
    labelled: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    if labelled:
        ncols = min(columns, len(labelled))
        figure.legend(list(labelled.values()), list(labelled), loc="outside lower center", ncols=ncols)


def methods_below(figure: Figure, names: Sequence[str], columns: int = 4) -> None:
    """Put one legend of the methods under the figure, for panels whose own legends say something else."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **method_look(index), ms=5) for index in range(len(names))]
    ncols = min(columns, len(names))
    figure.legend(handles, list(names), loc="outside lower center", ncols=ncols)


def percent_axes(*axes: Any) -> None:
    """Label axes that run from 0 to 1 in percent, with as many digits as each tick needs."""
    from matplotlib.ticker import FuncFormatter

    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


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
        "deVRad / psfFWHM, mean over bands (small: like a point)",
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


def project(embedding: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, str]:
    """Lay an embedding out in two dimensions.

    t-SNE (van der Maaten & Hinton 2008; started from PCA, perplexity 30) of at most `TSNE_OBJECTS` objects
    drawn at random; with fewer than `TSNE_FEWEST`, where neighbourhoods mean little, the first two
    principal components.

    Parameters
    ----------
    embedding : ndarray of float, shape (N, D)
    seed : int
        Decides which objects are drawn, and t-SNE's own choices.

    Returns
    -------
    rows : ndarray of int64, shape (n,)
        Objects laid out.
    position : ndarray of float64, shape (n, 2)
    how : str
        What the map is.

    Raises
    ------
    DataError
        If the embedding has fewer than two objects or dimensions.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    embedding = np.asarray(embedding, np.float64)
    if embedding.ndim != 2 or min(embedding.shape) < 2:
        raise DataError(
            f"the embedding has shape {embedding.shape}", expected="two objects and dimensions or more"
        )
    n = len(embedding)
    if not np.ptp(embedding, axis=0).any():
        return (
            np.arange(n),
            np.zeros((n, 2)),
            "the network has collapsed: all objects have one representation",
        )
    if n < TSNE_FEWEST:
        return (
            np.arange(n),
            PCA(2, random_state=seed).fit_transform(embedding),
            "first two principal components",
        )
    rows = np.sort(np.random.default_rng(seed).permutation(n)[:TSNE_OBJECTS])
    perplexity = min(30.0, (len(rows) - 1) / 3)
    layout = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    # One thread: with two, beside other work, they wait for each other (160 objects: 19 s against 0.7 s).
    with threadpool_limits(1):
        position = layout.fit_transform(embedding[rows])
    how = f"t-SNE, perplexity {perplexity:g}; near is alike, but distances between groups mean nothing"
    return rows, position.astype(np.float64), how


@styled
def embedding_map(header: RunHeader, test: TestSet, outcome: Outcome) -> Figure:
    """Draw the map of one run's embedding twice: by true class, with mistakes ringed, and by magnitude."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    if outcome.embedding is None:
        raise DataError("the run has no embedding", where=f"method {outcome.method!r}, seed {outcome.seed}")
    rows, position, how = project(outcome.embedding)
    dimensions = outcome.embedding.shape[1]
    figure = run_figure(
        header,
        f"Embedding map: {method_name(outcome.method)}",
        f"{len(rows):,} of {len(test):,} test objects in {dimensions} dimensions, seed {outcome.seed}.",
        10.4,
        5.5,
    )
    by_class, by_magnitude = figure.subplots(1, 2)
    # The brightest tenth of viridis cannot be seen on white.
    colours_of_magnitude = ListedColormap(colormaps["viridis_r"](np.linspace(0.1, 1, 256)))
    label = test.label[rows]
    size = float(np.clip(9000 / len(rows), 5, 36))
    # Drawn in random order, so that no class lies on top of the others.
    order = np.random.default_rng(0).permutation(len(rows))
    colours = np.array([class_colour(name) for name in header.classes])[label]
    by_class.scatter(*position[order].T, s=size, c=colours[order], linewidths=0, alpha=0.75)
    wrong = predict(outcome.probability[rows]) != label
    by_class.scatter(*position[wrong].T, s=2.2 * size, facecolors="none", edgecolors=INK, linewidths=0.7)
    for k, name in enumerate(header.classes):
        by_class.scatter(
            [], [], s=40, color=class_colour(name), label=f"{name} ({np.count_nonzero(label == k):,})"
        )
    by_class.scatter(
        [], [], s=40, facecolors="none", edgecolors=INK, label=f"misclassified ({np.count_nonzero(wrong):,})"
    )
    by_class.set_title("true class")
    by_class.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, handletextpad=0.2, columnspacing=1.0
    )
    r = test.r_obs[rows]
    known = order[np.isfinite(r[order])]
    if len(known):
        low, high = np.quantile(r[known], (0.02, 0.98))
        points = by_magnitude.scatter(
            *position[known].T,
            s=size,
            c=r[known],
            cmap=colours_of_magnitude,
            vmin=low,
            vmax=high,
            linewidths=0,
            alpha=0.8,
        )
        figure.colorbar(
            points,
            ax=by_magnitude,
            label="observed r magnitude (AB mag)",
            extend="both",
            fraction=0.05,
            pad=0.02,
        )
    by_magnitude.set_title("brightness")
    for axes in (by_class, by_magnitude):
        axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color(PALE)
    figure.supxlabel(how, fontsize=8.5, color=GREY)
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


def red_green_blue(bands: Sequence[str]) -> tuple[str, str, str]:
    """Return the bands shown as red, green and blue: i, r, g, or those around the middle one."""
    if {"g", "r", "i"} <= set(bands):
        return ("i", "r", "g")
    middle = len(bands) // 2
    return (bands[min(middle + 1, len(bands) - 1)], bands[middle], bands[max(middle - 1, 0)])


def colour_image(stamp: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Turn a multi-band stamp into a colour picture by an asinh stretch (after Lupton et al. 2004).

    Red, green and blue are i, r and g, or the three middle bands if these are not there. The sky (median) is
    removed, the mean of the three is stretched so that noise stays linear and bright centres do not burn
    out, and colours keep their ratio where there is light.

    Parameters
    ----------
    stamp : ndarray of float, shape (bands, size, size)
        A pixel that is NaN in all three is drawn light grey.
    bands : sequence of str
        Names of the planes.

    Returns
    -------
    ndarray of float64, shape (size, size, 3)
        From 0 to 1.
    """
    image = np.stack([np.asarray(stamp[bands.index(b)], np.float64) for b in red_green_blue(bands)], axis=-1)
    image[~np.isfinite(image)] = np.nan
    missing = np.isnan(image).all(axis=-1)
    known = image[~missing]
    sky = np.array(
        [np.median(plane[np.isfinite(plane)]) if np.isfinite(plane).any() else 0.0 for plane in known.T]
    )
    # Weights that make an object of typical colour (g - r, r - i = 0.6, 0.3 mag) white.
    image = np.nan_to_num(image - sky) * (0.75, 1.0, 1.75)
    mean = image.mean(axis=-1, keepdims=True)
    noise = 1.4826 * float(np.median(np.abs(mean[~missing]))) if known.size else 1.0
    noise = noise or float(np.abs(mean).max()) / 100 or 1.0
    black, soft = -0.5 * noise, 4 * noise
    # A bright neighbour at the edge must not decide how the object in the middle looks.
    quarter = len(mean) // 4
    peak = max(float(mean[quarter : len(mean) - quarter, quarter : len(mean) - quarter].max()), 7 * noise)
    level = np.arcsinh(np.clip(mean - black, 0, None) / soft) / np.arcsinh((peak - black) / soft)
    # Colour only where there is light: that of pure noise would drown a faint object.
    light = np.clip(mean / (6 * noise), 0, 1)
    tint = 1 + light * (image / np.maximum(mean, noise) - 1)
    picture = np.minimum(level, 1.5) * np.clip(tint, 0, 3)
    picture = np.clip(picture / np.maximum(picture.max(axis=-1, keepdims=True), 1.0), 0, 1)
    picture[missing] = _MISSING_PIXEL
    return picture


@styled
def mistakes_gallery(header: RunHeader, test: TestSet, outcome: Outcome, count: int = GALLERY_SIZE) -> Figure:
    """Show the most confident mistakes of a run among the objects whose images are there.

    Raises
    ------
    DataError
        If the test set has no images, or no object shown was misclassified.
    """
    shown, stamps = test.shown_rows, test.stamps_preview
    if stamps is None or not len(stamps):
        raise DataError("the test set has no images to show")
    picks = confident_mistakes(test.label[shown], outcome.probability[shown], count)
    if not len(picks):
        raise DataError("none of the objects with an image was misclassified")
    columns = min(6, len(picks))
    rows = -(-len(picks) // columns)
    seconds = stamps.shape[-1] * test.pixel_scale_arcsec
    figure = run_figure(
        header,
        f"Most confident mistakes: {method_name(outcome.method)}",
        f"Seed {outcome.seed}; {', '.join(red_green_blue(test.bands))} as red, green, blue; "
        f"{seconds:.1f} arcsec a side.",
        max(6.8, 1.75 * columns),
        0.8 + 2.3 * rows,
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
    for axes in grid.flat[len(picks) :]:
        axes.set_visible(False)
    for axes, pick in zip(grid.flat, picks, strict=False):
        row = shown[pick]
        truth, called = test.label[row], int(predict(outcome.probability[row : row + 1])[0])
        axes.imshow(colour_image(stamps[pick], test.bands), origin="lower", interpolation="nearest")
        for spine in axes.spines.values():
            spine.set(visible=True, color=class_colour(header.classes[truth]), linewidth=2.5)
        axes.set_title(
            f"{header.classes[truth]}, r = {test.r_obs[row]:.2f}",
            fontsize=8.5,
            color=class_colour(header.classes[truth]),
        )
        sure = 100 * outcome.probability[row, called]
        axes.set_xlabel(
            f"called {header.classes[called]}\nat {sure:.1f} %",
            fontsize=8.5,
            color=class_colour(header.classes[called]),
        )
    return figure


def report_figures(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Iterator[NamedFigure]:
    """Yield the figures of a report one by one, those that its contents allow, with captions.

    The map is of the first run that has an embedding, the gallery of the first run of all.
    """
    methods = by_method(outcomes)
    yield NamedFigure(
        "confusion",
        "Confusion matrices",
        "Each row is a true class and sums to 100 %; the small number counts objects, mean over runs.",
        confusion_matrices(header, test, outcomes),
    )
    if np.isfinite(test.r_obs).any():
        yield NamedFigure(
            "accuracy_magnitude",
            "Accuracy against magnitude",
            "Fraction classified correctly in bins of observed r magnitude, mean over runs; "
            f"bins with fewer than {FEWEST_A_BIN} objects are left out.",
            accuracy_against_magnitude(header, test, outcomes),
        )
    if np.isfinite(test.compactness).any():
        yield NamedFigure(
            "accuracy_compactness",
            "Accuracy against compactness",
            "Fraction classified correctly in bins of the fitted de Vaucouleurs radius over the width of the "
            f"PSF, mean over runs; bins with fewer than {FEWEST_A_BIN} objects are left out.",
            accuracy_against_compactness(header, test, outcomes),
        )
    if len(np.unique(test.label)) > 1:
        yield NamedFigure(
            "roc",
            "ROC curves",
            "How many objects of a class are found against how many others are taken for it, as the "
            "threshold on its probability moves, one line a run, and enlarged where contamination is low.",
            roc_curves(header, test, outcomes),
        )
    if any(not outcome.decides_only for outcome in outcomes):
        yield NamedFigure(
            "reliability",
            "Reliability",
            "A calibrated classifier follows the diagonal; ECE is the mean distance from it over objects, "
            f"in {CALIBRATION_BINS} bins; points with fewer than {FEWEST_A_BIN} objects are left out.",
            reliability_diagram(header, test, outcomes),
        )
    embedded = next(
        (run for run in outcomes if run.embedding is not None and min(run.embedding.shape) > 1), None
    )
    if embedded is not None:
        yield NamedFigure(
            "embedding",
            "Embedding map",
            "What the network has learned to call alike: its representation of test objects laid out in two "
            "dimensions, without use of their classes.",
            embedding_map(header, test, embedded),
        )
    first, shown = outcomes[0], test.shown_rows
    if len(shown) and len(confident_mistakes(test.label[shown], first.probability[shown], 1)):
        yield NamedFigure(
            "mistakes",
            "Most confident mistakes",
            "The misclassified test objects of highest probability among those whose images are at hand; "
            "frame and upper line have the colour of the true class.",
            mistakes_gallery(header, test, first),
        )
    for index, (method, runs) in enumerate(methods.items()):
        if any(len(rows) for run in runs for rows in run.history.values()):
            yield NamedFigure(
                f"learning_{slug(method)}",
                f"Learning curves: {method_name(method)}",
                "Loss and validation accuracy of each run against epoch, a column a stage of training.",
                learning_curves(header, runs, index),
            )


@styled
def png(figure: Figure, dpi: int = DPI) -> bytes:
    """Return a figure as PNG, the same bytes each time for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save_png(figure: Figure, path: str | Path, dpi: int = DPI) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    data = png(figure, dpi)
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)
