"""How a survey sees: seeing, sky, noise, neighbours, extinction, what detector and pipeline leave.

One `Conditions` a survey holds the numbers. Where they come from:

* SDSS sky, gain, read noise and scatter of the residual sky: three calibrated frames of each band (runs 94,
  1035 and 1043), their sky tables and calibration vectors, and the gains and dark variances of two psField
  files; the noise that follows is within 10 % of the scatter of the frames' pixels. Mean residual sky and PSF
  errors: tuned to radii and u fluxes of real Experiment-3 stars of even objID. The catalogue's sky lies above
  that of the frames (in field 94-1-12 by 0.0002 to 0.007 nanomaggy a pixel, u to z), and what the catalogue
  measured is what is simulated. PSF shape: the two-Gaussian fits of the
  psField files. Gradients and ellipticity of the PSF: ``PSF_FWHM`` and ``M_E1_PSF``, ``M_E2_PSF`` of the
  photoObj file of run 94. Columns and cosmic rays: the mask (fpM) of run 1000, 10 full columns and 149
  cosmic rays in r. Seeing and extinction: medians, scatter and correlations of compact SDSS spectroscopic
  objects with observed r of 20 to 23.
* LSST, one visit of 30 s in each band: sky brightness and effective seeing from Ivezic et al. (2019, ApJ
  873, 111, table 2), zero points from SMTN-002 (lsst.io, throughputs v1.9). Depths follow;
  `five_sigma_depth` gives them.

What was chosen, not measured, is marked so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from .psf import Psf
from .survey import SurveyProfile
from .survey_tables import PROBABILITIES, PSF_FWHM, draw_extinction, draw_fwhm, draw_no_light_radius

FIELD_ARCMIN = (12.0, 8.4)
"""Extent of a field in RA and Dec, within which its conditions hold."""

_FIELD_STEP = (0.25, 0.15)  # degrees between fields in RA and Dec
_FIELDS_IN_RA, _FIELDS_IN_DEC, _ORIGIN = 400, 400, (120.0, -10.0)


@dataclass(frozen=True)
class Conditions:
    """The numbers of one survey; arrays have shape (B,), a value for each band.

    Parameters
    ----------
    seeing : ndarray
        Median FWHM of the PSF, arcsec.
    draw_seeing : callable
        Given a generator and a number, draws the FWHM of so many fields, shape (number, B), arcsec.
    moffat_beta : float or None
        Index of a Moffat PSF; None for two Gaussians.
    moffat_terms : int
        Gaussians that a Moffat PSF is made of.
    gradient : float
        Scatter of the change of ln FWHM across a field, along each side.
    ellipticity : tuple of float
        Scatter of each component of (a^2 - b^2) / (a^2 + b^2): common to the bands, and of each band.
    ellipticity_error : float
        Scatter of each component of the true one about the modelled one.
    psf_error, psf_error_scatter : ndarray
        True over modelled PSF width, less one.
    sky : ndarray
        Flux of the sky in a pixel, median.
    sky_scatter : float
        Of its natural logarithm.
    gain, read_noise : ndarray
        Electrons per flux unit; noise of reading and dark current in a pixel, electrons.
    residual, residual_scatter : ndarray
        What sky subtraction leaves in a pixel, flux units: mean and scatter from stamp to stamp.
    columns : float
        Share of columns that are bad and interpolated over.
    cosmic_rays : float
        Cosmic rays that the pipeline has missed, per pixel of a frame.
    draw_no_light_radius : callable or None
        Given a generator and a shape, draws the radii in arcsec that the pipeline lists in bands where no
        profile has positive light; None to list what fits the noise.
    """

    seeing: np.ndarray
    draw_seeing: Callable[[np.random.Generator, int], np.ndarray]
    moffat_beta: float | None
    moffat_terms: int
    gradient: float
    ellipticity: tuple[float, float]
    ellipticity_error: float
    psf_error: np.ndarray
    psf_error_scatter: np.ndarray
    sky: np.ndarray
    sky_scatter: float
    gain: np.ndarray
    read_noise: np.ndarray
    residual: np.ndarray
    residual_scatter: np.ndarray
    columns: float
    cosmic_rays: float
    draw_no_light_radius: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray] | None = None

    def noise(self, sky: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Return the standard deviation of a pixel of sky, flux units: photons, and reading."""
        return np.sqrt(sky / gain + (self.read_noise / gain) ** 2)

    def psf(self, fwhm: np.ndarray, wing: np.ndarray) -> Psf:
        """Return PSFs of a width in arcsec; `wing`, about 1, scales the wing of two Gaussians."""
        if self.moffat_beta is None:
            return Psf.double_gaussian(fwhm, wing_height=_WING_HEIGHT * wing)
        return Psf.moffat(fwhm, self.moffat_beta, self.moffat_terms)


