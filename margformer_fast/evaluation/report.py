"""The results of a run as files (numbers, predictions, figures, one page to read) and as a terminal table."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError
from ..files import replace_directory, replace_file
from . import conformal_page, seen
from .conformal_figures import conformal_figures
from .figures import report_figures
from .judgement import RequirementMet, comparisons, intervals, requirements_met
from .metrics import predict
from .page import NOT_COMPARABLE, render
from .prediction_sets import COLUMN_LEVEL, RunSets, bitmask, column_kind, of_run, sets_json, sets_of_runs
from .results import CalibrationSet, Outcome, RunHeader, TestSet, method_name, slug
from .style import png
from .summary import (
    CLASS_QUANTITIES,
    QUANTITIES,
    TABLE_QUANTITIES,
    MethodSummary,
    cautions,
    percent,
    published_cells,
    published_for,
    summarise,
)

SCHEMA_VERSION = 1
"""Version of the layout of metrics.json; raised when a key changes its meaning or goes away."""

_NAME_WIDTH, _CELL_WIDTH = 39, 15


@dataclass(frozen=True)
class ReportPaths:
    """Where a report lies.

    Parameters
    ----------
    html, metrics : Path
        The page, and the numbers as JSON.
    predictions, figures : tuple of Path
        One FITS table a run, in the order of the outcomes; the PNG files, in the order of the page.
    """

    html: Path
    metrics: Path
    predictions: tuple[Path, ...]
    figures: tuple[Path, ...]


def format_table(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> str:
    """Return the results as plain text for a terminal, under 100 columns wide.

    Ours (percent, mean +- sample standard deviation over runs), each class of the first method, and the
    results their authors quote below, with a clear statement when ours are of simulated data.

    Raises
    ------
    DataError
        If header, test set and outcomes do not fit together.
    """
    every, every_outcome = test, outcomes
    test, outcomes = seen.counted(header, test, outcomes)
    methods = summarise(header, test, outcomes)
    first = methods[0]
    lines = [
        header.title,
        f"{len(test):,} {header.kind_of_data} test objects; percent, +- over runs; macro means over classes",
        "",
        _row(
            "this run (simulated)" if header.simulated else "this run",
            ("accuracy", "precision", "recall", "F1"),
        ),
    ]
    for method in methods:
        cells = [percent(method.over_runs(quantity)) for quantity in TABLE_QUANTITIES]
        runs = f" ({method.runs_in_words})"
        lines.append(_row(f"  {method.name[: _NAME_WIDTH - 3 - len(runs)]}{runs}", cells))
    lines += ["", _row(f"classes of {first.name}", ("objects", "precision", "recall", "F1"))]
    for k, name in enumerate(header.classes):
        cells = [percent(first.of_class(quantity, k)) for quantity in ("precision", "recall", "f1")]
        lines.append(_row(f"  {name}", [f"{first.evaluations[0].scores.support[k]:,}", *cells]))
    parts = seen.with_and_without(every, every_outcome)
    if parts:
        lines += ["", _row("objects seen in training", ("all objects", "without seen", "only seen"))]
        lines += [
            _row(f"  {method_name(p.method)}", [percent(v) for v in (p.all, p.unseen, p.seen)]) for p in parts
        ]
    quoted = [result for result in published_for(header) if result.headline]
    if quoted:
        lines += ["", "published (real SDSS DR16 objects)"]
        lines += [_row(f"  {result.model}", published_cells(result)) for result in quoted]
        if header.simulated:
            lines += [f"  ours are {NOT_COMPARABLE}"]
    notes = cautions(header, test, methods)
    if notes:
        lines.append("")
    lines += [textwrap.fill(f"note: {note}", 98, subsequent_indent="      ") for note in notes]
    return "\n".join(lines) + "\n"


def _row(name: str, cells: Sequence[str]) -> str:
    # One character is kept free, so that a long name never touches the numbers.
    return f"{name[: _NAME_WIDTH - 1]:<{_NAME_WIDTH}}" + "".join(f"{cell:>{_CELL_WIDTH}}" for cell in cells)


def metrics_json(
    header: RunHeader,
    test: TestSet,
    outcomes: Sequence[Outcome],
    sets: Sequence[RunSets] = (),
    seen_in_training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return everything measured, as strict JSON can hold it: fractions, null where a number is undefined.

    Parameters
    ----------
    header, test, outcomes
        The runs.
    sets : sequence of RunSets
        Prediction sets of those runs that have them.
    seen_in_training : mapping, optional
        From :func:`margformer_fast.evaluation.seen.to_json`, if test objects were seen in training.

    Raises
    ------
    DataError
        If header, test set and outcomes do not fit together.
    """
    groups = {"all": np.ones(len(test), bool)}
    groups |= {name: test.label == k for k, name in enumerate(header.classes)}
    summaries = summarise(header, test, outcomes)
    methods = {
        method.method: {
            "name": method.name,
            "summary": {quantity: asdict(method.over_runs(quantity)) for quantity in QUANTITIES},
            "accuracy_interval_95": method.accuracy_interval(len(test)),
            "bootstrap_intervals_95": {
                name: asdict(interval) for name, interval in intervals(header, test, method).items()
            },
            "operating_points": [_requirement_json(met) for met in requirements_met(header, test, method)],
            "runs": _runs_json(header, test, method, sets),
            "by_r_magnitude": {name: asdict(method.by_magnitude(test, who)) for name, who in groups.items()},
            "by_compactness": {
                name: asdict(method.by_compactness(test, who)) for name, who in groups.items()
            },
        }
        for method in summaries
    }
    return _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "units": "fractions; published results in percent",
            **vars(header),
            "test_objects": len(test),
            "methods": methods,
            "seen_in_training": seen_in_training,
            "comparisons": [asdict(comparison) for comparison in comparisons(test, summaries)],
            "published": [asdict(result) for result in published_for(header)],
        }
    )


