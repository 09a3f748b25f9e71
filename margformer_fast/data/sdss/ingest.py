"""Frames and catalogues of the SDSS into stamps, features and classes, with an account of what is left out.

**Where a stamp is cut.** The bands are not aligned pixel to pixel, so the object's sky position is taken to
pixel coordinates (x, y) through each band's own world coordinates, and whole pixels are cut: of 32-pixel
stamps the columns ``floor(x - 15)`` to ``floor(x - 15) + 31``, and rows alike. In the stamp the object then
lies at 15 <= x < 16 (from 0, integers at pixel centres): on each axis within half a pixel of the stamp's
centre at 15.5, about which views are rotated. Nothing is resampled; the remaining fraction of a pixel differs
from band to band. The columns ``x_u``, ``y_u`` ... keep the position on each frame.

**What is left out.** Each object that is not kept is counted under the first reason of `REASONS` that holds.

**Selection.** By default only primary (MODE 1) and clean (CLEAN 1) objects are kept, as in the published
data: an object observed in several scans then appears once. A scan that was superseded has no primary object
at all; pass ``modes=(1, 2), require_clean=False`` to use it. MODE 4 is an object in the overlap of two
fields, which the neighbouring field lists too, under another objID.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...errors import ConfigError, DataError
from ...files import sha256_file
from ...ops.stamps import Stamps
from ..survey import CLASSES, SDSS, Survey
from .catalogue import Catalogue, read_catalogue
from .files import FieldFiles, find_fields
from .frames import Frame, read_frame
from .report import MODES, REASONS, IngestReport

__all__ = [
    "IngestReport",
    "checked_modes",
    "cut_stamps",
    "ingest",
    "ingest_field",
    "ingest_fields",
    "merge",
    "num_selected",
]


def ingest(
    folders: str | Path | Sequence[str | Path],
    *,
    modes: Sequence[int] = (1,),
    require_clean: bool = True,
    skip_broken: bool = False,
) -> tuple[Survey, IngestReport]:
    """Read SDSS fields into memory.

    Parameters
    ----------
    folders : path or sequence of paths
        Folders with ``frame-*`` and ``photoObj-*`` files, searched with their subfolders.
    modes : sequence of int
        Values of MODE to keep: 1 primary, 2 secondary (observed better in another scan), 4 outside (in the
        overlap with the next field).
    require_clean : bool
        Keep only objects that the survey calls clean.
    skip_broken : bool
        Pass over fields with a missing or damaged file, and count them, in place of raising.

    Returns
    -------
    survey : Survey
        The objects kept, field by field in catalogue order: real, with stamps as one float32 array a field.
        May be empty: ``report.advice`` says why.
    report : IngestReport
        What became of every object listed.

    Raises
    ------
    ConfigError
        If a mode is unknown.
    DataError
        If no field is found; and, unless `skip_broken`, if a field lacks a band or its catalogue, or a file
        cannot be used (FitsFormatError if it is damaged).
    """
    report = IngestReport()
    chunks = []
    for chunk, account in ingest_fields(
        folders, modes=modes, require_clean=require_clean, skip_broken=skip_broken
    ):
        chunks.append(chunk)
        report += account
    return merge(chunks), report


def ingest_fields(
    folders: str | Path | Sequence[str | Path],
    *,
    modes: Sequence[int] = (1,),
    require_clean: bool = True,
    skip_broken: bool = False,
) -> Iterator[tuple[Survey, IngestReport]]:
    """Read SDSS fields one at a time, for more than fits in memory.

    Parameters and errors are those of :func:`ingest`; that every field has its files is checked at once,
    before the first is read.

    Returns
    -------
    iterator of (Survey, IngestReport)
        The objects kept of one field, possibly none, and what became of all of that field's objects. Reports
        add up.
    """
    selection = _Selection(checked_modes(modes), require_clean, skip_broken)
    found = find_fields(folders)
    if not skip_broken:
        for files in found:
            _require_frames(files)
            _require_catalogue(files)
    return (_ingest_field(files, selection) for files in found)


def ingest_field(
    files: FieldFiles,
    *,
    modes: Sequence[int] = (1,),
    require_clean: bool = True,
    objids: np.ndarray | None = None,
) -> tuple[Survey, IngestReport]:
    """Read one SDSS field.

    Parameters
    ----------
    files : FieldFiles
        Its files. Frames need not be there if the catalogue has no object to keep.
    modes, require_clean
        As for :func:`ingest`.
    objids : ndarray of int64, optional
        Keep these objects only.

    Returns
    -------
    survey : Survey
        The objects kept, possibly none, in catalogue order.
    report : IngestReport
        What became of every object listed.

    Raises
    ------
    ConfigError, DataError
        As by :func:`ingest`.
    """
    return _ingest_field(files, _Selection(checked_modes(modes), require_clean, False, objids))


def num_selected(
    catalogue: str | Path,
    *,
    modes: Sequence[int] = (1,),
    require_clean: bool = True,
    objids: np.ndarray | None = None,
) -> int:
    """Return how many objects of a catalogue :func:`ingest_field` would want to cut.

    Where it is 0 the field's frames are not needed. Parameters and errors are those of
    :func:`ingest_field`, with the catalogue's file in place of the field's.
    """
    table = read_catalogue(catalogue)
    fate = _Fate(len(table))
    _Selection(checked_modes(modes), require_clean, False, objids).apply(table, fate)
    return int(np.count_nonzero(fate.kept))


def cut_stamps(
    image: np.ndarray, x: np.ndarray, y: np.ndarray, size: int = SDSS.stamp_size
) -> tuple[np.ndarray, np.ndarray]:
    """Cut square stamps of whole pixels about positions on an image.

    Parameters
    ----------
    image : ndarray, shape (rows, columns)
        The image.
    x, y : ndarray of float64, shape (N,)
        Columns and rows, from 0, integers at pixel centres.
    size : int
        Side of a stamp.

    Returns
    -------
    stamps : ndarray, shape (M, size, size)
        Copies, of the M positions whose stamp lies wholly on the image, in order. A position is within half a
        pixel, on each axis, of its stamp's centre at ``(size - 1) / 2``.
    inside : ndarray of bool, shape (N,)
        Which those are.
    """
    left, inside_x = _start(x, size, image.shape[1])
    top, inside_y = _start(y, size, image.shape[0])
    inside = inside_x & inside_y
    if not inside.any():
        return np.empty((0, size, size), image.dtype), inside
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))
    return windows[top[inside], left[inside]], inside


def merge(surveys: Sequence[Survey]) -> Survey:
    """Put surveys of one profile together, in order; no pixel is copied.

    Parameters
    ----------
    surveys : sequence of Survey
        At least one, with the same columns; none of them a selection of stamps.

    Returns
    -------
    Survey
        Its provenance is that of the first, with the files and fields of all.
    """
    first = surveys[0]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(survey, name) for survey in surveys])

    return Survey(
        profile=first.profile,
        objid=joined("objid"),
        ra=joined("ra"),
        dec=joined("dec"),
        label=joined("label"),
        features=joined("features"),
        stamps=Stamps(
            tuple(part for survey in surveys for part in survey.stamps.parts), first.stamps.scaling
        ),
        simulated=first.simulated,
        provenance={
            **first.provenance,
            "fields": [name for survey in surveys for name in survey.provenance["fields"]],
            "files": [file for survey in surveys for file in survey.provenance["files"]],
        },
        columns={name: np.concatenate([s.columns[name] for s in surveys]) for name in first.columns},
    )


def _start(position: np.ndarray, size: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first pixel of each stamp along one axis, and whether the stamp fits."""
    known = np.isfinite(position)
    start = np.floor(np.where(known, position, -np.inf) - (size / 2 - 1))
    inside = (start >= 0) & (start + size <= length)
    return np.where(inside, start, 0).astype(np.int64), inside


