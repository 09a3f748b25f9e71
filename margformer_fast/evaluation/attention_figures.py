"""The figure of which patches a network looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from .colour_image import colour_image, red_green_blue
from .explained import Explained
from .metrics import predict
from .results import Outcome, RunHeader, TestSet, method_name
from .style import INK, NamedFigure, class_colour, run_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CONTOURS = (0.1, 0.3, 0.7)
"""Levels of the image drawn over a map, as fractions of its peak."""

_LEAST_SIGMA = 4
"""Levels closer to the noise of the sky are left out: they would draw the noise."""


def _asked(test: TestSet, outcomes: Sequence[Outcome]) -> tuple[Explained, Outcome]:
    """Return what the model looked at, and what it predicted."""
    explained = test.explained
    if explained is None or not len(explained.rows):
        raise DataError("no model was asked what it looked at")
    for outcome in outcomes:
        if (outcome.method, outcome.seed) == (explained.method, explained.seed):
            return explained, outcome
    raise DataError(
        "what a model looked at belongs to no run",
        where=f"method {explained.method!r}, seed {explained.seed}",
        expected="one of the outcomes",
    )


def contour_levels(light: np.ndarray) -> list[float]:
    """Return the rising levels at which an image (size, size) is drawn over a map; none if it is all noise.

    Levels are fractions of the peak of the middle half, where the object is, not a neighbour's.
    """
    quarter = len(light) // 4
    sky = float(np.median(light))
    noise = 1.4826 * float(np.median(np.abs(light - sky)))
    peak = float(light[quarter : len(light) - quarter, quarter : len(light) - quarter].max())
    return [level for level in (part * peak for part in _CONTOURS) if level > sky + _LEAST_SIGMA * noise]


@styled
def attention_maps(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Figure:
    """Draw the image of each chosen object, what taking its patches away does, and what was read of them.

    A column an object; contours are the image at 10, 30 and 70 % of its peak, where it stands clear of the
    noise. Occlusion has a scale of its
    own for each object, symmetric about zero, whose end is written below. Shares of attention are in units of
    what a patch gets if all tokens are read alike, on one scale.

    Raises
    ------
    DataError
        If no model was asked, or the run it belongs to is not there.
    """
    explained, outcome = _asked(test, outcomes)
    kinds = 2 if explained.attention is None else 3
    columns = len(explained.rows)
    figure = run_figure(
        header,
        f"What the network looked at: {method_name(explained.method)}",
        f"Seed {explained.seed}; {', '.join(red_green_blue(test.bands))} as red, green, blue; "
        "contours: the image.",
        max(8.6, 1.3 + 1.8 * columns),
        1.1 + 2.05 * kinds,
    )
    grid = figure.subplots(kinds, columns, squeeze=False)
    bands = [test.bands.index(band) for band in red_green_blue(test.bands)]
    size = explained.stamps.shape[-1]
    place: dict[str, Any] = {
        "origin": "lower",
        "interpolation": "nearest",
        "extent": (-0.5, size - 0.5, -0.5, size - 0.5),
    }
    for column, (row, stamp, fall) in enumerate(
        zip(explained.rows, explained.stamps, explained.occlusion, strict=True)
    ):
        truth, called = test.label[row], int(predict(outcome.probability[row : row + 1])[0])
        top, middle = grid[:2, column]
        top.imshow(colour_image(stamp, test.bands), **place)
        top.set_title(
            f"{header.classes[truth]}, r = {test.r_obs[row]:.2f}",
            fontsize=8.5,
            color=class_colour(header.classes[truth]),
        )
        top.set_xlabel(
            f"called {header.classes[called]}, {'right' if truth == called else 'wrong'}\n"
            f"at {100 * outcome.probability[row, called]:.1f} %",
            fontsize=8.5,
            color=class_colour(header.classes[called]),
        )
        end = float(np.abs(fall).max())
        middle.imshow(fall, cmap="PuOr_r", vmin=-(end or 1), vmax=end or 1, **place)
        middle.set_xlabel(f"full colour: {end:.2g}", fontsize=8.5)
        light = np.nan_to_num(stamp[bands]).mean(axis=0)
        levels = contour_levels(light)
        for axes in grid[1:, column] if levels else ():
            axes.contour(light, levels=levels, colors=INK, linewidths=0.7)
    grid[0, 0].set_ylabel("image")
    grid[1, 0].set_ylabel("occlusion:\norange speaks for,\npurple against")
    if explained.attention is not None:
        tokens = explained.occlusion[0].size + 1
        share = explained.attention * tokens
        low, high = share.min(), share.max()
        for axes, one in zip(grid[2], share, strict=True):
            shown = axes.imshow(one, cmap="viridis", vmin=low, vmax=high, **place)
            axes.set_xlabel(f"patches {100 * one.sum() / tokens:.0f} %", fontsize=8.5)
        grid[2, 0].set_ylabel("read by the query,\nlast layer")
        figure.colorbar(shown, ax=list(grid[2]), label="1: as any token", fraction=0.02, pad=0.01)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(True)
    return figure


def attention_figures(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Iterator[NamedFigure]:
    """Yield the figure of this module if a model was asked what it looked at, with its caption."""
    if test.explained is not None and len(test.explained.rows):
        read = (
            ""
            if test.explained.attention is None
            else " Below: the share of each patch in what the photometric query read in the last layer, "
            "from the attention over slots and the magnitude of their make-up; a share says that a patch was "
            "read, not what for."
        )
        yield NamedFigure(
            "attention",
            "What the network looked at",
            "Of each class objects that are right at typical confidence and the most confident mistake. "
            "Occlusion: by how much the log-odds of the predicted class fall when a patch is replaced by "
            f"empty sky, in all bands, the photometry left as it is.{read}",
            attention_maps(header, test, outcomes),
        )
