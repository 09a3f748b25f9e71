"""The wanted objects of a request: a list, positions, or the database's spectroscopic sample."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...errors import DataError, FetchError
from ...files import atomic_file
from ..sdss import objid as objids
from ..splits import object_hash
from ..survey import CLASSES, UNKNOWN
from . import query
from .skyserver import Rows, SkyServer, parse
from .targets import LARGEST, Targets, class_label

MAX_RUN = 8191
"""No scan has a higher number; the last is 8162."""

RUNS_AT_ONCE = 64
"""Scans in one query, so that none runs into the database's time limit."""

_SPECTRUM = "U20"  # specObjID exceeds 63 bits
_MAX_PAGES = 100_000

Answer = TypeVar("Answer")

Told = Callable[[int], object]
"""Called with the number of objects that were learnt of."""


def _ignore(_: int) -> None:
    pass


def spectroscopic(
    server: SkyServer,
    population: str,
    folder: Path,
    *,
    rows: int = 20_000,
    progress: Told = _ignore,
) -> Targets:
    """Return the spectroscopic sample: a page at a time, each kept, so that a killed command goes on.

    Pages follow one another by identifier. A strip of scans ends with an empty page, not with a short one: a
    database that returns fewer rows than it was asked for loses none so.

    Parameters
    ----------
    server : SkyServer
        The database.
    population : str
        Which cuts: see :func:`query.sample`.
    folder : Path
        Where pages are kept.
    rows : int
        Rows of a page, at most.
    progress : callable
        Told how many objects came.

    Returns
    -------
    Targets
        With the columns ``specobjid``, ``redshift``, ``redshift_err``, ``sql_compactness`` and
        ``sql_mean_mag``. Of an object with two spectra the one with the lower number is taken.

    Raises
    ------
    FetchError
        If the database does not answer, or not with what was asked.
    DataError
        If no object was found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Targets] = []
    for first in range(0, MAX_RUN + 1, RUNS_AT_ONCE):
        least, largest = object_range(range(first, first + RUNS_AT_ONCE))
        after = least - 1
        for page in range(_MAX_PAGES):
            path = folder / f"page-{first:04d}-{page:05d}.csv"
            sql = query.sample(population, after, largest, rows)
            read = functools.partial(_read_page, after=after, largest=largest, where=path)
            new = _page(server, path, sql, query.SAMPLE_COLUMNS, read)
            if len(new) == 0:
                break
            found.append(new)  # a page of arrays takes a tenth of its text
            progress(len(new))
            after = int(new.objid[-1])
    if not found:
        raise DataError("the database has no object of the sample", where=population)
    return Targets.make(
        np.concatenate([part.objid for part in found]),
        np.concatenate([part.label for part in found]),
        {name: np.concatenate([part.columns[name] for part in found]) for name in found[0].columns},
    )


def classes(server: SkyServer, objid: np.ndarray, folder: Path, *, progress: Told = _ignore) -> Targets:
    """Return objects with their spectroscopic classes; `UNKNOWN` without a spectrum or with a bad one.

    Parameters are as for :func:`spectroscopic`, with the identifiers in place of cuts.

    Returns
    -------
    Targets
        With the columns ``specobjid``, ``redshift`` and ``redshift_err``.

    Raises
    ------
    FetchError
        If the database does not answer, or not with what was asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    objid = np.unique(objid)
    found: Rows = []
    for start in range(0, len(objid), query.CLASSES_AT_ONCE):
        asked = objid[start : start + query.CLASSES_AT_ONCE]
        path = folder / f"classes-{start:08d}.csv"
        read = functools.partial(_read_classes, asked=set(asked.tolist()), where=path)
        found += _page(server, path, query.classes(asked), query.CLASS_COLUMNS, read)
        progress(len(asked))
    known: dict[int, list[str]] = {}
    for row in found:
        known.setdefault(_whole(row[0], folder), row)  # the lower number of two spectra
    blank = ["", "", "", "nan", "nan"]
    table = [known.get(int(value), blank) for value in objid]
    return Targets.make(objid, _classes(row[2] for row in table), _columns(table, folder))


def near(
    server: SkyServer,
    ra: np.ndarray,
    dec: np.ndarray,
    radius_arcsec: float,
    folder: Path,
    *,
    progress: Told = _ignore,
) -> tuple[Targets, np.ndarray]:
    """Return the primary object nearest to each position, and which positions have none.

    Parameters
    ----------
    server, folder, progress
        As for :func:`spectroscopic`.
    ra, dec : ndarray of float64, shape (N,)
        Degrees (ICRS).
    radius_arcsec : float
        How far an object may be.

    Returns
    -------
    targets : Targets
        Of unknown class, with the columns ``target``, the row of the position from 0, and
        ``separation_arcsec``. An object that is nearest to several positions goes with the closest.
    missed : ndarray of int64
        Rows of the positions without an object.

    Raises
    ------
    FetchError
        If the database does not answer, or not with what was asked.
    DataError
        If no position has an object.
    """
    folder.mkdir(parents=True, exist_ok=True)
    best: dict[int, tuple[float, int]] = {}
    for start in range(0, len(ra), query.NEAR_AT_ONCE):
        asked = range(start, min(start + query.NEAR_AT_ONCE, len(ra)))
        path = folder / f"near-{start:08d}.csv"
        sql = query.near(list(asked), ra[asked], dec[asked], radius_arcsec)
        read = functools.partial(_read_near, asked=asked, where=path)
        for k, identifier, a, d in _page(server, path, sql, query.NEAR_COLUMNS, read):
            distance = separation_arcsec(ra[k], dec[k], a, d)
            if distance <= radius_arcsec:
                best[k] = min(best.get(k, (np.inf, 0)), (distance, identifier))
        progress(len(asked))
    missed = np.array([k for k in range(len(ra)) if k not in best], np.int64)
    if not best:
        raise DataError(
            f"no object is within {radius_arcsec:g} arcsec of any of the {len(ra):,} positions",
            where=folder,
            mend="Are they degrees, of the survey's area? --radius widens the search.",
        )
    order = sorted(best, key=lambda k: best[k])  # the closest first
    objid = np.array([best[k][1] for k in order], np.int64)
    columns = {
        "target": np.array(order, np.int64),
        "separation_arcsec": np.array([best[k][0] for k in order]),
    }
    return Targets.make(objid, np.full(len(order), UNKNOWN, np.int8), columns), missed


