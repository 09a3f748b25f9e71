"""Tables of a report's page on what a survey and a referee ask: requirements, differences, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from .comparison import BOOTSTRAPPED, DRAWS, Interval
from .html_parts import folded, table
from .judgement import Comparison, compared_with, intervals, requirements_met
from .operating_points import requirements_of
from .results import RunHeader, TestSet
from .summary import MethodSummary, fraction, percent

_PM = "&plusmn;"


def requirement_table(header: RunHeader, test: TestSet, methods: Sequence[MethodSummary]) -> str:
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


def difference_tables(test: TestSet, methods: Sequence[MethodSummary]) -> str:
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
            (f"Difference from {method.name}", compared_with(test, method, others[index + 1 :]))
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


def _points(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"


def _chance(p: Sequence[float]) -> str:
    """Return a probability, or the span of several; what is too small for three digits as an upper limit."""
    small, large = (f"{value:.3f}" if value >= 0.001 else "&lt; 0.001" for value in (min(p), max(p)))
    return small if small == large else f"{small} to {large}"


def further_table(header: RunHeader, test: TestSet, methods: Sequence[MethodSummary]) -> str:
    """Return scores that the main table has no room for, folded."""
    body: list[tuple[str, Sequence[str]]] = []
    for method in methods:
        found = intervals(header, test, method)
        precision = [method.of_class("average_precision", k).mean for k in range(len(header.classes))]
        cells = [
            escape(method.name),
            *(f"{100 * found[name].low:.2f} to {100 * found[name].high:.2f}" for name in BOOTSTRAPPED),
            _known(float(np.mean(precision))),
            *(fraction(method.over_runs(name), _PM) for name in ("ece", "ece_scaled", "brier")),
        ]
        body.append(("", cells))
    head = (
        "95&nbsp;% by bootstrap, percent; the rest are fractions",
        *(escape(name.replace("_", " ").replace("f1", "F1")) for name in BOOTSTRAPPED),
        "macro average precision",
        "calibration error (ECE)",
        "ECE, temperature scaled",
        "Brier score",
    )
    foot = (
        f'<p class="foot">Intervals: {DRAWS:,} resamples of the test objects, each judged by the mean over '
        "runs. The temperature is the one with which the labels of the validation objects are likeliest "
        "(Guo et al. 2017); it changes no decision. A dash: the method only decides, has no validation "
        "objects of its own, or a class has no test object.</p>"
    )
    return folded("Further scores", table(head, body) + foot)


def _known(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else "-"
