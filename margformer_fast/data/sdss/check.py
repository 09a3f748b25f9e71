"""Is the light where, and as bright as, the catalogue says? A check of ingested stamps.

On isolated, unsaturated stars, band by band:

* the distance between the star's centroid in the stamp and its catalogue position on the frame;
* its magnitude within a circle of 4.41 pixels on the stamp, minus the catalogue's in the same circle. Nothing
  is fitted or shifted: the two differ by the sky each subtracts and by how the rim of the circle is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DataError
from ..survey import CLASSES, Survey
from .catalogue import APERTURE_RADIUS, FLAGS

MAX_OFFSET = 0.5
"""Pixels a centroid may lie from the catalogue position."""

MAX_MAGNITUDE_ERROR = 0.05
"""Magnitudes an aperture may differ from the catalogue's."""

CENTROID_LIMIT, PHOTOMETRY_LIMIT = 18.0, 19.0
"""Faintest star used for either, in the band's PSF magnitude (and, for photometry, in r too)."""

_CENTROID_SIGMA = 1.6
"""Pixels: the width of the weight under which the centroid is taken, about that of the survey's PSF."""

_CENTROID_STEPS = 20

_OVERSAMPLING = 10
"""Parts a side into which a pixel is divided to see how much of it is within the circle."""


@dataclass(frozen=True)
class BandCheck:
    """What was found in one band.

    Parameters
    ----------
    band : str
        The band.
    num_centroids, num_apertures : int
        Stars used for either comparison.
    median_offset, max_offset : float
        Pixels between centroid and catalogue position; NaN without stars.
    median_error, max_error : float
        Magnitudes, stamp minus catalogue: the median, and the largest by absolute value; NaN without stars.
    """

    band: str
    num_centroids: int
    median_offset: float
    max_offset: float
    num_apertures: int
    median_error: float
    max_error: float

    @property
    def agrees(self) -> bool:
        """Whether there were stars for both, and none is out of bounds."""
        return self.max_offset <= MAX_OFFSET and self.max_error <= MAX_MAGNITUDE_ERROR


