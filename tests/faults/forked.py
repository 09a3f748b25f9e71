"""Commands in children of a process that has imported everything: a tenth of a second each, not three.

The parent must have started no thread of its own. Signals wait until the command has begun, and once it has
ended: what happens to a bare interpreter before and after is not this package's.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from margformer_fast import cli

Main = Callable[[Sequence[str] | None], int | None]
SIGNALS = {signal.SIGINT, signal.SIGTERM}


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Parameters
    ----------
    code : int
        Exit code, or the negative number of the signal that killed it.
    text : str
        What it printed, on both streams.
    seconds : float
        How long it ran.
    """

    code: int
    text: str
    seconds: float

    @property
    def wrong(self) -> list[str]:
        """What a command must not do, whatever happens to it."""
        found = []
        if "Traceback" in self.text:
            found.append("tracebacks")
        lines = self.text.splitlines()
        last = [line for line in lines if line.startswith(("error: ", "interrupted", "terminated"))]
        expected = {cli.OK: 0, -signal.SIGKILL: 0}.get(self.code, 1)
        if len(last) != expected or (expected and lines[-1] != last[0]):
            found.append("not one line")
        return found


def _child(main: Main, arguments: Sequence[str], log: Path, before: Callable[[], object]) -> NoReturn:
    code = 99
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout, sys.stderr = (open(k, "w", closefd=False) for k in (1, 2))  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

        def bounded(given: Sequence[str] | None) -> int | None:
            before()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            try:
                return main(given)
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

        code = cli.run(bounded, arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
    finally:
        os._exit(code)


def start(main: Main, arguments: Sequence[str], log: Path, before: Callable[[], object] = int) -> int:
    """Begin a command in a child, its output in `log`, and return the child's number.

    Parameters
    ----------
    main : callable
        As for :func:`margformer_fast.cli.run`.
    arguments : sequence of str
        Its command line.
    log : Path
        A file that is replaced.
    before : callable
        Called in the child first.
    """
    log.write_bytes(b"")  # of a command before, should this one be killed at once
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        child = os.fork()
        if child == 0:
            _child(main, arguments, log, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return child


def finish(child: int, log: Path, begun: float) -> Ended:
    """Wait for a child."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(code, log.read_text(errors="replace"), time.monotonic() - begun)


def run(main: Main, arguments: Sequence[str], log: Path, before: Callable[[], object] = int) -> Ended:
    """Run a command to its end."""
    begun = time.monotonic()
    return finish(start(main, arguments, log, before), log, begun)


def run_and_signal(main: Main, arguments: Sequence[str], log: Path, number: int, after: float) -> Ended:
    """Run a command, and send it a signal some seconds after its start, if it still runs."""
    begun = time.monotonic()
    child = start(main, arguments, log)
    while time.monotonic() - begun < after:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(min(0.002, max(0.0, after - (time.monotonic() - begun))))
    else:
        os.kill(child, number)
    return finish(child, log, begun)
