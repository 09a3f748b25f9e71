"""The results of a run as files (numbers, predictions, figures, one page to read) and as a terminal table."""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError
from .figures import FEWEST_A_BIN, NamedFigure, class_colour, png, report_figures, slug
from .metrics import (
    Evaluation,
    Spread,
    accuracy_by_magnitude,
    evaluate,
    magnitude_edges,
    mean_and_spread,
    predict,
    wilson_interval,
)
from .published import PublishedResult, published
from .results import Outcome, RunHeader, TestSet, by_method, check_results, method_name

SCHEMA_VERSION = 1
"""Version of the layout of metrics.json; raised when a key changes its meaning or goes away."""

NOT_COMPARABLE = "simulated: not comparable with the published numbers, shown for orientation"

_TABLE_COLUMNS = (
    ("accuracy", "accuracy"),
    ("precision", "macro_precision"),
    ("recall", "macro_recall"),
    ("F1", "macro_f1"),
)


@dataclass(frozen=True)
class ReportPaths:
    """Where a report lies.

    Parameters
    ----------
    html, metrics : Path
        The page, and the numbers as JSON.
    predictions, figures : tuple of Path
        One FITS table a run; the PNG files.
    """

    html: Path
    metrics: Path
    predictions: tuple[Path, ...]
    figures: tuple[Path, ...]


@dataclass(frozen=True)
class _Method:
    """The runs of one method with their evaluations."""

    name: str
    runs: list[Outcome]
    evaluations: list[Evaluation]

    def over_runs(self, key: str) -> Spread:
        """Return mean and spread of a score, of an evaluation's own number, or of ``macro_auc``."""
        return mean_and_spread(
            [getattr(e.scores, key) if hasattr(e.scores, key) else getattr(e, key) for e in self.evaluations]
        )

    def class_over_runs(self, key: str, k: int) -> Spread:
        """Return mean and spread of a score of class `k`."""
        return mean_and_spread([float(getattr(e.scores, key)[k]) for e in self.evaluations])


def _evaluated(test: TestSet, outcomes: Sequence[Outcome]) -> list[_Method]:
    return [
        _Method(
            method,
            runs,
            [evaluate(test.label, run.probability, decides_only=run.decides_only) for run in runs],
        )
        for method, runs in by_method(outcomes).items()
    ]


def _cell(value: Spread, between: str = "+-", digits: int = 2) -> str:
    """Return a fraction as percent, with its spread if there is one; a dash if it is not defined."""
    if not math.isfinite(value.mean):
        return "-"
    spread = "" if value.spread is None else f" {between} {100 * value.spread:.{digits}f}"
    return f"{100 * value.mean:.{digits}f}{spread}"