@dataclass(frozen=True)
class IngestCheck:
    """What was found in all bands."""

    bands: tuple[BandCheck, ...]

    @property
    def agrees(self) -> bool:
        """Whether every band agrees with the catalogue."""
        return all(band.agrees for band in self.bands)

    def table(self) -> str:
        """Return the findings as text, one line a band."""
        lines = [
            "isolated      centroid - catalogue (pixels)   aperture - catalogue (magnitudes)",
            "stars          stars    median       max         stars    median   largest",
        ]
        lines += [
            f"{b.band:<12} {b.num_centroids:7d} {b.median_offset:9.3f} {b.max_offset:9.3f} "
            f"{b.num_apertures:13d} {b.median_error:+9.4f} {b.max_error:9.4f}" + "   off" * (not b.agrees)
            for b in self.bands
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as a JSON-able dictionary; None where there were no stars."""
        bands = [
            {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in vars(band).items()}
            for band in self.bands
        ]
        return {"agrees": self.agrees, "bands": bands}


def check_ingest(survey: Survey) -> IngestCheck:
    """Compare the stamps of an ingested survey with its catalogue.

    Parameters
    ----------
    survey : Survey
        As :func:`~margformer_fast.data.sdss.ingest.ingest` returns it, or a store made of that.

    Returns
    -------
    IngestCheck
        Band by band; with few bright stars there may be none to compare.

    Raises
    ------
    DataError
        If the survey lacks the columns that ingest makes.
    """
    bands = survey.profile.bands
    needed = ["neighbour", "objc_flags"]
    needed += [f"{name}_{band}" for name in ("psfmag", "aperflux", "x", "y") for band in bands]
    missing = [name for name in needed if name not in survey.columns]
    if missing:
        raise DataError(
            f"the survey lacks the columns {', '.join(missing)}",
            expected="one made by ingest from SDSS frames and catalogues",
        )
    reference = survey.profile.bands.index(survey.profile.reference_band)
    stars = survey.select(_isolated_stars(survey))
    stamps = stars.stamps.decode().astype(np.float64)
    magnitudes = np.stack([stars.columns[f"psfmag_{band}"] for band in bands], axis=1)
    usable = magnitudes > 0  # -9999 where the catalogue has none
    for_centroids = usable & (magnitudes < CENTROID_LIMIT)
    for_apertures = usable & (magnitudes < PHOTOMETRY_LIMIT)
    for_apertures &= for_apertures[:, [reference]]
    found = []
    for k, band in enumerate(bands):
        # From the frame to the stamp that ingest cut from it.
        x, y = (_in_stamp(stars.columns[f"{axis}_{band}"], survey.stamps.size) for axis in "xy")
        rows = np.flatnonzero(for_centroids[:, k])
        found_x, found_y = centroids(stamps[rows, k], x[rows], y[rows])
        offsets = np.hypot(found_x - x[rows], found_y - y[rows])
        rows = np.flatnonzero(for_apertures[:, k])
        flux = aperture_flux(stamps[rows, k], x[rows], y[rows], APERTURE_RADIUS)
        with np.errstate(invalid="ignore", divide="ignore"):  # no light at all is NaN, which does not agree
            errors = -2.5 * np.log10(flux / stars.columns[f"aperflux_{band}"][rows])
        found.append(BandCheck(band, len(offsets), *_summary(offsets), len(errors), *_summary(errors)))
    return IngestCheck(tuple(found))


def centroids(stamps: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the centroids of N stamps under a Gaussian weight that follows them.

    Parameters
    ----------
    stamps : ndarray of float64, shape (N, size, size)
        The images.
    x, y : ndarray of float64, shape (N,)
        Where to begin.

    Returns
    -------
    x, y : ndarray of float64, shape (N,)
        Fixed points of the weighted mean.
    """
    pixels = np.arange(stamps.shape[-1])
    for _ in range(_CENTROID_STEPS):
        weight_x = np.exp(-0.5 * ((pixels - x[:, None]) / _CENTROID_SIGMA) ** 2)
        weight_y = np.exp(-0.5 * ((pixels - y[:, None]) / _CENTROID_SIGMA) ** 2)
        total = np.einsum("nyx,ny,nx->n", stamps, weight_y, weight_x)
        mean_x = np.einsum("nyx,ny,nx->n", stamps, weight_y, weight_x * pixels) / total
        mean_y = np.einsum("nyx,ny,nx->n", stamps, weight_y * pixels, weight_x) / total
        # A weight as wide as the star halves the way to it: go twice as far.
        x, y = x + 2 * (mean_x - x), y + 2 * (mean_y - y)
    return x, y


def aperture_flux(stamps: np.ndarray, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the flux of N stamps within a circle, pixels on its rim counted by their part inside.

    Parameters
    ----------
    stamps : ndarray of float64, shape (N, size, size)
        The images.
    x, y : ndarray of float64, shape (N,)
        Centres of the circles.
    radius : float
        Pixels.

    Returns
    -------
    ndarray of float64, shape (N,)
        In the unit of the stamps.
    """
    size = stamps.shape[-1]
    parts = (np.arange(size * _OVERSAMPLING) + 0.5) / _OVERSAMPLING - 0.5
    flux = np.empty(len(stamps))
    for n, stamp in enumerate(stamps):  # one at a time: a mask is 100 times a stamp
        inside = (parts - x[n]) ** 2 + (parts[:, None] - y[n]) ** 2 < radius**2
        share = inside.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING).mean(axis=(1, 3))
        flux[n] = np.sum(stamp[share > 0] * share[share > 0])
    return flux


def _isolated_stars(survey: Survey) -> np.ndarray:
    """Return which objects are stars without another source on their stamp, whole and unsaturated."""
    side = survey.stamps.size * survey.profile.pixel_scale_arcsec
    isolated: np.ndarray = survey.label == CLASSES.index("STAR")
    isolated &= survey.columns["neighbour"] > side
    isolated &= survey.columns["objc_flags"] & sum(FLAGS.values()) == 0
    return isolated


def _in_stamp(position: np.ndarray, size: int) -> np.ndarray:
    return position - np.floor(position - (size / 2 - 1))


def _summary(values: np.ndarray) -> tuple[float, float]:
    """Return the median, and the largest absolute value; NaN if there are none."""
    if not len(values):
        return float("nan"), float("nan")
    return float(np.median(values)), float(np.max(np.abs(values)))
