"""The figure of how alike embeddings of one class are, and of two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .figures import GREY, INK, NamedFigure, class_colour, legend_below, run_figure, styled
from .metrics import roc_auc
from .results import Outcome, RunHeader, TestSet, method_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAIRS = 20_000
"""Pairs drawn within each class, and between classes."""


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
        f"Cosines of {PAIRS:,} random pairs each, mean embedding removed.",
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
    """Yield the figure of this module if a run has an embedding, with its caption."""
    if any(outcome.embedding is not None for outcome in outcomes):
        yield NamedFigure(
            "cosines",
            "How alike embeddings are",
            "Where classes are apart in the representation, pairs of one class (lines) have larger cosines "
            "than pairs of two (grey); each line and the grey area count equally many pairs.",
            cosine_histograms(header, test, outcomes),
        )
