"""Kill a command at random moments, begin it again, and compare what it makes with what it makes in peace."""

from __future__ import annotations

import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from forked import Ended, Main, run, run_and_signal
from same_output import differences


@dataclass(frozen=True)
class Command:
    """One command that can be begun again.

    Parameters
    ----------
    name : str
        What users call it.
    main : callable
        The command.
    arguments : callable
        ``arguments(out)`` gives the command line that makes `out`, or goes on with it.
    out : str
        Name of the output.
    content : callable
        ``content(out)`` gives what an output holds, by name, but for the clock.
    rows : callable
        ``rows(out)`` gives the identifiers in it, in order.
    old : Path, optional
        An older output, which the command replaces when told to.
    """

    name: str
    main: Main
    arguments: Callable[[Path], list[str]]
    out: str
    content: Callable[[Path], dict[str, object]]
    rows: Callable[[Path], np.ndarray]
    old: Path | None = None

    def put_old(self, out: Path) -> None:
        """Put the older output where the new one is to be."""
        assert self.old is not None
        shutil.copytree(self.old, out) if self.old.is_dir() else shutil.copyfile(self.old, out)


def leavings(folder: Path, out: str) -> list[str]:
    """Return what lies beside or in an output and is no part of it."""
    beside = [path.name for path in folder.iterdir() if path.name != out]
    inside = [path for path in folder.rglob("*") if _temporary(path.name)]
    return sorted({*beside, *(str(path.relative_to(folder)) for path in inside)})


def _temporary(name: str) -> bool:
    return name.startswith(".") or name.endswith((".part", ".old", ".new", ".tmp"))


def rows_lost(found: np.ndarray, expected: np.ndarray) -> int:
    return len(np.setdiff1d(expected, found))


def rows_doubled(found: Iterable[int]) -> int:
    rows = np.asarray(found)
    return len(rows) - len(np.unique(rows))


CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}
SHARES = {signal.SIGKILL: 0.6, signal.SIGINT: 0.2, signal.SIGTERM: 0.2}
WRONGS = (
    "lost rows",
    "doubled rows",
    "different outputs",
    "leavings",
    "half outputs",
    "wrong exits",
    "tracebacks",
    "not one line",
)


class Faults:
    """What went wrong, and how often a command was killed.

    Parameters
    ----------
    folder : Path
        For inputs and outputs.
    rng : Generator
        When to kill, and how.
    say : callable
        Takes a line.
    """

    def __init__(self, folder: Path, rng: np.random.Generator, say: Callable[[str], object]) -> None:
        self.folder, self.rng, self.say = folder, rng, say
        self.kills, self.wrong = Counter[str](), Counter(dict.fromkeys(WRONGS, 0))
        self.log = folder / "log"

    def found(self, kind: str, detail: object, count: int = 1) -> None:
        if count:
            self.wrong[kind] += count
            self.say(f"WRONG: {kind}: {detail}")

    def undisturbed(self, command: Command) -> tuple[Path, float]:
        """Run a command twice in peace; return its output and how long it takes."""
        times = []
        for turn in range(2):
            place = self.folder / f"{command.name}-alone-{turn}"
            place.mkdir()
            ended = run(command.main, command.arguments(place / command.out), self.log)
            assert ended.code == 0, ended.text
            assert not leavings(place, command.out)
            times.append(ended.seconds)
        out = place / command.out
        first = self.folder / f"{command.name}-alone-0" / command.out
        changed = differences(command.content(first), command.content(out))
        assert not changed, f"{command.name}: two undisturbed runs differ in {changed}"
        return out, min(times)  # what other work took is no stage of the command

    def round(self, command: Command, expected: Path, seconds: float, number: int, most: int) -> int:
        """Make an output, killed up to `most` times; return how often it was."""
        place = self.folder / f"{command.name}-{number}"
        place.mkdir()
        out, killed = place / command.out, 0
        replaces = command.old is not None and bool(self.rng.integers(2))
        if replaces:
            command.put_old(out)
        arguments = [*command.arguments(out), "--overwrite"] if replaces else None
        while killed < most:
            before = set(leavings(place, command.out))
            how = list(SHARES)[self.rng.choice(len(SHARES), p=list(SHARES.values()))]
            after = float(self.rng.uniform(0, seconds))
            given = arguments or command.arguments(out)
            ended = run_and_signal(command.main, given, self.log, how, after)
            if self.ended_well(command, out, ended):
                break
            killed += 1
            if ended.code not in CODES.values():
                self.found("wrong exits", f"{ended.code} after {how.name}: {ended.text}")
            if command.old is not None and (replaces or out.exists()):
                self.look(command, out, expected, f"after {how.name}")
            if how != signal.SIGKILL:
                new = {each for each in leavings(place, command.out) if each.endswith(".part")} - before
                self.found("leavings", f"{sorted(new)} after {how.name}", len(new))
            for kind in ended.wrong:
                self.found(kind, f"{how.name}, {ended.code}, {ended.text!r}")
        else:
            ended = run(command.main, arguments or command.arguments(out), self.log)
            if not self.ended_well(command, out, ended):
                self.found("wrong exits", f"{ended.code} in peace: {ended.text}")
                return killed
        self.compare(command, out, expected)
        return killed

    @staticmethod
    def ended_well(command: Command, out: Path, ended: Ended) -> bool:
        """Whether it was done; one that was killed when all was written is told that it is there already."""
        there = command.name in ("simulate", "ingest") and "already exists" in ended.text
        return ended.code == 0 or (ended.code == 1 and there and out.exists())

    def look(self, command: Command, out: Path, expected: Path, when: str) -> None:
        """Insist that what is there is the old output or the new one."""
        whole = [each for each in (command.old, expected) if each is not None]
        try:
            found = command.content(out)
            half = all(list(found.values()) != list(command.content(each).values()) for each in whole)
        except (OSError, ValueError, AssertionError) as error:
            half = f"{type(error).__name__}: {error}"
        self.found("half outputs", f"{half} {when}", bool(half))

    def compare(self, command: Command, out: Path, expected: Path) -> None:
        rows = command.rows(out)
        lost = rows_lost(rows, command.rows(expected))
        self.found("lost rows", lost, lost)
        self.found("doubled rows", rows_doubled(rows), rows_doubled(rows))
        changed = differences(command.content(out), command.content(expected))
        self.found("different outputs", changed, len(changed))
        left = leavings(out.parent, out.name)
        self.found("leavings", left, len(left))

    def attack(self, command: Command, kills: int) -> None:
        """Kill a command so often in all."""
        expected, seconds = self.undisturbed(command)
        self.say(f"{command.name}: undisturbed {seconds:.2f} s, {len(command.rows(expected))} rows")
        number = 0
        while self.kills[command.name] < kills:
            number += 1
            most = min(int(self.rng.integers(1, 9)), kills - self.kills[command.name])
            begun = time.monotonic()
            killed = self.round(command, expected, seconds, number, most)
            self.kills[command.name] += killed
            self.say(
                f"{command.name}, round {number}: killed {killed} times, {time.monotonic() - begun:.1f} s; "
                f"{self.kills[command.name]} kills, {sum(self.wrong.values())} wrong"
            )
