"""Stars of the sky: a locus in colour, peopled by a model of the Galaxy, with binaries and white dwarfs.

Sources:

* colours of the main sequence: medians in bins of g - i of 2,076 bright stars of an SDSS spectroscopic
  sample and, redder than g - i = 1.6, of 200 stars of r < 21 of the published Experiment-3 set (the
  calibration half; see ``docs/simulation.md``), dereddened. They agree with Covey et al. (2007, AJ 134,
  2398) to some hundredths.
* absolute magnitude: Ivezic et al. (2008, ApJ 684, 287, equations A2 and A7).
* density of the Galaxy: Juric et al. (2008, ApJ 673, 864): scale heights 300 and 900 pc, a power-law halo of
  index -2.8, local shares 0.12 and 0.005. The luminosity function is that of Bochanski et al. (2010, AJ
  139, 2679) in round numbers.
* white dwarfs: the track of hydrogen atmospheres of Holberg & Bergeron (2006, AJ 132, 1221) in round numbers.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .survey import SurveyProfile

# fmt: off
_GI = np.array([-0.5, -0.3, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.8, 2.2, 2.6, 3.0, 3.4, 3.9, 4.7])
_UG = np.array(
    [0.9, 1.16, 1.12, 1.03, 0.90, 1.04, 1.35, 1.58, 1.95, 2.25, 2.40, 2.5, 2.55, 2.6, 2.6, 2.6, 2.7, 2.7]
)
_GR = np.array(
    [-0.285, -0.144, -0.03, 0.105, 0.235, 0.357, 0.505, 0.62, 0.79, 0.965, 1.10, 1.25, 1.35, 1.44, 1.52, 1.56,
     1.66, 1.95]
)
_IZ = np.array(
    [-0.21, -0.10, -0.07, -0.035, 0.013, 0.04, 0.08, 0.12, 0.155, 0.187, 0.22, 0.33, 0.49, 0.63, 0.77, 0.96,
     1.18, 1.75]
)
_SCATTER = np.array([0.06, 0.03, 0.025, 0.025])
# White dwarfs from 40,000 to 6,000 K: colours and absolute r magnitude.
_WD_GI = np.array([-0.90, -0.74, -0.56, -0.40, -0.14, 0.22, 0.46, 0.74])
_WD = np.array(
    [
        [-0.36, -0.20, 0.25, 0.38, 0.43, 0.46, 0.64, 0.92],     # u - g
        [-0.52, -0.42, -0.30, -0.20, -0.02, 0.20, 0.34, 0.54],  # g - r
        [-0.36, -0.32, -0.27, -0.22, -0.15, -0.04, 0.02, 0.08], # i - z
        [10.0, 10.6, 11.3, 11.7, 12.1, 12.9, 13.4, 14.1],
    ]
)
# Objects per pc^3 and magnitude at absolute r magnitude.
_LF_M = np.array([-1.0, 1.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 11.0, 12.0, 14.0, 16.0, 18.0])
_LF = np.array([-5.2, -4.4, -3.3, -2.75, -2.65, -2.6, -2.4, -2.05, -2.0, -2.1, -2.45, -2.7, -3.0])
# fmt: on
_FE_H = {"thin": (-0.2, 0.2), "thick": (-0.7, 0.3), "halo": (-1.5, 0.35)}
_LATITUDE = np.deg2rad(55.0)  # typical of the survey
_HALO_HOT = 0.04  # blue horizontal branch and stragglers, by share of halo stars
_WHITE_DWARFS = 0.06  # of what is drawn; their true share is lower, that of targets of spectroscopy higher
_BINARIES = 0.35
_ULTRACOOL = 0.03  # late M and L dwarfs, as with white dwarfs: rare on the sky, looked for by surveys
_TO_R = np.linspace(10, 27, 69)


def absolute_magnitude(gi: np.ndarray, fe_h: np.ndarray | float = -0.7) -> np.ndarray:
    """Return the absolute r magnitude of main-sequence stars of g - i and [Fe/H] (Ivezic et al. 2008)."""
    x = np.clip(gi, 0.1, 3.7)
    late = 2.5 * np.maximum(gi - 3.7, 0)  # beyond the relation: late M and L dwarfs, as faint as 17 to 18
    main = late - 5.06 + 14.32 * x - 12.97 * x**2 + 6.127 * x**3 - 1.267 * x**4 + 0.0967 * x**5
    return main + 4.50 - 1.11 * fe_h - 0.18 * fe_h**2


@cache
def _counts() -> tuple[np.ndarray, np.ndarray]:
    """Return a grid of g - i, and relative counts by (r, component, g - i)."""
    grid = np.linspace(0.15, 4.7, 183)
    r = _TO_R[:, None]
    counts = []
    for name, (fe_h, _) in _FE_H.items():
        m = absolute_magnitude(grid, fe_h)
        density = 10 ** np.interp(m, _LF_M, _LF) * np.gradient(m, grid).clip(0.05)
        d = 10 ** (0.2 * (r - m) + 1)
        height = d * np.sin(_LATITUDE)
        if name == "halo":
            # Towards the anticentre and the centre alike, on average.
            galactic = np.sqrt(8000.0**2 + d**2)
            place = 0.005 * (galactic / 8000.0) ** -2.8
            density = np.where(m > 3.7, density, 0.0)  # the turn-off of an old population
        else:
            scale, share = {"thin": (300.0, 0.88), "thick": (900.0, 0.12)}[name]
            place = share * np.exp(-height / scale)
            density = np.where(m > (2.0 if name == "thin" else 3.7), density, 0.0)
        counts.append(density * place * d**3)
    return grid, np.stack(counts, axis=1)


def _locus(gi: np.ndarray) -> np.ndarray:
    """Return u - g, g - r, r - i, i - z of the main sequence, shape (N, 4)."""
    gr = np.interp(gi, _GI, _GR)
    return np.stack([np.interp(gi, _GI, _UG), gr, gi - gr, np.interp(gi, _GI, _IZ)], axis=-1)


def _from_r(r: np.ndarray, colours: np.ndarray) -> np.ndarray:
    ug, gr, ri, iz = colours.T
    return np.stack([r + gr + ug, r + gr, r, r - ri, r - ri - iz], axis=-1)


def _single(rng: np.random.Generator, gi: np.ndarray, fe_h: np.ndarray) -> np.ndarray:
    """Return absolute magnitudes (N, 5) of main-sequence stars."""
    colours = _locus(gi)
    # Fewer lines make metal-poor F and G stars bluer in u - g, by 0.15 mag/dex where it matters.
    colours[:, 0] += 0.15 * (fe_h + 0.9) * np.interp(gi, [0.1, 0.3, 1.0, 1.6], [0.0, 1.0, 1.0, 0.0])
    colours += _SCATTER * rng.standard_normal(colours.shape)
    return _from_r(absolute_magnitude(gi, fe_h), colours)


def draw_stars(rng: np.random.Generator, r: np.ndarray) -> np.ndarray:
    """Draw dereddened SDSS magnitudes of field stars of given r.

    Parameters
    ----------
    rng : Generator
        Source of randomness, consumed.
    r : ndarray, shape (N,)
        Magnitude in r.

    Returns
    -------
    ndarray, shape (N, 5)
        Magnitudes in u, g, r, i, z; column 2 is `r`.
    """
    n = len(r)
    grid, counts = _counts()
    row = np.clip(np.rint((r - _TO_R[0]) / (_TO_R[1] - _TO_R[0])), 0, len(_TO_R) - 1).astype(np.int64)
    flat = counts.reshape(len(_TO_R), -1).cumsum(axis=1)
    flat /= flat[:, -1:]
    uniform = rng.random(n)
    place = np.empty(n, np.int64)
    for k in np.unique(row):
        mine = row == k
        place[mine] = np.searchsorted(flat[k], uniform[mine])
    component, cell = np.divmod(np.minimum(place, flat.shape[1] - 1), len(grid))
    gi = grid[cell] + (grid[1] - grid[0]) * (rng.random(n) - 0.5)
    cool = rng.random(n) < _ULTRACOOL
    gi[cool] = rng.uniform(3.2, 4.7, cool.sum())
    component[cool] = 0
    mean, scatter = np.array(list(_FE_H.values())).T
    fe_h = np.clip(mean[component] + scatter[component] * rng.standard_normal(n), -2.6, 0.3)
    light = _single(rng, gi, fe_h)

    hot = (component == 2) & (rng.random(n) < _HALO_HOT * np.clip((22.5 - r) / 3, 0.2, 2.0))
    hot_gi = rng.uniform(-0.5, 0.2, n)
    light[hot] = _single(rng, hot_gi[hot], fe_h[hot])

    # A companion on the same sequence, redder and so fainter.
    pair = rng.random(n) < _BINARIES
    mate = gi + (3.9 - gi) * rng.random(n) ** 1.5
    other = _single(rng, mate, fe_h)
    light = np.where((pair & ~hot)[:, None], _add(light, other), light)

    white = rng.random(n) < _WHITE_DWARFS
    wd_gi = np.interp(rng.random(n), [0, 0.15, 0.45, 0.75, 1.0], [-0.9, -0.6, -0.2, 0.3, 0.74])
    ug, gr, iz, absolute = (np.interp(wd_gi, _WD_GI, column) for column in _WD)
    colours = np.stack([ug, gr, wd_gi - gr, iz], axis=-1)
    colours += np.array([0.10, 0.03, 0.03, 0.03]) * rng.standard_normal((n, 4))
    dwarf = _from_r(absolute, colours)
    # One in eight has a red dwarf beside it.
    red = _single(rng, rng.uniform(1.8, 3.4, n), np.full(n, -0.3))
    dwarf = np.where((rng.random(n) < 0.12)[:, None], _add(dwarf, red), dwarf)
    light = np.where(white[:, None], dwarf, light)
    return light + (r - light[:, 2])[:, None]


def _add(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the magnitudes of two sources together."""
    return -2.5 * np.log10(10 ** (-0.4 * one) + 10 ** (-0.4 * other))


