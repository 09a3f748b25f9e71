"""Does the photometry measure what the SDSS pipeline measured? Isolated objects of a field and its catalogue.

Everything is measured anew from the frames: PSFs from the ``psField`` (or from the field's own stars where
there is none), noise from sky and gain, centres, profiles and fluxes. From the catalogue come where objects
are and, if so chosen, the sky: frames and catalogues had theirs subtracted by different versions of the
pipeline, and that of the catalogue is a few per cent of the noise higher.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from ...errors import ConfigError, DataError, FitsFormatError
from ..photometry import GaussianPsf, asinh_magnitude, measure
from ..photometry.stars import psf_of_stars
from ..survey import CLASSES, SDSS
from .catalogue import FLAGS, read_catalogue
from .files import FieldFiles, find_hdu, one_line, read_bytes
from .frames import Frame, read_frame
from .ingest import cut_stamps
from .psfield import read_psfield

SKIES = ("catalogue", "frame")
"""Whose sky is subtracted."""

ISOLATION = 6.0
"""Arcsec to the next object of the catalogue, at least."""

RANGES = ((14.0, 20.0), (20.0, 21.5))
"""Model magnitudes in r that are told apart."""

MAX_OFFSET, MAX_SIZE_OFFSET, MAX_SCATTER = 0.03, 0.05, 1.5
"""The goal: magnitudes, a fraction of the radius, and a multiple of the catalogue's quoted error."""

_EXTRA = ("MODELMAG", "MODELMAGERR", "THETA_DEV", "THETA_DEVERR", "PSF_FWHM", "EXTINCTION", "SKYFLUX")
_R = SDSS.bands.index(SDSS.reference_band)


@dataclass(frozen=True)
class Comparison:
    """One quantity of one group of objects, measured here minus (or over) the catalogue's.

    Parameters
    ----------
    group, quantity : str
        Which objects, and what.
    columns : tuple of str
        Bands or colours.
    count : int
        Objects.
    median, scatter, quoted : ndarray of float64, shape (columns,)
        Median difference, its scatter (1.48 times the median absolute deviation), and the median of the
        errors that the catalogue quotes; NaN without objects.
    limit : float
        Largest median that the goal allows.
    """

    group: str
    quantity: str
    columns: tuple[str, ...]
    count: int
    median: np.ndarray
    scatter: np.ndarray
    quoted: np.ndarray
    limit: float

    @property
    def misses(self) -> list[str]:
        """What is beyond the goal, each with the standard error of the median."""
        error = 1.25 * self.scatter / np.sqrt(max(self.count, 1))
        found = []
        for k, name in enumerate(self.columns):
            where = f"{self.group}, {self.quantity} in {name}"
            if abs(self.median[k]) > self.limit:
                found.append(f"{where}: median {self.median[k]:+.3f} +- {error[k]:.3f}")
            if self.scatter[k] > MAX_SCATTER * self.quoted[k]:
                found.append(f"{where}: scatter {self.scatter[k]:.3f}, quoted {self.quoted[k]:.3f}")
        return found


@dataclass(frozen=True)
class PhotometryCheck:
    """What was found in one field.

    Parameters
    ----------
    field : str
        The field.
    sky, psf : str
        Where they came from.
    comparisons : tuple of Comparison
        Group by group.
    fwhm : ndarray of float64, shape (3, bands)
        FWHM of the PSF here over the catalogue's: median, scatter, and that of the two-Gaussian fits of the
        psField over the catalogue's; NaN where there is none.
    """

    field: str
    sky: str
    psf: str
    comparisons: tuple[Comparison, ...]
    fwhm: np.ndarray

    @property
    def misses(self) -> list[str]:
        """What is beyond the goal."""
        return [miss for each in self.comparisons for miss in each.misses]

    def table(self) -> str:
        """Return the findings as text."""
        isolation = f"nothing else within {ISOLATION:g} arcsec"
        lines = [f"field {self.field}: PSF from {self.psf}, sky of the {self.sky}, {isolation}"]
        group = ""
        for each in self.comparisons:
            if each.group != group:
                group = each.group
                lines += ["", f"{group}: {each.count} objects"]
            lines.append(f"  {each.quantity:<32}" + "".join(f"{name:>9}" for name in each.columns))
            for name in ("median", "scatter", "quoted"):
                sign = "+" if name == "median" else ""
                lines.append(
                    f"    {name:<30}" + "".join(f"{value:{sign}9.3f}" for value in getattr(each, name))
                )
        lines += ["", f"  {'FWHM of the PSF / catalogue - 1':<32}" + "".join(f"{b:>9}" for b in SDSS.bands)]
        for name, values in zip(
            ("median", "scatter", "two Gaussians of the psField"), self.fwhm, strict=True
        ):
            sign = "" if name == "scatter" else "+"
            lines.append(f"    {name:<30}" + "".join(f"{value:{sign}9.4f}" for value in values))
        goal = (
            f"goal: medians within {MAX_OFFSET} mag and {MAX_SIZE_OFFSET:.0%} of the radius, scatter within"
            f" {MAX_SCATTER} times the quoted errors"
        )
        lines += ["", goal, *([f"  beyond: {miss}" for miss in self.misses] or ["  held everywhere"])]
        return "\n".join(lines)


