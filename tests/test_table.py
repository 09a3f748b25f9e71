"""The table of all experiments: its cells, its run cell by cell, what fails, and the report made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_arrays import write_published_arrays
from short_runs import shorten

from margformer_fast import cli, runner, train
from margformer_fast.errors import ConfigError, DataError
from margformer_fast.evaluation.published import published
from margformer_fast.experiments import __main__ as command
from margformer_fast.experiments.cells import (
    COMPARED,
    STAGES,
    TABLE,
    by_name,
    cells,
    comparisons,
    published_model,
)
from margformer_fast.experiments.collect import collect, difference_interval
from margformer_fast.protocol import ERRORS


def run(*arguments: object) -> int:
    return cli.run(command.main, [str(a) for a in arguments])


def test_cells_are_commands_and_come_after_what_they_take_over() -> None:
    every = cells(("table", "protocols"))
    names = [cell.name for cell in every]
    assert len(set(names)) == len(names)
    assert by_name().keys() == set(names)
    for k, cell in enumerate(every):
        options = train.parser().parse_args(cell.arguments())
        assert (options.exp, options.task, options.method) == (cell.experiment, cell.task, cell.method)
        assert not cell.source or cell.source in names[:k]
        assert set(cell.stages) <= set(STAGES)


def test_all_that_is_published_is_in_the_table_and_every_error_is_mended_once() -> None:
    for protocol in ("clean", "published"):
        known = {
            (
                cell.experiment,
                cell.task,
                published_model(method, cell.model, cell.task, cell.experiment, cell.split),
            )
            for cell in TABLE
            if cell.protocol == protocol
            for method in (
                cell.method,
                *(("margnet", "margnet-dnn", "margnet-cnn") if "margnet" in cell.baselines else ()),
            )
        }
        single = {
            (experiment, task, r.model)
            for experiment in (1, 2, 3)
            for task in ("sg", "sgq")
            for r in published(experiment, task)
            if r.confusion is not None
        }
        assert single <= known
    mended = {error for base in COMPARED for cell in comparisons(base) for error in cell.without}
    assert mended == set(ERRORS)


def test_published_results_stand_beside_the_same_split() -> None:
    assert published_model("supervised", "margformer-128", "sg", 2, "object") == "MargFormer K=128"
    assert published_model("supervised", "margformer-128", "sg", 2, "margnet") == ""
    assert published_model("supervised", "margformer-64", "sg", 2, "margnet") == "MargFormer K=64"
    assert published_model("margnet", "margformer-64", "sgq", 2, "object") == ""
    assert published_model("simclr", "margformer-64", "sgq", 1, "object") == ""
    assert published_model("features-only", "margformer-64", "sg", 1, "object") == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to run; expected --all, --protocols or both"),
        (("--all", "--only", "exp9"), "--only: no cell has 'exp9' in its name"),
        (("--all", "--resume"), "--resume needs --out"),
        (("report",), "the following arguments are required: DIR"),
    ],
)
def test_bad_options_give_one_line(
    capsys: pytest.CaptureFixture, options: tuple[str, ...], message: str
) -> None:
    assert run(*options) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]


def test_names_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert run("--all", "--protocols", "--only", "exp3-*-lvit", "--list") == 0
    assert capsys.readouterr().out.split() == [
        "exp3-sgq-simclr-probe-lvit-published",
        "exp3-sgq-simclr-probe-lvit-clean",
    ]
    with pytest.raises(ConfigError):
        cells(("table",), "without-")


ONLY = "exp3-sgq-supervised-margformer-64-published"


@pytest.fixture
def deposit(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    shorten(monkeypatch)
    write_published_arrays(tmp_path / "arrays", rng, 180)
    return tmp_path / "arrays"


def common(deposit: Path, out: Path) -> tuple[object, ...]:
    return ("--data", deposit, "--preset", "quick", "--runs", 2, "--out", out)


def contents(out: Path) -> tuple[str, str]:
    return (out / "table.json").read_text(), (out / "index.html").read_text()


def without_time(metrics: Path) -> dict[str, Any]:
    return json.loads(metrics.read_text())["methods"]["supervised"]["summary"]


def test_errors_are_measured_resumed_and_reported_again(
    deposit: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "table"
    assert run("--protocols", "--only", f"{ONLY}-without-leaked", *common(deposit, out)) == 0
    # The published run is not there yet: nothing to compare with.
    assert set(json.loads((out / "cells.json").read_text())["cells"]) == {f"{ONLY}-without-leaked_objects"}
    assert json.loads(contents(out)[0])["effects"] == []
    assert run("--protocols", "--only", ONLY, *common(deposit, out), "--resume") == 0
    found = collect(out)
    effects = {effect["mended"]: effect for effect in found["effects"]}
    assert set(effects) == {
        "augmented_validation",
        "raw_inputs",
        "ragged_batches",
        "head_on_validation",
        "leaked_objects",
    }
    rows = {(row["cell"], row["method"]): row for row in found["rows"]}
    published_row = rows[ONLY, "supervised"]
    assert published_row["published"]["model"] == "MargFormer K=64"
    assert published_row["simulated"] is False
    for effect in effects.values():
        mended = rows[effect["cell"], effect["method"]]["accuracy"]["mean"]
        before = rows[ONLY, effect["method"]]["accuracy"]["mean"]
        assert effect["difference"]["mean"] == pytest.approx(mended - before)
        low, high = effect["interval_95"]
        assert low <= effect["difference"]["mean"] + 1e-9
        assert effect["difference"]["mean"] - 1e-9 <= high
    assert effects["head_on_validation"]["method"] == "margnet"
    # Without the leaked objects the models are the same, and what is counted is not.
    leaked = rows[f"{ONLY}-without-leaked_objects", "supervised"]
    assert leaked["test_objects"] < published_row["test_objects"]
    assert leaked["seen_in_training"] == published_row["seen_in_training"]
    assert leaked["accuracy"]["mean"] == leaked["seen_in_training"]["unseen"]["mean"]
    printed = capsys.readouterr().out
    assert "leaked_objects" in printed
    assert "MargFormer K=64" not in printed  # its number is
    assert "73.118" in printed
    page = contents(out)[1]
    assert "accuracy with / without objects seen in training" in page
    assert "Errors of the published recipe, mended one by one" in page

    # A cell that is deleted is run again, the others are not, and all comes out as before.
    before, numbers = contents(out), without_time(out / ONLY / "metrics.json")
    shutil.rmtree(out / ONLY)
    ran: list[str] = []
    original = runner.run_experiment

    def recorded(directory: Path, *rest: Any) -> Any:
        ran.append(directory.name)
        return original(directory, *rest)

    monkeypatch.setattr(runner, "run_experiment", recorded)
    assert run("--protocols", "--only", ONLY, *common(deposit, out), "--resume") == 0
    assert ran == [ONLY]
    assert without_time(out / ONLY / "metrics.json") == numbers
    assert contents(out) == before
    (out / "table.json").unlink()
    (out / "index.html").unlink()
    assert run("report", out) == 0
    assert contents(out) == before


def test_a_failed_cell_does_not_stop_the_others(
    deposit: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "table"
    original = train.execute
    bad = {
        "exp1-sg-supervised-margformer-128-clean": DataError("no such thing"),
        "exp1-sgq-supervised-margformer-128-clean": ZeroDivisionError("a bug"),
    }
    fails = dict(bad)

    def execute(options: Any, *rest: Any, **more: Any) -> Any:
        if options.out.name in fails:
            raise fails[options.out.name]
        return original(options, *rest, **more)

    monkeypatch.setattr(train, "execute", execute)
    pattern = "exp?-sg*-supervised-margformer-128-clean"
    options = ("--all", "--only", pattern, *common(deposit, out))
    assert run(*options) == 1
    found = collect(out)
    assert found["failed"] == dict(zip(bad, ("no such thing", "ZeroDivisionError: a bug"), strict=True))
    assert {row["cell"] for row in found["rows"]} == {cell.name for cell in cells(("table",), pattern)} - set(
        bad
    )
    captured = capsys.readouterr()
    assert "failed: exp1-sg-supervised-margformer-128-clean: no such thing" in captured.out
    assert "no such thing" in contents(out)[1]
    # Resumed with the cause mended, only they are run.
    fails.clear()
    assert run(*options) == 1
    assert "already exists" in capsys.readouterr().err
    assert run(*options, "--resume", "--runs", 1) == 1
    assert "was started with other settings (runs)" in capsys.readouterr().err
    assert run(*options, "--resume") == 0
    assert collect(out)["failed"] == {}


def test_a_directory_without_a_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("report", tmp_path) == 1
    assert "cells.json: is missing" in capsys.readouterr().err
    (tmp_path / "cells.json").write_text(json.dumps({"settings": {}, "cells": {"exp9": ""}}))
    assert run("report", tmp_path) == 1
    assert "there is no cell 'exp9'" in capsys.readouterr().err
    (tmp_path / "cells.json").write_text(json.dumps({"settings": {}, "cells": {ONLY: ""}}))
    assert run("report", tmp_path) == 0
    assert f"not run yet: 1 cells, {ONLY}" in capsys.readouterr().out


def test_interval_of_a_difference(rng: np.random.Generator) -> None:
    n = 2000
    a = (rng.random(n) < 0.8).astype(float)
    b = np.where(rng.random(n) < 0.05, 1.0, a)
    before, after = dict(enumerate(a)), dict(enumerate(b))
    low, high = difference_interval(before, after)
    error = (b - a).std() / np.sqrt(n)
    assert low == pytest.approx((b - a).mean() - 1.96 * error, abs=0.4 * error)
    assert high == pytest.approx((b - a).mean() + 1.96 * error, abs=0.4 * error)
    assert difference_interval(before, before) == (0.0, 0.0)
    # Objects of one side alone: a part of the objects against all of them.
    part = {k: v for k, v in before.items() if k % 2}
    low, high = difference_interval(before, part)
    assert low < np.mean(list(part.values())) - a.mean() < high
    assert difference_interval({}, before) is None
    assert difference_interval({1: 1.0}, {2: 0.0}) == (-1.0, -1.0)