def separation_arcsec(ra1: float, dec1: float, ra2: float, dec2: float) -> float:
    """Return the angle between two positions in degrees, in arcsec (haversine formula)."""
    a1, d1, a2, d2 = np.radians([ra1, dec1, ra2, dec2])
    h = np.sin((d2 - d1) / 2) ** 2 + np.cos(d1) * np.cos(d2) * np.sin((a2 - a1) / 2) ** 2
    return float(np.degrees(2 * np.arcsin(np.sqrt(min(h, 1.0)))) * 3600)


def object_range(runs: Iterable[int]) -> tuple[int, int]:
    """Return the least and the largest identifier that objects of consecutive runs can have."""
    runs = sorted(runs)
    least = int(objids.encode(runs[0], 1, 0, 0))
    largest = int(objids.encode(runs[-1], 6, (1 << 12) - 1, (1 << 16) - 1, first_field=1))
    return least, largest


def per_class(targets: Targets, count: int, seed: int) -> Targets:
    """Return at most `count` objects of each class, chosen by a hash of their identifiers and a seed."""
    ranked = np.argsort(object_hash(targets.objid, seed), kind="stable")
    chosen = [ranked[targets.label[ranked] == label][:count] for label in range(UNKNOWN, len(CLASSES))]
    return targets.select(np.sort(np.concatenate(chosen)))


def _page(
    server: SkyServer, path: Path, sql: str, columns: Sequence[str], read: Callable[[Rows], Answer]
) -> Answer:
    """Return what `read` makes of an answer, which is kept at `path` once it is understood."""
    kept = path.is_file()
    answer = path.read_bytes() if kept else server.ask(sql)
    try:
        value = read(parse(answer, columns, str(path)))
    except FetchError:
        path.unlink(missing_ok=True)  # another try must not stumble over it
        raise
    if not kept:
        with atomic_file(path) as temporary:
            temporary.write_bytes(answer)
    return value


def _read_page(rows: Rows, *, after: int, largest: int, where: Path) -> Targets:
    identifiers = [_whole(row[0], where) for row in rows]
    if (rows and not after < identifiers[0] <= identifiers[-1] <= largest) or identifiers != sorted(
        identifiers
    ):
        raise FetchError(
            "the database's answer is out of order or of other objects",
            where=where,
            mend="Run the same command again.",
        )
    return _spectra(rows, where)


def _read_classes(rows: Rows, *, asked: set[int], where: Path) -> Rows:
    if not {_whole(row[0], where) for row in rows} <= asked:
        raise FetchError(
            "the database answered about other objects", where=where, mend="Run the same command again."
        )
    _classes(row[2] for row in rows)
    _columns(rows, where)
    return rows


def _read_near(rows: Rows, *, asked: range, where: Path) -> list[tuple[int, int, float, float]]:
    found = [
        (_whole(k, where), _whole(identifier, where), _number(a, where), _number(d, where))
        for k, identifier, a, d in rows
    ]
    for k, *_ in found:
        if k not in asked:
            raise FetchError(f"the database answered about position {k}", where=where)
    return found


def _spectra(found: Rows, folder: Path) -> Targets:
    objid = np.array([_whole(row[0], folder) for row in found], np.int64)
    columns = _columns([[row[0], row[3], row[4], row[5], row[6]] for row in found], folder)
    columns["sql_compactness"] = np.array([_number(row[7], folder) for row in found])
    columns["sql_mean_mag"] = np.array([_number(row[8], folder) for row in found])
    return Targets.make(objid, _classes(row[4] for row in found), columns)


def _columns(table: Rows, folder: Path) -> dict[str, np.ndarray]:
    for row in table:
        if not re.fullmatch(r"[0-9]{0,20}", row[1]):
            raise FetchError(f"{row[1][:40]!r} is no identifier of a spectrum", where=folder)
    return {
        "specobjid": np.array([row[1] for row in table], _SPECTRUM),
        "redshift": np.array([_number(row[3], folder) for row in table]),
        "redshift_err": np.array([_number(row[4], folder) for row in table]),
    }


def _classes(names: Iterable[str]) -> np.ndarray:
    label = []
    for name in names:
        try:
            label.append(class_label(name))
        except KeyError:
            raise FetchError(
                f"the database knows a class {name[:40]!r}", expected=" | ".join(CLASSES)
            ) from None
    return np.array(label, np.int8)


def _whole(text: str, where: Path) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) > LARGEST:
        raise FetchError(f"{text[:40]!r} is no identifier", where=where, expected="a whole number")
    return int(text)


def _number(text: str, where: Path) -> float:
    try:
        return float(text)
    except ValueError:
        raise FetchError(f"{text[:40]!r} is no number", where=where) from None
