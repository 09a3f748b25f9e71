"""Kill the commands that write, again and again: what they make in the end must be what they make in peace.

    python tests/faults/run.py --kills 500                     # some twenty minutes on one core
    python tests/faults/run.py --kills 50 --commands classify

Each command runs undisturbed first, then over and over: killed at moments drawn evenly from the time it
takes, each time begun again with the same command line (`train` with --resume), until it ends. SIGKILL most
often; SIGINT and SIGTERM else, which must end it with 130 and 143, in one line, without a temporary file. The
output at the end is compared with the undisturbed one to the last byte, but for dates and times. In half of
the rounds an older output is there and to be replaced: it must be there, whole, until the new one is.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("simulate", "ingest", "train", "classify")


def main() -> int:
    """Kill, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="in all (40)")
    parser.add_argument("--commands", nargs="+", choices=NAMES, default=NAMES, help="which (all)")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    # Before NumPy and PyTorch are loaded: the parent of all children starts no threads.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    sys.path[:0] = map(str, (HERE, HERE.parent, HERE.parents[1]))
    import numpy as np
    import pytest
    from commands import made_small, make_commands
    from killing import Faults

    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as name:
        made_small(pytest.MonkeyPatch())
        faults = Faults(Path(name), rng, partial(print, flush=True))
        commands = make_commands(Path(name), rng)
        share, more = divmod(options.kills, len(options.commands))
        try:
            for k, each in enumerate(options.commands):
                faults.attack(commands[each], share + (k < more))
        finally:  # also of a search that was stopped
            total = sum(faults.kills.values())
            print(f"{total} kills over {len(faults.kills)} commands: {dict(faults.wrong)}", flush=True)
    return 1 if any(faults.wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
