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

import base64
import binascii
import contextlib
import email.utils
import errno
import hashlib
import http.client
import json
import os
import random
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import IO, Any

from ... import __version__
from ...errors import FetchError, OutputError

OFFLINE_MEND = (
    "Try again where there is a network; what was fetched stays."
    " Or fetch the files elsewhere and `ingest` or `import` their folder."
)

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
        self._not_before = 0.0
        self._met: set[str] = set()  # servers that have answered once
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            _Redirects(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
        ):
            self._opener.add_handler(handler)

    def stop(self) -> None:
        """Make all threads give up at their next step: with FetchError."""
        self._stopped.set()

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
            total = _length(response)
            _check_limit(total or 0, limit, url)
            for block in self._blocks(response, url):
                content.extend(block)
                _check_limit(len(content), limit, url)
            if total is not None and len(content) != total:
                raise _Broken(f"{len(content):,} of {total:,} bytes came")
            _check_digest(hashlib.md5(content, usedforsecurity=False), "md5", response)
            _check_digest(hashlib.sha256(content), "sha-256", response)

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
        part = _Part(path, url, checked=checksum is not None)
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
                raise _Broken(f"the server has {total:,} bytes where {wanted:,} are expected")
            with part.open(offset) as file:
                for block in self._blocks(response, url):
                    offset += len(block)
                    guard(offset)
                    with _written(path):
                        _write(file, block)
                    if progress is not None:
                        progress(len(block))
            if total is not None and offset < total:
                raise _Broken(f"cut short at {offset:,} of {total:,} bytes")
            final = wanted if wanted is not None else total
            if final is not None and offset != final:
                part.discard()
                raise _Broken(f"{offset:,} bytes came where {final:,} are expected")
            try:
                part.check(checksum, response)
            except _Broken:
                part.discard()
                raise

        # The last byte may have come without the answer's end being seen, or just before a kill.
        if wanted is not None and checksum is not None and part.size == wanted:
            try:
                part.check(checksum, None)
            except _Broken:
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
        part: _Part | dict[str, str],
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
                    headers = part.headers() if isinstance(part, _Part) else part
                    with self._open(url, headers) as response:
                        self._met.add(server)
                        take(response)
                return
            except urllib.error.HTTPError as error:
                self._met.add(server)
                with error:
                    after = _retry_after(error.headers)
                    last = f"{error.code} {error.reason}".strip() + _said(error)
                if error.code == 416 and isinstance(part, _Part):
                    part.discard()  # what is here is no beginning of what is there
                elif error.code in (404, 410):
                    raise Missing("is not there", where=_place(url)) from None
                elif error.code not in _BUSY and error.code < 500:
                    raise FetchError(f"the server refuses: {last}", where=_place(url)) from None
            except _Broken as error:
                last = str(error)
                wrong += isinstance(error, _Wrong)
            except (FetchError, OutputError):
                raise
            except (OSError, ValueError, http.client.HTTPException) as error:
                last = _short(error)
                # urllib wraps what goes wrong before the server's first word, and nothing else.
                if isinstance(error, urllib.error.URLError) and server not in self._met:
                    silent += 1
                    if _is_final(error.reason) or silent > 1:
                        raise Unreachable(
                            f"cannot be reached ({last})", where=_place(url), mend=OFFLINE_MEND
                        ) from None
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
                    raise _Broken(f"only {came:,} bytes in {elapsed:.0f} s")
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


class _Broken(Exception):  # noqa: N818 - not an error of the caller's
    """One try failed; another may not."""


class _Wrong(_Broken):
    """A whole file came, with another checksum than it should have."""


