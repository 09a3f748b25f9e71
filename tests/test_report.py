"""Results that do not fit are refused; reports hold the numbers, and are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from matplotlib.figure import Figure
from toy_results import probabilities, toy_results, with_explained, without_images

from margformer_fast import files
from margformer_fast.errors import DataError, OutputError
from margformer_fast.evaluation import metrics, report
from margformer_fast.evaluation.baselines import decisions
from margformer_fast.evaluation.figures import FigureGroup
from margformer_fast.evaluation.published import published
from margformer_fast.evaluation.results import Outcome, TestSet, by_method
from margformer_fast.evaluation.style import NamedFigure
from margformer_fast.evaluation.summary import cautions, summarise
from margformer_fast.evaluation.temperature import logits_of, temperature_scaled

TINY = {"n": 30, "runs": 2}
GROUPS = [
    "Right and wrong",
    "Methods beside each other",
    "As the cut moves",
    "Whether probabilities can be believed",
    "What the network sees",
    "How training went",
]


@pytest.fixture
def quick(monkeypatch):
    """Put one empty figure into reports, for tests that are not about figures."""
    picture = NamedFigure("empty", "Nothing", "An empty figure.", Figure(figsize=(1, 1)))
    monkeypatch.setattr(report, "report_figures", lambda *_: [FigureGroup("Empty", (picture,))])


class Page(HTMLParser):
    """Check that tags close, and collect text and links."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.links = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def tree(directory):
    """Return the bytes of every file below a directory."""
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# What may be handed over


def make_test(**changes):
    n = 4
    columns = {name: np.zeros(n) for name in ("ra", "dec", "r_obs", "compactness")}
    return TestSet(**{"objid": np.arange(n), "label": np.array([0, 1, 0, 1]), **columns, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objid": np.arange(0)}, "the test set is empty"),
        ({"ra": np.zeros(3)}, r"test column 'ra' has shape \(3,\); expected \(4,\)"),
        ({"label": np.zeros(4)}, "test labels are float64; expected integers"),
        ({"stamps_preview": np.zeros((2, 3, 8, 8))}, r"shape \(2, 3, 8, 8\); expected \(k, 5, size, size\)"),
        ({"stamps_preview": np.zeros((5, 5, 8, 8))}, "outside the test set; expected 0 to 3"),
        (
            {"stamps_preview": np.zeros((2, 5, 8, 8)), "preview_rows": np.array([1])},
            "2 preview stamps come with 1 rows",
        ),
        ({"stamps_preview": np.zeros((1, 5, 8, 8)), "preview_rows": np.array([-1])}, "outside the test set"),
    ],
)
def test_test_sets_that_do_not_fit(changes, message):
    with pytest.raises(DataError, match=message):
        make_test(**changes)


def test_rows_of_images():
    assert make_test().shown_rows.tolist() == []
    images = np.zeros((2, 5, 8, 8))
    assert make_test(stamps_preview=images).shown_rows.tolist() == [0, 1]
    assert make_test(stamps_preview=images, preview_rows=np.array([3, 1])).shown_rows.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("probability", "message"),
    [
        (
            [[0.5, np.nan], [0.5, 0.5]],
            "1 of 2 probabilities are not finite, the first in row 0. Training has",
        ),
        ([[0.5, 0.5], [2.0, -1.0]], "not probabilities; expected values from 0 to 1 .* Apply softmax"),
        ([[0.5, 0.4]], "not probabilities"),
        ([0.5, 0.5], r"probabilities have shape \(2,\)"),
        ([[1.0]], r"probabilities have shape \(1, 1\)"),
    ],
)
def test_outcomes_that_are_not_probabilities(probability, message):
    with pytest.raises(DataError, match=message) as caught:
        Outcome("simclr", 3, np.array(probability))
    assert "method 'simclr', seed 3" in str(caught.value)


def test_embeddings_that_do_not_fit():
    p = np.full((2, 2), 0.5)
    with pytest.raises(DataError, match=r"embedding has shape \(3, 4\); expected \(2, D\)"):
        Outcome("m", 0, p, embedding=np.zeros((3, 4)))
    with pytest.raises(DataError, match="embedding is not finite"):
        Outcome("m", 0, p, embedding=np.array([[0.0], [np.inf]]))


