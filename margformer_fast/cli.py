"""What all command lines share: how they end, how they parse, and how they print tables."""

from __future__ import annotations

import argparse
import errno
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from .errors import ConfigError, MargformerError

OK, FAILURE, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what is kept and how to go on."""


@contextmanager
def on_interrupt(message: str | Callable[[], str]) -> Iterator[None]:
    """Say `message` if the block is interrupted by Ctrl-C. The innermost block speaks.

    Parameters
    ----------
    message : str or callable returning str
        What is kept and how to resume; a callable is asked when the interrupt comes.
    """
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as interrupt:
        raise Interrupted(message() if callable(message) else message) from interrupt


def run(main: Callable[[Sequence[str] | None], int | None], arguments: Sequence[str] | None = None) -> int:
    """Run a command and turn the ways it can end into an exit code and at most one line.

    Parameters
    ----------
    main : callable
        Takes the arguments (None for those of the process) and returns an exit code, or None for success.
    arguments : sequence of str, optional
        Arguments in place of those of the process.

    Returns
    -------
    int
        0 done; 1 a :class:`MargformerError`, or a full disk; 2 a usage error; 130 interrupted (Ctrl-C); 143
        terminated (SIGTERM). Any other exception is a bug and keeps its traceback.
    """
    terminated = threading.Event()
    try:
        with _ended_in_order(terminated):
            code = main(arguments)
            sys.stdout.flush()  # a full disk under standard output shows here, not at exit
        return OK if code is None else code
    except MargformerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        what = "terminated" if terminated.is_set() else "interrupted"
        print(f"{what}: {interrupt}" if str(interrupt) else what, file=sys.stderr)
        return TERMINATED if terminated.is_set() else INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return FAILURE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}. Free some space and try again.", file=sys.stderr)
        _abandon_stdout()
        return FAILURE


@contextmanager
def _ended_in_order(terminated: threading.Event) -> Iterator[None]:
    """Let SIGTERM, with which batch systems stop a job, end the block as Ctrl-C does, and note that it came.

    Not under ``torchrun``: a process that waits for others inside a collective would not heed it.
    """
    ours = threading.current_thread() is threading.main_thread() and "WORLD_SIZE" not in os.environ
    if not ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(*_: object) -> NoReturn:
        terminated.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _abandon_stdout() -> None:
    """Point standard output at nothing, so that the interpreter does not fail again when it flushes."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)


class Parser(argparse.ArgumentParser):
    """An argument parser that shows an example under ``--help`` and reports misuse in one line.

    Parameters
    ----------
    example : str
        Command lines that work as they stand, one a line.
    """

    def __init__(self, *, example: str = "", **settings: object) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        settings.setdefault("allow_abbrev", False)
        if example:
            lines = "\n".join(f"  {line.strip()}" for line in example.strip().splitlines())
            settings["epilog"] = f"example:\n{lines}"
        super().__init__(**settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raise :class:`ConfigError`, which :func:`run` prints as one line with exit code 2."""
        raise ConfigError(message, mend=f"See {self.prog} --help.")


def add_output(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--out`` (required) and ``--overwrite``."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"where to write {what}")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")


def add_seed(parser: argparse.ArgumentParser, default: int = 0) -> None:
    """Add ``--seed``."""
    parser.add_argument(
        "--seed", type=count, default=default, help=f"seed of every random choice ({default})"
    )


def count(text: str) -> int:
    """Parse a whole number, 0 or more, for ``type=``; ``1_000`` and ``20k`` are understood."""
    digits, scale = (text[:-1], 1000) if text.endswith("k") else (text, 1)
    try:
        value = int(digits) * scale
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def positive(text: str) -> int:
    """Parse a whole number, 1 or more, for ``type=``."""
    value = count(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is not enough")
    return value


def fraction(text: str) -> float:
    """Parse a number between 0 and 1, both excluded, for ``type=``."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, decimals: int | None = None) -> str:
    """Return rows as text in columns: words to the left, numbers to the right.

    Parameters
    ----------
    header : sequence of str
        Column names.
    rows : iterable of sequences
        Cells; whole numbers are shown with thousands separated, None as ``-``.
    decimals : int, optional
        Decimals of the other numbers; four significant digits by default.

    Returns
    -------
    str
        Lines without trailing blanks; the last ends without a newline.
    """
    cells = [list(row) for row in rows]
    shown = [[_cell(value, decimals) for value in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(header, *shown, strict=True)]
    numeric = [
        any(isinstance(row[k], int | float) for row in cells)
        and all(row[k] is None or isinstance(row[k], int | float) for row in cells)
        for k in range(len(header))
    ]
    lines = [list(header), ["-" * width for width in widths], *shown]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: object, decimals: int | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if decimals is None else f"{value:.{decimals}f}"
    return str(value)
