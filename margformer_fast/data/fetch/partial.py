"""What there is of a file that is being fetched, and what of it can be believed."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import http.client
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ...errors import OutputError


class Broken(Exception):  # noqa: N818 - not an error of the caller's
    """One try failed; another may not."""


class Wrong(Broken):
    """A whole file came, with another checksum than it should have."""


class Part:
    """What there is of a file that is being fetched, and of which version of it.

    Parameters
    ----------
    path : Path
        Where the file will be; its part is ``NAME.part``, described by ``NAME.part.json``.
    url : str
        Where it comes from.
    checked : bool
        Whether a checksum will be compared at the end, so that a mixture of two versions would be seen.
    """

    def __init__(self, path: Path, url: str, *, checked: bool) -> None:
        self._path, self._url = path, url
        self._checked = checked
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
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            same, version, total = False, "", None
        if not (
            same and isinstance(version, str) and (version or self._checked) and isinstance(total, int | None)
        ):
            self.discard()
            return
        self._version, self._total = version, total

    @property
    def size(self) -> int:
        """Bytes that are here."""
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
        length = content_length(response)
        if response.status == 206:
            start, total = _content_range(response)
            wanted = self.headers().get("Range", "")
            if wanted != f"bytes={start}-" or (self._total is not None and total not in (None, self._total)):
                self.discard()
                raise Broken("the server sent another part than was asked for")
            total = total if total is not None else (start + length if length is not None else None)
            self._total = total
            return start, total
        if response.status != 200:
            raise Broken(f"the server answered {response.status}")
        self.discard()
        etag = response.headers.get("ETag", "")
        # A weak tag does not promise the same bytes, and may not be used to go on.
        self._version = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        self._total = length
        about = {"url": self._url, "version": self._version, "total": length}
        with written(self._path):
            self._about.write_text(json.dumps(about), encoding="utf-8")
        return 0, length

    @contextmanager
    def open(self, offset: int) -> Iterator[IO[bytes]]:
        """Yield the file, open for writing at `offset`; what was behind is gone."""
        with written(self._path):
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
                raise Wrong(f"its {kind.upper()} is not {digits}")
        if response is not None:
            for kind, name in (("md5", "md5"), ("sha256", "sha-256")):
                if _digest(name, response) is not None:
                    check_digest(self._hash(kind), name, response)

    def _hash(self, kind: str) -> Any:
        with open(self._part, "rb") as file:
            return hashlib.file_digest(file, kind)

    def finish(self) -> None:
        """Put the file, which is whole, into its place."""
        with written(self._path):
            with open(self._part, "r+b") as file:
                os.fsync(file.fileno())
            self._about.unlink(missing_ok=True)
            self._part.replace(self._path)

    def discard(self) -> None:
        """Remove what is here."""
        for path in (self._part, self._about):
            with contextlib.suppress(OSError):
                path.unlink()
        self._version, self._total = "", None


def write_all(file: IO[bytes], block: bytes) -> None:
    """Write all of a block to an unbuffered file, which may take less at a time."""
    rest = memoryview(block)
    while rest:
        rest = rest[file.write(rest) :]


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn errors of writing into one line; those of the network never come from here."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            where=path,
            mend="Free some space or choose another place, and run the same command again.",
        ) from error


def content_length(response: http.client.HTTPResponse) -> int | None:
    """Return how many bytes the answer promises."""
    text = response.headers.get("Content-Length")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,15}", text.strip()):
        raise Broken(f"Content-Length is {text[:40]!r}")
    return int(text)


def _content_range(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    text = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15}|\*)", text.strip())
    if found is None:
        raise Broken(f"Content-Range is {text[:60]!r}")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _digest(name: str, response: http.client.HTTPResponse) -> bytes | None:
    """Return the digest of the answer that the server gives under any of the names for it."""
    found = None
    if name == "md5" and response.status == 200:  # it is of what was sent; the others are of the whole file
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


def check_digest(of_content: Any, name: str, response: http.client.HTTPResponse) -> None:
    """Raise Wrong if the server gave a digest of this name and the content has another."""
    wanted = _digest(name, response)
    if wanted is not None and of_content.digest() != wanted:
        raise Wrong(f"its {name.upper()} is not the one that the server gave")
