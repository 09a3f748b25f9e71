"""Progress: what the line says, when it is printed, and how it ends."""

from __future__ import annotations

import io

import pytest

from margformer_fast.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_line_says_how_far_how_fast_and_how_long(clock):
    progress = Progress(200, "training", "steps", stream=io.StringIO(), clock=clock)
    assert progress.line() == "training: 0/200 steps (0%), 0 s"
    with progress:
        clock.now += 4
        progress.update(50, loss=0.123456, epoch=3, state="good")
        assert progress.line() == (
            "training: 50/200 steps (25%), loss 0.1235, epoch 3, state good, 12.5 steps/s, 12 s left"
        )
        clock.now += 4
        progress.update(150, loss=0.1)
        assert progress.line().endswith("loss 0.1, epoch 3, state good, 25 steps/s, 8 s")


def test_slow_and_fast_rates(clock):
    progress = Progress(None, "reading", "fields", stream=io.StringIO(), clock=clock)
    clock.now += 10
    progress.update(4)
    assert progress.line() == "reading: 4 fields, 2.5 s/field, 10 s"
    progress.update(123_456)
    assert progress.line() == "reading: 123460 fields, 12,346 fields/s, 10 s"


def test_what_was_done_before_does_not_count_towards_the_rate(clock):
    progress = Progress(100, "resuming", "epochs", initial=80, stream=io.StringIO(), clock=clock)
    clock.now += 10
    progress.update(5)
    assert progress.line() == "resuming: 85/100 epochs (85%), 2 s/epoch, 30 s left"


def test_nothing_to_do(clock):
    assert Progress(0, "x", "y", stream=io.StringIO(), clock=clock).line() == "x: 0/0 y, 0 s"


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(clock):
    stream = io.StringIO()
    with Progress(100, "x", "y", stream=stream, clock=clock) as progress:
        for _ in range(100):
            clock.now += 0.3
            progress.update(1)
    lines = stream.getvalue().splitlines()
    assert [line.split(" y")[0] for line in lines] == ["x: 34/100", "x: 68/100", "x: 100/100"]
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_one_line_that_is_written_over(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    with Progress(100, "x", "y", stream=stream, clock=clock) as progress:
        for _ in range(100):
            clock.now += 0.04
            progress.update(1, value="a long text that does not fit")
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert written.endswith("\n")
    shown = written.strip("\n").split("\r\x1b[K")[1:]
    assert 30 < len(shown) < 45  # four seconds, at most ten a second
    assert max(map(len, shown)) <= 29
    assert shown[-1].startswith("x: 100/100 y (100%)")


def test_a_dumb_terminal_is_a_log(clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(1, "x", "y", stream=stream, clock=clock) as progress:
        progress.update(1)
    assert stream.getvalue() == "x: 1/1 y (100%), 0 s\n"


def test_the_line_ends_when_the_work_breaks_off(clock, monkeypatch):
    """What is printed next, an error say, begins on a line of its own."""
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(10, "x", "y", stream=stream, clock=clock):
        raise KeyboardInterrupt
    assert stream.getvalue().endswith("x: 0/10 y (0%), 0 s\n")


def test_standard_error_is_the_default(clock, capsys):
    with Progress(1, "x", "y", clock=clock) as progress:
        progress.update()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "x: 1/1 y (100%), 0 s\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (225, "3:45"),
        (3599.7, "1:00:00"),
        (90061, "25:01:01"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
