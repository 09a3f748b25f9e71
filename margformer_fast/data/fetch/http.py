"""One file or answer from a server that may be slow, busy, broken or gone.

**What is retried.** Time-outs, resets, answers cut short, 408, 425, 429 and all of 5xx; what else the
server refuses (404, say) is final. Waits grow from `Patience.first_wait` by a factor of two, each drawn at
random up to that ("full jitter"), so that many clients do not come back at once; ``Retry-After`` is obeyed
by all threads. A try that brought new bytes does not count against `Patience.retries`.

**What is resumed.** Bytes go to ``NAME.part`` beside the file, and the next try, or the next command, asks
for the rest with ``Range`` and ``If-Range``. A server that ignores this sends the whole file, and it is taken
so; one that sends another part than asked for is not believed.

**What is believed.** Nothing without its full length, where the server gave one, and its checksum, where
there is one: ``Content-MD5``, ``Repr-Digest`` or ``Digest`` of the answer, or the caller's. Only ``http`` and
``https`` are spoken, redirections included, and never ``http`` after ``https``.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import hashlib
import http.client
import random
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import IO, Any

from ... import __version__
from ...errors import FetchError, OutputError
from .partial import Broken, Part, Wrong, check_digest, content_length, write_all, written

_AGENT = f"margformer_fast/{__version__}"
_BLOCK = 1 << 16
_TOTAL_TRIES = 200  # of one file, however much each of them brought
_BUSY = {408, 425, 429}
_WRONG_TRIES = 3  # whole files with a wrong checksum
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.EADDRNOTAVAIL}


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Parameters
    ----------
    timeout : float
        Seconds without a byte after which a connection is given up.
    retries : int
        Tries in a row that bring nothing new before a file is given up.
    first_wait, longest_wait : float
        Seconds before the first and, at most, any later try.
    least_rate : float
        Bytes per second, over `timeout` seconds, below which a connection is given up: one that sends a byte
        now and then would never time out.
    """

    timeout: float = 60.0
    retries: int = 8
    first_wait: float = 1.0
    longest_wait: float = 300.0
    least_rate: float = 1000.0


class Missing(FetchError):  # noqa: N818 - states a fact, as its siblings do
    """The server says that there is no such file."""


