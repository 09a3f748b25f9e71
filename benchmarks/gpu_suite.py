"""Every check that needs a GPU, in one command: ``python benchmarks/gpu_suite.py``.

Builds and installs the package into the Python that runs this (its build requirements must be there), runs
the tests and the benchmarks marked ``gpu`` and ``python -m margformer_fast.verify`` on the GPU, and writes
one JSON file with the machine, the versions, how many tests passed, and the median of each benchmark. Exits
with 0 only if everything was built, ran and passed. Tests run in several processes where pytest-xdist is
installed: most of their time is the compiler's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parent.parent


# Seconds after which a stage is stopped as by Ctrl-C, so that what it has found by then is kept.
LIMIT = {"build": 120, "tests": 240, "verify": 60, "benchmarks": 240}
PROCESSES = 8
STOPPED = 124


def run(stage: str, *command: str) -> tuple[int, float]:
    """Run a Python module in the repository root, its output shown; return its exit code and seconds."""
    print("$ python -m", *command, flush=True)
    start = time.monotonic()
    environment = os.environ.copy()
    if stage == "tests":  # or references in float64 on all cores, in every process, hold each other up
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // PROCESSES))
    with subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment) as process:
        try:
            code = process.wait(LIMIT[stage])
        except subprocess.TimeoutExpired:
            print(f"gpu_suite: {stage} took more than {LIMIT[stage]} s and was stopped.", file=sys.stderr)
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            code = STOPPED
    return code, round(time.monotonic() - start, 1)


def count_tests(junit: Path) -> dict[str, Any]:
    """Return how the tests of a JUnit file ended, and the names of those that failed."""
    if not junit.exists():
        return {"passed": 0, "failed": 0, "skipped": 0, "failures": []}
    cases = list(ET.parse(junit).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "passed": len(cases) - len(failed) - len(skipped),
        "failed": len(failed),
        "skipped": len(skipped),
        "failures": [f"{case.get('classname')}::{case.get('name')}" for case in failed],
    }


def read_benchmarks(path: Path) -> list[dict[str, Any]]:
    """Return the medians of a pytest-benchmark file."""
    if not path.stat().st_size:
        return []
    return [
        {
            "name": each["name"],
            "group": each["group"],
            "median_s": each["stats"]["median"],
            "iqr_s": each["stats"]["iqr"],
            "rounds": each["stats"]["rounds"],
            **each["extra_info"],
        }
        for each in json.loads(path.read_text())["benchmarks"]
    ]


def describe() -> dict[str, Any]:
    """Return what `python -m margformer_fast.info --json` tells, asked of the package just installed."""
    told = subprocess.run(
        [sys.executable, "-m", "margformer_fast.info", "--json"], cwd=ROOT, check=True, capture_output=True
    )
    return json.loads(told.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the result"
    )
    parser.add_argument("--no-build", action="store_true", help="test what is installed")
    options = parser.parse_args()

    import torch

    if not torch.cuda.is_available():
        print("gpu_suite: torch finds no CUDA device here; nothing was run.", file=sys.stderr)
        return 1
    if not options.no_build:
        # CUDA must be compiled here: a module without it would only lead to skipped tests.
        build = (
            "pip",
            "install",
            "--no-deps",
            "--no-build-isolation",
            "-C",
            "cmake.define.MARGFORMER_CUDA=ON",
            ".",
        )
        code, seconds = run("build", *build)
        if code:
            print("gpu_suite: the package was not built; nothing was run.", file=sys.stderr)
            return 1
        print(f"built in {seconds} s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        junit, timings = Path(folder) / "tests.xml", Path(folder) / "benchmarks.json"
        timings.touch()
        parallel = ("-n", str(PROCESSES)) if importlib.util.find_spec("xdist") else ()
        test_code, test_seconds = run(
            "tests", "pytest", "-q", "-m", "gpu", "tests", f"--junitxml={junit}", *parallel
        )
        verify_code, _ = run("verify", "margformer_fast.verify", "--device", "cuda")
        bench_code, bench_seconds = run(
            "benchmarks",
            *("pytest", "-q", "-m", "gpu", "benchmarks", "--benchmark-only", f"--benchmark-json={timings}"),
            *("--durations=15", "--benchmark-columns=median"),
        )
        result = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "info": describe(),
            "tests": count_tests(junit) | {"exit_code": test_code, "seconds": test_seconds},
            "verify_exit_code": verify_code,
            "benchmarks": read_benchmarks(timings),
            "benchmarks_exit_code": bench_code,
            "benchmarks_seconds": bench_seconds,
        }
    gpu = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{gpu}_{result['date']}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")

    for each in result["benchmarks"]:
        print(f"{each['median_s'] * 1e3:12.3f} ms  {each['name']}")
    print(f"written to {path}")
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**result["tests"]))
    return 0 if test_code == verify_code == bench_code == 0 and not result["tests"]["skipped"] else 1


if __name__ == "__main__":
    sys.exit(main())