_WING_HEIGHT, _WING_SCATTER = 0.055, 0.25  # peak of the wing over that of the core: psField fits
_MISSED = 0.02  # share of cosmic rays that a pipeline does not find; chosen
_COSMIC_RAYS = 149 / (1489 * 2048)  # found in a pixel of 24 micron during 54 s: mask of run 1000, r

SDSS_CONDITIONS = Conditions(
    seeing=np.array(PSF_FWHM)[:, PROBABILITIES.index(0.5)],
    draw_seeing=draw_fwhm,
    moffat_beta=None,
    moffat_terms=2,
    gradient=0.037,
    ellipticity=(0.05, 0.03),
    ellipticity_error=0.015,  # chosen
    # Tuned; they stand for what the simulated photometry does otherwise than the SDSS pipeline, too.
    psf_error=np.full(5, -0.006),
    psf_error_scatter=np.full(5, 0.015),
    sky=np.array([0.275, 0.301, 0.806, 1.57, 4.85]),  # nanomaggy
    sky_scatter=0.17,
    gain=np.array([210.0, 950.0, 980.0, 770.0, 150.0]),  # electrons per nanomaggy
    read_noise=np.array(
        [5.0, 13.1, 6.4, 14.5, 4.3]
    ),  # gain x sqrt(dark variance), psField of runs 94 and 1000
    residual=np.array([-0.0012, -0.0004, -0.0010, -0.0016, -0.0020]),
    residual_scatter=np.array([0.0013, 0.0009, 0.0013, 0.0022, 0.0060]),
    columns=10 / 2048,
    cosmic_rays=_MISSED * _COSMIC_RAYS,
    draw_no_light_radius=draw_no_light_radius,
)


def _lsst() -> Conditions:
    seconds, arcsec = 30.0, 0.2
    gain = seconds * 10 ** (0.4 * (np.array([26.52, 28.51, 28.36, 28.17, 27.78, 26.82]) - 31.4))  # e- per nJy
    sky = arcsec**2 * 10 ** (0.4 * (31.4 - np.array([22.99, 22.26, 21.20, 20.48, 19.60, 18.61])))  # nJy
    read_noise = np.full(6, 9.1)  # 8.8 e- of one exposure, and 0.2 e-/s of dark current (SMTN-002)
    noise = np.sqrt(sky / gain + (read_noise / gain) ** 2)
    seeing = np.array([0.92, 0.87, 0.83, 0.80, 0.78, 0.76])

    def draw_seeing(rng: np.random.Generator, count: int) -> np.ndarray:
        # The scatter is chosen, as in SDSS; visits in different bands are of different nights.
        return seeing * np.exp(0.15 * rng.standard_normal((count, 6)))

    return Conditions(
        seeing=seeing,
        draw_seeing=draw_seeing,
        moffat_beta=4.765,  # Kolmogorov turbulence: Trujillo et al. (2001, MNRAS 328, 977)
        moffat_terms=4,
        gradient=0.02,  # chosen
        ellipticity=(0.0, 0.04),  # chosen
        ellipticity_error=0.005,  # chosen
        psf_error=np.zeros(6),
        psf_error_scatter=np.full(6, 0.01),  # chosen
        sky=sky,
        sky_scatter=0.2,  # chosen
        gain=gain,
        read_noise=read_noise,
        residual=0.02 * noise,  # chosen, as are the two that follow; SDSS has about as much in these terms
        residual_scatter=0.03 * noise,
        columns=1e-3,
        # Pixels of 10 micron; the rate by area and second is that of the SDSS mask.
        cosmic_rays=_MISSED * _COSMIC_RAYS * (10 / 24) ** 2 * seconds / 53.9,
    )


CONDITIONS = {"sdss": SDSS_CONDITIONS, "lsst": _lsst()}
"""Conditions by the name of the survey's profile."""


def conditions(profile: SurveyProfile) -> Conditions:
    """Return the conditions of a survey.

    Raises
    ------
    ConfigError
        If the survey's conditions are not known.
    """
    if profile.name not in CONDITIONS:
        raise ConfigError(
            f"survey {profile.name!r} cannot be simulated",
            expected=f"{' or '.join(CONDITIONS)}, whose sky is known",
        )
    return CONDITIONS[profile.name]


def five_sigma_depth(profile: SurveyProfile) -> np.ndarray:
    """Return the magnitude of a point source measured at five sigma under median conditions, shape (B,).

    With the number of pixels in a PSF, ``2.266 (FWHM / pixel)^2``, as in SMTN-002.
    """
    c = conditions(profile)
    pixels = 2.266 * (c.seeing / profile.pixel_scale_arcsec) ** 2
    background = pixels * (c.sky * c.gain + c.read_noise**2)
    electrons = 12.5 + np.sqrt(12.5**2 + 25 * background)
    return profile.zero_point - 2.5 * np.log10(electrons / c.gain)


