"""Every exception the package raises on purpose.

================================  ==========================================================
raise                             when
================================  ==========================================================
:class:`DataError`                a file or array holds something that cannot be used
:class:`FitsFormatError`          ... and it is the FITS structure itself that is broken
:class:`ConfigError`              an option or argument is out of range, unknown or contradictory
:class:`BackendUnavailable`       a named backend cannot run here, or cannot run this problem
:class:`OutputError`              a result cannot be written, or would overwrite another
:class:`OutputInUse`              ... because another process is at work on it
:class:`FetchError`               a server cannot be reached, or does not give what it should
================================  ==========================================================

A message says what is wrong, where, what was expected and how to mend it, in that order. Command lines
print it as one line and exit with :attr:`MargformerError.exit_code`. What it quotes from a file cannot break
that line, nor reach the terminal as a control sequence: see :func:`one_line`.
"""

from __future__ import annotations

from pathlib import Path


def one_line(said: object) -> str:
    """Return text on one line: white space is blanks, what else cannot be printed is a question mark."""
    text = str(said)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text.strip())


class MargformerError(Exception):
    """Base of every error raised on purpose.

    Parameters
    ----------
    what : str
        What is wrong, without a final full stop.
    where : str or Path, optional
        File, HDU, row or option concerned; put in front of the message.
    expected : str, optional
        What would have been right.
    mend : str, optional
        What the user can do about it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | Path | None = None,
        expected: str | None = None,
        mend: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.mend = what, where, expected, mend
        message = f"{where}: {what}" if where is not None else what
        if expected is not None:
            message += f"; expected {expected}"
        if mend is not None:
            message += f". {mend}"
        super().__init__(one_line(message))


class DataError(MargformerError, ValueError):
    """A file or array holds something that cannot be used."""


class FitsFormatError(DataError):
    """The FITS structure of a file is broken or of a kind that is not read."""


class ConfigError(MargformerError, ValueError):
    """An option is out of range, unknown, or contradicts another."""

    exit_code = 2


class BackendUnavailable(MargformerError, RuntimeError):  # noqa: N818 - states a fact, as its siblings name causes
    """A named backend cannot run, with every reason."""


class OutputError(MargformerError, OSError):
    """A result cannot be written, or would overwrite another."""


class OutputInUse(OutputError):  # noqa: N818 - states a fact
    """Another process is writing the same output."""


class FetchError(MargformerError, OSError):
    """A server cannot be reached, or does not give what it should."""
