"""Light profiles as sums of Gaussians: exponential discs and de Vaucouleurs spheroids.

A Sersic profile ``exp(-b (R / Re)^(1/n))`` with ``n >= 1/2`` is a positive sum of circular Gaussians. With
``s = b^(2n) (R / Re)^2`` it is ``exp(-s^a)``, ``a = 1 / (2n)``, and that is the Laplace transform of the
one-sided stable density ``f_a`` (Pollard 1946; Kanter 1975 for the integral used below)::

    exp(-s^a) = integral f_a(t) exp(-t s) dt,        t = Re^2 / (2 b^(2n) variance)

so the weight of each Gaussian follows from ``f_a`` with nothing fitted. On a geometric grid of variances the
integral becomes a trapezoid sum in ``log(variance)``, and convolving with a Gaussian PSF adds variances. Hogg
& Lang (2013, PASP 125, 719) introduced such mixtures for fast galaxy photometry; their coefficients are
optimised, these are not.

Lengths are in the unit of the caller.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import ConfigError

SERSIC_INDEX = {"exponential": 1, "de Vaucouleurs": 4}
"""Profiles and their Sersic index."""

_B = {1: 1.6783469900166605, 4: 7.669249442500804}  # solves Gamma(2n, 0, b) = Gamma(2n) / 2
PIXEL_VARIANCE = 1.0 / 12.0
"""Variance of a pixel one unit wide: adding it to a Gaussian integrates over pixels (`draw_round`)."""


def _log_stable_density(alpha: float, x: np.ndarray) -> np.ndarray:
    """Return ln of the density whose Laplace transform is exp(-s^alpha); 1e-7 for alpha 1/2 and 1/8."""
    theta = (np.arange(4096) + 0.5) * (math.pi / 4096)
    power = 1.0 / (1.0 - alpha)
    log_a = (
        alpha * power * np.log(np.sin(alpha * theta))
        + np.log(np.sin((1 - alpha) * theta))
        - power * np.log(np.sin(theta))
    )
    exponent = log_a - np.exp(log_a - alpha * power * np.log(x)[:, None])
    peak = exponent.max(axis=1)
    return (
        np.log(alpha * power / 4096)
        - power * np.log(x)
        + peak
        + np.log(np.exp(exponent - peak[:, None]).sum(axis=1))
    )


def profile_weights(profile: str, radii: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Return the flux of a profile in each Gaussian of a geometric grid of variances.

    Parameters
    ----------
    profile : {"exponential", "de Vaucouleurs"}
        The profile, of unit total flux.
    radii : ndarray of float, shape (J,)
        Half-light radii, positive.
    variances : ndarray of float, shape (M,)
        Variances per axis in the squared unit of `radii`, a geometric sequence with a ratio of at most 3.
        A ratio of 2 gives both profiles to 0.04 % out to three half-light radii, 3 gives an exponential one
        to 8 %.

    Returns
    -------
    ndarray of float64, shape (J, M)
        Fluxes. Light of Gaussians narrower than the grid is put into its first element; light of wider ones
        is left out, so that rows sum to less than one where the grid ends early.

    Raises
    ------
    ConfigError
        If the profile is unknown or the grid is not geometric.
    """
    if profile not in SERSIC_INDEX:
        raise ConfigError(f"unknown profile {profile!r}", expected=" or ".join(map(repr, SERSIC_INDEX)))
    variances = np.asarray(variances, float)
    step = np.diff(np.log(variances))
    if len(step) < 1 or not np.allclose(step, step[0], rtol=1e-6) or not 0 < step[0] < math.log(3.0) + 1e-9:
        raise ConfigError("variances are not a geometric grid", expected="a constant ratio between 1 and 3")
    n, width = SERSIC_INDEX[profile], step[0]
    b = _B[n]
    # Continue the grid downwards far enough that what remains below is nothing.
    below = math.ceil(math.log(1e12) / width)
    grid = variances[0] * np.exp(width * np.arange(-below, len(variances)))
    t = np.asarray(radii, float)[:, None] ** 2 / (2 * b ** (2 * n) * grid)
    density = _log_stable_density(1 / (2 * n), t.ravel()).reshape(t.shape)
    # A Gaussian of amplitude f(t) dt has flux 2 pi variance f(t) dt, with dt = t dln(variance); the total is
    # 2 pi n b^(-2n) Gamma(2n) Re^2. As variance = Re^2 / (2 b^(2n) t), their ratio is
    # f(t) dln(variance) / (2 n Gamma(2n)).
    flux = np.exp(density) * width / (2 * n * math.gamma(2 * n))
    weights = flux[:, below:].copy()
    weights[:, 0] += flux[:, :below].sum(axis=1)
    return weights


def enclosed_light(profile: str, radius: np.ndarray) -> np.ndarray:
    """Return the share of a round profile's light within `radius` half-light radii, same shape.

    The incomplete gamma function of the whole number 2n (Ciotti 1991, A&A 249, 99, equation 2).
    """
    n = SERSIC_INDEX[profile]
    x = _B[n] * np.asarray(radius, float) ** (1 / n)
    return 1 - np.exp(-x) * np.sum([x**k / math.factorial(k) for k in range(2 * n)], axis=0)
