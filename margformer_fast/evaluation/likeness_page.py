"""The page that shows how like real objects simulated ones are, and the same as text."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

from .. import cli
from ..data.survey import CLASSES
from ..files import atomic_file
from .html_parts import document, picture, table
from .likeness import FeatureLikeness, Likeness
from .likeness_figures import likeness_figures
from .style import class_colour, png

TARGET_DISTANCE, TARGET_AUC = 0.15, 0.75


def worst(found: Likeness) -> FeatureLikeness:
    """Return the feature that is furthest from the real one, all classes together where there are several."""
    kind = found.features[-1].kind
    return max((f for f in found.features if f.kind == kind), key=lambda f: f.distance)


def text(found: Likeness) -> str:
    """Return the numbers as tables for a terminal."""
    kinds = list(found.auc)
    by = {(f.kind, f.feature): f for f in found.features}
    rows = []
    for name in dict.fromkeys(f.feature for f in found.features):
        here = [by[kind, name] for kind in kinds]
        last = here[-1]
        rows.append([name, *(f.distance for f in here), _triple(last.simulated), _triple(last.real)])
    head = ["W1 / real spread", *kinds, f"simulated, {kinds[-1]}", f"real, {kinds[-1]}"]
    groups = list(next(iter(found.group_auc.values())))
    auc = [[kind, found.auc[kind], *found.group_auc[kind].values()] for kind in kinds]
    counts = []
    for k in np.unique(found.real.label):
        ours, theirs = int((found.simulated.label == k).sum()), int((found.real.label == k).sum())
        counts.append(f"{ours:,} simulated and {theirs:,} real {CLASSES[k]}")
    heading = (
        f"SIMULATED objects beside {found.real.name}: {', '.join(counts)};"
        f" {100 * found.unmatched:.1f} % of the real ones have no simulated one of their magnitude"
    )
    return "\n\n".join(
        [
            heading,
            cli.table(head, rows, decimals=3),
            cli.table(["simulated or real? AUC", "all features", *groups], auc, decimals=3),
        ]
    )


def _triple(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:7.3f}" for value in values)


def write_page(found: Likeness, path: str | Path, command: str) -> None:
    """Write the page: one HTML file with its pictures inside.

    Parameters
    ----------
    found : Likeness
        What to show.
    path : str or Path
        The file; replaced if it exists.
    command : str
        What made it.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    kinds = list(found.auc)
    title = f"Simulated objects beside {found.real.name}"
    far = worst(found)
    overall = found.auc[kinds[-1]]
    lead = (
        f"A classifier tells simulated from real objects with an AUC of <b>{overall:.3f}</b> (0.5: not at"
        f" all; wanted: at most {TARGET_AUC}). The feature furthest off is <b>{escape(far.feature)}</b>, by"
        f" <b>{far.distance:.3f}</b> of the real spread (wanted: at most {TARGET_DISTANCE})."
    )
    head = '<header><div class="kicker">margformer_fast<span class="badge">simulated data</span></div>'
    groups = list(next(iter(found.group_auc.values())))
    auc = [
        (
            "",
            [
                _named(kind),
                f"<b>{found.auc[kind]:.3f}</b>",
                *(f"{v:.3f}" for v in found.group_auc[kind].values()),
            ],
        )
        for kind in kinds
    ]
    body: list[tuple[str, list[str]]] = []
    for kind in kinds:
        body.append(("group", [f"{_named(kind)}: percentiles 16, 50, 84"]))
        for f in (f for f in found.features if f.kind == kind):
            mark = f"<b>{f.distance:.3f}</b>" if f.distance > TARGET_DISTANCE else f"{f.distance:.3f}"
            cells = [f"{value:.3f}" for value in (*f.simulated, *f.real)]
            alone = "" if np.isnan(f.auc) else f"{f.auc:.3f}"
            body.append(("", [escape(f.feature), mark, f"{f.robust_distance:.3f}", *cells, alone]))
    columns = ("feature", "W1 / std", "W1 / half 16-84", *("simulated",) * 3, *("real",) * 3, "AUC alone")
    counts = [
        (
            "",
            [
                _named(CLASSES[k]),
                f"{int((found.simulated.label == k).sum()):,}",
                f"{int((found.real.label == k).sum()):,}",
            ],
        )
        for k in np.unique(found.real.label)
    ]
    note = (
        "Simulated objects are weighted to the real counts in bins of 0.1 mag of the observed reference"
        f" magnitude, class by class; {100 * found.unmatched:.1f} % of the real objects have no simulated one"
        " of their class in their bin. W1 is the 1-Wasserstein distance. Classifiers are boosted trees, in"
        " five folds."
    )
    parts = [
        f'{head}<h1>{escape(title)}</h1><p class="lead">{lead}</p>',
        f'<p class="small">{escape(note)}</p></header>',
        "<h2>Simulated or real?</h2>",
        table(("AUC", "all features", *(escape(group) for group in groups)), auc),
        "<h2>Objects</h2>",
        table(("class", "simulated", "real"), counts),
        "<h2>Figures</h2>",
        *(picture(figure, png(figure.figure)) for figure in likeness_figures(found)),
        "<h2>Feature by feature</h2>",
        table(columns, body),
        f"<h2>How it was made</h2><pre>{escape(command)}</pre>",
    ]
    with atomic_file(path) as temporary:
        temporary.write_text(document(title, parts), encoding="utf-8")


def _named(kind: str) -> str:
    if kind not in CLASSES:
        return escape(kind)
    return f'<span class="dot" style="background:{class_colour(kind)}"></span>{escape(kind)}'
