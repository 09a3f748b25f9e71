"""Magnitude systems: asinh magnitudes, and extinction by dust of the Galaxy."""

from __future__ import annotations

import math

import numpy as np

from ...errors import ConfigError
from ..survey import SurveyProfile

# Asinh softening b in maggies by survey: for SDSS as published (Lupton et al. 1999; SDSS EDR); for LSST the
# noise of a point source in one visit, by the depths that data/conditions.py gives.
SOFTENING = {
    "sdss": (1.4e-10, 0.9e-10, 1.2e-10, 1.8e-10, 7.4e-10),
    "lsst": (6.3e-11, 1.9e-11, 3.0e-11, 4.3e-11, 7.3e-11, 1.8e-10),
}

# Extinction in the reference band for E(B-V) = 1 of Schlegel et al. 1998: Schlafly & Finkbeiner (2011, ApJ
# 737, 103), R_V = 3.1. The other bands follow by the survey's ratios.
EXTINCTION_PER_EBV = {"sdss": 2.285}


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


def extinction_of(ebv: np.ndarray, profile: SurveyProfile) -> np.ndarray:
    """Return the extinction in each band.

    Parameters
    ----------
    ebv : ndarray of float, shape (...)
        E(B-V) in magnitudes as Schlegel, Finkbeiner & Davis (1998) map it.
    profile : SurveyProfile
        Gives the ratios between the bands.

    Returns
    -------
    ndarray of float64, shape (..., bands)
        Magnitudes.

    Raises
    ------
    ConfigError
        If the survey's coefficient is not known.
    """
    if profile.name not in EXTINCTION_PER_EBV:
        raise ConfigError(
            f"no extinction per E(B-V) is known for survey {profile.name!r}",
            expected=" or ".join(EXTINCTION_PER_EBV),
        )
    ratios = np.array(profile.extinction_ratios)
    return np.asarray(ebv, float)[..., None] * (EXTINCTION_PER_EBV[profile.name] * ratios)
