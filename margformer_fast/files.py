"""Files that are either whole or absent: atomic writes, hashes and JSON."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import DataError, OutputError, OutputInUse

MAX_JSON_BYTES = 1 << 26
"""Largest JSON file read; what the package writes has a hundredth of it."""


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and takes the place of `path`.

    It lies in a folder ``.NAME.part`` that is locked meanwhile. A process that is killed outright leaves that
    folder behind; the next one that writes the same file takes it over.

    Raises
    ------
    OutputInUse
        If another process is writing `path`.
    OutputError
        If the file cannot be written (disk full, no permission). The temporary file is removed. Errors of
        the block that are not about writing the file pass as they are.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a directory, or a device, which a rename would do away with
        raise OutputError("is no regular file", where=path, mend="Choose another place.")
    with _explained(path):
        folder, lock = _make_part(path)
    temporary = folder / path.name
    try:
        with _explained(path, folder):
            yield temporary
        with _explained(path):
            replace_file(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def atomic_directory(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success it becomes `path`.

    It is called ``.NAME.part`` and locked meanwhile. A process that is killed outright leaves it behind; the
    next one that makes the same directory takes it over.

    Parameters
    ----------
    path : str or Path
        The directory to make.
    overwrite : bool
        Replace a directory that is already there. The old one stays until the new one is complete; then they
        change places in one step, where the file system can do that.

    Raises
    ------
    OutputInUse
        If another process is making `path`.
    OutputError
        If `path` exists and `overwrite` is false, or if writing fails. Nothing is left behind. Errors of
        the block that are not about writing the directory pass as they are.
    """
    path = Path(path)
    _refuse_existing(path, overwrite)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _make_part(path)
    try:
        _put_back(path)
        _refuse_existing(path, overwrite)  # it may have been finished between the first look and the lock
        with _explained(path, temporary):
            yield temporary
        with _explained(path):
            replace_directory(temporary, path, overwrite=overwrite)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


@contextmanager
def held(folder: Path, *, output: Path | None = None) -> Iterator[None]:
    """Hold a folder for this process alone, as long as the block runs; it is made if it is not there.

    Where the file system has no locks, as some over a network have none, nothing is held.

    Parameters
    ----------
    folder : Path
        What is locked.
    output : Path, optional
        What a message names in its place.

    Raises
    ------
    OutputInUse
        If another process holds it.
    OutputError
        If it cannot be made or opened.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock, _ = _claim(folder, output or folder)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}", where=output or folder, mend="Choose another --out."
        ) from error
    try:
        yield
    finally:
        os.close(lock)


def replace_file(temporary: Path, path: Path) -> None:
    """Put a finished file in the place of `path`, on the same file system: synced first, then renamed."""
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def replace_directory(temporary: Path, path: Path, *, overwrite: bool = True) -> None:
    """Put a finished directory in the place of `path`, as :func:`replace_file` does.

    What was there before is at `temporary` afterwards, or gone.
    """
    for each in (*temporary.rglob("*"), temporary):
        if each.is_file() or each.is_dir():
            _sync(each)
    _take_place(temporary, path, overwrite)
    _sync(path.parent)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise OutputError("already exists", where=path, mend="Choose another place, or pass --overwrite.")
    if path.exists() and not path.is_dir():
        raise OutputError("is a file", where=path, expected="a directory, or nothing, to be there")


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


def _claim(folder: Path, output: Path) -> tuple[int, bool]:
    """Open a folder, made if need be, and lock it; return the handle and whether there are locks there."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # whoever had it has just finished
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise OutputInUse(
                "another process is at work on it",
                where=output,
                mend="Wait for it, or choose another place.",
            ) from error
        except OSError:
            return lock, False
        with suppress(FileNotFoundError):
            # Else it was removed, or became the output, between opening and locking.
            if os.path.samestat(os.fstat(lock), folder.stat()):
                return lock, True
        os.close(lock)


def _make_part(path: Path) -> tuple[Path, int]:
    """Make ``.NAME.part`` beside `path`, empty and locked; the lock lasts as long as the process."""
    # Not mkdtemp, which would deny the finished directory to everybody else.
    part = path.with_name(f".{path.name}.part")
    lock, alone = _claim(part, path)
    if not alone:  # without locks only a name of its own keeps others out
        os.close(lock)
        with suppress(OSError):  # somebody else's, perhaps
            part.rmdir()
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        lock, _ = _claim(part, path)
    try:
        for left in part.iterdir():  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    except BaseException:
        os.close(lock)
        raise
    return part, lock


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _put_back(path: Path) -> None:
    """Clear up after a process that was killed while it exchanged directories in two steps."""
    old = _aside(path)
    if old.exists():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(path)


def _take_place(temporary: Path, path: Path, overwrite: bool) -> None:
    """Rename `temporary` to `path`; a directory already there is under the other name afterwards, or gone."""
    if not (overwrite and path.exists()):
        temporary.rename(path)  # fails if another process has made `path` meanwhile
        return
    if _exchange(temporary, path):
        return
    old = _aside(path)
    path.rename(old)
    try:
        temporary.rename(path)
    except BaseException:
        if not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; return False where the system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sync(path: Path) -> None:
    """Make what was written to a file, or the names in a directory, durable."""
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
    """Return what JSON says, strictly: numbers that a float holds, whole characters, an end of nesting.

    Raises
    ------
    ValueError
        If it is no such JSON.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
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


def _whole(text: str) -> int:
    value = int(text)
    if (
        abs(value) > sys.float_info.max
    ):  # Python has such, and raises where one is taken for a number like others
        raise ValueError(f"it holds {text[:40]}..., which is too large")
    return value
