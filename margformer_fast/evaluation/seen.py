"""Test objects that were trained or validated on: left out of a report's results, and shown beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Any

import numpy as np

from .html_parts import table
from .metrics import Spread, mean_and_spread, predict
from .results import Outcome, RunHeader, TestSet, by_method, method_name
from .summary import percent


def counts_seen(header: RunHeader) -> bool:
    """Return whether objects seen in training count in the results: an error that can be asked for."""
    return "leaked_objects" in header.deviations


def counted(
    header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]
) -> tuple[TestSet, Sequence[Outcome]]:
    """Return the part of a test set, and of the predictions for it, that the results are about.

    Parameters
    ----------
    header, test, outcomes
        The runs, with predictions for all test objects.

    Returns
    -------
    test : TestSet
        Without the objects that were seen in training, unless the protocol counts them.
    outcomes : sequence of Outcome
        The same runs, for those objects.
    """
    if test.seen is None or counts_seen(header):
        return test, outcomes
    kept = ~test.seen
    shown, row = test.shown_rows, np.cumsum(kept) - 1
    previews = kept[shown]
    part = replace(
        test,
        **{
            name: getattr(test, name)[kept]
            for name in ("objid", "ra", "dec", "label", "r_obs", "compactness", "seen")
        },
        stamps_preview=None if test.stamps_preview is None else test.stamps_preview[previews],
        preview_rows=None if test.stamps_preview is None else row[shown[previews]],
        # Chosen among objects that are kept.
        explained=None if test.explained is None else replace(test.explained, rows=row[test.explained.rows]),
    )
    return part, [
        replace(
            outcome,
            probability=outcome.probability[kept],
            embedding=None if outcome.embedding is None else outcome.embedding[kept],
        )
        for outcome in outcomes
    ]


@dataclass(frozen=True)
class SeenAccuracy:
    """Accuracies of one method on all test objects, on those not seen in training, and on those seen.

    Parameters
    ----------
    method : str
        As in `Outcome`.
    all, unseen, seen : Spread
        Mean and spread over runs.
    """

    method: str
    all: Spread
    unseen: Spread
    seen: Spread


def with_and_without(test: TestSet, outcomes: Sequence[Outcome]) -> list[SeenAccuracy]:
    """Measure each method with and without the objects seen in training; nothing if there is none.

    Parameters
    ----------
    test : TestSet
        All test objects.
    outcomes : sequence of Outcome
        Predictions for all of them.
    """
    if test.seen is None or not test.seen.any():
        return []
    found = []
    for method, runs in by_method(outcomes).items():
        right = [predict(run.probability) == test.label for run in runs]
        parts = (np.ones(len(test), bool), ~test.seen, test.seen)
        found.append(
            SeenAccuracy(
                method,
                *(
                    mean_and_spread([float(r[part].mean()) if part.any() else np.nan for r in right])
                    for part in parts
                ),
            )
        )
    return found


def section(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> list[str]:
    """Return the part of the page on accuracies with and without objects seen in training, as HTML."""
    rows = with_and_without(test, outcomes)
    if not rows or test.seen is None:
        return []
    count = int(test.seen.sum())
    body = [
        (
            "",
            [
                escape(method_name(row.method)),
                *(percent(v, "&plusmn;") for v in (row.all, row.unseen, row.seen)),
            ],
        )
        for row in rows
    ]
    head = (
        "accuracy, percent",
        f"all {len(test):,} test objects",
        f"the {len(test) - count:,} not seen in training",
        f"the {count:,} seen in training",
    )
    used = "count in" if counts_seen(header) else "are left out of"
    text = (
        f"<p>{count:,} of {len(test):,} test objects were trained or validated on. On this page they {used} "
        "every other number; predictions/ has them with a column <code>seen</code>.</p>"
    )
    return ["<h2>With and without objects seen in training</h2>", text, table(head, body)]


def to_json(header: RunHeader, test: TestSet, outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    """Return the same numbers for metrics.json; None if no test object was seen in training."""
    rows = with_and_without(test, outcomes)
    if not rows or test.seen is None:
        return None
    return {
        "objects": int(test.seen.sum()),
        "of": len(test),
        "counted": counts_seen(header),
        "accuracy": {
            row.method: {p: asdict(getattr(row, p)) for p in ("all", "unseen", "seen")} for row in rows
        },
    }