@dataclass(frozen=True)
class Fields:
    """Observing conditions of F fields in B bands.

    Parameters
    ----------
    psf, true_psf : Psf of shape (F, B)
        The PSF in the middle of the field as the survey models it, and as it is; widths alone, of the same
        area as the ellipses that follow.
    ellipticity : ndarray, shape (F, B, 2)
        Of the PSF as the survey models it: (a^2 - b^2) / (a^2 + b^2) along columns, and along their diagonal.
    gradient : ndarray, shape (F, B, 2)
        Change of the ln FWHM of both from side to side, in RA and in Dec.
    axis_ratio, angle : ndarray, shape (F, B)
        Shape of the true PSF: minor over major axis, and direction of the major axis from the columns in
        radians.
    noise : ndarray, shape (F, B)
        Standard deviation of a pixel of sky, flux units.
    gain : ndarray, shape (F, B)
        Electrons per flux unit.
    extinction_r : ndarray, shape (F,)
        Galactic extinction in r, magnitudes.
    ra, dec : ndarray, shape (F,)
        Corner of the field, degrees.
    """

    psf: Psf
    true_psf: Psf
    ellipticity: np.ndarray
    gradient: np.ndarray
    axis_ratio: np.ndarray
    angle: np.ndarray
    noise: np.ndarray
    gain: np.ndarray
    extinction_r: np.ndarray
    ra: np.ndarray
    dec: np.ndarray


