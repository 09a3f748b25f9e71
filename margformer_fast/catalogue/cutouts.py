"""Small FITS files as a catalogue: a stamp an object, and features from a table beside them, if any."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..data.cutouts import find_cutouts, read_cutouts
from ..data.measurements import STAMP, read_table
from ..data.store import is_store
from ..data.survey import SurveyProfile
from ..errors import DataError
from .inputs import Columns, Source, cut

_FITS = re.compile(r"\.(fits|fit|fts)(\.(fz|gz|bz2))?$")

_log = logging.getLogger(__name__)

_Files = Mapping[str, tuple[str, ...]]


def holds_cutouts(path: Path) -> bool:
    """Whether a path is a pattern of cut-outs, or a folder of FITS files, neither a store nor frames."""
    if "{id}" in str(path):
        return True
    if not path.is_dir() or is_store(path) or next(path.rglob("*.parquet"), None) is not None:
        return False
    names = [each.name for each in path.iterdir()]
    return any(_FITS.search(name) for name in names) and not any(name.startswith("frame-") for name in names)


def open_cutouts(
    where: Path, profile: SurveyProfile, size: int, *, chunk: int, table: Source | None = None
) -> Source:
    """Describe cut-outs, and the rows that belong to them.

    Parameters
    ----------
    where : Path
        A folder, or a pattern with ``{id}`` and perhaps ``{band}`` in it: see
        :func:`margformer_fast.data.cutouts.find_cutouts`. Planes are the survey's bands, in its flux unit.
    profile : SurveyProfile
        Bands and features of the model.
    size : int
        Side of its stamps.
    chunk : int
        Objects that are in memory together.
    table : Source, optional
        Features, and perhaps positions, of the objects; read whole. Its ``objid`` is what stands for
        ``{id}``.
        Its rows come first, in their order, with a stamp or without; then the files that it does not name.

    Raises
    ------
    DataError
        If there are no files, an object lacks a band, or the table names none of them.
    """
    files = find_cutouts(where, profile.bands)
    columns = {} if table is None else _whole(table, profile)
    named = columns.pop("objid", np.array([], str)).tolist()
    if table is not None and not any(name in files for name in named):
        raise DataError(
            f"names none of the {len(files)} cut-outs",
            where=table.files[0],
            expected=f"a column objid, or --columns objid=COLUMN, with {next(iter(files))} and so on",
        )
    known = set(named)
    names = [*named, *(name for name in files if name not in known)]
    parts = cut(len(names), chunk)
    identity = np.array([int(name) for name in names]) if all(map(_is_number, names)) else np.array(names)

    def read(k: int) -> Iterator[Columns]:
        start, stop = parts[k]
        missing = np.full(max(stop - max(start, len(named)), 0), np.nan)  # rows of a file alone
        found = {name: np.append(value[start:stop], missing) for name, value in columns.items()}
        yield {
            "objid": identity[start:stop],
            **found,
            STAMP: _stamps(names[start:stop], files, profile, size),
        }

    paths = [Path(file) for of_object in files.values() for file in of_object]
    return Source(
        f"{len(files)} cut-outs {where}" + ("" if table is None else f" with {table.name}"),
        tuple(stop - start for start, stop in parts),
        read,
        (*paths, *(() if table is None else table.files)),
    )


def _whole(table: Source, profile: SurveyProfile) -> dict[str, np.ndarray]:
    """Return the columns of all rows of a table but their stamps; objid as text, all else float64."""
    parts: list[dict[str, np.ndarray]] = []
    for k in range(len(table.lengths)):
        for piece in table.read(k):
            _, features, identity = read_table(piece, profile)
            found = {name: np.asarray(value) for name, value in identity.items()}
            found["objid"] = np.asarray(identity.get("objid", ())).astype(str)
            if features is not None:
                found |= dict(zip(profile.feature_names, features.T, strict=True))
            parts.append(found)
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _is_number(name: str) -> bool:
    """Whether an identifier is a number that is written in one way and fits an int64."""
    return name.isascii() and name.isdigit() and str(int(name)) == name and int(name) < 2**63


def _stamps(names: Sequence[str], files: _Files, profile: SurveyProfile, size: int) -> np.ndarray:
    """Read stamps, float32 (N, C, S, S); NaN where there is no file, or none that can be read.

    One bad file must not stop a catalogue: it is named in a warning, and the classifier flags the object. If
    no file of the piece can be used, something else is wrong, and what most of them lack is raised.
    """
    stamps = np.full((len(names), len(profile.bands), size, size), np.nan, np.float32)
    there = [k for k, name in enumerate(names) if name in files]
    if not there:
        return stamps
    try:
        stamps[there] = _read([files[names[k]] for k in there], profile, size)
    except DataError as first:
        failed = []
        for k in there:
            try:
                stamps[k] = _read([files[names[k]]], profile, size)[0]
            except DataError as error:
                failed.append(error)
        if len(failed) == len(there):
            ((what, _),) = Counter(error.what for error in failed).most_common(1)
            raise next(error for error in failed if error.what == what) from None
        _log.warning(
            "%d of %d cut-outs cannot be used and are flagged NO_IMAGE; the first: %s",
            len(failed),
            len(there),
            failed[0] if failed else first,
        )
    return stamps


def _read(paths: Sequence[tuple[str, ...]], profile: SurveyProfile, size: int) -> np.ndarray:
    found = read_cutouts(paths, bands=profile.bands, decode=True).decode()
    if found.shape[-1] != size:
        raise DataError(
            f"has {found.shape[-1]} x {found.shape[-1]} pixels",
            where=", ".join(paths[0]),
            expected=f"{size} x {size}, as the model was trained on",
        )
    return found