def checked_modes(modes: Sequence[int]) -> tuple[int, ...]:
    """Return values of MODE that can be kept, or raise ConfigError."""
    modes = tuple(modes)
    if not modes or not set(modes) <= set(MODES):
        expected = ", ".join(f"{mode} ({name})" for mode, name in MODES.items())
        raise ConfigError(f"modes are {modes}", expected=f"some of {expected}")
    return modes


class _Fate:
    """Why each object of a field is left out: the first reason given stays."""

    def __init__(self, num_objects: int) -> None:
        self._reason = np.full(num_objects, len(REASONS), np.int8)

    @property
    def kept(self) -> np.ndarray:
        """Whether no reason was given, shape (N,)."""
        mask: np.ndarray = self._reason == len(REASONS)
        return mask

    def drop(self, reason: str, which: np.ndarray) -> np.ndarray:
        """Leave out `which` (a mask) of those still kept, and return which that were."""
        newly: np.ndarray = which & self.kept
        self._reason[newly] = list(REASONS).index(reason)
        return newly

    def counts(self) -> dict[str, int]:
        """Return the number of objects by reason, zeros left out."""
        counts = np.bincount(self._reason, minlength=len(REASONS) + 1)
        return {reason: int(n) for reason, n in zip(REASONS, counts, strict=False) if n}


