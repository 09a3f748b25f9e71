"""Command lines: how they end, what they print, and ``python -m margformer_fast.data`` from end to end."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from toy import toy_survey

from margformer_fast.cli import (
    Interrupted,
    Parser,
    add_output,
    add_seed,
    count,
    fraction,
    on_interrupt,
    positive,
    run,
    table,
)
from margformer_fast.data.__main__ import main
from margformer_fast.data.manifest import MANIFEST
from margformer_fast.data.store import read_store, write_store
from margformer_fast.errors import ConfigError, DataError

MODULE = [sys.executable, "-m", "margformer_fast.data"]


# Output is buffered as a user's is: what cannot be written then shows only when it is flushed.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def data(*arguments: object) -> int:
    """Run the data command here and return its exit code."""
    return run(main, [str(argument) for argument in arguments])


def raising(error: BaseException):
    def command(_: object) -> None:
        raise error

    return command


# How a command ends


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("is broken", where="a.fits", mend="Mend it."), 1, "error: a.fits: is broken. Mend it."),
        (ConfigError("--runs is 0"), 2, "error: --runs is 0"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted("epoch 3 is kept; add --resume"), 130, "interrupted: epoch 3 is kept; add --resume"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x"),
            1,
            "error: /data/x: No space left on device. Free some space and try again.",
        ),
    ],
)
def test_an_error_is_one_line_and_a_code(capfd, error, code, line):
    assert run(raising(error)) == code
    captured = capfd.readouterr()
    assert captured.err == line + "\n"
    assert captured.out == ""


def test_success_is_silent(capfd):
    assert run(lambda _: None) == 0
    assert run(lambda _: 3) == 3
    assert run(lambda arguments: len(arguments or ()), ["a", "b"]) == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("bug"), PermissionError(errno.EACCES, "no"), SystemExit(4)]
)
def test_what_is_not_expected_passes(error):
    with pytest.raises(type(error)):
        run(raising(error))


def test_the_innermost_block_says_what_an_interrupt_leaves(capfd):
    asked = []

    def ask() -> str:
        asked.append(1)
        return "inner"

    def command(_: object) -> None:
        with on_interrupt("outer"), on_interrupt(ask):
            assert not asked, "asked only when it happens"
            raise KeyboardInterrupt

    assert run(command) == 130
    assert capfd.readouterr().err == "interrupted: inner\n"
    with on_interrupt(ask):
        pass
    assert len(asked) == 1


def test_sigterm_ends_in_order(capfd, monkeypatch):
    """As Ctrl-C does, so that temporary files go; only where nothing else waits for this process."""
    cleared = []

    def command(_: object) -> None:
        with on_interrupt("all is kept"):
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                cleared.append(1)

    assert run(command) == 143
    assert capfd.readouterr().err == "terminated: all is kept\n"
    assert cleared
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(lambda _: int(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)) == 1


def test_output_that_nobody_reads(tmp_path, rng):
    write_store(tmp_path / "s", toy_survey(3, rng))
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*MODULE, "info", tmp_path / "s"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env=BUFFERED,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_full_disk_under_standard_output(tmp_path, rng):
    if not Path("/dev/full").is_char_device():
        pytest.skip("this system has no /dev/full")
    write_store(tmp_path / "s", toy_survey(3, rng))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*MODULE, "info", tmp_path / "s"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=BUFFERED,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device. Free some space and try again.\n"


# Pieces


def test_misuse_is_one_line_with_code_2(capfd):
    parser = Parser(prog="thing", example="thing --out a\n   thing --out b")
    add_output(parser, "the thing")
    add_seed(parser)
    for arguments, message in (
        ([], "the following arguments are required: --out"),
        (["--out", "x", "--seed", "-1"], "argument --seed: -1 is negative"),
        (["--out", "x", "--colour"], "unrecognized arguments: --colour"),
        (["--ou", "x"], "the following arguments are required: --out"),  # options are not guessed
    ):
        assert run(lambda given: vars(parser.parse_args(given)) and None, arguments) == 2
        assert capfd.readouterr().err == f"error: {message}. See thing --help.\n"
    options = parser.parse_args(["--out", "x", "--overwrite", "--seed", "7"])
    assert vars(options) == {"out": Path("x"), "overwrite": True, "seed": 7}
    assert parser.format_help().endswith("example:\n  thing --out a\n  thing --out b\n")


def test_numbers():
    assert [count(text) for text in ("0", "17", "12k", "1_000")] == [0, 17, 12_000, 1000]
    assert positive("3") == 3
    assert fraction("0.25") == 0.25
    for kind, bad, message in (
        (count, "1.5", "'1.5' is not a whole number"),
        (count, "", "'' is not a whole number"),
        (count, "-3", "-3 is negative"),
        (positive, "0", "0 is not enough"),
        (fraction, "1", "'1' is not a number between 0 and 1"),
        (fraction, "nan", "'nan' is not a number between 0 and 1"),
        (fraction, "half", "'half' is not a number between 0 and 1"),
    ):
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            kind(bad)
        assert str(caught.value) == message


def test_tables():
    rows = [["STAR", 12345, 0.5, True], ["Q", None, 12.3456789, False]]
    assert table(["class", "n", "x", "ok"], rows).splitlines() == [
        "class       n      x   ok",
        "-----  ------  -----  ---",
        "STAR   12,345    0.5  yes",
        "Q           -  12.35   no",
    ]
    assert table(["a", "b"], [["x", 1.0]], decimals=2).splitlines()[-1] == "x  1.00"
    assert table(["a", "b"], []).splitlines() == ["a  b", "-  -"]
    with pytest.raises(ValueError, match="argument"):
        table(["a", "b"], [["x"]])


# python -m margformer_fast.data


@pytest.mark.parametrize(
    "command",
    ["", "simulate", "compare", "import", "ingest", "fetch", "fetch sdss", "fetch margnet", "verify", "info"],
)
def test_help_has_an_example_and_needs_nothing_heavy(command):
    code = (
        "import sys; sys.argv = ['data', *sys.argv[1:]]\n"
        "from margformer_fast.data.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(sorted({'torch', 'astropy', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split(), "--help"], capture_output=True, text=True, check=True
    )
    *shown, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert any(line.startswith("  python -m margformer_fast.data " + command) for line in shown)
    if not command:
        for name in ("simulate", "compare", "import", "ingest", "fetch", "verify", "info"):
            assert any(line.split()[:1] == [name] for line in shown)


def test_no_command(capfd):
    assert data() == 2
    assert "the following arguments are required: COMMAND" in capfd.readouterr().err
    assert data("paint") == 2
    assert "invalid choice: 'paint'" in capfd.readouterr().err


def test_simulate_verify_info(tmp_path, capfd):
    path = tmp_path / "sim"
    assert data("simulate", "--out", path, "--compact", 30, "--faint", 15, "--seed", 3) == 0
    out = capfd.readouterr().out
    assert "sim: 45 SIMULATED objects of sdss" in out
    assert [line.split() for line in out.splitlines() if line[:4] in ("GALA", "QSO ", "STAR")] == [
        ["GALAXY", "15"],
        ["QSO", "15"],
        ["STAR", "15"],
    ]
    survey = read_store(path)
    assert len(survey) == 45
    assert survey.simulated
    assert survey.provenance["seed"] == 3

    assert data("verify", path) == 0
    assert "sound; 45 objects in 2 files" in capfd.readouterr().out

    assert data("info", path) == 0
    out = capfd.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["all", "15", "15", "15", "45"] in rows
    assert ["compact", "10", "10", "10", "30"] in rows
    assert ["faint-compact", "5", "5", "5", "15"] in rows
    assert ["seed:", "3"] in rows

    assert data("simulate", "--out", path, "--compact", 3, "--faint", 0) == 1
    assert "already exists" in capfd.readouterr().err
    assert data("simulate", "--out", path, "--compact", 3, "--faint", 0, "--overwrite") == 0
    assert len(read_store(path)) == 3
    assert data("simulate", "--out", path, "--compact", 0, "--faint", 0, "--overwrite") == 2
    assert "error: there is nothing to simulate. Ask for" in capfd.readouterr().err


def test_a_foreign_folder_is_not_overwritten(tmp_path, capfd):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert data("simulate", "--out", tmp_path, "--compact", 3, "--faint", 0, "--overwrite") == 1
    assert "holds something else than a survey store" in capfd.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_verify_reports_every_problem_and_fails(tmp_path, rng, capfd):
    path = tmp_path / "s"
    write_store(path, toy_survey(4, rng))
    (path / "stamps-00000.fits").write_bytes(b"short")
    (path / "catalog.fits").unlink()
    assert data("verify", path) == 1
    out = capfd.readouterr().out
    assert out.splitlines() == [
        "problem: stamps-00000.fits: has 5 bytes; expected 86,400",
        "problem: catalog.fits: is missing",
        f"{path}: 2 problems",
    ]
    for command in ("info", "verify"):
        assert data(command, tmp_path / "nothing") == 1
        assert (
            capfd.readouterr().err
            == f"error: {tmp_path / 'nothing'}: is no directory; expected a survey store\n"
        )
    assert data("info", path) == 1
    assert capfd.readouterr().err.startswith(f"error: {path}/stamps-00000.fits: has 5 bytes")


def test_info_of_a_survey_with_unknown_classes(tmp_path, rng, capfd):
    survey = toy_survey(6, rng, classes=(0, 2))
    survey.label[1:3] = -1
    write_store(tmp_path / "s", survey)
    assert data("info", tmp_path / "s") == 0
    assert "UNKNOWN        2" in capfd.readouterr().out


def small_disk(tmp_path: Path, megabytes: int) -> Path:
    """Mount a small file system, or skip."""
    root = tmp_path / "disk"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(root)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted: {done.stderr.strip()}")
    return root


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, capfd):
    root = small_disk(tmp_path, 4)
    try:
        assert data("simulate", "--out", root / "s", "--compact", 600, "--faint", 0) == 1
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith(
            f"error: {root}/s: cannot be written: No space left on device. Free some space"
        )
        assert list(root.iterdir()) == []
    finally:
        subprocess.run(["umount", root], check=True)


def test_control_c_leaves_nothing_and_says_so(tmp_path):
    # A shell that runs the tests in the background makes its children deaf to Ctrl-C: cured first.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from margformer_fast.cli import run; from margformer_fast.data.__main__ import main\n"
        "sys.exit(run(main, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "simulate", "--out", tmp_path / "s", "--compact", "1000k"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            for _ in range(2000):
                if list(tmp_path.glob(".s.part/stamps-00000.fits")):
                    break
                assert child.poll() is None
                time.sleep(0.05)
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "interrupted: no store was written; run the same command again"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_ingest_real_field(real_data, tmp_path, capfd):
    """A field without four of its bands is refused; one of superseded objects says what to do."""
    assert data("ingest", real_data / "sdss" / "1000-1-100-small", "--out", tmp_path / "s") == 1
    assert "has no frame in bands u, g, i, z" in capfd.readouterr().err
    folder = real_data / "sdss" / "94-1-12"
    assert data("ingest", folder, "--out", tmp_path / "s") == 1
    captured = capfd.readouterr()
    assert "--modes 1 2 --keep-unclean" in captured.out
    assert captured.err.splitlines()[-1].endswith("no object was kept, so no store is written")
    assert list(tmp_path.iterdir()) == []
    assert data("ingest", folder, "--out", tmp_path / "s", "--modes", 1, 2, "--keep-unclean") == 0
    out = capfd.readouterr().out
    assert "objects listed          999" in out
    survey = read_store(tmp_path / "s")
    assert not survey.simulated
    raw = json.loads((tmp_path / "s" / MANIFEST).read_text())
    assert raw["provenance"]["report"]["total"] == 999
    assert raw["provenance"]["report"]["kept"] == len(survey) == raw["count"]
    assert len(raw["provenance"]["files"]) == 6
    assert data("verify", tmp_path / "s") == 0


def test_ingest_without_a_field(tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    assert data("ingest", tmp_path / "empty", "--out", tmp_path / "s") == 1
    assert capfd.readouterr().err.startswith("error: ")
    assert data("ingest", tmp_path / "empty", "--out", tmp_path / "s", "--modes", 3) == 2
    assert data("ingest", "--out", tmp_path / "s") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def write_arrays(folder: Path, suffix: str, label: np.ndarray, images: bool) -> None:
    """Write arrays of the published layout without any meaning."""
    n = len(label)
    np.save(folder / f"objlist_{suffix}.npy", np.arange(n))
    np.save(folder / f"dnnx_{suffix}.npy", np.ones((n, 24)))
    np.save(folder / f"y_{suffix}.npy", label)
    if images:
        np.save(folder / f"X_{suffix}.npy", np.zeros((n, 32, 32, 5), np.float32))


def test_import_says_what_is_there(tmp_path, rng, capfd):
    names = np.array(["GALAXY", "QSO", "STAR"])[np.arange(40) % 3]
    write_arrays(tmp_path, "exp1", names, images=True)
    write_arrays(tmp_path, "exp2", names, images=False)
    write_arrays(tmp_path, "sg_exp3", np.eye(2, dtype=np.float32)[np.arange(10) % 2], images=False)
    before = sorted(tmp_path.iterdir())
    assert data("import", tmp_path) == 0
    out = capfd.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["1", "sgq", "40", "14", "13", "13", "yes"] in rows
    assert ["1", "sg", "27", "14", "0", "13", "yes"] in rows
    assert ["2", "sg", "27", "14", "0", "13", "no"] in rows
    assert ["3", "sg", "10", "5", "0", "5", "no"] in rows
    # Of 40 objects 5 are tested on, and of the other 35 again 5 are validated on; here the recipes agree.
    assert [row[4:6] for row in rows if row[:3] == ["1", "sgq", "margformer,"]] == [
        ["train", "30"],
        ["val", "5"],
        ["test", "5"],
    ]
    assert [row[3:5] for row in rows if row[:3] == ["2", "sgq", "margnet"]] == [
        ["train", "32"],
        ["val", "4"],
        ["test", "4"],
    ]
    assert out.count("not usable: ") == 1
    assert "dnnx_sgq_exp3.npy, objlist_sgq_exp3.npy, y_sgq_exp3.npy are missing" in out
    assert sorted(tmp_path.iterdir()) == before


def test_import_of_nothing_that_can_be_trained_on(tmp_path, rng, capfd):
    assert data("import", tmp_path) == 1
    captured = capfd.readouterr()
    assert captured.out.count("not usable: ") == 4  # the tasks of Experiments 1 and 2 share their files
    assert captured.err.endswith("no experiment is complete with its images, so none can be trained on\n")
    assert data("import", tmp_path / "nothing") == 1
    assert "is no directory" in capfd.readouterr().err
