"""Let the disk be full at the n-th write of a command, for every n: one line, nothing lost, no leavings.

    python tests/faults/disk.py                          # every write of every command: an hour
    python tests/faults/disk.py --most 20                # twenty of each, drawn at random

A library that is loaded before all others counts the calls that write below a folder: write, fsync, mkdir,
rename, the opening of new files. From the n-th on they fail with "No space left on device", or with
"Read-only file system"; or the n-th alone does, with "Input/output error". Needs a C compiler. Afterwards the
same command, undisturbed, must make what it makes in peace.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from killing import Command

HERE = Path(__file__).parent
NAMES = ("simulate", "ingest", "train", "classify")
KINDS = {"full": (errno.ENOSPC, 0), "read-only": (errno.EROFS, 0), "fails once": (errno.EIO, 1)}
KEPT = ".classes.fits.classify"
SHIM = "FULL_DISK_SHIM"


def compiler() -> str | None:
    """Return a C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def again_with_shim(folder: Path) -> int:
    """Build the library, and run this script again with it."""
    shim = folder / "full_disk.so"
    build = [
        str(compiler()),
        "-shared",
        "-fPIC",
        "-O1",
        "-w",
        str(HERE / "full_disk.c"),
        "-o",
        str(shim),
        "-ldl",
    ]
    subprocess.run(build, check=True)
    paths = os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parents[1])))
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment = {**os.environ, **single, SHIM: str(shim), "LD_PRELOAD": str(shim), "PYTHONPATH": paths}
    return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode


class Disk:
    """A command whose writes fail."""

    def __init__(self, command: Command, folder: Path) -> None:
        self.command, self.folder, self.log = command, folder, folder / "log"
        self.shim = ctypes.CDLL(os.environ[SHIM])
        self.shim.fault_calls.restype = ctypes.c_long
        self.wrong = Counter[str]()

    def run(self, place: Path, number: int, code: int, once: int, *, overwrite: bool) -> tuple[object, int]:
        """Run the command with a fault; return how it ended, and how many calls there were."""
        from forked import run

        counted = self.folder / "calls"

        def main(arguments: object) -> int | None:
            self.shim.fault_arm(os.fsencode(place), ctypes.c_long(number), code, once)
            try:
                return self.command.main(arguments)
            finally:
                counted.write_text(str(self.shim.fault_calls()))

        arguments = self.command.arguments(place / self.command.out)
        ended = run(main, [*arguments, *(["--overwrite"] if overwrite else [])], self.log)
        return ended, int(counted.read_text())

    def found(self, kind: str, detail: object) -> None:
        self.wrong[kind] += 1
        print(f"WRONG: {self.command.name}: {kind}: {detail}", flush=True)

    def attack(self, most: int | None, rng: object) -> int:
        """Fail at every write, or at `most` of them; return how many were tried."""
        command = self.command
        place = self.folder / "peace"
        place.mkdir()
        ended, total = self.run(place, 0, 0, 0, overwrite=False)
        assert ended.code == 0, ended.text
        expected = command.content(place / command.out)
        every = [(kind, number) for kind in KINDS for number in range(1, total + 1)]
        if most is not None and most < len(every):
            every = [every[k] for k in sorted(rng.choice(len(every), most, replace=False))]
        print(f"{command.name}: {total} calls that write", flush=True)
        for kind, number in every:
            self.fail_at(kind, number, expected)
            shutil.rmtree(self.folder / "place")
        return len(every)

    def fail_at(self, kind: str, number: int, expected: dict[str, object]) -> None:
        from killing import leavings
        from same_output import differences

        command, place = self.command, self.folder / "place"
        place.mkdir()
        out = place / command.out
        replaces = command.old is not None and number % 2 == 0
        old = None
        if replaces:
            command.put_old(out)
            old = command.content(out)
        where = f"{kind} at call {number}"
        ended, _ = self.run(place, number, *KINDS[kind], overwrite=replaces)
        if ended.code == 0:
            # What failed did not matter: what comes out must be right all the same.
            changed = differences(command.content(out), expected)
            if changed:
                self.found("different outputs", f"{changed}, {where}")
        else:
            if ended.code != 1 or ended.wrong:
                self.found("not one line", f"{where}: {ended.code} {ended.text}")
            if replaces and not (out.exists() and command.content(out) in (old, expected)):
                self.found("old output not whole", where)
            # What `classify` has finished is kept, and is gone once the same command is done.
            left = [each for each in leavings(place, command.out) if not each.startswith(KEPT)]
            if left:
                self.found("leavings", f"{left}, {where}")
        if not out.exists() or command.old is None or replaces:
            ended, _ = self.run(place, 0, 0, 0, overwrite=replaces)
            changed = differences(command.content(out), expected) if ended.code == 0 else [ended.text]
            if changed:
                self.found("different outputs", f"{changed}, begun again after {where}")
        if leavings(place, command.out):
            self.found("leavings", f"{leavings(place, command.out)} in the end, {where}")


def main() -> int:
    """Fail, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, help="faults of a command, at random (all)")
    parser.add_argument("--commands", nargs="+", choices=NAMES, default=NAMES, help="which (all)")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if SHIM not in os.environ:
            if compiler() is None:
                print("there is no C compiler here")
                return 1
            return again_with_shim(folder)
        import numpy as np
        import pytest
        from commands import made_small, make_commands

        print(f"seed {options.seed}")
        rng = np.random.default_rng(options.seed)
        made_small(pytest.MonkeyPatch())
        commands = make_commands(folder, rng)
        tried, wrong = 0, Counter[str]()
        for each in options.commands:
            mine = folder / f"of-{each}"
            mine.mkdir()
            disk = Disk(commands[each], mine)
            tried += disk.attack(options.most, rng)
            wrong += disk.wrong
    print(f"{tried} faults of the disk in {len(options.commands)} commands: {dict(wrong) or 'nothing wrong'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
