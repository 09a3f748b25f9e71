"""Point spread functions as sums of round Gaussians.

SDSS fits two Gaussians to the stars of a field; a Moffat profile, which describes the seeing of a modern
telescope better, is a sum of Gaussians too: ``(1 + r^2/alpha^2)^-beta`` is the Laplace transform of a gamma
density, and a Gaussian quadrature for that density gives the terms with nothing fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError


@dataclass(frozen=True)
class Psf:
    """Point spread functions, each a sum of K round Gaussians of unit total flux.

    Parameters
    ----------
    sigma : ndarray of float, shape (..., K)
        Widths in arcsec, positive.
    share : ndarray of float, shape (..., K)
        Flux of each Gaussian; the shares of a PSF sum to one.

    Raises
    ------
    ConfigError
        If the two shapes differ or have no last axis.
    """

    sigma: np.ndarray
    share: np.ndarray

    def __post_init__(self) -> None:
        if self.sigma.shape != self.share.shape or self.sigma.ndim == 0 or self.sigma.shape[-1] == 0:
            raise ConfigError(
                f"PSF widths have shape {self.sigma.shape} and shares {self.share.shape}",
                expected="one shape (..., K) for both, K Gaussians last",
            )

    @classmethod
    def double_gaussian(
        cls, fwhm: np.ndarray, wing_ratio: np.ndarray | float = 2.15, wing_height: np.ndarray | float = 0.055
    ) -> Psf:
        """Build PSFs of a core and a wing from their full width at half maximum, arcsec, shape (...).

        `wing_ratio` is the wing's sigma over the core's, `wing_height` its peak over the core's; the defaults
        are typical of the two-Gaussian fits in SDSS psField files.
        """
        fwhm, ratio, height = np.broadcast_arrays(np.asarray(fwhm, float), wing_ratio, wing_height)
        wing = height * ratio**2 / (1 + height * ratio**2)
        unit = cls(np.stack([np.ones_like(ratio), ratio], -1), np.stack([1 - wing, wing], -1))
        return unit.widened(fwhm / unit.fwhm)

    @classmethod
    def moffat(cls, fwhm: np.ndarray, beta: float, terms: int = 5) -> Psf:
        """Build Moffat PSFs of full width at half maximum `fwhm` (arcsec, shape (...)) and index `beta`.

        With ``t`` of the gamma density of index ``beta - 1``, a Gaussian of variance ``alpha^2 / (2 t)`` has
        the share of ``t``. The nodes are those of the generalised Gauss-Laguerre rule (Golub & Welsch 1969,
        Math. Comp. 23, 221), so the total and the peak are exact. `beta` must exceed 1.

        Raises
        ------
        ConfigError
            If `beta` is 1 or less: such a profile has no finite flux.
        """
        if not beta > 1:
            raise ConfigError(f"a Moffat profile of beta {beta} has no finite flux", expected="beta above 1")
        k = np.arange(terms)
        side = np.sqrt(k[1:] * (k[1:] + beta - 2))
        node, vector = np.linalg.eigh(np.diag(2 * k + beta - 1) + np.diag(side, 1) + np.diag(side, -1))
        share = vector[0] ** 2
        # fwhm = 2 alpha sqrt(2^(1/beta) - 1).
        sigma = np.sqrt(0.5 / node) / (2 * np.sqrt(2 ** (1 / beta) - 1))
        fwhm = np.asarray(fwhm, float)[..., None]
        order = np.argsort(sigma)
        return cls(fwhm * sigma[order], np.broadcast_to(share[order], (*fwhm.shape[:-1], terms)))

    def __getitem__(self, index: Any) -> Psf:
        return Psf(self.sigma[index], self.share[index])

    def widened(self, factor: np.ndarray) -> Psf:
        """Return the same profiles, each `factor` (...) times as wide."""
        return Psf(self.sigma * np.asarray(factor)[..., None], self.share)

    @property
    def wing(self) -> np.ndarray:
        """Share of all Gaussians but the first, shape (...)."""
        return self.share[..., 1:].sum(-1)

    @property
    def fwhm(self) -> np.ndarray:
        """Full width at half maximum in arcsec, shape (...), to 1e-6 by bisection of the profile."""
        peak = self.share / self.sigma**2
        half = 0.5 * peak.sum(axis=-1)
        low, high = np.zeros_like(half), 2 * self.sigma.max(axis=-1)
        for _ in range(24):
            middle = 0.5 * (low + high)
            above = (peak * np.exp(-0.5 * (middle[..., None] / self.sigma) ** 2)).sum(axis=-1) > half
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return low + high
