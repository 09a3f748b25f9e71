"""Work in pieces that survives being killed: a folder beside the output with what is finished."""

from __future__ import annotations

import fcntl
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, OutputError
from ..files import atomic_file, read_json, write_json
from .outputs import Rows


class Work:
    """Finished pieces of one output; made by :func:`open_work`."""

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.folder, self.record = folder, record

    def _file(self, piece: int) -> Path:
        return self.folder / f"{piece:06d}.npz"

    def load(self, piece: int, length: int) -> Rows | None:
        """Return the results of a piece, or None if it is not finished, or its file is damaged."""
        try:
            # Read whole: of a damaged file NumPy forgets to close the handle.
            content = BytesIO(self._file(piece).read_bytes())
            with np.load(content, allow_pickle=False) as stored:
                rows = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None
        return rows if rows and all(len(value) == length for value in rows.values()) else None

    def save(self, piece: int, rows: Rows) -> None:
        """Keep the results of a piece, whole or not at all."""
        with atomic_file(self._file(piece)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **rows)  # type: ignore[arg-type]

    def finished(self, lengths: tuple[int, ...]) -> list[int]:
        """Return the pieces that are done."""
        return [piece for piece, length in enumerate(lengths) if self.load(piece, length) is not None]

    def remove(self) -> None:
        """Remove the folder, once the output is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def open_work(out: Path, settings: Mapping[str, Any], start: Mapping[str, Any]) -> Iterator[Work]:
    """Make the folder ``.NAME.classify`` beside an output, or go on with that of an interrupted command.

    Parameters
    ----------
    out : Path
        The output.
    settings : mapping
        What results depend on; JSON-able.
    start : mapping
        What is fixed when work begins, such as the date.

    Raises
    ------
    OutputError
        If another process works on the same output, or the folder cannot be made.
    DataError
        If the folder is of another input or of other settings.
    """
    folder = out.with_name(f".{out.name}.classify")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}", where=out, mend="Choose another --out."
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                "another process is working on it", where=out, mend="Wait for it, or choose another --out."
            ) from error
        file = folder / "work.json"
        # A command that ended before its first piece has nothing to lose: another one may begin.
        if file.exists() and any(folder.glob("*.npz")):
            before = read_json(file)
            changed = sorted(key for key in settings if before["settings"].get(key) != settings[key])
            if changed:
                raise DataError(
                    f"was begun with another {', '.join(changed)}",
                    where=folder,
                    mend="Give the same input, model and options, or remove this folder to begin anew.",
                )
            start = before["start"]
        else:
            write_json(file, {"settings": dict(settings), "start": dict(start)})
        yield Work(folder, start)
    finally:
        os.close(lock)