# Effective wavelengths in Angstrom: SDSS (Doi et al. 2010) and LSST as speclite gives them for a flat
# spectrum.
_WAVELENGTH = {
    "sdss": np.array([3614.0, 4749.0, 6206.0, 7526.0, 8947.0]),
    "lsst": np.array([3746.0, 4846.0, 6249.0, 7579.0, 8691.0, 9767.0]),
}
_AB = np.array([-0.04, 0.0, 0.0, 0.0, 0.02])  # AB minus SDSS magnitude


def to_survey(magnitudes: np.ndarray, profile: SurveyProfile) -> np.ndarray:
    """Return magnitudes in the bands of a survey from SDSS ones, shape (N, B).

    A star has no spectrum here: the energy distribution is taken as straight between the SDSS bands, in
    magnitudes against the logarithm of the wavelength, and as half as steep beyond z. Good to some 0.05
    mag but in u, where the Balmer jump is.

    Raises
    ------
    KeyError
        If the survey's bands are not known.
    """
    if profile.name == "sdss":
        return magnitudes
    at, given = np.log(_WAVELENGTH[profile.name]), np.log(_WAVELENGTH["sdss"])
    ab = magnitudes + _AB
    low = np.clip(np.searchsorted(given, at) - 1, 0, len(given) - 2)
    part = (at - given[low]) / (given[low + 1] - given[low])
    part = np.where(part > 1, 1 + 0.5 * (part - 1), part)
    return ab[:, low] * (1 - part) + ab[:, low + 1] * part
