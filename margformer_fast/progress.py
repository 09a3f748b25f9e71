"""One live line on the terminal: how far, how fast, how long still."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

_LIVE_SECONDS = 0.1
_PLAIN_SECONDS = 10.0


class Progress:
    """Report progress on one line of the terminal; in a log file, a plain line every ten seconds.

    Parameters
    ----------
    total : int or None
        How many there are; None where nobody knows.
    label : str
        What is being done.
    unit : str
        What is counted.
    initial : int
        How many were done before this run; they do not count towards the rate.
    stream : file, optional
        Where to write; standard error by default.
    clock : callable
        Seconds that only grow.
    shown : bool
        False writes nothing: of several processes that do the same, one reports.

    Examples
    --------
    >>> with Progress(3, "training", "epoch") as progress:
    ...     progress.update(1, loss=0.25)
    """

    def __init__(
        self,
        total: int | None,
        label: str,
        unit: str,
        *,
        initial: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        shown: bool = True,
    ) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._initial = self._done = initial
        self._stream = sys.stderr if stream is None else stream
        self._shown = shown
        self._live = shown and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._clock = clock
        self._values: dict[str, float | int | str] = {}
        self._started = self._printed = clock()

    def __enter__(self) -> Progress:
        self._started = self._printed = self._clock()
        if self._live:
            self._print()
        return self

    def update(self, n: int = 1, **values: float | int | str) -> None:
        """Count `n` more done, and show `values` (a loss, say) until they are replaced."""
        self._done += n
        self._values.update(values)
        if self._clock() - self._printed >= (_LIVE_SECONDS if self._live else _PLAIN_SECONDS):
            self._print()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._print()
        if self._live:
            self._stream.write("\n")
            self._stream.flush()

    def line(self) -> str:
        """Return the line as it stands."""
        elapsed = self._clock() - self._started
        rate = (self._done - self._initial) / elapsed if elapsed > 0 else 0.0
        of_total = f"/{self._total}" if self._total is not None else ""
        share = f" ({100 * self._done / self._total:.0f}%)" if self._total else ""
        parts = [f"{self._label}: {self._done}{of_total} {self._unit}{share}"]
        parts += [f"{name} {_shown(value)}" for name, value in self._values.items()]
        if rate >= 1:
            parts.append(f"{rate:,.0f} {self._unit}/s" if rate >= 100 else f"{rate:.3g} {self._unit}/s")
        elif rate > 0:
            parts.append(f"{1 / rate:.3g} s/{self._unit.removesuffix('s')}")
        if rate > 0 and self._total is not None and self._done < self._total:
            parts.append(f"{duration((self._total - self._done) / rate)} left")
        else:
            parts.append(duration(elapsed))
        return ", ".join(parts)

    def _print(self) -> None:
        if not self._shown:
            return
        line = self.line()
        if self._live:
            # One column is kept free: a full line would wrap and could not be overwritten.
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{line[:width]}")
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
        self._printed = self._clock()


def duration(seconds: float) -> str:
    """Return a time span as ``12 s``, ``3:45`` or ``1:02:03``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, s = divmod(whole, 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def _shown(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