def draw_fields(rng: np.random.Generator, first: int, count: int, profile: SurveyProfile) -> Fields:
    """Draw the conditions of fields numbered ``first`` to ``first + count - 1``.

    Parameters
    ----------
    rng : Generator
        Source of randomness, consumed.
    first, count : int
        Numbers of the fields: they fix the place on the sky.
    profile : SurveyProfile
        The survey.

    Returns
    -------
    Fields
        The conditions.

    Raises
    ------
    ConfigError
        If the survey's conditions are not known.
    """
    c, bands = conditions(profile), len(profile.bands)
    shape = (count, bands)
    psf = c.psf(c.draw_seeing(rng, count), np.exp(_WING_SCATTER * rng.standard_normal(shape)))
    # Half of the error of the modelled width is common to the bands.
    error = np.sqrt(0.5) * (rng.standard_normal((count, 1)) + rng.standard_normal(shape))
    true_psf = psf.widened(1 + c.psf_error + c.psf_error_scatter * error)
    # Half of the variation over a field, too.
    gradient = np.sqrt(0.5) * (rng.standard_normal((count, 1, 2)) + rng.standard_normal((*shape, 2)))
    common, own = c.ellipticity
    modelled = common * rng.standard_normal((count, 1, 2)) + own * rng.standard_normal((*shape, 2))
    e = np.clip(modelled + c.ellipticity_error * rng.standard_normal((*shape, 2)), -0.3, 0.3)
    length = np.hypot(e[..., 0], e[..., 1])
    gain = c.gain * np.exp(0.08 * rng.standard_normal(shape))
    number = first + np.arange(count)
    return Fields(
        psf=psf,
        true_psf=true_psf,
        ellipticity=np.clip(modelled, -0.3, 0.3),
        gradient=c.gradient * gradient,
        axis_ratio=np.sqrt((1 - length) / (1 + length)),
        angle=0.5 * np.arctan2(e[..., 1], e[..., 0]),
        noise=c.noise(c.sky * np.exp(c.sky_scatter * rng.standard_normal(shape)), gain),
        gain=gain,
        extinction_r=draw_extinction(rng, count),
        ra=_ORIGIN[0] + _FIELD_STEP[0] * (number % _FIELDS_IN_RA),
        dec=_ORIGIN[1] + _FIELD_STEP[1] * (number // _FIELDS_IN_RA % _FIELDS_IN_DEC),
    )


def draw_sky(rng: np.random.Generator, count: int, profile: SurveyProfile) -> np.ndarray:
    """Draw what is left of the sky around `count` objects, flux in a pixel, shape (count, B) float32."""
    c = conditions(profile)
    noise = rng.standard_normal((count, len(profile.bands)))
    return (c.residual + c.residual_scatter * noise).astype(np.float32)


# All that lies around: counts of field objects down to where single ones no longer matter.
NEIGHBOUR_SLOTS = 4
"""Most neighbours of an object."""

_NEIGHBOUR_DENSITY = 65 / 3600.0  # per square arcsec to the faintest
_NEIGHBOUR_R = (17.0, 25.5, 0.35)  # brightest, faintest, slope of log10 of the counts
_NEIGHBOUR_STARS = 0.2


@dataclass(frozen=True)
class Neighbours:
    """Up to S further sources around each of N objects.

    Parameters
    ----------
    present : ndarray of bool, shape (S, N)
        Whether there is one.
    magnitudes : ndarray, shape (S, N, B)
        Dereddened colours on the observed r magnitude.
    radius : ndarray, shape (S, N)
        Half-light radius in arcsec of its round, Gaussian profile; zero for a star.
    offset : ndarray, shape (S, N, 2)
        Row and column from the object, arcsec.
    """

    present: np.ndarray
    magnitudes: np.ndarray
    radius: np.ndarray
    offset: np.ndarray


def neighbour_distance(profile: SurveyProfile) -> float:
    """Return how far from an object neighbours are drawn, arcsec: a little more than half a stamp."""
    return 0.55 * profile.stamp_size * profile.pixel_scale_arcsec


def draw_neighbours(
    rng: np.random.Generator,
    count: int,
    profile: SurveyProfile,
    draw: Callable[[str, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> Neighbours:
    """Draw field stars and galaxies that happen to lie near `count` objects, uniform over the disc.

    Parameters
    ----------
    rng : Generator
        Source of randomness, consumed.
    count : int
        Objects.
    profile : SurveyProfile
        The survey.
    draw : callable
        Given a class and observed reference magnitudes (n,), returns magnitudes (n, B) and half-light radii
        (n,) of such sources.
    """
    slots, n = NEIGHBOUR_SLOTS, NEIGHBOUR_SLOTS * count
    low, high, slope = _NEIGHBOUR_R
    r = low + np.log10(1 + rng.random(n) * (10 ** (slope * (high - low)) - 1)) / slope
    is_star = rng.random(n) < _NEIGHBOUR_STARS
    magnitudes, radius = np.empty((n, len(profile.bands))), np.zeros(n)
    for kind, rows in (("STAR", np.flatnonzero(is_star)), ("GALAXY", np.flatnonzero(~is_star))):
        magnitudes[rows], radius[rows] = draw(kind, r[rows])
    distance = neighbour_distance(profile) * np.sqrt(rng.random(n))
    share = _NEIGHBOUR_DENSITY * np.pi * neighbour_distance(profile) ** 2 / slots
    angle = rng.uniform(0, 2 * np.pi, n)
    offset = distance[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return Neighbours(
        present=(rng.random(n) < share).reshape(slots, count),
        magnitudes=magnitudes.reshape(slots, count, -1),
        radius=radius.reshape(slots, count),
        offset=offset.reshape(slots, count, 2),
    )


# What a cosmic ray leaves: its track in pixels, and its charge in each in units of the sky's noise. What is
# left after a pipeline is short, and not much above the threshold of detection. Chosen.
_TRACK, _CHARGE = 1.5, (5.0, 10.0)


def add_cosmic_rays(rng: np.random.Generator, image: np.ndarray, noise: np.ndarray, rate: float) -> int:
    """Add the cosmic rays that a pipeline has missed to `image` (N, B, S, S) in place; return how many.

    `noise` (N, B) is that of the sky; `rate` is their number per pixel. Draws from `rng` depend on what
    falls, so these come last of a block.
    """
    n, bands, size, _ = image.shape
    hits = rng.poisson(rate * image.size)
    for _ in range(hits):
        k, band = rng.integers(n), rng.integers(bands)
        y, x = rng.uniform(0, size, 2)
        angle = rng.uniform(0, 2 * np.pi)
        steps = np.arange(1 + int(rng.exponential(_TRACK)))
        rows = np.floor(y + steps * np.sin(angle)).astype(np.int64)
        columns = np.floor(x + steps * np.cos(angle)).astype(np.int64)
        inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
        charge = noise[k, band] * (_CHARGE[0] + rng.exponential(_CHARGE[1], len(steps)))
        np.add.at(image[k, band], (rows[inside], columns[inside]), charge[inside].astype(image.dtype))
    return int(hits)


def interpolate_columns(rng: np.random.Generator, image: np.ndarray, share: float) -> int:
    """Replace bad columns of `image` (N, B, S, S) in place by the mean of their neighbours; return how many.

    A `share` of columns is bad, at most one in a stamp and band. This is what a pipeline does, and it leaves
    the pixels of the column with less noise than others, and a point source whose core it crosses with a
    dent.
    """
    n, bands, size, _ = image.shape
    bad = rng.random((n, bands)) < share * size
    column = rng.integers(0, size, (n, bands))
    k, band = np.nonzero(bad)
    c = column[k, band]
    left, right = np.where(c > 0, c - 1, 1), np.where(c < size - 1, c + 1, size - 2)
    image[k, band, :, c] = 0.5 * (image[k, band, :, left] + image[k, band, :, right])
    return len(k)
