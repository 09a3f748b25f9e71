"""SDSS frames and positions as a catalogue: stamps are cut and features measured, a field at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..data.measurements import STAMP
from ..data.photometry.features import measure
from ..data.photometry.magnitudes import extinction_of
from ..data.photometry.stars import psf_of_stars
from ..data.sdss.files import FieldFiles, find_fields
from ..data.sdss.frames import Frame, read_frame
from ..data.sdss.ingest import cut_stamps
from ..data.sdss.psfield import read_psfield
from ..data.survey import SDSS, SurveyProfile
from ..data.tables import read_table
from ..errors import DataError
from .inputs import Columns, Source


def open_frames(folder: Path, positions: Path, profile: SurveyProfile, *, ebv: float | None = None) -> Source:
    """Describe objects at given positions on SDSS frames.

    Features are measured from the pixels (:func:`margformer_fast.data.photometry.features.measure`), with the
    PSF of the field's psField, or of its stars if there is none.

    Parameters
    ----------
    folder : Path
        With ``frame-*`` files of five bands for each field, and ``psField-*`` if there are any.
    positions : Path
        A table with columns ``ra`` and ``dec`` (degrees, ICRS), ``objid`` if there is one, and ``ebv``.
    profile : SurveyProfile
        Of the model; only SDSS's will do.
    ebv : float, optional
        E(B-V) of all positions, in place of the column. Without either, magnitudes and extinctions are
        missing, and flagged.

    Returns
    -------
    Source
        A piece a field, then one of the positions that are on none: they are kept, and not classified.

    Raises
    ------
    DataError
        If a file cannot be read or lacks a column, a field lacks a band, or no field is found.
    """
    if profile.bands != SDSS.bands:
        raise DataError(f"frames have bands {''.join(SDSS.bands)}", expected="".join(profile.bands))
    table = _positions(positions, ebv)
    fields = find_fields(folder)
    for files in fields:
        missing = files.missing(SDSS.bands)
        if missing:
            raise DataError(f"field {files.name} has no frame in {', '.join(missing)}", where=files.folder)
    owner = np.full(len(table["ra"]), -1)
    for k, files in enumerate(fields):
        free = np.flatnonzero(owner < 0)
        inside = np.ones(len(free), bool)
        for frame in _read(files):
            x, y = frame.pixel(table["ra"][free], table["dec"][free])
            rows, columns = frame.image.shape
            half = SDSS.stamp_size / 2
            with np.errstate(invalid="ignore"):
                inside &= (x >= half) & (x < columns - half) & (y >= half) & (y < rows - half)
        owner[free[inside]] = k
    members = [np.flatnonzero(owner == k) for k in (*range(len(fields)), -1)]

    def read(piece: int) -> Iterator[Columns]:
        rows = members[piece]
        chosen = {name: values[rows] for name, values in table.items()}
        if piece < len(fields) and len(rows):
            yield _field(fields[piece], chosen)
        else:
            yield _nowhere(chosen)

    paths = [positions, *(path for files in fields for path in files.frames.values())]
    name = (
        f"{len(fields)} field{'s' if len(fields) > 1 else ''} in {folder.name}, positions of {positions.name}"
    )
    return Source(name, tuple(map(len, members)), read, tuple(paths))


def _positions(path: Path, ebv: float | None) -> dict[str, np.ndarray]:
    table = read_table(path)
    for name in ("ra", "dec"):
        if name not in table.colnames:
            raise DataError(f"has no column {name!r}", where=path, expected="ra and dec in degrees (ICRS)")
    found = {name: np.asarray(np.ma.filled(table[name], np.nan), float) for name in ("ra", "dec")}
    bad = np.flatnonzero(~(np.isfinite(found["ra"]) & (np.abs(found["dec"]) <= 90)))
    if len(bad):
        raise DataError(f"row {bad[0]} has no position", where=path, expected="finite degrees")
    found["objid"] = (
        np.asarray(table["objid"]).astype(np.int64) if "objid" in table.colnames else np.arange(len(table))
    )
    if ebv is not None:
        found["ebv"] = np.full(len(table), ebv)
    elif "ebv" in table.colnames:
        found["ebv"] = np.asarray(np.ma.filled(table["ebv"], np.nan), float)
    else:
        found["ebv"] = np.full(len(table), np.nan)
    return found


def _read(files: FieldFiles) -> list[Frame]:
    with ThreadPoolExecutor(len(SDSS.bands)) as pool:
        return list(pool.map(read_frame, (files.frames[band] for band in SDSS.bands)))


def _field(files: FieldFiles, table: dict[str, np.ndarray]) -> Columns:
    """Cut and measure the objects of one field."""
    frames = _read(files)
    x, y = np.stack([frame.pixel(table["ra"], table["dec"]) for frame in frames], axis=-1)
    stamps = np.stack([cut_stamps(f.image, x[:, k], y[:, k])[0] for k, f in enumerate(frames)], axis=1)
    corner = np.floor(np.stack([y, x], axis=-1)) - (SDSS.stamp_size / 2 - 1)
    registration = np.stack([y, x], axis=-1) - corner - (SDSS.stamp_size - 1) / 2
    noise = np.array([_sky_noise(frame.image) for frame in frames])
    if files.psfield is None:
        psf = psf_of_stars([frame.image for frame in frames], noise, SDSS.pixel_scale_arcsec)
        psf = psf[np.tile(np.arange(len(frames)), (len(x), 1))]
    else:
        psf = read_psfield(files.psfield).psf(y, x)
    extinction = extinction_of(table["ebv"], SDSS)
    features = measure(
        stamps, psf, np.tile(noise, (len(x), 1)), extinction, SDSS, registration=registration
    ).features
    return _columns(table, features, stamps)


def _nowhere(table: dict[str, np.ndarray]) -> Columns:
    """Return positions that have no image: nothing of them is known."""
    count, size = len(table["ra"]), SDSS.stamp_size
    stamps = np.full((count, len(SDSS.bands), size, size), np.nan, np.float32)
    return _columns(table, np.full((count, SDSS.num_features), np.nan), stamps)


def _columns(table: dict[str, np.ndarray], features: np.ndarray, stamps: np.ndarray) -> Columns:
    identity = {name: table[name] for name in ("objid", "ra", "dec")}
    return {**identity, **dict(zip(SDSS.feature_names, features.T, strict=True)), STAMP: stamps}


def _sky_noise(image: np.ndarray) -> float:
    """Return the scatter of a frame's sky: 1.4826 times the median absolute deviation."""
    value = image[np.isfinite(image)]
    return float(1.4826 * np.median(np.abs(value - np.median(value))))
