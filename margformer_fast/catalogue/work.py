"""Work in pieces that survives being killed: a folder beside the output with what is finished."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..data.npy import read_npz
from ..errors import DataError, OutputError
from ..files import atomic_file, read_record, write_json
from .outputs import Rows

_MAX_BYTES = 16 << 30
"""Largest file of a finished piece; one of a million rows has a hundredth of it."""


class Work:
    """Finished pieces of one output; made by :func:`open_work`."""

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.folder, self.record = folder, record

    def _file(self, piece: int) -> Path:
        return self.folder / f"{piece:06d}.npz"

    def load(self, piece: int, length: int) -> Rows | None:
        """Return the results of a piece, or None if it is not finished, or its file is damaged."""
        try:
            rows = read_npz(self._file(piece), _MAX_BYTES)
        except DataError:
            return None
        return rows if rows and all(value.shape[:1] == (length,) for value in rows.values()) else None

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
        if file.exists():
            before = read_record(file, "settings", "start", mend="Remove its folder to begin anew.")
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
