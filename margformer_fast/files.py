"""Files that are either whole or absent: atomic writes, hashes and JSON."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import DataError, OutputError

MAX_JSON_BYTES = 1 << 26
"""Largest JSON file read; what the package writes has a hundredth of it."""


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and takes the place of `path`.

    Raises
    ------
    OutputError
        If the file cannot be written (disk full, no permission). The temporary file is removed. Errors of
        the block that are not about writing the file pass as they are.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a directory, or a device, which a rename would do away with
        raise OutputError("is no regular file", where=path, mend="Choose another place.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _explained(path, temporary):
            yield temporary
        with _explained(path):
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
            _sync_directory(path.parent)
    finally:
        with suppress(OSError):  # it may never have been made
            temporary.unlink()


@contextmanager
def atomic_directory(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success it becomes `path`.

    A process that is killed outright leaves its temporary directory, ``.NAME.*.part``, behind; the next one
    that makes the same directory removes it.

    Parameters
    ----------
    path : str or Path
        The directory to make.
    overwrite : bool
        Replace a directory that is already there. The old one stays until the new one is complete.

    Raises
    ------
    OutputError
        If `path` exists and `overwrite` is false, or if writing fails. Nothing is left behind. Errors of
        the block that are not about writing the directory pass as they are.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputError("already exists", where=path, mend="Choose another place, or pass --overwrite.")
    if path.exists() and not path.is_dir():
        raise OutputError("is a file", where=path, expected="a directory, or nothing, to be there")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary, lock = _make_part(path)
    try:
        with _explained(path, temporary):
            yield temporary
        with _explained(path):
            for file in temporary.rglob("*"):
                if file.is_file():
                    with open(file, "rb+") as handle:
                        os.fsync(handle.fileno())
            _take_place(temporary, path, overwrite)
            _sync_directory(path.parent)
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _explained(path: Path, block: Path | None = None) -> Iterator[None]:
    """Turn errors of the operating system met while writing `path` into one line with a way out.

    Where a caller's code runs, `block` is what it writes to. Its errors without a number or about another
    file (an input that cannot be read, say) are not ours and pass.
    """
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        if block is not None:
            about = block if error.filename is None else Path(os.fsdecode(error.filename))
            if error.errno is None or not about.is_relative_to(block):
                raise
        blamed = f" ({error.filename})" if error.filename in map(str, path.parents) else ""
        raise OutputError(
            f"cannot be written: {error.strerror or error}{blamed}",
            where=path,
            mend="Free some space or choose another place; nothing was left half written.",
        ) from error


def _make_part(path: Path) -> tuple[Path, int]:
    """Make ``.NAME.*.part`` beside `path` and lock it; the lock lasts as long as the process."""
    # Not mkdtemp, which would deny the finished directory to everybody else.
    unlocked = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    unlocked.mkdir()
    lock = os.open(unlocked, os.O_RDONLY)
    # Some network file systems have no locks; there `_remove_abandoned` gets none either and removes nothing.
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # Named only now, so that nobody finds it unlocked.
    return unlocked.rename(unlocked.with_suffix(".part")), lock


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary directories of `path` whose process is gone: those that nobody holds locked."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if not part.is_dir():
            continue
        with suppress(OSError):  # locked, or just removed by its owner: not abandoned
            lock = os.open(part, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(part)
            finally:
                os.close(lock)


def _take_place(temporary: Path, path: Path, overwrite: bool) -> None:
    """Rename `temporary` to `path`; a directory already there is moved aside first, then removed."""
    old = temporary.with_suffix(".old")
    if overwrite and path.exists():
        path.rename(old)
    try:
        temporary.rename(path)  # fails if another process has made `path` meanwhile
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync_directory(path: Path) -> None:
    """Make a rename in `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises
    ------
    DataError
        If the file is missing, cannot be read, has more than `MAX_JSON_BYTES`, or does not hold JSON: see
        :func:`parse_json`.
    """
    path = Path(path)
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise DataError("is no regular file", where=path)
        if about.st_size > MAX_JSON_BYTES:
            raise DataError(
                f"has {about.st_size:,} bytes", where=path, expected=f"at most {MAX_JSON_BYTES:,} of JSON"
            )
        with open(path, "rb") as handle:
            text = handle.read(about.st_size)
    except FileNotFoundError as error:
        raise DataError("is missing", where=path) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from error
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"does not hold JSON ({error})", where=path) from error


def read_record(path: str | Path, *parts: str, mend: str) -> dict[str, Any]:
    """Read a record that an earlier command left: JSON with an object under each name in `parts`.

    Raises
    ------
    DataError
        If it cannot be read, or is something else.
    """
    record = read_json(path)
    if isinstance(record, dict):
        lacking = [name for name in parts if not isinstance(record.get(name), dict)]
        if not lacking:
            return record
        what = f"has no {lacking[0]!r}"
    else:
        what = f"holds a {type(record).__name__}"
    raise DataError(what, where=path, expected=f"an object with {', '.join(parts)}", mend=mend)


def parse_json(text: str | bytes) -> Any:
    """Return what JSON says, strictly: no NaN or infinity, no half characters, nothing nested without end.

    Raises
    ------
    ValueError
        If it is no such JSON.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        # The one way for JSON to hold half of a character, which cannot be written anywhere.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a character") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:40]}, which is too large")
    return value
