"""What there is to see: fields of an SDSS-like survey, and the stars, galaxies and quasars in them.

Every number here is a small table chosen so that the simulated sky resembles the SDSS spectroscopic sample in
its one-dimensional distributions; `docs/simulation.md` says how far it does. Sources of the tables:

* seeing, extinction, star and galaxy colours beyond r = 20, and sizes: medians, scatter and histograms of
  compact SDSS spectroscopic objects with observed r of 20 to 23;
* colours of bright stars, of galaxies below redshift 0.25 and of quasars below redshift 2.5: medians in bins
  of an SDSS spectroscopic sample of 10,000; of quasars beyond, the known passage of the Lyman break through
  u, g and r; of other galaxies, chosen by hand between and beyond these to meet the observed histograms;
* sky noise, residual sky, gain and the shape of the PSF: calibrated SDSS frames and their PSF fits.

Magnitudes are observed ones in r; colours in the tables are dereddened.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .profiles import DoubleGaussian

# --- Fields. Bands are u, g, r, i, z throughout. ---

_SEEING = np.array([1.366, 1.264, 1.153, 1.076, 1.104])  # arcsec, median FWHM
_SEEING_SCATTER = np.array([0.146, 0.137, 0.149, 0.166, 0.148])  # of its natural logarithm
_SEEING_CORRELATION = np.array(
    [
        [1.000, 0.815, 0.755, 0.768, 0.763],
        [0.815, 1.000, 0.727, 0.730, 0.813],
        [0.755, 0.727, 1.000, 0.892, 0.732],
        [0.768, 0.730, 0.892, 1.000, 0.807],
        [0.763, 0.813, 0.732, 0.807, 1.000],
    ]
)
_SKY_NOISE = np.array([0.048, 0.021, 0.032, 0.056, 0.20])  # nanomaggy in a pixel
_GAIN = np.array([210.0, 950.0, 980.0, 770.0, 150.0])  # electrons per nanomaggy
_EXTINCTION = (
    (0.95, 0.068, 0.65),
    (0.05, 0.30, 0.80),
)  # share of fields, median A_r, scatter of its logarithm
# True over modelled PSF width, less one: mean and scatter. u has few bright stars to model it from.
_PSF_ERROR = np.array([0.040, 0.020, 0.018, 0.018, 0.025])
_PSF_ERROR_SCATTER = np.array([0.040, 0.020, 0.018, 0.018, 0.028])
# What sky subtraction leaves, nanomaggy in a pixel: mean and scatter from stamp to stamp.
_SKY = np.array([0.0008, 0.0004, 0.0006, 0.0015, 0.0030])
_SKY_SCATTER = np.array([0.0013, 0.0009, 0.0013, 0.0022, 0.0060])
_FIELD_STEP = (0.25, 0.15)  # degrees between fields in RA and Dec
_FIELDS_IN_RA, _FIELDS_IN_DEC, _ORIGIN = 400, 400, (120.0, -10.0)


@dataclass(frozen=True)
class Fields:
    """Observing conditions of F fields in five bands.

    Parameters
    ----------
    psf, true_psf : DoubleGaussian of shape (F, 5)
        The PSF as the survey models it, and as it is.
    noise : ndarray, shape (F, 5)
        Standard deviation of the sky in a pixel, nanomaggy.
    gain : ndarray, shape (F, 5)
        Electrons per nanomaggy.
    extinction_r : ndarray, shape (F,)
        Galactic extinction in r, magnitudes.
    ra, dec : ndarray, shape (F,)
        Corner of the field, degrees.
    """

    psf: DoubleGaussian
    true_psf: DoubleGaussian
    noise: np.ndarray
    gain: np.ndarray
    extinction_r: np.ndarray
    ra: np.ndarray
    dec: np.ndarray


def draw_fields(rng: np.random.Generator, first: int, count: int) -> Fields:
    """Draw the conditions of fields numbered ``first`` to ``first + count - 1``.

    Parameters
    ----------
    rng : Generator
        Source of randomness, consumed.
    first, count : int
        Numbers of the fields: they fix the place on the sky.

    Returns
    -------
    Fields
        The conditions.
    """
    mixed = rng.standard_normal((count, 5)) @ np.linalg.cholesky(_SEEING_CORRELATION).T
    fwhm = _SEEING * np.exp(_SEEING_SCATTER * mixed)
    height = 0.055 * np.exp(0.25 * rng.standard_normal((count, 5)))
    psf = DoubleGaussian.from_fwhm(fwhm, wing_height=height)
    # Half of the error of the modelled width is common to the bands.
    error = np.sqrt(0.5) * (rng.standard_normal((count, 1)) + rng.standard_normal((count, 5)))
    true_psf = DoubleGaussian(psf.sigma * (1 + _PSF_ERROR + _PSF_ERROR_SCATTER * error)[..., None], psf.wing)
    kind = (rng.random(count) > _EXTINCTION[0][0]).astype(np.int64)
    median, scatter = np.array(_EXTINCTION)[kind, 1:].T
    extinction = np.minimum(median * np.exp(scatter * rng.standard_normal(count)), 5.0)
    number = first + np.arange(count)
    return Fields(
        psf=psf,
        true_psf=true_psf,
        noise=_SKY_NOISE * np.exp(0.10 * rng.standard_normal((count, 5))),
        gain=_GAIN * np.exp(0.08 * rng.standard_normal((count, 5))),
        extinction_r=extinction,
        ra=_ORIGIN[0] + _FIELD_STEP[0] * (number % _FIELDS_IN_RA),
        dec=_ORIGIN[1] + _FIELD_STEP[1] * (number // _FIELDS_IN_RA % _FIELDS_IN_DEC),
    )


def draw_sky(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw what is left of the sky around `count` objects, nanomaggy in a pixel, shape (count, 5) float32."""
    return (_SKY + _SKY_SCATTER * rng.standard_normal((count, 5))).astype(np.float32)