def test_float32_softmax_is_accepted(rng):
    logit = rng.normal(size=(1000, 3)).astype(np.float32) * 20
    p = np.exp(logit - logit.max(axis=1, keepdims=True))
    outcome = Outcome("m", 0, p / p.sum(axis=1, keepdims=True))
    assert not outcome.decides_only
    assert Outcome("m", 0, decisions(np.array([0, 1]), 2)).decides_only


def test_results_that_do_not_fit_together(rng, tmp_path):
    header, test, outcomes = toy_results(rng, **TINY)
    short = Outcome("m", 0, probabilities(rng, test.label[1:], 2))
    three = Outcome("m", 0, probabilities(rng, test.label, 3))
    twin = Outcome("a b", 0, outcomes[0].probability)
    cases = [
        (test, [], "nothing to report"),
        (test, [short], r"shape \(29, 2\); expected \(30, 2\)"),
        (test, [three], r"shape \(30, 3\); expected \(30, 2\)"),
        (
            replace(test, label=test.label + 1),
            outcomes,
            "test labels are outside the task, the first 2 .* 0 to 1",
        ),
        (replace(test, label=test.label - 1), outcomes, "the first -1"),
        (test, [outcomes[0], outcomes[0]], "method 'simclr': two runs have seed 0"),
        (test, [twin, replace(twin, method="a/b")], "methods 'a b' and 'a/b' would have the same file names"),
    ]
    for bad_test, bad_outcomes, message in cases:
        for use in (
            lambda *results: report.write_report(tmp_path / "new", *results),
            report.format_table,
            report.metrics_json,
        ):
            with pytest.raises(DataError, match=message):
                use(header, bad_test, bad_outcomes)
    assert list(tmp_path.iterdir()) == []


def test_methods_keep_their_order(rng):
    _, _, outcomes = toy_results(rng, runs=3)
    assert list(by_method(outcomes)) == ["simclr", "features-only", "survey-separator"]
    assert [run.seed for run in by_method(outcomes)["simclr"]] == [0, 1, 2]


# The terminal


@pytest.mark.parametrize("task", ["sg", "sgq"])
@pytest.mark.parametrize("experiment", [1, 2, 3])
def test_the_table_has_ours_and_theirs(rng, task, experiment):
    header, test, outcomes = toy_results(rng, task=task, experiment=experiment, n=600, runs=3)
    text = report.format_table(header, test, outcomes)
    runs = by_method(outcomes)["simclr"]
    accuracy = [100 * np.mean(metrics.predict(run.probability) == test.label) for run in runs]
    row = next(line for line in text.splitlines() if "SimCLR, fine-tuned (3 runs)" in line)
    assert f"{np.mean(accuracy):.2f} +- {np.std(accuracy, ddof=1):.2f}" in row
    for result in published(experiment, task):
        assert (f"  {result.model} " in text) == result.headline
    assert "simulated: not comparable with the published numbers, shown for orientation" in text
    for name in header.classes:
        assert re.search(rf"^  {name} ", text, re.M)
    assert text.isascii()
    assert max(map(len, text.splitlines())) < 100
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_the_table_of_real_data_claims_no_simulation(rng):
    text = report.format_table(*toy_results(rng, simulated=False))
    assert "simulated" not in text
    assert "real test objects" in text


def test_long_names_and_notes_stay_inside(rng):
    header, test, outcomes = toy_results(rng)
    header = replace(header, warnings=["word " * 60])
    long = [replace(run, method="a method with quite an uncommonly long name") for run in outcomes[::2]]
    long = [replace(run, seed=seed) for seed, run in enumerate(long)]
    lines = report.format_table(header, test, long).splitlines()
    assert max(map(len, lines)) < 100
    assert any("(3 runs)" in line for line in lines)


def test_one_run_has_no_spread(rng):
    header, test, outcomes = toy_results(rng, runs=1, experiment=9)
    text = report.format_table(header, test, outcomes)
    assert "+-" not in text.split("\n\n", 1)[1]
    summary = report.metrics_json(header, test, outcomes)["methods"]["simclr"]["summary"]
    assert summary["accuracy"]["spread"] is None


