"""The table of all experiments to be read: a page, and text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .. import cli
from ..data.survey import TASKS
from ..evaluation.html_parts import document, pairs, table
from ..evaluation.metrics import Spread
from ..evaluation.page import NOT_COMPARABLE
from ..evaluation.published import PublishedResult
from ..evaluation.results import EXPERIMENT_NAMES, METHOD_NAMES
from ..evaluation.summary import percent, published_cells

_PM = "&plusmn;"
_EFFECT_COLUMNS = ("published, %", "mended, %", "difference, points", "95 % from objects")
_QUANTITIES = ("accuracy", "macro_precision", "macro_recall", "macro_f1")


def format_text(found: Mapping[str, Any]) -> str:
    """Return the accuracies, the effects of errors and the failures as text."""
    parts = []
    if shown := _main_rows(found):
        head = ("exp", "task", "method", "protocol", "accuracy, %", "runs", "published, %")
        parts.append(cli.table(head, [_accuracy_cells(row) for row in shown]))
    if found["effects"]:
        columns = ("published run", "mended", "measured on", *_EFFECT_COLUMNS)
        rows = [[e["base"], e["mended"], _measured_on(e), *_effect_cells(e, "+-")] for e in found["effects"]]
        parts.append(cli.table(columns, rows))
    if found["simulated"]:
        parts.append(f"ours are {NOT_COMPARABLE}")
    parts += [f"failed: {name}: {error}" for name, error in found["failed"].items()]
    if found["missing"]:
        parts.append(f"not run yet: {len(found['missing'])} cells, {', '.join(found['missing'])}")
    return "\n\n".join(parts) if parts else "no cell has been run yet"


def render(found: Mapping[str, Any]) -> str:
    """Return the page, HTML that needs no other file; it links to the report of each run."""
    kind = "simulated" if found["simulated"] else "real"
    badge = f'<span class="badge{"" if found["simulated"] else " real"}">{kind} data</span>'
    text = (
        "Percent, mean over runs with the sample standard deviation. Macro means over classes. Published "
        "numbers are of real SDSS DR16 objects. Each method links to the report of its run."
    )
    parts = [
        f'<header><div class="kicker">margformer_fast{badge}</div><h1>All experiments</h1>',
        f'<p class="small">{text}</p></header>',
    ]
    if found["simulated"]:
        parts.append(f'<p class="note">{escape(NOT_COMPARABLE.capitalize())}.</p>')
    parts += [
        f'<p class="note">Failed: {escape(name)}: {escape(error)}</p>'
        for name, error in found["failed"].items()
    ]
    if found["missing"]:
        names = ", ".join(escape(name) for name in found["missing"])
        parts.append(f'<p class="note">Not run yet: {names}.</p>')
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in _main_rows(found):
        groups.setdefault((row["experiment"], row["task"]), []).append(row)
    parts += [_results(experiment, task, rows) for (experiment, task), rows in groups.items()]
    if found["effects"]:
        parts += _effects(found["effects"])
    parts.append(f'<h2>How it was made</h2><div class="columns">{pairs("Settings", found["settings"])}</div>')
    return document("All experiments", parts)


def _results(experiment: int, task: str, rows: Sequence[Mapping[str, Any]]) -> str:
    classes = " / ".join(c if c == "QSO" else c.lower() for c in TASKS[task])
    any_seen = any(row["seen_in_training"] is not None for row in rows)
    body: list[tuple[str, Sequence[str]]] = []
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        body.append(("group", [f"Protocol {escape(protocol)}"]))
        for row in (each for each in rows if each["protocol"] == protocol):
            link = f'<a href="{escape(row["cell"])}/report.html">{escape(_method(row))}</a>'
            data = "simulated" if row["simulated"] else "real"
            cells = [link, data, f"{row['test_objects']:,}", f"{row['accuracy']['runs']}"]
            cells += [_percent(row[quantity], _PM) for quantity in _QUANTITIES]
            cells.append(_published(row, _PM))
            body.append(("", [*cells, _seen(row)] if any_seen else cells))
    head = ["percent", "data", "test objects", "runs", "accuracy", "macro precision", "macro recall"]
    head += ["macro F1", "published accuracy"]
    head += ["accuracy with / without objects seen in training"] if any_seen else []
    title = f"Experiment {experiment} ({EXPERIMENT_NAMES[experiment]}), {classes}"
    return f"<h2>{escape(title)}</h2>{table(head, body)}"


def _effects(effects: Sequence[Mapping[str, Any]]) -> list[str]:
    body: list[tuple[str, Sequence[str]]] = []
    for base in dict.fromkeys(effect["base"] for effect in effects):
        body.append(("group", [escape(base)]))
        body += [
            ("", [escape(e["mended"]), escape(_measured_on(e)), *_effect_cells(e, _PM)])
            for e in effects
            if e["base"] == base
        ]
    named = {effect["mended"]: effect["what"] for effect in effects}
    items = "".join(f"<li><code>{escape(n)}</code>: {escape(t)}</li>" for n, t in named.items())
    foot = (
        f"Difference: mended minus published, seed by seed, {_PM} its sample standard deviation over runs. "
        "Interval: what the test objects alone leave open (bootstrap, the same objects on both sides)."
    )
    return [
        "<h2>Errors of the published recipe, mended one by one</h2>",
        table(("error mended", "measured on", *_EFFECT_COLUMNS), body),
        f'<p class="foot">{foot}</p><ul>{items}</ul>',
    ]


def _main_rows(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows of whole protocols; a run without one error stands where it is compared."""
    return [row for row in found["rows"] if not row["without"]]


