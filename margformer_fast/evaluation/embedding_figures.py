"""Figures of what a network holds alike: a map of its embeddings, and the cosines between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .metrics import predict, roc_auc
from .results import Outcome, RunHeader, TestSet, method_name
from .style import GREY, INK, PALE, NamedFigure, class_colour, legend_below, run_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TSNE_OBJECTS = 1500
TSNE_FEWEST = 50
PAIRS = 20_000
"""Pairs drawn within each class, and between classes."""


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


def cosines_of_pairs(
    embedding: np.ndarray, label: np.ndarray, num_classes: int, *, pairs: int = PAIRS, seed: int = 0
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the cosine of the angle between embeddings of random pairs of objects.

    Parameters
    ----------
    embedding : ndarray of float, shape (N, D)
        Representation of each object. The mean is removed first: a direction that all share tells
        nothing apart, and would bring every cosine close to 1.
    label : ndarray of int, shape (N,)
        True class indices.
    num_classes : int
        Number of classes C.
    pairs : int
        Pairs drawn, with replacement, within each class and between classes.
    seed : int
        Decides which.

    Returns
    -------
    within : list of ndarray of float64, shape (pairs,) or (0,)
        One for each class; empty for a class with fewer than two objects.
    between : ndarray of float64, shape (pairs,) or (0,)
        Of objects of two classes, which are drawn in the proportion of such pairs; empty with one class.

    Raises
    ------
    DataError
        If lengths differ.
    """
    embedding = np.asarray(embedding, np.float64)
    if embedding.ndim != 2 or len(embedding) != len(label):
        raise DataError(f"the embedding has shape {embedding.shape}", expected=f"({len(label)}, D)")
    centred = embedding - embedding.mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(label == k) for k in range(num_classes)]

    def cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        return np.einsum("nd,nd->n", unit[one], unit[two])

    within = []
    for mine in rows:
        if len(mine) < 2:
            within.append(np.empty(0))
            continue
        first = rng.integers(0, len(mine), pairs)
        # A step of 1 to n - 1 around the circle: never the object itself.
        second = (first + rng.integers(1, len(mine), pairs)) % len(mine)
        within.append(cosine(mine[first], mine[second]))
    combos = [(a, b) for a in range(num_classes) for b in range(a) if len(rows[a]) and len(rows[b])]
    if not combos:
        return within, np.empty(0)
    weight = np.array([len(rows[a]) * len(rows[b]) for a, b in combos], np.float64)
    drawn = rng.multinomial(pairs, weight / weight.sum())
    between = [
        cosine(rng.choice(rows[a], count), rng.choice(rows[b], count))
        for (a, b), count in zip(combos, drawn, strict=True)
    ]
    return within, np.concatenate(between)


@styled
def cosine_histograms(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Figure:
    """Draw how alike embeddings are within each class and between classes, a panel a method.

    Of each method the first run with an embedding is drawn.

    Raises
    ------
    DataError
        If no run has an embedding.
    """
    runs: dict[str, tuple[Outcome, np.ndarray]] = {}
    for outcome in outcomes:
        if outcome.embedding is not None:
            runs.setdefault(outcome.method, (outcome, outcome.embedding))
    if not runs:
        raise DataError("no run has an embedding")
    columns = min(3, len(runs))
    rows = -(-len(runs) // columns)
    figure = run_figure(
        header,
        "How alike embeddings are",
        f"Cosines of {PAIRS:,} random pairs each, mean removed.",
        max(8.2, 4.6 * columns),
        1.5 + 3.0 * rows,
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes in grid.flat[len(runs) :]:
        axes.set_visible(False)
    bins = np.linspace(-1, 1, 81)
    for axes, (run, embedding) in zip(grid.flat, runs.values(), strict=False):
        within, between = cosines_of_pairs(embedding, test.label, len(header.classes))
        if len(between):
            density = np.histogram(between, bins)[0] / len(between)
            axes.stairs(density, bins, fill=True, color="#d1d5db", label="of two classes")
        for k, cosine in enumerate(within):
            if len(cosine):
                density = np.histogram(cosine, bins)[0] / len(cosine)
                name = header.classes[k]
                axes.stairs(density, bins, color=class_colour(name), lw=1.7, label=f"both {name}")
        axes.set(yticks=[], xlim=(-1.02, 1.02), ylabel="pairs", xlabel="cosine")
        axes.set_title(f"{method_name(run.method)}, seed {run.seed}")
        alike = np.concatenate(within)
        if len(alike) and len(between):
            truth = np.arange(len(alike) + len(between)) < len(alike)
            area = roc_auc(truth, np.concatenate([alike, between]))
            axes.text(
                0.03, 0.95,
                f"a pair of one class is more alike\nthan one of two: {100 * area:.1f} % of the time",
                transform=axes.transAxes, va="top", fontsize=8.5, color=INK,
            )  # fmt: skip
            axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
        axes.axvline(0, color=GREY, lw=0.8, zorder=0)
    legend_below(figure, grid.flat)
    return figure


def embedding_figures(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Iterator[NamedFigure]:
    """Yield the figures of this module if a run has an embedding, with captions; the map is of the first."""
    embedded = [(run, run.embedding.shape) for run in outcomes if run.embedding is not None]
    mapped = next((run for run, shape in embedded if min(shape) > 1), None)
    if mapped is not None:
        yield NamedFigure(
            "embedding",
            "Embedding map",
            "What the network has learned to call alike: its representation of test objects laid out in two "
            "dimensions, without use of their classes.",
            embedding_map(header, test, mapped),
        )
    if embedded:
        yield NamedFigure(
            "cosines",
            "How alike embeddings are",
            "Where classes are apart in the representation, pairs of one class (lines) have larger cosines "
            "than pairs of two (grey); each line and the grey area count equally many pairs.",
            cosine_histograms(header, test, outcomes),
        )