def test_runs_that_are_all_the_same_count_as_one(rng):
    header, test, outcomes = toy_results(rng)
    same = [replace(outcomes[-1], seed=seed) for seed in range(3)]
    summary = summarise(header, test, same)[0]
    assert summary.over_runs("accuracy").spread is None
    assert summary.runs_in_words == "3 equal runs"
    assert summarise(header, test, outcomes)[0].runs_in_words == "2 runs"


def test_what_the_numbers_hide_is_said(rng):
    header, test, _ = toy_results(rng, task="sgq", n=90)
    test = replace(test, label=np.where(test.label == 1, 0, test.label))
    header = replace(header, warnings=("look out",))
    outcomes = [Outcome("supervised", 0, decisions(np.zeros(90, int), 3))]
    said = cautions(header, test, summarise(header, test, outcomes))
    assert said[0] == "look out"
    assert said[1].startswith("No test object is a QSO")
    assert said[2] == "MargFormer, supervised never predicts STAR; its precision is counted as 0."
    low, high = metrics.wilson_interval(np.count_nonzero(test.label == 0), 90)
    assert f"from {100 * low:.1f} to {100 * high:.1f} %" in said[3]
    assert len(said) == 4
    assert re.search(r"QSO +0 +- +- +-$", report.format_table(header, test, outcomes), re.M)


# The files


def test_a_report_holds_everything(rng, tmp_path):
    header, test, outcomes = toy_results(rng)
    test = with_explained(rng, test, outcomes[0])
    paths = report.write_report(tmp_path / "run", header, test, outcomes)
    stems = [
        "confusion",
        "accuracy_magnitude",
        "accuracy_compactness",
        "mistakes",
        "differences",
        "roc",
        "precision_recall",
        "operating_points",
        "reliability",
        "embedding",
        "cosines",
        "attention",
        "learning_simclr",
    ]
    assert [path.stem for path in paths.figures] == stems
    listed = {paths.html, paths.metrics, *paths.predictions, *paths.figures}
    assert {path for path in (tmp_path / "run").rglob("*") if path.is_file()} == listed
    assert (paths.html.name, paths.metrics.name) == ("report.html", "metrics.json")
    text = paths.html.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.links) == len(stems)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    words = " ".join(page.text)
    for expected in (
        header.title, "160 simulated test objects", "simulated data", "not comparable with the published",
        header.settings["command"], "finetune.epochs", header.source, "decode", "Chaini et al. 2023", "12 s",
        "Further scores", "Samples at stated requirements", "Difference from SimCLR, fine-tuned",
    ):  # fmt: skip
        assert expected in words
    titles = re.findall(r"<(?:h2|summary)>([^<]*)", text)
    assert [title for title in titles if title in GROUPS] == GROUPS
    # What explains comes folded: it is below what it explains, and out of view.
    assert "Learning curves" in text[text.rindex("<details>") :]


def test_a_page_compares_every_two_methods(rng, tmp_path, quick):
    header, test, outcomes = toy_results(rng, task="sgq", n=300, runs=2)
    paths = report.write_report(tmp_path, header, test, outcomes)
    found = json.loads(paths.metrics.read_text())["comparisons"]
    assert [(each["first"], each["method"]) for each in found] == [
        ("simclr", "features-only"),
        ("simclr", "survey-separator"),
        ("features-only", "survey-separator"),
    ]
    right = {
        method: np.mean([metrics.predict(run.probability) == test.label for run in runs], axis=0)
        for method, runs in by_method(outcomes).items()
    }
    text = paths.html.read_text(encoding="utf-8")
    in_view, folded = text.split("Every other pair of methods")
    for each in found:
        value = np.mean(right[each["method"]] - right[each["first"]])
        objects = each["accuracy"]["objects"]
        assert objects["value"] == pytest.approx(value)
        assert objects["low"] < value < objects["high"]
        where = in_view if each["first"] == "simclr" else folded
        assert f"<td>{100 * value:+.2f}</td><td>{100 * objects['low']:+.2f} to" in where
        pairs = zip(by_method(outcomes)[each["first"]], by_method(outcomes)[each["method"]], strict=False)
        for (one, two), tested in zip(pairs, each["mcnemar"], strict=True):
            a, b = (metrics.predict(run.probability) == test.label for run in (one, two))
            assert (tested["only_first"], tested["only_second"]) == (np.sum(a & ~b), np.sum(b & ~a))


