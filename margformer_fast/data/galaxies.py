"""Galaxies of the sky: luminosity functions, template spectra through redshift, sizes, bulges and discs.

Sources:

* spectra: positive sums of the templates of :mod:`.templates`.
* luminosity functions of red and blue galaxies: Schechter functions in round numbers after Faber et al.
  (2007, ApJ 665, 265), with M* brighter by 1.2 mag for each unit of redshift.
* sizes: Shen et al. (2003, MNRAS 343, 978), shrinking with redshift as van der Wel et al. (2014, ApJ 788,
28) find.
* flat universe with a matter density of 0.3 and a Hubble constant of 70 km/s/Mpc.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .survey import SurveyProfile
from .templates import read_templates

# Red and blue: characteristic magnitude in r at redshift 0, slope, density in 1e-3 Mpc^-3, and its evolution.
_SCHECHTER = ((-21.3, -0.5, 3.5, -1.0), (-20.9, -1.3, 4.5, 0.0))
_BRIGHTENING = 1.2
_Z = np.linspace(0.01, 1.3, 130)
_R = np.linspace(13.0, 26.0, 53)

# Shares of light in r by template at redshift 0: dusty, burst, fading burst, passive, forming stars,
# luminous red.
_RED_SHARES = np.array([0.3, 0.05, 0.4, 7.0, 0.5, 7.0])
_BLUE_SHARES = np.array([0.35, 0.25, 0.45, 0.9, 1.5, 0.15])  # of a Dirichlet distribution
_RED_DUST, _BLUE_DUST = 0.02, 0.10  # mean E(B-V), exponential
_SCATTER = np.array([0.06, 0.03, 0.02, 0.02, 0.03])  # of each SDSS band: what templates do not span

# log10 of the half-light radius in kpc at M* and redshift 0, its slope with magnitude, power of 1 + z,
# scatter (ln).
_SIZES = ((0.62, -0.24, -1.0, 0.40), (0.60, -0.15, -0.75, 0.45))
_SMALLEST = 0.02  # arcsec


@dataclass(frozen=True)
class Galaxies:
    """N galaxies.

    Parameters
    ----------
    sdss, magnitudes : ndarray, shape (N, 5) and (N, B)
        Dereddened magnitudes in the SDSS bands, and in those of the survey.
    redshift : ndarray, shape (N,)
    red : ndarray of bool, shape (N,)
        Of the red population.
    radius : ndarray, shape (N,)
        Half-light radius, arcsec.
    spheroid : ndarray, shape (N,)
        Share of light in the bulge.
    """

    sdss: np.ndarray
    magnitudes: np.ndarray
    redshift: np.ndarray
    red: np.ndarray
    radius: np.ndarray
    spheroid: np.ndarray


def comoving_distance(z: np.ndarray) -> np.ndarray:
    """Return the comoving distance in Mpc, to 0.1 % up to redshift 2."""
    grid = np.linspace(0, 2.0, 401)
    rate = np.sqrt(0.3 * (1 + grid) ** 3 + 0.7)
    step = (1 / rate[1:] + 1 / rate[:-1]) / 2 * (grid[1] - grid[0])
    return 299792.458 / 70 * np.interp(z, grid, np.concatenate([[0.0], np.cumsum(step)]))


def distance_modulus(z: np.ndarray) -> np.ndarray:
    """Return the distance modulus in magnitudes."""
    return 5 * np.log10(comoving_distance(z) * (1 + z)) + 25


def _at_redshift(table: np.ndarray, grid: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Interpolate a table (Z, ...) linearly at redshifts (N,), shape (N, ...)."""
    low = np.clip(np.searchsorted(grid, z) - 1, 0, len(grid) - 2)
    part = np.clip((z - grid[low]) / (grid[low + 1] - grid[low]), 0, 1)
    part = part.reshape(-1, *[1] * (table.ndim - 1))
    return table[low] * (1 - part) + table[low + 1] * part