@dataclass(frozen=True)
class _Selection:
    """The options of :func:`ingest`, checked."""

    modes: tuple[int, ...]
    require_clean: bool
    skip_broken: bool
    objids: np.ndarray | None = None

    def apply(self, catalogue: Catalogue, fate: _Fate) -> dict[int, int]:
        """Drop by what the catalogue says; return how many of each MODE were not selected."""
        column = catalogue.columns
        first = np.zeros(len(catalogue), bool)
        first[np.unique(catalogue.objid, return_index=True)[1]] = True
        if self.objids is not None:
            fate.drop("not asked for", ~np.isin(catalogue.objid, self.objids))
        fate.drop("duplicate", ~first)
        fate.drop("not a source", ~catalogue.is_source)
        fate.drop("blended parent", catalogue.is_parent)
        unselected = fate.drop("not selected", ~np.isin(column["mode"], self.modes))
        if self.require_clean:
            fate.drop("not clean", column["clean"] == 0)
        return dict(sorted(Counter(column["mode"][unselected].tolist()).items()))


def _require_frames(files: FieldFiles) -> dict[str, Path]:
    missing = files.missing(SDSS.bands)
    if missing:
        raise _incomplete(files, f"frame in band{'s' * (len(missing) > 1)} {', '.join(missing)}")
    return files.frames


def _require_catalogue(files: FieldFiles) -> Path:
    if files.catalogue is None:
        raise _incomplete(files, "catalogue")
    return files.catalogue


def _incomplete(files: FieldFiles, what: str) -> DataError:
    return DataError(
        f"field {files.name} has no {what}",
        where=files.folder,
        expected="five frames and a photoObj",
        mend="Fetch it, or pass skip_broken=True (--skip-broken) to go on without this field.",
    )


def _ingest_field(files: FieldFiles, selection: _Selection) -> tuple[Survey, IngestReport]:
    failures = []
    try:
        catalogue = read_catalogue(_require_catalogue(files))
    except DataError as error:
        if not selection.skip_broken:
            raise
        failures.append(str(error))
        catalogue = Catalogue.empty(files.folder)
    fate = _Fate(len(catalogue))
    unselected = selection.apply(catalogue, fate)
    frames: list[Frame] = []
    if fate.kept.any():  # otherwise there is nothing to cut, and decompressing takes seconds
        try:
            frames = _read_frames(_require_frames(files))
        except DataError as error:
            if not selection.skip_broken:
                raise
            failures.append(str(error))
            fate.drop("missing band" if files.missing(SDSS.bands) else "unreadable frame", fate.kept)
    stamps, place = _cut_field(frames, catalogue, fate)
    kept = fate.kept
    label = catalogue.label[kept]
    survey = Survey(
        profile=SDSS,
        objid=catalogue.objid[kept],
        ra=catalogue.ra[kept],
        dec=catalogue.dec[kept],
        label=label,
        features=catalogue.features[kept],
        stamps=Stamps((stamps,)),
        simulated=False,
        provenance=_provenance(files, catalogue, frames, selection),
        columns={name: column[kept] for name, column in {**catalogue.columns, **place}.items()},
    )
    report = IngestReport(
        num_fields=1,
        total=len(catalogue),
        kept=len(survey),
        classes={name: n for k, name in enumerate(CLASSES) if (n := int(np.sum(label == k)))},
        dropped=fate.counts(),
        unselected_modes=unselected,
        failures=tuple(failures),
    )
    return survey, report


