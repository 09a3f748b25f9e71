"""Work in pieces that survives being killed: a folder beside the output with what is finished."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..data.npy import read_npz
from ..errors import DataError, OutputError
from ..files import atomic_file, held, read_json, read_record, write_json
from .outputs import Rows

_WRITTEN = "written.json"

_MAX_BYTES = 16 << 30
"""Largest file of a finished piece; one of a million rows has a hundredth of it."""


def _identity(path: Path) -> dict[str, int]:
    about = path.stat()
    return {"device": about.st_dev, "inode": about.st_ino, "mtime_ns": about.st_mtime_ns}


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

    def writes(self, temporary: Path) -> None:
        """Note which file, or directory, is to become the output: the one thing that a rename keeps."""
        write_json(self.folder / _WRITTEN, _identity(temporary))

    def wrote(self, out: Path) -> bool:
        """Return whether the output is the one that :meth:`writes` was told of."""
        try:
            return read_json(self.folder / _WRITTEN) == _identity(out)
        except (DataError, OSError):
            return False

    def clear(self) -> None:
        """Forget what was finished."""
        for each in self.folder.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()

    def remove(self) -> None:
        """Remove the folder, once the output is written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def work_folder(out: Path) -> Path:
    """Return where the finished pieces of an output are, while it is made."""
    return out.with_name(f".{out.name}.classify")


@contextmanager
def open_work(
    out: Path, settings: Mapping[str, Any], start: Mapping[str, Any], *, overwrite: bool = False
) -> Iterator[Work]:
    """Make the folder ``.NAME.classify`` beside an output, or go on with that of an interrupted command.

    If the block fails before a piece is finished the folder is removed.

    Parameters
    ----------
    out : Path
        The output.
    settings : mapping
        What results depend on; JSON-able.
    start : mapping
        What is fixed when work begins, such as the date.
    overwrite : bool
        Whether an output that is there may be replaced.

    Raises
    ------
    OutputInUse
        If another process works on the same output.
    OutputError
        If the output is there and not to be replaced, or the folder cannot be made.
    DataError
        If the folder is of another input or of other settings.
    """
    folder = work_folder(out)
    with held(folder, output=out):
        work = Work(folder, {})
        try:
            work.record = _record_of(work, out, settings, start, overwrite)
            yield work
        except BaseException:
            if not any(folder.glob("*.npz")):
                work.remove()
            raise


def _record_of(
    work: Work, out: Path, settings: Mapping[str, Any], start: Mapping[str, Any], overwrite: bool
) -> Mapping[str, Any]:
    """Return what was fixed when work began: now, or in a command before."""
    file = work.folder / "work.json"
    changed: list[str] = []
    if file.exists():
        before = read_record(file, "settings", "start", mend="Remove its folder to begin anew.")
        changed = sorted(key for key in settings if before["settings"].get(key) != settings[key])
        if work.wrote(out):
            if not changed:
                return before["start"]  # that command was killed when all was done
            work.clear()
    if out.exists() and not overwrite:
        raise OutputError("already exists", where=out, mend="Choose another place, or pass --overwrite.")
    if file.exists():
        if changed:
            raise DataError(
                f"was begun with another {', '.join(changed)}",
                where=work.folder,
                mend="Give the same input, model and options, or remove this folder to begin anew.",
            )
        return before["start"]
    write_json(file, {"settings": dict(settings), "start": dict(start)})
    return start