@cache
def _counts() -> np.ndarray:
    """Return cumulative shares over (population, redshift) for each r of the grid, shape (R, 2 Z)."""
    tables = read_templates("sdss")
    light = _at_redshift(tables.galaxy, tables.galaxy_redshift, _Z)[..., 2]
    volume = comoving_distance(_Z) ** 2 * np.gradient(comoving_distance(_Z), _Z)
    counts = []
    for (bright, slope, density, growth), shares in zip(_SCHECHTER, (_RED_SHARES, _BLUE_SHARES), strict=True):
        correction = -2.5 * np.log10(light @ (shares / shares.sum()))
        absolute = _R[:, None] - distance_modulus(_Z) - correction
        luminosity = 10 ** (0.4 * (bright - _BRIGHTENING * _Z - absolute))
        there = density * (1 + _Z) ** growth * luminosity ** (slope + 1) * np.exp(-luminosity)
        counts.append(there * volume)
    flat = np.concatenate(counts, axis=1).cumsum(axis=1)
    return flat / flat[:, -1:]


def draw_galaxies(rng: np.random.Generator, r: np.ndarray, profile: SurveyProfile) -> Galaxies:
    """Draw field galaxies of given r.

    Parameters
    ----------
    rng : Generator
        Source of randomness, consumed.
    r : ndarray, shape (N,)
        SDSS magnitude in r.
    profile : SurveyProfile
        A survey whose tables there are.

    Returns
    -------
    Galaxies
        Of these r.
    """
    n = len(r)
    cumulative = _counts()
    row = np.clip(np.rint((r - _R[0]) / (_R[1] - _R[0])), 0, len(_R) - 1).astype(np.int64)
    uniform, place = rng.random(n), np.empty(n, np.int64)
    for k in np.unique(row):
        mine = row == k
        place[mine] = np.searchsorted(cumulative[k], uniform[mine])
    kind, cell = np.divmod(np.minimum(place, cumulative.shape[1] - 1), len(_Z))
    red = kind == 0
    z = np.maximum(_Z[cell] + (_Z[1] - _Z[0]) * (rng.random(n) - 0.5), 0.005)

    shares = np.empty((n, len(_RED_SHARES)))
    shares[red] = rng.dirichlet(2 * _RED_SHARES, int(red.sum()))
    shares[~red] = rng.dirichlet(_BLUE_SHARES, int((~red).sum()))
    dust = rng.exponential(np.where(red, _RED_DUST, _BLUE_DUST))

    def seen(survey: str) -> np.ndarray:
        tables = read_templates(survey)
        light = (_at_redshift(tables.galaxy, tables.galaxy_redshift, z) * shares[..., None]).sum(axis=1)
        dimming = _at_redshift(tables.galaxy_dust, tables.galaxy_redshift, z)
        return -2.5 * np.log10(light) + dust[:, None] * dimming

    sdss = seen("sdss")
    correction = sdss[:, 2]
    scatter = _SCATTER * rng.standard_normal((n, 5))
    shift = (r - sdss[:, 2] - scatter[:, 2])[:, None]
    if profile.name == "sdss":
        magnitudes = sdss + scatter + shift
    else:
        extra = np.concatenate([scatter, scatter[:, -1:]], axis=1)[:, : len(profile.bands)]
        magnitudes = seen(profile.name) + extra + shift
    sdss = sdss + scatter + shift

    absolute = r - distance_modulus(z) - correction
    base, slope, power, width = np.array(_SIZES)[kind].T
    characteristic = np.array([entry[0] for entry in _SCHECHTER])[kind]
    kpc = 10 ** (base + slope * np.clip(absolute - characteristic, -3, 4)) * (1 + z) ** power
    kpc *= np.exp(width * rng.standard_normal(n))
    radius = np.maximum(kpc * (1 + z) / comoving_distance(z) / 1000 * 206265, _SMALLEST)
    spheroid = np.where(red, 1 - 0.4 * rng.random(n) ** 2, 0.6 * rng.random(n) ** 1.5)
    return Galaxies(sdss, magnitudes, z, red, radius, spheroid)