def _published_cells(result: PublishedResult, between: str = "+-") -> list[str]:
    digits = 2 if result.spread is None else 1
    spread = "" if result.spread is None else f" {between} {result.spread:.{digits}f}"
    numbers = (result.accuracy, result.precision, result.recall, result.f1)
    return ["-" if number is None else f"{number:.{digits}f}{spread}" for number in numbers]


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def format_table(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> str:
    """Return the results as plain text for a terminal, under 100 columns wide.

    Ours (percent, mean +- sample standard deviation over runs), each class of the first method, and the
    published results below, with a clear statement when ours are of simulated data.

    Raises
    ------
    DataError
        If header, test set and outcomes do not fit together.
    """
    check_results(header, test, outcomes)
    methods = _evaluated(test, outcomes)
    first = methods[0]
    lines = [header.title, f"{len(test):,} {header.kind_of_data} test objects; percent; +- over runs", ""]

    def row(name: str, cells: Iterable[str]) -> str:
        # One column narrower than its field, so that a long name never runs into the numbers.
        return f"{name[:38]:<39}" + "".join(f"{cell:>15}" for cell in cells).rstrip()

    ours = "this run (simulated)" if header.simulated else "this run"
    lines += [row(ours, [f"macro {name}" if name != "accuracy" else name for name, _ in _TABLE_COLUMNS])]
    for method in methods:
        name = f"{method_name(method.name)[:28]} ({_runs(len(method.runs))})"
        lines.append(row(f"  {name}", [_cell(method.over_runs(key)) for _, key in _TABLE_COLUMNS]))
    lines += ["", row(f"classes of {method_name(first.name)}", ["objects", "precision", "recall", "F1"])]
    for k, name in enumerate(header.classes):
        support = f"{first.evaluations[0].scores.support[k]:,}"
        cells = [_cell(first.class_over_runs(key, k)) for key in ("precision", "recall", "f1")]
        lines.append(row(f"  {name}", [support, *cells]))
    quoted = [result for result in published(header.experiment, header.task) if result.headline]
    if quoted:
        lines += ["", row("published (real SDSS DR16 objects)", [])]
        lines += [row(f"  {result.model}", _published_cells(result)) for result in quoted]
        if header.simulated:
            lines += ["", f"  ({NOT_COMPARABLE})"]
    lines += [f"note: {warning}" for warning in header.warnings]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _plain(value: Any) -> Any:
    """Turn `value` into what strict JSON can hold; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def _spread_json(value: Spread) -> dict[str, Any]:
    return {"mean": value.mean, "spread": value.spread, "runs": value.runs}


def _magnitudes(test: TestSet, method: _Method, who: np.ndarray) -> dict[str, np.ndarray]:
    right = np.mean([predict(run.probability) == test.label for run in method.runs], axis=0)
    edges = magnitude_edges(test.r_obs)
    bins = accuracy_by_magnitude(test.r_obs[who], right[who], edges, minimum=FEWEST_A_BIN)
    return {name: getattr(bins, name) for name in ("lower", "upper", "count", "accuracy", "low", "high")}


def metrics_json(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return everything measured, as strict JSON can hold it: fractions, null where a number is undefined.

    Raises
    ------
    DataError
        If header, test set and outcomes do not fit together.
    """
    check_results(header, test, outcomes)
    per_class = ("precision", "recall", "f1", "support")
    summary = (*(key for _, key in _TABLE_COLUMNS), "macro_auc", "ece", "brier")
    everyone = np.ones(len(test), bool)
    methods: dict[str, Any] = {}
    for method in _evaluated(test, outcomes):
        runs = []
        for run, result in zip(method.runs, method.evaluations, strict=True):
            numbers = {key: getattr(result.scores, key) for _, key in _TABLE_COLUMNS}
            classes = {
                name: {
                    **{key: getattr(result.scores, key)[k] for key in per_class},
                    "auc": result.auc[k],
                    "average_precision": result.average_precision[k],
                }
                for k, name in enumerate(header.classes)
            }
            runs.append(
                {
                    "seed": run.seed,
                    **numbers,
                    "macro_auc": result.macro_auc,
                    "ece": result.ece,
                    "brier": result.brier,
                    "decides_only": run.decides_only,
                    "confusion": result.scores.confusion,
                    "classes": classes,
                    "history": run.history,
                }
            )
        methods[method.name] = {
            "name": method_name(method.name),
            "summary": {key: _spread_json(method.over_runs(key)) for key in summary},
            "runs": runs,
            "by_r_magnitude": {
                "all": _magnitudes(test, method, everyone),
                **{name: _magnitudes(test, method, test.label == k) for k, name in enumerate(header.classes)},
            },
        }
    return _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "units": "fractions; published results in percent",
            **{
                key: getattr(header, key)
                for key in (
                    "experiment", "task", "classes", "preset", "protocol", "simulated", "source", "counts",
                    "settings", "versions", "backends", "seconds", "warnings",
                )
            },
            "test_objects": len(test),
            "methods": methods,
            "published": [vars(result) for result in published(header.experiment, header.task)],
        }
    )  # fmt: skip


def write_predictions(path: Path, header: RunHeader, test: TestSet, outcome: Outcome) -> None:
    """Write one run's predictions as a FITS binary table.

    Columns: ``objid`` (int64), ``ra``, ``dec`` (degrees), ``class``, ``predicted``, ``r_obs`` (mag) and
    ``p_<class>``. The header of the table holds method, seed, experiment, task and whether it is simulated.
    """
    from astropy.io import fits

    classes = np.array(header.classes)
    width = max(len(name) for name in header.classes)
    columns = [
        fits.Column("objid", "K", array=np.asarray(test.objid, np.int64)),
        fits.Column("ra", "D", unit="deg", array=test.ra),
        fits.Column("dec", "D", unit="deg", array=test.dec),
        fits.Column("class", f"{width}A", array=classes[test.label]),
        fits.Column("predicted", f"{width}A", array=classes[predict(outcome.probability)]),
        fits.Column("r_obs", "D", unit="mag", array=test.r_obs),
        *(
            fits.Column(f"p_{name}", "D", array=outcome.probability[:, k])
            for k, name in enumerate(header.classes)
        ),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="PREDICTIONS")
    ascii_method = outcome.method.encode("ascii", "replace").decode()
    for key, value, comment in (
        ("METHOD", ascii_method[:60], "what made the predictions"),
        ("SEED", outcome.seed, "seed of the run"),
        ("EXPERIM", header.experiment, "experiment"),
        ("TASK", header.task, "classes told apart"),
        ("SIMULATE", header.simulated, "T: the objects are simulated"),
    ):
        table.header[key] = (value, comment)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)