def test_one_method_is_compared_with_none(rng, tmp_path, quick):
    header, test, outcomes = toy_results(rng, **TINY)
    paths = report.write_report(tmp_path, header, test, outcomes[:1])
    assert json.loads(paths.metrics.read_text())["comparisons"] == []
    assert "Difference from" not in paths.html.read_text()


@pytest.mark.parametrize("task", ["sg", "sgq"])
def test_requirements_are_measured_and_shown(rng, tmp_path, quick, task):
    header, test, outcomes = toy_results(rng, task=task, n=600, runs=2)
    paths = report.write_report(tmp_path, header, test, outcomes)
    methods = json.loads(paths.metrics.read_text())["methods"]
    galaxies, stars = methods["simclr"]["operating_points"]
    assert (galaxies["class"], galaxies["fixed"], galaxies["value"]) == ("GALAXY", "completeness", 0.96)
    assert (stars["class"], stars["fixed"], stars["value"]) == ("STAR", "purity", 0.97)
    purity = []
    for run, point in zip(by_method(outcomes)["simclr"], galaxies["runs"], strict=True):
        kept = run.probability[:, 0] >= point["threshold"]
        is_galaxy = test.label == 0
        assert np.mean(kept[is_galaxy]) == point["completeness"] >= 0.96
        assert np.mean(is_galaxy[kept]) == point["purity"]
        purity.append(point["purity"])
    assert galaxies["summary"]["purity"]["mean"] == pytest.approx(np.mean(purity))
    assert f"{100 * np.mean(purity):.2f}" in paths.html.read_text().split("Samples at stated requirements")[1]
    assert methods["survey-separator"]["operating_points"][0]["summary"]["purity"]["mean"] is None


def test_maps_must_belong_to_a_run_and_to_objects(rng, tmp_path):
    header, test, outcomes = toy_results(rng, **TINY)
    test = with_explained(rng, test, outcomes[0])
    with pytest.raises(DataError, match=r"method 'simclr', seed 0: .*belongs to no run"):
        report.write_report(tmp_path, header, test, outcomes[1:])
    with pytest.raises(DataError, match="explained row points outside the test set; expected 0 to 29"):
        replace(test, explained=replace(test.explained, rows=test.explained.rows + 30))


def test_the_page_of_real_data_says_so(rng, tmp_path, quick):
    header, test, outcomes = toy_results(rng, simulated=False, **TINY)
    text = report.write_report(tmp_path, header, test, outcomes).html.read_text()
    words = " ".join(Page(text).text)
    assert '<span class="badge real">real data</span>' in text
    assert "simulated" not in words
    assert "real data" in words


def test_text_of_others_cannot_break_the_page(rng, tmp_path, quick):
    bad = "<script>alert('x')</script> & \"quote\""
    header, test, outcomes = toy_results(rng, **TINY)
    header = replace(
        header,
        source=bad,
        warnings=[bad],
        settings={"command": bad, bad: bad},
        versions={bad: bad},
        preset=bad,
    )
    outcomes = [replace(outcomes[0], method=bad)]
    paths = report.write_report(tmp_path, header, test, outcomes)
    text = paths.html.read_text(encoding="utf-8")
    assert "<script" not in text
    assert bad in " ".join(Page(text).text)
    assert paths.predictions[0].parent == tmp_path / "predictions"


