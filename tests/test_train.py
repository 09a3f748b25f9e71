"""The training command from data to report, killed and resumed, and what it says of bad input."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from toy import toy_survey

from margformer_fast import cli, train
from margformer_fast.data.store import write_store
from margformer_fast.data.survey import UNKNOWN
from margformer_fast.learning.checkpoint import load_model, load_tensors

N = 90


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write stores of a toy survey: two classes, three classes, and some that cannot be trained on."""
    rng = np.random.default_rng(5)  # shared by tests that compare runs: one survey for all of them
    folder = tmp_path_factory.mktemp("stores")
    two, three = toy_survey(N, rng), toy_survey(3 * N // 2, rng, classes=(0, 1, 2))
    features = two.features.copy()
    features[:, 1:20:4] *= 10
    brighter = two.features.copy()
    brighter[:, 0:20:4] -= 4
    surveys = {
        "sg": two,
        "sgq": three,
        "blank": two,
        "large": replace(two, features=features),
        "bright": replace(two, features=brighter),
        "unlabelled": replace(two, label=np.full(N, UNKNOWN, np.int8)),
    }
    for name, survey in surveys.items():
        write_store(folder / name, survey)
    with fits.open(folder / "blank" / "stamps-00000.fits", mode="update") as file:
        file[0].data[7, 3] = np.nan
    return {name: folder / name for name in surveys}


def run(*arguments: object) -> int:
    return cli.run(train.main, [str(a) for a in arguments])


def test_simclr_on_three_classes(
    stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    assert run("--exp", 1, "--task", "sgq", "--data", stores["sgq"], "--runs", 2, "--out", out) == 0
    printed = capsys.readouterr().out
    for expected in (
        "Experiment 1",
        "SimCLR, fine-tuned",
        "frozen + probe",
        "simulated",
        "published",
        "report.html",
    ):
        assert expected in printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["simulated"] is True
    assert {m["name"] for m in metrics["methods"].values()} >= {
        "SimCLR, fine-tuned",
        "SimCLR, frozen + probe",
    }
    predictions = Table.read(out / "predictions" / "simclr-seed0.fits")
    assert len(predictions) == sum(metrics["counts"]["test"].values())
    for method in ("simclr", "simclr-probe"):
        for found in metrics["methods"][method]["runs"]:
            categories = found["conformal"]["class"]["categories"]
            known = {each["class"]: each["calibration_objects"] for each in categories}
            assert known == metrics["counts"]["val"]
    for figure in ("attention", "cosines", "embedding", "differences", "precision_recall"):
        assert (out / "figures" / f"{figure}.png").stat().st_size > 1000
    size = sum((predictions["set_90"] >> k) & 1 for k in range(3))
    assert (predictions["set_90_size"] == size).all()
    model, classes, _ = load_model(out / "seed-1" / "model")
    assert classes == ("GALAXY", "QSO", "STAR")
    assert model.config.depth == 4
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["runs"] == 2


def test_supervised_with_all_baselines(stores: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = (
        "--method",
        "supervised",
        "--baselines",
        "features,images,margnet",
        "--precision",
        "bf16",
        "--split",
        "sky",
    )
    assert run("--exp", 1, "--data", stores["sg"], "--runs", 1, "--out", out, *options) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    baselines = {"images-only", "photometry-only", "features-only", "margnet-dnn", "margnet-cnn", "margnet"}
    assert set(metrics["methods"]) == {"supervised", *baselines}
    val = sum(metrics["counts"]["val"].values())
    for method in metrics["methods"].values():
        categories = method["runs"][0]["conformal"]["class"]["categories"]
        assert sum(each["calibration_objects"] for each in categories) == val


@pytest.fixture(scope="module")
def left_alone(stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run that nobody disturbs."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    subprocess.run([*command(stores), "--out", str(out)], check=True, capture_output=True)
    return out


def command(stores: dict[str, Path]) -> list[str]:
    options = ("--exp", "1", "--data", str(stores["sg"]), "--runs", "1")
    return [sys.executable, "-m", "margformer_fast.train", *options]


def measured(out: Path) -> dict[str, object]:
    """Return what a run found, without the clock."""
    runs = json.loads((out / "metrics.json").read_text())["methods"]["simclr"]["runs"]
    for epoch in runs[0]["history"]["finetune"]:
        del epoch["seconds"], epoch["rate"]
    return runs[0]


@pytest.mark.parametrize("kill_at", ["pretrain", "finetune"])
def test_a_killed_run_resumes_to_the_same_model(
    stores: dict[str, Path], left_alone: Path, tmp_path: Path, kill_at: str
) -> None:
    out = tmp_path / "killed"
    process = subprocess.Popen([*command(stores), "--out", str(out)], stderr=subprocess.DEVNULL)
    waited_for = out / ("run.json" if kill_at == "pretrain" else "seed-0/pretrain.safetensors")
    deadline = time.monotonic() + 120
    while not waited_for.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    assert not (out / "report.html").exists()
    subprocess.run([*command(stores), "--out", str(out), "--resume"], check=True, capture_output=True)
    resumed, expected = (
        load_tensors(each / "seed-0" / "model" / "model.safetensors")[0] for each in (out, left_alone)
    )
    assert all(resumed[name].equal(expected[name]) for name in expected)
    assert measured(out) == measured(left_alone)


def test_a_full_disk_leaves_one_line(stores: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    # No file may grow beyond 64 KiB: writing the first checkpoint fails as on a full disk.
    limit = 64 * 1024

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [*command(stores), "--out", str(out)], preexec_fn=limited, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "pretrain.safetensors: cannot be written" in errors[0]
    assert "Traceback" not in done.stderr
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--exp", 1, "--data", "no-such-place"), 1, "no-such-place: does not exist"),
        (("--exp", 1, "--data", "."), 1, "neither a survey store nor a directory of published arrays"),
        (("--exp", 4), 2, "invalid choice"),
        (("--exp", 1, "--data", "@sg", "--task", "sgq"), 1, "training set has no QSO"),
        (("--exp", 1, "--data", "@unlabelled"), 1, "none of the 90 objects"),
        (("--exp", 1, "--data", "@large"), 1, "population 'compact' is empty"),
        (("--exp", 2, "--data", "@bright"), 1, "population 'faint-compact' is empty"),
        (("--exp", 3, "--data", "@bright"), 1, "Experiment 3: no GALAXY is left to test on"),
        (("--exp", 3, "--data", "@sg", "--split", "sky"), 2, "--split sky does not go with --exp 3"),
        (("--exp", 1, "--data", "@blank"), 1, "objid 8, band i"),
        (("--exp", 1, "--data", "@sg", "--device", "cuda:99"), 2, "is not here"),
        (("--exp", 1, "--data", "@sg", "--backend", "magic"), 2, "no operator has a backend 'magic'"),
        (("--exp", 1, "--data", "@sg", "--baselines", "tea"), 2, "there is no baseline 'tea'"),
    ],
)
def test_bad_input_gives_one_line_and_leaves_nothing(
    stores: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    options: tuple[object, ...],
    code: int,
    message: str,
) -> None:
    out = tmp_path / "run"
    resolved = [stores[o[1:]] if str(o).startswith("@") else o for o in options]
    assert run(*resolved, "--out", out) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_existing_run_is_not_overwritten(
    stores: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    assert run("--exp", 1, "--data", stores["sg"], "--out", out) == 1
    assert "already exists" in capsys.readouterr().err
    assert run("--exp", 1, "--data", stores["sg"], "--out", out, "--resume") == 1
    assert "run.json: is missing" in capsys.readouterr().err
    assert run("--exp", 1, "--resume", "--out", tmp_path / "nowhere", "--data", stores["sg"]) == 1
    (out / "run.json").write_text(json.dumps({"settings": {"experiment": 2}}))
    assert run("--exp", 1, "--data", stores["sg"], "--out", out, "--resume") == 1
    assert "baselines None, now ['features']" in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from margformer_fast import runner

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "pretrain", interrupt)
    assert run("--exp", 1, "--data", stores["sg"], "--out", tmp_path / "run") == 130
    assert f"--out {tmp_path / 'run'} --resume" in capsys.readouterr().err
