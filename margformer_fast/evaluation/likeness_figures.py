"""Figures of simulated objects beside real ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..data.survey import CLASSES
from .likeness import Likeness
from .style import GREY, NamedFigure, class_colour, headed, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 40


def likeness_figures(found: Likeness) -> Iterator[NamedFigure]:
    """Yield colour-colour diagrams, then histograms of all features, for each class there is."""
    classes = [CLASSES[k] for k in np.unique(found.real.label)]
    for name in classes if len(_colours(found)) > 1 else ():
        yield NamedFigure(
            f"colours_{name.lower()}",
            f"Colours: {name}",
            "Above real objects, below simulated ones weighted to the same magnitudes; colours of observed "
            "magnitudes. Darker is denser, in logarithmic steps, the same above and below.",
            colour_diagrams(found, name),
        )
    for name in classes:
        yield NamedFigure(
            f"features_{name.lower()}",
            f"Features: {name}",
            "Shaded: real. Line: simulated, weighted to the same magnitudes. The ends hold what lies beyond.",
            histograms(found, name),
        )


def _colours(found: Likeness) -> list[str]:
    return [column for column in found.real.columns if len(column) == 3 and column[1] == "_"]


@styled
def colour_diagrams(found: Likeness, name: str) -> Figure:
    """Draw each pair of neighbouring colours of one class, real above simulated."""
    from matplotlib.colors import LogNorm

    pairs = list(pairwise(_colours(found)))
    figure = headed(f"Colours of {name}", "Real above, simulated below.", 11, 7, simulated=True)
    panels = figure.subplots(2, len(pairs), squeeze=False)
    label = CLASSES.index(name)
    sides = (
        ("real", found.real, np.ones(len(found.real))),
        ("simulated", found.simulated, found.weight),
    )
    for column, (a, b) in enumerate(pairs):
        mine = found.real.label == label
        limits = [
            np.percentile(found.real.columns[c][mine], (0.5, 99.5)) + np.array([-0.3, 0.3]) for c in (a, b)
        ]
        for row, (side, sample, weight) in enumerate(sides):
            here = sample.label == label
            axes = panels[row, column]
            counts, x, y = np.histogram2d(
                sample.columns[a][here],
                sample.columns[b][here],
                bins=[np.linspace(limit[0], limit[1], 61) for limit in limits],
                weights=weight[here],
            )
            norm = LogNorm(0.5, max(mine.sum() / 60, 2))
            axes.pcolormesh(x, y, np.ma.masked_less(counts.T, 0.2), norm=norm, cmap="viridis_r")
            axes.set(xlabel=a.replace("_", " - "), ylabel=b.replace("_", " - "))
            axes.set_title(side)
    return figure


@styled
def histograms(found: Likeness, name: str) -> Figure:
    """Draw the distribution of every feature of one class, real and simulated in one panel."""
    label = CLASSES.index(name)
    features = list(found.real.columns)
    across = 4 if len(features) >= 4 else len(features)
    down = -(-len(features) // across)
    figure = headed(
        f"Features of {name}", "Real and simulated objects.", 12, 1.2 + 1.75 * down, simulated=True
    )
    panels = figure.subplots(down, across, squeeze=False).ravel()
    distance = {f.feature: f.distance for f in found.features if f.kind == name}
    real, ours = found.real.label == label, found.simulated.label == label
    for axes, feature in zip(panels, features, strict=False):
        x, y = found.real.columns[feature][real], found.simulated.columns[feature][ours]
        low, high = np.percentile(x, (0.5, 99.5))
        edges = np.linspace(low, high + 1e-9, _BINS + 1)
        axes.hist(np.clip(x, low, high), edges, density=True, color=GREY, alpha=0.4, label="real")
        axes.hist(
            np.clip(y, low, high),
            edges,
            density=True,
            weights=found.weight[ours],
            histtype="step",
            color=class_colour(name),
            linewidth=1.4,
            label="simulated",
        )
        axes.set_title(f"{feature}: {distance[feature]:.3f}", fontsize=9)
        axes.set_yticks([])
    for axes in panels[len(features) :]:
        axes.set_visible(False)
    legend_below(figure, panels[:1])
    return figure
