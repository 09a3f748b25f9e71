"""Which objects are wanted, and the lists that name them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...errors import ConfigError, DataError
from ..npy import map_npy
from ..pickles import holds_strings, load_string_array
from ..sdss import objid as objids
from ..survey import CLASSES, UNKNOWN
from .archive import FieldId

MAX_ROWS = 20_000_000
"""Longest list: more than all spectra of the survey."""

LARGEST = (1 << 63) - 1
"""Largest number that an identifier can be."""

_MAX_BYTES = 4 << 30
_MAX_LINE = 10_000


@dataclass(frozen=True)
class Targets:
    """The wanted objects.

    Parameters
    ----------
    objid : ndarray of int64, shape (N,)
        Identifiers, ascending, each once.
    label : ndarray of int8, shape (N,)
        Index into `CLASSES`, or `UNKNOWN`.
    columns : mapping of str to ndarray of shape (N,)
        What else is known of them; goes into the store.
    """

    objid: np.ndarray
    label: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.objid)

    @classmethod
    def make(
        cls, objid: np.ndarray, label: np.ndarray, columns: Mapping[str, np.ndarray] | None = None
    ) -> Targets:
        """Return targets in order; of an identifier that comes twice the first is taken.

        Raises
        ------
        DataError
            If a value is no SDSS identifier.
        """
        objids.decode(objid)
        rows = np.unique(objid, return_index=True)[1]
        return cls(
            objid[rows].astype(np.int64),
            label[rows].astype(np.int8),
            {name: values[rows] for name, values in (columns or {}).items()},
        )

    def select(self, which: np.ndarray) -> Targets:
        """Return those at `which` (ascending indices or a mask)."""
        columns = {name: values[which] for name, values in self.columns.items()}
        return Targets(self.objid[which], self.label[which], columns)

    def rows_of(self, objid: np.ndarray) -> np.ndarray:
        """Return the row of each identifier, all of which must be targets."""
        rows: np.ndarray = np.searchsorted(self.objid, objid)
        return rows

    def by_field(self) -> dict[FieldId, np.ndarray]:
        """Return the wanted identifiers of each field, fields in order."""
        if len(self) == 0:
            return {}
        parts = objids.decode(self.objid)
        keys = np.stack([parts.run, parts.camcol, parts.field, parts.rerun], axis=1)
        fields, which, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        ordered = self.objid[np.argsort(which.ravel(), kind="stable")]
        mine = np.split(ordered, np.cumsum(counts)[:-1])
        return {FieldId(*map(int, key)): ids for key, ids in zip(fields, mine, strict=True)}


def read_objids(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a list of identifiers.

    Parameters
    ----------
    path : str or Path
        ``.npy`` of integers, as MargNet's ``objlist_*.npy``; or text: one identifier a line, or CSV with a
        column ``objid`` and, if classes are known, ``class``.

    Returns
    -------
    objid : ndarray of int64, shape (N,)
        As they come.
    label : ndarray of int8, shape (N,) or None
        From the column ``class``, where there is one.

    Raises
    ------
    DataError
        If the file is not there, is no such list, is empty or too long, or an identifier is none.
    """
    path = Path(path)
    if path.suffix == ".npy":
        return _load_integers(path), None
    header, rows = _read_table(path, ("objid",))
    column = header.index("objid") if header else 0
    values = [_identifier(row[column], f"{path}, line {number}") for number, row in rows]
    objid = np.array(values, np.int64)
    _checked(objid, path)
    if not header or "class" not in header:
        return objid, None
    place = header.index("class")
    return objid, _labels([row[place] for _, row in rows], path)


def read_classes(path: str | Path, count: int) -> np.ndarray:
    """Read the classes that belong to a list of identifiers, row by row.

    Parameters
    ----------
    path : str or Path
        ``.npy`` of class names, as MargNet's ``y_exp1.npy`` (a pickle of it runs no code here), or of one-hot
        rows; or text, one class name a line.
    count : int
        How many there must be.

    Returns
    -------
    ndarray of int8, shape (count,)

    Raises
    ------
    DataError
        If the file is not there or holds something else.
    """
    path = Path(path)
    if path.suffix != ".npy":
        header, rows = _read_table(path, ("class",))
        place = header.index("class") if header else 0
        label = _labels([row[place] for _, row in rows], path)
    elif not path.is_file():
        raise DataError("is missing", where=path)
    elif holds_strings(path):
        label = _labels([str(name) for name in load_string_array(path)], path)
    else:
        label = _from_one_hot(path)
    if len(label) != count:
        raise DataError(f"has {len(label):,} classes", where=path, expected=f"{count:,}, one for each object")
    return label