_CSS = """
:root { --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --accent: #332288; }
* { box-sizing: border-box; }
body { margin: 0; background: #f3f4f6; color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", "Helvetica Neue",
  Arial, "Liberation Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 36px 44px 56px; background: #fff; }
header { border-bottom: 3px solid var(--accent); padding-bottom: 18px; margin-bottom: 8px; }
h1 { font-size: 27px; line-height: 1.25; margin: 6px 0 10px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 38px 0 10px; }
h3 { font-size: 15px; margin: 26px 0 6px; }
p { margin: 6px 0 10px; max-width: 78ch; }
.kicker { color: var(--soft); font-size: 14px; }
.badge { display: inline-block; border: 1px solid #c2410c; background: #fff7ed; color: #9a3412; border-radius: 4px;
  padding: 0 8px; font-size: 13px; margin-left: 8px; }
.badge.real { border-color: #047857; background: #ecfdf5; color: #065f46; }
.lead { font-size: 17px; }
.note { border-left: 4px solid #c2410c; background: #fff7ed; padding: 9px 14px; margin: 12px 0; max-width: none; }
.small, figcaption, .foot { color: var(--soft); font-size: 13.5px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin: 8px 0 4px; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; padding-left: 0; }
thead th { font-weight: 600; border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tbody tr.group td { font-weight: 600; padding-top: 16px; border-bottom-color: var(--ink); }
tbody tr.published td { color: #4b5563; }
tbody tr.quoted td { color: var(--ink); }
tr.first td { background: #f5f3ff; font-weight: 600; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 7px; }
figure { margin: 20px 0 30px; }
figure img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; display: block; }
figcaption { margin-top: 7px; max-width: 86ch; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 4px 44px; }
.columns table { font-size: 13.5px; }
.columns td { white-space: normal; overflow-wrap: anywhere; }
.columns td:first-child { color: var(--soft); }
pre { background: #f3f4f6; border: 1px solid var(--line); border-radius: 4px; padding: 10px 14px; overflow-x: auto;
  font-size: 13.5px; white-space: pre-wrap; }
@media (max-width: 700px) { main { padding: 22px 18px; } }
@media print {
  body { background: #fff; font-size: 11pt; } main { max-width: none; padding: 0; }
  figure, tr, .note { break-inside: avoid; } h2, h3 { break-after: avoid; } .scroll { overflow: visible; }
}
"""