class Unreachable(FetchError):  # noqa: N818 - as above
    """No server answers: there is no network, or nothing at that address."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirections, but only to the web, and not out of an encrypted connection."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        kind, before = newurl.split(":", 1)[0].lower(), req.full_url.split(":", 1)[0].lower()
        if kind not in ("http", "https") or (before == "https" and kind == "http"):
            raise FetchError(
                f"is redirected to {newurl[:100]!r}", where=_place(req.full_url), expected="https"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


class _Remembering(urllib.request.AbstractHTTPHandler):
    """Note the socket of each connection, so that another thread can end what waits on it."""

    def __init__(self, sockets: weakref.WeakSet[socket.socket], lock: threading.Lock) -> None:
        super().__init__()
        self._sockets, self._sockets_lock = sockets, lock

    def do_open(self, http_class: Any, req: urllib.request.Request, **settings: Any) -> Any:
        note = self._note

        class Noted(http_class):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                note(self.sock)

        return super().do_open(Noted, req, **settings)

    def _note(self, connection: socket.socket) -> None:
        with self._sockets_lock:
            self._sockets.add(connection)


class _Plain(_Remembering, urllib.request.HTTPHandler):
    """``http``."""


class _Encrypted(_Remembering, urllib.request.HTTPSHandler):
    """``https``."""


class Client:
    """A polite client that any number of threads share.

    Parameters
    ----------
    patience : Patience
        How long servers are waited for.
    connections : int
        Requests that are open at the same time, at most.
    sleep, clock : callable
        In place of the system's.
    """

    def __init__(
        self,
        patience: Patience | None = None,
        connections: int = 4,
        *,
        sleep: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patience = patience or Patience()
        self.bytes_received = 0
        self._stopped = threading.Event()
        self._sleep = sleep or (lambda seconds: self._stopped.wait(seconds) and None)
        self._clock = clock
        self._gate = threading.BoundedSemaphore(connections)
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._not_before = 0.0
        self._met: set[str] = set()  # servers that have answered once
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Plain(self._sockets, self._lock),
            _Encrypted(self._sockets, self._lock),
            urllib.request.HTTPDefaultErrorHandler(),
            _Redirects(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
        ):
            self._opener.add_handler(handler)

    def stop(self) -> None:
        """Make all threads give up, with FetchError, whatever they wait for."""
        self._stopped.set()
        with self._lock:
            waiting = list(self._sockets)
        for one in waiting:
            with contextlib.suppress(OSError):  # closed already
                one.shutdown(socket.SHUT_RDWR)

    def get(self, url: str, *, limit: int) -> bytes:
        """Return an answer of at most `limit` bytes.

        Raises
        ------
        Missing, Unreachable, FetchError
            If it cannot be had.
        """
        content = bytearray()

        def take(response: http.client.HTTPResponse) -> None:
            content.clear()
            total = content_length(response)
            _check_limit(total or 0, limit, url)
            for block in self._blocks(response, url):
                content.extend(block)
                _check_limit(len(content), limit, url)
            if total is not None and len(content) != total:
                raise Broken(f"{len(content):,} of {total:,} bytes came")
            check_digest(hashlib.md5(content, usedforsecurity=False), "md5", response)
            check_digest(hashlib.sha256(content), "sha-256", response)

        self._persist(url, {}, take, lambda: 0)
        return bytes(content)

    def download(
        self,
        url: str,
        path: Path,
        *,
        limit: int,
        size: int | None = None,
        checksum: str | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Path:
        """Fetch a file, resuming what an earlier try or command left.

        Parameters
        ----------
        url : str
            Where from.
        path : Path
            Where to. It appears when it is whole and checked; until then there is ``NAME.part``.
        limit : int
            Bytes that it may have.
        size : int, optional
            Bytes that it must have.
        checksum : str, optional
            ``md5:...``, ``sha1:...`` or ``sha256:...`` that it must have, in hexadecimal digits.
        progress : callable, optional
            Called with the number of bytes that came.

        Returns
        -------
        Path
            `path`.

        Raises
        ------
        Missing, Unreachable, FetchError
            If it cannot be had, has another size or checksum, or is larger than `limit`.
        OutputError
            If it cannot be written.
        """
        part = Part(path, url, checked=checksum is not None)
        wanted = size

        def guard(size: int) -> None:
            if size > limit:
                part.discard()
            _check_limit(size, limit, url)

        def take(response: http.client.HTTPResponse) -> None:
            offset, total = part.begin(response)
            guard(total or 0)
            if wanted is not None and total is not None and total != wanted:
                part.discard()
                raise Broken(f"the server has {total:,} bytes where {wanted:,} are expected")
            with part.open(offset) as file:
                for block in self._blocks(response, url):
                    offset += len(block)
                    guard(offset)
                    with written(path):
                        write_all(file, block)
                    if progress is not None:
                        progress(len(block))
            if total is not None and offset < total:
                raise Broken(f"cut short at {offset:,} of {total:,} bytes")
            final = wanted if wanted is not None else total
            if final is not None and offset != final:
                part.discard()
                raise Broken(f"{offset:,} bytes came where {final:,} are expected")
            try:
                part.check(checksum, response)
            except Broken:
                part.discard()
                raise

        # The last byte may have come without the answer's end being seen, or just before a kill.
        if wanted is not None and checksum is not None and part.size == wanted:
            try:
                part.check(checksum, None)
            except Broken:
                part.discard()
            else:
                part.finish()
                return path
        self._persist(url, part, take, lambda: part.size)
        part.finish()
        return path

    def _persist(
        self,
        url: str,
        part: Part | dict[str, str],
        take: Callable[[http.client.HTTPResponse], None],
        progress: Callable[[], int],
    ) -> None:
        """Ask for `url` until `take` has got it, or patience ends."""
        fruitless, wrong, silent, best, last = 0, 0, 0, progress(), ""
        server = urllib.parse.urlsplit(url).netloc
        for _ in range(_TOTAL_TRIES):
            self._wait_turn(url)
            after = 0.0
            try:
                with self._gate:
                    headers = part.headers() if isinstance(part, Part) else part
                    with self._open(url, headers) as response:
                        self._met.add(server)
                        take(response)
                return
            except urllib.error.HTTPError as error:
                self._met.add(server)
                with error:
                    after = _retry_after(error.headers)
                    last = f"{error.code} {error.reason}".strip() + _said(error)
                if error.code == 416 and isinstance(part, Part):
                    part.discard()  # what is here is no beginning of what is there
                elif error.code in (404, 410):
                    raise Missing("is not there", where=_place(url)) from None
                elif error.code not in _BUSY and error.code < 500:
                    raise FetchError(f"the server refuses: {last}", where=_place(url)) from None
            except Broken as error:
                last = str(error)
                wrong += isinstance(error, Wrong)
            except (FetchError, OutputError):
                raise
            except (OSError, ValueError, http.client.HTTPException) as error:
                last = _short(error)
                # urllib wraps what goes wrong before the server's first word, and nothing else.
                if isinstance(error, urllib.error.URLError) and server not in self._met:
                    silent += 1
                    if _is_final(error.reason) or silent > 1:
                        raise Unreachable(f"cannot be reached ({last})", where=_place(url)) from None
            got = progress()
            fruitless = 0 if got > best else fruitless + 1
            best = max(best, got)
            if fruitless > self.patience.retries or wrong >= _WRONG_TRIES:
                break
            self._back_off(fruitless, after)
        raise FetchError(
            f"cannot be fetched; the last of the tries ended with: {last}",
            where=_place(url),
            mend="Run the same command again later: it goes on where it stopped.",
        )

    def _open(self, url: str, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the opener speaks http and https alone
            url, headers={"User-Agent": _AGENT, "Accept-Encoding": "identity", **headers}
        )
        return self._opener.open(request, timeout=self.patience.timeout)

    def _blocks(self, response: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
        """Yield what comes, and give up on a server that only drips."""
        began, came = self._clock(), 0
        while True:
            if self._stopped.is_set():
                raise FetchError("is given up: the command is ending", where=_place(url))
            # read1 returns with what is there; read would wait for a whole block.
            block = response.read1(_BLOCK)
            if not block:
                return
            with self._lock:
                self.bytes_received += len(block)
            came += len(block)
            yield block
            elapsed = self._clock() - began
            if elapsed > self.patience.timeout:
                if came < self.patience.least_rate * elapsed:
                    raise Broken(f"only {came:,} bytes in {elapsed:.0f} s")
                began, came = self._clock(), 0

    def _wait_turn(self, url: str) -> None:
        while (wait := self._not_before - self._clock()) > 0:
            self._sleep(wait)
            if self._stopped.is_set():
                break
        if self._stopped.is_set():
            raise FetchError("is given up: the command is ending", where=_place(url))

    def _back_off(self, fruitless: int, after: float) -> None:
        longest = min(self.patience.longest_wait, self.patience.first_wait * 2.0 ** max(0, fruitless - 1))
        if after > 0:
            with self._lock:
                until = self._clock() + min(after, self.patience.longest_wait)
                self._not_before = max(self._not_before, until)
        else:
            self._sleep(random.uniform(0, longest))


def _check_limit(size: int, limit: int, url: str) -> None:
    if size > limit:
        raise FetchError(f"has {size:,} bytes or more", where=_place(url), expected=f"at most {limit:,}")


def _retry_after(headers: Message) -> float:
    """Return the seconds that a busy server asks to wait; 0 if it does not say."""
    text = (headers.get("Retry-After") or "").strip()
    if re.fullmatch(r"[0-9]{1,7}", text):
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _said(error: urllib.error.HTTPError) -> str:
    """Return the beginning of what a server says about its refusal, on one line."""
    try:
        text = error.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    plain = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    plain = "".join(c for c in plain if c.isprintable())
    return f" ({plain[:300]})" if plain else ""


def _place(url: str) -> str:
    """Return an address as messages show it: a query's text would drown them."""
    return url.split("?", 1)[0]


def _is_final(reason: object) -> bool:
    """Whether a first contact failed for want of a network or of anybody there, not for a bad moment."""
    lost = isinstance(reason, socket.gaierror | ssl.SSLCertVerificationError)
    return lost or (isinstance(reason, OSError) and reason.errno in _NO_ROUTE)


def _short(error: BaseException) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).split())