class _Part:
    """What there is of a file that is being fetched, and of which version of it."""

    def __init__(self, path: Path, url: str, *, checked: bool) -> None:
        self._path, self._url = path, url
        self._checked = checked  # a wrong mixture would be seen at the end
        self._part = path.with_name(f"{path.name}.part")
        self._about = path.with_name(f"{path.name}.part.json")
        self._version = ""
        self._total: int | None = None
        if self._part.is_file():
            self._recall()

    def _recall(self) -> None:
        """Take up what an earlier command left, if it says of which version it is a part."""
        try:
            about = json.loads(self._about.read_text(encoding="utf-8"))
            same = about["url"] == self._url
            version, total = about["version"], about["total"]
        except (OSError, ValueError, KeyError, TypeError):
            same, version, total = False, "", None
        if not (
            same and isinstance(version, str) and (version or self._checked) and isinstance(total, int | None)
        ):
            self.discard()
            return
        self._version, self._total = version, total

    @property
    def size(self) -> int:
        try:
            return self._part.stat().st_size
        except OSError:
            return 0

    def headers(self) -> dict[str, str]:
        """Return what asks for the rest."""
        size = self.size
        if size == 0 or not (self._version or self._checked) or size > (self._total or size):
            return {}
        if size == self._total:  # all is here, unchecked: the last byte is asked for again
            size -= 1
        return {"Range": f"bytes={size}-", **({"If-Range": self._version} if self._version else {})}

    def begin(self, response: http.client.HTTPResponse) -> tuple[int, int | None]:
        """Return where the bytes of the answer belong, and how many the whole file has, if that is known."""
        length = _length(response)
        if response.status == 206:
            start, total = _content_range(response)
            wanted = self.headers().get("Range", "")
            if wanted != f"bytes={start}-" or (self._total is not None and total not in (None, self._total)):
                self.discard()
                raise _Broken("the server sent another part than was asked for")
            total = total if total is not None else (start + length if length is not None else None)
            self._total = total
            return start, total
        if response.status != 200:
            raise _Broken(f"the server answered {response.status}")
        self.discard()
        etag = response.headers.get("ETag", "")
        # A weak tag does not promise the same bytes, and may not be used to go on.
        self._version = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        self._total = length
        about = {"url": self._url, "version": self._version, "total": length}
        with _written(self._path):
            self._about.write_text(json.dumps(about), encoding="utf-8")
        return 0, length

    @contextmanager
    def open(self, offset: int) -> Iterator[IO[bytes]]:
        with _written(self._path):
            file = open(self._part, "r+b" if self._part.exists() else "wb", buffering=0)  # noqa: SIM115
        with file:
            file.seek(offset)
            file.truncate()
            yield file

    def check(self, checksum: str | None, response: http.client.HTTPResponse | None) -> None:
        """Compare with the checksum that is wanted, and those that the server gave for the whole file."""
        if checksum is not None:
            kind, _, digits = checksum.partition(":")
            if self._hash(kind).hexdigest() != digits.lower():
                raise _Wrong(f"its {kind.upper()} is not {digits}")
        if response is not None and response.status == 200:
            for kind, name in (("md5", "md5"), ("sha256", "sha-256")):
                if _digest(name, response) is not None:
                    _check_digest(self._hash(kind), name, response)

    def _hash(self, kind: str) -> Any:
        with open(self._part, "rb") as file:
            return hashlib.file_digest(file, kind)

    def finish(self) -> None:
        with _written(self._path):
            with open(self._part, "r+b") as file:
                os.fsync(file.fileno())
            self._about.unlink(missing_ok=True)
            self._part.replace(self._path)

    def discard(self) -> None:
        for path in (self._part, self._about):
            with contextlib.suppress(OSError):
                path.unlink()
        self._version, self._total = "", None


def _write(file: IO[bytes], block: bytes) -> None:
    """Write all of a block to an unbuffered file, which may take less at a time."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Turn errors of writing into one line; those of the network never come from here."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            where=path,
            mend="Free some space or choose another place, and run the same command again.",
        ) from error


def _length(response: http.client.HTTPResponse) -> int | None:
    """Return how many bytes the answer promises."""
    text = response.headers.get("Content-Length")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,15}", text.strip()):
        raise _Broken(f"Content-Length is {text[:40]!r}")
    return int(text)


def _content_range(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    text = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15}|\*)", text.strip())
    if found is None:
        raise _Broken(f"Content-Range is {text[:60]!r}")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _digest(name: str, response: http.client.HTTPResponse) -> bytes | None:
    """Return the digest of the answer that the server gives under any of the names for it."""
    found = None
    if name == "md5":
        found = response.headers.get("Content-MD5")
    for header in ("Repr-Digest", "Digest"):
        match = re.search(
            rf"(?:^|,)\s*{name}=:?([A-Za-z0-9+/=]+)", response.headers.get(header, ""), re.IGNORECASE
        )
        found = match[1] if match else found
    if found is None:
        return None
    try:
        return base64.b64decode(found, validate=True)
    except binascii.Error:
        return None


def _check_digest(of_content: Any, name: str, response: http.client.HTTPResponse) -> None:
    wanted = _digest(name, response)
    if wanted is not None and of_content.digest() != wanted:
        raise _Wrong(f"its {name.upper()} is not the one that the server gave")


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
