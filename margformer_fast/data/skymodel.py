"""What there is to see: fields of an SDSS-like survey, and the stars, galaxies and quasars in them.

Stars, galaxies and quasars come from models of the sky (:mod:`.stars`, :mod:`.galaxies`, :mod:`.quasars`);
which of them a spectroscopic sample has is a table (:mod:`.selection`). Observing conditions are small
tables: seeing and extinction of compact SDSS spectroscopic objects, sky noise, residual sky, gain and the
shape of the PSF of calibrated SDSS frames and their PSF fits. `docs/simulation.md` says how like the real sky
it is.

Magnitudes are observed ones in r; colours are dereddened.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from .galaxies import draw_galaxies
from .quasars import draw_quasars
from .selection import read_selection
from .stars import draw_stars, to_survey
from .survey import SDSS, SurveyProfile

# --- The objects of a sample. ---

_AT_ONCE = 8  # candidates for each object
_ROUNDS = 60  # of looking for a candidate that the selection keeps; then the last one is taken


@dataclass(frozen=True)
class Sources:
    """N objects of one class as they are above the atmosphere, dereddened but for r being as observed.

    Parameters
    ----------
    magnitudes : ndarray, shape (N, B)
        Dereddened colours on the observed r magnitude, in the bands of the survey.
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

    def select(self, which: np.ndarray) -> Sources:
        """Return the objects at `which`."""
        return Sources(**{field.name: getattr(self, field.name)[which] for field in fields(self)})


def _candidates(
    rng: np.random.Generator, kind: str, r: np.ndarray, profile: SurveyProfile
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draw one candidate for each r: SDSS magnitudes (N, 5), and the other properties by name."""
    n = len(r)
    plain = dict.fromkeys(("redshift", "point", "radius", "spheroid"), np.zeros(n))
    if kind == "GALAXY":
        galaxies = draw_galaxies(rng, r, profile)
        own = {name: getattr(galaxies, name) for name in plain if name != "point"}
        return galaxies.sdss, {**plain, **own, "magnitudes": galaxies.magnitudes}
    if kind == "QSO":
        quasars = draw_quasars(rng, r, profile)
        own = {name: getattr(quasars, name) for name in ("redshift", "point", "radius", "magnitudes")}
        return quasars.sdss, {**plain, **own, "spheroid": np.full(n, 0.5)}
    stars = draw_stars(rng, r)
    return stars, {**plain, "point": np.ones(n), "magnitudes": to_survey(stars, profile)}


def selected_by(sdss: np.ndarray, redshift: np.ndarray, radius: np.ndarray) -> dict[str, np.ndarray]:
    """Return the quantities that the selection may be a function of, by name, shape (N,) each.

    Parameters
    ----------
    sdss : ndarray, shape (N, 5)
        Dereddened colours on the observed r magnitude, u to z.
    redshift, radius : ndarray, shape (N,)
        Redshift, and half-light radius in arcsec.
    """
    u, g, r, i, z = sdss.T
    return {
        "r": r,
        "i": i,
        "z": z,
        "u_g": u - g,
        "g_r": g - r,
        "r_i": r - i,
        "i_z": i - z,
        "g_i": g - i,
        "redshift": redshift,
        "log_radius": np.log10(np.maximum(radius, 0.01)),
    }


def draw_sources(
    rng: np.random.Generator, kind: str, count: int, brightest: float, profile: SurveyProfile = SDSS
) -> Sources:
    """Draw objects of one class as a spectroscopic survey selects them.

    Each has its r magnitude; candidates of that magnitude are drawn from the flux-limited sky until one is
    kept by the selection of :mod:`.selection`.

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
    profile : SurveyProfile
        The survey whose bands are wanted. What is selected goes by the SDSS colours in any case.

    Returns
    -------
    Sources
        The objects.
    """
    selection = read_selection()[kind]
    r = selection.draw_r(rng, count, brightest)
    found: dict[str, np.ndarray] = {}
    left = np.arange(count)
    for _ in range(_ROUNDS):
        # Several candidates for each object left, since few are kept.
        several = np.resize(left, max(_AT_ONCE * len(left), 2 * count))
        sdss, drawn = _candidates(rng, kind, r[several], profile)
        chance = selection.accept(selected_by(sdss, drawn["redshift"], drawn["radius"]))
        kept = np.flatnonzero(rng.random(len(several)) < chance)
        if not found:
            found = {name: values[:count].copy() for name, values in drawn.items()}
        place, first = np.unique(several[kept], return_index=True)
        for name, values in drawn.items():
            found[name][place] = values[kept[first]]
        left = np.setdiff1d(left, place, assume_unique=True)
        if not len(left):
            break
    return Sources(axis_ratio=_axis_ratios(rng, found), angle=rng.uniform(0, np.pi, count), **found)


def _axis_ratios(rng: np.random.Generator, found: dict[str, np.ndarray]) -> np.ndarray:
    """Draw axis ratios: discs of thickness 0.2 seen from anywhere, bulges of true axis ratio 0.4 to 1."""
    n = len(found["radius"])
    cosine = rng.random(n)
    disc = np.where(found["spheroid"] > 0.6, rng.uniform(0.4, 1.0, n), 0.2)
    return np.sqrt(cosine**2 + (disc * np.sqrt(1 - cosine**2)) ** 2)


def draw_field_objects(
    rng: np.random.Generator, kind: str, r: np.ndarray, profile: SurveyProfile
) -> tuple[np.ndarray, np.ndarray]:
    """Draw stars or galaxies as the flux-limited sky has them, selected by nothing.

    Parameters
    ----------
    rng : Generator
        Source of randomness, consumed.
    kind : {"GALAXY", "STAR"}
        The class.
    r : ndarray, shape (N,)
        Observed r magnitudes.
    profile : SurveyProfile
        The survey whose bands are wanted.

    Returns
    -------
    magnitudes : ndarray, shape (N, B)
        Dereddened colours on the observed r magnitude.
    radius : ndarray, shape (N,)
        Half-light radius in arcsec; zero for a star.
    """
    _, found = _candidates(rng, kind, r, profile)
    return found["magnitudes"], found["radius"]