def _accuracy_cells(row: Mapping[str, Any]) -> list[object]:
    accuracy = row["accuracy"]
    found = [row["experiment"], row["task"], _method(row), row["protocol"], _percent(accuracy)]
    return [*found, accuracy["runs"], _published(row)]


def _effect_cells(effect: Mapping[str, Any], between: str) -> list[str]:
    values = [_percent(effect[side], between) for side in ("published", "without")]
    return [*values, _difference(effect, between), _interval(effect)]


def _measured_on(effect: Mapping[str, Any]) -> str:
    return METHOD_NAMES.get(effect["method"], effect["method"])


def _method(row: Mapping[str, Any]) -> str:
    forms = {"margformer-64": "K=64", "margformer-128": "K=128", "lvit": "LViT"}
    is_encoder = row["method"].startswith(("simclr", "supervised", "images-only"))
    told = [row["name"]]
    told += [forms.get(row["model"], row["model"])] if is_encoder else []
    told += ["a tenth tested"] if row["split"] == "margnet" and row["experiment"] == 2 else []
    told += ["balanced in r"] if row["balance"] == "magnitude" else []
    told += [f"{100 * row['labels']:g} % of labels"] if row["labels"] < 1 else []
    return ", ".join(told)


def _spread(value: Mapping[str, Any]) -> Spread:
    return Spread(math.nan if value["mean"] is None else value["mean"], value["spread"], value["runs"])


def _percent(value: Mapping[str, Any], between: str = "+-") -> str:
    return percent(_spread(value), between)


def _difference(effect: Mapping[str, Any], between: str) -> str:
    text = percent(_spread(effect["difference"]), between)
    return text if text.startswith("-") else f"+{text}"


def _interval(effect: Mapping[str, Any]) -> str:
    if effect["interval_95"] is None:
        return "-"
    low, high = effect["interval_95"]
    return f"{100 * low:+.2f} to {100 * high:+.2f}"


def _published(row: Mapping[str, Any], between: str = "+-") -> str:
    if row["published"] is None:
        return "-"
    return published_cells(PublishedResult(**row["published"]), between)[0]


def _seen(row: Mapping[str, Any]) -> str:
    both = row["seen_in_training"]
    return "" if both is None else f"{_percent(both['all'], _PM)} / {_percent(both['unseen'], _PM)}"
