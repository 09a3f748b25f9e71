"""MargNet's published arrays, as their deposit (DOI 10.5281/zenodo.6659435) lists them.

The list, with sizes and checksums, is asked for each time; nothing about the files is assumed but that each
has a plain name. A file that is here with the right size and checksum is not fetched again.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError, FetchError, OutputError
from .http import Client

RECORD = "6659435"
"""Number of the record."""

ZENODO = "https://zenodo.org"
"""Where it is."""

MAX_BYTES = 1 << 40
"""Largest file that is taken."""

_LIST_LIMIT = 4 << 20
_MAX_FILES = 10_000
# No separator, no leading dot, nothing that a shell or a file system treats in its own way.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_CHECKSUM = re.compile(r"md5:[0-9a-fA-F]{32}|sha1:[0-9a-fA-F]{40}|sha256:[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class DepositFile:
    """One file of a record.

    Parameters
    ----------
    name : str
        A plain file name.
    size : int
        Bytes.
    checksum : str
        ``md5:...``, ``sha1:...`` or ``sha256:...``.
    url : str
        Its address, at the server of the record.
    """

    name: str
    size: int
    checksum: str
    url: str

    def is_at(self, folder: Path) -> bool:
        """Whether the file is there, whole."""
        path = folder / self.name
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        kind, _, digits = self.checksum.partition(":")
        with open(path, "rb") as file:
            return hashlib.file_digest(file, kind).hexdigest() == digits.lower()


def list_files(client: Client, base_url: str = ZENODO, record: str = RECORD) -> list[DepositFile]:
    """Return the files of a record, by name.

    Parameters
    ----------
    client : Client
        Asks.
    base_url : str
        The server.
    record : str
        Number of the record.

    Raises
    ------
    ConfigError
        If `record` is no number.
    FetchError
        If the server does not answer, or the list has a file whose name, size, checksum or address cannot be
        trusted.
    """
    if not re.fullmatch(r"[0-9]{1,12}", record):
        raise ConfigError(f"{record[:40]!r} is no record", expected=f"a number, such as {RECORD}")
    base = base_url.rstrip("/")
    url = f"{base}/api/records/{record}"
    answer = client.get(url, limit=_LIST_LIMIT)
    try:
        entries = json.loads(answer)["files"]
        if not isinstance(entries, list) or not 0 < len(entries) <= _MAX_FILES:
            raise ValueError(f"{len(entries)} files")
        files = [_file(entry, base, record) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FetchError(
            f"the answer is no list of a record's files ({type(error).__name__}: {error})"[:300], where=url
        ) from error
    if len({one.name.lower() for one in files}) < len(files):
        raise FetchError("two files of the record have the same name", where=url)
    return sorted(files, key=lambda one: one.name)


def choose(files: list[DepositFile], patterns: list[str]) -> list[DepositFile]:
    """Return the files whose names match any of some patterns such as ``*exp3*``; all without patterns.

    Raises
    ------
    DataError
        If none does.
    """
    chosen = [one for one in files if not patterns or any(fnmatch.fnmatchcase(one.name, p) for p in patterns)]
    if not chosen:
        raise DataError(
            f"no file of the record matches {', '.join(patterns)}",
            expected=", ".join(one.name for one in files[:20]),
        )
    return chosen


def fetch_files(
    client: Client,
    files: list[DepositFile],
    folder: Path,
    *,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Fetch files into a folder, one after the other; those that are there whole stay as they are.

    Parameters
    ----------
    client : Client
        Fetches.
    files : list of DepositFile
        What.
    folder : Path
        Where to; made if it is not there. Files that are not of the record are left alone.
    progress : callable, optional
        Told how many bytes came, or were there.

    Raises
    ------
    FetchError
        If a file cannot be had. What came of it stays for the next time.
    OutputError
        If the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot be made: {error.strerror}", where=folder, mend="Choose another --out."
        ) from error
    for one in files:
        if one.is_at(folder):
            if progress is not None:
                progress(one.size)
            continue
        client.download(
            one.url,
            folder / one.name,
            limit=MAX_BYTES,
            size=one.size,
            checksum=one.checksum,
            progress=progress,
        )


def _file(entry: dict[str, Any], base: str, record: str) -> DepositFile:
    """Return one entry of the list, if it can be trusted; ValueError says what is wrong with it."""
    name, size = entry["key"], entry["size"]
    checksum = entry["checksum"]
    if not isinstance(name, str) or not _PLAIN.fullmatch(name) or name.endswith((".part", ".part.json")):
        raise ValueError(f"{name!r} is no plain file name")
    if type(size) is not int or not 0 <= size <= MAX_BYTES:
        raise ValueError(f"{name} has {size!r} bytes")
    if not isinstance(checksum, str) or not _CHECKSUM.fullmatch(checksum):
        raise ValueError(f"{name} has the checksum {checksum!r}")
    url = f"{base}/api/records/{record}/files/{urllib.parse.quote(name)}/content"
    links = entry.get("links", {})
    given = links.get("self") or links.get("content") if isinstance(links, dict) else None
    # Another server is not asked, whatever the list says.
    if isinstance(given, str) and given.startswith(f"{base}/"):
        url = given
    return DepositFile(name, size, checksum, url)
