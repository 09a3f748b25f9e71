"""Errors: one sentence with what, where, expected and mend; kinds and exit codes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from margformer_fast import errors
from margformer_fast.errors import (
    BackendUnavailable,
    ConfigError,
    DataError,
    FetchError,
    FitsFormatError,
    MargformerError,
    OutputError,
)

KINDS = [BackendUnavailable, ConfigError, DataError, FetchError, FitsFormatError, OutputError]


@pytest.mark.parametrize("kind", KINDS)
def test_message(kind):
    assert str(kind("it is broken")) == "it is broken"
    error = kind("holds 3 bands", where=Path("a.fits"), expected="5", mend="Add two.")
    assert str(error) == "a.fits: holds 3 bands; expected 5. Add two."
    assert (error.what, error.where, error.expected, error.mend) == (
        "holds 3 bands",
        Path("a.fits"),
        "5",
        "Add two.",
    )
    assert isinstance(error, MargformerError)


def test_exit_codes():
    assert {kind.__name__: kind.exit_code for kind in KINDS} == {
        "BackendUnavailable": 1,
        "ConfigError": 2,
        "DataError": 1,
        "FetchError": 1,
        "FitsFormatError": 1,
        "OutputError": 1,
    }


def test_they_are_caught_as_what_python_would_raise():
    assert issubclass(DataError, ValueError)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(FitsFormatError, DataError)
    assert issubclass(OutputError, OSError)
    assert issubclass(FetchError, OSError)
    assert issubclass(BackendUnavailable, RuntimeError)


def test_every_kind_is_in_the_table_of_the_module():
    assert errors.__doc__ is not None
    for kind in KINDS:
        assert f":class:`{kind.__name__}`" in errors.__doc__


@pytest.mark.parametrize("kind", KINDS)
def test_they_travel_between_processes(kind):
    error = kind("holds 3 bands", where="a.fits", expected="5")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