def test_metrics_are_strict_json_and_right(rng, tmp_path, quick):
    header, test, outcomes = toy_results(rng, task="sgq", n=400, runs=3)
    header = replace(header, settings={"path": Path("x"), "rate": np.float32(0.5), "limit": float("inf")})
    path = report.write_report(tmp_path, header, test, outcomes).metrics

    def refuse(constant):
        pytest.fail(f"{constant} is no JSON")

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found["schema_version"] == report.SCHEMA_VERSION
    assert found["settings"] == {"path": "x", "rate": 0.5, "limit": None}
    assert (found["test_objects"], found["simulated"], found["classes"]) == (400, True, list(header.classes))
    runs = by_method(outcomes)["simclr"]
    simclr = found["methods"]["simclr"]
    accuracies = []
    for run, mine in zip(runs, simclr["runs"], strict=True):
        result = metrics.evaluate(test.label, run.probability)
        assert mine["confusion"] == result.scores.confusion.tolist()
        assert mine["macro_f1"] == result.scores.macro_f1
        assert (mine["macro_auc"], mine["ece"], mine["brier"]) == (result.macro_auc, result.ece, result.brier)
        assert mine["classes"]["QSO"]["recall"] == result.scores.recall[1]
        assert mine["history"]["finetune"][0]["epoch"] == 1
        accuracies.append(mine["accuracy"])
    assert simclr["summary"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert simclr["summary"]["accuracy"]["spread"] == pytest.approx(np.std(accuracies, ddof=1))
    bins = simclr["by_r_magnitude"]
    assert sum(bins["all"]["count"]) <= 400
    assert {len(column) for column in bins["STAR"].values()} == {len(bins["STAR"]["count"])}
    separator = found["methods"]["survey-separator"]["runs"][0]
    assert (separator["decides_only"], separator["macro_auc"], separator["ece"]) == (True, None, None)
    assert len(found["published"]) == len(published(1, "sgq"))


def test_temperatures_are_told_and_change_no_decision(rng, tmp_path, quick):
    header, test, outcomes = toy_results(rng, runs=1)
    outcomes[0] = replace(outcomes[0], temperature=2.5)
    paths = report.write_report(tmp_path, header, test, outcomes)
    methods = json.loads(paths.metrics.read_text())["methods"]
    mine, plain = (methods[name]["runs"][0] for name in ("simclr", "features-only"))
    scaled = temperature_scaled(logits_of(outcomes[0].probability), 2.5)
    assert mine["temperature"] == 2.5
    assert mine["ece_scaled"] == metrics.expected_calibration_error(test.label, scaled)
    assert mine["ece"] == metrics.expected_calibration_error(test.label, outcomes[0].probability)
    assert mine["ece"] != mine["ece_scaled"]
    assert np.array_equal(scaled.argmax(axis=1), outcomes[0].probability.argmax(axis=1))
    assert (plain["temperature"], plain["ece_scaled"]) == (None, None)
    page = paths.html.read_text()
    assert "ECE, temperature scaled" in page
    assert f"{mine['ece_scaled']:.4f}" in page
    with pytest.raises(DataError, match=r"method 'simclr', seed 0: the temperature is -1\.0"):
        replace(outcomes[0], temperature=-1.0)


def test_predictions_can_be_joined_by_objid(rng, tmp_path, quick):
    header, test, outcomes = toy_results(rng, task="sgq", **TINY)
    # Columns come as a FITS file holds them: big-endian.
    test = replace(
        test, objid=test.objid.astype(">i8"), ra=test.ra.astype(">f8"), r_obs=test.r_obs.astype(">f8")
    )
    paths = report.write_report(tmp_path, header, test, outcomes)
    assert [path.name for path in paths.predictions] == [
        "simclr-seed0.fits", "features-only-seed0.fits", "simclr-seed1.fits", "features-only-seed1.fits",
        "survey-separator-seed0.fits",
    ]  # fmt: skip
    for path, outcome in zip(paths.predictions, outcomes, strict=True):
        with fits.open(path) as hdus:
            table, head = hdus["PREDICTIONS"].data, hdus["PREDICTIONS"].header
            names = ["objid", "ra", "dec", "class", "predicted", "r_obs", "p_GALAXY", "p_QSO", "p_STAR"]
            assert table.names == names
            np.testing.assert_array_equal(table["objid"], test.objid)
            np.testing.assert_array_equal(table["ra"], test.ra)
            np.testing.assert_array_equal(table["class"], np.array(header.classes)[test.label])
            predicted = np.array(header.classes)[metrics.predict(outcome.probability)]
            np.testing.assert_array_equal(table["predicted"], predicted)
            for k, name in enumerate(header.classes):
                np.testing.assert_array_equal(table[f"p_{name}"], outcome.probability[:, k])
            assert (head["METHOD"], head["SEED"]) == (outcome.method, outcome.seed)
            assert head["SIMULATE"] is True
            assert table.columns["r_obs"].unit == "mag"


def test_a_second_report_replaces_the_first(rng, tmp_path, quick):
    header, test, outcomes = toy_results(rng, **TINY)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"mine")
    report.write_report(tmp_path, header, test, outcomes)
    paths = report.write_report(tmp_path, header, without_images(test), outcomes[:1])
    assert [path.name for path in (tmp_path / "predictions").iterdir()] == ["simclr-seed0.fits"]
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == b"mine"
    assert list(json.loads(paths.metrics.read_text())["methods"]) == ["simclr"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint.safetensors", "figures", "metrics.json", "predictions", "report.html",
    ]  # fmt: skip