def check_photometry(files: FieldFiles, *, sky: str = "catalogue") -> PhotometryCheck:
    """Measure the isolated objects of a field and compare them with its catalogue.

    Parameters
    ----------
    files : FieldFiles
        Five frames and a catalogue; without a psField the PSF is estimated from the stars on the frames.
    sky : {"catalogue", "frame"}
        Whose sky is subtracted. Frames come with their own subtracted.

    Returns
    -------
    PhotometryCheck

    Raises
    ------
    ConfigError
        If `sky` is neither.
    DataError
        If a file is missing or cannot be used.
    """
    if sky not in SKIES:
        raise ConfigError(f"sky is {sky!r}", expected=" or ".join(SKIES))
    missing = files.missing(SDSS.bands)
    if missing or files.catalogue is None:
        raise DataError(f"field {files.name} is not complete", expected="five frames and a photoObj")
    catalogue = read_catalogue(files.catalogue)
    table = _columns(files.catalogue)
    contents = _contents([files.frames[band] for band in SDSS.bands])
    frames = [read_frame(path, content) for path, content in contents.items()]
    x, y = np.stack([frame.pixel(catalogue.ra, catalogue.dec) for frame in frames], axis=-1)

    r = table["MODELMAG"][:, _R]
    usable = catalogue.is_source & ~catalogue.is_parent & (r >= RANGES[0][0]) & (r < RANGES[-1][1])
    usable &= catalogue.measured & (catalogue.columns["objc_flags"] & sum(FLAGS.values()) == 0)
    usable &= _neighbour(x[:, _R], y[:, _R], catalogue.is_source & ~catalogue.is_parent) > ISOLATION
    for k, frame in enumerate(frames):
        usable &= cut_stamps(frame.image, x[:, k], y[:, k])[1]
    rows = np.flatnonzero(usable)
    x, y = x[rows], y[rows]
    table = {name: values[rows] for name, values in table.items()}
    stamps = np.stack([cut_stamps(f.image, x[:, k], y[:, k])[0] for k, f in enumerate(frames)], axis=1)
    corner = np.floor(np.stack([y, x], axis=-1)) - (SDSS.stamp_size / 2 - 1)
    registration = np.stack([y, x], axis=-1) - corner - (SDSS.stamp_size - 1) / 2
    if sky == "catalogue":
        area = SDSS.pixel_scale_arcsec**2
        own = np.stack(
            [_frame_sky(contents[f.path], f.path, x[:, k], y[:, k]) for k, f in enumerate(frames)], axis=-1
        )
        stamps = stamps - (table["SKYFLUX"] * area - own)[:, :, None, None]

    psf, noise, gain, ratio = _conditions(files, frames, table, x, y)
    found = measure(stamps, psf, noise, table["EXTINCTION"], SDSS, gain=gain, registration=registration)
    count = len(rows)
    fwhm = np.full((3, len(SDSS.bands)), np.nan)
    if count:
        fwhm[0], fwhm[1] = _summary(psf.fwhm / table["PSF_FWHM"] - 1)
        fwhm[2] = ratio
    return PhotometryCheck(
        field=files.name,
        sky=sky,
        psf="the psField" if files.psfield else "the field's stars",
        comparisons=tuple(_compare(found.flux, found.features[:, 1:20:4], table, catalogue.label[rows])),
        fwhm=fwhm,
    )


def _conditions(
    files: FieldFiles, frames: list[Frame], table: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray
) -> tuple[GaussianPsf, np.ndarray, np.ndarray | None, np.ndarray]:
    """Return PSF, noise, gain, and the two-Gaussian FWHM of the psField over the catalogue's."""
    count, bands = x.shape
    ratio = np.full(bands, np.nan)
    if files.psfield is None:
        noise = np.array([_spread(frame.image) for frame in frames])
        psf = psf_of_stars([frame.image for frame in frames], noise, SDSS.pixel_scale_arcsec)
        return (
            psf[np.tile(np.arange(bands), (count, 1))],
            np.tile(noise, (count, 1)),
            None,
            ratio,
        )
    model = read_psfield(files.psfield)
    unit = table["NMGYPERCOUNT"]
    noise = np.sqrt(model.sky / model.gain + model.dark_variance) * unit
    if count:
        ratio = np.median(model.two_gaussian_fwhm / table["PSF_FWHM"] - 1, axis=0)
    return model.psf(y, x), noise, model.gain / unit, ratio


