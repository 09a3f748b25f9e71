"""Run the tests of the compiled module on a build that watches itself.

    python tests/sanitize.py                     # both kinds
    python tests/sanitize.py address             # reads and writes out of bounds, undefined behaviour
    python tests/sanitize.py thread -k threads   # data races; further arguments go to pytest
    python tests/sanitize.py --every-target      # with vector code for AVX-512, too: minutes more

The module is built by g++ in a temporary folder and loaded from there by this interpreter, with the
sanitizer's runtime before everything else. Before the tests, slips are made on purpose: a build that lets one
pass is no witness. The first finding ends the run with a report and an exit code other than 0.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CHECKOUT = Path(__file__).parent.parent
# What reaches the compiled module; the other tests would only wait for torch. First what starts threads.
THREADED = (
    "test_augment_patchify.py",
    "test_cutouts.py",
    "test_decode.py",
    "test_encoder_layers.py",
    "test_native.py",
    "test_nt_xent_compiled.py",
    "test_profile_fit.py",
)
TESTS = (
    *THREADED,
    "test_fits.py",
    "test_fits_header.py",
    "test_fits_stream.py",
    "test_fuzz_seeds.py",
    "test_stamps.py",
)

MAX_SECONDS = 300
"""No test takes a tenth of it, sanitized."""


@dataclass(frozen=True)
class Kind:
    """One sanitized build: what the compiler is told, what is loaded first, and what it must not miss."""

    flags: str
    runtimes: tuple[str, ...]
    environment: dict[str, str]
    slips: tuple[str, ...]
    words: tuple[str, ...]  # with which each slip is reported
    tests: tuple[str, ...]
    innocent: tuple[
        str, ...
    ] = ()  # functions of others that look guilty: suppressions, as the sanitizer takes them


KINDS = {
    "address": Kind(
        "address,undefined,float-cast-overflow",
        # libstdc++, so that the runtime finds the function that throws: Python itself does not load it.
        ("libasan.so", "libubsan.so", "libstdc++.so.6"),
        # The interpreter frees nothing at exit.
        {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
        ("overread", "overwrite", "overflow"),
        ("heap-buffer-overflow", "heap-buffer-overflow", "signed integer overflow"),
        TESTS,
    ),
    "thread": Kind(
        "thread",
        ("libtsan.so",),
        # Torch's own threads are not watched, and look like races: it gets one, the module more.
        {"TSAN_OPTIONS": "halt_on_error=1", "OMP_NUM_THREADS": "1", "MARGFORMER_NUM_THREADS": "3"},
        ("race",),
        ("data race",),
        THREADED,
        # The loader frees what a thread has of each module, and hands its stack to the next: the lock between
        # the two is its own, and not seen.
        ("race:_dl_deallocate_tls",),
    ),
}


def main() -> int:
    """Build and test each kind that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=[*KINDS, "both"], default="both")
    parser.add_argument("--slip", choices=[slip for kind in KINDS.values() for slip in kind.slips])
    parser.add_argument("--every-target", action="store_true", help="vector code for all kinds of processors")
    options, for_pytest = parser.parse_known_args()
    if options.slip:
        make_slip(options.slip)
        return 0
    names = list(KINDS) if options.kind == "both" else [options.kind]
    return max(run(name, KINDS[name], options.every_target, for_pytest) for name in names)


def run(name: str, kind: Kind, every_target: bool, for_pytest: list[str]) -> int:
    """Build one kind, see that it catches its slips, and run the tests."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        build(kind, every_target, Path(folder))
        print(f"{name}: built with -fsanitize={kind.flags} in {time.monotonic() - start:.0f} s", flush=True)
        environment = {**os.environ, **kind.environment}
        if kind.innocent:
            listed = Path(folder) / "suppressions.txt"
            listed.write_text("\n".join(kind.innocent) + "\n")
            environment["TSAN_OPTIONS"] += f":suppressions={listed}"
        environment |= {
            "LD_PRELOAD": " ".join(runtime(library) for library in kind.runtimes),
            # Python files from the checkout, the compiled module from the folder.
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT), folder]),
        }
        for slip, words in zip(kind.slips, kind.words, strict=True):
            told = subprocess.run(
                [sys.executable, __file__, "--slip", slip],
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            if told.returncode == 0 or words not in told.stderr:
                print(f"{name}: the slip '{slip}' went unseen:\n{told.stdout}{told.stderr}")
                return 1
            print(f"{name}: the slip '{slip}' was seen: {words}", flush=True)
        tests = [CHECKOUT / "tests" / test for test in kind.tests]
        # A report is written past Python, as the process dies: pytest must not hold it back.
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys"]
        # A test that waits for ever says where, and ends the run.
        command += ["-o", f"faulthandler_timeout={MAX_SECONDS}", "-o", "faulthandler_exit_on_timeout=true"]
        command += [*tests, *for_pytest]
        code = subprocess.run(command, env=environment, cwd=CHECKOUT).returncode
    print(f"{name}: {'no finding' if code == 0 else 'FAILED'}, {time.monotonic() - start:.0f} s", flush=True)
    return code


def build(kind: Kind, every_target: bool, folder: Path) -> None:
    """Install the package with a sanitized module into a folder."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    if all(importlib.util.find_spec(name) for name in ("scikit_build_core", "pybind11")):
        command.append("--no-build-isolation")
    command += ["-C", f"cmake.define.MARGFORMER_SANITIZE={kind.flags}"]
    command += ["-C", f"cmake.define.MARGFORMER_FEW_TARGETS={'OFF' if every_target else 'ON'}"]
    command += ["-C", "install.strip=false", str(CHECKOUT)]  # a report without names helps nobody
    subprocess.run(command, check=True, env={**os.environ, "CXX": compiler()})


def compiler() -> str:
    """Return the path of g++, whose runtimes can be preloaded."""
    path = shutil.which("g++")
    if path is None:
        sys.exit("sanitize.py needs g++ and its sanitizer libraries")
    return path


def runtime(library: str) -> str:
    """Return the path of a library that comes with the compiler."""
    command = [compiler(), f"-print-file-name={library}"]
    path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if not Path(path).is_absolute():
        sys.exit(f"sanitize.py needs {library}, which this g++ does not have")
    return path


def make_slip(slip: str) -> None:
    """Break the module's contract from Python, past the operators, which would refuse."""
    from margformer_fast import _native

    as_strided = np.lib.stride_tricks.as_strided
    decode = _native.compiled().decode
    if slip == "overread":
        beyond = as_strided(np.zeros(4, ">f4"), (1, 5), (16, 4))
        decode(beyond, np.array([0]), np.empty(5, np.float32), 1.0, 0.0, None, 1)
    elif slip == "overwrite":
        beyond = as_strided(np.empty(4, np.float32), (5,), (4,))
        decode(np.zeros((1, 5), ">f4"), np.array([0]), beyond, 1.0, 0.0, None, 1)
    elif slip == "overflow":
        beyond = as_strided(np.zeros(4, ">f4"), (4, 1), (2**62, 4))
        decode(beyond, np.array([3]), np.empty(1, np.float32), 1.0, 0.0, None, 1)
    else:
        pixels, shared = np.zeros((1, 1 << 20), ">f4"), np.empty(1 << 20, np.float32)
        arguments = (pixels, np.array([0]), shared, 1.0, 0.0, None, 1)
        threads = [threading.Thread(target=decode, args=arguments) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    sys.exit(main())