@pytest.mark.parametrize("step", ["report_figures", "write_predictions", "metrics_json", "render"])
@pytest.mark.parametrize("blow", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_write_leaves_the_old_report(rng, tmp_path, quick, monkeypatch, step, blow):
    header, test, outcomes = toy_results(rng, **TINY)
    report.write_report(tmp_path, header, test, outcomes)
    before = tree(tmp_path)

    def stop(*_):
        raise blow

    monkeypatch.setattr(report, step, stop)
    with pytest.raises(blow):
        report.write_report(tmp_path, header, test, outcomes[:1])
    assert tree(tmp_path) == before


@pytest.mark.parametrize("moves", range(4))
@pytest.mark.parametrize("exchanges", [True, False])
def test_an_interrupt_while_files_move_loses_nothing(rng, tmp_path, quick, monkeypatch, moves, exchanges):
    """Stop at each of the moves: every file is the old or the new one, and none is missing."""
    header, test, outcomes = toy_results(rng, **TINY)
    report.write_report(tmp_path, header, test, outcomes)
    old = tree(tmp_path)
    done = []

    def stopping(move):
        def moved(*arguments):
            done.append(arguments)
            if len(done) == moves + 1:
                raise KeyboardInterrupt
            return move(*arguments)

        return moved

    other = replace(header, source="another")
    with monkeypatch.context() as patch:
        if exchanges:
            patch.setattr(files, "_exchange", stopping(files._exchange))
        else:
            patch.setattr(files, "_exchange", lambda *_: False)
            patch.setattr(Path, "rename", stopping(Path.rename))
        patch.setattr(Path, "replace", stopping(Path.replace))
        with pytest.raises(KeyboardInterrupt):
            report.write_report(tmp_path, other, test, outcomes)
    now = tree(tmp_path)
    assert set(now) == set(old)
    assert now[Path("report.html")] == old[Path("report.html")]
    report.write_report(tmp_path, other, test, outcomes)
    assert b"another" in tree(tmp_path)[Path("report.html")]


def test_a_full_disk_is_one_clear_line(rng, tmp_path, quick, monkeypatch):
    header, test, outcomes = toy_results(rng, **TINY)
    report.write_report(tmp_path, header, test, outcomes)
    before = tree(tmp_path)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(
            OutputError, match=r"the report cannot be written: No space left on device\. Free some"
        ):
            report.write_report(tmp_path, header, test, outcomes)
    assert tree(tmp_path) == before


def test_a_place_that_is_a_file(rng, tmp_path, quick):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file: the report cannot be written"):
        report.write_report(tmp_path / "file", *toy_results(rng, **TINY))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_killed_write_leaves_the_old_report(rng, tmp_path, quick):
    header, test, outcomes = toy_results(rng, **TINY)
    report.write_report(tmp_path, header, test, outcomes)
    before = tree(tmp_path)
    code = (
        "import os, signal, sys; sys.path.insert(0, 'tests')\n"
        "import numpy as np; from toy_results import toy_results\n"
        "from margformer_fast.evaluation import report\n"
        "report.render = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "report.report_figures = lambda *_: []\n"
        f"report.write_report({str(tmp_path)!r}, *toy_results(np.random.default_rng(0), n=30))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = tree(tmp_path)
    assert {path: data for path, data in left.items() if path.parts[0] != ".report.part"} == before
    assert len(left) > len(before)
    report.write_report(tmp_path, header, test, outcomes)
    assert tree(tmp_path).keys() == before.keys()