def _requirement_json(met: RequirementMet) -> dict[str, Any]:
    return {
        "class": met.requirement.class_name,
        "fixed": met.requirement.fixed,
        "value": met.requirement.value,
        "summary": {
            name: asdict(met.over_runs(name)) for name in ("completeness", "purity", "threshold", "kept")
        },
        "runs": [asdict(point) for point in met.points],
        "by_r_magnitude": [asdict(bins) for bins in met.bins],
    }


def _runs_json(
    header: RunHeader, test: TestSet, method: MethodSummary, sets: Sequence[RunSets]
) -> list[dict[str, Any]]:
    return [
        {
            "seed": run.seed,
            "decides_only": run.decides_only,
            "temperature": run.temperature,
            **{name: measure(result) for name, measure in QUANTITIES.items()},
            "confusion": result.scores.confusion,
            "classes": {
                name: {
                    "support": result.scores.support[k],
                    **{quantity: measure(result)[k] for quantity, measure in CLASS_QUANTITIES.items()},
                }
                for k, name in enumerate(header.classes)
            },
            "conformal": None if (found := of_run(sets, run)) is None else sets_json(header, test, found),
            "history": run.history,
        }
        for run, result in zip(method.runs, method.evaluations, strict=True)
    ]


def _plain(value: Any) -> Any:
    """Turn `value` into what strict JSON can hold; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def write_predictions(
    path: str | Path, header: RunHeader, test: TestSet, outcome: Outcome, sets: RunSets | None = None
) -> None:
    """Write one run's predictions as a FITS binary table.

    Columns: ``objid`` (int64), ``ra``, ``dec`` (deg), ``class``, ``predicted``, ``r_obs`` (mag) and
    ``p_<class>``; ``seen`` (bool) if some were seen in training; with prediction sets
    also ``set_90`` (int16, bit k for class k) and ``set_90_size``. The
    header of the table holds method, seed, experiment, task, whether it is simulated, and how to read the
    sets.

    Raises
    ------
    OSError
        If the file is already there or cannot be written.
    """
    from astropy.io import fits

    names = np.array(header.classes)
    text = f"{names.dtype.itemsize // 4}A"
    columns = [
        fits.Column("objid", "K", array=np.asarray(test.objid, np.int64)),
        fits.Column("ra", "D", unit="deg", array=test.ra),
        fits.Column("dec", "D", unit="deg", array=test.dec),
        fits.Column("class", text, array=names[test.label]),
        fits.Column("predicted", text, array=names[predict(outcome.probability)]),
        fits.Column("r_obs", "D", unit="mag", array=test.r_obs),
        *(fits.Column(f"p_{name}", "D", array=outcome.probability[:, k]) for k, name in enumerate(names)),
    ]
    if test.seen is not None:
        columns.append(fits.Column("seen", "L", array=test.seen))
    if sets is not None:
        member = sets.kinds[column_kind(header)].sets(COLUMN_LEVEL)
        columns += [
            fits.Column("set_90", "I", array=bitmask(member)),
            fits.Column("set_90_size", "I", array=member.sum(axis=1).astype(np.int16)),
        ]
    table = fits.BinTableHDU.from_columns(columns, name="PREDICTIONS")
    table.header["METHOD"] = (slug(outcome.method)[:60], "what made the predictions")
    table.header["SEED"] = (outcome.seed, "seed of the run")
    table.header["EXPERIM"] = (header.experiment, "experiment")
    table.header["TASK"] = (header.task, "classes told apart")
    table.header["SIMULATE"] = (header.simulated, "T: the objects are simulated")
    if sets is not None:
        table.header["SETKIND"] = (column_kind(header), "how set_90 is calibrated")
        bits = ", ".join(f"{2**k} {name}" for k, name in enumerate(header.classes))
        table.header["COMMENT"] = (
            f"set_90, the prediction set at the level 90 %, is a sum of {bits}: the classes that the object "
            "may have. 0 is an empty set: unlike nearly all calibration objects of each class."
        )
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)


def write_report(
    directory: str | Path,
    header: RunHeader,
    test: TestSet,
    outcomes: Sequence[Outcome],
    calibration: CalibrationSet | None = None,
) -> ReportPaths:
    """Write ``report.html``, ``metrics.json``, ``predictions/*.fits`` and ``figures/*.png`` into `directory`.

    Everything is made in a hidden folder first and moved into place at the end, the page (which needs no
    other file) last, so that a write that fails or is interrupted leaves an old report whole. Nothing else in
    `directory` is touched.

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
    calibration : CalibrationSet, optional
        Objects that prediction sets are calibrated on; without one the report has none.

    Returns
    -------
    ReportPaths

    Raises
    ------
    DataError
        If header, test set, outcomes and calibration set do not fit together.
    OutputError
        If a file cannot be written.
    """
    every, every_outcome = test, outcomes
    test, outcomes = seen.counted(header, test, outcomes)
    sets = sets_of_runs(header, test, outcomes, calibration)
    # Tables of predictions have every test object, so they need sets of every one.
    every_set = sets if test is every else sets_of_runs(header, every, every_outcome, calibration)
    directory = Path(directory)
    staging = directory / ".report.part"
    try:
        # One may be left over from a run that was killed while it wrote.
        shutil.rmtree(staging, ignore_errors=True)
        for folder in ("figures", "predictions"):
            (staging / folder).mkdir(parents=True)
        groups = report_figures(header, test, outcomes)
        pictures = {figure.stem: png(figure.figure) for group in groups for figure in group.figures}
        sections = []
        if calibration is not None:
            of_sets = [
                (figure, png(figure.figure)) for figure in conformal_figures(header, test, calibration, sets)
            ]
            pictures |= {figure.stem: data for figure, data in of_sets}
            sections += conformal_page.section(header, test, calibration, sets, of_sets)
        for stem, data in pictures.items():
            (staging / "figures" / f"{stem}.png").write_bytes(data)
        tables = [f"{slug(outcome.method)}-seed{outcome.seed}.fits" for outcome in outcomes]
        for name, outcome in zip(tables, every_outcome, strict=True):
            found = of_run(every_set, outcome)
            write_predictions(staging / "predictions" / name, header, every, outcome, found)
        found_seen = seen.to_json(header, every, every_outcome)
        numbers = json.dumps(
            metrics_json(header, test, outcomes, sets, found_seen), indent=2, allow_nan=False
        )
        (staging / "metrics.json").write_text(numbers + "\n", encoding="utf-8")
        sections = [*seen.section(header, every, every_outcome), *sections]
        page = render(header, test, summarise(header, test, outcomes), groups, pictures, sections)
        (staging / "report.html").write_text(page, encoding="utf-8")
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
        predictions=tuple(directory / "predictions" / name for name in tables),
        figures=tuple(directory / "figures" / f"{stem}.png" for stem in pictures),
    )


def _move_into_place(staging: Path, directory: Path) -> None:
    """Put the finished files of `staging` in place of those of an older report, the page last."""
    for name in ("figures", "predictions"):
        replace_directory(staging / name, directory / name)
    for name in ("metrics.json", "report.html"):
        replace_file(staging / name, directory / name)
