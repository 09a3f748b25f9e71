"""The PSF of a field from its own stars, where the survey's model of it is not at hand."""

from __future__ import annotations

import numpy as np

from ...errors import DataError
from .psf import GaussianPsf, adaptive_moments, fit_common, fit_gaussians, from_covariance

RADIUS = 12
"""Pixels around a star that must be its own, and that are fitted."""

_THRESHOLD = 60.0  # peak over the sky's noise: 1 % errors of the shape of one star
_MIN_STARS = 5


def find_stars(image: np.ndarray, noise: float, *, saturated: float = np.inf, most: int = 60) -> np.ndarray:
    """Find bright point sources that stand alone.

    Those are local maxima without a tenth of their height elsewhere within `RADIUS`, and about as wide as the
    narrower half of them: within 5 % of its median.

    Parameters
    ----------
    image : ndarray of float, shape (rows, columns)
        Sky-subtracted image.
    noise : float
        Standard deviation of the sky in a pixel.
    saturated : float
        Peaks of this and above are passed over.
    most : int
        How many are returned at most, the brightest.

    Returns
    -------
    ndarray of int64, shape (M, 2)
        Row and column of the peaks, the brightest first; M may be 0.
    """
    r = RADIUS
    inner = image[r:-r, r:-r]
    peak = (inner > _THRESHOLD * noise) & (inner < saturated)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if dy or dx:
                rows, columns = image.shape
                beside = image[r + dy : rows - r + dy, r + dx : columns - r + dx]
                peak &= inner >= beside
    place = np.argwhere(peak) + r
    place = place[np.argsort(-image[tuple(place.T)], kind="stable")]
    offset = np.arange(-r, r + 1)
    distance2 = offset[:, None] ** 2 + offset**2
    outside = (distance2 > 5**2) & (distance2 <= r**2)
    alone, widths = [], []
    for row, column in place:
        stamp = image[row - r : row + r + 1, column - r : column + r + 1]
        if np.isfinite(stamp).all() and stamp[outside].max() < 0.1 * stamp[r, r] + 4 * noise:
            alone.append((row, column))
            widths.append(_width(stamp))
    if not alone:
        return np.empty((0, 2), np.int64)
    width = np.array(widths)
    narrow = np.median(np.sort(width)[: max(len(width) // 2, 1)])
    chosen = np.flatnonzero(np.abs(width / narrow - 1) < 0.1)[:most]  # of the variance
    return np.array(alone, np.int64)[chosen]


def psf_of_stars(
    images: list[np.ndarray], noise: np.ndarray, pixel_scale: float, *, num_gaussians: int = 2
) -> GaussianPsf:
    """Estimate the PSF of a field, one for each band, from its images.

    Parameters
    ----------
    images : list of ndarray of float, shape (rows, columns)
        Sky-subtracted image of each band.
    noise : ndarray of float, shape (bands,)
        Standard deviation of the sky in a pixel.
    pixel_scale : float
        Arcsec per pixel.
    num_gaussians : int
        Gaussians in a PSF.

    Returns
    -------
    GaussianPsf of shape (bands,)
        A star's flux is what lies within `RADIUS`. The PSF is taken to be the same all over the image.

    Raises
    ------
    DataError
        If a band has fewer than five bright stars that stand alone.
    """
    covs, shares = [], []
    for band, (image, sigma) in enumerate(zip(images, noise, strict=True)):
        place = find_stars(image, float(sigma))
        if len(place) < _MIN_STARS:
            raise DataError(
                f"band {band} has {len(place)} bright stars that stand alone",
                expected=f"at least {_MIN_STARS}",
                mend="Give the PSF: a psField, or a Psf of the seeing.",
            )
        r = RADIUS
        stars = np.stack([image[y - r : y + r + 1, x - r : x + r + 1] for y, x in place]).astype(float)
        offset = np.arange(-r, r + 1)
        inside = offset[:, None] ** 2 + offset**2 <= r**2
        flux = (stars * inside).sum(axis=(1, 2))
        _, _, centre = fit_gaussians(stars, np.full((len(stars), 2), float(r)), 1)
        cov, share = fit_common(stars, centre, flux, num_gaussians)
        covs.append(cov)
        shares.append(share)
    return from_covariance(np.stack(covs), np.stack(shares), pixel_scale)


def _width(stamp: np.ndarray) -> float:
    return float(adaptive_moments(stamp[None], np.full((1, 2), float(RADIUS)))[0])
