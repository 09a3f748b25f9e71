"""The figures of a report, in the order of its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .accuracy_figures import accuracy_against_compactness, accuracy_against_magnitude
from .attention_figures import attention_figures
from .comparison_figures import comparison_figures
from .embedding_figures import embedding_figures
from .learning_figures import learning_figures
from .metrics import CALIBRATION_BINS, confident_mistakes
from .mistakes_figure import mistakes_gallery
from .results import Outcome, RunHeader, TestSet
from .score_figures import confusion_matrices, reliability_diagram, roc_curves
from .selection_figures import selection_figures
from .style import NamedFigure
from .summary import FEWEST_A_BIN


@dataclass(frozen=True)
class FigureGroup:
    """Figures that answer one question.

    Parameters
    ----------
    title : str
        Heading on the page.
    figures : tuple of NamedFigure
        At least one.
    folded : bool
        Whether the page shows them only when asked.
    """

    title: str
    figures: tuple[NamedFigure, ...]
    folded: bool = False


def report_figures(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> list[FigureGroup]:
    """Return the figures that a report's contents allow, with captions, in groups; none is empty."""
    groups = [
        FigureGroup("Right and wrong", tuple(_right_and_wrong(header, test, outcomes))),
        FigureGroup("Methods beside each other", tuple(comparison_figures(header, test, outcomes))),
        FigureGroup("As the cut moves", tuple(_curves(header, test, outcomes))),
        FigureGroup("Whether probabilities can be believed", tuple(_calibration(header, test, outcomes))),
        FigureGroup("What the network sees", tuple(_inside(header, test, outcomes))),
        FigureGroup("How training went", tuple(learning_figures(header, outcomes)), folded=True),
    ]
    return [group for group in groups if group.figures]


def _right_and_wrong(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Iterator[NamedFigure]:
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
            "PSF (small: like a point), mean over runs; "
            f"bins with fewer than {FEWEST_A_BIN} objects are left out.",
            accuracy_against_compactness(header, test, outcomes),
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


def _curves(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Iterator[NamedFigure]:
    if len(np.unique(test.label)) > 1:
        yield NamedFigure(
            "roc",
            "ROC curves",
            "How many objects of a class are found against how many others are taken for it, as the "
            "threshold on its probability moves, one line a run, and enlarged where contamination is low.",
            roc_curves(header, test, outcomes),
        )
    yield from selection_figures(header, test, outcomes)


def _calibration(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Iterator[NamedFigure]:
    if any(not outcome.decides_only for outcome in outcomes):
        yield NamedFigure(
            "reliability",
            "Reliability",
            "A calibrated classifier follows the diagonal; ECE is the mean distance from it over objects, "
            f"in {CALIBRATION_BINS} bins; points with fewer than {FEWEST_A_BIN} objects are left out.",
            reliability_diagram(header, test, outcomes),
        )


def _inside(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> Iterator[NamedFigure]:
    yield from embedding_figures(header, test, outcomes)
    yield from attention_figures(header, test, outcomes)