def _compare(
    flux: np.ndarray, radius: np.ndarray, table: dict[str, np.ndarray], label: np.ndarray
) -> list[Comparison]:
    magnitude, theirs, error = asinh_magnitude(flux, SDSS), table["MODELMAG"], table["MODELMAGERR"]
    of_colours = -np.diff(magnitude, axis=1) + np.diff(theirs, axis=1)
    colour_error = np.hypot(error[:, :-1], error[:, 1:])
    colours = tuple(f"{a}-{b}" for a, b in zip(SDSS.bands, SDSS.bands[1:], strict=False))
    with np.errstate(divide="ignore", invalid="ignore"):
        of_size = radius / table["THETA_DEV"] - 1
        size_error = table["THETA_DEVERR"] / table["THETA_DEV"]
    found = []
    for name in ("STAR", "GALAXY"):
        for low, high in RANGES:
            r = theirs[:, _R]
            here = (
                (label == CLASSES.index(name)) & (r >= low) & (r < high) & np.isfinite(magnitude).all(axis=1)
            )
            group = f"{name.lower()}, {low:g} <= r < {high:g}"
            kinds = [
                ("magnitude - catalogue", SDSS.bands, magnitude - theirs, error, MAX_OFFSET),
                ("colour - catalogue", colours, of_colours, colour_error, MAX_OFFSET),
            ]
            if name == "GALAXY":
                kinds.append(("deVRad / catalogue - 1", SDSS.bands, of_size, size_error, MAX_SIZE_OFFSET))
            for quantity, columns, difference, quoted, limit in kinds:
                empty = np.full(len(columns), np.nan)
                median, scatter = _summary(difference[here]) if here.any() else (empty, empty)
                typical = np.nanmedian(quoted[here], axis=0) if here.any() else empty
                found.append(
                    Comparison(group, quantity, columns, int(here.sum()), median, scatter, typical, limit)
                )
    return found


def _summary(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    median = np.median(values, axis=0)
    return median, 1.4826 * np.median(np.abs(values - median), axis=0)


def _spread(image: np.ndarray) -> float:
    return float(1.4826 * np.nanmedian(np.abs(image - np.nanmedian(image))))


def _neighbour(x: np.ndarray, y: np.ndarray, is_source: np.ndarray) -> np.ndarray:
    """Return each object's distance in arcsec to the nearest other source."""
    others = np.flatnonzero(is_source)
    squared = (x[:, None] - x[others]) ** 2 + (y[:, None] - y[others]) ** 2
    squared[others, np.arange(len(others))] = np.inf
    return np.asarray(SDSS.pixel_scale_arcsec * np.sqrt(squared.min(axis=1, initial=np.inf)))


def _contents(paths: list[Path]) -> dict[Path, bytes]:
    """Return the decompressed files, a thread each: decompressing does not hold the interpreter lock."""
    with ThreadPoolExecutor(min(len(paths), os.cpu_count() or 1)) as pool:
        return dict(zip(paths, pool.map(read_bytes, paths), strict=True))


def _columns(path: Path) -> dict[str, np.ndarray]:
    """Return further columns of a catalogue whose table has been read already."""
    from astropy.io import fits

    with fits.open(BytesIO(read_bytes(path)), memmap=False) as hdus:
        table = next(hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)).data
        names = (*_EXTRA, "NMGYPERCOUNT")
        missing = [name for name in names if name not in table.names]
        if missing:
            raise DataError(f"the catalogue lacks {', '.join(missing)}", where=path)
        return {name: np.asarray(table[name], np.float64) for name in names}


def _frame_sky(content: bytes, path: Path, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the sky that was subtracted from a frame at positions on it, nanomaggies per pixel.

    HDU 1 of a frame holds nanomaggies per count by column, HDU 2 the sky in counts on a coarse grid and the
    places of all columns and rows on that grid.
    """
    from astropy.io import fits

    find_hdu(content, "SIMPLE", True, path)  # for the walk
    try:
        with fits.open(BytesIO(content), memmap=False) as hdus:
            unit = np.asarray(hdus[1].data, np.float64)
            row = hdus[2].data[0]
            grid, at_x, at_y = (
                np.asarray(row[name], np.float64) for name in ("ALLSKY", "XINTERP", "YINTERP")
            )
    except Exception as error:  # a damaged table fails in many ways in astropy
        raise FitsFormatError(
            f"the sky of the frame cannot be read ({one_line(error)})", where=path
        ) from error
    columns, rows = np.arange(len(unit)), np.arange(at_y.size)
    u = np.clip(np.interp(x, columns, at_x.ravel()), 0, grid.shape[1] - 1.001)
    v = np.clip(np.interp(y, rows, at_y.ravel()), 0, grid.shape[0] - 1.001)
    i, j = v.astype(np.int64), u.astype(np.int64)
    v, u = v - i, u - j
    counts = (1 - v) * ((1 - u) * grid[i, j] + u * grid[i, j + 1])
    counts += v * ((1 - u) * grid[i + 1, j] + u * grid[i + 1, j + 1])
    return np.asarray(counts * np.interp(x, columns, unit))