def _read_frames(paths: Mapping[str, Path]) -> list[Frame]:
    """Read the frames of a field, a thread a band: decompressing does not hold the interpreter lock."""
    with ThreadPoolExecutor(min(len(SDSS.bands), os.cpu_count() or 1)) as pool:
        return list(pool.map(read_frame, (paths[band] for band in SDSS.bands)))


def _cut_field(
    frames: Sequence[Frame], catalogue: Catalogue, fate: _Fate
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Cut the stamps of what is kept, drop what cannot be cut, and return where every object lies.

    Returns
    -------
    stamps : ndarray of float32, shape (M, bands, size, size)
        Of the M objects that are kept in the end.
    place : dict of str to ndarray of float64, shape (N,)
        Pixel coordinates ``x_u``, ``y_u`` ... on each frame, and ``neighbour``, the distance in arcsec to the
        nearest other source of the catalogue; NaN if there are no frames.
    """
    names = [f"{axis}_{band}" for band in SDSS.bands for axis in "xy"]
    place = {name: np.full(len(catalogue), np.nan) for name in [*names, "neighbour"]}
    if not frames:
        return np.empty((0, len(SDSS.bands), SDSS.stamp_size, SDSS.stamp_size), np.float32), place
    for frame in frames:
        place[f"x_{frame.band}"], place[f"y_{frame.band}"] = frame.pixel(catalogue.ra, catalogue.dec)
    r = SDSS.reference_band
    place["neighbour"] = SDSS.pixel_scale_arcsec * _nearest(
        place[f"x_{r}"], place[f"y_{r}"], catalogue.is_source & ~catalogue.is_parent
    )
    candidates = np.flatnonzero(fate.kept)
    inside = np.ones(len(candidates), bool)
    planes = []
    for frame in frames:
        x, y = place[f"x_{frame.band}"][candidates], place[f"y_{frame.band}"][candidates]
        stamps, fits = cut_stamps(frame.image, x, y)
        plane = np.full((len(candidates), *stamps.shape[1:]), np.nan, np.float32)
        plane[fits] = stamps
        planes.append(plane)
        inside &= fits
    cut = np.stack(planes, axis=1)
    sound = np.isfinite(cut).all(axis=(1, 2, 3))
    fate.drop("off the edge", _mask(candidates[~inside], len(catalogue)))
    fate.drop("not measured", ~catalogue.measured)
    fate.drop("bad pixels", _mask(candidates[~sound], len(catalogue)))
    return cut[fate.kept[candidates]], place


def _mask(rows: np.ndarray, length: int) -> np.ndarray:
    mask = np.zeros(length, bool)
    mask[rows] = True
    return mask


def _nearest(x: np.ndarray, y: np.ndarray, is_source: np.ndarray) -> np.ndarray:
    """Return each object's distance in pixels to the nearest source other than itself; infinite if none."""
    nearest = np.full(len(x), np.inf)
    sources = np.flatnonzero(is_source)
    for start in range(0, len(x), 512):  # 512 x 10,000 distances at a time
        rows = np.arange(start, min(start + 512, len(x)))
        squared = (x[rows, None] - x[sources]) ** 2 + (y[rows, None] - y[sources]) ** 2
        squared[rows[:, None] == sources] = np.inf
        nearest[rows] = np.sqrt(squared.min(axis=1, initial=np.inf))
    return nearest


def _provenance(
    files: FieldFiles, catalogue: Catalogue, frames: Sequence[Frame], selection: _Selection
) -> dict[str, Any]:
    read = [frame.path for frame in frames] + ([files.catalogue] if files.catalogue else [])
    return {
        "source": "SDSS calibrated frames and photoObj catalogues",
        "class": "OBJC_TYPE: the survey's morphological star/galaxy separation, not spectroscopy",
        "selection": {"modes": list(selection.modes), "require_clean": selection.require_clean},
        "software": {"margformer_fast": __version__, "numpy": np.__version__, "astropy": version("astropy")},
        "fields": [{"field": files.name, "photoObj": catalogue.software}],
        "files": [
            {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in read
        ],
    }
