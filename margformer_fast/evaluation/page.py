"""The page that shows a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from .figures import FigureGroup
from .html_parts import document, folded, pairs, picture, table
from .judgement_tables import difference_tables, further_table, requirement_table
from .results import RunHeader, TestSet
from .style import class_colour
from .summary import (
    TABLE_QUANTITIES,
    MethodSummary,
    cautions,
    fraction,
    percent,
    published_cells,
    published_for,
)

NOT_COMPARABLE = "simulated: not comparable with the published numbers, shown for orientation"
"""What stands by every table that has simulated and published numbers in it."""

_PM = "&plusmn;"

_BESIDE = (
    '<p class="foot">Beside this page: metrics.json (every number), predictions/ (one FITS table a run) and '
    "figures/ (PNG).</p>"
)


def render(
    header: RunHeader,
    test: TestSet,
    methods: Sequence[MethodSummary],
    groups: Sequence[FigureGroup],
    pictures: Mapping[str, bytes],
    sections: Sequence[str] = (),
) -> str:
    """Return the page.

    Parameters
    ----------
    header, test
        The run.
    methods : sequence of MethodSummary
        The first is the one the page is about.
    groups : sequence of FigureGroup
        The figures.
    pictures : mapping of str to bytes
        Stem of each of them to its PNG file.
    sections : sequence of str
        Further parts after the figures that are in view, as HTML.

    Returns
    -------
    str
        HTML with style and pictures inside; text of others is escaped.
    """
    settings = dict(header.settings)
    command = settings.pop("command", None)
    notes = [f"{NOT_COMPARABLE.capitalize()}."] if header.simulated and published_for(header) else []
    notes += cautions(header, test, methods)
    made = [
        pairs("Settings", settings),
        pairs("Versions", header.versions),
        pairs("Backends", header.backends),
    ]
    parts = [
        _heading(header, test, methods),
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        "<h2>Results</h2>",
        _main_table(header, test, methods),
        _deviations(header),
        further_table(header, test, methods),
        "<h2>Each class</h2>",
        _class_table(header, methods),
        requirement_table(header, test, methods),
        difference_tables(test, methods),
        *(_group(group, pictures) for group in groups if not group.folded),
        *sections,
        *(_group(group, pictures) for group in groups if group.folded),
        "<h2>Objects</h2>",
        _count_table(header),
        f"<h2>How to reproduce</h2><pre>{escape(str(command))}</pre>" if command else "",
        f'<h2>How it was made</h2><div class="columns">{"".join(made)}</div>' if any(made) else "",
        _BESIDE,
    ]
    return document(header.title, parts)


def _heading(header: RunHeader, test: TestSet, methods: Sequence[MethodSummary]) -> str:
    first, others = methods[0], methods[1:]
    how_often = "one run" if len(first.runs) == 1 else f"mean of {first.runs_in_words}"
    accuracy = percent(first.over_runs("accuracy"), _PM)
    lead = (
        f"<b>{escape(first.name)}</b> classifies <b>{accuracy}&nbsp;%</b> of {len(test):,} "
        f"{header.kind_of_data} test objects correctly ({how_often})."
    )
    if others:
        listed = "; ".join(
            f"{escape(m.name)}, {percent(m.over_runs('accuracy'), _PM)}&nbsp;%" for m in others
        )
        lead += f" On the same objects: {listed}."
    what = (
        f"Data: {header.source}. Preset {header.preset}, protocol {header.protocol}; "
        f"the whole run took {_duration(header.seconds)}."
    )
    colour = "badge" if header.simulated else "badge real"
    badge = f'<span class="{colour}">{header.kind_of_data} data</span>'
    return (
        f'<header><div class="kicker">margformer_fast{badge}</div><h1>{escape(header.title)}</h1>'
        f'<p class="lead">{lead}</p><p class="small">{escape(what)}</p></header>'
    )


def _main_table(header: RunHeader, test: TestSet, methods: Sequence[MethodSummary]) -> str:
    body: list[tuple[str, Sequence[str]]] = [
        ("group", [f"This run, {len(test):,} {header.kind_of_data} test objects"])
    ]
    for k, method in enumerate(methods):
        low, high = method.accuracy_interval(len(test))
        cells = [
            f'{escape(method.name)} <span class="small">({method.runs_in_words})</span>',
            *(percent(method.over_runs(quantity), _PM) for quantity in TABLE_QUANTITIES),
            f"{100 * low:.2f} to {100 * high:.2f}",
            fraction(method.over_runs("macro_auc"), _PM),
        ]
        body.append(("first" if k == 0 else "", cells))
    marks: dict[str, int] = {}
    results = published_for(header)
    if results:
        body.append(("group", ["Published, real SDSS DR16 objects"]))
    for result in results:
        texts = [text for text in (result.source, result.note) if text]
        references = ",".join(str(marks.setdefault(text, len(marks) + 1)) for text in texts)
        cells = [
            f"{escape(result.model)} <sup>{references}</sup>",
            *published_cells(result, _PM),
            "",
            "",
        ]
        body.append(("" if result.headline else "minor", cells))
    head = (
        "percent",
        "accuracy",
        "macro precision",
        "macro recall",
        "macro F1",
        "accuracy, 95&nbsp;% from&nbsp;objects",
        "macro AUC (fraction)",
    )
    foot = (
        f'<p class="foot">{_PM} is the sample standard deviation over runs, which share test objects; the '
        "interval (Wilson) is what the number of test objects alone leaves open. Published: with "
        f"{_PM} as its authors quote it, without as a single run printed it.</p>"
    )
    notes = "".join(f"<li>{escape(text).replace('+-', _PM)}</li>" for text in marks)
    return table(head, body) + foot + (f'<ol class="foot">{notes}</ol>' if notes else "")


def _deviations(header: RunHeader) -> str:
    items = "".join(
        f"<li><code>{escape(name)}</code>: {escape(text)}</li>" for name, text in header.deviations.items()
    )
    title = "Errors of the published recipe that this run repeats"
    return f"<h2>{title}</h2><ul>{items}</ul>" if items else ""


def _class_table(header: RunHeader, methods: Sequence[MethodSummary]) -> str:
    body: list[tuple[str, Sequence[str]]] = []
    for method in methods:
        body.append(("group", [escape(method.name)]))
        for k, name in enumerate(header.classes):
            cells = [
                f'<span class="dot" style="background:{class_colour(name)}"></span>{escape(name)}',
                f"{method.evaluations[0].scores.support[k]:,}",
                *(percent(method.of_class(quantity, k), _PM) for quantity in ("precision", "recall", "f1")),
                fraction(method.of_class("auc", k), _PM),
            ]
            body.append(("", cells))
    head = ("percent", "test objects", "precision (purity)", "recall (completeness)", "F1", "AUC (fraction)")
    return table(head, body)


def _count_table(header: RunHeader) -> str:
    body = []
    for part, counts in header.counts.items():
        values = [counts.get(name, 0) for name in header.classes]
        body.append(("", [escape(part), *(f"{value:,}" for value in values), f"{sum(values):,}"]))
    return table(["", *(escape(name) for name in header.classes), "all"], body)


def _group(group: FigureGroup, pictures: Mapping[str, bytes]) -> str:
    """Return a group of figures under its heading."""
    shown = "".join(picture(figure, pictures[figure.stem]) for figure in group.figures)
    if group.folded:
        return folded(group.title, shown)
    return f"<h2>{escape(group.title)}</h2>{shown}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
