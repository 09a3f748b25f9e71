"""The section of a report's page about prediction sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from .conformal import KINDS, LEVELS, SetScores
from .html_parts import picture, table
from .prediction_sets import (
    COLUMN_LEVEL,
    KIND_NAMES,
    RunSets,
    column_kind,
    first_method,
    is_shifted,
    over_runs,
)
from .results import CalibrationSet, RunHeader, TestSet, method_name
from .style import NamedFigure
from .summary import percent

_PM = "&plusmn;"


def section(
    header: RunHeader,
    test: TestSet,
    calibration: CalibrationSet,
    runs: Sequence[RunSets],
    pictures: Sequence[tuple[NamedFigure, bytes]],
) -> list[str]:
    """Return the section on the first method's sets: what they are, a table and figures, as HTML parts."""
    runs = first_method(runs)
    name = escape(method_name(runs[0].outcome.method))
    what = (
        f"A prediction set lists the classes that an object may have, so that at the level "
        f"{100 * COLUMN_LEVEL:g}&nbsp;% that share of sets hold the true class, for each class by itself. "
        f"Here: {name}, calibrated on {len(calibration):,} validation objects. Networks also stopped at the "
        "epoch that suits these best, so new objects may be a little harder and coverage a little short."
    )
    parts = [
        "<h2>Prediction sets</h2>",
        f"<p>{what}</p>",
        _shift_note(header, test, runs),
        _table(header, test, runs),
        _foot(header, runs),
        *(picture(figure, data) for figure, data in pictures),
    ]
    return [part for part in parts if part]


def _shift_note(header: RunHeader, test: TestSet, runs: Sequence[RunSets]) -> str:
    """Say what Experiment 3 breaks, how much, and what is restored."""
    if not is_shifted(header):
        return ""
    plain, by_magnitude, weighted = (
        percent(over_runs(runs, test, kind, COLUMN_LEVEL, lambda s: s.coverage), _PM) for kind in KINDS
    )
    note = (
        "Calibrated on compact objects of all magnitudes and tested on faint ones, the sets lose their "
        f"guarantee: calibration and test objects are not exchangeable. Of sets by class at "
        f"{100 * COLUMN_LEVEL:g}&nbsp;%, {plain}&nbsp;% hold the true class; of those weighted to the test "
        f"magnitudes {weighted}&nbsp;%, of those by class and magnitude {by_magnitude}&nbsp;%."
    )
    if "QSO" in header.classes:
        note += (
            " The weights assume that all classes have the magnitudes of the whole test set; the quasars, "
            "which are not balanced in magnitude, need not have them."
        )
    return f'<p class="note">{note}</p>'


def _table(header: RunHeader, test: TestSet, runs: Sequence[RunSets]) -> str:
    body: list[tuple[str, Sequence[str]]] = []
    there = np.bincount(test.label, minlength=len(header.classes)) > 0
    for kind in KINDS:
        body.append(("group", [KIND_NAMES[kind].capitalize()]))
        for level in LEVELS:
            measures: list[Callable[[SetScores], float]] = [
                lambda s: s.coverage,
                *((lambda s, k=k: float(s.class_coverage[k])) for k in range(len(header.classes))),
            ]
            known = [True, *there]
            cells = [
                percent(over_runs(runs, test, kind, level, measure), _PM) if has else "-"
                for measure, has in zip(measures, known, strict=True)
            ]
            size = over_runs(runs, test, kind, level, lambda s: s.mean_size)
            shares = (
                over_runs(runs, test, kind, level, measure)
                for measure in (
                    lambda s: float(s.size_share[0]),
                    lambda s: float(s.size_share[1]),
                    lambda s: float(s.size_share[2:].sum()),
                )
            )
            row = [
                f"{100 * level:g}&nbsp;%",
                *cells,
                f"{size.mean:.3f}",
                *(f"{100 * share.mean:.1f}" for share in shares),
            ]
            chosen = kind == column_kind(header) and level == COLUMN_LEVEL
            body.append(("first" if chosen else "", row))
    head = (
        "level",
        "coverage, all (percent)",
        *(escape(name) for name in header.classes),
        "mean size",
        "empty (percent)",
        "one class",
        "several",
    )
    return table(head, body)


def _foot(header: RunHeader, runs: Sequence[RunSets]) -> str:
    weighted = ", ".join(
        f"{escape(header.classes[c.label])} {c.effective:,.0f} of {len(c):,}"
        for c in runs[0].kinds["weighted"].categories
    )
    text = (
        f"{_PM} is the sample standard deviation over runs; intervals of each run are in metrics.json. The "
        "row that stands out is what predictions/*.fits holds as set_90 (bit k: class k from the left). "
        f"Effective numbers of calibration objects after weighting: {weighted}."
    )
    if not is_shifted(header):
        text += (
            " The weighted sets assume that all classes have the magnitudes of the whole test set, as only "
            "Experiment 3 makes sure of: here they are shown for comparison."
        )
    return f'<p class="foot">{text}</p>'
