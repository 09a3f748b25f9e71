"""The runs of the table read back from their directories: one row a method, and what each error did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..data.tables import read_table
from ..errors import DataError
from ..evaluation.metrics import mean_and_spread
from ..evaluation.published import published
from ..evaluation.results import METHOD_NAMES, slug
from ..files import read_record
from ..protocol import ERRORS
from .cells import COMPARED, Cell, by_name, comparisons, published_model

SCHEMA_VERSION = 1
"""Version of the layout of table.json."""

_RESAMPLES = 1000

BALANCED = ("simclr", "supervised", "images-only")
"""Methods whose labels are weighed where classes are balanced; a probe's are not."""


def collect(directory: Path) -> dict[str, Any]:
    """Return everything that the runs under a table's directory found, as strict JSON can hold it.

    Parameters
    ----------
    directory : Path
        With ``cells.json`` and a run directory a finished cell.

    Returns
    -------
    dict
        ``rows``: one for each cell and method, with accuracy, macro precision, recall and F1 (fractions;
        mean, spread and number of runs) and the published result (percent) or None. ``effects``: what
        each error did. ``failed`` and ``missing``: cells without a result. ``settings``: of the table.

    Raises
    ------
    DataError
        If there is no table in `directory`, or a file of it is damaged.
    """
    record = read_record(directory / "cells.json", "settings", "cells", mend="Make the table again.")
    known = by_name()
    found, rows = {}, []
    for name in record["cells"]:
        if name not in known:
            raise DataError(f"there is no cell {name!r}", where=directory / "cells.json")
        file = directory / name / "metrics.json"
        if file.exists():
            found[name] = read_record(file, "methods", mend="Make the cell again.")
            try:
                rows += _rows(known[name], found[name])
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                raise DataError(
                    f"does not hold a result ({type(error).__name__}: {error})",
                    where=file,
                    mend="Make the cell again.",
                ) from error
    rows.sort(key=lambda row: (row["experiment"], row["task"]))  # and as they come within
    failed = {name: error for name, error in record["cells"].items() if error and name not in found}
    return {
        "schema_version": SCHEMA_VERSION,
        "units": "fractions; published results in percent",
        "settings": record["settings"],
        "simulated": any(row["simulated"] for row in rows),
        "rows": rows,
        "effects": [effect for base in COMPARED for effect in _effects(directory, base, found)],
        "failed": failed,
        "missing": [name for name in record["cells"] if name not in found and name not in failed],
    }


def _rows(cell: Cell, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of one cell."""
    rows = []
    for method, found in metrics["methods"].items():
        if cell.balance != "none" and method not in BALANCED:
            continue  # the same as without
        name = published_model(method, cell.model, cell.task, cell.experiment, cell.split)
        name = name if cell.labels == 1 else ""
        beside = [r for r in published(cell.experiment, cell.task) if r.model == name]
        seen = metrics["seen_in_training"]
        rows.append(
            {
                "cell": cell.name,
                "experiment": cell.experiment,
                "task": cell.task,
                "method": method,
                "name": METHOD_NAMES.get(method, method),
                "model": cell.model,
                "protocol": metrics["protocol"],
                "without": list(cell.without),
                "balance": cell.balance,
                "labels": cell.labels,
                "split": cell.split,
                "preset": metrics["preset"],
                "simulated": metrics["simulated"],
                "test_objects": metrics["test_objects"],
                **{
                    quantity: found["summary"][quantity]
                    for quantity in ("accuracy", "macro_precision", "macro_recall", "macro_f1")
                },
                "seen_in_training": None if seen is None else seen["accuracy"][method],
                "deviations": list(metrics["deviations"]),
                "published": asdict(beside[0]) if beside else None,
            }
        )
    return rows


def _effects(directory: Path, base: Cell, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what mending each error of a published run, and all of them, did to its accuracy."""
    if base.name not in found:
        return []
    effects = []
    for other in comparisons(base):
        if other.name not in found:
            continue
        method = other.shown
        before, after = (
            {run["seed"]: run["accuracy"] for run in found[name]["methods"][method]["runs"]}
            for name in (base.name, other.name)
        )
        seeds = sorted(before.keys() & after.keys())
        objects = [_right(directory / name, method, found[name]) for name in (base.name, other.name)]
        error = other.without[0] if other.without else ""
        effects.append(
            {
                "base": base.name,
                "cell": other.name,
                "mended": error or "all of them, and pre-trained as in clean",
                "what": ERRORS.get(error, "the clean protocol"),
                "method": method,
                "published": asdict(mean_and_spread([before[seed] for seed in seeds])),
                "without": asdict(mean_and_spread([after[seed] for seed in seeds])),
                "difference": asdict(mean_and_spread([after[seed] - before[seed] for seed in seeds])),
                "interval_95": difference_interval(*objects),
                "simulated": found[base.name]["simulated"],
            }
        )
    return effects


def _right(directory: Path, method: str, metrics: Mapping[str, Any]) -> dict[int, float]:
    """Return by objid, of the test objects that count, the share of the runs of a method that were right."""
    right: dict[int, list[bool]] = {}
    for file in sorted((directory / "predictions").glob(f"{slug(method)}-seed[0-9]*.fits")):
        table = read_table(file)
        counts = np.ones(len(table), bool)
        if "seen" in table.colnames and "leaked_objects" not in metrics["deviations"]:
            counts = ~np.asarray(table["seen"])
        correct = np.asarray(table["class"] == table["predicted"])
        for objid, value in zip(np.asarray(table["objid"])[counts], correct[counts], strict=True):
            right.setdefault(int(objid), []).append(bool(value))
    return {objid: float(np.mean(values)) for objid, values in right.items()}


def difference_interval(
    before: Mapping[int, float], after: Mapping[int, float]
) -> tuple[float, float] | None:
    """Return the 95 % interval of a difference of two accuracies, by the percentiles of a bootstrap.

    Test objects are drawn again with replacement, the same for both sides, so what both find hard cancels.

    Parameters
    ----------
    before, after : mapping of int to float
        Share of the runs that were right, by objid; an object may be on one side alone.

    Returns
    -------
    tuple of float or None
        Of the second accuracy minus the first. None without objects on one side.
    """
    if not before or not after:
        return None
    every = sorted(before.keys() | after.keys())
    rng = np.random.default_rng(0)
    sides = [
        (np.array([side.get(o, 0.0) for o in every]), np.array([o in side for o in every], float))
        for side in (before, after)
    ]
    found = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(len(every), size=len(every))
        counts = [member[drawn].sum() for _, member in sides]
        if min(counts) > 0:
            low, high = (value[drawn].sum() / count for (value, _), count in zip(sides, counts, strict=True))
            found.append(high - low)
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)
