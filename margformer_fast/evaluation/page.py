"""The page that shows a run: one HTML file that needs no other."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from .comparison import BOOTSTRAPPED, DRAWS, Interval
from .figures import FigureGroup
from .judgement import Comparison, compared_with, intervals, requirements_met
from .operating_points import requirements_of
from .results import RunHeader, TestSet
from .style import NamedFigure, class_colour
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

_CSS = """
:root { --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --accent: #332288; }
* { box-sizing: border-box; }
body { margin: 0; background: #f3f4f6; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 36px 44px 56px; background: #fff; }
header { border-bottom: 3px solid var(--accent); padding-bottom: 14px; margin-bottom: 16px; }
h1 { font-size: 27px; line-height: 1.25; margin: 6px 0 10px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 38px 0 8px; }
h3 { font-size: 15px; margin: 22px 0 4px; }
p { margin: 6px 0 10px; max-width: 96ch; }
.kicker, .small, .foot, figcaption { color: var(--soft); font-size: 13.5px; }
.badge { display: inline-block; border: 1px solid #c2410c; background: #fff7ed; color: #9a3412;
  border-radius: 4px; padding: 0 8px; margin-left: 8px; }
.badge.real { border-color: #047857; background: #ecfdf5; color: #065f46; }
.lead { font-size: 17px; }
.note { border-left: 4px solid #c2410c; background: #fff7ed; padding: 8px 14px; margin: 8px 0;
  max-width: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 6px 0 4px; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 8px; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { font-weight: 600; border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tr.group td { font-weight: 600; padding-top: 14px; border-bottom-color: var(--ink); }
tr.minor td { color: var(--soft); }
tr.first td { background: #f5f3ff; font-weight: 600; }
sup { line-height: 0; font-size: 11px; color: var(--soft); font-weight: 400; }
ol.foot { margin: 4px 0; padding-left: 20px; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 7px; }
figure { margin: 18px 0 30px; }
figure img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); }
figcaption { margin-top: 6px; max-width: 110ch; }
details { margin: 10px 0; }
summary { cursor: pointer; font-weight: 600; color: var(--accent); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 4px 40px; }
.columns table { font-size: 13.5px; }
.columns td { white-space: normal; overflow-wrap: anywhere; padding: 3px 6px; }
.columns td:first-child { color: var(--soft); padding-left: 0; }
pre { background: #f3f4f6; border: 1px solid var(--line); border-radius: 4px; padding: 10px 14px;
  font-size: 13.5px; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 700px) { main { padding: 22px 18px; } }
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { background: #fff; font-size: 9.5pt; }
  main { max-width: none; padding: 0; }
  figure, tr, .note, .columns > div { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
  th, td { padding: 3px 5px; }
}
"""


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
        _further_table(header, test, methods),
        "<h2>Each class</h2>",
        _class_table(header, methods),
        _requirement_table(header, test, methods),
        _difference_tables(test, methods),
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


def document(title: str, parts: Iterable[str]) -> str:
    """Return a whole page in the style of reports; `parts` are HTML already, the title is text."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: margformer_fast</title><style>{_CSS}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


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


def _requirement_table(header: RunHeader, test: TestSet, methods: Sequence[MethodSummary]) -> str:
    """Return what stated requirements cost, heading and all; nothing if none concerns the classes."""
    requirements = requirements_of(header.classes)
    if not requirements:
        return ""
    body: list[tuple[str, Sequence[str]]] = []
    for k, method in enumerate(methods):
        cells = [escape(method.name)]
        for met in requirements_met(header, test, method):
            cells += [
                percent(met.over_runs(met.requirement.free), _PM),
                fraction(met.over_runs("threshold"), _PM),
            ]
        body.append(("first" if k == 0 else "", cells))
    head = ["percent"]
    for requirement in requirements:
        head += [escape(requirement.in_words), f"cut at p({escape(requirement.class_name)})"]
    foot = (
        '<p class="foot">The requirements are those of the Dark Energy Survey as in Soumagnac et al. (2015). '
        "Purity is that of these test objects and moves with the mixture of classes. A dash: a run cannot "
        "meet it at any cut, or the method only decides.</p>"
    )
    return "<h2>Samples at stated requirements</h2>" + table(head, body) + foot


def _points(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"


def _chance(p: Sequence[float]) -> str:
    """Return a probability, or the span of several; what is too small for three digits as an upper limit."""
    small, large = (f"{value:.3f}" if value >= 0.001 else "&lt; 0.001" for value in (min(p), max(p)))
    return small if small == large else f"{small} to {large}"


def _difference_tables(test: TestSet, methods: Sequence[MethodSummary]) -> str:
    """Return how methods differ from the first, and folded from each other; nothing if there is only one."""
    first, *others = methods
    if not others:
        return ""
    foot = (
        f'<p class="foot">Paired by object: {DRAWS:,} resamples of the test objects, each judged by the mean '
        "over runs; the second interval draws runs too and says where freshly trained ones may lie. "
        "McNemar's exact test compares single runs in their order. No p is corrected for the number of "
        "comparisons.</p>"
    )
    parts = [
        f"<h2>Difference from {escape(first.name)}</h2>",
        _difference_table([("", compared_with(test, first, others))]),
        foot,
    ]
    if len(others) > 1:
        pairs_of_others = [
            (f"minus {method.name}", compared_with(test, method, others[index + 1 :]))
            for index, method in enumerate(others[:-1])
        ]
        parts.append(folded("Every other pair of methods", _difference_table(pairs_of_others)))
    return "".join(parts)


def _difference_table(groups: Sequence[tuple[str, Sequence[Comparison]]]) -> str:
    """Return comparisons as a table; each group has a heading, which is text, or none."""
    body: list[tuple[str, Sequence[str]]] = []
    for title, found in groups:
        if title:
            body.append(("group", [escape(title)]))
        for each in found:
            cells = [
                escape(each.name),
                f"{100 * each.accuracy.objects.value:+.2f}",
                _points(each.accuracy.objects),
                _points(each.accuracy.objects_and_runs),
                _chance([each.accuracy.p]),
                _chance([test_of_run.p for test_of_run in each.mcnemar]),
            ]
            body.append(("", cells))
    head = (
        "percentage points",
        "accuracy, difference",
        "95&nbsp;%, objects",
        "95&nbsp;%, objects and&nbsp;runs",
        "p, bootstrap",
        "p, McNemar, run by run",
    )
    return table(head, body)


def _further_table(header: RunHeader, test: TestSet, methods: Sequence[MethodSummary]) -> str:
    """Return scores that the main table has no room for, folded."""
    body: list[tuple[str, Sequence[str]]] = []
    for method in methods:
        found = intervals(header, test, method)
        precision = [method.of_class("average_precision", k).mean for k in range(len(header.classes))]
        cells = [
            escape(method.name),
            *(f"{100 * found[name].low:.2f} to {100 * found[name].high:.2f}" for name in BOOTSTRAPPED),
            _known(np.mean(precision)),
            *(fraction(method.over_runs(name), _PM) for name in ("ece", "brier")),
        ]
        body.append(("", cells))
    head = (
        "95&nbsp;% by bootstrap, percent; the rest are fractions",
        *(escape(name.replace("_", " ").replace("f1", "F1")) for name in BOOTSTRAPPED),
        "macro average precision",
        "calibration error (ECE)",
        "Brier score",
    )
    foot = (
        f'<p class="foot">Intervals: {DRAWS:,} resamples of the test objects, each judged by the mean over '
        "runs. A dash: the method only decides, or a class has no test object.</p>"
    )
    return folded("Further scores", table(head, body) + foot)


def _known(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else "-"


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


def folded(title: str, inside: str) -> str:
    """Return what shows only its title, which is text, until it is asked for; `inside` is HTML already."""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def picture(figure: NamedFigure, data: bytes) -> str:
    """Return a figure with its caption; `data` is its PNG file."""
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return (
        f'<figure id="{escape(figure.stem)}"><img alt="{escape(figure.title)}" src="{source}">'
        f"<figcaption><b>{escape(figure.title)}.</b> {escape(figure.caption)}</figcaption></figure>"
    )


def table(head: Sequence[str], body: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return a table. Cells are HTML already; each row has its CSS class, ``"group"`` is a heading."""
    rows = []
    for kind, cells in body:
        wide = f' colspan="{len(head)}"' if kind == "group" else ""
        mark = f' class="{kind}"' if kind else ""
        rows.append(f"<tr{mark}>" + "".join(f"<td{wide}>{cell}</td>" for cell in cells) + "</tr>")
    top = "".join(f"<th>{cell}</th>" for cell in head)
    inside = f"<thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table>{inside}</table></div>'


def pairs(title: str, values: Mapping[str, Any]) -> str:
    """Return names and values as a table, nested names joined by dots; nothing if there are none."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in _flat(values)
    )
    return f"<div><h3>{escape(title)}</h3><table><tbody>{rows}</tbody></table></div>" if rows else ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