# --- Apparent brightness: share of each class in bins of observed r. ---

_R_EDGES = np.array([14.0, 15.0, 16.0, 17.0, 18.0, 19.0, 20.0, 20.5, 21.0, 21.5, 22.0, 22.5, 23.0])
# Relative, before the cuts: faint galaxies pass rarely, since noise makes them look extended in some band.
_R_SHARES = {
    "GALAXY": (0, 0, 0.002, 0.016, 0.045, 0.17, 0.34, 0.86, 0.71, 1.08, 0.68, 0.15),
    "QSO": (0, 0, 0.005, 0.02, 0.12, 0.22, 0.17, 0.20, 0.23, 0.18, 0.06, 0.015),
    "STAR": (0.03, 0.10, 0.17, 0.18, 0.13, 0.13, 0.08, 0.104, 0.095, 0.086, 0.043, 0.030),
}
# Edges in r of the rows of the tables that depend on it.
_BRIGHTNESS = np.array([19.0, 20.0, 20.5, 21.0, 21.5, 22.0])


def _draw_r(rng: np.random.Generator, kind: str, count: int, brightest: float) -> np.ndarray:
    """Draw observed r magnitudes fainter than `brightest` from the histogram of a class."""
    edges = np.maximum(_R_EDGES, brightest)
    shares = np.array(_R_SHARES[kind]) * np.diff(edges) / np.diff(_R_EDGES)
    cumulative = np.concatenate([[0.0], np.cumsum(shares)])
    return np.interp(rng.random(count) * cumulative[-1], cumulative, edges)