def _table(head: Sequence[str], body: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Return an HTML table; cells are HTML already. Each row comes with its CSS class."""
    rows = []
    for kind, cells in body:
        if kind == "group":
            rows.append(f'<tr class="group"><td colspan="{len(head)}">{cells[0]}</td></tr>')
        else:
            mark = f' class="{kind}"' if kind else ""
            rows.append(f"<tr{mark}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    top = "".join(f"<th>{cell}</th>" for cell in head)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _pairs(title: str, values: Mapping[str, Any]) -> str:
    """Return a two-column table of settings, nested ones with dotted names."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            flat[prefix] = value

    walk("", values)
    if not flat:
        return ""
    rows = "".join(
        f"<tr><td>{escape(key)}</td><td>{escape(str(value))}</td></tr>" for key, value in flat.items()
    )
    return f"<div><h3>{escape(title)}</h3><table><tbody>{rows}</tbody></table></div>"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _interval(method: _Method, objects: int) -> str:
    low, high = wilson_interval(method.over_runs("accuracy").mean * objects, objects)
    return f"{100 * low:.2f} &ndash; {100 * high:.2f}"


def _main_table(header: RunHeader, test: TestSet, methods: Sequence[_Method]) -> str:
    def number(value: Spread, digits: int = 2) -> str:
        return _cell(value, "&plusmn;", digits)

    def fraction(value: Spread) -> str:
        if not math.isfinite(value.mean):
            return "-"
        return f"{value.mean:.4f}" + ("" if value.spread is None else f" &plusmn; {value.spread:.4f}")

    body: list[tuple[str, Sequence[str]]] = []
    kind = "simulated" if header.simulated else "real"
    body.append(("group", [f"This run, {len(test):,} {kind} test objects"]))
    for k, method in enumerate(methods):
        name = f'{escape(method_name(method.name))} <span class="small">({_runs(len(method.runs))})</span>'
        cells = [number(method.over_runs(key)) for _, key in _TABLE_COLUMNS]
        body.append(
            (
                "first" if k == 0 else "",
                [name, *cells, _interval(method, len(test)), fraction(method.over_runs("macro_auc"))],
            )
        )
    results = published(header.experiment, header.task)
    if results:
        body.append(("group", ["Published, real SDSS DR16 objects"]))
    marks: dict[str, int] = {}
    for result in results:
        notes = [text for text in (result.source, result.note) if text]
        references = ", ".join(str(marks.setdefault(text, len(marks) + 1)) for text in notes)
        name = f'{escape(result.model)} <sup class="small">{references}</sup>'
        cells = _published_cells(result, "&plusmn;")
        body.append(("published quoted" if result.headline else "published", [name, *cells, "", ""]))
    head = ["percent", *(f"macro {name}" if name != "accuracy" else name for name, _ in _TABLE_COLUMNS)]
    table = _table([*head, "accuracy, 95 %<br>from objects", "macro AUC"], body)
    foot = "".join(f"<br>{number}. {escape(text)}" for text, number in marks.items())
    spread = (
        "&plusmn;: sample standard deviation over runs, which share their test objects; the interval counts the "
        "test objects (Wilson), so that both kinds of chance can be seen. Published &plusmn; as stated there."
    )
    return f'{table}<p class="foot">{spread}{foot}</p>'


def _class_table(header: RunHeader, methods: Sequence[_Method]) -> str:
    body: list[tuple[str, Sequence[str]]] = []
    for method in methods:
        body.append(("group", [escape(method_name(method.name))]))
        for k, name in enumerate(header.classes):
            dot = f'<span class="dot" style="background:{class_colour(name)}"></span>'
            cells = [
                _cell(method.class_over_runs(key, k), "&plusmn;") for key in ("precision", "recall", "f1")
            ]
            support = f"{method.evaluations[0].scores.support[k]:,}"
            body.append(("", [f"{dot}{escape(name)}", support, *cells]))
    return _table(["percent", "test objects", "precision (purity)", "recall (completeness)", "F1"], body)


def _count_table(header: RunHeader) -> str:
    body = []
    for part, counts in header.counts.items():
        values = [counts.get(name, 0) for name in header.classes]
        body.append(("", [escape(part), *(f"{value:,}" for value in values), f"{sum(values):,}"]))
    return _table(["objects", *(escape(name) for name in header.classes), "all"], body)


def _headline(header: RunHeader, test: TestSet, methods: Sequence[_Method]) -> str:
    """Return the main result in plain words (HTML)."""
    first = methods[0]
    runs = len(first.runs)
    average = f", mean of {runs} runs" if runs > 1 else ", one run"
    kind = "simulated" if header.simulated else "real"
    text = (
        f"<b>{escape(method_name(first.name))}</b> classifies "
        f"<b>{_cell(first.over_runs('accuracy'), '&plusmn;')} %</b> of {len(test):,} {kind} test objects "
        f"correctly{average}."
    )
    others = [
        f"{escape(method_name(method.name))} {_cell(method.over_runs('accuracy'), '&plusmn;')} %"
        for method in methods[1:]
    ]
    return text + (f" On the same objects: {'; '.join(others)}." if others else "")


def _page(
    header: RunHeader,
    test: TestSet,
    methods: Sequence[_Method],
    pictures: Sequence[tuple[NamedFigure, bytes]],
) -> str:
    badge = (
        '<span class="badge">simulated data</span>'
        if header.simulated
        else '<span class="badge real">real data</span>'
    )
    what = (
        f"Trained and tested on {'simulated' if header.simulated else 'real'} objects ({escape(header.source)}), "
        f"preset {escape(header.preset)}, protocol {escape(header.protocol)}, in {_duration(header.seconds)}."
    )
    notes = [f'<p class="note">{escape(NOT_COMPARABLE.capitalize())}.</p>'] if header.simulated else []
    notes += [f'<p class="note">{escape(warning)}</p>' for warning in header.warnings]
    shown = "".join(
        f'<figure id="{picture.stem}"><img alt="{escape(picture.title)}" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption><b>{escape(picture.title)}.</b> {escape(picture.caption)}</figcaption></figure>"
        for picture, data in pictures
    )
    settings = dict(header.settings)
    command = settings.pop("command", None)
    repeat = f"<h2>How to reproduce</h2><pre>{escape(str(command))}</pre>" if command else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(header.title)} - margformer_fast</title>
