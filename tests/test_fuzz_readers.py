"""A short run of the fuzzer of readers, tests/fuzz/readers.py, and that it sees what it looks for."""

from __future__ import annotations

import os
import random
import time
import warnings

import numpy as np
import pytest
from fuzz import readers

from margformer_fast.errors import DataError

# Some inputs of a slow reader, which goes through astropy or makes a model, are worth as much time.
SLOW = {"columns": 60, "config": 60, "tables": 60}


@pytest.mark.parametrize("name", readers.READERS)
def test_a_short_run(name, tmp_path):
    seed = int(os.environ.get("MARGFORMER_TEST_SEED") or int.from_bytes(os.urandom(3), "little"))
    account = readers.fuzz(name, SLOW.get(name, 300), seed, folder=tmp_path / "in")
    assert not account.findings, f"seed {seed}: {account.findings}"
    assert account.read > 0
    assert account.refused > account.inputs // 10


@pytest.mark.parametrize(
    ("misbehave", "told"),
    [
        (lambda raw: {}[raw], "KeyError at outside the package"),
        (lambda raw: warnings.warn("odd", stacklevel=1), "a warning: UserWarning: odd"),
        (lambda raw: raise_(broken()), "a message that cannot be printed"),
        (lambda raw: np.ones(300 << 17), "MB more memory"),
    ],
)
def test_what_is_a_finding(misbehave, told):
    np.ones(400 << 17)  # more was needed before, and does not count
    result, message = readers.outcome(misbehave, b"x")
    assert result == "finding"
    assert told in message


def test_time_is_a_finding(monkeypatch):
    monkeypatch.setattr(readers, "MAX_SECONDS", 0.01)

    def slow(raw):
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    assert readers.outcome(slow, b"x")[0] == "finding"


def test_what_is_none():
    assert readers.outcome(len, b"x") == ("read", "")
    assert readers.outcome(lambda raw: raise_(DataError("no")), b"x") == ("refused", "no")


def test_the_same_seed_makes_the_same_inputs(tmp_path):
    reader = readers.READERS["npy"](tmp_path)
    first, again = (
        [readers.mutated(reader, rng) for _ in range(50)] for rng in (random.Random(5), random.Random(5))
    )
    assert first == again
    assert len(set(first)) > 40


def broken():
    """An error whose message went past the care of the base class."""
    error = DataError("x")
    error.args = ("two\nlines",)
    return error


def raise_(error):
    raise error
