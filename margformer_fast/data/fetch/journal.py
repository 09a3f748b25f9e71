"""The folder of a request while it is worked on: what has been done, written so that a kill leaves no doubt.

=====================  ==============================================================================
``request.json``       what was asked for; another request does not go on in the same folder
``targets.npz``        the wanted objects, once they are known
``answers/``           answers of the database, page by page
``journal.jsonl``      a line for each field that is done, or could not be had: appended, synced
``pieces/RUN/``        the stamps and columns of a field, written whole or not at all, before its line
``incoming/``          files on their way, one folder a field; removed when the field is cut
``files/RUN/CAMCOL/``  files of finished fields, where they are kept
``finished``           the store is written, and the rest is being removed
=====================  ==============================================================================

A field counts as done if its line is there and its piece has the bytes of which the line tells. A line that
was cut short is none. So a field is cut again, or not, but never half, and never twice into one store.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import ConfigError, DataError, FetchError, OutputError
from ...files import atomic_file, held, read_json, sha256_file, write_json
from ..npy import read_npz
from .archive import FieldId
from .targets import Targets

_REQUEST, _TARGETS, _JOURNAL, _FINISHED = "request.json", "targets.npz", "journal.jsonl", "finished"

_MAX_BYTES = 8 << 30
"""Largest file of arrays: the wanted objects of a longest list, or the stamps of a field."""


@dataclass(frozen=True)
class Entry:
    """What the journal says of one field.

    Parameters
    ----------
    field : str
        ``run-camcol-field``.
    kept : int
        Objects kept; -1 if the field could not be had.
    sha256 : str
        Of its piece.
    failure : str
        Why it could not be had.
    """

    field: str
    kept: int
    sha256: str = ""
    failure: str = ""


class Journal:
    """The folder of one request, held by one process at a time.

    Parameters
    ----------
    folder : Path
        The folder; made if it is not there.
    request : mapping
        What is asked for; JSON-able.

    Raises
    ------
    ConfigError
        If the folder is of another request.
    OutputInUse
        If another process holds it.
    OutputError
        If it cannot be written.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self.folder = folder
        with contextlib.ExitStack() as stack:
            stack.enter_context(held(folder))
            self._claim(request)
            self._held = stack.pop_all()
        self._writing = threading.Lock()
        self._file: IO[bytes] | None = None
        self.entries = self._read()

    def _claim(self, request: Mapping[str, Any]) -> None:
        path = self.folder / _REQUEST
        wanted = json.loads(json.dumps(dict(request)))
        if not path.exists():
            # But for what a command left that was killed while it wrote the request.
            if any(item.name != f".{_REQUEST}.part" for item in self.folder.iterdir()):
                raise ConfigError(
                    "holds something else", where=self.folder, mend="Empty it, or choose another --out."
                )
            write_json(path, wanted)
            return
        found = read_json(path)
        found = found if isinstance(found, dict) else {}
        if not any(item.is_file() and item != path for item in self.folder.rglob("*")):
            write_json(path, wanted)  # nothing came of the earlier request
            return
        other = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
        if other:
            raise ConfigError(
                f"work on another request is there: it differs in {', '.join(sorted(other))}",
                where=self.folder,
                mend="Repeat the first command, choose another --out, or remove the folder.",
            )

    def close(self) -> None:
        """Let go of the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._held.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    @property
    def answers(self) -> Path:
        """Folder of the database's answers."""
        return self.folder / "answers"

    def incoming(self, of: FieldId) -> Path:
        """Return the folder for a field's files while they are fetched and read."""
        return self.folder / "incoming" / of.name

    def files(self, of: FieldId) -> Path:
        """Return the folder in which a field's files are kept."""
        return self.folder / "files" / str(of.run) / str(of.camcol)

    def piece(self, of: FieldId) -> Path:
        """Return where the stamps and columns of a field are."""
        return self.folder / "pieces" / str(of.run) / f"{of.name}.npz"

    def targets(self) -> Targets | None:
        """Return the wanted objects as they were put down, or None."""
        path = self.folder / _TARGETS
        if not path.exists():
            return None
        arrays = read_arrays(path)
        try:
            objid, label = arrays.pop("objid"), arrays.pop("label")
        except KeyError as error:
            raise DataError(f"lacks {error}", where=path, mend="Remove it.") from error
        return Targets(objid, label, arrays)

    def keep_targets(self, targets: Targets) -> None:
        """Put down the wanted objects."""
        path = self.folder / _TARGETS
        write_arrays(path, {"objid": targets.objid, "label": targets.label, **targets.columns})

    def done(self, fields: Iterable[FieldId]) -> set[FieldId]:
        """Return those of `fields` that need not be fetched: with a line, and a piece that is there."""
        return {
            field
            for field in fields
            if (entry := self.entries.get(field.name)) is not None
            and entry.kept >= 0
            and self.piece(field).is_file()
        }

    def failures(self, fields: Iterable[FieldId]) -> dict[FieldId, str]:
        """Return the fields that could not be had, and why."""
        return {
            field: entry.failure
            for field in fields
            if (entry := self.entries.get(field.name)) is not None and entry.kept < 0
        }

    def finish(self, of: FieldId, arrays: Mapping[str, np.ndarray], kept: int) -> None:
        """Put down a field's piece, then its line."""
        path = self.piece(of)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, arrays)
        self._append(Entry(of.name, kept, sha256=sha256_file(path)))

    def fail(self, of: FieldId, failure: str) -> None:
        """Put down that a field could not be had; the next command tries it again."""
        self._append(Entry(of.name, -1, failure=failure))

    def read_piece(self, of: FieldId) -> dict[str, np.ndarray]:
        """Return what :meth:`finish` put down.

        Raises
        ------
        FetchError
            If it was damaged since. It is removed, so that the next command makes it again.
        """
        path, entry = self.piece(of), self.entries[of.name]
        if not path.is_file() or sha256_file(path) != entry.sha256:
            path.unlink(missing_ok=True)
            raise FetchError(
                "is damaged, and was removed", where=path, mend="Run the same command again to make it anew."
            )
        return read_arrays(path)

    @property
    def finished(self) -> bool:
        """Whether the store is written, and only :meth:`clear` was cut short."""
        return (self.folder / _FINISHED).exists()

    def clear(self) -> None:
        """Remove what the store now has; the whole folder, unless files are kept in it."""
        (self.folder / _FINISHED).touch()
        if (self.folder / "files").exists():
            for name in ("pieces", "incoming", "answers"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            for name in (_JOURNAL, _TARGETS, _FINISHED):
                (self.folder / name).unlink(missing_ok=True)
            return
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in (_FINISHED, _REQUEST):
                path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, entry: Entry) -> None:
        line = json.dumps({key: value for key, value in vars(entry).items() if value != ""}) + "\n"
        path = self.folder / _JOURNAL
        with self._writing:
            try:
                if self._file is None:
                    self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
                    if self._file.tell() and not path.read_bytes().endswith(b"\n"):
                        self._file.write(b"\n")  # after a line that a kill has cut short
                self._file.write(line.encode())
                os.fsync(self._file.fileno())
            except OSError as error:
                raise OutputError(
                    f"cannot be written: {error.strerror}", where=path, mend="Free some space and try again."
                ) from error
            self.entries[entry.field] = entry

    def _read(self) -> dict[str, Entry]:
        """Return the last line of each field; lines that are none are passed over."""
        path = self.folder / _JOURNAL
        entries = {}
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return {}
        for line in text.splitlines():
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                continue
            if isinstance(entry.field, str) and isinstance(entry.kept, int):
                entries[entry.field] = entry
        return entries


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, atomically."""
    named: dict[str, Any] = dict(arrays)
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **named)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return what :func:`write_arrays` wrote; nothing is unpickled.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    try:
        return read_npz(path, _MAX_BYTES)
    except DataError as error:
        raise DataError(error.what, where=error.where, expected=error.expected, mend="Remove it.") from error
