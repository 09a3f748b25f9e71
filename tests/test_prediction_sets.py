"""Reports hold the prediction sets of runs with a calibration set, and say when not to trust them."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from matplotlib.figure import Figure
from toy_results import toy_results, with_calibration

from margformer_fast.errors import DataError
from margformer_fast.evaluation import conformal_page, report
from margformer_fast.evaluation.conformal import KINDS, LEVELS, by_class
from margformer_fast.evaluation.conformal_figures import conformal_figures
from margformer_fast.evaluation.figures import FigureGroup
from margformer_fast.evaluation.metrics import wilson_interval
from margformer_fast.evaluation.prediction_sets import (
    bitmask,
    coverage_by_magnitude,
    of_run,
    sets_json,
    sets_of_runs,
)
from margformer_fast.evaluation.results import CalibrationSet, Outcome, check_results
from margformer_fast.evaluation.style import NamedFigure, png


@pytest.fixture
def plain_report(monkeypatch):
    """Leave the other figures out of reports."""
    picture = NamedFigure("empty", "Nothing", "An empty figure.", Figure(figsize=(1, 1)))
    monkeypatch.setattr(report, "report_figures", lambda *_: [FigureGroup("Empty", (picture,))])


def calibrated(rng, **changes):
    header, test, outcomes = toy_results(rng, **changes)
    calibration, outcomes = with_calibration(rng, header, outcomes)
    return header, test, outcomes, calibration


def words(parts):
    return re.sub(r"<[^>]+>", " ", " ".join(parts)).replace("&nbsp;", " ")


def test_a_report_with_sets(rng, tmp_path, plain_report):
    header, test, outcomes, calibration = calibrated(rng, task="sgq", n=240)
    paths = report.write_report(tmp_path, header, test, outcomes, calibration)
    assert [path.stem for path in paths.figures] == [
        "empty", "set_coverage", "set_size", "set_coverage_magnitude",
    ]  # fmt: skip
    page = paths.html.read_text()
    assert page.count("<img") == 4
    assert "calibrated on 300 validation objects" in page
    assert page.index("<h2>Prediction sets") < page.index("<h2>Objects")
    methods = json.loads(paths.metrics.read_text())["methods"]
    assert methods["survey-separator"]["runs"][0]["conformal"] is None
    bits = {path.stem: fits.getdata(path, "PREDICTIONS") for path in paths.predictions}
    for method, seed in (("simclr", 0), ("simclr", 1), ("features-only", 1)):
        found = methods[method]["runs"][seed]["conformal"]
        assert list(found) == list(KINDS)
        outcome = next(o for o in outcomes if (o.method, o.seed) == (method, seed))
        mine = by_class(calibration.label, outcome.calibration, outcome.probability)
        table = bits[f"{method}-seed{seed}"]
        held = (table["set_90"] >> test.label) & 1
        level = found["class"]["levels"]["0.9"]
        assert level["coverage"] == held.mean()
        assert level["coverage_interval_95"] == list(wilson_interval(held.sum(), len(held)))
        assert level["mean_size"] == table["set_90_size"].mean()
        assert level["share_of_size"] == [np.mean(table["set_90_size"] == s) for s in range(4)]
        assert sum(level["classes"][name]["objects"] for name in header.classes) == len(test)
        qso = found["class"]["categories"][1]
        assert (qso["class"], qso["r_lower"], qso["r_upper"]) == ("QSO", None, None)
        assert qso["calibration_objects"] == np.sum(calibration.label == 1)
        assert qso["q"]["0.95"] == mine.categories[1].threshold(0.95)
        np.testing.assert_array_equal((table["set_90"] >> 1) & 1, mine.sets(0.9)[:, 1])
        assert 0.5 < found["weighted"]["membership_auc"] < 1
        assert sum(found["class"]["coverage_90_by_r_magnitude"]["count"]) <= len(test)


def test_columns_of_sets_say_what_they_are(rng, tmp_path, plain_report):
    for experiment, kind in ((1, "class"), (3, "weighted")):
        results = calibrated(rng, task="sgq", experiment=experiment)
        paths = report.write_report(tmp_path / str(experiment), *results)
        with fits.open(paths.predictions[0]) as hdus:
            table, head = hdus["PREDICTIONS"].data, hdus["PREDICTIONS"].header
            assert table.names[-2:] == ["set_90", "set_90_size"]
            assert (table["set_90"].dtype.kind, table["set_90"].dtype.itemsize) == ("i", 2)
            assert head["SETKIND"] == kind
            assert "1 GALAXY, 2 QSO, 4 STAR" in "".join(str(c) for c in head["COMMENT"])
        with fits.open(paths.predictions[-1]) as hdus:
            assert "set_90" not in hdus["PREDICTIONS"].data.names


def test_bits_of_sets():
    member = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]], bool)
    found = bitmask(member)
    assert (found.tolist(), found.dtype) == ([0, 1, 6, 7], np.int16)


def test_a_shuffle_of_the_objects_changes_nothing(rng):
    """Coverage at a magnitude is that of the objects of this magnitude, in whatever order they come."""
    header, test, outcomes, calibration = calibrated(rng, n=600, runs=1)
    new, cal = rng.permutation(len(test)), rng.permutation(len(calibration))
    columns = ("objid", "ra", "dec", "label", "r_obs", "compactness")
    moved = replace(test, **{c: getattr(test, c)[new] for c in columns}, stamps_preview=None)
    again = CalibrationSet(calibration.objid[cal], calibration.label[cal], calibration.r_obs[cal])
    outcome = outcomes[0]
    other = Outcome("simclr", 0, outcome.probability[new], calibration=outcome.calibration[cal])
    before = sets_of_runs(header, test, [outcome], calibration)
    after = sets_of_runs(header, moved, [other], again)
    a, b = (sets_json(header, t, runs[0]) for t, runs in ((test, before), (moved, after)))
    for kind in ("class", "class-magnitude"):
        assert repr(a[kind]) == repr(b[kind])
    # Magnitudes of other objects are noticed.
    wrong = replace(test, r_obs=rng.permutation(test.r_obs))
    bins = [coverage_by_magnitude(before, t, "class", 0.9, np.ones(600, bool)) for t in (test, wrong)]
    assert bins[0].accuracy.tolist() != bins[1].accuracy.tolist()


def test_coverage_by_magnitude_by_hand(rng):
    header, test, outcomes, calibration = calibrated(rng, n=400, runs=2)
    runs = sets_of_runs(header, test, outcomes[::2][:2], calibration)
    bins = coverage_by_magnitude(runs, test, "class", 0.9, test.label == 1)
    assert len(bins.count)
    for lower, upper, count, found in zip(bins.lower, bins.upper, bins.count, bins.accuracy, strict=True):
        here = (test.label == 1) & (test.r_obs >= lower) & (test.r_obs < upper)
        held = [run.kinds["class"].sets(0.9)[here, 1].mean() for run in runs]
        assert (count, found) == (np.sum(here), pytest.approx(np.mean(held)))


def test_sets_belong_to_their_run(rng):
    header, test, outcomes, calibration = calibrated(rng)
    sets = sets_of_runs(header, test, outcomes, calibration)
    assert [run.outcome for run in sets] == outcomes[:-1]
    assert of_run(sets, outcomes[1]).outcome is outcomes[1]
    assert of_run(sets, outcomes[-1]) is None
    assert sets_of_runs(header, test, outcomes, None) == []


@pytest.mark.parametrize(("task", "classes"), [("sg", 2), ("sgq", 3)])
def test_the_page_of_experiment_3_says_what_fails(rng, task, classes):
    header, test, outcomes, calibration = calibrated(rng, task=task, experiment=3)
    runs = sets_of_runs(header, test, outcomes, calibration)
    said = words(conformal_page.section(header, test, calibration, runs, []))
    assert "not exchangeable" in said
    assert ("quasars" in said) == (classes == 3)
    mean = np.mean(
        [run.scores(test, "weighted", 0.9).coverage for run in runs if run.outcome.method == "simclr"]
    )
    assert f"weighted to the test magnitudes {100 * mean:.2f} " in said
    assert "for comparison" not in said
    for other in (replace(header, experiment=1), replace(header, population="all")):
        said = words(conformal_page.section(other, test, calibration, runs, []))
        assert "not exchangeable" not in said
        assert "for comparison" in said


def test_the_table_has_every_kind_and_level(rng):
    header, test, outcomes, calibration = calibrated(rng, task="sgq")
    # No test object is a quasar.
    test = replace(test, label=np.where(test.label == 1, 0, test.label))
    runs = sets_of_runs(header, test, outcomes, calibration)
    html = " ".join(conformal_page.section(header, test, calibration, runs, []))
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html)
    assert len(rows) == 1 + len(KINDS) * (1 + len(LEVELS))
    cells = re.findall(r"<td>(.*?)</td>", rows[2])
    assert (cells[0], cells[3], len(cells)) == ("68&nbsp;%", "-", 9)
    assert "nan" not in html


def test_figures_can_be_drawn_of_little(rng):
    """Few objects, no calibration object of a class, no magnitudes; nothing warns."""
    header, test, outcomes, calibration = calibrated(rng, task="sgq", n=12, runs=1)
    sets = sets_of_runs(header, test, outcomes, calibration)
    stems = [named.stem for named in conformal_figures(header, test, calibration, sets) if png(named.figure)]
    assert stems == ["set_coverage", "set_size", "set_coverage_magnitude"]
    few = CalibrationSet(np.arange(2), np.zeros(2, int), np.full(2, np.nan))
    test = replace(test, r_obs=np.full(12, np.nan))
    outcomes = [replace(outcomes[0], calibration=outcomes[0].calibration[:2])]
    sets = sets_of_runs(header, test, outcomes, few)
    stems = [named.stem for named in conformal_figures(header, test, few, sets) if png(named.figure)]
    assert stems == ["set_coverage", "set_size"]
    assert "nan" not in words(conformal_page.section(header, test, few, sets, []))
    json.dumps(report.metrics_json(header, test, outcomes, sets), allow_nan=False)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((np.arange(0), np.arange(0), np.zeros(0)), "the calibration set is empty"),
        ((np.arange(3), np.arange(2), np.zeros(3)), r"calibration column 'label' has shape \(2,\)"),
        ((np.arange(3), np.arange(3), np.zeros((3, 1))), r"calibration column 'r_obs' has shape \(3, 1\)"),
        ((np.arange(3), np.zeros(3), np.zeros(3)), "calibration labels are float64; expected integers"),
    ],
)
def test_calibration_sets_that_do_not_fit(columns, message):
    with pytest.raises(DataError, match=message):
        CalibrationSet(*columns)


def test_calibration_that_does_not_fit_the_runs(rng, tmp_path):
    header, test, outcomes, calibration = calibrated(rng)
    short = replace(calibration, objid=np.arange(9), label=np.zeros(9, int), r_obs=np.zeros(9))
    cases = [
        (outcomes, short, r"calibration probabilities have shape \(300, 2\); expected \(9, 2\)"),
        (
            outcomes,
            replace(calibration, label=calibration.label + 1),
            "calibration labels are outside the task",
        ),
        (outcomes[-1:], calibration, "no outcome has its probabilities. Give at least one"),
    ]
    for runs, bad, message in cases:
        for use in (check_results, lambda *results: report.write_report(tmp_path / "new", *results)):
            with pytest.raises(DataError, match=message):
                use(header, test, runs, bad)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="seed 3, calibration objects: the numbers given are not probabil"):
        Outcome("m", 3, np.full((2, 2), 0.5), calibration=np.ones((2, 2)))