<style>{_CSS}</style>
</head>
<body><main>
<header><div class="kicker">margformer_fast {badge}</div>
<h1>{escape(header.title)}</h1>
<p class="lead">{_headline(header, test, methods)}</p>
<p class="small">{what}</p></header>
{"".join(notes)}
<h2>Results</h2>
{_main_table(header, test, methods)}
<h2>Each class</h2>
{_class_table(header, methods)}
<h2>Figures</h2>
{shown}
<h2>Data</h2>
<p>{escape(header.source)}</p>
{_count_table(header)}
{repeat}
<h2>How it was made</h2>
<div class="columns">{_pairs("Settings", settings)}{_pairs("Versions", header.versions)}{_pairs("Backends", header.backends)}</div>
</main></body></html>
"""


def write_report(
    directory: str | Path, header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]
) -> ReportPaths:
    """Write ``report.html``, ``metrics.json``, ``predictions/*.fits`` and ``figures/*.png`` into `directory`.

    Everything is made in a hidden folder first and moved into place at the end, the page last, so that a
    write that fails or is interrupted leaves an old report whole. Other files in `directory` are not touched.

    Parameters
    ----------
    directory : str or Path
        Made if it is not there.
    header : RunHeader
        What was trained and tested.
    test : TestSet
        The test objects.
    outcomes : sequence of Outcome
        All runs; the method of the first is the one the report is about.

    Returns
    -------
    ReportPaths

    Raises
    ------
    DataError
        If header, test set and outcomes do not fit together.
    OutputError
        If a file cannot be written.
    """
    check_results(header, test, outcomes)
    directory = Path(directory)
    methods = _evaluated(test, outcomes)
    staging = directory / ".report.part"
    try:
        # Left over from a run that was killed while it wrote.
        shutil.rmtree(staging, ignore_errors=True)
        for folder in ("figures", "predictions"):
            (staging / folder).mkdir(parents=True)
        pictures = [(figure, png(figure.figure)) for figure in report_figures(header, test, outcomes)]
        for picture, data in pictures:
            (staging / "figures" / f"{picture.stem}.png").write_bytes(data)
        for outcome in outcomes:
            name = f"{slug(outcome.method)}-seed{outcome.seed}.fits"
            write_predictions(staging / "predictions" / name, header, test, outcome)
        numbers = json.dumps(metrics_json(header, test, outcomes), indent=2, allow_nan=False)
        (staging / "metrics.json").write_text(numbers + "\n", encoding="utf-8")
        (staging / "report.html").write_text(_page(header, test, methods, pictures), encoding="utf-8")
        _move_into_place(staging, directory)
    except OSError as error:
        raise OutputError(
            f"the report cannot be written: {error.strerror or error}",
            where=directory,
            mend="Free some space or choose another place; an older report is still whole.",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return ReportPaths(
        html=directory / "report.html",
        metrics=directory / "metrics.json",
        predictions=tuple(sorted((directory / "predictions").glob("*.fits"))),
        figures=tuple(directory / "figures" / f"{picture.stem}.png" for picture, _ in pictures),
    )


def _move_into_place(staging: Path, directory: Path) -> None:
    """Put the finished files of `staging` in place of those of an older report, the page last."""
    for file in staging.rglob("*"):
        if file.is_file():
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())
    for folder in ("figures", "predictions"):
        if (directory / folder).exists():
            os.replace(directory / folder, staging / f"old-{folder}")
        os.replace(staging / folder, directory / folder)
    for file in ("metrics.json", "report.html"):
        os.replace(staging / file, directory / file)
