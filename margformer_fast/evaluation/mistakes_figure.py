"""The gallery of the most confident mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import DataError
from .colour_image import colour_image, red_green_blue
from .metrics import confident_mistakes, predict
from .results import Outcome, RunHeader, TestSet, method_name
from .style import class_colour, run_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GALLERY_SIZE = 12


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
        max(8.0, 1.75 * columns),  # the heading takes as much
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
