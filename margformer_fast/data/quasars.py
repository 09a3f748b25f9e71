"""Quasars: a power law with lines and forest through redshift, dust, and the host galaxy around.

Spectra are those of :mod:`.templates`; slopes scatter as Richards et al. (2003, AJ 126, 1131) find,
equivalent widths fall with luminosity (Baldwin 1977, ApJ 214, 679), and the redshifts are those of the SDSS
spectroscopic samples: broad at r < 19, and beyond it with the peak at 2.3 that the BOSS survey looked for
(Ross et al. 2012, ApJS 199, 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .galaxies import _at_redshift, distance_modulus
from .survey import SurveyProfile
from .templates import read_templates

# Share, mean and scatter of redshift; bright (r < 19) and faint (r > 21), shares interpolated in between.
_REDSHIFT = np.array([(0.30, 0.45), (0.95, 0.40), (1.65, 0.45), (2.40, 0.26), (3.20, 0.50)])
_SHARE_R = np.array([18.0, 19.5, 21.0])
_SHARES = np.array(
    [[0.20, 0.32, 0.32, 0.10, 0.06], [0.07, 0.26, 0.36, 0.24, 0.07], [0.04, 0.20, 0.33, 0.38, 0.05]]
)
_SLOPE_SCATTER = 0.28
_LINE_SCATTER = 0.25  # of the natural logarithm of the equivalent width
_BALDWIN = 0.06  # of the same, for each magnitude of luminosity
_DUSTY, _DUST = 0.25, 0.05  # share with dust, and mean E(B-V)
_FOREST_SCATTER = 0.35  # of the optical depth
_SCATTER = 0.04
_HOST_SHARES = np.array([0.05, 0.05, 0.15, 0.45, 0.3, 0.0])  # templates of a host
_HOST = -21.3  # absolute r magnitude of hosts at redshift 0, brighter by 1.2 mag for each unit
_HOST_SCATTER = 0.7


@dataclass(frozen=True)
class Quasars:
    """N quasars.

    Parameters
    ----------
    sdss, magnitudes : ndarray, shape (N, 5) and (N, B)
        Dereddened magnitudes of core and host together in the SDSS bands, and in those of the survey.
    redshift, point, radius : ndarray, shape (N,)
        Redshift; share of the core in the light in r; half-light radius of the host, arcsec.
    """

    sdss: np.ndarray
    magnitudes: np.ndarray
    redshift: np.ndarray
    point: np.ndarray
    radius: np.ndarray


def draw_quasars(rng: np.random.Generator, r: np.ndarray, profile: SurveyProfile) -> Quasars:
    """Draw quasars of given r, as :func:`.galaxies.draw_galaxies` draws galaxies."""
    n = len(r)
    shares = np.stack([np.interp(r, _SHARE_R, column) for column in _SHARES.T], axis=1).cumsum(axis=1)
    kind = np.minimum((rng.random(n)[:, None] * shares[:, -1:] > shares).sum(axis=1), len(_REDSHIFT) - 1)
    mean, scatter = _REDSHIFT[kind].T
    z = np.clip(np.abs(mean + scatter * rng.standard_normal(n)), 0.06, 5.4)

    luminosity = r - np.interp(z, np.linspace(0.05, 2, 80), distance_modulus(np.linspace(0.05, 2, 80)))
    strength = np.exp(_LINE_SCATTER * rng.standard_normal(n) + _BALDWIN * np.clip(luminosity + 25, -3, 3))
    slope = _SLOPE_SCATTER * rng.standard_normal(n)
    dust = np.where(rng.random(n) < _DUSTY, rng.exponential(_DUST, n), 0.0)
    forest = np.exp(_FOREST_SCATTER * rng.standard_normal(n))
    noise = _SCATTER * rng.standard_normal((n, 6))
    host = _HOST - 1.2 * np.minimum(z, 2.0) + _HOST_SCATTER * rng.standard_normal(n)

    def seen(survey: str) -> tuple[np.ndarray, np.ndarray]:
        """Return magnitudes of the core, and of a host of absolute magnitude 0 at 10 pc."""
        tables = read_templates(survey)
        continuum, lines, tilt, dimming, through = (
            _at_redshift(table, tables.quasar_redshift, z)
            for table in (tables.continuum, tables.lines, tables.slope, tables.quasar_dust, tables.forest)
        )
        core = -2.5 * np.log10(continuum + strength[:, None] * lines)
        core += slope[:, None] * tilt + dust[:, None] * dimming
        core -= 2.5 * (forest - 1)[:, None] * np.log10(np.clip(through, 1e-3, 1.0))
        core += noise[:, : core.shape[1]]
        light = _at_redshift(tables.galaxy, tables.galaxy_redshift, np.minimum(z, 1.3))
        return core, -2.5 * np.log10(light.swapaxes(1, 2) @ (_HOST_SHARES / _HOST_SHARES.sum()))

    core, galaxy = seen("sdss")
    # The host is what it is; the core makes up for the rest of r.
    hosts = galaxy + (host + np.where(z < 2, distance_modulus(np.minimum(z, 2.0)), 60.0))[:, None]
    share = np.minimum(10 ** (0.4 * (r - hosts[:, 2])), 0.7)
    hosts += (r - 2.5 * np.log10(share) - hosts[:, 2])[:, None]

    def together(core: np.ndarray, galaxy: np.ndarray, core_r: np.ndarray, host_r: np.ndarray) -> np.ndarray:
        one = core + (r - 2.5 * np.log10(1 - share) - core_r)[:, None]
        other = galaxy + (r - 2.5 * np.log10(share) - host_r)[:, None]
        return -2.5 * np.log10(10 ** (-0.4 * one) + 10 ** (-0.4 * other))

    sdss = together(core, galaxy, core[:, 2], galaxy[:, 2])
    own = (core, galaxy) if profile.name == "sdss" else seen(profile.name)
    magnitudes = together(*own, core[:, 2], galaxy[:, 2])
    radius = np.clip(0.9 * np.exp(0.4 * rng.standard_normal(n)) / (0.3 + z), 0.1, 4.0)
    return Quasars(sdss, magnitudes, z, 1 - share, radius)
