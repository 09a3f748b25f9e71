"""Files that are either whole or absent: atomic writes, hashes and JSON."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import DataError, OutputError


def _explain(error: OSError, path: Path) -> OutputError:
    """Turn an operating-system error met while writing `path` into one line with a way out."""
    return OutputError(
        f"cannot be written: {error.strerror or error}",
        where=path,
        mend="Free some space or choose another place; nothing was left half written.",
    )


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and takes the place of `path`.

    Raises
    ------
    OutputError
        If the file cannot be written (disk full, no permission). The temporary file is removed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise _explain(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success it becomes `path`.

    Parameters
    ----------
    path : str or Path
        The directory to make.
    overwrite : bool
        Replace a directory that is already there. The old one stays until the new one is complete.

    Raises
    ------
    OutputError
        If `path` exists and `overwrite` is false, or if writing fails. Nothing is left behind.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputError("already exists", where=path, mend="Choose another place, or pass --overwrite.")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb+") as handle:
                    os.fsync(handle.fileno())
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise _explain(error, path) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


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
        If the file is missing or does not hold JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("is missing", where=path) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"does not hold JSON ({error})", where=path) from error
