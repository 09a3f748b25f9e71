"""Queries sent to the survey's database over HTTP, one at a time, and answers that are checked."""

from __future__ import annotations

import csv
import io
import time
import urllib.parse
from collections.abc import Callable, Sequence

from ...errors import FetchError
from .http import Client

_LIMIT = 64 << 20
"""Bytes of the largest answer: a page of the sample has 2 MB."""

_MAX_CELL = 200

Rows = list[list[str]]
"""The lines of an answer, cell by cell, in the order of the columns asked for."""


class SkyServer:
    """The survey's database behind its address for queries.

    Parameters
    ----------
    client : Client
        Sends the queries.
    url : str
        The address; a query is its parameter ``cmd``, and ``format`` is ``csv``.
    interval : float
        Seconds from one query to the next, at least.
    sleep, clock : callable
        In place of the system's.
    """

    def __init__(
        self,
        client: Client,
        url: str,
        interval: float = 1.0,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._url, self._interval = client, url, interval
        self._sleep, self._clock = sleep, clock
        self._next = clock()

    def address(self, sql: str) -> str:
        """Return the address that asks a query."""
        separator = "&" if "?" in self._url else "?"
        return f"{self._url}{separator}{urllib.parse.urlencode({'cmd': sql, 'format': 'csv'})}"

    def ask(self, sql: str) -> bytes:
        """Return the answer to a query as it came.

        Raises
        ------
        FetchError
            If there is none.
        """
        self._sleep(max(0.0, self._next - self._clock()))
        self._next = self._clock() + self._interval
        return self._client.get(self.address(sql), limit=_LIMIT)

    def query(self, sql: str, columns: Sequence[str]) -> Rows:
        """Return the answer to a query, which must have these columns.

        Raises
        ------
        FetchError
            If there is no answer, or it is not a table of these columns: the message repeats its beginning,
            where the database says what it does not like.
        """
        return parse(self.ask(sql), columns, self._url)


def parse(answer: bytes, columns: Sequence[str], where: str) -> Rows:
    """Return the rows of a CSV answer with these columns, in any order and case.

    Parameters
    ----------
    answer : bytes
        As the database sends it: perhaps a line ``#Table1``, the column names, then the rows.
    columns : sequence of str
        Those that are wanted.
    where : str
        What to call it in a message.

    Returns
    -------
    list of list of str
        In the order of `columns`.

    Raises
    ------
    FetchError
        If it is something else.
    """
    try:
        text = answer.decode("utf-8-sig")
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        table = list(csv.reader(io.StringIO("\n".join(lines)), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FetchError(f"the answer is no table ({error})", where=where) from error
    header = [name.strip().lower() for name in table[0]] if table else []
    if sorted(header) != sorted(name.lower() for name in columns):
        begin = "".join(c if c.isprintable() else " " for c in text[:300])
        raise FetchError(
            f"the answer begins with {' '.join(begin.split())!r}",
            where=where,
            expected=f"a table of {', '.join(columns)}",
        )
    order = [header.index(name.lower()) for name in columns]
    rows = []
    for number, row in enumerate(table[1:], 1):
        if len(row) != len(header) or any(len(cell) > _MAX_CELL for cell in row):
            raise FetchError(
                f"row {number} of the answer has {len(row)} cells",
                where=where,
                expected=f"{len(header)}, of at most {_MAX_CELL} characters",
            )
        rows.append([row[k].strip() for k in order])
    return rows
