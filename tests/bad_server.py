"""An HTTP server on this machine that serves files and queries, and misbehaves when it is told to.

It answers as an archive does: ``Content-Length``, a strong ``ETag``, ranges with ``If-Range``. What it does
wrong is decided request by request by a function of the path and of how often it was asked for before.
"""

from __future__ import annotations

import hashlib
import random
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MISDEEDS = (
    "hang",  # says nothing until the client has given up
    "500",
    "503",  # with Retry-After
    "429",
    "truncate",  # the right length, half the bytes
    "longer",  # a length that is one more than comes
    "drip",  # a byte now and then
    "reset",  # the connection is torn down in the middle
    "corrupt",  # a byte is another one, and the checksum in the header is that of the right ones
    "ignore range",  # the whole file, whatever was asked for
    "other range",  # a part, but another than was asked for
    "garbage",  # no HTTP
    "close",  # nothing at all
)
"""What it can do wrong; a client gets there after all."""


@dataclass
class Served:
    """One answered request."""

    path: str
    range: str
    misdeed: str | None
    sent: int = 0


@dataclass
class BadServer:
    """What is served, and how badly.

    ``files`` maps paths to contents; ``answer`` answers queries (``?cmd=``); ``misdeed(path, n)`` says what
    goes wrong with the n-th request of a path, from 0.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    answer: Callable[[str], bytes | int] | None = None
    misdeed: Callable[[str, int], str | None] = lambda path, n: None
    digests: bool = False
    hang_seconds: float = 1.0
    drip_seconds: float = 0.2
    log: list[Served] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)

    def requests(self, part: str = "") -> list[Served]:
        return [one for one in self.log if part in one.path]

    @contextmanager
    def running(self) -> Iterator[BadServer]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"bad": self}))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            self._closing.set()
            server.shutdown()
            server.server_close()
            thread.join()


def now_and_then(
    seed: int, share: float, misdeeds: tuple[str, ...] = MISDEEDS
) -> Callable[[str, int], str | None]:
    """Misbehave at random, the same for the same seed, whatever the order of requests."""

    def misdeed(path: str, n: int) -> str | None:
        draw = random.Random(f"{seed} {path} {n}")
        return draw.choice(misdeeds) if draw.random() < share else None

    return misdeed


class _Handler(BaseHTTPRequestHandler):
    bad: BadServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *details: object) -> None:
        pass

    def do_GET(self) -> None:
        bad = self.bad
        path, _, query = self.path.partition("?")
        with bad._lock:
            n = bad.asked[path]
            bad.asked[path] += 1
            served = Served(path, self.headers.get("Range", ""), bad.misdeed(path, n))
            bad.log.append(served)
        try:
            self._answer(path, query, served)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _answer(self, path: str, query: str, served: Served) -> None:
        misdeed = served.misdeed
        if misdeed == "hang":
            self.bad._closing.wait(self.bad.hang_seconds)
            self.close_connection = True
            return
        if misdeed == "close":
            self.close_connection = True
            return
        if misdeed == "garbage":
            self.wfile.write(b"\x00\xff no web server lives here\r\n\r\n")
            self.close_connection = True
            return
        if misdeed in ("500", "503", "429"):
            self._refuse(int(misdeed), {"Retry-After": "0"} if misdeed != "500" else {})
            return
        content = self._content(path, query)
        if isinstance(content, int):
            self._refuse(content, {})
            return
        self._send(content, served)

    def _content(self, path: str, query: str) -> bytes | int:
        sql = urllib.parse.parse_qs(query).get("cmd")
        if sql and self.bad.answer is not None:
            return self.bad.answer(sql[0])
        return self.bad.files.get(urllib.parse.unquote(path), 404)

    def _refuse(self, code: int, headers: Mapping[str, str]) -> None:
        body = f"<html><b>Error {code}</b> of the test</html>".encode()
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send(self, content: bytes, served: Served) -> None:
        misdeed = served.misdeed
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        found = re.fullmatch(r"bytes=(\d+)-", served.range)
        fresh = self.headers.get("If-Range", tag) == tag
        start = int(found[1]) if found and fresh and misdeed != "ignore range" else 0
        if start >= len(content) > 0:
            self._refuse(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        if misdeed == "other range" and start:
            start = start + 1000 if start + 1000 < len(content) else start // 2
        body = content[start:]
        if misdeed == "corrupt" and body:
            k = len(body) // 2
            body = body[:k] + bytes([body[k] ^ 0x55]) + body[k + 1 :]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body) + (misdeed == "longer")))
        self.send_header("ETag", tag)
        if self.bad.digests:
            import base64

            digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
            self.send_header("Repr-Digest", f"sha-256=:{digest}:")
        self.end_headers()
        if misdeed == "drip":
            for k in range(min(len(body), 50)):
                if self.bad._closing.wait(self.bad.drip_seconds):
                    break
                self.wfile.write(body[k : k + 1])
                served.sent += 1
            self.close_connection = True
            return
        if misdeed in ("truncate", "reset"):
            body = body[: len(body) // 2]
        self.wfile.write(body)
        served.sent += len(body)
        if misdeed in ("truncate", "longer"):
            self.close_connection = True
        if misdeed == "reset":
            # Not a goodbye but a slammed door: what is under way is lost.
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            time.sleep(0.02)
            self.connection.close()
            self.close_connection = True
