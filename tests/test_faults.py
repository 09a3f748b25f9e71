"""Commands killed at random moments, in small, and a proof that the search would notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent / "faults"

UNSAFE = """
import os, sys, tempfile, time
from pathlib import Path
import numpy as np
from killing import Command, Faults

def unsafe(arguments):
    out = Path(arguments[-1])
    (out.parent / f".{os.getpid()}").touch()
    with open(out, "a") as file:
        for k in range(20):
            file.write(f"{k}\\n")
            file.flush()
            time.sleep(0.005)
    (out.parent / f".{os.getpid()}").unlink()

def rows(out):
    return np.array([int(line) for line in out.read_text().split()])

with tempfile.TemporaryDirectory() as name:
    content = lambda out: {"out": out.read_text()}
    command = Command("unsafe", unsafe, lambda out: [str(out)], "out", content, rows)
    faults = Faults(Path(name), np.random.default_rng(int(sys.argv[1])), print)
    faults.attack(command, 25)
    print(dict(faults.wrong))
    for kind in ("doubled rows", "different outputs", "leavings"):
        assert faults.wrong[kind], kind
    assert not faults.wrong["tracebacks"]
"""


def python(*arguments: object, seed: int) -> str:
    """Run Python on the scripts of the search, and return what it printed."""
    path = os.pathsep.join(map(str, (FAULTS, FAULTS.parent, FAULTS.parents[1])))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *map(str, arguments), str(seed)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_few_kills_lose_nothing(rng):
    arguments = (FAULTS / "run.py", "--kills", 6, "--commands", "ingest", "train", "classify", "--seed")
    printed = python(*arguments, seed=int(rng.integers(1 << 31)))
    last = printed.splitlines()[-1]
    assert last.startswith("6 kills over 3 commands: {'lost rows': 0, ")


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler here")
def test_a_disk_that_is_full_at_some_write(rng):
    arguments = (FAULTS / "disk.py", "--most", 4, "--commands", "ingest", "classify", "--seed")
    printed = python(*arguments, seed=int(rng.integers(1 << 31)))
    assert printed.splitlines()[-1] == "8 faults of the disk in 2 commands: nothing wrong"


def test_what_is_lost_or_doubled_would_be_seen(rng):
    python("-c", UNSAFE, seed=int(rng.integers(1 << 31)))
