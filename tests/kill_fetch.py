"""Kill the fetching command again and again; what it makes in the end must be what an undisturbed one makes.

``python tests/kill_fetch.py --kills 50`` serves synthetic fields on this machine, badly, and reports.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bad_server import BadServer, now_and_then
from fetch_archive import COMMAND, QUICK, archived, command, put_down, store_bytes, synthetic_field


def kill_until_done(arguments: Sequence[object], bad: BadServer, rng: np.random.Generator, kills: int) -> int:
    """Run a command, killing it at random moments up to `kills` times; return how often it was killed.

    A moment is a random number of requests after the start and a random while after the last of them: so it
    falls into every stage of the work, however fast the machine is.
    """
    killed, code = 0, None
    for _ in range(kills + 20):  # a try may also fail by what the server does
        before = len(bad.log)
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        requests = int(rng.integers(1, 9)) if killed < kills else 1 << 30
        while process.poll() is None and len(bad.log) - before < requests:
            time.sleep(0.002)
        try:
            error = process.communicate(timeout=rng.exponential(0.05) if killed < kills else 300)[1]
            code = process.returncode
            if code == 0:
                return killed
            assert code == 1, error  # no traceback, ever
            assert error.strip().splitlines()[-1].startswith("error: "), error
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
    raise AssertionError(f"not done after {killed} kills: {code}")


def main() -> int:
    """Kill, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--fields", type=int, default=12)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    rng = np.random.default_rng(options.seed)
    total, rounds, wrong = 0, 0, Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers = range(100, 100 + options.fields)
        files = {}
        for number in numbers:
            files |= synthetic_field(rng, number, count=4)[0]
        with BadServer(archived(files)).running() as good:
            put_down(files, folder / "direct")
            arguments = ["sdss", "--fields", *(f"94-1-{number}" for number in numbers), *QUICK]
            done = command(*arguments, "--base-url", good.url, "--out", folder / "whole")
            assert done.returncode == 0, done.stderr
        expected = store_bytes(folder / "whole")
        while total < options.kills:
            bad = BadServer(
                archived(files), misdeed=now_and_then(int(rng.integers(1 << 30)), 0.2), digests=True
            )
            out = folder / f"killed-{rounds}"
            with bad.running():
                given = [*arguments, "--base-url", bad.url, "--out", out]
                total += kill_until_done(given, bad, rng, min(8, options.kills - total))
            rounds += 1
            wrong["different stores"] += store_bytes(out) != expected
            wrong["leavings"] += len(
                [p for p in folder.iterdir() if p.name.startswith((".", f"{out.name}."))]
            )
            print(f"round {rounds}: {total} kills, {len(bad.log)} requests, {dict(wrong)}", flush=True)
    return 1 if any(wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