def _from_table(place: np.ndarray, nodes: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Interpolate each row of `columns` (C, K) over `nodes` (K,) at `place` (N,); shape (N, C)."""
    return np.stack([np.interp(place, nodes, column) for column in columns], axis=-1)


def _magnitudes(r: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Turn r and the colours u-g, g-r, r-i, i-z, shape (N, 4), into magnitudes (N, 5)."""
    ug, gr, ri, iz = colours.T
    return np.stack([r + gr + ug, r + gr, r, r - ri, r - ri - iz], axis=-1)


# --- Stars: a locus in g - i, and how it is populated at each brightness. ---

# fmt: off
_LOCUS_GI = np.array(
    [-0.9, -0.7, -0.5, -0.3, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.8, 2.2, 2.6, 3.0, 3.4, 3.9]
)
_LOCUS_UG = np.array(
    [
        -0.35, -0.12, 0.27, 1.10, 1.18, 1.08, 0.90, 0.98, 1.30, 1.52, 1.83, 2.22, 2.4, 2.5, 2.55,
        2.6, 2.6, 2.6, 2.7,
    ]
)
# White dwarfs and other hot stars that faint spectroscopy of quasar candidates picks up.
_HOT_UG = np.array([-0.35, -0.12, 0.2, 0.45, 0.60, 0.70, 0.90, *_LOCUS_UG[7:]])
_LOCUS_GR = np.array(
    [
        -0.55, -0.42, -0.28, -0.17, -0.05, 0.10, 0.24, 0.36, 0.50, 0.63, 0.77, 0.93, 1.06, 1.22,
        1.34, 1.43, 1.54, 1.58, 1.67,
    ]
)
_LOCUS_IZ = np.array(
    [
        -0.32, -0.27, -0.21, -0.10, -0.06, -0.03, 0.01, 0.05, 0.09, 0.13, 0.165, 0.19, 0.23, 0.33,
        0.49, 0.64, 0.78, 0.96, 1.17,
    ]
)
_LOCUS = np.stack([_LOCUS_UG, _LOCUS_GR, _LOCUS_GI - _LOCUS_GR, _LOCUS_IZ])
_LOCUS_SCATTER = np.array([0.12, 0.04, 0.03, 0.03])
_GI_EDGES = np.array([-0.8, -0.4, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6, 4.1])
_GI_SHARES = np.array(  # rows: r < 19, 19-20, 20-20.5, 20.5-21, 21-21.5, 21.5-22, > 22
    [
        [
            0.030, 0.050, 0.040, 0.130, 0.250, 0.220, 0.090, 0.040, 0.025, 0.020, 0.030, 0.040,
            0.025, 0.010, 0.000,
        ],
        [
            0.050, 0.080, 0.090, 0.200, 0.160, 0.130, 0.050, 0.050, 0.023, 0.028, 0.038, 0.057,
            0.025, 0.013, 0.006,
        ],
        [
            0.061, 0.087, 0.104, 0.226, 0.130, 0.103, 0.044, 0.054, 0.023, 0.028, 0.038, 0.057,
            0.020, 0.013, 0.011,
        ],
        [
            0.021, 0.083, 0.138, 0.219, 0.136, 0.098, 0.032, 0.025, 0.013, 0.023, 0.045, 0.071,
            0.042, 0.030, 0.025,
        ],
        [
            0.015, 0.126, 0.154, 0.101, 0.077, 0.059, 0.026, 0.011, 0.004, 0.020, 0.072, 0.169,
            0.064, 0.051, 0.051,
        ],
        [
            0.023, 0.172, 0.048, 0.016, 0.004, 0.008, 0.005, 0.002, 0.004, 0.015, 0.110, 0.266,
            0.193, 0.060, 0.073,
        ],
        [
            0.021, 0.083, 0.017, 0.006, 0.002, 0.000, 0.000, 0.002, 0.006, 0.008, 0.060, 0.194,
            0.264, 0.138, 0.200,
        ],
    ]
)
# fmt: on


def _draw_stars(rng: np.random.Generator, r: np.ndarray) -> np.ndarray:
    """Draw dereddened magnitudes (N, 5) of stars of given observed r."""
    cumulative = np.cumsum(_GI_SHARES, axis=1)
    cumulative = np.pad(cumulative / cumulative[:, -1:], ((0, 0), (1, 0)))
    row, uniform = np.digitize(r, _BRIGHTNESS), rng.random(len(r))
    gi = np.empty(len(r))
    for k, steps in enumerate(cumulative):
        gi[row == k] = np.interp(uniform[row == k], steps, _GI_EDGES)
    colours = _from_table(gi, _LOCUS_GI, _LOCUS)
    hot = rng.random(len(r)) < np.clip((r - 18) / 2, 0, 0.9)
    colours[hot, 0] = np.interp(gi[hot], _LOCUS_GI, _HOT_UG)
    scatter = np.repeat(_LOCUS_SCATTER[None], len(r), axis=0)
    scatter[gi < 0.2, 0] = 0.25
    return _magnitudes(r, colours + scatter * rng.standard_normal(colours.shape))


# --- Galaxies: an early type and a sequence from starburst to spiral, each by redshift. ---

_EARLY_Z = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.76, 0.84, 0.95, 1.05])
_EARLY = np.array(
    [
        [1.80, 1.95, 1.95, 2.00, 2.40, 2.70, 3.00, 3.00, 2.70, 2.40, 2.20, 2.00, 1.90, 1.60, 1.50],
        [0.80, 0.98, 1.20, 1.45, 1.60, 1.67, 1.70, 1.70, 1.68, 1.66, 1.66, 1.68, 1.72, 1.75, 1.80],
        [0.40, 0.44, 0.50, 0.55, 0.66, 0.75, 0.86, 0.95, 1.02, 1.06, 1.09, 1.12, 1.14, 1.17, 1.20],
        [0.32, 0.36, 0.34, 0.33, 0.36, 0.38, 0.41, 0.43, 0.45, 0.48, 0.55, 0.69, 0.83, 0.90, 0.95],
    ]
)
_EARLY_SCATTER = np.array([0.30, 0.09, 0.06, 0.05])
_LATE_Z = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
_SPIRAL = np.array(
    [
        [1.25, 1.25, 1.10, 0.95, 0.90, 0.90, 0.80, 0.75, 0.70, 0.60, 0.60],
        [0.55, 0.68, 0.82, 0.92, 1.00, 1.05, 1.00, 0.90, 0.80, 0.75, 0.70],
        [0.32, 0.38, 0.42, 0.45, 0.50, 0.58, 0.68, 0.75, 0.78, 0.80, 0.80],
        [0.22, 0.25, 0.27, 0.27, 0.28, 0.30, 0.33, 0.36, 0.40, 0.45, 0.50],
    ]
)
_STARBURST = np.array(
    [
        [0.80, 0.65, 0.50, 0.40, 0.35, 0.35, 0.30, 0.30, 0.30, 0.30, 0.30],
        [0.25, 0.30, 0.35, 0.40, 0.40, 0.35, 0.30, 0.25, 0.25, 0.20, 0.20],
        [-0.05, 0.00, 0.08, 0.12, 0.15, 0.20, 0.28, 0.35, 0.40, 0.40, 0.35],
        [0.00, 0.05, 0.10, 0.15, 0.20, 0.22, 0.22, 0.22, 0.25, 0.30, 0.35],
    ]
)
_LATE_SCATTER = np.array([0.20, 0.10, 0.08, 0.10])
_LINE_SCATTER = 0.10  # magnitudes in each band: emission lines come and go with redshift
# By observed r: share of early types, and (mean, scatter) of the redshifts of early and of late types.
_EARLY_SHARE = np.array([0.45, 0.60, 0.76, 0.86, 0.73, 0.69, 0.20])
_EARLY_REDSHIFT = np.array(
    [(0.20, 0.07), (0.36, 0.08), (0.49, 0.06), (0.55, 0.06), (0.62, 0.07), (0.74, 0.08), (0.84, 0.08)]
)
_LATE_REDSHIFT = np.array(
    [(0.12, 0.08), (0.22, 0.12), (0.30, 0.18), (0.35, 0.20), (0.45, 0.25), (0.60, 0.25), (0.84, 0.12)]
)
_SPIRAL_SLOPE = np.array([1.0, 1.0, 1.0, 1.0, 1.5, 1.8, 1.0])  # spiral share of the colours is uniform^slope
# Half-light radii: median in arcsec, and scatter of the natural logarithm.
_EARLY_SIZE = (0.58, 0.35)
_LARGEST = 0.9  # what is larger never passes as compact
_LATE_SIZE = ((0.26, 0.50), (0.42, 0.50))  # brighter and fainter than r = 21.75