def read_positions(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read positions: text with two numbers a line, or CSV with columns ``ra`` and ``dec`` in degrees.

    Returns
    -------
    ra, dec : ndarray of float64, shape (N,)

    Raises
    ------
    DataError
        If the file is not there, is no such list, is empty or too long, or a position is not on the sky.
    """
    path = Path(path)
    header, rows = _read_table(path, ("ra", "dec"))
    places = [header.index(name) for name in ("ra", "dec")] if header else [0, 1]
    values = np.empty((len(rows), 2))
    for k, (number, row) in enumerate(rows):
        try:
            values[k] = [float(row[place]) for place in places]
        except ValueError as error:
            raise DataError(
                f"{','.join(row)[:60]!r} is no position", where=f"{path}, line {number}", expected="degrees"
            ) from error
    good = (values[:, 0] >= 0) & (values[:, 0] < 360) & (np.abs(values[:, 1]) <= 90)
    if not good.all():
        number = rows[int(np.argmin(good))][0]
        raise DataError(
            "the position is not on the sky",
            where=f"{path}, line {number}",
            expected="0 <= ra < 360 and -90 <= dec <= 90 degrees",
        )
    return values[:, 0], values[:, 1]


def parse_fields(names: Iterable[str]) -> list[FieldId]:
    """Return fields named as ``run-camcol-field``, in order, each once.

    Raises
    ------
    ConfigError
        If a name is none.
    """
    found = set()
    for name in names:
        match = re.fullmatch(r"([0-9]{1,5})-([1-6])-([0-9]{1,4})", name)
        if match is None or int(match[1]) >= 1 << 16 or int(match[3]) >= 1 << 12:
            raise ConfigError(f"{name[:40]!r} is no field", expected="run-camcol-field, such as 94-1-12")
        found.add(FieldId(*map(int, match.groups())))
    return sorted(found)


def class_label(name: str) -> int:
    """Return the label of a class name; `UNKNOWN` for ``UNKNOWN`` and nothing.

    Raises
    ------
    KeyError
        If there is no such class.
    """
    return {**{known: k for k, known in enumerate(CLASSES)}, "UNKNOWN": UNKNOWN, "": UNKNOWN}[
        name.strip().upper()
    ]


def _labels(names: Sequence[str], path: Path) -> np.ndarray:
    label = np.empty(len(names), np.int8)
    for k, name in enumerate(names):
        try:
            label[k] = class_label(name)
        except KeyError:
            raise DataError(
                f"row {k} has the class {name[:40]!r}", where=path, expected=" | ".join(CLASSES)
            ) from None
    return label


def _from_one_hot(path: Path) -> np.ndarray:
    rows = map_npy(path)
    good = rows.ndim == 2 and rows.shape[1] == len(CLASSES) and rows.dtype.kind in "iufb"
    if not good or not (((rows == 0) | (rows == 1)).all() and (rows.sum(axis=1) == 1).all()):
        raise DataError(
            f"holds {rows.dtype} of shape {rows.shape}",
            where=path,
            expected=f"class names, or one-hot rows of shape (N, {len(CLASSES)})",
        )
    return np.asarray(rows.argmax(axis=1), np.int8)


def _load_integers(path: Path) -> np.ndarray:
    values = map_npy(path)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(
            f"holds {values.dtype} of shape {values.shape}", where=path, expected="integers of shape (N,)"
        )
    _checked(values, path)
    return values.astype(np.int64)


def _checked(objid: np.ndarray, path: Path) -> None:
    if not 0 < len(objid) <= MAX_ROWS:
        raise DataError(f"lists {len(objid):,} objects", where=path, expected=f"1 to {MAX_ROWS:,}")
    try:
        objids.decode(objid)
    except DataError as error:
        raise DataError(
            error.what, where=f"{path}, {error.where}", expected=error.expected, mend=error.mend
        ) from None


def _identifier(text: str, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text.strip()) or int(text) > LARGEST:
        rounded = re.fullmatch(r"[0-9.]+[eE]\+?[0-9]+|[0-9]+\.[0-9]*", text.strip()) is not None
        raise DataError(
            f"{text[:40]!r} is no object identifier",
            where=where,
            expected="a whole number of 19 digits",
            mend="It was rounded: write identifiers as whole numbers or text." if rounded else None,
        )
    return int(text)


def _read_table(path: Path, needed: Sequence[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, if there is one, and the rows with their line numbers; ``#`` begins a comment."""
    rows: list[tuple[int, list[str]]] = []
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError("is too large for a list", where=path, expected=f"up to {_MAX_BYTES:,} bytes")
        with open(path, encoding="utf-8-sig", newline="") as file:
            # A line at a time, and of one without end no more than is needed to refuse it.
            for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE + 1), ""), 1):
                if len(line) > _MAX_LINE or len(rows) > MAX_ROWS:
                    raise DataError("is no list of objects", where=f"{path}, line {number}")
                text = line.strip()
                if text and not text.startswith("#"):
                    cells = next(csv.reader([text])) if "," in text else text.split()
                    rows.append((number, [cell.strip() for cell in cells]))
    except FileNotFoundError as error:
        raise DataError("is missing", where=path) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as text ({error})", where=path) from error
    header = [name.lower() for name in rows[0][1]] if rows else []
    if all(name in header for name in needed):
        rows = rows[1:]
    elif any(re.search("[A-Za-z]{2}", cell) for cell in header) and needed != ("class",):
        raise DataError(f"has no column {needed[0]!r}", where=path, expected=", ".join(needed))
    else:
        header = []
    if not rows:
        raise DataError("the list is empty", where=path)
    width = len(header) or len(needed)
    for number, row in rows:
        if len(row) < width:
            raise DataError(
                f"has {len(row)} cells", where=f"{path}, line {number}", expected=f"{width} or more"
            )
    return header, rows
