"""Photometric features measured from stamps: magnitudes, de Vaucouleurs radii and colours.

Everything is linear algebra on one fixed dictionary of round Gaussians. Profiles of any radius are positive
sums of its elements (:mod:`.profiles`), widened by the PSF of each object and band. From the pixels only two
things are needed: the product of the image with every element, and the products of the elements with each
other. Amplitude and goodness of fit at any radius follow without touching a pixel again.

What is like the SDSS pipeline (Lupton et al. 2001): de Vaucouleurs radii fitted band by band; model
magnitudes from the better of the two profiles in the reference band, its shape kept in all bands; asinh
magnitudes. What is simpler: profiles are round, weights are uniform over the fitted square, neighbours are
not deblended, the PSF is two Gaussians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntFlag

import numpy as np

from ..errors import ConfigError, DataError
from .profiles import PIXEL_VARIANCE, DoubleGaussian, axis_values, profile_weights
from .survey import SurveyProfile

# Asinh softening b in maggies by survey: for SDSS as published (Lupton et al. 1999; SDSS EDR).
SOFTENING = {"sdss": (1.4e-10, 0.9e-10, 1.2e-10, 1.8e-10, 7.4e-10)}

FIT_PIXELS = 20  # side of the fitted square: 8 arcsec in SDSS, ten times a compact source
MAX_SHIFT = 2.0  # pixels the centre may move from where the stamp was cut
CHUNK = 512  # objects measured at once, to stay within the processor's caches

_VARIANCES = 2e-4 * 2.5 ** np.arange(15)  # arcsec^2: sigma from 0.014 (a point under any PSF) to 8.6 arcsec
_RADII = np.geomspace(0.01, 4.0, 44)  # arcsec; neighbours differ by 15 %, interpolated below
_DEVAUCOULEURS = profile_weights("de Vaucouleurs", _RADII, _VARIANCES)
_EXPONENTIAL = profile_weights("exponential", _RADII, _VARIANCES)


class Flag(IntFlag):
    """What went wrong with an object; 0 when nothing did."""

    BAD_PIXELS = 1
    """A pixel is not finite: all measured features are NaN."""
    NO_REFERENCE_FLUX = 2
    """No profile fits the reference band with a positive flux: fluxes are those of a point source."""
    NO_CENTRE = 4
    """The centre ran away from the middle of the stamp and was put back there."""
    RADIUS_LIMIT = 8
    """In some band the best de Vaucouleurs radius is the largest tried."""


@dataclass(frozen=True)
class Measurement:
    """What was measured on N objects.

    Parameters
    ----------
    features : ndarray of float64, shape (N, F)
        Features in the order of ``profile.feature_names``.
    flags : ndarray of uint8, shape (N,)
        Bits of `Flag`.
    centre : ndarray of float64, shape (N, 2)
        Row and column offset of the source from the middle of the stamp in pixels, registration taken out.
    """

    features: np.ndarray
    flags: np.ndarray
    centre: np.ndarray = field(repr=False)


def softening(profile: SurveyProfile) -> np.ndarray:
    """Return the asinh softening of each band in flux units, shape (bands,).

    Raises
    ------
    ConfigError
        If none is known for the survey.
    """
    if profile.name not in SOFTENING:
        raise ConfigError(
            f"no magnitude softening is known for survey {profile.name!r}", expected=" or ".join(SOFTENING)
        )
    return np.array(SOFTENING[profile.name]) * 10 ** (0.4 * profile.zero_point)


def asinh_magnitude(flux: np.ndarray, profile: SurveyProfile) -> np.ndarray:
    """Return asinh magnitudes (Lupton, Gunn & Szalay 1999), finite for any finite flux.

    Parameters
    ----------
    flux : ndarray of float, shape (..., bands)
        Flux in ``profile.flux_unit``; may be negative.
    profile : SurveyProfile
        Gives zero point and softening.

    Returns
    -------
    ndarray of float64, shape (..., bands)
        ``zero_point - 2.5/ln 10 (asinh(f / 2b) + ln b)`` with f and softening b in flux units.
    """
    b = softening(profile)
    return profile.zero_point - 2.5 / math.log(10) * (
        np.arcsinh(np.asarray(flux, float) / (2 * b)) + np.log(b)
    )


def asinh_flux(magnitude: np.ndarray, profile: SurveyProfile) -> np.ndarray:
    """Return the flux of an asinh magnitude: the inverse of `asinh_magnitude`, same shapes and units."""
    b = softening(profile)
    exponent = (profile.zero_point - np.asarray(magnitude, float)) * (math.log(10) / 2.5) - np.log(b)
    return 2 * b * np.sinh(exponent)


def _centre(
    square: np.ndarray, middle: np.ndarray, width: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the centre common to all bands by matched first moments.

    `square` (N, B, S, S), `middle` (N, B, 2) expected row and column in each band, `width` (N, B) sigma in
    pixels. Bands count by their squared signal to noise. Returns the shift (N, 2) and whether it stayed in
    bounds (N,).
    """
    size = square.shape[-1]
    shift = np.zeros((len(square), 2))
    variance = (width**2)[..., None]
    for _ in range(4):
        position = middle + shift[:, None]
        rows = axis_values(size, position[..., 0], variance)[..., 0, :]
        columns = axis_values(size, position[..., 1], variance)[..., 0, :]
        dy = np.arange(size) - position[..., 0, None]
        dx = np.arange(size) - position[..., 1, None]
        across = (square @ columns[..., None])[..., 0]
        flux = (rows * across).sum(-1)
        down = (rows * dy * across).sum(-1)
        along = (rows * (square @ (columns * dx)[..., None])[..., 0]).sum(-1)
        # A Gaussian source under a Gaussian window of its own width shows half its offset, hence the 2; its
        # error goes as noise * width / flux, so the weight of a band is (flux / noise / width)^2 and that
        # of its moment flux.
        weight = np.maximum(flux, 0) / (noise * width) ** 2
        total = (weight * flux).sum(-1)
        moment = np.stack([(weight * down).sum(-1), (weight * along).sum(-1)], axis=-1)
        step = np.divide(2 * moment, total[:, None], out=np.zeros_like(moment), where=total[:, None] > 0)
        shift = shift + np.clip(step, -1, 1)
    inside = np.asarray((np.abs(shift) <= MAX_SHIFT).all(axis=-1))
    return np.where(inside[:, None], shift, 0.0), inside