def _draw_galaxies(
    rng: np.random.Generator, r: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw magnitudes (N, 5), redshift, half-light radius in arcsec and de Vaucouleurs share, given r."""
    n = len(r)
    row = np.digitize(r, _BRIGHTNESS)
    early = rng.random(n) < _EARLY_SHARE[row]
    mean, scatter = np.where(early[:, None], _EARLY_REDSHIFT[row], _LATE_REDSHIFT[row]).T
    redshift = np.clip(np.abs(mean + scatter * rng.standard_normal(n)), 0.01, 1.05)
    spiral = (rng.random(n) ** _SPIRAL_SLOPE[row])[:, None]
    late = spiral * _from_table(redshift, _LATE_Z, _SPIRAL)
    late += (1 - spiral) * _from_table(redshift, _LATE_Z, _STARBURST)
    colours = np.where(early[:, None], _from_table(redshift, _EARLY_Z, _EARLY), late)
    colours += np.where(early[:, None], _EARLY_SCATTER, _LATE_SCATTER) * rng.standard_normal((n, 4))
    magnitudes = _magnitudes(r, colours)
    magnitudes += np.where(early[:, None], 0.0, _LINE_SCATTER) * rng.standard_normal((n, 5))
    size = np.where((r > 21.75)[:, None], _LATE_SIZE[1], _LATE_SIZE[0])
    median, spread = np.where(early[:, None], _EARLY_SIZE, size).T
    radius = np.maximum(median * np.exp(spread * rng.standard_normal(n)), 0.02)
    # Compact is what is looked for: of a distribution that reaches further, draw the part that can pass.
    radius = np.where(radius > _LARGEST, rng.uniform(0.3, 1.0, n) * _LARGEST, radius)
    spheroid = np.where(early, rng.uniform(0.7, 1.0, n), rng.uniform(0.0, 0.4, n))
    return magnitudes, redshift, radius, spheroid


# --- Quasars: median colours by redshift. ---

# fmt: off
_QSO_Z = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9, 2.1, 2.35, 2.6, 3.0, 3.5, 4.0, 4.5, 5.0])
_QSO = np.array(
    [
        [
            0.58, 0.19, 0.30, 0.36, 0.25, 0.15, 0.11, 0.20, 0.19, 0.08, 0.16, 0.45, 0.75, 1.50,
            2.80, 3.40, 3.60, 4.00,
        ],
        [
            0.60, 0.32, -0.02, 0.04, 0.16, 0.25, 0.28, 0.15, 0.05, 0.06, 0.09, 0.12, 0.13, 0.22,
            0.60, 1.20, 1.60, 2.20,
        ],
        [
            0.45, 0.17, 0.17, 0.05, -0.05, -0.01, 0.05, 0.17, 0.24, 0.24, 0.12, 0.03, 0.04, 0.08,
            0.10, 0.20, 0.50, 1.20,
        ],
        [
            0.17, 0.40, 0.07, 0.05, 0.12, -0.03, -0.03, -0.03, 0.01, 0.08, 0.20, 0.21, 0.17, 0.10,
            0.05, 0.05, 0.10, 0.30,
        ],
    ]
)
# fmt: on
_QSO_SCATTER = np.array([0.10, 0.07, 0.06, 0.06])
_QSO_SLOPE = np.array([0.10, 0.08, 0.06, 0.05])  # one spectral slope moves all colours together
_DUST = np.array(
    [0.9, 0.8, 0.55, 0.40]
)  # colours of dust at the quasar, per magnitude of its exponential tail
_QSO_REDSHIFT = (
    (0.20, 0.80, 0.35),
    (0.40, 1.60, 0.45),
    (0.33, 2.40, 0.28),
    (0.07, 3.20, 0.50),
)  # share, mean, scatter


def _draw_quasars(
    rng: np.random.Generator, r: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw magnitudes (N, 5), redshift, radius of the host in arcsec and share of the core, given r."""
    n = len(r)
    share, mean, scatter = np.array(_QSO_REDSHIFT).T
    kind = np.searchsorted(np.cumsum(share)[:-1], rng.random(n))
    redshift = np.clip(np.abs(mean[kind] + scatter[kind] * rng.standard_normal(n)), 0.08, 5.0)
    colours = _from_table(redshift, _QSO_Z, _QSO) + _QSO_SCATTER * rng.standard_normal((n, 4))
    colours += _QSO_SLOPE * rng.standard_normal((n, 1))
    dusty = rng.random(n) < 0.15
    colours += _DUST * np.where(dusty, rng.exponential(0.35, n), 0.0)[:, None]
    host = 0.5 * np.exp(-redshift / 0.35) * rng.random(n)
    radius = np.clip(0.6 * np.exp(0.4 * rng.standard_normal(n)), 0.1, 3.0)
    return _magnitudes(r, colours), redshift, radius, 1 - host


# --- All classes. ---


@dataclass(frozen=True)
class Sources:
    """N objects of one class as they are above the atmosphere, dereddened but for r being as observed.

    Parameters
    ----------
    magnitudes : ndarray, shape (N, 5)
        Dereddened colours on the observed r magnitude.
    redshift : ndarray, shape (N,)
        Zero for stars.
    point : ndarray, shape (N,)
        Share of the flux in a point source.
    radius, axis_ratio, angle, spheroid : ndarray, shape (N,)
        Of the extended rest: half-light radius in arcsec, minor over major axis, position angle in radians,
        and share with a de Vaucouleurs profile, the others being exponential.
    """

    magnitudes: np.ndarray
    redshift: np.ndarray
    point: np.ndarray
    radius: np.ndarray
    axis_ratio: np.ndarray
    angle: np.ndarray
    spheroid: np.ndarray


def draw_sources(rng: np.random.Generator, kind: str, count: int, brightest: float) -> Sources:
    """Draw objects of one class.

    Parameters
    ----------
    rng : Generator
        Source of randomness, consumed.
    kind : {"GALAXY", "QSO", "STAR"}
        The class.
    count : int
        How many.
    brightest : float
        Observed r magnitude of the brightest drawn.

    Returns
    -------
    Sources
        The objects.
    """
    r = _draw_r(rng, kind, count, brightest)
    nothing, all_of_it = np.zeros(count), np.ones(count)
    redshift, radius, spheroid, point = nothing, nothing, nothing, all_of_it
    if kind == "GALAXY":
        magnitudes, redshift, radius, spheroid = _draw_galaxies(rng, r)
        point = nothing
    elif kind == "QSO":
        magnitudes, redshift, radius, point = _draw_quasars(rng, r)
    else:
        magnitudes = _draw_stars(rng, r)
    return Sources(
        magnitudes=magnitudes,
        redshift=redshift,
        point=point,
        radius=radius,
        axis_ratio=rng.uniform(0.35, 1.0, count),
        angle=rng.uniform(0, np.pi, count),
        spheroid=spheroid,
    )


# All that lies around: counts of field objects down to where single ones no longer matter.
_NEIGHBOUR_SLOTS, _NEIGHBOUR_SHARE = 4, 0.7  # 2.8 on average within the distance below: 65 per square arcmin
_NEIGHBOUR_DISTANCE = 7.0  # arcsec; uniform over the disc
_NEIGHBOUR_R = (17.0, 25.5, 0.35)  # brightest, faintest, slope of log10 of the counts
_NEIGHBOUR_STARS = 0.2


@dataclass(frozen=True)
class Neighbours:
    """Up to S further sources around each of N objects.

    Parameters
    ----------
    present : ndarray of bool, shape (S, N)
        Whether there is one.
    magnitudes : ndarray, shape (S, N, 5)
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


def draw_neighbours(rng: np.random.Generator, count: int) -> Neighbours:
    """Draw field stars and galaxies that happen to lie near `count` objects, consuming `rng`."""
    slots, n = _NEIGHBOUR_SLOTS, _NEIGHBOUR_SLOTS * count
    low, high, slope = _NEIGHBOUR_R
    r = low + np.log10(1 + rng.random(n) * (10 ** (slope * (high - low)) - 1)) / slope
    stars = _draw_stars(rng, r)
    galaxies, _, radius, _ = _draw_galaxies(rng, r)
    is_star = rng.random(n) < _NEIGHBOUR_STARS
    distance = _NEIGHBOUR_DISTANCE * np.sqrt(rng.random(n))
    angle = rng.uniform(0, 2 * np.pi, n)
    offset = distance[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return Neighbours(
        present=(rng.random(n) < _NEIGHBOUR_SHARE).reshape(slots, count),
        magnitudes=np.where(is_star[:, None], stars, galaxies).reshape(slots, count, 5),
        radius=np.where(is_star, 0.0, radius).reshape(slots, count),
        offset=offset.reshape(slots, count, 2),
    )