def _products(
    square: np.ndarray, position: np.ndarray, psf: DoubleGaussian, pixel_scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Multiply images with the dictionary, and the dictionary with itself.

    Returns ``image . element`` of shape (N, B, M) and ``element . element`` of shape (N, B, M, M) for the
    elements widened by the PSF, at row and column `position` (N, B, 2).
    """
    n, bands, size, _ = square.shape
    m = len(_VARIANCES)
    variance = (psf.sigma[..., :, None] ** 2 + _VARIANCES) / pixel_scale**2 + PIXEL_VARIANCE
    variance = variance.reshape(n, bands, 2 * m)
    rows = axis_values(size, position[..., 0], variance)
    columns = axis_values(size, position[..., 1], variance)
    share = psf.share
    image = (rows * (columns @ square.swapaxes(-1, -2))).sum(-1).reshape(n, bands, 2, m)
    gram = (rows @ rows.swapaxes(-1, -2)) * (columns @ columns.swapaxes(-1, -2))
    gram = gram.reshape(n, bands, 2, m, 2, m)
    core, wing = share[..., 0, None, None], share[..., 1, None, None]
    gram = (
        core**2 * gram[:, :, 0, :, 0]
        + core * wing * (gram[:, :, 0, :, 1] + gram[:, :, 1, :, 0])
        + wing**2 * gram[:, :, 1, :, 1]
    )
    return (share[..., None] * image).sum(2), gram


def _gain(weights: np.ndarray, image: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Return how far the best positive amplitude of each of J profiles lowers the squared residual."""
    overlap = image @ weights.T
    norm = ((weights @ gram) * weights).sum(-1)
    return np.maximum(overlap, 0) ** 2 / norm


def _best_radius(gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of the largest gain on the grid of radii (a fraction interpolates), and that gain."""
    last = gain.shape[-1] - 1
    best = gain.argmax(axis=-1)
    middle = np.clip(best, 1, last - 1)
    left, centre, right = (
        np.take_along_axis(gain, (middle + step)[..., None], -1)[..., 0] for step in (-1, 0, 1)
    )
    bend = left - 2 * centre + right
    inner = (best == middle) & (bend < 0)
    offset = np.divide(0.5 * (left - right), bend, out=np.zeros_like(bend), where=inner)
    return best + np.where(inner, offset, 0.0), gain.max(axis=-1)


def _at(table: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Interpolate the rows of `table` linearly at fractional `place`."""
    low = np.clip(place.astype(np.int64), 0, len(table) - 2)
    part = (place - low)[..., None]
    return (1 - part) * table[low] + part * table[low + 1]


def _measure(
    square: np.ndarray,
    middle: np.ndarray,
    psf: DoubleGaussian,
    noise: np.ndarray,
    profile: SurveyProfile,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return flux (N, B), radius (N, B) in arcsec, flags (N,) and shift (N, 2)."""
    scale = profile.pixel_scale_arcsec
    reference = profile.bands.index(profile.reference_band)
    width = np.sqrt((psf.fwhm / 2.3548 / scale) ** 2 + PIXEL_VARIANCE)
    shift, inside = _centre(square, middle, width, noise)
    image, gram = _products(square, middle + shift[:, None], psf, scale)

    gain = _gain(_DEVAUCOULEURS, image, gram)
    place, height = _best_radius(gain)
    radius = np.where(place > 0, np.exp(np.interp(place, np.arange(len(_RADII)), np.log(_RADII))), 0.0)

    disc_place, disc_height = _best_radius(_gain(_EXPONENTIAL, image[:, reference], gram[:, reference]))
    spheroid = height[:, reference] >= disc_height
    shape = np.where(
        spheroid[:, None], _at(_DEVAUCOULEURS, place[:, reference]), _at(_EXPONENTIAL, disc_place)
    )
    found = np.maximum(height[:, reference], disc_height) > 0
    shape[~found] = _DEVAUCOULEURS[0]
    overlap = (image * shape[:, None]).sum(-1)
    norm = np.einsum("nm,nbmk,nk->nb", shape, gram, shape, optimize=True)
    flags = (
        np.where(found, 0, Flag.NO_REFERENCE_FLUX)
        | np.where(inside, 0, Flag.NO_CENTRE)
        | np.where((place >= len(_RADII) - 1).any(axis=1), Flag.RADIUS_LIMIT, 0)
    )
    return overlap / norm, radius, flags.astype(np.uint8), shift


def measure(
    stamps: np.ndarray,
    psf: DoubleGaussian,
    noise: np.ndarray,
    extinction: np.ndarray,
    profile: SurveyProfile,
    *,
    registration: np.ndarray | None = None,
) -> Measurement:
    """Measure the photometric features of sources at the middle of their stamps.

    The centre is found from the pixels, one for all bands. In each band a round de Vaucouleurs profile
    convolved with the PSF is fitted for its radius; the better of that and an exponential one in the
    reference band gives the model magnitudes in all bands. Extinction and PSF widths are taken as given.

    Parameters
    ----------
    stamps : ndarray of float, shape (N, bands, size, size)
        Sky-subtracted images in ``profile.flux_unit`` per pixel.
    psf : DoubleGaussian of shape (N, bands)
        Point spread functions.
    noise : ndarray of float, shape (N, bands)
        Standard deviation of the sky in a pixel.
    extinction : ndarray of float, shape (N, bands)
        Galactic extinction in magnitudes.
    profile : SurveyProfile
        Bands, pixel scale and zero point.
    registration : ndarray of float, shape (N, bands, 2), optional
        Row and column in pixels, from the middle of the stamp, of one position on the sky in each band: how
        far the bands are from being aligned, known from their astrometry. Zero by default.

    Returns
    -------
    Measurement
        Features, flags and centres.

    Raises
    ------
    DataError
        If shapes disagree, or the stamps are smaller than the square that is fitted.
    ConfigError
        If the magnitude system of the survey is not known.
    """
    softening(profile)
    stamps = np.asarray(stamps)
    n, bands = len(stamps), len(profile.bands)
    if stamps.ndim != 4 or stamps.shape[1] != bands or stamps.shape[2] != stamps.shape[3]:
        raise DataError(f"stamps have shape {stamps.shape}", expected=f"(N, {bands}, size, size)")
    size = stamps.shape[-1]
    if size < FIT_PIXELS:
        raise DataError(f"stamps are {size} pixels wide", expected=f"at least {FIT_PIXELS}, which are fitted")
    if registration is None:
        registration = np.zeros((n, bands, 2))
    arrays = {"psf": psf.wing, "noise": noise, "extinction": extinction, "registration": registration[..., 0]}
    for name, array in arrays.items():
        if np.shape(array) != (n, bands):
            raise DataError(
                f"{name} has shape {np.shape(array)}", expected=f"{(n, bands)}, a value for each band"
            )

    low = (size - FIT_PIXELS) // 2
    middle = (size - 1) / 2 - low + registration
    flux, radius = np.full((2, n, bands), np.nan)
    flags = np.full(n, Flag.BAD_PIXELS, np.uint8)
    centre = np.full((n, 2), np.nan)
    for start in range(0, n, CHUNK):
        rows = np.arange(start, min(start + CHUNK, n))
        square = stamps[rows, :, low : low + FIT_PIXELS, low : low + FIT_PIXELS].astype(float)
        good = np.isfinite(square).all(axis=(1, 2, 3))
        rows = rows[good]
        flux[rows], radius[rows], flags[rows], centre[rows] = _measure(
            square[good], middle[rows], psf[rows], noise[rows], profile
        )

    magnitude = asinh_magnitude(flux, profile)
    features = np.empty((n, profile.num_features))
    per_band = [magnitude - extinction, radius, psf.fwhm, extinction]
    features[:, : 4 * bands] = np.stack(per_band, axis=-1).reshape(n, 4 * bands)
    features[:, 4 * bands :] = magnitude[:, :-1] - magnitude[:, 1:]
    return Measurement(features, flags, centre)
